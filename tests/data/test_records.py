from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from regard._errors import DataError
from regard.data.lines import shorten
from regard.data.records import Record, check_length, read_records

PAIR = ("source", "target")
GOOD = '{"source": "A dog.", "target": "一只狗。"}\n'


def values(source: object, fields: tuple[str, ...] = PAIR, **options: int) -> list[dict[str, object]]:
    return [record.fields for record in read_records(source, fields, **options)]


def write(path: Path, text: str | bytes) -> Path:
    raw = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def problem(source: object, fields: tuple[str, ...] = PAIR, **options: int) -> str:
    with pytest.raises(DataError) as caught:
        list(read_records(source, fields, **options))
    message = str(caught.value)
    for part in ("Expected: ", "Received: ", "To mend it: "):
        assert part in message
    return message


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_jsonl_gives_records_with_their_place(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, GOOD + '{"source": "x", "target": "y", "id": 7}')
    first, second = read_records(path, PAIR)
    assert first == Record({"source": "A dog.", "target": "一只狗。", "targets": ["一只狗。"]}, str(path), 1)
    assert second.fields["id"] == 7
    assert second.place == f"{path}, line 2"


@pytest.mark.parametrize("name", ["a.tsv", "a.tsv.gz"])
def test_tsv_with_and_without_header(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, "id\ttarget\tsource\r\n1\tHund\tdog\r\n")
    assert values(path) == [{"id": "1", "target": "Hund", "source": "dog", "targets": ["Hund"]}]
    path = write(tmp_path / name, "dog\tHund\ncat\tKatze\n")
    assert [(row["source"], row["target"]) for row in values(path)] == [("dog", "Hund"), ("cat", "Katze")]


@pytest.mark.parametrize("name", ["a.csv", "a.CSV", "a.csv.gz"])
def test_csv_with_quotes_commas_and_line_breaks(tmp_path: Path, name: str) -> None:
    rows = b'\xef\xbb\xbfid,target,source\r\n1,"Hund, ""Rex""","dog\r\nRex"\r\n2,Katze,cat'
    records = list(read_records(write(tmp_path / name, rows), PAIR))
    first = {"id": "1", "target": 'Hund, "Rex"', "source": "dog\nRex", "targets": ['Hund, "Rex"']}
    assert records[0].fields == first
    assert [(record.fields["source"], record.line) for record in records] == [("dog\nRex", 2), ("cat", 4)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("source;target\ndog;Hund\n", "line 1: the column 'source' is missing. Expected: a header with 'source' and"),
        ("dog,Hund\ncat,Katze\n", "line 1: the column 'source' is missing"),
        ("source,target,source\na,b,c\n", "line 1: two columns have the same name"),
        ('source,target\n"a\nb",c\nd,e,f\n', "line 4: the line has the wrong number of columns. Expected: 2 columns"),
        ("source,target\n\na,b\n", "line 2: the line has the wrong number of columns"),
        ('source,target\na,"b\nc,d\n', "line 2: the row that begins here cannot be read"),
        ('source,target\na,"b"c\n', "line 2: the row that begins here cannot be read"),
        ('source,target\na,"' + "b" * 200_000 + '"\n', "line 2: the row that begins here cannot be read (field larger"),
        ("source,target\na, \n", "line 2: the field 'target' is empty"),
    ],
)  # fmt: skip
def test_bad_csv(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path / "a.csv", text)
    message = problem(path)
    assert message.startswith(f"{path}, line ")
    assert said in message
    assert len(message) < len(str(path)) + 500


def test_parallel_text_as_one_string_or_tuple(tmp_path: Path) -> None:
    english = write(tmp_path / "a.en", "dog\ncat\n")
    german = write(tmp_path / "a.de.gz", "Hund\nKatze")
    expected = [("dog", "Hund"), ("cat", "Katze")]
    for source in (f"{english},{german}", (english, german)):
        assert [(row["source"], row["target"]) for row in values(source)] == expected


