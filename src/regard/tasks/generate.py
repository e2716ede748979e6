"""Writing: a text to what follows it, by a decoder-only language model of characters, bytes or subwords.

An example is a document, long ones in windows that lie elsewhere in every epoch. Where documents are short, a mark stands at both
ends of each; a book or two is just its text. The same model says how well it foresees a text, and which of several would follow.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from regard._errors import ConfigError
from regard._packed import Packed
from regard.data.packing import Encoded, pack_ids
from regard.data.records import Record, Source
from regard.data.store import TokenStore
from regard.data.texts import LAST, passage_record, place_of, prompt_record, read_prompts, read_texts
from regard.data.units import learn_units
from regard.data.windows import Windows
from regard.decoding.continuation import continued, log_probabilities
from regard.metrics.buckets import Group
from regard.metrics.language import bits_per_character, nats_per_character, perplexity
from regard.metrics.translation import Score
from regard.nn.attention import SelfAttention
from regard.nn.language import LanguageModel
from regard.nn.loss import vocabulary_loss
from regard.nn.watch import watch
from regard.tasks._continuation import (
    Continuation,
    Drawing,
    Likelihood,
    Passage,
    Prompt,
    Ranking,
    Sampling,
    Seen,
    behind,
    pieces_of,
    restored_likelihood,
)
from regard.tasks._language import Language
from regard.tasks._scoring import band_count, band_tokens, by_position, likelihoods, read_windows
from regard.training.options import TAUGHT, refuse_options
from regard.training.presets import core_minutes, language_sizes
from regard.training.recipe import Recipe

ROWS = 64  # continuations written at once
MARKED = 10  # documents of up to so many contexts, on average, have marks


class Generate:
    """The task, as `regard.training` knows it."""

    name = "generate"
    streams = ("text",)
    options = ("length", "temperature", "top_k", "top_p", "seed", "stop", "count", "attention", "stride")
    score_options = ()
    recipe_options = (
        *TAUGHT,
        "vocabulary",
        "units",
        "context",
        "documents",
        "text",
        "decoder_layers",
        "r_drop",
    )
    descends = True
    example_score = "mean probability of a character"
    taught: ClassVar[dict[str, Any]] = {"vocabulary": None, "units": "characters", "context": None}
    digits = 3
    field = "text"
    documents = "files"
    spelled = True  # in characters, of which a model writes those that training showed
    minutes: float | None = None  # of one core
    language: Language

    def configure(self, recipe: Recipe) -> None:
        """Which field holds the text, what is a document, what is read, and how long training may compute."""
        if recipe.vocabulary is not None and recipe.units != "subwords":
            why = "only subwords have a vocabulary of a size to choose"
            refuse_options(recipe, ["vocabulary"], why, "units = subwords too")
        self.field, self.documents = recipe.text or "text", recipe.documents
        self.spelled = (recipe.units or "characters") == "characters"
        self.minutes = core_minutes(recipe)

    def read(self, source: Source, max_characters: int, *, answers: bool = True) -> Iterator[Record]:
        """Documents or parts of them; without `answers` prompts."""
        if answers:
            return read_texts(source, max_characters, self.documents, self.field)
        return map(self.language.checked, read_prompts(source, max_characters))

    def record(self, given: Any, place: tuple[str, int], max_characters: int) -> Record:
        """A prompt, by itself or in an object with `candidates`, as a record; or a passage to be scored."""
        if isinstance(given, Passage):
            record = passage_record(given, place, max_characters)
            self.language.ids(given.text, record)
            return record
        if isinstance(given, Prompt):
            given = {"prompt": given.text, **({"candidates": given.candidates} if given.candidates else {})}
        fields = dict(given) if isinstance(given, dict) else {"prompt": given}
        return self.language.checked(prompt_record(Record(fields, *place), max_characters))

    def input_of(self, record: Record) -> Prompt | Passage:
        """What is to be continued or compared; of a document, what is to be scored."""
        fields = record.fields
        if "text" not in fields:
            return Prompt(fields["prompt"], fields["candidates"])
        return Passage(fields["text"], *place_of(record), fields.get(LAST, True))

    def asks_for(self, record: Record) -> set[str]:
        """The characters, where the model learns an alphabet."""
        return set(record.fields["text"]) if self.spelled else set()

    def characters(self, record: Record) -> int:
        """Of the text."""
        return len(record.fields["text"])

    def sizes(self, examples: int) -> dict[str, Any]:
        """Model and windows by the number of parts of documents."""
        return language_sizes(examples, self.minutes)

    def learn(self, records: Iterable[Record], recipe: Recipe) -> None:
        """Learn the alphabet or the pieces, and see whether documents are short; or take what a teacher learned."""
        context = recipe.context or language_sizes(0)["context"]
        if (recipe.tokens or context) < context:
            raise ConfigError(
                f"an update holds at least one window. Expected: --tokens of {context} or more, or a smaller --context. "
                f"Received: {recipe.tokens}."
            )
        if recipe.teacher is not None:
            known = Language.load(Path(recipe.teacher))
            self.language = replace(known, field=self.field, documents=self.documents)
            return
        counts = {"documents": 0, "characters": 0}

        def texts() -> Iterator[str]:
            for record in records:
                counts["documents"] += place_of(record)[1] == 0
                counts["characters"] += len(record.fields["text"])
                yield record.fields["text"]

        units = learn_units(recipe.units or "characters", texts(), recipe.vocabulary)
        marks = counts["characters"] <= MARKED * context * counts["documents"]
        self.language = Language(units, context, marks, self.field, self.documents)

    def encode(self, records: Iterable[Record]) -> Iterator[tuple[list[int], ...]]:
        """The tokens of every document, or of as much of it as comes together."""
        return ((tokens,) for tokens in self.language.texts(records))

    def windows(self, store: TokenStore, recipe: Recipe) -> Windows:
        """The windows that an epoch has."""
        return Windows(store, self.language.context, recipe.seed)

    def model(self, recipe: Recipe) -> nn.Module:
        """A new model of the recipe's size."""
        return LanguageModel(
            len(self.language.units),
            recipe.dim or 128,
            recipe.heads or 4,
            recipe.hidden or 256,
            recipe.decoder_layers or 4,
            context=self.language.context,
            dropout=recipe.dropout or 0.0,
        )

    def loss(self, model: LanguageModel, batch: dict[str, Packed], smoothing: float) -> Tensor:
        """Cross-entropy of every token after those before it, summed; longer texts are cut into windows that do not overlap."""
        total = torch.zeros(())
        for before, after in read_windows(batch["text"], model.context):
            total = total + vocabulary_loss(model(before), model.embedding.weight, after, smoothing)
        return total

    def counted(self, batch: dict[str, Packed]) -> int:
        """The tokens that have one before them."""
        return int(np.maximum(batch["text"].lengths - 1, 0).sum())

    def calibrate(self, model: nn.Module, records: Sequence[Record], examples: Encoded) -> None:
        """Nothing: what the loss measures is the probability itself."""

    @torch.no_grad()
    def predict(
        self,
        model: LanguageModel,
        inputs: Sequence[Prompt | Passage],
        *,
        length: int = Sampling.length,
        temperature: float = Sampling.temperature,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
        stop: str | Sequence[str] = (),
        count: int = 1,
        attention: bool = False,
        stride: int | None = None,
    ) -> list[Any]:
        """Continue prompts, rank their candidates, or score passages; each result is the same, up to rounding by some 1e-6, whatever others stand beside it.

        Arguments:
            model: in evaluation mode.
            inputs: prompts or passages. Parts of one document that follow each other are read as one.
            length: the most tokens to write: characters, bytes or pieces, as the model knows them.
            temperature: below 1 likelier tokens become still likelier; 0 takes the likeliest.
            top_k: draw from so many tokens, the likeliest.
            top_p: draw from the fewest of the likeliest tokens that have this probability together.
            seed: continuation number k of a prompt is a function of the seed and k.
            stop: end where one of these texts would stand.
            count: continuations of each prompt, which is read once for all of them.
            attention: look at every prompt with its first continuation, and give the weights with it.
            stride: of passages, tokens from one window to the next; less than the context gives every token more to see.
        """
        how = Sampling.checked(length, temperature, top_k, top_p, seed, stop)
        if count < 1 or (stride is not None and not 0 < stride <= model.context):
            raise ConfigError(
                f"an option is out of range. Expected: count of 1 or more, stride from 1 to {model.context}. "
                f"Received: count={count}, stride={stride}."
            )
        found: dict[int, Any] = {}
        for one, numbers in _by_kind(inputs):
            some: list[Any] = [inputs[number] for number in numbers]
            if one == "passage":
                how_far = stride or model.context
                results: list[Any] = likelihoods(model, self.language, some, how_far)
            elif one == "candidates":
                results = [self.score_candidates(model, prompt.text, prompt.candidates) for prompt in some]
            else:
                results = self._written(model, some, how, count)
                if attention:
                    results = [replace(result, attention=self._seen(model, result)) for result in results]
            found |= dict(zip(numbers, results, strict=True))
        return [found[number] for number in range(len(inputs))]

    def stream(
        self,
        model: LanguageModel,
        prompt: Prompt,
        *,
        length: int = Sampling.length,
        temperature: float = Sampling.temperature,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
        stop: str | Sequence[str] = (),
    ) -> Iterator[str]:
        """The first continuation of a prompt, in pieces as they are written; arguments as for `predict`."""
        how = Sampling.checked(length, temperature, top_k, top_p, seed, stop)
        begin, units = self.language.begin(prompt.text), self.language.units
        drawing = Drawing(units, [0], how)

        def wholes() -> Iterator[str]:
            for _ in continued(model, [begin], np.zeros(1, np.int64), drawing, how.length):
                yield units.partial([*begin, *drawing.tokens[0]])
            yield units.decode([*begin, *drawing.tokens[0]])

        read = units.decode(begin)
        return pieces_of((behind(prompt.text, read, whole) for whole in wholes()), how.stop)

    def score_candidates(self, model: LanguageModel, prompt: str, candidates: Sequence[str]) -> Ranking:
        """The log-probability of each text after a prompt, which is read once for all of them.

        Raises:
            DataError: a candidate is empty, has unknown characters, or does not fit into the context with the prompt.
        """
        record = Record({"prompt": prompt, "candidates": tuple(candidates)}, "the candidates", 1)
        begin, ids = (
            self.language.begin(prompt),
            [self.language.after(prompt, one, record) for one in candidates],
        )
        found: list[float] = []
        # Candidates are short as a rule; so many together that their tokens stay few.
        for first in range(0, len(ids), ROWS):
            found += log_probabilities(model, begin, ids[first : first + ROWS]).tolist()
        return Ranking(prompt, tuple(candidates), tuple(found))

    def score(
        self, predictions: Sequence[Likelihood], records: Sequence[Record], **options: Any
    ) -> list[Score]:
        """Nats and bits per character, and the perplexity of a token where the units are known; less is better."""
        nats = [one.nats for one in predictions]
        sizes = [one.characters for one in predictions]
        scores: list[Score] = [nats_per_character(nats, sizes), bits_per_character(nats, sizes)]
        units = {one.units for one in predictions}
        # Whoever counts tokens without saying which can be compared with nobody.
        if len(units) > 1 or "" in units:
            return scores
        return [*scores, perplexity(nats, [one.tokens for one in predictions], *units)]

    def example_scores(
        self, predictions: Sequence[Likelihood], records: Sequence[Record], **options: Any
    ) -> list[float]:
        """The mean probability of a character of every text, in percent; more is better."""
        return [100 * float(np.exp(-one.nats / max(1, one.characters))) for one in predictions]

    @property
    def groups(self) -> dict[str, Group]:
        """The characters of a text or part, and how many tokens a prediction could see."""
        found = {
            "length": Group(
                "characters of the text, or of the part of it", lambda record: len(record.fields["text"])
            )
        }
        if hasattr(self, "language"):  # without a model the predictions came from a file
            positions = tuple(2.0**band for band in range(band_count(self.language.context)))
            found["position"] = Group(
                "tokens that a prediction could see, at least", lambda _: positions, positions[1:], by_position,
                rows="tokens", count=band_tokens,
            )  # fmt: skip
        return found

    def restored(self, entry: Record, record: Record) -> Likelihood:
        """A likelihood from what its `as_json` gave."""
        return restored_likelihood(entry, record)

    def save(self, folder: Path) -> None:
        """Write `units.json` and, of subwords, `tokenizer.json`."""
        self.language.save(folder)

    def load(self, folder: Path) -> None:
        """Read what `save` wrote."""
        self.language = Language.load(folder)
        self.field, self.documents = self.language.field, self.language.documents

    def facts(self) -> dict[str, Any]:
        """The units, how many there are, and what is read at once."""
        known = self.language
        return {
            "units": known.units.kind,
            "vocabulary": len(known.units),
            "context": known.context,
            "marks": known.marks,
        }

    def _written(
        self, model: LanguageModel, prompts: Sequence[Prompt], how: Sampling, count: int
    ) -> list[Continuation]:
        """The continuations of each prompt; those of some prompts are written at once."""
        found: list[Continuation] = []
        together = max(1, ROWS // count)
        for first in range(0, len(prompts), together):
            some = prompts[first : first + together]
            begins = [self.language.begin(prompt.text) for prompt in some]
            rows = np.repeat(np.arange(len(some)), count)
            drawing = Drawing(self.language.units, [*range(count)] * len(some), how)
            for _ in continued(model, begins, rows, drawing, how.length):
                pass
            for number, (prompt, begin) in enumerate(zip(some, begins, strict=True)):
                mine = range(number * count, (number + 1) * count)
                texts = [drawing.text(row, prompt.text, begin) for row in mine]
                found.append(Continuation(prompt.text, tuple(texts), tuple(map(drawing.score, mine))))
        return found

    def _seen(self, model: LanguageModel, one: Continuation) -> Seen:
        """One pass over a prompt and its first continuation, or the end of both where they are longer than the context."""
        ids = self.language.begin(one.prompt + one.text)[-model.context :]
        with watch(model, SelfAttention) as seen:
            model(pack_ids([ids]))
        weights_LHTT = torch.stack(seen).transpose(1, 2).float().numpy()
        return Seen(weights_LHTT, tuple(self.language.units.names(ids)))


def _by_kind(inputs: Sequence[Prompt | Passage]) -> Iterator[tuple[str, list[int]]]:
    """The numbers of passages, of prompts with candidates, and of prompts to go on from."""
    kinds = [
        "passage" if isinstance(one, Passage) else "candidates" if one.candidates else "prompt"
        for one in inputs
    ]
    for kind in dict.fromkeys(kinds):
        yield kind, [number for number, other in enumerate(kinds) if other == kind]
