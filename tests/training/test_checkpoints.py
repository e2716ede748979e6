from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from regard._errors import CheckpointError
from regard.training import checkpoints
from regard.training.checkpoints import load_state, load_weights, save_state, save_weights


class CrashError(Exception):
    """The power is gone."""


def crash_at(monkeypatch, number):
    """Raise at the nth file operation from now on; returns how many there have been."""
    done = [0]

    def counted(function):
        def call(*arguments, **options):
            done[0] += 1
            if done[0] == number:
                raise CrashError
            return function(*arguments, **options)

        return call

    def halved(function):
        """Writing stops in the middle."""

        def call(tensors, path):
            done[0] += 1
            function(tensors, path)
            if done[0] == number:
                Path(path).write_bytes(Path(path).read_bytes()[:-7])
                raise CrashError

        return call

    monkeypatch.setattr(Path, "replace", counted(Path.replace))
    monkeypatch.setattr(Path, "unlink", counted(Path.unlink))
    monkeypatch.setattr(Path, "write_text", counted(Path.write_text))
    monkeypatch.setattr(os, "fsync", counted(os.fsync))
    monkeypatch.setattr(checkpoints, "save_file", halved(checkpoints.save_file))
    return done


def state(step):
    return {"model/x": torch.full((3,), float(step))}, {"step": step, "best": 1.5}


def operations(tmp_path, save):
    """How many file operations one save takes."""
    with pytest.MonkeyPatch.context() as patch:
        done = crash_at(patch, None)
        save()
    return done[0]


def test_a_state_is_loaded_as_it_was_saved(tmp_path):
    for step in (10, 20):
        tensors, facts = state(step)
        save_state(tmp_path, tensors, facts)
    tensors, facts = load_state(tmp_path)
    assert facts["step"] == 20
    assert facts["best"] == 1.5
    torch.testing.assert_close(tensors, state(20)[0])
    assert len(list((tmp_path / "state").iterdir())) == 2


def test_whenever_a_save_is_interrupted_the_old_or_the_new_state_loads(tmp_path):
    save_state(tmp_path, *state(10))
    count = operations(tmp_path, lambda: save_state(tmp_path, *state(20)))
    assert count >= 6
    for number in range(1, count + 1):
        folder = tmp_path / str(number)
        folder.mkdir()
        save_state(folder, *state(10))
        with pytest.MonkeyPatch.context() as patch:
            crash_at(patch, number)
            with pytest.raises(CrashError):
                save_state(folder, *state(20))
        tensors, facts = load_state(folder)
        assert facts["step"] in {10, 20}
        assert tensors["model/x"][0] == facts["step"]
        save_state(folder, *state(30))
        assert load_state(folder)[1]["step"] == 30
        assert len(list((folder / "state").iterdir())) == 2


def test_whenever_weights_are_interrupted_the_old_or_the_new_load(tmp_path):
    def model(value):
        made = nn.Linear(2, 2)
        nn.init.constant_(made.weight, value)
        return made

    save_weights(tmp_path, model(1.0))
    count = operations(tmp_path, lambda: save_weights(tmp_path, model(2.0)))
    assert count >= 3
    for number in range(1, count + 1):
        folder = tmp_path / str(number)
        folder.mkdir()
        save_weights(folder, model(1.0))
        with pytest.MonkeyPatch.context() as patch:
            crash_at(patch, number)
            with pytest.raises(CrashError):
                save_weights(folder, model(2.0))
        loaded = nn.Linear(2, 2)
        load_weights(folder, loaded)
        assert loaded.weight[0, 0].item() in {1.0, 2.0}


@pytest.mark.parametrize("size", [0, 5, 100, -1])
def test_weights_cut_short_are_refused(tmp_path, size):
    model = nn.Linear(30, 30)
    save_weights(tmp_path, model)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(
        CheckpointError, match=r"model.safetensors is damaged or cut short .*Restore it, or train again"
    ):
        load_weights(tmp_path, model)


def test_missing_and_foreign_weights_are_refused(tmp_path):
    with pytest.raises(
        CheckpointError, match=r"model.safetensors does not exist; expected the weights of a finished"
    ):
        load_weights(tmp_path, nn.Linear(2, 2))
    save_weights(tmp_path, nn.Linear(3, 2))
    with pytest.raises(
        CheckpointError, match=r"belongs to another model: 'weight' is \(2, 3\) there, expected \(2, 2\)"
    ):
        load_weights(tmp_path, nn.Linear(2, 2))
    with pytest.raises(CheckpointError, match=r"'bias' is \(2,\) there, expected None"):
        load_weights(tmp_path, nn.Linear(3, 2, bias=False))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", "null", '{"step": 10}', '{"tensors": 3}', '{"tensors": "gone.safetensors"}']
)
def test_a_damaged_state_is_refused(tmp_path, text):
    save_state(tmp_path, *state(10))
    (tmp_path / "state" / "latest.json").write_text(text, encoding="utf8")
    with pytest.raises(CheckpointError):
        load_state(tmp_path)


def test_a_missing_state_and_tensors_cut_short_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="the run saved no state to resume from"):
        load_state(tmp_path)
    save_state(tmp_path, *state(10))
    name = json.loads((tmp_path / "state" / "latest.json").read_text(encoding="utf8"))["tensors"]
    path = tmp_path / "state" / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="damaged or cut short"):
        load_state(tmp_path)


def test_nothing_is_unpickled(tmp_path):
    """A file that would run code when unpickled is refused as damaged."""
    import pickle

    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "evil"),))

    (tmp_path / "model.safetensors").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CheckpointError):
        load_weights(tmp_path, nn.Linear(2, 2))
    torch.save({"weight": Evil()}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError):
        load_weights(tmp_path, nn.Linear(2, 2))
    assert not (tmp_path / "evil").exists()
