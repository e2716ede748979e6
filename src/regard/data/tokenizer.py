"""A joint byte-pair vocabulary for every script, lossless, with character offsets.

Text is normalized (NFC, single spaces), spaces become `▁`, and words are cut so that merges never cross a punctuation mark.
Han and kana runs carry no `▁` of their own, so a Chinese word is the same piece at the beginning of a sentence as
inside it. A character outside the alphabet is spelled in UTF-8 bytes; thus `decode(encode(x)) == normalize(x)` for
every text.

Sources: Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword Units"; Kudo and Richardson 2018,
"SentencePiece" (`▁`, byte fallback).
"""

from __future__ import annotations

import json
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers

from regard._errors import CheckpointError, ConfigError, DataError

MARK = "▁"
UNK, BOS, EOS = SPECIALS = ("<unk>", "<s>", "</s>")
# The bytes of every character beyond ASCII; C0, C1 and F5 to FF never occur in UTF-8.
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(0x80, 0xF5) if byte not in (0xC0, 0xC1))
ASCII = tuple(map(chr, range(0x21, 0x7F)))
FIXED = len(SPECIALS) + len(BYTES) + len(ASCII) + len(MARK)
SMALLEST = 256

UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}ー"
LETTERS = rf"[\p{{L}}\p{{M}}&&[^{UNSPACED}]]+"
# How text without spaces is cut before pieces are merged, which never cross a cut: into whole runs, into runs of one script,
# between which answers and names mostly end in Japanese, or into single Chinese characters and runs of kana.
RUNS = {
    "runs": rf"[{UNSPACED}]+",
    "scripts": r"\p{Han}+|\p{Hiragana}+|[\p{Katakana}ー]+",
    "characters": r"\p{Han}|\p{Hiragana}+|[\p{Katakana}ー]+",
}
SPACED = (
    rf"{MARK}?{LETTERS}(?:['’]{LETTERS})*"  # don't, l'homme
    rf"|{MARK}?\p{{N}}"  # digit by digit, so that numbers can be copied
    rf"|{MARK}?([^\p{{L}}\p{{M}}\p{{N}}{MARK}])\1*"  # one mark, or a row of the same: ...
)

if "TOKENIZERS_PARALLELISM" not in os.environ:
    # All cores in this process; none in forked children, where the library's thread pool would hang.
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lambda: os.environ.update(TOKENIZERS_PARALLELISM="false"))


