from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from regard.data.passages import best_window, covering_pieces, window_starts


@given(st.integers(0, 200), st.integers(1, 30), st.data())
def test_every_short_span_lies_in_the_window_that_is_chosen_for_it(length, window, data):
    longest = data.draw(st.integers(1, max(1, window // 2)))
    stride = data.draw(st.integers(1, max(1, window - longest)))
    starts = window_starts(length, window, stride)
    assert starts == sorted(set(starts))
    assert {piece for start in starts for piece in range(start, min(length, start + window))} == set(
        range(length)
    )
    assert starts[-1] + window <= max(length, window)
    if length and longest < window:
        first = data.draw(st.integers(0, length - 1))
        last = data.draw(st.integers(first, min(length, first + longest) - 1))
        start = starts[best_window(starts, window, first, last)]
        assert start <= first <= last < start + window


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.data())
def test_the_fewest_pieces_cover_a_span(sizes, data):
    """Pieces of 0 characters, and gaps between pieces, as where spaces stand."""
    spans, place = [], 0
    for size in sizes:
        place += data.draw(st.integers(0, 1))
        spans.append((place, place + size))
        place += size
    inside = [number for number, (begin, end) in enumerate(spans) if end > begin]
    if not inside:
        return
    first, last = sorted((data.draw(st.sampled_from(inside)), data.draw(st.sampled_from(inside))))
    begin = data.draw(st.integers(spans[first][0], spans[first][1] - 1))
    end = data.draw(st.integers(max(begin, spans[last][0]) + 1, max(begin + 1, spans[last][1])))
    assert covering_pieces(spans, begin, end) == (first, last)
