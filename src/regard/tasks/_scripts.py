"""What the script of passages decides: how they are cut into pieces, and by which official script answers are scored."""

from __future__ import annotations

from collections.abc import Sequence

from regard.data.records import Record
from regard.metrics.answers import AnswerScores, answer_scores
from regard.metrics.translation import looks_chinese, looks_japanese

SAMPLE = 1000  # texts whose script is looked at


def way_to_cut(passages: Sequence[str]) -> str:
    """How text without spaces is cut so that answers mostly begin and end where pieces do."""
    some = passages[:SAMPLE]
    if looks_chinese(some):
        return "characters"
    return "scripts" if looks_japanese(some) else "runs"


def scores_of(texts: Sequence[str], records: Sequence[Record], language: str | None) -> AnswerScores:
    """Exact match and F1 of answers by the script of a language, by default the one that the passages look like."""
    expected = [[one["text"] for one in record.fields["answers"]] for record in records]
    style = _style(language, [record.fields["context"] for record in records[:SAMPLE]])
    if style == "squad" and not all(expected):  # its script for questions without an answer
        style = "squad2"
    return answer_scores(texts, expected, style)


def _style(language: str | None, passages: Sequence[str]) -> str:
    if language is None:
        language = "zh" if looks_chinese(passages) else "ja" if looks_japanese(passages) else ""
    code = language.casefold().replace("_", "-").split("-")[0]
    return {"zh": "cmrc2018", "zho": "cmrc2018", "ja": "jaquad", "jpn": "jaquad"}.get(code, "squad")
