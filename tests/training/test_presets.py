"""What a recipe is filled with for a language model, and for a pretrained encoder."""

from __future__ import annotations

import pytest

from regard.training.presets import (
    Facts,
    core_minutes,
    encoder_decoder_sizes,
    fill,
    language_sizes,
    reader_sizes,
)
from regard.training.recipe import Recipe


def test_a_language_model_is_scored_by_its_likelihood_and_small_where_data_or_time_are():
    sizes = language_sizes(500)
    filled, _ = fill(Recipe(), Facts(500, 1_000_000), sizes)
    assert (filled.label_smoothing, filled.tokens, filled.context) == (0.0, 2048, 256)
    assert fill(Recipe(label_smoothing=0.2), Facts(1, 1), sizes)[0].label_smoothing == 0.2
    assert fill(Recipe(), Facts(1, 1), {})[0].label_smoothing == 0.1
    small = language_sizes(500, minutes=20)
    assert small["dim"] < sizes["dim"]
    assert language_sizes(500, minutes=40) == sizes
    assert language_sizes(100)["dropout"] > small["dropout"]


def test_a_reader_rehearses_and_drops_more_where_it_has_time_to_learn_by_heart():
    long = reader_sizes(5_000, minutes=20)
    assert (long["pretrain"], long["dropout"]) == (0.25, 0.15)
    for short in (reader_sizes(5_000, minutes=10), reader_sizes(5_000)):
        assert "pretrain" not in short
        assert short["dropout"] == 0.1
    assert "pretrain" not in reader_sizes(4_999, minutes=20)


def test_unlabelled_texts_have_a_share_of_the_budget():
    more = Recipe(unlabelled="more.txt")
    assert fill(more, Facts(500, 1), {})[0].pretrain == 0.2
    assert fill(more, Facts(500, 1), {"pretrain": 0.4})[0].pretrain == 0.4
    assert fill(more.replace(pretrain=0.1), Facts(500, 1), {})[0].pretrain == 0.1
    assert fill(Recipe(), Facts(500, 1), {})[0].pretrain is None


@pytest.mark.parametrize(
    ("dim", "heads"), [(32, 1), (64, 2), (100, 5), (128, 4), (256, 8), (320, 10), (2, 1)]
)
def test_a_width_that_is_given_alone_is_divided_by_heads(dim, heads):
    filled, choices = fill(Recipe(dim=dim), Facts(500, 1), encoder_decoder_sizes(500))
    assert filled.heads == heads
    assert {one.option: one.reason for one in choices}["heads"] == f"to divide a width of {dim}"


def test_heads_stay_where_they_divide_a_width_or_are_given():
    sizes = encoder_decoder_sizes(500)
    assert fill(Recipe(dim=192), Facts(500, 1), sizes)[0].heads == sizes["heads"] == 3
    assert fill(Recipe(dim=100, heads=3), Facts(500, 1), sizes)[0].heads == 3
    assert fill(Recipe(heads=5), Facts(500, 1), sizes)[0].heads == 5


def test_an_update_of_long_documents_has_no_end_of_tokens():
    filled, choices = fill(Recipe(), Facts(1000, 1000 * 100_000), {})
    assert filled.tokens == 32_768
    assert {choice.option: choice.reason for choice in choices}["tokens"] == "the most, for long examples"
    assert fill(Recipe(), Facts(1000, 1000 * 2_000), {})[0].tokens == 8_000


def test_minutes_are_those_of_all_cores():
    assert core_minutes(Recipe(minutes=10, threads=2)) == 20
    assert core_minutes(Recipe(threads=2)) == 40
    assert core_minutes(Recipe(steps=5)) is None


def test_a_narrow_pretrained_encoder_learns_by_larger_steps():
    rates = {
        width: fill(Recipe(), Facts(500, 1, width), {})[0].init_learning_rate
        for width in (128, 384, 768, 1024)
    }
    assert rates == {128: 3e-4, 384: 2e-4, 768: 5e-5, 1024: 5e-5 * 0.75**2}
    assert fill(Recipe(init_learning_rate=1e-3), Facts(500, 1, 384), {})[0].init_learning_rate == 1e-3
    assert fill(Recipe(), Facts(500, 1), {})[0].init_learning_rate is None
