from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

PATH = Path(__file__).resolve().parents[2] / "benchmarks" / "generation.py"


@pytest.fixture(scope="module")
def generation():
    spec = importlib.util.spec_from_file_location("generation_benchmark", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_plain_model_sees_nothing_that_follows(generation):
    torch.manual_seed(0)
    model = generation.Plain(9, 2, 2, 8, 6, 0.0)
    one = torch.tensor([[1, 2, 3, 4, 5]])
    two = one.clone()
    two[0, 3] = 7
    assert torch.allclose(model(one)[:, :3], model(two)[:, :3])
    assert not torch.allclose(model(one)[:, 3:], model(two)[:, 3:])


@torch.no_grad()
def test_its_score_is_the_mean_over_blocks(generation):
    torch.manual_seed(0)
    model = generation.Plain(9, 1, 2, 8, 4, 0.0).eval()
    ids = torch.randint(0, 9, (11,))
    parts = [(0, 4), (4, 8), (8, 10)]
    total = sum(
        float(F.cross_entropy(model(ids[None, a:b])[0], ids[a + 1 : b + 1], reduction="sum"))
        for a, b in parts
    )
    assert generation.score(model, ids, 4) == pytest.approx(total / 10)


def test_the_command_prints_a_line(generation, tmp_path, monkeypatch, capsys):
    for split in ("train", "dev", "test"):
        (tmp_path / f"{split}.txt").write_text("a cat sat on a mat.\n" * 20)
    options = [
        "--only",
        "plain",
        "--steps",
        "3",
        "--layers",
        "1",
        "--dim",
        "8",
        "--heads",
        "2",
        "--block",
        "16",
    ]
    monkeypatch.setattr(sys, "argv", ["generation.py", "--data", str(tmp_path), *options])
    generation.main()
    *_, line = capsys.readouterr().out.splitlines()
    name, _, read, *_, test = (cell.strip() for cell in line.strip("|").split("|"))
    assert (name, read) == ("plain PyTorch", "576")
    assert 0 < float(test) < 4
