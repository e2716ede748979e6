"""Translation: a sentence to a sentence, by an encoder-decoder over one joint vocabulary.

A record has `source` and `target` (or `targets`, several references). The source becomes its pieces and an end, the
target likewise; the decoder reads the target shifted by one, begun by a begin.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from regard._errors import ConfigError
from regard._packed import Packed
from regard.data.lines import kind, shorten
from regard.data.packing import Encoded, pack_ids
from regard.data.records import MAX_CHARACTERS, Record, Source, source_paths
from regard.decoding import Stepper
from regard.decoding.engine import Engine, EngineWriter, Precision, check_precision, is_for
from regard.decoding.plain import PlainWriter
from regard.decoding.shortlist import Shortlist
from regard.metrics.measurement import Measurement, by_example
from regard.metrics.significance import bleu_measurement, chrf_measurement
from regard.metrics.translation import Score
from regard.nn.loss import vocabulary_loss
from regard.nn.transformer import EncoderDecoder
from regard.nn.watch import watch
from regard.tasks._attention import Attention, read_attention
from regard.tasks._writing import (
    BEAM,
    PENALTY,
    TextForText,
    Written,
    check_candidates,
    longest_target,
    shifted,
)
from regard.training.options import TAUGHT, TEXTS
from regard.training.recipe import Recipe


@dataclass(frozen=True)
class Translation(Written):
    """A translated sentence."""

    noun: ClassVar[str] = "translation"


class Translate(TextForText):
    """The task, as `regard.training` knows it."""

    name = "translate"
    result = Translation
    options = ("beam", "penalty", "candidates", "attention", "precision", "shortlist")
    score_options = ("lowercase", "language")
    example_score = "chrf"
    recipe_options = (*TEXTS, *TAUGHT, "decoder", "decoder_layers", "r_drop")

    def model(self, recipe: Recipe) -> nn.Module:
        """A new encoder-decoder of the recipe's size."""
        return EncoderDecoder(self.shape(recipe))

    def loss(self, model: EncoderDecoder, batch: dict[str, Packed], smoothing: float) -> Tensor:
        """Cross-entropy of the targets, summed over their pieces and ends."""
        target = batch["target"]
        states = model(batch["source"], target.with_values(shifted(target, self.tokenizer.bos)))
        return vocabulary_loss(states, model.embedding.weight, target.values, smoothing)

    def engine(self, model: EncoderDecoder, precision: Precision = "fp32") -> Engine | None:
        """The model packed for the kernel, for many calls of `predict`; None where PyTorch writes: without a kernel, on GPUs."""
        check_precision(precision)
        return Engine(model, precision) if precision != "fp32" or is_for(model) else None

    def shortlist(self, pairs: Source | Iterable[Record], max_characters: int = MAX_CHARACTERS) -> Shortlist:
        """What the words of a language become in the other, learned from pairs, to be given to `predict`.

        Arguments:
            pairs: files of pairs as training takes them: a path, several with commas between them, or a list of paths; or records.
            max_characters: the longest text of a file.
        """
        given: Any = source_paths(pairs) if isinstance(pairs, str | Path) else pairs
        named = isinstance(given, Sequence) and all(isinstance(one, str | Path) for one in given)
        records = self.read(given, max_characters) if named else map(_record, given)
        return Shortlist.learn(self.encode(records), len(self.tokenizer))

    def calibrate(self, model: nn.Module, records: Sequence[Record], examples: Encoded) -> None:
        """Nothing: a translation has no probability to be trusted."""

    @torch.no_grad()
    def predict(
        self,
        model: EncoderDecoder,
        inputs: Sequence[str],
        *,
        beam: int = BEAM,
        penalty: float = PENALTY,
        candidates: int = 1,
        attention: bool = False,
        precision: Precision = "fp32",
        engine: Engine | None = None,
        shortlist: Shortlist | None = None,
    ) -> list[Translation]:
        """Translate sentences; each result is the same, up to rounding by some 1e-6, whatever others stand beside it.

        Arguments:
            model: in evaluation mode.
            inputs: the sentences.
            beam: hypotheses kept for each sentence; 1 is greedy search.
            penalty: exponent of the length by which log-probabilities are divided; 0 favors short translations.
            candidates: how many of the best translations come with each result, at most those of the beam.
            attention: look at every translation, one after the other, and give the weights with it.
            precision: of the weights while writing: "fp32", "bf16" or "int8".
            engine: what `engine` gave for this model and precision; by default the model is packed anew.
            shortlist: what `shortlist` gave: only its candidates are written. Results then depend on the sentences beside.
        """
        check_candidates(candidates, beam)
        engine = engine or self.engine(model, precision)
        if engine is None and shortlist is not None:
            raise ConfigError("a shortlist needs the compiled kernel and a model on a CPU; leave it out.")

        def writer(sources: list[Sequence[int]]) -> Stepper:
            if engine is None:
                return PlainWriter(model, sources)
            return EngineWriter(engine, sources, beam, shortlist)

        found = self.search(self.sources(inputs), writer, longest_target, beam=beam, penalty=penalty)
        written = self.results(inputs, found, candidates)
        return (
            [replace(one, attention=self.attention(model, one)) for one in written] if attention else written
        )

    @torch.no_grad()
    def attention(self, model: EncoderDecoder, translation: Translation) -> Attention:
        """Where the decoder looked while it wrote: one pass over the finished translation, with the kernel that always runs."""
        bos, eos = self.tokenizer.bos, self.tokenizer.eos
        source = self.tokenizer.encode(translation.source)
        with watch(model.decoder) as seen:
            model(pack_ids([[*source, eos]]), pack_ids([[bos, *translation.pieces]]))
        weights_LHTS = torch.stack(seen).transpose(1, 2).float().numpy()
        return read_attention(weights_LHTS, self.tokenizer, translation.source, translation.pieces)

    def score(
        self,
        predictions: Sequence[Translation],
        records: Sequence[Record],
        *,
        lowercase: bool = False,
        language: str | None = None,
    ) -> list[Score]:
        """BLEU and chrF against all references of each record; without case if asked for, or if the model knows none."""
        bleu, chrf = self._measured(predictions, records, lowercase, language)
        return [bleu, chrf]

    def example_scores(
        self,
        predictions: Sequence[Translation],
        records: Sequence[Record],
        *,
        lowercase: bool = False,
        language: str | None = None,
    ) -> list[float]:
        """The chrF of every sentence, whose BLEU would be near 0 wherever no four words in a row are right."""
        return by_example(self._measured(predictions, records, lowercase, language)[1])

    def _measured(
        self,
        predictions: Sequence[Translation],
        records: Sequence[Record],
        lowercase: bool,
        language: str | None,
    ) -> tuple[Measurement, Measurement]:
        texts = [prediction.text for prediction in predictions]
        references = [record.fields["targets"] for record in records]
        # Without a tokenizer the translations came from a file.
        lowercase = lowercase or (hasattr(self, "tokenizer") and self.tokenizer.normalize("A") == "a")
        return (
            bleu_measurement(texts, references, language, lowercase),
            chrf_measurement(texts, references, lowercase),
        )


def _record(given: Any) -> Record:
    if not isinstance(given, Record):
        raise ConfigError(
            "a shortlist is learned from pairs. Expected: the path of a file of pairs, such as 'train.jsonl', a list of paths, or "
            f"records of `regard.data.records.read_records`. Received: {kind(given)}, {shorten(given)}."
        )
    return given
