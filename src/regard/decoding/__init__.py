"""Writing a sequence token by token."""

from __future__ import annotations

from regard.decoding.beam import Hypothesis as Hypothesis, Stepper as Stepper, search as search
