"""`regard predict`, `evaluate` and `inspect`: what a trained run is good for."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import sacrebleu

import regard
from regard._errors import ConfigError, DataError
from regard._lowering import kernel
from regard.data.records import read_records
from regard.tasks.translate import Translate, Translation


def test_texts_are_translated_in_order(regard_command, trained):
    texts = ["A dog runs.", "It is cold."]
    result = regard_command("predict", trained, *texts)
    assert result.code == 0
    assert result.err == ""
    assert result.out.splitlines() == [one.text for one in regard.load(trained)(texts)]


def test_a_text_may_begin_with_a_dash(regard_command, trained):
    assert regard_command("predict", trained, "--beam", "1", "--", "-5 degrees.").code == 0


def test_every_way_in_gives_the_same(regard_command, trained, tmp_path):
    path, table = tmp_path / "texts.txt", tmp_path / "texts.jsonl"
    path.write_text("A dog runs.\nIt is cold.\n", encoding="utf-8")
    table.write_text('{"source": "A dog runs."}\n{"source": "It is cold."}\n', encoding="utf-8")
    expected = regard_command("predict", trained, "A dog runs.", "It is cold.").out
    assert regard_command("predict", trained, "--input", path).out == expected
    assert regard_command("predict", trained, "--input", table).out == expected
    assert regard_command("predict", trained, stdin=path.read_bytes()).out == expected
    assert regard_command("predict", trained, stdin=path.read_bytes().replace(b"\n", b"\r\n")).out == expected


@pytest.mark.parametrize("blank", ["", "  ", "\u200b"])
def test_blank_lines_of_plain_text_stay_where_they_are(regard_command, trained, tmp_path, blank):
    path = tmp_path / "test.en"
    path.write_text(f"A dog runs.\n{blank}\nIt is cold.\n{blank}\n", encoding="utf-8")
    dog, cold = regard_command("predict", trained, "A dog runs.", "It is cold.").out.splitlines()
    for way in ({"stdin": path.read_bytes()}, {}):
        result = regard_command("predict", trained, *([] if way else ["--input", path]), **way)
        assert (result.code, result.out) == (0, f"{dog}\n\n{cold}\n\n")
        assert result.err == "blank lines, for which nothing was predicted: 2\n"
    lines = regard_command("predict", trained, "--json", "--input", path).out.splitlines()
    entries = [json.loads(line) for line in lines]
    assert [entry.get("text") for entry in entries] == [dog, None, cold, None]
    assert entries[1] == entries[3] == {"blank": True}


def test_blank_lines_alone_are_no_error(regard_command, trained, tmp_path):
    result = regard_command("predict", trained, "--attention", tmp_path / "x.html", stdin=b"\n\n")
    assert (result.code, result.out) == (0, "\n\n")
    assert not (tmp_path / "x.html").exists()


def test_a_blank_line_is_no_second_text_of_a_page(regard_command, trained, tmp_path):
    page = tmp_path / "x.html"
    assert regard_command("predict", trained, "--attention", page, stdin=b"\nA dog runs.\n\n").code == 0
    assert page.exists()


def test_several_files_are_read_in_turn(regard_command, refused, trained, tmp_path):
    first, second = tmp_path / "a.jsonl", tmp_path / "b.csv"
    first.write_text('{"source": "A dog runs."}\n', encoding="utf-8")
    second.write_text("source,other\nIt is cold.,x\n", encoding="utf-8")
    expected = regard_command("predict", trained, "A dog runs.", "It is cold.").out
    assert regard_command("predict", trained, "--input", f"{first},{second}").out == expected
    assert "c.csv: file not found" in refused("predict", trained, "--input", f"{first},{tmp_path / 'c.csv'}")


def test_two_inputs_are_refused(refused, trained, data):
    assert "--input" in refused("predict", trained, "A dog.", "--input", data / "dev.jsonl")


def test_nothing_in_is_nothing_out(regard_command, trained):
    result = regard_command("predict", trained)
    assert (result.code, result.out) == (0, "")


def test_json_has_source_text_and_score(regard_command, trained):
    lines = regard_command("predict", trained, "A dog runs.", "It is cold.", "--json").out.splitlines()
    entries = [json.loads(line) for line in lines]
    assert [entry["source"] for entry in entries] == ["A dog runs.", "It is cold."]
    assert all(set(entry) == {"source", "text", "score"} and entry["score"] < 0 for entry in entries)
    several = json.loads(regard_command("predict", trained, "A dog.", "--json", "--candidates", "2").out)
    assert [set(one) for one in several["candidates"]] == [{"text", "score"}] * 2


def test_the_page_shows_the_attention(regard_command, refused, trained, tmp_path):
    page = tmp_path / "dog.html"
    result = regard_command("predict", trained, "A puppy runs.", "--attention", page)
    assert result.code == 0
    assert "puppy" in page.read_text(encoding="utf-8")
    assert str(page) in result.err
    assert "single text" in refused("predict", trained, "A dog.", "A cat.", "--attention", page)
    result = regard_command("predict", trained, "A dog.", "--attention", tmp_path / "dog.pdf")
    assert (result.code, result.out) == (2, "")
    assert "expected .html, .svg or .png, received 'dog.pdf'" in result.err


def test_a_beam_of_nothing_is_refused(refused, trained):
    assert "beam=0" in refused("predict", trained, "A dog.", "--beam", "0")
    with pytest.raises(ConfigError, match=r"whole number of them\. Received beam=2\.5"):
        regard.load(trained)("A dog.", beam=2.5)


def test_several_texts_that_are_no_list_are_named(trained):
    translator = regard.load(trained)
    with pytest.raises(
        DataError, match=r"Received: a tuple, \('a', 'b'\)\. To mend it: give several texts in a list"
    ):
        translator(("a", "b"))
    with pytest.raises(DataError, match="Received: a value of type 'bytes'"):
        translator(b"a")
    with pytest.raises(DataError, match="Received: a number, 3"):
        translator(3)


def test_evaluation_gives_one_object(regard_command, trained, data):
    result = regard_command("evaluate", trained, "--data", data / "dev.jsonl", "--beam", "1", "--json")
    entry = json.loads(result.out)
    assert {"bleu", "chrf", "count", "seconds", "signatures"} <= entry.keys()
    assert entry["count"] == 8
    assert "tok:zh" in entry["signatures"]["bleu"]
    people = regard_command("evaluate", trained, "--data", data / "dev.jsonl", "--beam", "1").out
    assert entry["signatures"]["chrf"] in people


@pytest.mark.skipif(kernel() is None, reason="needs the compiled kernel")
@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_a_lower_precision_says_what_it_loses(regard_command, trained, data, precision):
    options = ("--data", data / "dev.jsonl", "--beam", "2", "--precision", precision)
    entry = json.loads(regard_command("evaluate", trained, *options, "--json").out)
    full = json.loads(regard_command("evaluate", trained, *options[:4], "--json").out)
    assert entry["precision"] == precision
    assert full["precision"] == "fp32"
    assert "lost" not in full
    assert entry["lost"] == {name: full[name] - entry[name] for name in ("bleu", "chrf")}
    assert regard_command("evaluate", trained, *options).out.count(" against fp32\n") == 2


@pytest.mark.skipif(kernel() is None, reason="needs the compiled kernel")
def test_a_precision_can_be_chosen(regard_command, refused, trained):
    result = regard_command("predict", trained, "A dog runs.", "--precision", "int8")
    assert result.out == regard.load(trained)("A dog runs.", precision="int8").text + "\n"
    assert "--precision" in refused("predict", trained, "A dog runs.", "--precision", "fp16")


@pytest.mark.skipif(kernel() is None, reason="needs the compiled kernel")
def test_a_shortlist_is_read_from_a_file(regard_command, refused, trained, data, tmp_path):
    translator, path = regard.load(trained), tmp_path / "short.npz"
    shortlist = translator.task.shortlist(read_records(data / "train.jsonl", ("source", "target")))
    shortlist.save(path)
    expected = translator("A dog runs.", shortlist=shortlist).text
    assert regard_command("predict", trained, "A dog runs.", "--shortlist", path).out == expected + "\n"
    options = ("--data", data / "dev.jsonl", "--beam", "1", "--shortlist", path)
    assert regard_command("evaluate", trained, *options).code == 0
    path.write_text("nothing")
    assert "cannot be read" in refused("predict", trained, "A dog runs.", "--shortlist", path)


def test_evaluation_without_data_is_for_models_of_the_sample(refused, trained):
    assert "--data FILE" in refused("evaluate", trained)


def test_evaluation_is_what_sacrebleu_gives(monkeypatch, regard_command, trained, tmp_path):
    references = ["Ein Hund läuft am Strand entlang.", "Zwei Männer stehen, bei Regen, vor dem Haus."]
    written = ["Ein hund läuft am Strand.", "Zwei Männer stehen bei regen vor dem Haus."]
    path = tmp_path / "test.jsonl"
    lines = [json.dumps({"source": "x", "target": target}) for target in references]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    monkeypatch.setattr(
        Translate, "predict", lambda *_, **__: [Translation("x", text, 0.0, ()) for text in written]
    )
    cased, lower = (
        json.loads(regard_command("evaluate", trained, "--data", path, "--json", *flags).out)["bleu"]
        for flags in ((), ("--lowercase", "--language", "de"))
    )
    assert cased == sacrebleu.corpus_bleu(written, [references], tokenize="13a").score
    assert lower == sacrebleu.corpus_bleu(written, [references], tokenize="13a", lowercase=True).score
    assert cased < lower


def test_inspection_says_what_the_run_is(regard_command, trained, data):
    entry = json.loads(regard_command("inspect", trained, "--json").out)
    assert entry["task"] == "translate"
    assert entry["recipe"]["dim"] == 16
    assert entry["data"]["train"] == str(data / "train.jsonl")
    assert [score["step"] for score in entry["scores"]] == [2, 4]
    assert entry["best"]["step"] in {2, 4}
    assert entry["finished"]
    assert entry["attention"]
    shown = regard_command("inspect", trained).out
    assert f"{entry['parameters']:,} parameters" in shown
    assert "finished" in shown


@pytest.mark.parametrize(
    ("descends", "scores", "best"),
    [
        (False, [(0.0, 9.0), (0.0, 8.0), (0.0, 8.5)], 2),
        (False, [(1.0, 8.0), (2.0, 9.0), (2.0, 9.0)], 2),
        (True, [(1.5, 3.0), (1.5, 2.0), (1.6, 1.0)], 2),
        (True, [(1.5, 3.0), (1.4, 4.0)], 2),
        (False, [(math.nan, 1.0)], None),
    ],
)
def test_the_best_of_an_inspection_is_the_one_that_is_kept(
    monkeypatch, regard_command, run, descends, scores, best
):
    monkeypatch.setattr(Translate, "descends", descends, raising=False)
    events = [
        {"event": "dev", "seconds": 1.0, "step": step, "dev_loss": loss, "bleu": score}
        for step, (score, loss) in enumerate(scores, 1)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in events), encoding="utf-8")
    found = json.loads(regard_command("inspect", run, "--json").out)["best"]
    assert (found and found["step"]) == best
    marked = [line for line in regard_command("inspect", run).out.splitlines() if line.endswith("  best")]
    assert len(marked) == (best is not None)


def test_inspection_bears_a_last_line_that_a_kill_cut_short(regard_command, run):
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"event": "de')
    assert regard_command("inspect", run).code == 0


def test_attention_does_not_count_in_a_comparison():
    one = Translation("x", "y", 0.0, (5,))
    assert replace(one, attention=None) == one
