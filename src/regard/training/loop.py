"""The training loop: updates against the clock, scored on the dev set, resumable at every step."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from regard._errors import CheckpointError, RegardError
from regard.data.packing import pack_streams
from regard.data.permutation import derived
from regard.data.records import Record
from regard.data.store import TokenStore
from regard.metrics.translation import Score
from regard.training import checkpoints, pretraining, workers
from regard.training.averaging import WeightAverage
from regard.training.fine_tuning import pretrained_groups
from regard.training.memory import release_freed_memory
from regard.training.muon import make_optimizers
from regard.training.phases import Learning, Phase
from regard.training.precision import autocast
from regard.training.progress import Reporter
from regard.training.recipe import Recipe
from regard.training.schedule import learning_rate_share, stage
from regard.training.stopping import Stop
from regard.training.task import Task

TOGETHER = 8192  # tokens of the dev set whose loss is computed at once
LOSS_TOKENS = 2**16  # of the dev set whose loss is computed, about; what decides are its predictions
TRAINED = 4  # seconds of training at least for one of scoring, of a budget in minutes


@dataclass
class Position:
    """How far a run has come."""

    step: int = 0
    seconds: float = 0.0
    best: float = -math.inf
    best_loss: float = math.inf
    best_step: int = 0
    stale: int = 0
    evaluated: int = 0
    scoring: float = 0.0  # seconds that the last evaluation took
    scored_at: float = 0.0
    saved_at: float = 0.0

    def compare(self, score: float, loss: float) -> bool:
        """Take note of a dev score and its loss: whether they are the best so far.

        Where scores are equal, as at the beginning when all are 0, the loss decides.
        """
        better = (score, -loss) > (self.best, -self.best_loss)
        if better:
            self.best, self.best_loss, self.best_step, self.stale = score, loss, self.step, 0
        else:
            self.stale += 1
        return better


@dataclass
class Trainer:
    """One run: a model, its optimizers, its data, and where they stand."""

    task: Task
    recipe: Recipe
    folder: Path
    store: TokenStore
    dev: Sequence[Record]
    reporter: Reporter
    texts: TokenStore | None = None
    """What the model is pretrained on, where it is."""
    teacher: nn.Module | None = None
    """What is learned from beside the data, where there is one."""
    position: Position = field(default_factory=Position)

    def __post_init__(self) -> None:
        torch.manual_seed(self.recipe.seed)
        self.model = self.task.model(self.recipe)
        self.parameters = list(self.model.parameters())
        self.optimizers = make_optimizers(
            self.model,
            self.recipe.matrix_learning_rate,
            self.recipe.learning_rate,
            self.recipe.weight_decay,
            pretrained=pretrained_groups(self.model, self.recipe),
        )
        self.average = WeightAverage(self.model, self.recipe.average) if self.recipe.average else None
        self.learning = Learning(self.task, self.model, self.recipe, self.store, self.teacher)
        self.batches = self.learning.batches
        self.pretraining = (
            None if self.texts is None else pretraining.before(self.task, self.model, self.recipe, self.texts)
        )
        self.dev_store: list[tuple[Any, ...]] = list(self.task.encode(self.dev))

    def run(self) -> Position:
        """Train until the budget is spent or the dev score stays behind; the weights to use are in the run folder."""
        started = time.monotonic() - self.position.seconds
        self.reporter.start(self.recipe, self.position.seconds)
        release_freed_memory()  # what reading the data has left
        with Stop() as stop:
            while (progress := self.progress()) < 1 and not self._settled():
                self.update(progress)
                self.position.seconds = workers.first(time.monotonic() - started)
                # Evaluations that fell due while another one ran, or too soon after it, are not made up for.
                is_before, share = stage(self.progress(), self.recipe.pretrain)
                due = 0 if is_before else int(share * self.recipe.evaluations + 1e-9)
                if due > self.position.evaluated and self._may_score():
                    self.position.evaluated = due
                    self.evaluate()
                    before = self.position.seconds
                    self.position.seconds = workers.first(time.monotonic() - started)
                    self.position.scoring = self.position.seconds - before
                    self.position.scored_at = self.position.seconds
                    self.save()
                    release_freed_memory()
                elif self._due() or stop.asked:
                    self.save()
                if stop.asked:
                    raise KeyboardInterrupt
        self.reporter.finish(
            self.position.step, self.position.seconds, self.sign * self.position.best, self.position.best_step
        )
        return self.position

    @property
    def sign(self) -> int:
        """-1 where less is better, as of bits per character."""
        return -1 if getattr(self.task, "descends", False) else 1

    def progress(self) -> float:
        """The share of the budget that is spent; the last evaluation's time is kept free."""
        if self.recipe.steps is not None:
            return self.position.step / self.recipe.steps
        budget = 60 * (self.recipe.minutes or 1)
        return min(1.0, self.position.seconds / max(budget / 2, budget - self.position.scoring))

    def update(self, progress: float) -> None:
        """One step of the optimizers over one global batch."""
        if not self.model.training:  # a walk over all modules, which an update would notice
            self.model.train()
        # Dropout depends on the step alone, so that no generator's state needs to be kept for any worker.
        torch.manual_seed(derived(self.recipe.seed, self.position.step, workers.rank()))
        # Of a budget in updates each counts at its own middle: none at the rates of 0 with which a run begins and ends.
        half = 0.5 / self.recipe.steps if self.recipe.steps else 0.0
        is_before, done = stage(progress + half, self.recipe.pretrain)
        phase: Phase = self.pretraining if is_before and self.pretraining else self.learning
        share = learning_rate_share(done, self.recipe.warmup)
        indices = next(phase.batches)
        pieces = np.array_split(indices, self.recipe.accumulate)
        parts = [phase.batch(piece, self.position.step) for piece in pieces if len(piece)]
        counted = max(1, workers.total(sum(phase.counted(part) for part in parts)))
        loss = 0.0
        for part in parts:
            with autocast(self.recipe.precision):
                summed = phase.loss(part, progress)
            summed.backward()
            loss += float(summed.detach())
        workers.sum_gradients(parameter for parameter in phase.parameters() if parameter.requires_grad)
        norm = scale_and_clip(self.parameters, counted, self.recipe.clip)
        loss = workers.total(loss) / counted
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise RegardError(
                f"training diverged at step {self.position.step + 1}: the loss is {loss}. Lower --learning-rate "
                f"({self.recipe.learning_rate}) or --matrix-learning-rate ({self.recipe.matrix_learning_rate})."
            )
        self._step(share)
        tokens = sum(phase.tokens(part) for part in parts)
        self.reporter.step(
            step=self.position.step,
            loss=loss,
            tokens=workers.total(tokens),
            share=share,
            progress=self.progress(),
            epoch=phase.batches.epoch,
        )

    def _step(self, share: float) -> None:
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * share
            optimizer.step()
            optimizer.zero_grad()
        self.position.step += 1
        if self.average is not None:
            self.average.update(self.position.step)

    def evaluate(self) -> list[Score]:
        """Score the averaged weights on the dev set; the best so far are kept as the ones to use."""
        self.model.eval()
        averaged = nullcontext() if self.average is None else self.average.in_place()
        with averaged, torch.no_grad():
            self.task.calibrate(self.model, self.dev, self.dev_store)
            loss = self.dev_loss()
            records = self.dev[: self.recipe.dev_examples]
            inputs = [self.task.input_of(record) for record in records]
            quick = {"beam": 1} if "beam" in self.task.options else {}
            # What is read is read in the precision of training; what is written, token by token, and likelihoods stay as they are.
            reads = not quick and self.sign > 0
            with autocast(self.recipe.precision if reads else "fp32"):
                mine = self.task.predict(self.model, inputs[workers.rank() :: workers.world()], **quick)
            scores = self.task.score(workers.gathered(mine), records)
            better = self.position.compare(self.sign * workers.first(scores[0].value), loss)
            if better and workers.rank() == 0:
                checkpoints.save_weights(self.folder, self.model)
        values = {score.name: score.value for score in scores}
        self.reporter.dev(self.position.step, loss, values, better, getattr(self.task, "digits", 1))
        return scores

    def dev_loss(self) -> float:
        """Mean loss of a counted dev token, in nats, without label smoothing; of a large dev set's first examples."""
        summed, counted = 0.0, 0
        mine = self.dev_store[workers.rank() :: workers.world()]
        most = max(1, LOSS_TOKENS // workers.world() // TOGETHER)
        for part in itertools.islice(parts_of(mine, TOGETHER), most):
            batch = pack_streams(part, self.task.streams)
            summed += float(self.task.loss(self.model, batch, 0.0))
            counted += self.task.counted(batch)
        return workers.total(summed) / max(1, workers.total(counted))

    def save(self) -> None:
        """Write everything that going on needs."""
        if workers.rank() != 0:
            return
        tensors: dict[str, Tensor] = {
            f"model/{name}": p.detach() for name, p in self.model.named_parameters()
        }
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        for number, optimizer in enumerate(self.optimizers):
            for parameter, state in optimizer.state.items():
                tensors |= {f"optimizer{number}/{names[id(parameter)]}/{key}": v for key, v in state.items()}
        if self.average is not None:
            tensors |= {f"average/{name}": tensor for name, tensor in self.average.weights.items()}
        self.position.saved_at = self.position.seconds
        place = {name: _finite(value) for name, value in vars(self.position).items()}
        facts = {**place, "batches": self.batches.state_dict()}
        if self.pretraining is not None:
            facts["pretraining"] = self.pretraining.batches.state_dict()
        contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
        checkpoints.save_state(self.folder, contiguous, facts | {"reporter": self.reporter.state()})

    def resume(self) -> None:
        """Go on exactly where `save` was called last."""
        tensors, facts = checkpoints.load_state(self.folder)
        try:
            self._restore(tensors, facts)
        except (KeyError, RuntimeError) as error:
            raise CheckpointError(
                f"the state in {self.folder} does not belong to this recipe ({error})."
            ) from error

    @torch.no_grad()
    def _restore(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        self.batches.load_state_dict(facts["batches"])
        if self.pretraining is not None:
            self.pretraining.batches.load_state_dict(facts["pretraining"])
        self.reporter.restore(facts["reporter"])
        self.position = Position(
            **{name: facts[name] for name in vars(Position()) if facts[name] is not None}
        )
        for name, parameter in self.model.named_parameters():
            parameter.copy_(tensors[f"model/{name}"])
            if self.average is not None:
                self.average.weights[name].copy_(tensors[f"average/{name}"])
        parameters = dict(self.model.named_parameters())
        for key, tensor in tensors.items():
            if key.startswith("optimizer"):
                title, name, entry = key.split("/")
                self.optimizers[int(title.removeprefix("optimizer"))].state[parameters[name]][entry] = tensor

    def _settled(self) -> bool:
        """Whether the last score has been taken, or scores have stayed behind for long."""
        position, recipe = self.position, self.recipe
        return position.evaluated >= recipe.evaluations or position.stale >= recipe.patience

    def _may_score(self) -> bool:
        """Whether training had most of the time since the last score; the last one of all comes whatever it takes."""
        if self.recipe.steps is not None or self.progress() >= 1:
            return True
        return self.position.seconds - self.position.scored_at >= TRAINED * self.position.scoring

    def _due(self) -> bool:
        if self.recipe.save_steps is not None:
            return self.position.step % self.recipe.save_steps == 0
        return self.position.seconds - self.position.saved_at >= 60 * self.recipe.save_minutes


def steps_of(trainer: Trainer, count: int) -> Iterator[float]:
    """Seconds of each of `count` updates, for an estimate; the trainer is used up by it."""
    for _ in range(count):
        begin = time.monotonic()
        trainer.update(0.5)
        yield time.monotonic() - begin


def parts_of(
    examples: Sequence[tuple[Sequence[int], ...]], tokens: int
) -> Iterator[list[tuple[Sequence[int], ...]]]:
    """Examples in order, in lists of at most so many tokens over all streams; a longer example is a list by itself."""
    part: list[tuple[Sequence[int], ...]] = []
    held = 0
    for example in examples:
        size = sum(map(len, example))
        if part and held + size > tokens:
            yield part
            part, held = [], 0
        part.append(example)
        held += size
    if part:
        yield part


def scale_and_clip(parameters: Iterable[Tensor], counted: float, largest: float) -> float:
    """Divide all gradients by `counted`, then shorten them to `largest` together; one pass does both. Returns the norm before."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = float(nn.utils.get_total_norm(gradients, foreach=True)) / counted
    torch._foreach_mul_(gradients, min(1.0, largest / (norm + 1e-6)) / counted)
    return norm


def _finite(number: float) -> float | None:  # JSON has no infinity
    return number if math.isfinite(number) else None
