"""A model that learns from a teacher: what the teacher says of every token is asked for in the same losses as the truth.

Sources: Hinton et al. 2015, "Distilling the Knowledge in a Neural Network"; Kim and Rush 2016, "Sequence-Level Knowledge
Distillation", of whose two ways this is the one by words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
from torch import Tensor

from regard._errors import ConfigError, ShapeError
from regard.nn.chances import Chances, added_up
from regard.nn.consistency import asked


@dataclass
class Lesson:
    """What a teacher has said in the losses of a batch, one after the other; `share` is None while it speaks."""

    share: float | None = None
    said: list[Chances] = field(default_factory=list)
    heard: int = 0

    def loss(self, truth: Callable[[], Tensor], chances: Chances, nothing: Tensor) -> Tensor:
        """While the teacher speaks, `nothing`: its chances are kept; then the student's loss, `truth` mixed with the divergence."""
        if self.share is None:
            self.said.append(chances)
            return nothing
        if self.heard == len(self.said):
            raise ConfigError(_unequal(self.heard + 1, len(self.said)))
        teacher = self.said[self.heard]
        self.heard += 1
        # Of two passes that are to agree the truth is their mean.
        passes = 1 if asked() is None else 2
        divergence = added_up(
            chances.blocks, lambda number: _divergence(teacher.log_p(number).detach(), chances.log_p(number))
        )
        return (1 - self.share) * truth() + self.share / passes * divergence


_lesson: ContextVar[Lesson | None] = ContextVar("lesson", default=None)


def lesson() -> Lesson | None:
    """What the innermost `teaching` or `taught` asks for; None outside of any."""
    return _lesson.get()


@contextmanager
def teaching() -> Iterator[list[Chances]]:
    """While it lasts, losses over a vocabulary are 0 and keep what the model says: a list for `taught`.

    >>> from regard.nn.loss import vocabulary_loss
    >>> with regard.nn.teaching() as said:
    ...     vocabulary_loss(torch.zeros(3, 4), torch.zeros(5, 4), torch.tensor([0, 4, 2]))
    tensor(0.)
    >>> said[0].log_p(0).exp().shape
    torch.Size([3, 5])
    """
    with torch.no_grad(), _asking(Lesson()) as found:
        yield found.said


@contextmanager
def taught(said: list[Chances], share: float) -> Iterator[None]:
    """While it lasts, `vocabulary_loss` and the loss of models that copy are mixed with the divergence from a teacher.

    `(1 - share) * cross-entropy + share * sum over tokens of KL(teacher, student)`, computed block by block. Gradients do not
    run into the teacher.

    Arguments:
        said: what `teaching` kept of the same losses of the same batch.
        share: of the divergence, from 0 to 1.

    Raises:
        ConfigError: the student has other losses than the teacher had, or neither has any.
        ShapeError: the vocabularies or the rows are not the same.

    >>> from regard.nn.loss import vocabulary_loss
    >>> states, weight, targets = torch.randn(3, 4), torch.randn(5, 4), torch.tensor([0, 4, 2])
    >>> with regard.nn.teaching() as said:
    ...     nothing = vocabulary_loss(states, weight, targets)
    >>> with regard.nn.taught(said, 0.5):
    ...     loss = vocabulary_loss(states, weight, targets)
    >>> torch.allclose(loss, vocabulary_loss(states, weight, targets) / 2)  # who says the same as the teacher is right
    True
    """
    with _asking(Lesson(share, said)) as found:
        yield
    if found.heard != len(said) or not said:
        raise ConfigError(_unequal(found.heard, len(said)))


@contextmanager
def _asking(found: Lesson) -> Iterator[Lesson]:
    before = _lesson.set(found)
    try:
        yield found
    finally:
        _lesson.reset(before)


def _divergence(teacher: Tensor, student: Tensor) -> Tensor:
    if teacher.shape != student.shape:
        raise ShapeError(
            "a teacher that speaks of other tokens. Expected: as many rows and the same vocabulary. "
            f"Received: {tuple(teacher.shape)} of the teacher, {tuple(student.shape)} of the student. To mend it: give both one "
            "tokenizer and one batch."
        )
    return (teacher.exp() * (teacher - student)).sum()


def _unequal(student: int, teacher: int) -> str:
    return (
        "student and teacher do not answer the same. Expected: as many losses over a vocabulary of both, one at least. "
        f"Received: {student} of the student, {teacher} of the teacher. Leave teacher out."
    )
