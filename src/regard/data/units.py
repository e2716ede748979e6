"""What a language model reads and writes: characters, bytes, or the pieces of a vocabulary. Every kind has a mark of a text's ends.

Characters and bytes give every text back as it was. Subwords read line by line, with a token for the end of a line; within a
line they are those of `Tokenizer`: spaces in a row become one, and those at its ends are lost.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from regard._errors import CheckpointError, ConfigError, DataError
from regard.data.lines import shorten
from regard.data.tokenizer import Tokenizer

KINDS = ("characters", "bytes", "subwords")
UNITS = "units.json"
VOCABULARY = 2000  # of subwords, where a recipe names none


class Units(Protocol):
    """Text to ids and back; `mark` is the id that stands at both ends of a text, `len(units)` the number of ids."""

    kind: str
    mark: int

    def encode(self, text: str) -> list[int]:
        """Ids of a text; of two texts, the first of which ends with a line, those of both are those of each."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without marks."""

    def normalize(self, text: str) -> str:
        """A text as the model sees it: `decode(encode(text))`."""

    def partial(self, ids: Sequence[int]) -> str:
        """The part of a text that ids decide, whatever comes after them."""

    def names(self, ids: Sequence[int]) -> list[str]:
        """A readable name for each id."""

    def __len__(self) -> int: ...


class Characters:
    """One id for each character that training showed.

    >>> units = Characters("ab")
    >>> units.encode("ba"), units.decode([2, 1, 0]), len(units)
    ([2, 1], 'ba', 3)
    """

    kind, mark = "characters", 0

    def __init__(self, alphabet: Iterable[str]) -> None:
        self.alphabet = sorted(set(alphabet))
        self._ids = {character: number for number, character in enumerate(self.alphabet, 1)}

    def encode(self, text: str) -> list[int]:
        """DataError names the characters that training did not show."""
        try:
            return [self._ids[character] for character in text]
        except KeyError:
            new = sorted(set(text) - self._ids.keys())
            raise UnknownCharactersError(new, min(text.index(one) for one in new)) from None

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.alphabet[index - 1] for index in ids if index != self.mark)

    def normalize(self, text: str) -> str:
        return text

    def partial(self, ids: Sequence[int]) -> str:
        return self.decode(ids)

    def names(self, ids: Sequence[int]) -> list[str]:
        return [_visible(self.decode([index])) for index in ids]

    def __len__(self) -> int:
        return len(self.alphabet) + 1


class Bytes:
    """The bytes of UTF-8: 257 ids for every text there is.

    >>> Bytes().encode("é"), Bytes().decode([196, 170])
    ([196, 170], 'é')
    """

    kind, mark = "bytes", 0

    def encode(self, text: str) -> list[int]:
        return [byte + 1 for byte in text.encode()]

    def decode(self, ids: Sequence[int]) -> str:
        return self._bytes(ids).decode(errors="replace")

    def normalize(self, text: str) -> str:
        return text

    def partial(self, ids: Sequence[int]) -> str:
        return codecs.getincrementaldecoder("utf-8")(errors="replace").decode(self._bytes(ids))

    def names(self, ids: Sequence[int]) -> list[str]:
        return [_visible(chr(index - 1)) if 1 <= index <= 128 else f"{index - 1:02X}" for index in ids]

    def __len__(self) -> int:
        return 257

    def _bytes(self, ids: Sequence[int]) -> bytes:
        return bytes(index - 1 for index in ids if index != self.mark)


class Subwords:
    r"""The pieces of a `Tokenizer`, and one more id for the end of a line.

    >>> units = Subwords(Tokenizer.train(["A dog runs.", "A cat runs."], 300))
    >>> units.decode(units.encode("A  dog\n\nruns."))
    'A dog\n\nruns.'
    """

    kind = "subwords"

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.mark, self.line = tokenizer.bos, len(tokenizer)

    def encode(self, text: str) -> list[int]:
        first, *others = self.tokenizer.encode_batch(text.split("\n"))
        return first + [index for ids in others for index in (self.line, *ids)]

    def decode(self, ids: Sequence[int]) -> str:
        return "\n".join(map(self.tokenizer.decode, self._lines(ids)))

    def normalize(self, text: str) -> str:
        return "\n".join(map(self.tokenizer.normalize, text.split("\n")))

    def partial(self, ids: Sequence[int]) -> str:
        return self.decode(ids).rstrip("\N{REPLACEMENT CHARACTER}")

    def names(self, ids: Sequence[int]) -> list[str]:
        return ["⏎" if index == self.line else self.tokenizer.pieces([index])[0] for index in ids]

    def __len__(self) -> int:
        return len(self.tokenizer) + 1

    def _lines(self, ids: Sequence[int]) -> list[list[int]]:
        lines: list[list[int]] = [[]]
        for index in ids:
            if index == self.line:
                lines.append([])
            else:
                lines[-1].append(index)
        return lines


class UnknownCharactersError(DataError):
    """Characters that training did not show, and where the first of them stands in the text."""

    def __init__(self, characters: Sequence[str], place: int) -> None:
        self.characters, self.place = characters, place
        super().__init__(f"unknown characters {shorten(''.join(characters))} from character {place} on")


def learn_units(kind: str, texts: Iterable[str], vocabulary: int | None) -> Units:
    """Units of a kind for some texts: their alphabet, or pieces of them.

    Raises:
        ConfigError: there is no such kind.
    """
    if kind == "characters":
        return Characters({character for text in texts for character in set(text)})
    if kind == "bytes":
        return Bytes()
    if kind == "subwords":
        lines = (line for text in texts for line in text.split("\n"))
        return Subwords(Tokenizer.train((line for line in lines if line), vocabulary or VOCABULARY))
    raise ConfigError(f"there are no units {kind!r}. Expected one of: {', '.join(KINDS)}.")


def save_units(units: Units, folder: Path, facts: dict[str, Any]) -> None:
    """Write `units.json`, with some facts beside the alphabet, and `tokenizer.json` of subwords."""
    if isinstance(units, Subwords):
        units.tokenizer.save(folder / "tokenizer.json")
    alphabet = {"alphabet": "".join(units.alphabet)} if isinstance(units, Characters) else {}
    form = {"kind": units.kind, **alphabet, **facts}
    (folder / UNITS).write_text(json.dumps(form, ensure_ascii=False), encoding="utf-8")


def load_units(folder: Path) -> tuple[Units, dict[str, Any]]:
    """What `save_units` wrote, and its facts; CheckpointError where the file cannot be used."""
    try:
        form = json.loads((folder / UNITS).read_text(encoding="utf-8"))
        kind, alphabet = form.pop("kind"), form.pop("alphabet", "")
        if kind not in KINDS:
            raise ValueError(f"units {kind!r}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{folder / UNITS}: the units cannot be read. Expected: the file that regard train wrote. Received: "
            f"{type(error).__name__}, {error}. To mend it: copy the run folder again, or train again."
        ) from error
    if kind == "subwords":
        return Subwords(Tokenizer.load(folder / "tokenizer.json")), form
    return (Characters(alphabet) if kind == "characters" else Bytes()), form


def _visible(character: str) -> str:
    return {"\n": "⏎", "\t": "⇥", " ": "␣", "": "◇"}.get(character, character)
