"""What the task `generate` reads and gives: prompts with what follows them, and texts with how well they were foreseen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regard._errors import ConfigError
from regard.data.permutation import derived, uniform
from regard.data.records import Record
from regard.data.units import Units
from regard.decoding.sampling import check_sampling, draw, probabilities
from regard.pictures import AttentionPicture
from regard.tasks._mismatch import mismatch

Array = NDArray[Any]
BETWEEN = "\n---\n"  # several continuations of one prompt
ROW = 1 << 32  # random numbers of one continuation


@dataclass(frozen=True)
class Prompt:
    """A text to go on from, or, with candidates, to compare what might follow it."""

    text: str
    candidates: tuple[str, ...] = ()


@dataclass(frozen=True)
class Passage:
    """A text, or a part of a document, to say how well it is foreseen."""

    text: str
    document: Any = None
    part: int = 0
    last: bool = True


@dataclass(frozen=True)
class Seen:
    """Attention weights (layers, heads, tokens, tokens) over a prompt and what follows, and the names of the tokens."""

    weights: NDArray[np.float32]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Continuation:
    """A prompt and what was written after it, `count` times; `scores` are mean log-probabilities of a token, in nats."""

    prompt: str
    texts: tuple[str, ...]
    scores: tuple[float, ...]
    attention: Seen | None = field(default=None, repr=False, compare=False)

    @property
    def text(self) -> str:
        """The first continuation, without the prompt."""
        return self.texts[0]

    def __str__(self) -> str:
        return BETWEEN.join(self.prompt + text for text in self.texts)

    def as_json(self) -> dict[str, Any]:
        """Prompt, texts and scores."""
        return {
            "prompt": self.prompt,
            "texts": list(self.texts),
            "scores": [round(s, 4) for s in self.scores],
        }

    def picture(self) -> AttentionPicture:
        """Where each token of prompt and first continuation looked; for a continuation with attention."""
        if self.attention is None:
            raise ConfigError(
                "this continuation was made without looking. Expected: attention=True when it is made."
            )
        names, mask = self.attention.names, np.tri(len(self.attention.names), dtype=bool)
        title, name = f"{self.prompt} →", "token"
        return AttentionPicture(
            self.attention.weights, names, names, mask=mask, title=title, query_name=name, key_name=name
        )


@dataclass(frozen=True)
class Ranking:
    """Texts that might follow a prompt, with the log-probability of each, in nats."""

    prompt: str
    candidates: tuple[str, ...]
    log_probabilities: tuple[float, ...]

    @property
    def order(self) -> list[int]:
        """The numbers of the candidates, the likeliest first."""
        return sorted(range(len(self.candidates)), key=lambda number: -self.log_probabilities[number])

    def __str__(self) -> str:
        return "\n".join(f"{self.log_probabilities[n]:9.3f}  {self.candidates[n]}" for n in self.order)

    def as_json(self) -> dict[str, Any]:
        """Prompt, candidates as they were given, and the log-probability of each."""
        rounded = [round(value, 4) for value in self.log_probabilities]
        return {"prompt": self.prompt, "candidates": list(self.candidates), "log_probabilities": rounded}

    def picture(self) -> AttentionPicture:
        """There is none: a candidate is only scored."""
        raise ConfigError("candidates are scored without looking. Expected: --attention without candidates.")


@dataclass(frozen=True)
class Likelihood:
    """How well a text was foreseen: nats, and the tokens and characters that were predicted.

    `bands` has a pair (nats, tokens) for predictions that saw 1, 2 to 3, 4 to 7, ... tokens; `units` tells what tokens are, "" where
    that is not known.
    """

    nats: float
    tokens: int
    characters: int
    bands: tuple[tuple[float, int], ...] = field(default=(), repr=False, compare=False)
    text: str = field(default="", repr=False)
    units: str = field(default="", repr=False)

    def __str__(self) -> str:
        return f"{self.nats / max(1, self.characters):.4f}"

    def as_json(self) -> dict[str, Any]:
        """The text, nats, tokens, characters and, where they are known, units."""
        counts = {"nats": round(self.nats, 6), "tokens": self.tokens, "characters": self.characters}
        return {"text": self.text, **counts, **({"units": self.units} if self.units else {})}

    def picture(self) -> AttentionPicture:
        """There is none: a text is only scored."""
        raise ConfigError("a text is scored without looking. Expected: a prompt to go on from.")


def restored_likelihood(entry: Record, record: Record) -> Likelihood:
    """A likelihood of a record's text from the text, nats, tokens, characters and, where they are there, units."""
    text = record.fields["text"]
    values = [entry.fields.get(name) for name in ("nats", "tokens", "characters")]
    if entry.fields.get("text") != text or not all(isinstance(value, int | float) for value in values):
        expected = "'text', 'nats', 'tokens' and 'characters', the text being that"
        raise mismatch(entry, record, "this is no likelihood of the record", expected, text, entry.fields)
    nats, tokens, characters = values
    units = str(entry.fields.get("units", ""))
    return Likelihood(float(nats), int(tokens), int(characters), (), text, units)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Sampling:
    """How a continuation is drawn; see `Generate.predict`."""

    length: int = 300
    temperature: float = 0.8
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0
    stop: tuple[str, ...] = ()

    @classmethod
    def checked(
        cls,
        length: int,
        temperature: float,
        top_k: int | None,
        top_p: float | None,
        seed: int,
        stop: str | Sequence[str],
    ) -> Sampling:
        """The options of a call; ConfigError where one is out of its range."""
        stops = (stop,) if isinstance(stop, str) else tuple(stop)
        if length < 1 or "" in stops:
            raise ConfigError(
                "an option is out of range. Expected: length of 1 or more, and a stop that is no empty text. Received: "
                f"length={length}, stop={stop!r}."
            )
        check_sampling(temperature, top_k, top_p)
        return cls(length, temperature, top_k, top_p, seed, stops)


