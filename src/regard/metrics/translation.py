"""BLEU and chrF by sacrebleu, each with the signature that makes it comparable (Post 2018, "A Call for Clarity")."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from regard._errors import DataError

HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
KANA = re.compile(r"[\u3040-\u30ff]")
LETTER = re.compile(r"[^\W\d_]")
SAMPLE = 200

References = Sequence[str | Sequence[str]]


@dataclass(frozen=True)
class Score:
    """A `value`, mostly between 0 and 100, with the `signature` of how it was computed.

    >>> print(chrf(["A dog runs."], [["A dog runs."]]).value)
    100.0
    """

    name: str
    value: float
    signature: str
    less_is_better: bool = field(default=False, kw_only=True)

    def __str__(self) -> str:
        return f"{self.name} {self.value:.1f} ({self.signature})"


def bleu(
    hypotheses: Sequence[str], references: References, language: str | None = None, lowercase: bool = False
) -> Score:
    """Corpus BLEU (Papineni et al. 2002) of plain, not tokenized text.

    Args:
        hypotheses: one translation for each example.
        references: for each example its reference, or a list of one or more.
        language: of the references, such as "zh" or "de"; looked up in the text when not given. Chinese is scored
            with sacrebleu's `zh` tokenizer, Japanese by characters, everything else with `13a`.
        lowercase: compare without case.

    Returns:
        The score, 0 to 100, with sacrebleu's signature.

    Raises:
        DataError: the counts differ, or there is nothing to score.

    >>> print(bleu(["A dog runs fast."], ["A dog runs fast."]))
    bleu 100.0 (nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:...)
    """
    from sacrebleu.metrics.bleu import BLEU

    per_example = _checked(hypotheses, references)
    tokenizer = _tokenizer(language, [text for texts in per_example for text in texts])
    # force: no warning that the text looks tokenized; it would tear the live progress apart.
    return _score("bleu", BLEU(lowercase=lowercase, tokenize=tokenizer, force=True), hypotheses, per_example)


def chrf(hypotheses: Sequence[str], references: References, lowercase: bool = False) -> Score:
    """Corpus chrF (Popović 2015): character 6-grams, beta 2, for every language alike.

    Args:
        hypotheses: one translation for each example.
        references: for each example its reference, or a list of one or more.
        lowercase: compare without case.

    Returns:
        The score, 0 to 100, with sacrebleu's signature.

    Raises:
        DataError: the counts differ, or there is nothing to score.

    >>> print(chrf(["A dog runs fast."], ["A dog runs fast."]))
    chrf 100.0 (nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:...)
    """
    from sacrebleu.metrics.chrf import CHRF

    return _score("chrf", CHRF(lowercase=lowercase), hypotheses, _checked(hypotheses, references))


def looks_chinese(texts: Sequence[str]) -> bool:
    """Whether most letters at the beginning of `texts` are Chinese characters, with next to no kana among them."""
    han, kana, letters = _scripts(texts)
    return 2 * han > letters and 10 * kana < han


def looks_japanese(texts: Sequence[str]) -> bool:
    """Whether most letters at the beginning of `texts` are kana or Chinese characters, and kana is common."""
    han, kana, letters = _scripts(texts)
    return 2 * (han + kana) > letters and kana > 0 and 10 * kana >= han


def _scripts(texts: Sequence[str]) -> tuple[int, int, int]:
    sample = "".join(texts[:SAMPLE])
    return len(HAN.findall(sample)), len(KANA.findall(sample)), len(LETTER.findall(sample))


def _tokenizer(language: str | None, references: Sequence[str]) -> str:
    if language is None:
        language = "zh" if looks_chinese(references) else "ja" if looks_japanese(references) else ""
    code = re.split("[-_]", language.casefold())[0]
    return {"zh": "zh", "zho": "zh", "cmn": "zh", "yue": "zh", "ja": "char", "jpn": "char"}.get(code, "13a")


def _checked(hypotheses: Sequence[str], references: References) -> list[list[str]]:
    if isinstance(hypotheses, str) or isinstance(references, str):
        raise DataError(
            "a single text cannot be scored as a corpus. Expected: a list of hypotheses and a list of references. "
            "Received: a string. To mend it: put it in a list."
        )
    if len(hypotheses) != len(references):
        raise DataError(
            "hypotheses and references do not match. Expected: one entry of references for each hypothesis. "
            f"Received: {len(hypotheses)} hypotheses, {len(references)} references. To mend it: give references "
            "as a list with the reference, or the list of references, of each example."
        )
    per_example = [[texts] if isinstance(texts, str) else list(texts) for texts in references]
    if not per_example or not all(per_example):
        wrong = (
            f"example {per_example.index([])} has no reference" if per_example else "there are no examples"
        )
        raise DataError(
            f"{wrong}. Expected: at least one example, each with at least one reference. "
            f"Received: {len(per_example)} examples. To mend it: leave out what has no reference."
        )
    return per_example


def _score(name: str, metric: Any, hypotheses: Sequence[str], per_example: list[list[str]]) -> Score:
    most = max(map(len, per_example))
    streams = [[texts[i] if i < len(texts) else None for texts in per_example] for i in range(most)]
    value = float(metric.corpus_score(list(hypotheses), streams).score)
    return Score(name, value, str(metric.get_signature()))
