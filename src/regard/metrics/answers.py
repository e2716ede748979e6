"""Exact match and F1 of answers as the scripts of SQuAD, CMRC 2018 and JaQuAD compute them."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from regard._errors import ConfigError, DataError, nearest
from regard.metrics.measurement import Measurement, averaged, overlap_f1, paired
from regard.metrics.words import treebank_words

ARTICLES = re.compile(r"\b(a|an|the)\b")
ASCII_PUNCTUATION = str.maketrans("", "", string.punctuation)
# What CMRC's script leaves out of both answers; "…" it does not.
CMRC_PUNCTUATION = frozenset("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
CMRC_SINGLE = re.compile("[\u4e00-\u9fa5]")


@dataclass(frozen=True)
class AnswerScores:
    """`exact` and `f1` of a list of answers."""

    exact: Measurement
    f1: Measurement


def answer_scores(
    predictions: Sequence[str],
    answers: Sequence[str | Sequence[str]],
    style: str = "squad2",
    no_answer: Sequence[float] | None = None,
    threshold: float = 1.0,
) -> AnswerScores:
    """Exact match and F1 against the best of each question's answers.

    Args:
        predictions: one text for each question; "" says that there is no answer.
        answers: for each question its answers. An empty list says that there is none, which every style but "squad" takes.
        style: "squad" (v1.1) and "squad2" count words without case, punctuation and articles; "cmrc2018" the longest
            common run of Chinese characters and other words; "jaquad" characters without spaces, where an F1 of 1
            is an exact match whatever the order. "squad2" differs from "squad" only where an answer is empty. CMRC's own script
            has no questions without an answer: here "" is right for them and nothing else, and the signature says so.
        no_answer: how sure the model is, for each question, that there is no answer.
        threshold: above it the prediction counts as "no answer".

    Returns:
        Both scores, 0 to 100, with each question's share.

    Raises:
        DataError: counts differ, there are no questions, or one without an answer in a style that knows none.
        ConfigError: an unknown style.

    Source: Rajpurkar et al. 2016 and 2018 (evaluate-v1.1.py, evaluate-v2.0.py); Cui et al. 2019
    (cmrc2018_evaluate.py; Latin text inside an answer is not split into sentences first); So et al. 2022 (JaQuAD.ipynb).

    >>> scores = answer_scores(["the Dog!", "Hong Kong"], [["dog"], ["Hong Kong Island", "Kowloon"]])
    >>> print(scores.exact.value, scores.f1.value)
    50.0 90.0
    """
    if style not in STYLES:
        raise ConfigError(
            f"unknown style {style!r}. Expected: one of {', '.join(STYLES)}. Received: {style!r}"
            f"{nearest(style, STYLES)}. To mend it: take the style of the data's own script."
        )
    paired(predictions, answers, "lists of answers")
    lists = [[texts] if isinstance(texts, str) else list(texts) for texts in answers]
    if style == "squad" and [] in lists:
        raise DataError(
            f"question {lists.index([])} has no answer. Expected: at least one in the style {style!r}. Received: none. "
            "To mend it: leave the question out, or take the style 'squad2'."
        )
    values = [_of_one(style, *pair) for pair in zip(predictions, lists, strict=True)]
    exact, f1 = np.array(values, dtype=np.float64).reshape(-1, 2).T
    if no_answer is not None:
        paired(no_answer, lists, "lists of answers")
        silent = np.asarray(no_answer) > threshold
        right = np.array([not texts for texts in lists], dtype=np.float64)
        exact, f1 = np.where(silent, right, exact), np.where(silent, right, f1)
    signature = f"style:{style}" + ("|unanswered:empty" if style == "cmrc2018" and [] in lists else "")
    signature += "" if no_answer is None else f"|no-answer:{threshold:g}"
    return AnswerScores(averaged("exact", signature, exact), averaged("f1", signature, f1))


def best_threshold(
    values: Sequence[float] | np.ndarray,
    predictions: Sequence[str],
    answerable: Sequence[bool],
    no_answer: Sequence[float],
) -> tuple[float, float]:
    """The best score that a threshold on `no_answer` could reach, and that threshold, as SQuAD 2.0's script finds them.

    Args:
        values: each question's exact match or F1 before any threshold, as `answer_scores(...).f1.statistics[:, 0]`.
        predictions: the texts that were scored.
        answerable: whether each question has an answer.
        no_answer: how sure the model is, for each question, that there is none.

    Returns:
        The score, 0 to 100, and the threshold: at or below it a prediction stands.

    Raises:
        DataError: counts differ, or there are no questions.

    Source: find_best_thresh of evaluate-v2.0.py. Among equal `no_answer` it may stop halfway, as the script does.

    >>> best_threshold([1.0, 0.0], ["dog", "cat"], [True, False], [0.2, 0.9])
    (100.0, 0.2)
    """
    for other in (values, answerable, no_answer):
        paired(predictions, other, "entries")
    if len(predictions) == 0:
        raise DataError(
            "there are no questions. Expected: at least one. Received: 0. To mend it: look whether the file was read."
        )
    score = best = float(sum(not has_answer for has_answer in answerable))
    threshold = 0.0
    for question in sorted(range(len(no_answer)), key=no_answer.__getitem__):
        lost = -1.0 if predictions[question] else 0.0
        score += values[question] if answerable[question] else lost
        if score > best:
            best, threshold = score, no_answer[question]
    return 100.0 * best / len(predictions), threshold


def _of_one(style: str, prediction: str, answers: list[str]) -> tuple[float, float]:
    """Exact match and F1 of one prediction."""
    if style == "cmrc2018" and not answers:
        right = float(prediction == "")
        return right, right
    return STYLES[style](prediction, answers or [""])


def _squad(prediction: str, answers: list[str]) -> tuple[float, float]:
    words = _normal_words(prediction)
    expected = [_normal_words(answer) for answer in answers]
    return float(words in expected), max(_bag_f1(words, answer) for answer in expected)


def _squad2(prediction: str, answers: list[str]) -> tuple[float, float]:
    words = _normal_words(prediction)
    expected = [answer for answer in map(_normal_words, answers) if answer] or [[]]
    return float(words in expected), max(_bag_f1(words, answer, both_empty=1.0) for answer in expected)


def _normal_words(text: str) -> list[str]:
    return ARTICLES.sub(" ", text.lower().translate(ASCII_PUNCTUATION)).split()


def _bag_f1(predicted: Sequence[str], expected: Sequence[str], both_empty: float = 0.0) -> float:
    if not predicted and not expected:
        return both_empty
    common = (Counter(predicted) & Counter(expected)).total()
    return overlap_f1(common, len(predicted), len(expected))


def _cmrc2018(prediction: str, answers: list[str]) -> tuple[float, float]:
    text, segments = _without_punctuation(prediction), _segments(prediction)
    exact = any(text == _without_punctuation(answer) for answer in answers)
    return float(exact), max(_run_f1(segments, _segments(answer)) for answer in answers)


def _without_punctuation(text: str) -> str:
    return "".join(letter for letter in text.lower().strip() if letter not in CMRC_PUNCTUATION)


def _segments(text: str) -> list[str]:
    """Chinese characters by themselves, Treebank tokens of what stands between them."""
    rest = _without_punctuation(text)
    segments, end = [], 0
    for match in CMRC_SINGLE.finditer(rest):
        segments += [*treebank_words(rest[end : match.start()]), match.group()]
        end = match.end()
    return segments + treebank_words(rest[end:])


def _run_f1(predicted: list[str], expected: list[str]) -> float:
    return overlap_f1(_longest_common_run(predicted, expected), len(predicted), len(expected))


def _longest_common_run(first: list[str], second: list[str]) -> int:
    longest = 0
    row = [0] * (len(second) + 1)
    for one in first:
        row = [0] + [row[i] + 1 if one == other else 0 for i, other in enumerate(second)]
        longest = max(longest, *row)
    return longest


def _jaquad(prediction: str, answers: list[str]) -> tuple[float, float]:
    predicted = "".join(prediction.split())
    best = max(_bag_f1(predicted, "".join(answer.split()), both_empty=1.0) for answer in answers)
    return float(best == 1.0), best


STYLES: dict[str, Callable[[str, list[str]], tuple[float, float]]] = {
    "squad": _squad,
    "squad2": _squad2,
    "cmrc2018": _cmrc2018,
    "jaquad": _jaquad,
}
