from __future__ import annotations

import pytest
import sacrebleu

from regard._errors import DataError
from regard.metrics.translation import bleu, chrf, looks_chinese, looks_japanese

GERMAN = (
    ["Ein Hund läuft am Strand.", "Die Katze schläft hier."],
    ["Ein Hund rennt am Strand.", "Die Katze schläft dort."],
)
CHINESE = (["一只狗在沙滩上跑步。", "我不知道他是谁。"], ["一只狗在沙滩上跑。", "我不知道他是谁。"])
JAPANESE = (["犬が浜辺を走っている。"], ["犬が海辺を走っている。"])


@pytest.mark.parametrize(
    ("texts", "language", "tokenizer"),
    [
        (GERMAN, None, "13a"),
        (GERMAN, "de", "13a"),
        (CHINESE, None, "zh"),
        (CHINESE, "zh-TW", "zh"),
        (CHINESE, "de", "13a"),
        (JAPANESE, None, "char"),
        (JAPANESE, "ja", "char"),
    ],
)
@pytest.mark.parametrize("lowercase", [False, True])
def test_scores_are_sacrebleus_own(
    texts: tuple[list[str], list[str]], language: str | None, tokenizer: str, lowercase: bool
) -> None:
    hypotheses, references = texts
    score = bleu(hypotheses, [[text] for text in references], language, lowercase)
    expected = sacrebleu.corpus_bleu(hypotheses, [references], tokenize=tokenizer, lowercase=lowercase)
    assert score.value == expected.score
    assert f"tok:{tokenizer}|" in score.signature
    assert f"case:{'lc' if lowercase else 'mixed'}" in score.signature
    assert sacrebleu.__version__ in score.signature
    assert chrf(hypotheses, references).value == sacrebleu.corpus_chrf(hypotheses, [references]).score
    assert score.value < 100


def test_several_references_of_unequal_number() -> None:
    hypotheses, references = GERMAN
    many = [[references[0], hypotheses[0]], [references[1]]]
    expected = sacrebleu.corpus_bleu(hypotheses, [references, [hypotheses[0], None]])
    assert bleu(hypotheses, many).value == expected.score > bleu(hypotheses, references).value
    assert "nrefs:var" in bleu(hypotheses, many).signature
    assert (
        chrf(hypotheses, many).value
        == sacrebleu.corpus_chrf(hypotheses, [references, [hypotheses[0], None]]).score
    )


def test_names_and_empty_hypotheses() -> None:
    assert (bleu(*GERMAN).name, chrf(*GERMAN).name) == ("bleu", "chrf")
    assert bleu(["", ""], GERMAN[1]).value == 0
    assert str(chrf(["a b"], ["a b"])).startswith("chrf 100.0 (nrefs:1|")


def test_languages_are_recognized() -> None:
    assert looks_chinese(CHINESE[1])
    assert looks_chinese(["Tom在北京。", "他说“OK”。", "我不知道他是谁，你呢？"])
    assert looks_japanese(JAPANESE[1])
    assert looks_japanese(["スーパー"])
    for texts in (GERMAN[0], ["The word 中文 means Chinese."], ["안녕하세요"], [], ["123"]):
        assert not looks_chinese(texts)
        assert not looks_japanese(texts)


@pytest.mark.parametrize("score", [bleu, chrf])
def test_errors(score: type[bleu]) -> None:
    with pytest.raises(DataError, match="Received: 2 hypotheses, 1 references"):
        score(["a", "b"], [["a"]])
    with pytest.raises(DataError, match="no examples"):
        score([], [])
    with pytest.raises(DataError, match="example 1 has no reference"):
        score(["a", "b"], [["a"], []])
    with pytest.raises(DataError, match="put it in a list"):
        score("a b", "a b")
