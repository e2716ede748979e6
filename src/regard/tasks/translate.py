"""Translation: a sentence to a sentence, by an encoder-decoder over one joint vocabulary.

A record has `source` and `target` (or `targets`, several references). The source becomes its pieces and an end, the
target likewise; the decoder reads the target shifted by one, begun by a begin.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from regard._errors import ConfigError
from regard._packed import Packed
from regard.data.checks import checked
from regard.data.frequency import WORDS, WordCounts
from regard.data.lines import data_error, shorten
from regard.data.packing import pack_ids
from regard.data.records import Record, Source, read_records
from regard.data.tokenizer import Tokenizer
from regard.decoding import Hypothesis, Stepper, search
from regard.decoding.engine import Engine, EngineWriter, Precision, check_precision, is_for
from regard.decoding.plain import PlainWriter
from regard.decoding.shortlist import Shortlist
from regard.metrics.buckets import Group
from regard.metrics.measurement import Measurement, by_example
from regard.metrics.significance import bleu_measurement, chrf_measurement
from regard.metrics.translation import Score
from regard.metrics.words import characters
from regard.nn.loss import vocabulary_loss
from regard.nn.transformer import EncoderDecoder, Shape
from regard.nn.watch import watch
from regard.pictures import AttentionPicture
from regard.tasks._attention import Attention, read_attention
from regard.training.presets import encoder_decoder_sizes
from regard.training.recipe import Recipe

BEAM, PENALTY = 5, 1.0
NOTHING = Hypothesis((), -math.inf)
HYPOTHESES = 320  # written at once; sources of like length stand together


@dataclass(frozen=True)
class Translation:
    """A translated sentence; `score` is the mean log-probability of a piece, in nats; `attention` is there on request."""

    source: str
    text: str
    score: float
    pieces: tuple[int, ...] = field(repr=False)
    attention: Attention | None = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        return self.text

    def as_json(self) -> dict[str, Any]:
        """Source, text and score, which is None where there is none."""
        score = round(self.score, 4) if math.isfinite(self.score) else None
        return {"source": self.source, "text": self.text, "score": score}

    def picture(self) -> AttentionPicture:
        """What the decoder looked at while it wrote, word by word; for a translation with attention."""
        if self.attention is None:
            raise ConfigError(
                "this translation was made without looking. Expected: attention=True when it is made."
            )
        seen = self.attention.words()
        title = f"{self.source} → {self.text}"
        return AttentionPicture(
            seen.weights, seen.target, seen.source, title=title, query_name="target", key_name="source"
        )


class Translate:
    """The task, as `regard.training` knows it."""

    name = "translate"
    fields = ("source", "target")
    streams = ("source", "target")
    options = ("beam", "penalty", "attention", "precision", "shortlist")
    score_options = ("lowercase", "language")
    tokenizer: Tokenizer
    counts: WordCounts | None = None
    folder: Path | None = None

    def configure(self, recipe: Recipe) -> None:
        """Nothing: the fields have fixed names."""

    def read(self, source: Source, max_characters: int, *, answers: bool = True) -> Iterator[Record]:
        """Records with `source` and, as answers, `target` and `targets`."""
        return read_records(source, self.fields[: 2 if answers else 1], max_characters=max_characters)

    def record(self, given: Any, place: tuple[str, int], max_characters: int) -> Record:
        """A sentence as a record."""
        return checked(Record({"source": given}, *place), self.fields[:1], max_characters)

    def input_of(self, record: Record) -> str:
        """The sentence."""
        return record.fields["source"]

    def characters(self, record: Record) -> int:
        """Of source and target together."""
        return sum(len(record.fields[name]) for name in self.fields)

    def sizes(self, examples: int) -> dict[str, Any]:
        """Model and vocabulary by the number of pairs."""
        return encoder_decoder_sizes(examples)

    def learn(self, records: Iterable[Record], recipe: Recipe) -> None:
        """Train the joint vocabulary and count the words of the sources."""
        counts, texts = WordCounts(), []
        for record in records:
            counts.add(_source_words(record))
            texts += [record.fields[name] for name in self.fields]
        self.counts = counts
        self.tokenizer = Tokenizer.train(texts, recipe.vocabulary or 4000, lowercase=recipe.lowercase)

    def encode(self, records: Iterable[Record]) -> Iterator[tuple[Sequence[int], ...]]:
        """Source and target as pieces, each with its end."""
        for chunk in _chunks(records, 1000):
            columns = [
                self.tokenizer.encode_batch([record.fields[name] for record in chunk]) for name in self.fields
            ]
            for source, target in zip(*columns, strict=True):
                yield [*source, self.tokenizer.eos], [*target, self.tokenizer.eos]

    def readings(self, records: Iterable[Record]) -> Iterator[Sequence[int]]:
        """The sources as pieces, each with its end."""
        for chunk in _chunks(records, 1000):
            for source in self.tokenizer.encode_batch([record.fields["source"] for record in chunk]):
                yield [*source, self.tokenizer.eos]

    def model(self, recipe: Recipe) -> nn.Module:
        """A new encoder-decoder of the recipe's size."""
        sizes = {
            name: getattr(recipe, name)
            for name in ("dim", "heads", "hidden", "encoder_layers", "decoder_layers")
        }
        given = {name: size for name, size in sizes.items() if size is not None}
        shape = Shape(
            len(self.tokenizer),
            dropout=recipe.dropout or 0.0,
            encoder=recipe.encoder,
            decoder=recipe.decoder,
            **given,
        )
        return EncoderDecoder(shape)

    def loss(self, model: EncoderDecoder, batch: dict[str, Packed], smoothing: float) -> Tensor:
        """Cross-entropy of the targets, summed over their pieces and ends."""
        target = batch["target"]
        states = model(batch["source"], target.with_values(shifted(target, self.tokenizer.bos)))
        return vocabulary_loss(states, model.embedding.weight, target.values, smoothing)

    def engine(self, model: EncoderDecoder, precision: Precision = "fp32") -> Engine | None:
        """The model packed for the kernel, for many calls of `predict`; None where PyTorch writes: without a kernel, on GPUs."""
        check_precision(precision)
        return Engine(model, precision) if precision != "fp32" or is_for(model) else None

    def shortlist(self, records: Iterable[Record]) -> Shortlist:
        """What the words of a language become in the other, learned from pairs, to be given to `predict`."""
        return Shortlist.learn(self.encode(records), len(self.tokenizer))

    def calibrate(self, model: nn.Module, examples: Sequence[tuple[Any, ...]]) -> None:
        """Nothing: a translation has no probability to be trusted."""

    @torch.no_grad()
    def predict(
        self,
        model: EncoderDecoder,
        inputs: Sequence[str],
        *,
        beam: int = BEAM,
        penalty: float = PENALTY,
        attention: bool = False,
        precision: Precision = "fp32",
        engine: Engine | None = None,
        shortlist: Shortlist | None = None,
    ) -> list[Translation]:
        """Translate sentences; each result is the same whatever others stand beside it.

        Arguments:
            model: in evaluation mode.
            inputs: the sentences.
            beam: hypotheses kept for each sentence; 1 is greedy search.
            penalty: exponent of the length by which log-probabilities are divided; 0 favors short translations.
            attention: look at every translation, one after the other, and give the weights with it.
            precision: of the weights while writing: "fp32", "bf16" or "int8".
            engine: what `engine` gave for this model and precision; by default the model is packed anew.
            shortlist: what `shortlist` gave: only its candidates are written. Results then depend on the sentences beside.
        """
        if beam < 1:
            raise ConfigError(
                f"a beam holds at least one hypothesis. Received beam={beam}; 5 is usual, 1 is fastest."
            )
        bos, eos = self.tokenizer.bos, self.tokenizer.eos
        sources = [[*ids, eos] for ids in self.tokenizer.encode_batch(list(inputs))]
        order = sorted(range(len(inputs)), key=lambda number: len(sources[number]))
        ordered = [sources[number] for number in order]
        engine = engine or self.engine(model, precision)
        writer: Stepper = PlainWriter(model, ordered)
        if engine is not None:
            writer = EngineWriter(engine, ordered, beam, shortlist)
        elif shortlist is not None:
            raise ConfigError("a shortlist needs the compiled kernel and a model on a CPU; leave it out.")
        limits = [2 * len(source) + 10 for source in ordered]
        together = max(1, HYPOTHESES // beam)
        found = search(writer, limits, beam=beam, bos=bos, eos=eos, penalty=penalty, together=together)
        # A model that gives no numbers any more finds nothing.
        best = {number: (*some, NOTHING)[0] for number, some in zip(order, found, strict=True)}
        written = [
            Translation(
                text, self.tokenizer.decode(best[number].tokens), best[number].score(1.0), best[number].tokens
            )
            for number, text in enumerate(inputs)
        ]
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

    def counted(self, batch: dict[str, Packed]) -> int:
        """The pieces of the targets, each with its end."""
        return len(batch["target"].values)

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

    @property
    def groups(self) -> dict[str, Group]:
        """The number of words of a source, and how often training saw the rarest of them."""
        return {
            "length": Group(
                "words of the source; characters of Chinese and Japanese",
                lambda record: len(_source_words(record)),
            ),
            "frequency": Group(
                "how often training saw the rarest word of the source", self._rarest, (1, 10, 100, 1000)
            ),
        }

    def restored(self, entry: Record, record: Record) -> Translation:
        """A translation from its source, text and, if it has one, score."""
        source, text, score = (entry.fields.get(name) for name in ("source", "text", "score"))
        if source != record.fields["source"] or not isinstance(text, str):
            raise data_error(
                entry.place,
                "this is no translation of the record",
                expected=f"'source' and 'text', the source being that of {record.place}: "
                f"{shorten(record.fields['source'])}",
                received=shorten({"source": source, "text": text}),
                mend="name the data that the predictions were made for, in the same order",
            )
        return Translation(
            record.fields["source"], text, score if isinstance(score, int | float) else math.nan, ()
        )

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json` and, after `learn`, `words.json`."""
        self.tokenizer.save(folder / "tokenizer.json")
        if self.counts is not None:
            self.counts.save(folder / WORDS)

    def load(self, folder: Path) -> None:
        """Read `tokenizer.json`; `words.json` is read when it is asked for."""
        self.tokenizer = Tokenizer.load(folder / "tokenizer.json")
        self.folder, self.counts = folder, None

    def facts(self) -> dict[str, Any]:
        """The size of the vocabulary."""
        return {"vocabulary": len(self.tokenizer)}

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

    def _rarest(self, record: Record) -> int:
        if self.counts is None:
            self.counts = WordCounts.of_run(self.folder)
        return self.counts.rarest(_source_words(record))


def _source_words(record: Record) -> list[str]:
    return characters(record.fields["source"])


def shifted(target: Packed, begin: int) -> Tensor:
    """What the decoder reads while it writes `target`: each sequence moved right by one, `begin` first."""
    values = torch.cat([target.values.new_tensor([begin]), target.values[:-1]])[: len(target.values)]
    starts = torch.from_numpy(target.offsets[:-1][target.lengths > 0].astype(np.int64))
    values[starts] = begin
    return values


def _chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    chunk: list[Any] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