class Drawing:
    """The tokens of rows as they are drawn, each a function of (seed, number among its prompt's, step) and of what stands before it."""

    def __init__(self, units: Units, numbers: Sequence[int], sampling: Sampling) -> None:
        self.units, self.sampling = units, sampling
        self.numbers = np.asarray(numbers, np.int64)
        self.key = derived(sampling.seed)
        self.tokens: list[list[int]] = [[] for _ in numbers]
        self.log_p: list[float] = [0.0] * len(numbers)
        self.tail = max([4 * len(one.encode()) + 8 for one in sampling.stop], default=0)

    def __call__(self, rows: Array, scores: Array) -> tuple[Array, Array]:
        """What `decoding.continuation.continued` asks for."""
        how = self.sampling
        shares = probabilities(scores, temperature=how.temperature, top_k=how.top_k, top_p=how.top_p)
        steps = np.array([len(self.tokens[row]) for row in rows])
        tokens = draw(shares, uniform(self.key, self.numbers[rows] * ROW + steps))
        top = scores.max(axis=1, keepdims=True)
        sums = np.log(np.exp((scores - top).astype(np.float64)).sum(axis=1)) + top[:, 0]
        log_p = np.take_along_axis(scores, tokens[:, None], axis=1)[:, 0] - sums
        done = np.array(
            [self._add(*one) for one in zip(rows.tolist(), tokens.tolist(), log_p.tolist(), strict=True)]
        )
        return tokens, done

    def _add(self, row: int, token: int, log_p: float) -> bool:
        written = self.tokens[row]
        written.append(token)
        self.log_p[row] += log_p
        if token == self.units.mark or len(written) >= self.sampling.length:
            return True
        return bool(self.tail) and cut(self.units.partial(written[-self.tail :]), self.sampling.stop)[1]

    def text(self, row: int, prompt: str, begin: Sequence[int]) -> str:
        """What a row has written behind a prompt and its tokens, up to where it stops."""
        whole = self.units.decode([*begin, *self.tokens[row]])
        return cut(behind(prompt, self.units.decode(begin), whole), self.sampling.stop)[0]

    def score(self, row: int) -> float:
        """The mean log-probability of a token of a row, by the model as it was learned."""
        return self.log_p[row] / max(1, len(self.tokens[row]))


def behind(prompt: str, read: str, whole: str) -> str:
    """What stands in a whole text behind its prompt, of which the model has `read` so much.

    Subwords do not read the space at the end of a prompt, and write it again.

    >>> behind("It was ", "It was", "It was a dark")
    'a dark'
    """
    lost = prompt[-1:].isspace() and not read[-1:].isspace()
    return whole[len(read) :].removeprefix(" " if lost else "")


def cut(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    r"""A text up to the first of some others, and whether one of them is in it.

    >>> cut("ROMEO: Ay.\n\nJULIET: No.", ["\n\n"])
    ('ROMEO: Ay.', True)
    """
    places = [place for place in (text.find(stop) for stop in stops) if place >= 0]
    return (text[: min(places)], True) if places else (text, False)


def certain(text: str, stops: Sequence[str]) -> int:
    r"""How much of a text is sure to stay, whatever comes: less what may be the beginning of a stop.

    >>> certain("Ay.\n", ["\n\n"])
    3
    """
    held = 0
    for stop in stops:
        held = max([held, *(size for size in range(1, len(stop)) if text.endswith(stop[:size]))])
    return len(text) - held


def pieces_of(texts: Iterator[str], stops: Sequence[str]) -> Iterator[str]:
    """What each longer text adds to the one before, as soon as it is sure to stay."""
    shown, text = 0, ""
    for text in texts:
        kept, stopped = cut(text, stops)
        end = len(kept) if stopped else certain(kept, stops)
        if end > shown:
            yield kept[shown:end]
            shown = end
        if stopped:
            return
    if len(text) > shown:
        yield text[shown:]
