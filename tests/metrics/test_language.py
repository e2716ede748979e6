from __future__ import annotations

import math

import hypothesis.strategies as st
import pytest
from hypothesis import given

from regard._errors import DataError
from regard.metrics.language import bits_per_byte, bits_per_character, exact_strings, perplexity

lines = st.lists(st.tuples(st.floats(0, 100), st.text(min_size=1, max_size=9)), min_size=1, max_size=6)


@given(lines)
def test_units(examples):
    nats, texts = zip(*examples, strict=True)
    total = math.fsum(nats) / math.log(2)
    characters, size = len("".join(texts)), sum(len(text.encode("utf8")) for text in texts)
    assert bits_per_character(nats, texts).value == pytest.approx(total / characters)
    assert bits_per_byte(nats, texts).value == pytest.approx(total / size)
    assert bits_per_byte(nats, [text.encode() for text in texts]).value == bits_per_byte(nats, texts).value
    backwards = bits_per_character(nats[::-1], texts[::-1])
    assert backwards.value == pytest.approx(bits_per_character(nats, texts).value)


def test_a_uniform_model_has_the_size_of_its_alphabet():
    assert perplexity([math.log(7) * 3, math.log(7)], [3, 1]).value == pytest.approx(7)
    assert perplexity([0.0], [5]).value == 1
    assert bits_per_byte([8 * math.log(2)], ["a"]).value == pytest.approx(8)


def test_exact_strings():
    assert exact_strings(["a", "b ", ""], ["a", "b", [""]]).value == pytest.approx(200 / 3)
    assert exact_strings(["A"], [["a", "A"]]).value == 100


def test_errors():
    for score in (bits_per_character, bits_per_byte, exact_strings, perplexity):
        with pytest.raises(DataError, match="no examples"):
            score([], [])
        with pytest.raises(DataError, match="2 predictions, 1"):
            score([1.0, 2.0], [1] if score is perplexity else ["a"])
