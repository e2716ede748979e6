"""What a recipe is filled with for a language model."""

from __future__ import annotations

from regard.training.presets import Facts, fill, language_sizes
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
