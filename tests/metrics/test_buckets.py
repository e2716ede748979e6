"""Examples cut by a number: buckets counted by hand, and the same score in each."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regard._errors import ConfigError
from regard.metrics.buckets import FEW, cut, part
from regard.metrics.measurement import averaged, by_example
from regard.metrics.significance import bleu_measurement, chrf_measurement
from regard.metrics.translation import bleu, chrf


def rows(buckets):
    return [bucket.rows.tolist() for bucket in buckets]


def test_buckets_by_hand():
    values = [5, 1, 4, 2, 8, 3, 7, 6]
    found = cut(values, count=4)
    assert rows(found) == [[1, 3], [2, 5], [0, 7], [4, 6]]
    assert [str(bucket) for bucket in found] == ["1 to 2", "3 to 4", "5 to 6", "7 to 8"]


def test_rows_of_one_value_stay_together():
    # Of 8 rows the shares end after 2, 4 and 6; values end after 1, 6 and 7.
    found = cut([1, 2, 2, 2, 2, 2, 3, 4], count=4)
    assert rows(found) == [[0], [1, 2, 3, 4, 5], [6, 7]]
    assert [str(bucket) for bucket in found] == ["1", "2", "3 to 4"]


def test_edges_begin_a_bucket_and_empty_ones_are_left_out():
    found = cut([0, 1, 9, 10, 5000, 999], edges=[1, 10, 100, 1000])
    assert rows(found) == [[0], [1, 2], [3], [5], [4]]
    assert [str(bucket) for bucket in found] == ["0", "1 to 9", "10", "999", "5,000"]
    assert rows(cut([3, 3], edges=[1, 10])) == [[0, 1]]


def test_numbers_need_not_be_whole():
    assert [str(bucket) for bucket in cut([0.25, 0.5, 1.0, 2.0], count=2)] == ["0.25 to 0.5", "1 to 2"]


def test_a_bucket_of_few_says_so():
    many, few = cut([1] * FEW + [2] * (FEW - 1), edges=[2])
    assert (many.few, few.few, replace(few, weight=FEW).few) == (False, True, False)


@pytest.mark.parametrize("edges", [(), (3,)])
def test_what_has_no_number_is_in_no_bucket(edges):
    assert rows(cut([np.nan, 4, np.nan, 1, 2, 3], edges, 2)) == [[3, 4], [1, 5]]
    assert cut([np.nan], edges) == []


@pytest.mark.parametrize(("edges", "count"), [((2, 1), 4), ((1, 1), 4), ((), 0)])
def test_what_is_no_bucket_is_refused(edges, count):
    with pytest.raises(ConfigError, match="no buckets"):
        cut([1, 2], edges, count)


@given(
    values=st.lists(st.integers(0, 12), max_size=60),
    edges=st.sets(st.integers(0, 12)).map(sorted),
    count=st.integers(1, 6),
)
def test_every_row_is_in_one_bucket_and_no_value_in_two(values, edges, count):
    found = cut(values, edges, count)
    assert sorted(np.concatenate([np.zeros(0, int), *rows(found)])) == list(range(len(values)))
    for bucket in found:
        assert {values[row] for row in bucket.rows} <= set(range(int(bucket.low), int(bucket.high) + 1))
    assert all(one.high < other.low for one, other in itertools.pairwise(found))
    assert len(found) <= (len(edges) + 1 if edges else count)


@given(values=st.lists(st.integers(0, 1000), min_size=1, max_size=60, unique=True), count=st.integers(1, 6))
def test_different_values_are_shared_out_equally(values, count):
    sizes = [len(bucket.rows) for bucket in cut(values, count=count)]
    assert len(sizes) == min(count, len(values))
    assert max(sizes) - min(sizes) <= 1


HYPOTHESES = ["A dog runs on the beach.", "The cat sleeps here now.", "It rains a lot in May."]
REFERENCES = [["A dog runs on the beach."], ["A cat sleeps here now."], ["It rains a lot in June.", "Rain."]]


@pytest.mark.parametrize(("measurement", "plain"), [(bleu_measurement, bleu), (chrf_measurement, chrf)])
def test_a_part_has_the_score_of_its_examples_alone(measurement, plain):
    whole = measurement(HYPOTHESES, REFERENCES)
    assert whole.value == plain(HYPOTHESES, REFERENCES).value
    assert whole.signature == plain(HYPOTHESES, REFERENCES).signature
    assert part(whole, np.array([0, 2])).value == plain(HYPOTHESES[::2], REFERENCES[::2]).value
    assert by_example(whole) == [plain([h], [r]).value for h, r in zip(HYPOTHESES, REFERENCES, strict=True)]


def test_a_part_keeps_name_and_signature():
    found = part(averaged("exact", "case:no", [1, 0, 0, 1]), np.array([1, 2, 3]))
    assert (found.name, found.signature, found.statistics.shape) == ("exact", "case:no", (3, 2))
    assert found.value == pytest.approx(100 / 3)
