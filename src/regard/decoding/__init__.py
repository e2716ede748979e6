"""Writing a sequence token by token."""

from __future__ import annotations

from regard.decoding.beam import Candidates as Candidates
from regard.decoding.beam import Hypothesis as Hypothesis
from regard.decoding.beam import Stepper as Stepper
from regard.decoding.beam import check_beam as check_beam
from regard.decoding.beam import search as search