class Tokenizer:
    r"""Text to token ids and back. Ids 0, 1 and 2 are `unk`, `bos` and `eos`; `len(tokenizer)` is the number of ids.

    >>> tokenizer = Tokenizer.train(["A dog runs.", "Ein Hund läuft.", "一只狗在跑。"], vocabulary_size=300)
    >>> tokenizer.decode(tokenizer.encode("Ein  Hund,\t一只狗 😀"))
    'Ein Hund, 一只狗 😀'
    """

    unk, bos, eos = 0, 1, 2

    def __init__(self, core: tokenizers.Tokenizer) -> None:
        self._core = core

    @classmethod
    def train(
        cls, texts: Iterable[str], vocabulary_size: int, lowercase: bool = False, unspaced: str = "runs"
    ) -> Tokenizer:
        """Learns at most `vocabulary_size` pieces from all `texts`, the same ones in every run.

        The alphabet holds the characters seen at least twice, and at most half of the vocabulary; others are
        spelled in bytes. Fewer pieces are learned where no pair occurs twice. The texts are held in memory.

        Chinese and Japanese are cut by `unspaced` before pieces are learned: "runs" (not at all), "scripts" (where Chinese
        characters, hiragana and katakana meet) or "characters" (the same, and around every Chinese character).

        Raises:
            ConfigError: `vocabulary_size` is below 256, or `unspaced` is none of the three.
            DataError: there is no text.
        """
        if vocabulary_size < SMALLEST:
            raise ConfigError(
                f"the vocabulary is too small. Expected: at least {SMALLEST} pieces, since {FIXED} are taken by "
                f"special tokens, bytes and ASCII. Received: vocabulary_size={vocabulary_size}. "
                f"To mend it: 2000 to 8000 suit small data."
            )
        if unspaced not in RUNS:
            raise ConfigError(
                f"text without spaces is cut in one of three ways. Expected: {', '.join(RUNS)}. Received: {unspaced!r}."
            )
        core = _untrained(lowercase, unspaced)
        texts = list(texts)
        normalized = [core.normalizer.normalize_str(_checked(text)) for text in texts]
        if not any(normalized):
            raise DataError(
                "there is no text to learn a vocabulary from. Expected: at least one text that is not blank. "
                f"Received: {len(normalized)} texts. To mend it: give the training texts."
            )
        alphabet = _alphabet(normalized, vocabulary_size)
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary_size,
            min_frequency=2,
            special_tokens=[*SPECIALS, *BYTES],
            initial_alphabet=alphabet,
            limit_alphabet=len(alphabet),
            show_progress=False,
        )
        core.train_from_iterator(texts, trainer, length=len(texts))
        return cls(_without_added_tokens(core))

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without `bos` and `eos`; a blank text gives none. `<s>` in a text is just three characters."""
        ids: list[int] = self._core.encode(_checked(text), add_special_tokens=False).ids
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of every text, on all cores."""
        encodings = self._core.encode_batch_fast([_checked(text) for text in texts], add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`; `bos` and `eos` are left out, bytes that form no character become `�`."""
        kept = [int(index) for index in ids if index not in (self.bos, self.eos)]
        self._check_ids(kept)
        text: str = self._core.decode(kept, skip_special_tokens=False)
        return text

    def normalize(self, text: str) -> str:
        """`text` as the model sees it: NFC, single spaces, lower case if asked for. `decode(encode(x))` gives this."""
        normalized: str = self._core.normalizer.normalize_str(_checked(text))
        return normalized.replace(MARK, " ").removeprefix(" ")

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """A readable piece for each id; `▁` stands for the space before a word, `<0xE9>` for a byte."""
        self._check_ids(ids)
        return [str(self._core.id_to_token(int(index))) for index in ids]

    def spans(self, text: str) -> list[tuple[int, int]]:
        """For each id of `encode(text)` the characters `text[start:end]` it stands for, without spaces around them.

        The bytes of one character all have its span; a `▁` by itself has an empty one.
        """
        return self.encode_with_offsets(text)[1]

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """`encode(text)` and `spans(text)` at once."""
        encoding = self._core.encode(_checked(text), add_special_tokens=False)
        offsets, tokens = encoding.offsets, encoding.tokens  # each access makes the whole list anew
        spans = []
        following = len(text)
        for index in reversed(range(len(offsets))):
            begin, end = offsets[index]
            if index + 1 < len(offsets) and offsets[index + 1][0] > begin:
                following = offsets[index + 1][0]
            # The library ends a piece before a combining mark that NFC has drawn into it; the mark belongs to it.
            end = max(end, following)
            spans.append((begin, begin) if tokens[index] == MARK else _stripped(text, begin, end))
        return encoding.ids, spans[::-1]

    def save(self, path: str | Path) -> None:
        """Writes one `tokenizer.json`, in the form of the `tokenizers` library."""
        Path(path).write_text(self._core.to_str(pretty=True), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """The tokenizer in the file `path`.

        Raises:
            CheckpointError: the file is missing, cut short, or is no tokenizer of this form.
        """
        try:
            core = tokenizers.Tokenizer.from_str(Path(path).read_text(encoding="utf-8"))
        except Exception as error:  # the library raises a bare Exception
            raise _unusable(path, str(error)) from error
        ids = [core.token_to_id(token) for token in SPECIALS]
        if ids != [cls.unk, cls.bos, cls.eos] or core.normalizer is None or core.decoder is None:
            raise _unusable(path, f"a tokenizer in which {', '.join(SPECIALS)} have the ids {ids}")
        return cls(core)

    @cached_property
    def _size(self) -> int:
        return int(self._core.get_vocab_size())

    def __len__(self) -> int:
        return self._size

    def __repr__(self) -> str:
        return f"Tokenizer({len(self)} pieces)"

    def _check_ids(self, ids: Sequence[int]) -> None:
        if len(ids) and not 0 <= min(ids) <= max(ids) < len(self):
            raise DataError(
                f"an id is outside the vocabulary. Expected: 0 to {len(self) - 1}. Received: {min(ids)} to {max(ids)}. "
                "To mend it: decode with the tokenizer that encoded."
            )


def _untrained(lowercase: bool, unspaced: str) -> tokenizers.Tokenizer:
    core = tokenizers.Tokenizer(models.BPE(unk_token=UNK, byte_fallback=True))
    core.normalizer = normalizers.Sequence(
        [
            *([normalizers.Lowercase()] if lowercase else []),
            normalizers.NFC(),
            normalizers.Replace(MARK, "_"),  # a ▁ in the text itself; the next steps need the sign
            normalizers.Replace(Regex(r"[\s\p{Z}\p{Cc}]+"), " "),
            normalizers.Strip(),
            normalizers.Replace(" ", MARK),
            normalizers.Prepend(MARK),
            normalizers.Replace(Regex(rf"\A{MARK}(?=[{UNSPACED}])"), ""),
        ]
    )
    core.pre_tokenizer = pre_tokenizers.Split(Regex(f"{RUNS[unspaced]}|{SPACED}"), "isolated")
    core.decoder = decoders.Sequence(
        [decoders.Replace(MARK, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return core


def _alphabet(normalized: Iterable[str], vocabulary_size: int) -> list[str]:
    """Chosen here and not by the trainer, which breaks ties by the order of a hash table, anew in every run."""
    counts: Counter[str] = Counter()
    for text in normalized:
        counts.update(text)
    fixed = [MARK, *ASCII]
    seen = sorted((c for c in counts if counts[c] > 1 and c not in fixed), key=lambda c: (-counts[c], c))
    room = max(0, (vocabulary_size - FIXED) // 2)
    return fixed + seen[:room]


def _without_added_tokens(core: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """Added tokens are searched for in every text; without them a `</s>` that somebody types can't end a sentence."""
    form = json.loads(core.to_str())
    form["added_tokens"] = []
    return tokenizers.Tokenizer.from_str(json.dumps(form))


def _stripped(text: str, begin: int, end: int) -> tuple[int, int]:
    while begin < end and _is_space(text[begin]):
        begin += 1
    while begin < end and _is_space(text[end - 1]):
        end -= 1
    return begin, end


def _is_space(character: str) -> bool:
    return character.isspace() or unicodedata.category(character) == "Cc"


def _checked(text: str) -> str:
    if not isinstance(text, str):
        raise DataError(
            f"a text is not a string. Expected: str. Received: {type(text).__name__}. To mend it: decode it first."
        )
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"a text holds half of a character. Expected: Unicode text. Received: {text[error.start]!a} at "
            f"character {error.start}. To mend it: read the text as UTF-8."
        ) from error
    return text


def _unusable(path: str | Path, received: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: the tokenizer cannot be loaded. Expected: a tokenizer.json written by regard. Received: {received}. "
        "To mend it: copy the run folder again, or train again."
    )
