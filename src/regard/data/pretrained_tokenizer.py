"""The vocabulary of a pretrained encoder: WordPiece from `vocab.txt`, or any `tokenizer.json`, with pairs and character offsets.

`[SEP]` or `</s>` that somebody types is plain text and can end nothing.

Sources: Devlin et al. 2019, "BERT" (WordPiece, pairs); Wu et al. 2016, "Google's Neural Machine Translation System".
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from regard._errors import CheckpointError
from regard.data.tokenizer import Tokenizer, _checked, _stripped
from regard.nn.pretrained_shape import read_json

JSON, WORDS, SETTINGS = "tokenizer.json", "vocab.txt", "tokenizer_config.json"
CUTS = (("word_tokenizer_type", "basic"), ("subword_tokenizer_type", "wordpiece"))
UNKNOWN = ("[UNK]", "<unk>")
BEGIN, END, OTHERS = "[CLS]", "[SEP]", ("[PAD]", "[MASK]")


class Pair(NamedTuple):
    """Two texts as one sequence: its ids, the type of each, and the place in the second text where a piece comes from there."""

    ids: list[int]
    token_types: list[int]
    spans: list[tuple[int, int] | None]


class PretrainedTokenizer(Tokenizer):
    """Text to the token ids of a pretrained encoder and back; `bos`, `eos` and `unk` are the vocabulary's own.

    `encode` gives the pieces alone; `join` puts the marks of begin and end around them.

    >>> import pathlib
    >>> _ = pathlib.Path("vocab.txt").write_text("[UNK] [CLS] [SEP] who ran ? a dog ##s".replace(" ", chr(10)))
    >>> tokenizer = PretrainedTokenizer.load("vocab.txt")
    >>> tokenizer.pieces(tokenizer.join(tokenizer.encode("A dog ran"))[0])
    ['[CLS]', 'a', 'dog', 'ran', '[SEP]']
    >>> tokenizer.encode_pair("Who ran?", "Dogs").spans
    [None, None, None, None, None, (0, 3), (3, 4), None]
    """

    def __init__(self, core: tokenizers.Tokenizer, name: str = JSON) -> None:
        super().__init__(core)
        core.no_truncation()
        core.no_padding()
        core.encode_special_tokens = True
        self._single = _Template.of(core.encode("a"), name)
        self._pair = _Template.of(core.encode("a", "a"), name)
        self.bos, self.eos = self._single.marks[0][0], self._single.marks[-1][-1]
        unknown = [core.token_to_id(piece) for piece in UNKNOWN]
        self.unk = next((index for index in unknown if index is not None), self.eos)

    @classmethod
    def load(cls, path: str | Path) -> PretrainedTokenizer:
        """The tokenizer in a folder with `tokenizer.json` or `vocab.txt`, or in one of these files.

        Whether `vocab.txt` is of lower case is read from `tokenizer_config.json` beside it; without one, from whether it has capitals.

        Raises:
            CheckpointError: there is no such file, or it is damaged, or marks neither begin nor end.
        """
        path = Path(path)
        if path.is_dir():
            found = [path / name for name in (JSON, WORDS) if (path / name).is_file()]
            if not found:
                raise _unusable(path, "neither", "name the model's folder, or write the file with `transformers`: "
                    "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)")  # fmt: skip
            path = found[0]
        try:
            text = path.read_text(encoding="utf-8")
            core = _word_piece(path, text) if path.suffix == ".txt" else tokenizers.Tokenizer.from_str(text)
        except CheckpointError:
            raise
        except Exception as error:  # the library raises a bare Exception
            raise _unusable(path, str(error)) from error
        return cls(core, str(path))

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """`encode(text)` and `spans(text)` at once; a span holds the accents that the vocabulary leaves out."""
        encoding = self._core.encode(_checked(text), add_special_tokens=False)
        return encoding.ids, [_whole_characters(text, *span) for span in encoding.offsets]

    @property
    def marks(self) -> tuple[list[int], list[int]]:
        """What `join` puts before and behind one text."""
        return self._single.marks[0], self._single.marks[-1]

    def join(self, first: Sequence[int], second: Sequence[int] | None = None) -> tuple[list[int], list[int]]:
        """One sequence as the encoder knows it, of one or two texts' ids: its ids and their token types."""
        if second is None:
            return self._single.filled(first)
        return self._pair.filled(first, second)

    def encode_pair(self, first: str, second: str) -> Pair:
        """A question and a passage as one sequence, with the place in the passage of each of the passage's pieces."""
        pieces, spans = self.encode_with_offsets(second)
        before = self.encode(first)
        ids, types = self.join(before, pieces)
        begin = len(self._pair.marks[0]) + len(before) + len(self._pair.marks[1])
        rest = len(ids) - begin - len(pieces)
        return Pair(ids, types, [*[None] * begin, *spans, *[None] * rest])

    def normalize(self, text: str) -> str:
        """`text` as the vocabulary sees it."""
        normalizer = self._core.normalizer
        return _checked(text) if normalizer is None else str(normalizer.normalize_str(_checked(text)))


