"""Classification: a text or a picture to a label, or to several, with probabilities that can be trusted.

A record has `text` or `image`, and `label` (a string) or `labels` (a list of them). A text becomes its pieces, a picture its
patches; an encoder lets them see each other, a learned query reads what counts, and every label gets a score. At every
evaluation temperatures are fitted to the dev data, so that of answers given with 80 % four in five are right.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from regard._errors import CheckpointError
from regard._packed import Packed
from regard.data.checks import Record, checked
from regard.data.frequency import WordCounts
from regard.data.labels import IMAGE, TEXT, LabelReader, check_classes, label_numbers
from regard.data.packing import Encoded, pack_streams
from regard.data.patches import cut_patches, usual_patch
from regard.data.pictures import Picture, load_picture, picture_size
from regard.data.records import Source
from regard.data.tokenizer import Tokenizer
from regard.decoding.calibration import fit_temperatures, fit_threshold, probabilities
from regard.metrics.buckets import Group
from regard.metrics.translation import Score
from regard.metrics.words import characters
from regard.nn.consistency import asked
from regard.nn.patches import PatchEncoder
from regard.nn.watch import watch
from regard.tasks._class_scores import class_scores
from regard.tasks._classification import (
    Classification,
    Item,
    restored_classification,
    seen_patches,
    seen_words,
)
from regard.tasks._classifier import Classifier
from regard.tasks._counting import CountsWords, frequency_group
from regard.tasks._encoder import learn_tokenizer, load_tokenizer, make_encoder, upper_sizes
from regard.training.options import BEGUN, PICTURES, TEXTS, refuse_options
from regard.training.presets import encoder_sizes
from regard.training.recipe import Recipe

LEARNED = "classes.json"
TOGETHER = 8192  # tokens that are classified at once
CALIBRATED = 2000  # dev examples to which temperatures are fitted, at most
SIDE = 64


class Classify(CountsWords):
    """The task, as `regard.training` knows it."""

    name = "classify"
    options = ("attention",)
    score_options = ("each",)
    reader: LabelReader
    labels: tuple[str, ...]
    tokenizer: Tokenizer
    side: int
    patch: int

    def __init__(self) -> None:
        self.reader = LabelReader()

    @property
    def streams(self) -> tuple[str, ...]:
        """What is long stands last: batches are sorted by it."""
        return ("labels", "size", "patches") if self.reader.input == IMAGE else ("labels", "text")

    @property
    def recipe_options(self) -> tuple[str, ...]:
        """Of texts, of pictures, or of both as long as nothing was read."""
        texts = () if self.reader.input == IMAGE else (*TEXTS, *BEGUN, "ngrams")
        pictures = () if self.reader.input == TEXT else PICTURES
        return tuple(dict.fromkeys(("text", "label", "r_drop", *texts, *pictures)))

    @property
    def reads_pictures(self) -> bool:
        """Whether pictures are classified."""
        return self.reader.input == IMAGE

    def configure(self, recipe: Recipe) -> None:
        """Take the names of the fields."""
        if recipe.init is not None and recipe.hidden is not None:
            why = "above a pretrained encoder classes have no layer with a width"
            refuse_options(recipe, ["hidden"], why, "init alone")
        self.reader = LabelReader(recipe.text, recipe.label)

    def name_fields(self, text: str | None, label: str | None) -> None:
        """Read records whose fields have these names; None stands for the usual ones."""
        self.reader = replace(self.reader, text=text, label=label)

    def read(self, source: Source, max_characters: int, *, answers: bool = True) -> Iterator[Record]:
        """Records with a text or a picture and, as answers, labels."""
        return self.reader.read(source, max_characters, answers=answers)

    def record(self, given: Any, place: tuple[str, int], max_characters: int) -> Record:
        """A text, or a picture in any form of `load_picture`, as a record; or a dict that has it where files have it, and perhaps an `id`."""
        if isinstance(given, Item):
            given = {"id": given.id, self.reader.name: given.content}
        record = Record(dict(given) if isinstance(given, dict) else {self.reader.name: given}, *place)
        self.reader.check_input(record)
        if self.reader.input == TEXT:
            return checked(record, (self.reader.name,), max_characters)
        record.fields[IMAGE] = load_picture(record.fields[IMAGE], record.place, self.side)
        return record

    def held_together(self, record: Record) -> str:
        """The text, or the name of the picture, which may come several times."""
        name: str = record.fields[self.reader.name]
        return name

    def asks_for(self, record: Record) -> Sequence[str]:
        """The labels."""
        return self.reader.labels(record)

    def input_of(self, record: Record) -> Item:
        """The text, or the picture with its pixels, and the field `id` of the record."""
        content = record.fields[self.reader.name]
        if self.reader.input == IMAGE:
            content = load_picture(content, record.place, self.side)
        return Item(content, record.fields.get("id"))

    def characters(self, record: Record) -> int:
        """Of the text; a picture has none."""
        return len(record.fields[self.reader.name]) if self.reader.input == TEXT else 0

    def sizes(self, examples: int) -> dict[str, Any]:
        """The encoder by the number of examples; of pictures the patch by their size, so that some tens of them tile one.

        Few pictures are moved about in training; of many it is left out, for it blurs what tells them apart.
        """
        sizes = encoder_sizes(examples)
        if self.reader.input == TEXT:
            return sizes
        del sizes["vocabulary"]
        patch = usual_patch(self.reader.sides, SIDE)
        heads = sizes["dim"] // 32
        return {
            **sizes,
            "heads": heads,
            "side": SIDE,
            "patch": patch,
            "warp": 1.0 if examples < 5_000 else 0.0,
        }

    def learn(self, records: Iterable[Record], recipe: Recipe) -> None:
        """The names of the labels, and of texts the vocabulary."""
        found, counts = set[str](), WordCounts()
        files: dict[str, None] = {}
        self.side, self.patch = recipe.side or SIDE, recipe.patch or 8

        def texts() -> Iterator[str]:
            for record in records:
                files[record.file] = None
                found.update(self.reader.labels(record))
                counts.add(characters(record.fields[self.reader.name]) if self.reader.input == TEXT else ())
                yield record.fields[self.reader.name]

        if self.reader.input == TEXT:
            self.counts = counts
            self.tokenizer = learn_tokenizer(texts(), recipe)
        else:
            for _ in texts():
                pass
        check_classes(found, bool(self.reader.several), ",".join(files))
        self.labels = tuple(sorted(found))

    def encode(self, records: Iterable[Record]) -> Iterator[tuple[Any, ...]]:
        """Numbers of the labels, and pieces, or rows and columns and patches."""
        numbers = {label: number for number, label in enumerate(self.labels)}
        for record in records:
            labels = label_numbers(self.reader.labels(record), numbers, record.place)
            yield labels, *self._tokens(self.input_of(record).content)

    def readings(self, records: Iterable[Record]) -> Iterator[Sequence[int]]:
        """The pieces of every text."""
        return (self.tokenizer.encode(record.fields[self.reader.name]) for record in records)

    def model(self, recipe: Recipe) -> nn.Module:
        """A new classifier of the recipe's size."""
        dropout = recipe.dropout or 0.0
        if self.reader.input == TEXT:
            encoder: nn.Module = make_encoder(recipe, self.tokenizer)
        else:
            sizes = (recipe.dim or 128, recipe.heads or 4, recipe.hidden or 256, recipe.encoder_layers or 4)
            moves: dict[str, Any] = {"warp": recipe.warp or 0.0, "flip": recipe.flip, "tint": recipe.tint}
            encoder = PatchEncoder(self.patch, *sizes, dropout=dropout, **moves)
        vocabulary = len(self.tokenizer) if self.reader.input == TEXT and recipe.ngrams else None
        heads = upper_sizes(recipe, encoder)["heads"]
        return Classifier(encoder, heads, len(self.labels), dropout, vocabulary)

    def loss(self, model: Classifier, batch: dict[str, Packed], smoothing: float) -> Tensor:
        """Cross-entropy of the labels, summed over examples; of several labels the sum of their binary ones; in training that of every opinion."""
        given, labels = self._given(batch), batch["labels"]
        opinions = model.opinions(*given) if model.training else [model(*given)]
        if not self.reader.several:
            losses = [
                F.cross_entropy(scores, labels.values, label_smoothing=smoothing, reduction="sum")
                for scores in opinions
            ]
            chances = [F.log_softmax(scores, -1) for scores in opinions]
        else:
            targets = _targets(labels, len(self.labels)) * (1 - smoothing) + smoothing / 2
            losses = [
                F.binary_cross_entropy_with_logits(scores, targets, reduction="sum") for scores in opinions
            ]
            chances = [F.logsigmoid(sign * scores) for scores in opinions for sign in (1, -1)]
        loss, consistency = torch.stack(losses).sum(), asked()
        return loss if consistency is None else consistency.of_chances(loss, *chances)

    def counted(self, batch: dict[str, Packed]) -> int:
        """The examples."""
        return len(batch["labels"])

    @torch.no_grad()
    def calibrate(self, model: Classifier, records: Sequence[Record], examples: Encoded) -> None:
        """Fit the temperatures, and of several labels the threshold, to dev records."""
        examples = examples[:: max(1, -(-len(examples) // CALIBRATED))]
        several = bool(self.reader.several)
        opinions = self._all_opinions(model, [tokens for _, *tokens in examples])
        targets = np.zeros(opinions.shape[1:])
        for row, (labels, *_) in zip(targets, examples, strict=True):
            row[list(labels)] = 1.0
        temperatures = fit_temperatures(opinions, targets, several)
        model.temperatures.copy_(torch.from_numpy(temperatures))
        if several:
            chances = probabilities(np.tensordot(1 / temperatures, opinions, 1), True)
            model.threshold.fill_(fit_threshold(chances, targets))

    @torch.no_grad()
    def predict(
        self, model: Classifier, inputs: Sequence[Item], *, attention: bool = False
    ) -> list[Classification]:
        """Classify texts or pictures; each result is the same, up to rounding by some 1e-6, whatever others stand beside it.

        Arguments:
            model: in evaluation mode.
            inputs: the texts, or the pictures.
            attention: look at every input, one after the other, and give what counted with the result.
        """
        several = bool(self.reader.several)
        encoded = [self._tokens(item.content) for item in inputs]
        factors = 1 / model.temperatures.double().numpy()
        chances = probabilities(np.tensordot(factors, self._all_opinions(model, encoded), 1), several)
        results = []
        for item, tokens, row in zip(inputs, encoded, chances, strict=True):
            chosen = np.flatnonzero(row >= float(model.threshold)) if several else [row.argmax()]
            names = tuple(self.labels[number] for number in sorted(chosen, key=lambda number: -row[number]))
            by_name = dict(zip(self.labels, map(float, row), strict=True))
            seen = self._attention(model, item.content, tokens) if attention else None
            results.append(Classification(item.content, names, by_name, several, item.id, seen))
        return results

    def score(
        self,
        predictions: Sequence[Classification],
        records: Sequence[Record],
        *,
        labels: Sequence[str] | None = None,
        each: bool = False,
    ) -> list[Score]:
        """Accuracy, macro-F1 over the labels that occur, and the calibration error of the probabilities (less is better).

        With `each` follows what is right of every label. `labels` are all that may occur, by default those of the model.
        """
        # Without labels the predictions came from a file.
        known = labels or getattr(self, "labels", None) or self.comparable([predictions])["labels"]
        expected = [self.reader.labels(record) for record in records]
        return class_scores(predictions, expected, [record.place for record in records], known, each)

    def comparable(self, systems: Sequence[Sequence[Classification]]) -> dict[str, Any]:
        """All labels of several models: scored over them, the models can be compared."""
        return {
            "labels": sorted({label for found in systems for one in found for label in one.probabilities})
        }

    def example_scores(
        self, predictions: Sequence[Classification], records: Sequence[Record], **_options: Any
    ) -> list[float]:
        """100 where all labels of an example are right and no other is given, else 0."""
        expected = [set(self.reader.labels(record)) for record in records]
        return [100.0 * (set(one.labels) == gold) for one, gold in zip(predictions, expected, strict=True)]

    @property
    def groups(self) -> dict[str, Group]:
        """The number of words of a text and how well they are known, or the longer side of a picture."""
        if self.reader.input == IMAGE:
            return {
                "length": Group(
                    "pixels of the picture's longer side",
                    lambda record: max(picture_size(record.fields[IMAGE], record.place)),
                )
            }
        return {
            "length": Group(
                "words of the text; characters of Chinese and Japanese",
                lambda record: len(characters(record.fields[self.reader.name])),
            ),
            "frequency": frequency_group(
                "the rarest word of the text",
                lambda record: self.rarest(characters(record.fields[self.reader.name])),
            ),
        }

    def restored(self, entry: Record, record: Record) -> Classification:
        """A classification from what its `as_json` gave."""
        name = IMAGE if self.reader.input == IMAGE else "text"
        given = record.fields[self.reader.name]
        return restored_classification(entry, record, name, given, bool(self.reader.several))

    def save(self, folder: Path) -> None:
        """Write `classes.json`, and of texts `tokenizer.json` and, after `learn`, `words.json`."""
        facts = {"labels": self.labels, "side": self.side, "patch": self.patch, **self.reader.known()}
        (folder / LEARNED).write_text(json.dumps(facts, ensure_ascii=False, indent=1), encoding="utf-8")
        if self.reader.input == TEXT:
            self.tokenizer.save(folder / "tokenizer.json")
            self.save_counts(folder)

    def load(self, folder: Path) -> None:
        """Read what `save` wrote; `words.json` is read when it is asked for."""
        self.expect_counts(folder)
        path = folder / LEARNED
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            self.labels = tuple(map(str, facts.pop("labels")))
            self.side, self.patch = int(facts.pop("side")), int(facts.pop("patch"))
            self.reader = LabelReader(**facts)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{path} is missing or damaged ({error}). Expected: the labels of the run. Received: nothing that can be "
                "read. To mend it: copy the run folder again, or train again."
            ) from error
        if self.reader.input == TEXT:
            self.tokenizer = load_tokenizer(folder)

    def facts(self) -> dict[str, Any]:
        """What is classified, the labels, and of texts the size of the vocabulary."""
        facts: dict[str, Any] = {"input": self.reader.input, "labels": list(self.labels)}
        return facts | (
            {"vocabulary": len(self.tokenizer)} if self.reader.input == TEXT else {"patch": self.patch}
        )

    def _tokens(self, given: Any) -> tuple[Any, ...]:
        if not isinstance(given, Picture):
            return (self.tokenizer.encode(given),)
        patches, size = cut_patches(given.pixels, self.patch)
        return size, patches

    def _given(self, batch: dict[str, Packed]) -> tuple[Any, ...]:
        if self.reader.input == TEXT:
            return (batch["text"],)
        return batch["patches"], batch["size"].values.view(-1, 2).numpy()

    def _all_opinions(self, model: Classifier, encoded: Sequence[Sequence[Any]]) -> NDArray[np.float64]:
        """What every part of the model says, (parts, N, labels), computed in batches of examples of like length."""
        opinions = np.zeros((len(model.temperatures), len(encoded), len(self.labels)))
        order = sorted(range(len(encoded)), key=lambda number: len(encoded[number][-1]))
        lengths = np.array([len(encoded[number][-1]) for number in order], dtype=np.int64)
        for numbers in _split(order, np.cumsum(lengths)):
            batch = pack_streams([tuple(encoded[number]) for number in numbers], self.streams[1:])
            found = model.opinions(*self._given(batch))
            opinions[:, numbers] = torch.stack(found).double().numpy()
        return opinions

    def _attention(self, model: Classifier, given: Any, tokens: Sequence[Any]) -> Any:
        with watch(model.pool) as seen:
            model(*self._given(pack_streams([tuple(tokens)], self.streams[1:])))
        weights_HS = seen[0][0].float().numpy()
        if isinstance(given, Picture):
            return seen_patches(weights_HS, given.pixels, tokens[0], self.patch)
        return seen_words(weights_HS, self.tokenizer, given)


def _split(order: list[int], ends: NDArray[np.int64]) -> Iterator[list[int]]:
    """Numbers in runs of about so many tokens."""
    cuts = np.flatnonzero(np.diff(ends // TOGETHER)) + 1
    return (part.tolist() for part in np.split(np.array(order, dtype=np.int64), cuts) if len(part))


def _targets(labels: Packed, count: int) -> Tensor:
    """(N, labels), 1 for each label that an example has."""
    targets = torch.zeros(len(labels), count)
    targets[torch.from_numpy(np.repeat(np.arange(len(labels)), labels.lengths)), labels.values] = 1.0
    return targets
