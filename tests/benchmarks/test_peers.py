"""The comparison with other toolkits: one protocol, the same batches, a table of what was measured and of nothing else."""

from __future__ import annotations

import gzip
import importlib
import itertools
import json
import os
import re
import sys
import threading
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
LENGTHS = st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)), min_size=1, max_size=60)


@pytest.fixture(autouse=True, scope="module")
def importable():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "peers"]:
        del sys.modules[name]


def part(name):
    return importlib.import_module(f"peers.{name}")


@given(LENGTHS, st.integers(1, 40), st.sampled_from(["sorted", "grouped", "random"]), st.integers(0, 3))
def test_every_order_has_each_example_once_within_the_budget(lengths, tokens, order, seed):
    made = part("batches").batches(lengths, tokens, order, Random(seed))
    assert sorted(number for batch in made for number in batch) == list(range(len(lengths)))
    assert all(len(batch) == 1 or part("batches").useful(lengths, batch) <= tokens for batch in made)


def test_sorting_the_whole_set_pads_least_and_no_order_most():
    random = Random(0)
    lengths = [
        (length, max(1, length + random.randint(-3, 3))) for length in random.choices(range(1, 60), k=20_000)
    ]
    batches = part("batches")
    share = {}
    for order in ("sorted", "grouped", "random"):
        made = batches.batches(lengths, 512, order, Random(1))
        useful, padded = (
            sum(count(lengths, one) for one in made) for count in (batches.useful, batches.padded)
        )
        share[order] = 1 - useful / padded
    assert share["sorted"] < share["grouped"] < share["random"]


def test_grouped_batches_go_from_long_to_short_in_each_pool():
    lengths = [(number % 17 + 1, 3) for number in range(200)]
    numbers = list(
        itertools.chain.from_iterable(part("batches").batches(lengths, 2000, "grouped", Random(0)))
    )
    sources = [lengths[number][0] for number in numbers]
    assert sources == sorted(sources, reverse=True)  # fifty batches hold all: one pool


def test_epochs_differ_and_come_again_with_the_seed():
    lengths = [(number % 7 + 1, number % 5 + 1) for number in range(100)]
    first, again = (
        [*itertools.islice(part("batches").epochs(lengths, 30, "sorted", 1), 60)] for _ in range(2)
    )
    assert first == again
    other = [*itertools.islice(part("batches").epochs(lengths, 30, "sorted", 2), 60)]
    assert first != other


def test_padding_is_two_rectangles():
    lengths = [(2, 5), (3, 1), (9, 9)]
    assert part("batches").padded(lengths, [0, 1]) == 2 * 3 + 2 * 5
    assert part("batches").useful(lengths, [0, 1]) == 2 + 5 + 3 + 1


@pytest.mark.parametrize(("progress", "share"), [(0, 0), (0.05, 0.5), (0.1, 1), (0.55, 0.5), (1, 0)])
def test_the_learning_rate_rises_and_falls_as_half_a_cosine(progress, share):
    assert part("budget").cosine(progress, 0.1) == pytest.approx(share)


def test_a_budget_is_spent_by_updates_or_by_the_clock():
    budget = part("budget").Budget(None, 4)
    budget.done = 3
    assert budget.progress == 0.75
    assert part("budget").Budget(1e-9, None).progress == 1


ECHO = """
from peers.protocol import serve
class Echo:
    def __init__(self, *, word): self.word = word
    def facts(self): return {"word": self.word}
    def shout(self, *, times): print("noise"); return {"said": self.word * times}
serve(Echo)
"""


@pytest.fixture
def echo(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(BENCHMARKS)}
    contender = part("protocol").Contender([sys.executable, "-c", ECHO], environment, tmp_path / "log")
    yield contender
    contender.close()


def test_a_contender_answers_in_its_own_process_and_its_noise_is_no_answer(echo):
    assert echo.ask("start", word="a")["word"] == "a"
    answer = echo.ask("shout", times=3)
    assert answer["said"] == "aaa"
    assert answer["peak_mib"] > 1
    assert echo.ask("shout", times=1)["said"] == "a"