def test_files_of_records_are_read_in_turn_for_any_number_of_fields(tmp_path: Path) -> None:
    lines = write(tmp_path / "a.jsonl", GOOD)
    table = write(tmp_path / "b.tsv.gz", "target\tsource\nHund\tdog\n")
    more = write(tmp_path / "c.JSONL", '{"source": "cat", "target": "Katze"}\n')
    records = list(read_records(f"{lines}, {table}, {more}", PAIR))
    assert [record.fields["source"] for record in records] == ["A dog.", "dog", "cat"]
    assert [record.place for record in records] == [f"{lines}, line 1", f"{table}, line 2", f"{more}, line 1"]
    assert [row["source"] for row in values((lines, more), ("source",))] == ["A dog.", "cat"]


def test_a_bad_line_of_the_second_file_is_named(tmp_path: Path) -> None:
    good, bad = write(tmp_path / "a.jsonl", GOOD), write(tmp_path / "b.jsonl", GOOD + "{}\n")
    assert problem(f"{good},{bad}").startswith(f"{bad}, line 2: the field 'source' is missing")


def test_records_beside_parallel_text_are_refused(tmp_path: Path) -> None:
    lines, text = write(tmp_path / "a.jsonl", GOOD), write(tmp_path / "a.de", "Hund\n")
    for source in (f"{lines},{text}", f"{text},{lines}"):
        message = problem(source)
        assert "files of records and parallel text are mixed" in message
        assert f"records in {lines}, and {text}, which by its name is plain text" in message


def test_a_name_with_a_comma_is_one_file(tmp_path: Path) -> None:
    assert len(values(str(write(tmp_path / "a,b.jsonl", GOOD)))) == 1


def test_plain_text_for_one_field(tmp_path: Path) -> None:
    assert values(write(tmp_path / "input.txt", "One.\nTwo.\n"), ("source",)) == [
        {"source": "One."},
        {"source": "Two."},
    ]
    assert "line 2: the field 'source' is empty" in problem(
        write(tmp_path / "input.txt", "One.\n\nTwo."), ("source",)
    )


def test_byte_order_mark_and_other_line_separators_are_no_trouble(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl",
        b"\xef\xbb\xbf" + json.dumps({"source": "a\u2028b\x85c", "target": "d"}).encode(),
    )
    assert values(path)[0]["source"] == "a\u2028b\x85c"
    path = write(tmp_path / "a.tsv", "a\u2028b\tc\n")
    assert values(path)[0]["source"] == "a\u2028b"


def test_several_references(tmp_path: Path) -> None:
    lines = [{"source": "s", "targets": ["a", "b"]}, {"source": "s", "target": "t", "targets": ["a"]}]
    path = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, lines)))
    first, second = values(path)
    assert (first["target"], first["targets"]) == ("a", ["a", "b"])
    assert (second["target"], second["targets"]) == ("t", ["a"])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "the line is empty"),
        ("source: A dog", "the line is not JSON"),
        ('{"source": "A dog.", "target": "Ein', "the line is not JSON"),
        ("[" * 100_000, "the line is not JSON"),
        ('["A dog.", "Ein Hund."]', "no object"),
        ("null", "Received: null"),
        ('{"source": "x", "traget": "y"}', "did you mean 'traget'"),
        ("{}", "no field"),
        ('{"source": 3, "target": "y"}', "a number, 3"),
        ('{"source": true, "target": "y"}', "a boolean, True"),
        ('{"source": null, "target": "y"}', "the field 'source' is not text"),
        ('{"source": ["x"], "target": "y"}', "a list, ['x']"),
        ('{"source": "x", "target": ""}', "the field 'target' is empty"),
        ('{"source": " \\t\\u200b\\u0000", "target": "y"}', "the field 'source' is empty"),
        ('{"source": "x", "targets": []}', "holds no references"),
        ('{"source": "x", "targets": "y"}', "holds no references"),
        ('{"source": "x", "target": "y", "targets": 3}', "holds no references"),
        ('{"source": "x", "targets": ["y", ""]}', "the field 'targets' is empty"),
        ('{"source": "x", "targets": ["y", 3]}', "the field 'targets' is not text"),
        ('{"source": "half \\ud83d", "target": "y"}', "half of a character"),
    ],
)
def test_bad_json_lines_are_named(tmp_path: Path, line: str, said: str) -> None:
    path = write(tmp_path / "train.jsonl", GOOD + line + "\n" + GOOD)
    message = problem(path)
    assert message.startswith(f"{path}, line 2: ")
    assert said in message
    assert len(message) < len(str(path)) + 500