class _Template(NamedTuple):
    """The marks before, between and behind the texts of a sequence, their types, and the type of each text."""

    marks: list[list[int]]
    mark_types: list[list[int]]
    text_types: list[int]

    @classmethod
    def of(cls, probe: Any, name: str) -> _Template:
        """Read from an encoding of one-letter texts."""
        marks: list[list[int]] = [[]]
        mark_types: list[list[int]] = [[]]
        text_types: list[int] = []
        for index, kind, text in zip(probe.ids, probe.type_ids, probe.sequence_ids, strict=True):
            if text is None:
                marks[-1].append(index)
                mark_types[-1].append(kind)
            elif text == len(text_types):
                text_types.append(kind)
                marks.append([])
                mark_types.append([])
        if not marks[0] or not marks[-1]:
            raise _unusable(
                name, "a vocabulary that puts no marks around a text", "take the tokenizer.json of an encoder"
            )
        return cls(marks, mark_types, text_types)

    def filled(self, *texts: Sequence[int]) -> tuple[list[int], list[int]]:
        ids, types = [*self.marks[0]], [*self.mark_types[0]]
        for number, text in enumerate(texts):
            ids += [*text, *self.marks[number + 1]]
            types += [*[self.text_types[number]] * len(text), *self.mark_types[number + 1]]
        return ids, types


def _word_piece(path: Path, text: str) -> tokenizers.Tokenizer:
    pieces = [piece.removesuffix("\r") for piece in text.removesuffix("\n").split("\n")]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    missing = [piece for piece in (UNKNOWN[0], BEGIN, END) if piece not in vocabulary]
    if missing:
        raise _unusable(
            path, f"{len(pieces)} lines without {', '.join(missing)}", "take the vocab.txt of the encoder"
        )
    settings = path.with_name(SETTINGS)
    given = read_json(settings) if settings.is_file() else {}
    for name, usual in CUTS:
        if given.get(name, usual) != usual:  # Japanese encoders have their text cut by a dictionary first
            raise _unusable(
                settings,
                f"{name} {given[name]!r}",
                "take an encoder whose folder has a tokenizer.json, such as a multilingual one",
            )
    capitals = any(piece != piece.lower() for piece in pieces if not piece.startswith("["))
    core = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token=UNKNOWN[0]))
    core.normalizer = normalizers.BertNormalizer(
        lowercase=bool(given.get("do_lower_case", not capitals)),
        strip_accents=given.get("strip_accents"),
        handle_chinese_chars=bool(given.get("tokenize_chinese_chars", True)),
    )
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    core.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A {END}",
        pair=f"{BEGIN} $A {END} $B:1 {END}:1",
        special_tokens=[(mark, vocabulary[mark]) for mark in (BEGIN, END)],
    )
    core.add_special_tokens([mark for mark in (UNKNOWN[0], BEGIN, END, *OTHERS) if mark in vocabulary])
    return core


def _whole_characters(text: str, begin: int, end: int) -> tuple[int, int]:
    """Without spaces around it; with the signs behind it that a normalizer may have dropped, which are those of no width."""
    while begin < end < len(text) and unicodedata.category(text[end]) == "Mn":
        end += 1
    return _stripped(text, begin, end)


def _unusable(
    path: str | Path, received: str, remedy: str = "copy the file again from the model's folder"
) -> CheckpointError:
    return CheckpointError(
        f"{path}: the vocabulary cannot be loaded. Expected: the {JSON} or {WORDS} of a pretrained encoder. "
        f"Received: {received}. To mend it: {remedy}."
    )
