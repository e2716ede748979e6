"""Summarization: a document to a short text, by an encoder-decoder that can copy from its document.

A record has `source` and `target` (or `targets`, several references), as for translation, whose pieces and streams these are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from regard._packed import Packed
from regard.data.packing import Encoded, pack_ids
from regard.data.records import Record
from regard.decoding import Hypothesis, Stepper
from regard.decoding.copying import CopyWriter
from regard.decoding.length import fit_penalty
from regard.decoding.repetition import NoRepeats
from regard.metrics.extracts import extracts, gap_sentence
from regard.metrics.measurement import Measurement, by_example
from regard.metrics.summaries import KINDS, rouge
from regard.nn.copying import CopyingEncoderDecoder
from regard.nn.transformer import Shape
from regard.nn.watch import watch
from regard.tasks._attention import read_attention
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
from regard.training.presets import few_documents_sizes
from regard.training.recipe import Recipe

CALIBRATED = 200  # dev examples that are summarized to learn how long summaries should be


@dataclass(frozen=True)
class Summary(Written):
    """A summary; `score` is the mean log-probability of a piece, in nats; `attention` and `copied` are there on request."""

    copied: tuple[float, ...] | None = field(default=None, repr=False, compare=False)
    """For each piece and the end, how probable it is that it was copied and not taken from the vocabulary."""

    noun: ClassVar[str] = "summary"

    def _title(self) -> str:
        copied = "" if self.copied is None else f" · {100 * float(np.mean(self.copied)):.0f} % copied"
        return f"{self.text}{copied}"

    def _layers(self, count: int) -> list[str]:
        return [*super()._layers(count - 1), "copying"]


class Summarizer(CopyingEncoderDecoder):
    """The model, with what dev data says of the length of summaries."""

    def __init__(self, shape: Shape, coverage: float) -> None:
        super().__init__(shape, coverage)
        self.penalty = nn.Parameter(torch.full((), PENALTY), requires_grad=False)
        self.longest = nn.Parameter(torch.full((), torch.inf), requires_grad=False)

    def limit(self, length: int) -> int:
        """The most pieces to write for a document of so many."""
        return int(min(longest_target(length), float(self.longest)))


class Summarize(TextForText):
    """The task, as `regard.training` knows it."""

    name = "summarize"
    rehearses = "writes the sentence that says most of each of"
    result = Summary
    options = ("beam", "penalty", "candidates", "attention", "repeats")
    score_options = ()
    recipe_options = (*TEXTS, *TAUGHT, "decoder", "decoder_layers", "window", "coverage", "r_drop")
    defaults: ClassVar[dict[str, Any]] = {"penalty": None}

    def rehearsals(self, records: Iterable[Record]) -> Iterator[tuple[Sequence[int], ...]]:
        """Of documents with several sentences the one that says most of the others, as the target of what is left.

        The unknown piece stands where it stood, by Zhang et al. 2020, "PEGASUS". In every second document the sentence stays, so that
        choosing one and copying it is learned too, and where there is no other.
        """
        ends, hidden = [self.tokenizer.eos], [self.tokenizer.unk]
        for number, record in enumerate(records):
            text = record.fields["source"]
            gap = gap_sentence(text)
            before, sentence, after = self.tokenizer.encode_batch(list(gap or ("", text, "")))
            stays = number % 2 == 1 or gap is None
            yield [*before, *(sentence if stays else hidden), *after, *ends], [*sentence, *ends]

    def sizes(self, examples: int) -> dict[str, Any]:
        """As for other pairs of texts; of few documents a wider model, which learns to choose and copy sentences first."""
        return few_documents_sizes() if examples < 5_000 else super().sizes(examples)

    def model(self, recipe: Recipe) -> nn.Module:
        """A new model of the recipe's size."""
        return Summarizer(replace(self.shape(recipe), window=recipe.window), recipe.coverage or 0.0)

    def loss(self, model: Summarizer, batch: dict[str, Packed], smoothing: float) -> Tensor:
        """Cross-entropy of the targets, summed over their pieces and ends."""
        target = batch["target"]
        read = target.with_values(shifted(target, self.tokenizer.bos))
        return model.loss(batch["source"], read, target.values, smoothing)

    @torch.no_grad()
    def calibrate(self, model: Summarizer, records: Sequence[Record], examples: Encoded) -> None:
        """Learn how long summaries may be, as the longest of the dev data, and which length penalty chooses those of the best ROUGE."""
        if not examples:
            return
        model.longest.fill_(max(len(target) for _, target in examples))
        some = examples[:: -(-len(examples) // CALIBRATED)]
        found = self._write(model, [source for source, _ in some], BEAM, PENALTY, repeats=False)
        counts = [len(hypotheses) for hypotheses in found]
        if not any(counts):
            return
        texts = [self.tokenizer.decode(one.tokens) for hypotheses in found for one in hypotheses]
        references = [self.tokenizer.decode(target) for _, target in some]
        repeated = [text for text, count in zip(references, counts, strict=True) for _ in range(count)]
        scores = rouge(texts, repeated)
        worth = np.sum([scores[kind].statistics[:, 0] for kind in KINDS], axis=0)
        model.penalty.fill_(fit_penalty(found, np.split(worth, np.cumsum(counts)[:-1])))

    @torch.no_grad()
    def predict(
        self,
        model: Summarizer,
        inputs: Sequence[str],
        *,
        beam: int = BEAM,
        penalty: float | None = None,
        candidates: int = 1,
        attention: bool = False,
        repeats: bool = False,
    ) -> list[Summary]:
        """Summarize documents; each result is the same, up to rounding by some 1e-6, whatever others stand beside it.

        Arguments:
            model: in evaluation mode.
            inputs: the documents.
            beam: hypotheses kept for each document; 1 is greedy search.
            penalty: exponent of the length by which log-probabilities are divided; by default 1 while searching, and among what was
                found the one that was best on the dev data.
            candidates: how many of the best summaries come with each result, at most those of the beam.
            attention: look at every summary, one after the other, and give the weights with it, and what was copied.
            repeats: let a summary say the same three words twice.
        """
        check_candidates(candidates, beam)
        found = self._write(
            model, self.sources(inputs), beam, PENALTY if penalty is None else penalty, repeats
        )
        if penalty is None:  # it was learned on hypotheses that were found with the usual one
            learned = float(model.penalty)
            found = [sorted(some, key=lambda one: one.score(learned), reverse=True) for some in found]
        written = self.results(inputs, found, candidates)
        return [self._seen(model, one) for one in written] if attention else written

    def score(self, predictions: Sequence[Summary], records: Sequence[Record]) -> list[Measurement]:
        """ROUGE-1, ROUGE-2 and ROUGE-L, the best of each record's references, with what single sentences reach as a note."""
        references = [record.fields["targets"] for record in records]
        plain = extracts([record.fields["source"] for record in records], references)
        found = rouge([prediction.text for prediction in predictions], references)
        notes = {
            kind: ", ".join(f"{name} {scores[kind]:.1f}" for name, scores in plain.items()) for kind in KINDS
        }
        return [replace(found[kind], signature=f"{found[kind].signature}; {notes[kind]}") for kind in KINDS]

    def example_scores(self, predictions: Sequence[Summary], records: Sequence[Record]) -> list[float]:
        """The ROUGE-1 of every summary."""
        references = [record.fields["targets"] for record in records]
        return by_example(rouge([prediction.text for prediction in predictions], references)[KINDS[0]])

    def _write(
        self, model: Summarizer, sources: Sequence[Sequence[int]], beam: int, penalty: float, repeats: bool
    ) -> list[list[Hypothesis]]:
        def writer(ordered: list[Sequence[int]]) -> Stepper:
            copying = CopyWriter(model, ordered)
            return copying if repeats else NoRepeats(copying, self.word_begins)

        return self.search(sources, writer, model.limit, beam=beam, penalty=penalty)

    def _seen(self, model: Summarizer, summary: Summary) -> Summary:
        """With where the decoder looked while it wrote, the copying head last, and what it copied."""
        source = pack_ids(self.sources([summary.source]))
        target = pack_ids([[*summary.pieces, self.tokenizer.eos]])
        read = shifted(target, self.tokenizer.bos)
        encoded = model.encode(source)
        with watch(model.decoder) as seen:
            states = model.decode(target.with_values(read), encoded)
        all_one = torch.zeros(len(states), dtype=torch.int64)
        copies = model.copy_weights(
            model.copy_queries(states, read), model.copy_keys(encoded, source), all_one
        )
        weights_LHTS = torch.stack([*seen]).transpose(1, 2)
        shown = torch.cat([weights_LHTS, copies.expand(1, weights_LHTS.shape[1], -1, -1)]).float().numpy()
        return replace(
            summary,
            attention=read_attention(shown, self.tokenizer, summary.source, summary.pieces),
            copied=tuple(model.copied_shares(states, copies, source.values, target.values).tolist()),
        )
