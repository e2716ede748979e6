"""Captioning: a picture to a sentence, by an encoder of patches and a decoder of words.

A record has `image`, and `captions` (a list) or `caption`; with languages, `captions_de` and so on. An example is a picture with
all its captions, in all languages: the picture is encoded once, and every caption reads it. With languages the first token of
a caption says in which it is written.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from regard._errors import CheckpointError, ConfigError, nearest
from regard._packed import Packed
from regard.data.captions import IMAGE, CaptionReader, image_of
from regard.data.checks import Record
from regard.data.lines import data_error, shorten
from regard.data.packing import Encoded
from regard.data.patches import cut_patches, usual_patch
from regard.data.pictures import Picture, load_picture, picture_size
from regard.data.records import Source
from regard.data.tokenizer import Tokenizer
from regard.decoding import Hypothesis, check_beam, search
from regard.decoding.engine import EngineWriter, Precision, check_precision
from regard.decoding.sources import PlainSourceWriter, SourceEngine, can_write
from regard.metrics.buckets import Group
from regard.metrics.captions import caption_bleu, cider
from regard.metrics.language import exact_strings
from regard.metrics.measurement import Measurement, by_example
from regard.metrics.translation import Score
from regard.metrics.words import characters
from regard.nn.captioner import Captioner
from regard.nn.loss import vocabulary_loss
from regard.nn.patches import PatchEncoder
from regard.tasks._caption import (
    STREAMS,
    Caption,
    encoded,
    joined_streams,
    look,
    restored_caption,
    sizes_of,
    teacher_forced,
)
from regard.tasks._rewards import reward_loss
from regard.tasks._writing import TextForText, learned_tokenizer
from regard.training.options import PICTURES, PIECES, TAUGHT
from regard.training.recipe import Recipe

LEARNED = "captions.json"
BEAM, PENALTY = 5, 1.0
NOTHING = Hypothesis((), -math.inf)
HYPOTHESES = 320  # written at once
SIDE, PATCH = 64, 8


class CaptionPictures:
    """The task, as `regard.training` knows it."""

    name = "caption"
    streams = STREAMS
    options = ("beam", "penalty", "attention", "precision", "language")
    score_options = ("language",)
    recipe_options = (*PIECES, *PICTURES, *TAUGHT, "decoder_layers", "languages", "cider_finish", "r_drop")
    reads_pictures = True
    taught: ClassVar[dict[str, Any]] = {
        **TextForText.taught,
        **dict.fromkeys(("side", "patch", "languages")),
    }
    tokenizer: Tokenizer
    reader: CaptionReader
    side: int
    patch: int
    longest: int
    """The most pieces that are written: twice as many as the longest caption of the training data has."""

    def __init__(self) -> None:
        self.reader = CaptionReader(complete=False)

    @property
    def languages(self) -> tuple[str, ...]:
        """What the model writes in, none where there is one language without a name."""
        return self.reader.languages

    def configure(self, recipe: Recipe) -> None:
        """Take the languages."""
        self.reader = CaptionReader(_languages(recipe.languages))

    def read(self, source: Source, max_characters: int, *, answers: bool = True) -> Iterator[Record]:
        """Records with a picture and, as answers, captions."""
        return self.reader.read(source, max_characters, answers=answers)

    def record(self, given: Any, place: tuple[str, int], max_characters: int) -> Record:
        """A picture in any form of `load_picture`, or a dict that has it as `image`, as a record."""
        record = Record(dict(given) if isinstance(given, dict) else {IMAGE: given}, *place)
        record.fields[IMAGE] = load_picture(image_of(record), record.place, self.side)
        return record

    def held_together(self, record: Record) -> str:
        """The picture, whose captions may stand in several records: whoever has learned one knows it."""
        name: str = record.fields[IMAGE]
        return name

    def input_of(self, record: Record) -> Picture:
        """The picture with its pixels."""
        return load_picture(record.fields[IMAGE], record.place, self.side)

    def characters(self, record: Record) -> int:
        """Of all captions."""
        return sum(len(caption) for _, caption in self.reader.every(record))

    def sizes(self, examples: int) -> dict[str, Any]:
        """The model by the number of pictures, and the patch by their size."""
        small = examples < 3_000
        return {
            "vocabulary": 2000,
            "dim": 128,
            "heads": 4,
            "hidden": 256 if small else 384,
            "encoder_layers": 3 if small else 4,
            "decoder_layers": 2,
            "dropout": 0.1,
            "side": SIDE,
            "patch": usual_patch(self.reader.sides, SIDE),
            "warp": 1.0,
        }

    def learn(self, records: Iterable[Record], recipe: Recipe) -> None:
        """Train the vocabulary on all captions, of all languages together, or take the teacher's."""
        self.side, self.patch = recipe.side or SIDE, recipe.patch or PATCH
        texts = [caption for record in records for _, caption in self.reader.every(record)]
        self.tokenizer = learned_tokenizer(texts, recipe, 2000)
        self.longest = 2 * max(map(len, self.tokenizer.encode_batch(texts))) + 1

    def encode(self, records: Iterable[Record]) -> Iterator[tuple[Any, ...]]:
        """Lengths of the captions, their tokens with begin and end, rows and columns, and patches."""
        for record in records:
            captions = [
                (self._begin(number), self.tokenizer.encode(caption))
                for number, caption in self.reader.every(record)
            ]
            yield *joined_streams(captions, self.tokenizer.eos), *self._patches(self.input_of(record))

    def model(self, recipe: Recipe) -> nn.Module:
        """A new captioner of the recipe's size."""
        dim, heads, hidden = recipe.dim or 128, recipe.heads or 4, recipe.hidden or 256
        dropout = recipe.dropout or 0.0
        encoder = PatchEncoder(
            self.patch,
            dim,
            heads,
            hidden,
            recipe.encoder_layers or 4,
            dropout=dropout,
            warp=recipe.warp or 0.0,
            flip=recipe.flip,
            tint=recipe.tint,
        )
        vocabulary = len(self.tokenizer) + len(self.languages)
        return Captioner(encoder, vocabulary, heads, hidden, recipe.decoder_layers or 2, dropout=dropout)

    def loss(self, model: Captioner, batch: dict[str, Packed], smoothing: float) -> Tensor:
        """Cross-entropy of all captions, summed over their pieces and ends."""
        read, written, pictures = teacher_forced(batch)
        states = model(batch["patches"], sizes_of(batch), read, pictures)
        return vocabulary_loss(states, model.embedding.weight, written, smoothing)

    def finish_loss(self, model: Captioner, batch: dict[str, Packed]) -> Tensor:
        """For the last part of a run: how much worse than their fellows' is the CIDEr-D of captions that the model draws."""
        return reward_loss(model, batch, self.tokenizer.eos, self.longest)

    def counted(self, batch: dict[str, Packed]) -> int:
        """The pieces of all captions, each with its end."""
        return len(batch["captions"].values) - len(batch["lengths"].values)

    def calibrate(self, model: nn.Module, records: Sequence[Record], examples: Encoded) -> None:
        """Nothing: a caption has no probability to be trusted."""

    def engine(self, model: Captioner, precision: Precision = "fp32") -> SourceEngine | None:
        """The decoder packed for the kernel, for many calls of `predict`; None where PyTorch writes: without a kernel, on GPUs."""
        check_precision(precision)
        if precision == "fp32" and not can_write(model):
            return None
        return SourceEngine(model, lambda sources: encoded(model, sources), precision)

    @torch.no_grad()
    def predict(
        self,
        model: Captioner,
        inputs: Sequence[Picture],
        *,
        beam: int = BEAM,
        penalty: float = PENALTY,
        attention: bool = False,
        precision: Precision = "fp32",
        language: str | None = None,
        engine: SourceEngine | None = None,
    ) -> list[Caption]:
        """Write a caption for every picture; each is the same, up to rounding by some 1e-6, whatever others stand beside it.

        Arguments:
            model: in evaluation mode.
            inputs: the pictures.
            beam: hypotheses kept for each picture; 1 is greedy search.
            penalty: exponent of the length by which log-probabilities are divided; 0 favors short captions.
            attention: look at every caption, one after the other, and give the weights with it.
            precision: of the decoder's weights while writing: "fp32", "bf16" or "int8".
            language: one of those that the model was trained in; by default the first.
            engine: what `engine` gave for this model and precision; by default the model is packed anew.
        """
        check_beam(beam)
        chosen = self._language(language)
        bos, eos = self._begin(0 if chosen is None else self.languages.index(chosen)), self.tokenizer.eos
        sources = [self._patches(given) for given in inputs]
        order = sorted(range(len(inputs)), key=lambda number: len(sources[number][1]))
        ordered = [sources[number] for number in order]
        engine = engine or self.engine(model, precision)
        writer: Any
        if engine is None:
            writer = PlainSourceWriter(model, ordered, lambda few: encoded(model, few))
        else:
            writer = EngineWriter(engine, ordered, beam)  # type: ignore[arg-type]
        limits, together = [self.longest] * len(inputs), max(1, HYPOTHESES // beam)
        found = search(writer, limits, beam=beam, bos=bos, eos=eos, penalty=penalty, together=together)
        # A model that gives no numbers any more finds nothing.
        best = {number: (*some, NOTHING)[0] for number, some in zip(order, found, strict=True)}
        written = []
        for number, given in enumerate(inputs):
            pieces, score = self._words(best[number].tokens), best[number].score(1.0)
            caption = Caption(given.name, self.tokenizer.decode(pieces), score, chosen, pieces)
            seen = (
                look(model, self.tokenizer, given.pixels, sources[number], bos, pieces) if attention else None
            )
            written.append(replace(caption, attention=seen))
        return written

    def score(
        self, predictions: Sequence[Caption], records: Sequence[Record], *, language: str | None = None
    ) -> list[Score]:
        """CIDEr-D, BLEU-4, and the share of captions that are one of the references to the letter, without case if the model knows none."""
        texts, references = self._paired(predictions, records, language)
        exact = exact_strings(self._as_learned(texts), [self._as_learned(many) for many in references])
        case = "lc" if self._as_learned(["A"]) == ["a"] else "mixed"
        exact = replace(exact, signature=f"case:{case}")
        return [cider(texts, references), caption_bleu(texts, references), exact]

    def example_scores(
        self, predictions: Sequence[Caption], records: Sequence[Record], *, language: str | None = None
    ) -> list[float]:
        """A tenth of the CIDEr-D of every caption, which is 1000 where it is like its only reference."""
        measured: Measurement = cider(*self._paired(predictions, records, language))
        return [value / 10 for value in by_example(measured)]

    @property
    def groups(self) -> dict[str, Group]:
        """The number of words of the first caption, and of records that have it the field `kind`."""
        return {
            "length": Group(
                "words of the first caption; characters of Chinese and Japanese",
                lambda record: len(characters(next(self.reader.every(record))[1])),
            ),
            "side": Group(
                "pixels of the picture's longer side",
                lambda record: max(picture_size(record.fields[IMAGE], record.place)),
            ),
            "kind": Group("the field 'kind' of each record", _kind),
        }

    def restored(self, entry: Record, record: Record) -> Caption:
        """A caption from what its `as_json` gave."""
        return restored_caption(entry, record)

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json` and `captions.json`."""
        self.tokenizer.save(folder / "tokenizer.json")
        (folder / LEARNED).write_text(json.dumps(self._facts(), ensure_ascii=False), encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Read `tokenizer.json` and `captions.json`."""
        self.tokenizer = Tokenizer.load(folder / "tokenizer.json")
        path = folder / LEARNED
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            self.side, self.patch, self.longest = (int(facts[name]) for name in ("side", "patch", "longest"))
            self.reader = CaptionReader(tuple(map(str, facts["languages"])), complete=False)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{path} is missing or damaged ({error}). Expected: how the run reads pictures. Received: nothing that can be "
                "read. To mend it: copy the run folder again, or train again."
            ) from error

    def facts(self) -> dict[str, Any]:
        """The size of the vocabulary, the languages, and how pictures are cut."""
        return {"vocabulary": len(self.tokenizer), **self._facts()}

    def _facts(self) -> dict[str, Any]:
        return {
            "languages": list(self.languages),
            "side": self.side,
            "patch": self.patch,
            "longest": self.longest,
        }

    def _begin(self, number: int) -> int:
        """The token that begins captions of a language: one of its own, behind the pieces, or the common one."""
        return len(self.tokenizer) + number if self.languages else self.tokenizer.bos

    def _words(self, tokens: Sequence[int]) -> tuple[int, ...]:
        """What was written, without the begins, to which a model that has learned little may come."""
        return tuple(token for token in tokens if token < len(self.tokenizer))

    def _language(self, asked: str | None) -> str | None:
        if asked is None:
            return self.languages[0] if self.languages else None
        if asked not in self.languages:
            known = ", ".join(self.languages) or "one language, which was not named"
            raise ConfigError(
                f"the model does not write {asked!r}{nearest(asked, self.languages)}. Expected: {known}. "
                f"Received: {asked!r}. To mend it: choose one of them, or train with --languages."
            )
        return asked

    def _patches(self, given: Picture) -> tuple[Any, Any]:
        patches, size = cut_patches(given.pixels, self.patch)
        return size, patches

    def _paired(
        self, predictions: Sequence[Caption], records: Sequence[Record], language: str | None
    ) -> tuple[list[str], list[list[str]]]:
        # Without a tokenizer the predictions came from a file, and so do their languages.
        if hasattr(self, "tokenizer"):
            names = [self._language(language)] * len(records)
        else:
            names = [language or one.language for one in predictions]
        references = [self.reader.required(record, name) for record, name in zip(records, names, strict=True)]
        return [one.text for one in predictions], references

    def _as_learned(self, texts: Sequence[str]) -> list[str]:
        return (
            [self.tokenizer.normalize(text) for text in texts] if hasattr(self, "tokenizer") else list(texts)
        )


def _languages(given: str | None) -> tuple[str, ...]:
    names = [] if given is None else [name.strip() for name in given.split(",")]
    if len(set(names)) != len(names) or not all(name.replace("-", "_").isidentifier() for name in names):
        raise ConfigError(
            "languages are names with commas between them, each once. Expected: for example --languages en,de. "
            f"Received: {given!r}."
        )
    return tuple(names)


def _kind(record: Record) -> str:
    kind = record.fields.get("kind")
    if not isinstance(kind, str):
        raise data_error(
            record.place,
            "the record has no kind to be counted with",
            expected="a text in the field 'kind'",
            received=shorten(kind),
            mend="give every record one, or leave --by kind out",
        )
    return kind
