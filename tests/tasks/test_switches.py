"""The switches of a recipe, through every task that writes: they reach the loss, and runs with them go on exactly."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from PIL import Image

from regard._errors import CheckpointError, ConfigError, DataError
from regard.metrics.extracts import gap_sentence
from regard.tasks import make_task
from regard.training import checkpoints, runs, teachers
from regard.training.phases import Rehearsal
from regard.training.progress import Reporter, Silence
from regard.training.recipe import Recipe

SMALL = {
    "dim": 16, "heads": 2, "hidden": 16, "decoder_layers": 1, "dropout": 0.0, "tokens": 200, "precision": "fp32", "threads": 1,
    "evaluations": 1, "dev_examples": 4, "label_smoothing": 0.0,
}  # fmt: skip
OF_TASK = {
    "translate": {"vocabulary": 300, "encoder_layers": 1},
    "summarize": {"vocabulary": 300, "encoder_layers": 1, "window": 8},
    "caption": {"vocabulary": 300, "encoder_layers": 1, "patch": 4, "warp": 0.0, "languages": "en,de"},
    "generate": {"context": 16},
}
NOUNS = ("parser", "editor", "viewer", "driver", "player", "server")
VERBS = ("reads", "writes", "shows", "sorts")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """For each task a file of 24 examples."""
    folder = tmp_path_factory.mktemp("switches")
    pairs = list(itertools.product(NOUNS, VERBS))
    texts = [
        f"This is a {noun}. It {verb} files and the {noun} is free. Nobody minds." for noun, verb in pairs
    ]
    both = [
        {"source": text, "target": f"{noun} {verb}"} for text, (noun, verb) in zip(texts, pairs, strict=True)
    ]
    rng = np.random.default_rng(0)
    shown = []
    for number, (noun, verb) in enumerate(pairs):
        pixels = rng.integers(0, 256, (8, 8 + 4 * (number % 2), 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        german = {"captions_de": [f"{verb} {noun}"]} if number % 3 else {}
        shown.append(
            {"image": f"{number}.png", "captions": [f"{noun} {verb}", noun][: 1 + number % 2], **german}
        )
    found = {}
    for task, rows in (("translate", both), ("summarize", both), ("caption", shown)):
        found[task] = folder / f"{task}.jsonl"
        found[task].write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")
    found["generate"] = folder / "text.txt"
    found["generate"].write_text("\n".join(texts), encoding="utf8")
    return found


@pytest.fixture(autouse=True)
def memory_is_left_alone(monkeypatch):
    monkeypatch.setattr(runs, "keep_freed_memory", lambda: False)


@pytest.fixture
def begun(data, tmp_path):
    """Makes trainers in new run folders."""
    numbers = itertools.count()

    def make(task, **options):
        recipe = Recipe(**({"steps": 8} | SMALL | OF_TASK[task] | options))
        folder = tmp_path / f"{task}{next(numbers)}"
        reporter = Reporter(folder / "metrics.jsonl", Silence())
        return runs.begin(make_task(task), recipe, data[task], data[task], folder, reporter)

    return make


def loss_of(trainer):
    torch.manual_seed(1)
    phase = trainer.learning
    return phase.loss(phase.batch(np.arange(4), 0), 0.25)


def every_parameter(trainer):
    return {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}


def assert_goes_on_exactly(begun, task, stop, meanwhile=lambda: None, **options):
    """A run that is stopped after some updates and taken up again leaves what one that never stopped does."""
    whole, broken = begun(task, **options), begun(task, **options)
    whole.run()
    for _ in range(stop):
        broken.update(broken.progress())
    broken.save()
    meanwhile()
    again = runs.resume(make_task(task), broken.folder, Reporter(None, Silence()))
    again.run()
    found = every_parameter(again)
    for name, parameter in every_parameter(whole).items():
        assert torch.equal(found[name], parameter), name
    return again


@pytest.mark.parametrize("task", OF_TASK)
def test_two_passes_are_compared(begun, task):
    plain = begun(task)
    same = begun(task, r_drop=5.0)
    torch.testing.assert_close(loss_of(same), loss_of(plain))  # without dropout they agree
    apart = [loss_of(begun(task, dropout=0.3, r_drop=weight)) for weight in (1e-9, 5.0)]
    assert apart[1] > apart[0] * 1.0005
    same.update(0.5)


@pytest.mark.parametrize("task", OF_TASK)
def test_who_says_what_the_teacher_says_has_nothing_to_learn_from_it(begun, task):
    teacher = begun(task)
    student = begun(task, teacher=str(teacher.folder), teacher_share=1.0, seed=5)
    assert loss_of(student) > 1
    checkpoints.load_weights(teacher.folder, student.model)
    assert loss_of(student).item() == pytest.approx(0.0, abs=1e-3)
    mixed = begun(task, teacher=str(teacher.folder), teacher_share=0.25)
    checkpoints.load_weights(teacher.folder, mixed.model)
    torch.testing.assert_close(loss_of(mixed), 0.75 * loss_of(begun(task)))


@pytest.mark.parametrize("task", OF_TASK)
def test_a_student_comes_nearer_to_its_teacher(begun, task):
    teacher = begun(task)
    teacher.run()
    options = {
        "teacher_share": 1.0,
        "steps": 20,
        "matrix_learning_rate": 0.05,
        "learning_rate": 0.02,
        "seed": 5,
    }
    student = begun(task, teacher=str(teacher.folder), dim=32, **options)
    before = loss_of(student).item()
    for _ in range(12):
        student.update(0.5)
    assert loss_of(student).item() < 0.8 * before


@pytest.mark.parametrize("task", OF_TASK)
def test_a_student_has_the_pieces_of_its_teacher(begun, data, tmp_path, task, monkeypatch):
    teacher = begun(task)
    few = tmp_path / "few.jsonl"
    monkeypatch.setitem(data, task, few if task == "translate" else data[task])
    few.write_text('{"source": "other words", "target": "altogether"}\n' * 3, encoding="utf8")
    decided = dict.fromkeys(teacher.task.taught)
    student = begun(task, teacher=str(teacher.folder), **decided | {"lowercase": False})
    for name in decided:
        assert getattr(student.recipe, name) == getattr(teacher.recipe, name) or name == "units"
    for name in ("tokenizer.json", "captions.json"):
        if (teacher.folder / name).exists():
            found, expected = (
                json.loads((one.folder / name).read_text("utf8")) for one in (student, teacher)
            )
            assert found == expected
    assert student.teacher is not None
    assert f"taught by {teacher.folder}" in runs.describe(student, prepared(student, data[task]))


def prepared(trainer, source):
    return runs.Prepared(source, source, trainer.recipe, [], [], 0)


def test_a_run_with_a_teacher_goes_on_exactly_though_the_teacher_is_gone(begun):
    teacher = begun("translate")
    options = {"teacher": str(teacher.folder), "dropout": 0.1, "r_drop": 1.0, "average": 0.2}

    def go():
        for path in teacher.folder.glob("*.*"):
            path.unlink()

    again = assert_goes_on_exactly(begun, "translate", 3, go, **options)
    kept = again.folder / "state" / teachers.TEACHER
    assert {path.name for path in kept.iterdir()} == set(teachers.KEPT)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"vocabulary": 400}, r"Expected: vocabulary = 300.*Received: 400.*leave --vocabulary out"),
        ({"lowercase": True}, r"Expected: lowercase = False.*leave --lowercase out"),
        ({"teacher": "nowhere"}, "holds no run: config.toml is missing"),
    ],
)
def test_what_does_not_go_with_a_teacher_is_refused(begun, tmp_path, given, message):
    teacher = begun("translate")
    with pytest.raises((ConfigError, CheckpointError), match=message):
        begun("translate", **{"teacher": str(teacher.folder)} | given)
    assert {path.name for path in tmp_path.iterdir()} == {teacher.folder.name}


def test_a_teacher_of_another_task_a_damaged_one_and_the_run_itself_are_refused(begun, data):
    teacher = begun("translate")
    with pytest.raises(ConfigError, match=r"a run of 'summarize'. Received: .*, a run of 'translate'"):
        begun("summarize", teacher=str(teacher.folder))
    with pytest.raises(ConfigError, match=r"the task 'classify' knows no such option.*Received: teacher = "):
        runs.prepare(make_task("classify"), Recipe(steps=1, teacher=str(teacher.folder)), "none", None)
    recipe = Recipe(steps=1, teacher=str(teacher.folder))
    given = recipe, data["translate"], None, teacher.folder, Reporter(None, Silence())
    with pytest.raises(ConfigError, match="would be replaced by the run"):
        runs.begin(make_task("translate"), *given, overwrite=True)
    (teacher.folder / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(CheckpointError, match="damaged or cut short"):
        begun("translate", teacher=str(teacher.folder))


def test_characters_that_a_teacher_does_not_know_are_named(begun, data, tmp_path, monkeypatch):
    teacher = begun("generate")
    other = tmp_path / "other.txt"
    other.write_text("ǂ\n" * 40, encoding="utf8")
    monkeypatch.setitem(data, "generate", other)
    with pytest.raises(
        DataError, match=r"other\.txt, line 1: the text has characters that training did not show"
    ):
        begun("generate", teacher=str(teacher.folder))


def test_a_share_without_a_teacher_is_refused():
    with pytest.raises(ConfigError, match="teacher_share says nothing without teacher"):
        runs.prepare(make_task("translate"), Recipe(steps=1, teacher_share=0.3), "none", None)
    with pytest.raises(ConfigError, match="'teacher_share' must be a number above 0"):
        Recipe(teacher="x", teacher_share=0.0)


def test_summaries_are_rehearsed_on_the_sentences_that_say_most(begun, data, tmp_path):
    more = tmp_path / "more.txt"
    more.write_text("A single sentence\nOne file. Two files and one file.\n", encoding="utf8")
    trainer = begun("summarize", pretrain=0.5, unlabelled=str(more), bpe_dropout=0.2, variants=5)
    task, phase = trainer.task, trainer.pretraining
    assert isinstance(phase, Rehearsal)
    assert len(trainer.texts) == 24 + 2
    assert phase.batches.variants == 1
    documents = [json.loads(line)["source"] for line in data["summarize"].read_text("utf8").splitlines()]
    documents += ["A single sentence", "One file. Two files and one file."]
    for number, text in enumerate(documents):
        found = trainer.texts.gather([number])
        source, target = (found[name][0].tolist() for name in task.streams)
        assert source[-1] == target[-1] == task.tokenizer.eos
        gap = gap_sentence(text)
        if number % 2 or gap is None:
            assert task.tokenizer.decode(source) == " ".join(filter(None, gap or [text]))
            assert task.tokenizer.decode(target) == (gap[1] if gap else text)
            continue
        before, sentence, after = gap
        assert task.tokenizer.decode(target) == sentence
        place = source.index(task.tokenizer.unk)
        assert task.tokenizer.decode(source[:place]) == before
        assert task.tokenizer.decode(source[place + 1 :]) == after
    assert "writes the sentence that says most of each of 26 texts" in runs.describe(
        trainer, prepared(trainer, data["summarize"])
    )


def test_decoder_and_copying_head_learn_from_the_rehearsal(begun):
    trainer = begun("summarize", pretrain=0.5)
    before = every_parameter(trainer)
    for _ in range(2):
        trainer.update(0.25)
    moved = {name for name, value in every_parameter(trainer).items() if not torch.equal(value, before[name])}
    assert {"gate", "before", "copy_query.weight"} < moved
    assert any(name.startswith("decoder") for name in moved)
    assert trainer.batches.state_dict()["batch"] == 0  # the task itself has not begun


@pytest.mark.parametrize("stop", [2, 6])  # while it rehearses, and after
def test_a_run_that_rehearses_goes_on_exactly(begun, stop):
    options = {
        "pretrain": 0.5,
        "dropout": 0.1,
        "r_drop": 1.0,
        "coverage": 1.0,
        "bpe_dropout": 0.1,
        "variants": 2,
    }
    assert_goes_on_exactly(begun, "summarize", stop, **options)


def test_of_few_documents_the_choice_of_a_sentence_is_learned_first():
    few, many = (make_task("summarize").sizes(examples) for examples in (4_999, 5_000))
    assert few["pretrain"] == 0.4
    assert "pretrain" not in many


def test_coverage_of_a_recipe_counts_second_looks(begun):
    plain, covered = loss_of(begun("summarize")), loss_of(begun("summarize", coverage=2.0))
    assert covered > plain + 0.01


def test_documents_are_cut_in_several_ways(begun):
    plain, dropped = begun("summarize"), begun("summarize", bpe_dropout=0.3, variants=3)
    assert len(dropped.store) == 3 * len(plain.store)
    assert dropped.store.lengths.sum() > 3 * plain.store.lengths.sum()
    dropped.update(0.5)


def test_the_finish_of_a_captioner_comes_last_and_leaves_a_run_that_captions(begun, monkeypatch):
    trainer = begun("caption", cider_finish=0.5, evaluations=2, dropout=0.1)
    called = {"loss": [], "finish_loss": []}
    for name, steps in called.items():
        method = getattr(trainer.task, name)

        def counted(model, *rest, method=method, steps=steps):
            if torch.is_grad_enabled():
                steps.append(trainer.position.step)
            return method(model, *rest)

        monkeypatch.setattr(trainer.task, name, counted)
    before = None
    update = trainer.update

    def kept(progress):
        nonlocal before
        if trainer.position.step == 4:
            before = every_parameter(trainer)
        update(progress)

    monkeypatch.setattr(trainer, "update", kept)
    trainer.run()
    assert called == {"loss": [0, 1, 2, 3], "finish_loss": [4, 5, 6, 7]}
    assert any(not torch.equal(value, before[name]) for name, value in every_parameter(trainer).items())
    events = [json.loads(line) for line in (trainer.folder / "metrics.jsonl").read_text("utf8").splitlines()]
    assert [event["step"] for event in events if event["event"] == "dev"] == [4, 8]


def test_a_finish_goes_on_exactly(begun):
    assert_goes_on_exactly(begun, "caption", 6, cider_finish=0.5, dropout=0.1)
