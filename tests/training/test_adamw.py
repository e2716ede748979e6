from __future__ import annotations

import subprocess
import sys

import torch
from torch import nn

from regard.training.adamw import AdamW


def test_steps_are_those_of_pytorch():
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(5, 3)), nn.Parameter(torch.randn(7)), nn.Parameter(torch.randn(2))]
    theirs = [nn.Parameter(parameter.detach().clone()) for parameter in ours]
    settings = {"lr": 0.03, "betas": (0.8, 0.95), "eps": 1e-7, "weight_decay": 0.1}
    optimizer = AdamW([{"params": ours[:1]}, {"params": ours[1:], "lr": 0.01}], **settings)
    other = torch.optim.AdamW([{"params": theirs[:1]}, {"params": theirs[1:], "lr": 0.01}], **settings)
    for number in range(4):
        for mine, its in zip(
            ours[: 3 - number % 2], theirs, strict=False
        ):  # the last one has no gradient at times
            mine.grad = torch.randn_like(mine)
            its.grad = mine.grad.clone()
        optimizer.step()
        other.step()
        optimizer.zero_grad()
        other.zero_grad()
        assert all(parameter.grad is None for parameter in ours)
    for mine, its in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-6, atol=1e-7)


def test_training_does_not_import_the_compiler(tmp_path):
    """70 MB and seconds of waiting."""
    program = (
        "import sys; from regard.cli import main\n"
        f"main(['train', 'translate', '--out', {str(tmp_path / 'run')!r}, '--steps', '2', '--evaluations', '1', '--dev-examples', '5'])\n"
        "print('torch._dynamo' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.split()[-1] == "False", found.stderr
