from __future__ import annotations

import numpy as np
import pytest

from regard._errors import DataError
from regard.metrics.measurement import (
    averaged,
    divided,
    measured,
    overlap_f1,
    paired,
    percentage,
    ratio,
    several,
)


def test_the_value_is_the_formula_of_the_sums():
    one = measured("x", "s", [[1, 2], [2, 4], [0, 2]], ratio)
    assert (one.name, one.signature, one.value) == ("x", "s", 3 / 8)
    assert str(averaged("f1", "a:b", [0.5, 1])) == "f1 75.0 (a:b)"
    assert one.statistics.dtype == np.float64


def test_nothing_of_nothing_is_zero_also_in_a_batch():
    sums = np.array([[[1.0, 2.0], [0.0, 0.0]]])
    assert percentage(sums).tolist() == [[50.0, 0.0]]
    assert ratio(sums).tolist() == [[0.5, 0.0]]
    assert divided(np.array([3.0]), np.array([0.0])).tolist() == [0.0]
    assert overlap_f1(0, 0, 0) == 0


def test_measurements_compare_as_scores_do():
    assert averaged("a", "", [1, 0]) == averaged("a", "", [0, 1]) != averaged("a", "", [1, 1])


def test_errors():
    with pytest.raises(DataError, match="no examples to score"):
        averaged("x", "", [])
    with pytest.raises(DataError, match="put it in a list"):
        paired("ab", ["a", "b"])
    with pytest.raises(DataError, match="2 predictions, 1 references"):
        paired(["a", "b"], ["a"])
    with pytest.raises(DataError, match="example 1 has no reference"):
        several(["a", []])