def test_a_failure_is_told_with_the_end_of_the_log_and_is_not_the_end(echo):
    failed = part("protocol").PeerError
    echo.ask("start", word="a")
    with pytest.raises(failed, match=r"shout: TypeError.*\n.*the end of .*log(.|\n)*Traceback"):
        echo.ask("shout", times="x")
    assert echo.ask("shout", times=2)["said"] == "aa"


def test_a_process_that_is_gone_is_told(tmp_path):
    gone = part("protocol").Contender(
        [sys.executable, "-c", "print(end='')"], dict(os.environ), tmp_path / "log"
    )
    with pytest.raises(part("protocol").PeerError, match=r"no answer|gone"):
        gone.ask("start")
    gone.close()


def test_a_foreign_loop_stops_between_steps_and_goes_on():
    made = []
    steps = None

    def loop():
        while True:
            steps.before()
            made.append(threading.get_ident())

    steps = part("steps").Steps(loop)
    for wanted in (3, 3, 5):
        steps.go(lambda wanted=wanted: len(made) < wanted)
        assert len(made) == wanted
    assert threading.get_ident() not in made


def test_a_foreign_loop_that_ends_or_fails_is_told():
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        part("steps").Steps(lambda: 1 / 0).go(lambda: True)
    with pytest.raises(RuntimeError, match="own end"):
        part("steps").Steps(lambda: None).go(lambda: True)


def test_names_carry_variants():
    entry = part("contenders").entry
    assert entry("mbart-bf16-grouped").options == {
        "architecture": "mbart",
        "learning_rate": 3e-3,
        "precision": "bf16",
        "order": "grouped",
    }
    assert entry("ours-168").options == {"hidden": 168}
    assert entry("ctranslate2").weights == "mbart"
    assert (entry("ctranslate2-ours-int8").weights, entry("ctranslate2-ours-int8").options) == (
        "ours",
        {"compute": "int8"},
    )
    for wrong in ("fairseq", "mbart-fp8", "mbart-ours"):
        with pytest.raises(ValueError, match=wrong.rpartition("-")[2]):
            entry(wrong)


def test_everybody_gets_the_same_environment():
    environment = part("contenders").environment(3)
    assert environment["OMP_NUM_THREADS"] == environment["MKL_NUM_THREADS"] == "3"
    assert environment["MALLOC_MMAP_MAX_"] == "0"


def test_a_ratio_is_taken_round_by_round():
    # A slow second round is slow for both: each round says that theirs takes twice the time.
    assert part("results").ratio([100.0, 10.0, 100.0], [200.0, 20.0, 200.0]) == 2


def test_speed_sums_tokens_and_takes_the_median_of_rounds():
    rounds = [{"useful": 90, "padded": 100, "updates": 3, "peak_mib": peak} for peak in (5, 7)]
    found = part("runs").speed(rounds, [10.0, 30.0], [40.0, 30.0])
    assert found["rate"] == 20
    assert found["padding"] == pytest.approx(0.1)
    assert (found["tokens"], found["peak_mib"], found["ratio"]) == (30, 7, 2.5)


def test_the_table_says_what_was_measured_and_nothing_else(tmp_path):
    results = part("results")
    results.add(tmp_path, "ours", "speed", {"rate": 12345.6})
    results.add(tmp_path, "ours", "quality", {"20 min": {"bleu": 38.123}})
    results.add(tmp_path, "ours", "quality", {"5 min": {"bleu": 31.5}, "1000 updates": {"dev_loss": 2.3456}})
    results.add(tmp_path, "mbart", "decode", {"beam 5 1": {"milliseconds": 7.25}})
    lines = results.table(results.read(tmp_path)).splitlines()
    assert (
        lines[0] == "| | tokens/s | BLEU, 5 min | BLEU, 20 min | dev loss, 1000 updates | one, beam 5, ms |"
    )
    assert lines[2] == "| ours | 12,346 | 31.50 | 38.12 | 2.346 | - |"
    assert lines[3] == "| mbart | - | - | - | - | 7.2 |"
    assert results.table({}) == "| |  |\n| --- |"


