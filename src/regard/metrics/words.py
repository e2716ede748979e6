"""Cuts text into the units that scorers count: words, Penn Treebank tokens, characters of Chinese and Japanese."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from regard.metrics.porter import stem
from regard.metrics.translation import looks_chinese, looks_japanese

Tokenizer = Callable[[str], list[str]]

ENGLISH = re.compile(r"[a-z0-9]+")
WORD = re.compile(r"[^\W_]+")
# A Chinese character or a kana with its marks by itself; letters and digits of other scripts in words.
CHARACTER = re.compile(r"[\u3041-\u3096\u309d-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
CHARACTERS = re.compile(rf"{CHARACTER.pattern}|(?:(?!{CHARACTER.pattern})[^\W_])+")
# What COCO's tokenizer takes for an ASCII sign, and where it sees the end of a sentence inside a caption.
CAPTION_SIGNS = str.maketrans(
    {"‘": "'", "’": "'", "“": '"', "”": '"', "—": "--", "–": "--", "…": "...", "€": "$"}
)
ABBREVIATION = r"(?<!\bMr)(?<!\bMrs)(?<!\bMs)(?<!\bDr)(?<!\bSt)(?<!\bJr)(?<!\bSr)(?<!\bvs)"
SENTENCE_END = re.compile(rf"(?<=\w[\w\"'])(?<!\.\w){ABBREVIATION}\.(?=[\"')]*\s+[\"'(]?[A-Z0-9])")
# What it leaves out; brackets it writes in letters and keeps.
PUNCTUATION = frozenset({"''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"})
BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}

TREEBANK = [
    (re.compile(pattern), replacement)
    for pattern, replacement in [
        (r"[«“‘„]|`+", r" \g<0> "),
        (r'^"', "``"),
        (r"``", r" \g<0> "),
        (r"""([ (\[{<])("|'')""", r"\1 `` "),
        (r"(?i)(?<!\w)'(?!(?:re|ve|ll|m|t|s|d|n)\b)(?=\w)", "' "),
        (r"""([^.])(\.)([\])}>"'»”’ ]*)\s*$""", r"\1 \2 \3 "),
        (r"([:,])(\D)", r" \1 \2"),
        (r"[:,]$", r" \g<0> "),
        (r"\.{2,}|[;@#$%&]|[\u2012-\u2015]", r" \g<0> "),
        (r"""([^.])(\.)([\])}>"']*)\s*$""", r"\1 \2\3 "),
        (r"[?!]", r" \g<0> "),
        (r"([^'])' ", r"\1 ' "),
        (r"[*\[\](){}<>]|--", r" \g<0> "),
        (r"^|$", " "),
        (r"[»”’]", r" \g<0> "),
        (r"''|\"", " '' "),
        (r"\s+", " "),
        (r"([^' ])('[sSmMdD]|') ", r"\1 \2 "),
        (r"([^' ])('ll|'LL|'re|'RE|'ve|'VE|n't|N'T) ", r"\1 \2 "),
        (r"(?i)\b(can)(not)\b", r" \1 \2 "),
        (r"(?i)\b(d)('ye)\b", r" \1 \2 "),
        (r"(?i)\b(gim|lem)(me)\b", r" \1 \2 "),
        (r"(?i)\b(gon)(na)\b", r" \1 \2 "),
        (r"(?i)\b(got)(ta)\b", r" \1 \2 "),
        (r"(?i)\b(more)('n)\b", r" \1 \2 "),
        (r"(?i)\b(wan)(na)(?=\s)", r" \1 \2 "),
        (r"(?i) ('t)(is|was)\b", r" \1 \2 "),
    ]
]


def english_words(text: str) -> list[str]:
    """Runs of a-z and 0-9 in lower case, as rouge-score cuts them; every other letter separates.

    >>> english_words("The dog's naïve.")
    ['the', 'dog', 's', 'na', 've']
    """
    return ENGLISH.findall(text.lower())


def stemmed_words(text: str) -> list[str]:
    """`english_words` with words of more than three letters stemmed, as rouge-score does.

    >>> stemmed_words("Dogs were running.")
    ['dog', 'were', 'run']
    """
    return [stem(word) if len(word) > 3 else word for word in english_words(text)]


def words(text: str) -> list[str]:
    """Runs of letters and digits of any script, in lower case.

    >>> words("Größe: 3 Äpfel")
    ['größe', '3', 'äpfel']
    """
    return WORD.findall(text.lower())


def characters(text: str) -> list[str]:
    """Each Chinese character and kana by itself, other letters and digits in lower-case words, no punctuation.

    >>> characters("我用Windows 10。")
    ['我', '用', 'windows', '10']
    """
    return CHARACTERS.findall(text.lower())


def treebank_words(text: str) -> list[str]:
    """Penn Treebank tokens of one sentence, as NLTK's word_tokenize cuts them with preserve_line.

    Source: R. MacIntyre 1995, the Treebank's tokenizer in sed; NLTK's NLTKWordTokenizer.

    >>> treebank_words("They can't pay $3.88, can they?")
    ['They', 'ca', "n't", 'pay', '$', '3.88', ',', 'can', 'they', '?']
    """
    for pattern, replacement in TREEBANK:
        text = pattern.sub(replacement, text)
    return text.split()


def caption_words(text: str) -> list[str]:
    """Treebank tokens in lower case without punctuation, close to what COCO's Java tokenizer makes of a caption.

    >>> caption_words("A dog, wet and (very) happy. It runs.")
    ['a', 'dog', 'wet', 'and', '-lrb-', 'very', '-rrb-', 'happy', 'it', 'runs']
    """
    text = SENTENCE_END.sub(" .", text.translate(CAPTION_SIGNS))
    tokens = treebank_words(text.lower())
    return [BRACKETS.get(token, token) for token in tokens if token not in PUNCTUATION]


def in_characters(references: Sequence[str]) -> bool:
    """Whether `references` are Chinese or Japanese, whose words no space separates.

    >>> in_characters(["一只狗。"]), in_characters(["A dog."])
    (True, False)
    """
    return looks_chinese(references) or looks_japanese(references)