def test_records_before_the_bad_one_arrive(tmp_path: Path) -> None:
    records = read_records(write(tmp_path / "a.jsonl", GOOD + "bad"), PAIR)
    assert next(records).line == 1
    with pytest.raises(DataError, match="line 2"):
        next(records)


def test_a_sentence_of_a_hundred_thousand_words(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", json.dumps({"source": "word " * 100_000, "target": "y"}))
    message = problem(path)
    assert "line 1: the field 'source' is too long" in message
    assert "500,000 characters" in message
    assert "--max-characters" in message
    assert len(values(path, max_characters=500_000)) == 1
    long_reference = write(tmp_path / "b.jsonl", json.dumps({"source": "x", "targets": ["y", "z" * 20_001]}))
    assert "'targets' is too long" in problem(long_reference)


def test_check_length_by_itself() -> None:
    check_length(Record({"source": "abc"}, "a.jsonl", 3), "source", 3)
    with pytest.raises(DataError, match=r"a\.jsonl, line 3: the field 'source' is too long"):
        check_length(Record({"source": "abcd"}, "a.jsonl", 3), "source", 3)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", GOOD)
    with pytest.raises(DataError, match=r"file not found.*did you mean 'train.jsonl'"):
        read_records(tmp_path / "trian.jsonl", PAIR)  # at once, before anything is iterated
    assert "does not exist either" in problem(tmp_path / "nowhere" / "train.jsonl")
    assert "file not found" in problem("A dog runs, " * 100 + "far")
    assert "file not found" in problem("A dog runs. " * 100)
    assert "this is a folder" in problem(tmp_path)
    assert "a path is empty" in problem("a.en,")
    assert "a path is empty" in problem("")


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.tsv", "a.tsv.gz"])
def test_empty_files(tmp_path: Path, name: str) -> None:
    assert "the file is empty" in problem(write(tmp_path / name, ""))
    (tmp_path / name).write_bytes(b"")
    assert "the file is empty" in problem(tmp_path / name)


def test_bad_utf8_names_line_and_byte(tmp_path: Path) -> None:
    message = problem(write(tmp_path / "a.tsv", "dog\tHund\nsheep\tSchäfchen\n".encode("latin-1")))
    assert "line 2, byte 10 of the line: the text is not UTF-8" in message
    assert "0xE4 after 'sheep\\tSch'" in message
    assert "UTF-16" in problem(write(tmp_path / "b.jsonl", GOOD.encode("utf-16")))
    assert "let its name end in .gz" in problem(write(tmp_path / "c.jsonl", gzip.compress(GOOD.encode())))


def test_damaged_gzip(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    whole = gzip.compress(
        "".join(f'{{"source": "{n * 7919}", "target": "y"}}\n' for n in range(2000)).encode()
    )
    path.write_bytes(whole[: len(whole) // 2])
    assert "the gzip file is cut short" in problem(path)
    path.write_bytes(GOOD.encode())
    assert "the file cannot be unpacked" in problem(path)
    path.write_bytes(whole[:200] + b"\xff" * 200 + whole[400:])
    assert "the file cannot be unpacked" in problem(path)


def test_parallel_files_of_unequal_length(tmp_path: Path) -> None:
    english = write(tmp_path / "a.en", "dog\ncat\nsheep\n")
    german = write(tmp_path / "a.de", "Hund\nKatze\n")
    for source in (f"{english},{german}", f"{german},{english}"):
        message = problem(source)
        assert message.startswith(f"{german}, line 3: the parallel files have unequal numbers of lines")
        assert "'sheep'" in message
    assert "not one file for each field" in problem(f"{english},{german},{german}")
    blank = write(tmp_path / "b.de", "Hund\n \nSchaf\n")
    assert problem(f"{english},{blank}").startswith(f"{blank}, line 2: the field 'target' is empty")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Source\tTarget\ndog\tHund\n", "did you mean"),
        ("source\ttext\ndog\tHund\n", "the column 'target' is missing"),
        ("dog\tHund\t(by Tom)\n", "exactly two columns and no header"),
        ("dog Hund\n", "1 columns"),
        ("source\ttarget\ndog\tHund\tx\n", "line 2: the line has the wrong number of columns"),
        ("dog\tHund\ncat\n", "line 2: the line has the wrong number of columns"),
        ("source\ttarget\tsource\na\tb\tc\n", "two columns have the same name"),
        ("dog\tHund\ncat\t\n", "line 2: the field 'target' is empty"),
    ],
)
def test_bad_tsv(tmp_path: Path, text: str, said: str) -> None:
    assert said in problem(write(tmp_path / "a.tsv", text))


@pytest.mark.parametrize(
    "first", ["en\tde", "English\tGerman", "zh-CN\ten_US", "src\ttgt", " Text\tTranslation "]
)
def test_a_first_line_of_languages_is_no_pair(tmp_path: Path, first: str) -> None:
    message = problem(write(tmp_path / "a.tsv", first + "\ndog\tHund\n"))
    assert "line 1: the line looks like the names of the columns" in message
    assert "name the columns 'source' and 'target' in the first line" in message


@pytest.mark.parametrize("first", ["Go.\tGeh.", "English\tEnglisch", "no\tno", "in German\tde", "he\ter"])
def test_a_first_pair_that_holds_a_language_is_a_pair(tmp_path: Path, first: str) -> None:
    assert len(values(write(tmp_path / "a.tsv", first + "\ndog\tHund\n"))) == 2


@pytest.mark.parametrize("text", ["dog\tHund\ncat\tKatze\n", "A dog.\nA cat.\n"])
def test_a_tsv_without_header_for_one_field(tmp_path: Path, text: str) -> None:
    message = problem(write(tmp_path / "a.tsv", text), ("source",))
    assert "the column 'source' is missing. Expected: a header with 'source', tabs between. " in message
    assert "one a line, into a file whose name ends in .txt" in message
    assert (
        values(write(tmp_path / "b.tsv", "source\ttarget\n" + "dog\tHund\n"), ("source",))[0]["source"]
        == "dog"
    )


@pytest.mark.parametrize("name", ["a.json", "a", "a.xlsx.gz"])
def test_unknown_formats(tmp_path: Path, name: str) -> None:
    assert "format of this file is not known" in problem(write(tmp_path / name, GOOD))


@pytest.mark.parametrize(
    ("name", "mend"),
    [
        ("a.XLSX", "save the table as CSV"),
        ("a.ods.gz", "save the table as CSV"),
        ("a.html", "one .txt file for each field"),
        ("a.json", "let the name end in .jsonl"),
    ],
)
def test_names_that_are_refused_for_every_number_of_fields_and_files(
    tmp_path: Path, name: str, mend: str
) -> None:
    path = write(tmp_path / name, GOOD)
    for source, fields in ((path, ("source",)), (path, PAIR), (f"{path},{path}", PAIR)):
        message = problem(source, fields)
        assert "format of this file is not known" in message
        assert mend in message


def test_shorten_keeps_short_values_whole() -> None:
    assert shorten("abc") == "'abc'"
    assert len(shorten("x" * 1000)) == 80