def test_the_longest_training_is_decoded(tmp_path):
    runs = part("runs")
    for budget in ({"updates": 1000}, {"minutes": 5}, {"minutes": 20}, {"minutes": 2.5}):
        runs.place(tmp_path, runs.title(budget), "ours").mkdir(parents=True)
    assert runs.longest(tmp_path) == "20 min"
    assert runs.weights(["ours", "mbart"], tmp_path, "20 min") == (
        {"ours": {"load": str(tmp_path / "runs" / "20-min" / "ours")}},
        1,
    )


def test_a_new_training_takes_the_old_one_and_its_conversion_away(tmp_path):
    runs = part("runs")
    for name in ("mbart", "ctranslate2-mbart", "marian"):
        (tmp_path / "20-min" / name).mkdir(parents=True)
    assert not runs.emptied(tmp_path / "20-min" / "mbart").exists()
    assert [path.name for path in (tmp_path / "20-min").iterdir()] == ["marian"]


@pytest.fixture
def exported(tmp_path):
    """A folder with a corpus of eight pairs."""
    corpus = part("corpus")
    data = tmp_path / "data"
    data.mkdir()
    pairs = [("A Dog runs .", "Ein Hund läuft ."), ("Two", "Zwei kleine Hunde")] * 4
    for name in corpus.PARTS:
        lines = [json.dumps({"source": source, "target": target}) for source, target in pairs]
        (data / f"{name}.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    corpus.write(data, tmp_path, 300)
    return tmp_path


def test_ours_is_trained_and_decoded_as_the_protocol_asks(exported):
    ours = part("ours").Ours(corpus_folder=str(exported), tokens=16, hidden=64, vocabulary=300)
    assert ours.facts()["parameters"] == sum(one.numel() for one in ours.trainer.model.parameters())
    train = part("corpus").read(exported).parts["train"]
    timed = ours.train(updates=2)
    assert timed["updates"] == 2
    assert 0 < timed["useful"] == timed["padded"] <= 32
    learned = ours.learn(folder=str(exported / "run"), updates=3)
    assert learned["updates"] == 3
    assert learned["dev_loss"] > 0
    # Whoever loads the run decodes as whoever trained it.
    again = part("ours").Ours(corpus_folder=str(exported), load=str(exported / "run"), vocabulary=300)
    found, other = (one.translate(beam=2, batch=3)["ids"] for one in (ours, again))
    assert found == other
    assert len(found) == len(train.source)


def test_a_step_is_profiled_to_its_kinds(exported, capsys):
    module = importlib.import_module("profile_training")
    sizes = {
        "layers": ["1", "1"],
        "tokens": ["16"],
        "dim": ["32"],
        "heads": ["1"],
        "hidden": ["32"],
        "vocabulary": ["300"],
    }
    options = [word for name, values in sizes.items() for word in (f"--{name}", *values)]
    module.main(["--data", str(exported / "data"), "--steps", "2", "--precision", "fp32", *options])
    told = capsys.readouterr().out
    kinds = dict(re.findall(r"^\| (.+?) \| ([\d.]+) ms", told, re.MULTILINE))
    assert {"products", "optimizer", "attention", "loss without its products"} <= kinds.keys()
    assert all(float(kinds[kind]) > 0 for kind in ("products", "optimizer"))
    assert re.search(r"arithmetic: [\d.]+ of \d+ GFLOP/s", told)


def test_ids_are_exported_once_and_read_without_us(exported):
    from regard.data.tokenizer import Tokenizer

    corpus = part("corpus")
    made = corpus.read(exported)
    train = made.parts["train"]
    assert all(ids[-1] == corpus.EOS for side in (train.source, train.target) for ids in side)
    assert [*train.source] == [train.source[number] for number in range(len(train.source))]
    assert train.lengths == [
        (len(source), len(target)) for source, target in zip(train.source, train.target, strict=True)
    ]
    tokenizer = Tokenizer.load(made.tokenizer)
    assert [tokenizer.decode(train.target[number]) for number in (0, 1)] == [
        "ein hund läuft .",
        "zwei kleine hunde",
    ]
    assert made.pieces == tokenizer.pieces(range(len(tokenizer)))
    order = corpus.by_length(train, 3)
    assert order[-1] == 1
    assert corpus.in_order(order, [[number] for number in order]) == [[0], [1], [2]]
    assert corpus.limit([[1, 2, 3], [1]]) == 16
