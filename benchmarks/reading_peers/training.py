"""The loop: what transformers' Trainer does at the least, against the clock, with the weights that were best on dev kept."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from peers.batches import Lengths, epochs, padded, useful
from peers.budget import Budget, cosine, linear
from peers.protocol import peak_mib
from torch import Tensor

SCHEDULES = {"cosine": cosine, "linear": linear}


@dataclass(frozen=True)
class Settings:
    """How a model is trained."""

    learning_rate: float
    minutes: float | None
    updates: int | None = None
    tokens: int = 2048
    """Of an update, without padding, at most."""
    order: str = "sorted"
    schedule: str = "cosine"
    betas: tuple[float, float] = (0.9, 0.98)
    decay: float = 0.01
    warmup: float = 0.1
    clip: float = 1.0
    precision: str = "fp32"
    checks: int = 10
    seed: int = 1


@dataclass(frozen=True)
class Trained:
    """What a training came to; the model has the weights of the best check."""

    updates: int
    epochs: float
    seconds: float
    useful: int
    padded: int
    peak_mib: int
    dev: float
    curve: tuple[float, ...]
    """The dev score at every check."""


class Trainable(Protocol):
    """What the loop knows of a task."""

    lengths: Lengths
    """Of the training rows."""

    def loss(self, model: Any, numbers: Sequence[int]) -> Tensor:
        """Of these training rows."""

    def dev_score(self, model: Any) -> float:
        """The more the better."""


def train(task: Trainable, model: Any, settings: Settings) -> Trained:
    """Updates until the budget is spent. Checks on dev stop the clock, the last one comes at the end."""
    torch.manual_seed(settings.seed)
    optimizer = torch.optim.AdamW(
        groups(model, settings.decay), lr=settings.learning_rate, betas=settings.betas, fused=True
    )
    batches = epochs(task.lengths, settings.tokens, settings.order, settings.seed)
    budget = Budget(settings.minutes, settings.updates)
    share = SCHEDULES[settings.schedule]
    real = full = examples = 0
    losses: list[float] = []
    curve: list[float] = []
    best: dict[str, Tensor] = {}
    progress, due = 0.0, 1 / settings.checks
    while progress < 1:
        model.train()
        numbers = next(batches)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * share(progress, settings.warmup)
        with torch.autocast("cpu", torch.bfloat16, enabled=settings.precision == "bf16"):
            loss = task.loss(model, numbers)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        budget.done += 1
        real += useful(task.lengths, numbers)
        full += padded(task.lengths, numbers)
        examples += len(numbers)
        progress = budget.progress
        if progress >= due:
            due = (int(progress * settings.checks) + 1) / settings.checks
            seconds = budget.seconds
            with budget.paused():
                score = task.dev_score(model.eval())
                if score >= max(curve, default=score):
                    best = {name: value.clone() for name, value in model.state_dict().items()}
                curve.append(score)
                print(f"{budget.done} updates, {seconds:.0f} s: loss {sum(losses) / len(losses):.3f}, dev {score:.2f}",
                      file=sys.stderr, flush=True)  # fmt: skip
                losses.clear()
    seconds, peak = budget.seconds, peak_mib()
    model.load_state_dict(best)
    model.eval()
    return Trained(
        budget.done, examples / len(task.lengths), seconds, real, full, peak, max(curve), tuple(curve)
    )


def groups(model: Any, decay: float) -> list[dict[str, Any]]:
    """All parameters, biases and norms without weight decay, as the examples of transformers have it."""
    matrices = [one for one in model.parameters() if one.ndim > 1]
    rest = [one for one in model.parameters() if one.ndim < 2]
    return [{"params": matrices, "weight_decay": decay}, {"params": rest, "weight_decay": 0.0}]
