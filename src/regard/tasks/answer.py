"""Question answering: a question and a passage to the span of the passage that answers it, or to no answer.

A passage is cut into windows. Windows and questions are encoded once each; every question then reads every window. An example
is a passage with some of its questions, so that what they share is computed once.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from regard._errors import CheckpointError, ConfigError
from regard._packed import Packed
from regard.data.frequency import WordCounts
from regard.data.lines import data_error, kind, shorten
from regard.data.matches import PARTS, SPELLINGS, Matcher, Text, units_of
from regard.data.packing import Encoded, pack_streams
from regard.data.passages import best_window, covering_pieces, window_starts
from regard.data.permutation import derived
from regard.data.questions import question_record, read_passages, read_questions
from regard.data.records import Record, Source
from regard.data.tokenizer import Tokenizer
from regard.metrics.answers import best_threshold
from regard.metrics.buckets import Group
from regard.metrics.measurement import by_example
from regard.metrics.translation import Score
from regard.metrics.words import characters
from regard.nn.reader import PassageReader, span_loss
from regard.nn.watch import watch
from regard.tasks._answering import answers_of, check_options
from regard.tasks._clozes import Cloze, clozes
from regard.tasks._counting import CountsWords, frequency_group
from regard.tasks._encoder import learn_tokenizer, load_tokenizer, make_encoder, upper_sizes
from regard.tasks._examples import Example, Window, firsts, outcomes, read, remarks_on, rows_of
from regard.tasks._reading import DISTANCES, Answer, Question, answer_distance, looked, restored_answer
from regard.tasks._scripts import scores_of, way_to_cut
from regard.training.fine_tuning import refuse_beside
from regard.training.loop import parts_of
from regard.training.options import BEGUN, TEXTS
from regard.training.presets import core_minutes, reader_sizes
from regard.training.recipe import Recipe

READING = "reading.json"
WINDOW = 320  # pieces
TOGETHER = 8  # questions of one example
PREDICTED = 16_384  # pieces of readings predicted at once
TURNS = 2  # examples of questions that are made of one passage
CALIBRATED = 2000  # dev questions by which abstaining is calibrated


class AnswerQuestions(CountsWords):
    """The task, as `regard.training` knows it."""

    name = "answer"
    rehearses = "answers questions made of the passages, in"
    streams = ("golds", "lengths", "readings", "spellings", "texts", "codes")
    options = ("attention", "no_answer", "candidates")
    score_options = ("language",)
    recipe_options = (
        *(name for name in TEXTS if name != "lowercase"),  # pieces are in lower case always
        *(*BEGUN, "decoder_layers", "r_drop", "unspaced", "window", "stride", "longest_answer", "matches"),
    )
    tokenizer: Tokenizer
    matcher: Matcher
    unspaced: str
    window: Window
    abstains: bool
    minutes: float | None = None

    def configure(self, recipe: Recipe) -> None:
        """How long training may compute; refuses sizes that do not go together. The fields have fixed names."""
        refuse_beside(recipe)
        most = (recipe.window or WINDOW) // 2
        if recipe.longest_answer is not None and recipe.longest_answer > most:
            raise ConfigError(
                f"windows must overlap by the longest answer. Expected: longest_answer at most {most}, half the window, or a larger "
                f"window. Received: {recipe.longest_answer}."
            )
        self.minutes = core_minutes(recipe)

    def read(self, source: Source, max_characters: int, *, answers: bool = True) -> Iterator[Record]:
        """Questions with their passages and, as answers, spans; several files with commas between them are read in turn."""
        return read_questions(source, max_characters, answers=answers)

    def unlabelled(self, source: Source, max_characters: int) -> Iterator[Record]:
        """Passages without questions."""
        return read_passages(source, max_characters)

    def record(self, given: Any, place: tuple[str, int], max_characters: int) -> Record:
        """A pair of question and passage, or both by their names, as a record."""
        record = Record({}, *place)
        if isinstance(given, Question):
            given = {"question": given.text, "context": given.passage, "id": given.id}
        if isinstance(given, tuple) and len(given) == 2:
            given = {"question": given[0], "context": given[1]}
        if not isinstance(given, dict):
            raise data_error(
                record.place,
                "a question without a passage",
                expected='("question", "passage"), or {"question": "...", "context": "..."}; on a command line --passage FILE',
                received=f"{kind(given)}, {shorten(given)}",
                mend="give the passage too",
            )
        return question_record(replace(record, fields=dict(given)), max_characters, answers=False)

    def with_passage(self, question: str, passage: str) -> tuple[str, str]:
        """What `record` takes for a question about a passage."""
        return question, passage

    def held_together(self, record: Record) -> str:
        """The passage, which whoever has learned its other questions knows."""
        return str(record.fields["context"])

    def input_of(self, record: Record) -> Question:
        """The question with its passage."""
        return Question(record.fields["question"], record.fields["context"], record.fields.get("id"))

    def characters(self, record: Record) -> int:
        """Of question and passage."""
        return len(record.fields["question"]) + len(record.fields["context"])

    def sizes(self, examples: int) -> dict[str, Any]:
        """Model, vocabulary and windows by the number of questions."""
        return {**reader_sizes(examples, self.minutes), "window": WINDOW, "stride": WINDOW // 2}

    def learn(self, records: Iterable[Record], recipe: Recipe) -> None:
        """Train the vocabulary, count words, and see how long answers are, and whether there always is one."""
        asked, passages, answers = [], dict[str, list[tuple[int, int]]](), []
        for record in records:
            asked.append(record.fields["question"])
            spans = passages.setdefault(record.fields["context"], [])
            found = record.fields["answers"]
            spans += [(one["start"], one["start"] + len(one["text"])) for one in found]
            answers.append(bool(found))
        texts = [*passages, *asked]
        self.unspaced = recipe.unspaced or way_to_cut(list(passages))
        # Case comes back by the spellings: names are seen in more forms than one.
        self.tokenizer = learn_tokenizer(texts, recipe, lowercase=True, unspaced=self.unspaced)
        self.counts = WordCounts()
        for text in texts:
            self.counts.add(characters(text))
        self.matcher = Matcher(Matcher.frequencies(map(units_of, texts)), recipe.matches)
        lengths = []
        for passage, answered in passages.items():
            pieces = self.tokenizer.spans(passage)
            bounds = (covering_pieces(pieces, *span) for span in answered)
            lengths += [last - first + 1 for first, last in bounds]
        size = recipe.window or WINDOW
        self.window = Window.fitting(lengths, size, recipe.stride or size // 2, recipe.longest_answer)
        self.remarks = remarks_on(len(asked), len(passages), lengths, self.window.longest)
        self.abstains = not all(answers)

    def encode(self, records: Iterable[Record]) -> Iterator[tuple[Sequence[int], ...]]:
        """The streams of every passage with some of its questions; questions about it stand one after another."""
        return self._trained(records)

    def check_learnable(self, record: Record) -> Record:
        """A question that has an answer, where every question of the run begun with had one; else DataError."""
        if not self.abstains and not record.fields["answers"]:
            raise data_error(
                record.place,
                "the run that training begins with always answers",
                expected="an answer to every question",
                received="'answers': []",
                mend="take such questions out, or train without --begin",
            )
        return record

    def _trained(self, records: Iterable[Record], whole: bool = False) -> Iterator[tuple[Sequence[int], ...]]:
        """What `encode` gives; questions read some windows of their passage, or the `whole` of it."""
        for passage, several in itertools.groupby(records, key=lambda record: record.fields["context"]):
            text = Text(passage, self.tokenizer)
            numbered = enumerate(several)
            while part := list(itertools.islice(numbered, TOGETHER)):
                example = self._example(text)
                for number, record in part:
                    question = Text(record.fields["question"], self.tokenizer)
                    example.add_trained(question, record.fields["answers"], number, whole)
                yield example.streams()

    def rehearsals(self, records: Iterable[Record]) -> Iterator[tuple[Sequence[int], ...]]:
        """Every passage, in two examples, with questions that `clozes` makes of it, or with its own where none can be made."""
        seen = set[int]()
        for passage, several in itertools.groupby(records, key=lambda record: record.fields["context"]):
            if (mark := hash(passage)) in seen:
                continue
            seen.add(mark)
            text, asked = Text(passage, self.tokenizer), list(several)
            own = [
                Cloze(one.fields["question"], found) for one in asked if (found := one.fields.get("answers"))
            ]
            for turn in range(TURNS):
                made = list(clozes(passage, self.matcher.levels, TOGETHER, derived(len(seen), turn)))
                example = self._example(text)
                for number, one in enumerate(made or own[:TOGETHER]):
                    example.add_trained(Text(one.question, self.tokenizer), one.answers, number)
                if example.questions:
                    yield example.streams()

    def model(self, recipe: Recipe) -> nn.Module:
        """An encoder with the blocks in which questions and passages meet; of a pretrained one its own highest layers are these."""
        layers = recipe.decoder_layers or 3
        encoder = make_encoder(recipe, self.tokenizer, layers)
        return PassageReader(
            encoder,
            spellings=SPELLINGS,
            parts=PARTS,
            layers=layers,
            longest=self.window.longest,
            dropout=recipe.dropout or 0.0,
            abstains=self.abstains,
            kind=recipe.encoder,
            **upper_sizes(recipe, encoder),
        )

    def loss(self, model: PassageReader, batch: dict[str, Packed], smoothing: float) -> Tensor:
        """Cross-entropy of the spans of a question's readings, summed over questions; all its golds count as one."""
        scores, asked = read(model, batch)
        golds = self._golds(batch)
        rows = scores.offsets[golds[:, 0]] + golds[:, 1]
        return span_loss(scores, asked, golds[:, [0, 2]], smoothing, row=rows)

    def counted(self, batch: dict[str, Packed]) -> int:
        """Questions with a gold; in dev data, those without an answer have none for a model that always answers."""
        readings = rows_of(batch["readings"], 2)[:, 0]
        golds = rows_of(batch["golds"], 3)[:, 0]
        of_gold = np.repeat(np.arange(len(batch["golds"])), batch["golds"].lengths // 3)
        return len(set(zip(of_gold, readings[golds + firsts(batch["readings"], 2)[of_gold]], strict=True)))

    @torch.no_grad()
    def calibrate(self, model: PassageReader, records: Sequence[Record], examples: Encoded) -> None:
        """Choose how probable it must be that there is no answer, where dev records have questions of both kinds."""
        if model.threshold is None:
            return
        whole = list(self._trained(records[:CALIBRATED], whole=True))  # as `predict` reads them
        batches = (pack_streams(part, self.streams) for part in parts_of(whole, 2 * PREDICTED))
        found = [one for batch in batches for one in outcomes(*read(model, batch), self._golds(batch))]
        shares, answerable, silences = zip(*found, strict=True) if found else ((), (), ())
        model.threshold.fill_(-1.0)
        if 0 < sum(answerable) < len(found):
            model.threshold.fill_(best_threshold(shares, ["found"] * len(found), answerable, silences)[1])

    @torch.no_grad()
    def predict(
        self,
        model: PassageReader,
        inputs: Sequence[Question],
        *,
        attention: bool = False,
        no_answer: float | None = None,
        candidates: int = 1,
    ) -> list[Answer]:
        """The most probable span for every question; the same, up to rounding by some 1e-6, whatever others stand beside it.

        Arguments:
            model: in evaluation mode.
            inputs: questions with their passages; a passage that several consecutive ones share is encoded once.
            attention: look at every question, one after the other, and give the weights with it.
            no_answer: how probable it must be that there is no answer before none is given; by default what dev data chose, or
                else more so than any span.
            candidates: how many of the most probable spans come with each answer.
        """
        check_options(model, no_answer, candidates)
        if no_answer is None and model.threshold is not None and model.threshold >= 0:
            no_answer = float(model.threshold)
        results: list[Answer] = []
        for batch in self._examples(inputs):
            found = read(model, pack_streams([one.streams() for one in batch], self.streams))
            results += answers_of(batch, *found, no_answer, candidates)
        results = [replace(one, id=given.id) for one, given in zip(results, inputs, strict=True)]
        if attention:
            return [self._looked(model, *pair) for pair in zip(results, inputs, strict=True)]
        return results

    def score(
        self, predictions: Sequence[Answer], records: Sequence[Record], *, language: str | None = None
    ) -> list[Score]:
        """F1 and exact match, against the best of a question's answers: of words, or of characters in Chinese and Japanese."""
        scores = scores_of([one.text for one in predictions], records, language)
        answered = [bool(record.fields["answers"]) for record in records]
        # Without a model the predictions came from a file.
        if all(answered) or not getattr(self, "abstains", False):
            return [scores.f1, scores.exact]
        # What a threshold could reach is a figure for choosing one on dev data, with `no_answer`.
        texts = [one.candidates[0].text if one.candidates else one.text for one in predictions]
        shares = scores_of(texts, records, language).f1.statistics[:, 0]
        best, threshold = best_threshold(shares, texts, answered, [one.no_answer for one in predictions])
        note = f"{scores.f1.signature}; best {best:.1f} at no_answer {threshold:.3f}"
        return [replace(scores.f1, signature=note), scores.exact]

    def example_scores(
        self, predictions: Sequence[Answer], records: Sequence[Record], *, language: str | None = None
    ) -> list[float]:
        """The F1 of every answer."""
        return by_example(scores_of([one.text for one in predictions], records, language).f1)

    @property
    def groups(self) -> dict[str, Group]:
        """The words of a passage, how well those of the question are known, and how far from the answer one of them is."""
        return {
            "length": Group(
                "words of the passage; characters of Chinese and Japanese",
                lambda record: len(characters(record.fields["context"])),
            ),
            "frequency": frequency_group(
                "the rarest word of the question",
                lambda record: self.rarest(characters(record.fields["question"])),
            ),
            "distance": Group(
                "words from the answer to the nearest word that the question has too; 0: there is no answer",
                answer_distance,
                DISTANCES,
            ),
        }

    def restored(self, entry: Record, record: Record) -> Answer:
        """An answer from what its `as_json` gave."""
        return restored_answer(entry, record)

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json`, `reading.json` and, after `learn`, `words.json`."""
        self.save_counts(folder)
        self.tokenizer.save(folder / "tokenizer.json")
        facts = {**self._facts(), "levels": self.matcher.levels}
        (folder / READING).write_text(json.dumps(facts, ensure_ascii=False), encoding="utf8")

    def load(self, folder: Path) -> None:
        """Read `tokenizer.json` and `reading.json`; `words.json` is read when it is asked for."""
        self.expect_counts(folder)
        self.tokenizer = load_tokenizer(folder)
        try:
            facts = json.loads((folder / READING).read_text(encoding="utf8"))
            levels = {str(unit): int(level) for unit, level in facts["levels"].items()}
            self.matcher = Matcher(levels, bool(facts.get("matches", True)))
            self.window = Window(*(int(facts[name]) for name in ("window", "stride", "longest")))
            self.unspaced, self.abstains = str(facts["unspaced"]), bool(facts["abstains"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{folder / READING}: how passages are read cannot be read. Expected: the file that regard train wrote. Received: "
                f"{type(error).__name__}, {error}. To mend it: copy the run folder again, or train again."
            ) from error

    def facts(self) -> dict[str, Any]:
        """The size of the vocabulary, how text is cut, and how long an answer may be."""
        return {"vocabulary": len(self.tokenizer), **self._facts()}

    def _facts(self) -> dict[str, Any]:
        window = {"window": self.window.size, "stride": self.window.stride, "longest": self.window.longest}
        switches = {"abstains": self.abstains, "matches": self.matcher.compares}
        return {"unspaced": self.unspaced, **window, **switches}

    def _golds(self, batch: dict[str, Packed]) -> np.ndarray:
        """(G, 3): the golds of a batch, with their readings' numbers in it."""
        golds = rows_of(batch["golds"], 3)
        golds[:, 0] += np.repeat(firsts(batch["readings"], 2), batch["golds"].lengths // 3)
        return golds

    def _example(self, passage: Text) -> Example:
        return Example(passage, self.matcher, self.window, self.tokenizer.eos, self.abstains)

    def _examples(self, inputs: Sequence[Question]) -> Iterator[list[Example]]:
        """Batches of examples that hold the questions in their order."""
        batch: list[Example] = []
        for passage, several in itertools.groupby(inputs, key=lambda one: one.passage):
            text = Text(passage, self.tokenizer)
            for question in several:
                if not batch or batch[-1].passage.text != passage or len(batch[-1].questions) == TOGETHER:
                    batch.append(self._example(text))
                batch[-1].add(Text(question.text, self.tokenizer))
                if sum(len(one.codes) for one in batch) >= PREDICTED:
                    yield batch
                    batch = []
        if batch:
            yield batch

    def _looked(self, model: PassageReader, answer: Answer, given: Question) -> Answer:
        """The same with what the question looked at, in the window that holds the answer best; with the kernel that always runs."""
        passage, question = Text(given.passage, self.tokenizer), Text(given.text, self.tokenizer)
        starts = window_starts(len(passage.ids), self.window.size, self.window.stride)
        here = (
            (0, 0) if answer.start is None else covering_pieces(passage.spans, answer.start, answer.end or 0)
        )
        number = best_window(starts, self.window.size, *here)
        example = self._example(passage)
        example.add(question, [number])
        with watch(*model.meeting_places) as seen:
            read(model, pack_streams([example.streams()], self.streams))
        weights = torch.stack(seen).float().numpy()
        if model.meeting is None:  # passages are then seen beside the question itself
            weights = weights[..., len(question.ids) + 1 :]
        size = min(self.window.size, len(passage.ids))
        return replace(answer, attention=looked(weights, question, passage, starts[number], size))
