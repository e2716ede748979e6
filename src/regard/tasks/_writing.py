"""What the tasks share that write a text for a text: records, one joint vocabulary, the way through a beam, and results."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regard._errors import ConfigError
from regard._packed import Packed
from regard.data.checks import checked
from regard.data.frequency import WordCounts
from regard.data.records import Record, Source, read_records
from regard.data.tokenizer import Tokenizer
from regard.decoding import Hypothesis, Stepper, check_beam, search
from regard.metrics.buckets import Group
from regard.metrics.translation import HAN, KANA
from regard.metrics.words import characters
from regard.nn.transformer import Shape
from regard.pictures import AttentionPicture
from regard.tasks._attention import Attention
from regard.tasks._counting import CountsWords, frequency_group
from regard.tasks._mismatch import mismatch
from regard.training.presets import encoder_decoder_sizes
from regard.training.recipe import Recipe

BEAM, PENALTY = 5, 1.0
NOTHING = Hypothesis((), -math.inf)
HYPOTHESES = 320  # written at once; sources of like length stand together
TOKENS = 32768  # of sources that are read at once, unless one alone is longer


@dataclass(frozen=True)
class Draft:
    """One of several texts that were found, and the mean log-probability of a piece of it, in nats."""

    text: str
    score: float

    def as_json(self) -> dict[str, Any]:
        """The same in plain values; a score that is none is None."""
        return {"text": self.text, "score": round(self.score, 4) if math.isfinite(self.score) else None}


@dataclass(frozen=True)
class Written:
    """A text written for a text; `score` is the mean log-probability of a piece, in nats.

    On request there are `attention`, and in `candidates` several of the texts that were found, the one that was chosen first.
    """

    source: str
    text: str
    score: float
    pieces: tuple[int, ...] = field(repr=False)
    candidates: tuple[Draft, ...] = field(default=(), repr=False)
    attention: Attention | None = field(default=None, repr=False, compare=False)

    noun: ClassVar[str] = "text"

    def __str__(self) -> str:
        return self.text

    def as_json(self) -> dict[str, Any]:
        """Source, text and score, which is None where there is none; of several candidates these too."""
        several = {"candidates": [one.as_json() for one in self.candidates]} if self.candidates else {}
        return {"source": self.source, **Draft(self.text, self.score).as_json(), **several}

    def picture(self) -> AttentionPicture:
        """What the decoder looked at while it wrote, word by word; for a text with attention."""
        if self.attention is None:
            raise ConfigError(
                f"this {self.noun} was made without looking. Expected: attention=True when it is made."
            )
        seen = self.attention.words()
        return AttentionPicture(
            seen.weights, seen.target, seen.source, title=self._title(), query_name="target", key_name="source",
            layers=self._layers(len(seen.weights)),
        )  # fmt: skip

    def _title(self) -> str:
        return f"{self.source} → {self.text}"

    def _layers(self, count: int) -> list[str]:
        return [str(number) for number in range(1, count + 1)]


class TextForText(CountsWords):
    """A task whose record has `source` and `target` (or `targets`, several references), but for model, loss and score."""

    name: str
    result: type[Any] = Written
    fields = ("source", "target")
    streams = ("source", "target")
    taught: ClassVar[dict[str, Any]] = {"vocabulary": None, "lowercase": False}
    tokenizer: Tokenizer

    def configure(self, recipe: Recipe) -> None:
        """Nothing: the fields have fixed names."""

    def read(self, source: Source, max_characters: int, *, answers: bool = True) -> Iterator[Record]:
        """Records with `source` and, as answers, `target` and `targets`."""
        return read_records(source, self.fields[: 2 if answers else 1], max_characters=max_characters)

    def record(self, given: Any, place: tuple[str, int], max_characters: int) -> Record:
        """A text, or a dict that has it as `source`, as a record."""
        fields = dict(given) if isinstance(given, dict) else {"source": given}
        return checked(Record(fields, *place), self.fields[:1], max_characters)

    def held_together(self, record: Record) -> str:
        """The text, which may come with several targets."""
        return self.input_of(record)

    def input_of(self, record: Record) -> str:
        """The text."""
        return record.fields["source"]

    def characters(self, record: Record) -> int:
        """Of source and target together."""
        return sum(len(record.fields[name]) for name in self.fields)

    def sizes(self, examples: int) -> dict[str, Any]:
        """Model and vocabulary by the number of pairs."""
        return encoder_decoder_sizes(examples)

    def learn(self, records: Iterable[Record], recipe: Recipe) -> None:
        """Train the joint vocabulary, or take the teacher's, and count the words of the sources."""
        counts, texts = WordCounts(), []
        for record in records:
            counts.add(source_words(record))
            texts += [record.fields[name] for name in self.fields]
        self.counts = counts
        self.tokenizer = learned_tokenizer(texts, recipe, 4000)

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
            yield from self.sources([record.fields["source"] for record in chunk])

    def sources(self, texts: Sequence[str]) -> list[list[int]]:
        """The pieces of texts, each with its end."""
        return [[*ids, self.tokenizer.eos] for ids in self.tokenizer.encode_batch(list(texts))]

    @cached_property
    def word_begins(self) -> NDArray[np.bool_]:
        """(vocabulary,): the pieces that begin a word, or a mark; of Chinese and Japanese each piece is one."""
        pieces = self.tokenizer.pieces(range(len(self.tokenizer)))
        return np.array(
            [not piece[0].isalnum() or bool(HAN.match(piece) or KANA.match(piece)) for piece in pieces]
        )

    def counted(self, batch: dict[str, Packed]) -> int:
        """The pieces of the targets, each with its end."""
        return len(batch["target"].values)

    def search(
        self,
        sources: Sequence[Sequence[int]],
        writer: Callable[[list[Sequence[int]]], Stepper],
        limit: Callable[[int], int],
        *,
        beam: int,
        penalty: float,
    ) -> list[list[Hypothesis]]:
        """Beam search for every source, in their order: the finished hypotheses, the best first.

        Arguments:
            sources: the pieces of each.
            writer: makes the stepper for the sources in another order: those of like length stand together.
            limit: from the length of a source to the most pieces to write, the end counted.
            beam: hypotheses kept for each source.
            penalty: as for `decoding.search`.
        """
        check_beam(beam)
        order = sorted(range(len(sources)), key=lambda number: len(sources[number]))
        ordered = [sources[number] for number in order]
        limits = [limit(len(source)) for source in ordered]
        found = search(
            writer(ordered), limits, beam=beam, bos=self.tokenizer.bos, eos=self.tokenizer.eos, penalty=penalty,
            together=max(1, HYPOTHESES // beam), sizes=[len(source) for source in ordered], most=TOKENS,
        )  # fmt: skip
        placed = dict(zip(order, found, strict=True))
        return [placed[number] for number in range(len(sources))]

    def results(
        self, inputs: Sequence[str], found: Sequence[Sequence[Hypothesis]], candidates: int = 1
    ) -> list[Any]:
        """The first hypothesis of each text as a result, with so many candidates of different texts; a model that gives no numbers any more finds none."""
        results = []
        for text, some in zip(inputs, found, strict=True):
            best = (*some, NOTHING)[0]
            chosen = self._draft(best)
            drafts = self._drafts(some)[:candidates] if candidates > 1 else ()
            results.append(self.result(text, chosen.text, chosen.score, best.tokens, candidates=drafts))
        return results

    def _drafts(self, hypotheses: Sequence[Hypothesis]) -> tuple[Draft, ...]:
        """The texts of hypotheses, each once: several rows of pieces may be one, for which the most probable stands."""
        drafts: dict[str, Draft] = {}
        for draft in map(self._draft, hypotheses):
            drafts.setdefault(draft.text, draft)
        return tuple(drafts.values())

    def _draft(self, hypothesis: Hypothesis) -> Draft:
        return Draft(self.tokenizer.decode(hypothesis.tokens), hypothesis.score(1.0))

    @property
    def groups(self) -> dict[str, Group]:
        """The number of words of a source, and how often training saw the rarest of them."""
        return {
            "length": Group(
                "words of the source; characters of Chinese and Japanese",
                lambda record: len(source_words(record)),
            ),
            "frequency": frequency_group(
                "the rarest word of the source", lambda record: self.rarest(source_words(record))
            ),
        }

    def restored(self, entry: Record, record: Record) -> Any:
        """A result from its source, text and, if it has one, score."""
        source, text, score = (entry.fields.get(name) for name in ("source", "text", "score"))
        if source != record.fields["source"] or not isinstance(text, str):
            expected, received = (
                "'source' and 'text', the source being that",
                {"source": source, "text": text},
            )
            wrong = f"this is no {self.result.noun} of the record"
            raise mismatch(entry, record, wrong, expected, record.fields["source"], received)
        return self.result(
            record.fields["source"], text, score if isinstance(score, int | float) else math.nan, ()
        )

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json` and, after `learn`, `words.json`."""
        self.tokenizer.save(folder / "tokenizer.json")
        self.save_counts(folder)

    def load(self, folder: Path) -> None:
        """Read `tokenizer.json`; `words.json` is read when it is asked for."""
        self.tokenizer = Tokenizer.load(folder / "tokenizer.json")
        self.expect_counts(folder)

    def facts(self) -> dict[str, Any]:
        """The size of the vocabulary."""
        return {"vocabulary": len(self.tokenizer)}

    def shape(self, recipe: Recipe) -> Shape:
        """The sizes of the recipe's encoder-decoder."""
        names = ("dim", "heads", "hidden", "encoder_layers", "decoder_layers")
        given = {name: getattr(recipe, name) for name in names if getattr(recipe, name) is not None}
        return Shape(
            len(self.tokenizer),
            dropout=recipe.dropout or 0.0,
            encoder=recipe.encoder,
            decoder=recipe.decoder,
            **given,
        )


def learned_tokenizer(texts: Sequence[str], recipe: Recipe, usual: int) -> Tokenizer:
    """The teacher's tokenizer where a recipe has one, else one that is trained, of `usual` pieces where the recipe leaves it open."""
    if recipe.teacher is not None:
        return Tokenizer.load(Path(recipe.teacher) / "tokenizer.json")
    return Tokenizer.train(texts, recipe.vocabulary or usual, lowercase=recipe.lowercase)


def source_words(record: Record) -> list[str]:
    """The words of a source; of Chinese and Japanese the characters."""
    return characters(record.fields["source"])


def longest_target(length: int) -> int:
    """The most pieces that are written for so many."""
    return 2 * length + 10


def shifted(target: Packed, begin: int) -> Tensor:
    """What the decoder reads while it writes `target`: each sequence moved right by one, `begin` first."""
    values = torch.cat([target.values.new_tensor([begin]), target.values[:-1]])[: len(target.values)]
    starts = torch.from_numpy(target.offsets[:-1][target.lengths > 0].astype(np.int64))
    values[starts] = begin
    return values


def check_candidates(candidates: int, beam: int) -> None:
    """Raises ConfigError when a beam is none, or does not hold so many candidates."""
    check_beam(beam)
    if not 1 <= candidates <= beam:
        raise ConfigError(
            f"candidates are of those that a beam of {beam} holds. Expected: 1 to {beam}. Received: {candidates}. To mend it: ask for "
            "fewer, or for a larger beam."
        )


def _chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    chunk: list[Any] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
