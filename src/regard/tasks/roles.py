"""Semantic roles: for each predicate of a sentence, who did what to whom, as spans of words.

A sentence becomes the pieces of its words, where each word begins, what its spelling tells, its predicates, and the tags of
all its predicates one after another. Lower layers run once a sentence, the upper ones once a predicate.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regard._errors import CheckpointError
from regard._packed import Packed
from regard.data.frequency import WordCounts
from regard.data.labels import unknown_label
from regard.data.lexicon import NO_WORDS, Lexicon
from regard.data.lines import data_error
from regard.data.packing import Encoded, pack_ids
from regard.data.records import Record, Source
from regard.data.sentences import Sentence, read_sentences, sentence_of, sentence_record
from regard.data.spelling import COUNT, FEATURES, Spelling
from regard.data.tokenizer import Tokenizer
from regard.metrics.buckets import Group
from regard.metrics.spans import EXCLUDED, PREDICATES
from regard.metrics.translation import Score
from regard.nn.loss import vocabulary_loss
from regard.nn.roles import RoleLabeller
from regard.nn.watch import watch
from regard.tasks._counting import CountsWords, frequency_group
from regard.tasks._encoder import learn_tokenizer, load_tokenizer, make_encoder, upper_sizes
from regard.tasks._labelling import Labelling, Proposition, read_propositions, restored_labelling
from regard.tasks._role_scores import argument_distances, argument_scores, finding_scores, require_predicates
from regard.training.fine_tuning import refuse_beside
from regard.training.options import BEGUN, TEXTS
from regard.training.presets import encoder_decoder_sizes
from regard.training.recipe import Recipe

LABELS = "labels.json"
TOGETHER = 64  # sentences encoded at once, of like length
ROWS = 16384  # words labelled at once, those of a sentence once for each of its predicates
MUCH = 100_000  # sentences
ARGUMENTS = ("f1", "precision", "recall")  # scores with a row for each predicate
UNSEEN = -1  # the tag of a role that no training record has


class Roles(CountsWords):
    """The task, as `regard.training` knows it."""

    name = "roles"
    streams = ("pieces", "starts", "features", "predicates", "tags")
    options = ("attention",)
    score_options = ("each",)
    recipe_options = (*TEXTS, *BEGUN, "decoder_layers", "r_drop")
    tokenizer: Tokenizer
    roles: tuple[str, ...]
    """V first, then the others, the frequent ones first; role r has the tags 1 + 2r (B) and 2 + 2r (I)."""
    lexicon = NO_WORDS
    """Words of Chinese and Japanese that training saw, into which plain text is cut."""

    def configure(self, recipe: Recipe) -> None:
        """Refuse sizes for which a pretrained encoder leaves no room; the fields have fixed names."""
        refuse_beside(recipe)

    def read(self, source: Source, max_characters: int, *, answers: bool = True) -> Iterator[Record]:
        """Sentences with their predicates and, as answers, roles."""
        return read_sentences(source, max_characters, answers=answers, lexicon=self.lexicon)

    def record(self, given: Any, place: tuple[str, int], max_characters: int) -> Record:
        """A sentence as text, as a tuple of words, or as a record with `words` and perhaps `predicates`."""
        if isinstance(given, Sentence):
            given = given.fields()
        elif not isinstance(given, dict):
            given = {"words": list(given) if isinstance(given, tuple) else given}
        return sentence_record(Record(given, *place), max_characters, answers=False, lexicon=self.lexicon)

    def held_together(self, record: Record) -> tuple[str, ...]:
        """The words: the same sentence may come again."""
        return tuple(record.fields["words"])

    def input_of(self, record: Record) -> Sentence:
        """The sentence; predicates that the record does not name are to be found."""
        return sentence_of(record)

    def characters(self, record: Record) -> int:
        """Of the words."""
        return sum(len(word) + 1 for word in record.fields["words"])

    def sizes(self, examples: int) -> dict[str, Any]:
        """Model and vocabulary by the number of sentences; what runs once a predicate, on about five times the words, is one block."""
        sizes = {**encoder_decoder_sizes(examples), "decoder_layers": 1}
        # Tens of epochs fit into the usual budget, and then more dropout pays; a few fit where there is much data.
        return sizes if examples >= MUCH else {**sizes, "dropout": max(0.2, sizes["dropout"])}

    def check_scored(self, records: Sequence[Record]) -> None:
        """Refuse dev data without a predicate, whose arguments cannot be scored."""
        require_predicates(
            records,
            "no sentence of the dev data that training scores has a predicate",
            "mark predicates with their roles, name other data with --dev, or score more of it with --dev-examples",
        )

    def learn(self, records: Iterable[Record], recipe: Recipe) -> None:
        """Train the vocabulary, note which roles and words there are, and count the predicates; DataError where there are no roles."""
        texts, words, counts, self.counts = [], set[str](), Counter[str](), WordCounts()
        file = "the training data"
        for record in records:
            file = record.file
            words.update(record.fields["words"])
            self.counts.add(_predicates(record))
            texts.append(" ".join(record.fields["words"]))
            counts.update(tag[2:] for row in record.fields["roles"] for tag in row if tag != "O")
        del counts[EXCLUDED]
        if not counts:
            raise data_error(
                file,
                "the training data has no roles",
                expected=f"predicates with roles beside {EXCLUDED}",
                received=f"{len(texts):,} sentences without",
                mend="mark predicates, and the words of their arguments by B-ROLE and I-ROLE in 'roles'",
            )
        self.roles = (EXCLUDED, *sorted(counts, key=lambda role: (-counts[role], role)))
        self.lexicon = Lexicon(words)
        self.tokenizer = learn_tokenizer(texts, recipe)

    def encode(self, records: Iterable[Record]) -> Iterator[tuple[Sequence[int], ...]]:
        """The streams of every sentence."""
        numbers = {"O": 0}
        for number, role in enumerate(self.roles):
            numbers |= {f"B-{role}": 1 + 2 * number, f"I-{role}": 2 + 2 * number}
        spell = Spelling(self.tokenizer)
        for record in records:
            tags = [numbers.get(tag, UNSEEN) for row in record.fields["roles"] for tag in row]
            yield *spell(record.fields["words"]), record.fields["predicates"], tags

    def check_learnable(self, record: Record) -> Record:
        """A sentence whose roles the run begun with has; else DataError."""
        for tag in itertools.chain(*record.fields["roles"]):
            if tag != "O" and (role := tag[2:]) not in self.roles:
                raise unknown_label(role, self.roles, record.place, "role")
        return record

    def readings(self, records: Iterable[Record]) -> Iterator[Sequence[int]]:
        """The pieces of every sentence."""
        spell = Spelling(self.tokenizer)
        return (spell(record.fields["words"])[0] for record in records)

    def model(self, recipe: Recipe) -> nn.Module:
        """An encoder with the blocks that run for each predicate; of a pretrained one its own highest layers are these."""
        layers = recipe.decoder_layers or 1
        encoder = make_encoder(recipe, self.tokenizer, layers)
        return RoleLabeller(
            encoder,
            features=FEATURES,
            tags=1 + 2 * len(self.roles),
            layers=layers,
            dropout=recipe.dropout or 0.0,
            kind=recipe.encoder,
            **upper_sizes(recipe, encoder),
        )

    def loss(self, model: RoleLabeller, batch: dict[str, Packed], smoothing: float) -> Tensor:
        """Cross-entropy of the tags, and of whether each word is a predicate, summed over both."""
        words = self._words(model, batch)
        rows = model.rows(words, batch["predicates"]).values
        tags = batch["tags"].values
        if (tags == UNSEEN).any():
            rows, tags = rows[tags != UNSEEN], tags[tags != UNSEEN]
        labelled = vocabulary_loss(rows, model.tags.weight, tags, smoothing)
        return labelled + vocabulary_loss(words.values, model.finder.weight, _marks(batch), 0.0)

    def counted(self, batch: dict[str, Packed]) -> int:
        """Tags of known roles, and words."""
        return int((batch["tags"].values != UNSEEN).sum()) + len(batch["starts"].values)

    def calibrate(self, model: nn.Module, records: Sequence[Record], examples: Encoded) -> None:
        """Nothing: the probabilities of spans are those of the tags, as training leaves them."""

    @torch.no_grad()
    def predict(
        self, model: RoleLabeller, inputs: Sequence[Sentence], *, attention: bool = False
    ) -> list[Labelling]:
        """Label sentences; each result is the same, up to rounding by some 1e-6, whatever others stand beside it.

        Arguments:
            model: in evaluation mode.
            inputs: the sentences; where they have no predicates, those that the model finds are labelled.
            attention: look at every sentence, one after the other, and give the weights with it.
        """
        spell = Spelling(self.tokenizer)
        results: dict[int, Labelling] = {}
        order = sorted(range(len(inputs)), key=lambda number: len(inputs[number].words))
        for start in range(0, len(order), TOGETHER):
            numbers = order[start : start + TOGETHER]
            found = self._label(model, [inputs[number] for number in numbers], spell)
            results |= zip(numbers, found, strict=True)
        labelled = [results[number] for number in range(len(inputs))]
        return [self._looked(model, one, spell) for one in labelled] if attention else labelled

    def score(
        self, predictions: Sequence[Labelling], records: Sequence[Record], *, each: bool = False
    ) -> list[Score]:
        """F1, precision and recall of arguments, and F1 of the predicates that the model finds by itself, where predictions tell them.

        Gold predicates that a prediction leaves out count all their arguments as missed, as in srl-eval.pl. Roles that
        training never saw are missed too, and named in the signature. With `each`, F1 of every role follows. DataError where there
        is no predicate.
        """
        scores = argument_scores(predictions, records)
        gold = {tag[2:] for record in records for row in record.fields["roles"] for tag in row if tag != "O"}
        # Without roles the predictions came from a file.
        unseen = sorted(gold - set(self.roles)) if hasattr(self, "roles") else []
        note = f"; unseen {','.join(unseen)}" if unseen else ""
        if not gold - {EXCLUDED}:
            note = "; there are no arguments to be found"
        main = [
            replace(one, signature=one.signature + note)
            for one in (scores.f1, scores.precision, scores.recall)
        ]
        parts = [
            Score(role, counts.f1, f"correct:{counts.correct}|excess:{counts.excess}|missed:{counts.missed}")
            for role, counts in scores.roles.items()
        ]
        return [*main, *finding_scores(predictions, records), *(parts if each else [])]

    def example_scores(
        self, predictions: Sequence[Labelling], records: Sequence[Record], *, each: bool = False
    ) -> list[float]:
        """F1 of all arguments of every sentence, 100 where there are none and none were found; `each` changes nothing."""
        f1 = argument_scores(predictions, records).f1
        ends = np.cumsum([len(record.fields["predicates"]) for record in records])
        sums = (part.sum(axis=0) for part in np.split(f1.statistics, ends[:-1]))
        return [float(f1.formula(one)) if one.any() else 100.0 for one in sums]

    @property
    def groups(self) -> dict[str, Group]:
        """The words of a sentence, how far the farthest argument is, and how well the predicate is known: one number for each predicate."""
        groups = {
            "length": Group(
                "words of the sentence, once for each predicate",
                lambda record: [len(record.fields["words"])] * len(record.fields["predicates"]),
            ),
            "distance": Group(
                "words from the predicate to its farthest argument, of predicates that have one",
                argument_distances,
            ),
            "frequency": frequency_group(
                "the word as a predicate",
                lambda record: [self.rarest([word]) for word in _predicates(record)],
            ),
        }
        # The score of the predicates found has a row for each sentence.
        return {name: replace(group, scores=ARGUMENTS, rows=PREDICATES) for name, group in groups.items()}

    def restored(self, entry: Record, record: Record) -> Labelling:
        """A labelling from what its `as_json` gave."""
        return restored_labelling(entry, record)

    def columns(self, labelling: Labelling) -> str:
        """A sentence in the columns of CoNLL."""
        return labelling.as_columns()

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json`, `labels.json` and, after `learn`, `words.json`."""
        self.tokenizer.save(folder / "tokenizer.json")
        labels = {"roles": self.roles, "words": self.lexicon.words}
        (folder / LABELS).write_text(json.dumps(labels, ensure_ascii=False), encoding="utf8")
        self.save_counts(folder)

    def load(self, folder: Path) -> None:
        """Read `tokenizer.json` and `labels.json`; `words.json` is read when it is asked for."""
        self.tokenizer = load_tokenizer(folder)
        self.expect_counts(folder)
        try:
            labels = json.loads((folder / LABELS).read_text(encoding="utf8"))
            self.roles = tuple(map(str, labels["roles"]))
            self.lexicon = Lexicon(labels.get("words", ()))  # older runs name none
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{folder / LABELS}: the roles cannot be read. Expected: the file that regard train wrote. Received: "
                f"{type(error).__name__}, {error}. To mend it: copy the run folder again, or train again."
            ) from error

    def facts(self) -> dict[str, Any]:
        """The size of the vocabulary and the roles."""
        return {"vocabulary": len(self.tokenizer), "roles": list(self.roles)}

    def _words(self, model: RoleLabeller, batch: dict[str, Packed]) -> Packed:
        return model(batch["pieces"], batch["starts"], batch["features"].values.view(-1, COUNT))

    def _label(self, model: RoleLabeller, sentences: Sequence[Sentence], spell: Spelling) -> list[Labelling]:
        streams = zip(*(spell(one.words) for one in sentences), strict=True)
        words = self._words(model, dict(zip(self.streams, map(pack_ids, streams), strict=False)))
        marks = F.linear(words.values, model.finder.weight).argmax(-1).numpy()
        found = [
            tuple(np.flatnonzero(marks[begin:end]).tolist())
            for begin, end in itertools.pairwise(words.offsets)
        ]
        chosen = [
            one.predicates if one.predicates is not None else seen
            for one, seen in zip(sentences, found, strict=True)
        ]
        propositions: list[Proposition] = []
        for group in _groups(sentences, chosen):
            rows = model.rows(words, pack_ids(group))
            pairs = [(one, place) for one, places in zip(sentences, group, strict=True) for place in places]
            propositions += read_propositions(model.tag_scores(rows).numpy(), rows.offsets, pairs, self.roles)
        following = iter(propositions)
        return [
            Labelling(one, tuple(itertools.islice(following, len(places))), seen)
            for one, places, seen in zip(sentences, chosen, found, strict=True)
        ]

    def _looked(self, model: RoleLabeller, one: Labelling, spell: Spelling) -> Labelling:
        """The same with what its words looked at: one pass, with the kernel that always runs."""
        places = tuple(proposition.predicate for proposition in one.propositions)
        looking, kind = model.meeting_places
        with watch(looking, kind) as seen:
            self._label(model, [replace(one.sentence, predicates=places)], spell)
        length = len(one.sentence.words)
        blocks = len(looking)
        weights_BTHW = (
            torch.stack([torch.cat(seen[block::blocks]) for block in range(blocks)]).float().numpy()
        )
        heads = weights_BTHW.shape[2]
        weights_BQWHW = weights_BTHW.reshape(blocks, len(places), length, heads, length)
        return replace(one, attention=weights_BQWHW.transpose(0, 3, 1, 2, 4))


def _groups(sentences: Sequence[Sentence], chosen: Sequence[tuple[int, ...]]) -> Iterator[list[list[int]]]:
    """The predicates of all sentences in parts of about ROWS rows: a long sentence may have many; at least one part."""
    group: list[list[int]] = [[] for _ in sentences]
    rows = 0
    for number, places in enumerate(chosen):
        for place in places:
            if rows > ROWS:
                yield group
                group, rows = [[] for _ in sentences], 0
            group[number].append(place)
            rows += len(sentences[number].words)
    yield group


def _marks(batch: dict[str, Packed]) -> Tensor:
    """(W,): 1 where a word is a predicate."""
    words, predicates = batch["starts"], batch["predicates"]
    marks = torch.zeros(len(words.values), dtype=torch.int64)
    begins = np.repeat(words.offsets[:-1].astype(np.int64), predicates.lengths)
    marks[predicates.values + torch.from_numpy(begins)] = 1
    return marks


def _predicates(record: Record) -> list[str]:
    return [record.fields["words"][place].lower() for place in record.fields["predicates"]]
