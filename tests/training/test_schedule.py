from __future__ import annotations

import pytest
import torch
from torch import nn

from regard.training.averaging import WeightAverage
from regard.training.precision import autocast, resolved
from regard.training.presets import Facts, encoder_decoder_sizes, fill
from regard.training.recipe import Recipe
from regard.training.schedule import learning_rate_share, stage


@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.5])
def test_the_rate_rises_to_its_peak_and_falls_to_zero(warmup):
    shares = [learning_rate_share(step / 1000, warmup) for step in range(1001)]
    peak = int(warmup * 1000)
    assert shares[peak] == 1.0
    assert shares[:peak] == sorted(shares[:peak])
    assert shares[peak:] == sorted(shares[peak:], reverse=True)
    assert shares[-1] == 0.0
    assert learning_rate_share(1.2, warmup) == 0.0


def test_the_average_follows_its_formula_and_can_be_swapped_in():
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    average = WeightAverage(model, 0.2)
    expected = None
    for step in range(1, 30):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        average.update(step)
        weight = model.weight.detach().clone()
        expected = weight if expected is None else expected + (1 - (1 - 1 / step) ** 5) * (weight - expected)
    torch.testing.assert_close(average.weights["weight"], expected)
    average.swap()
    torch.testing.assert_close(model.weight.detach(), expected)
    average.swap()
    torch.testing.assert_close(model.weight.detach(), weight)
    torch.testing.assert_close(average.weights["weight"], expected)


def test_the_average_spans_about_its_share_of_the_run():
    """Its mean age is near `share / (1 + share)` of the run, whatever the run's length."""
    for steps in (200, 2000):
        model = nn.Linear(1, 1, bias=False)
        average = WeightAverage(model, 0.1)
        for step in range(1, steps + 1):
            model.weight.data.fill_(step)
            average.update(step)
        age = (steps - float(average.weights["weight"])) / steps
        assert abs(age - 0.1 / 1.1) < 0.01


def test_presets_fill_what_is_open_and_say_why():
    for examples in (10, 50_000, 500_000):
        recipe, choices = fill(Recipe(), Facts(examples, examples * 40), encoder_decoder_sizes(examples))
        assert recipe.minutes == 20
        for name in (
            "vocabulary",
            "dim",
            "heads",
            "hidden",
            "encoder_layers",
            "decoder_layers",
            "dropout",
            "tokens",
        ):
            assert getattr(recipe, name) is not None
        assert recipe.dim % recipe.heads == 0
        assert {choice.option for choice in choices} > {"minutes", "dim"}
        assert all(choice.reason for choice in choices)
        again, none = fill(recipe, Facts(examples, examples * 40), encoder_decoder_sizes(examples))
        assert (again, none) == (recipe, [])


def test_what_is_given_is_left_alone():
    recipe, choices = fill(
        Recipe(steps=5, dim=30, heads=3, dropout=0.0), Facts(100, 1000), encoder_decoder_sizes(100)
    )
    assert (recipe.steps, recipe.minutes, recipe.dim, recipe.heads, recipe.dropout) == (5, None, 30, 3, 0.0)
    assert not {"minutes", "dim", "heads", "dropout"} & {choice.option for choice in choices}


def test_precision_is_resolved_and_applied():
    assert resolved("auto") in {"fp32", "bf16"}
    x = torch.ones(2, 2)
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with autocast(precision):
            assert (x @ x).dtype == dtype


def test_a_run_without_pretraining_is_one_stage():
    assert [stage(progress, 0.0) for progress in (0.0, 0.3, 1.0)] == [
        (False, 0.0),
        (False, 0.3),
        (False, 1.0),
    ]


def test_both_stages_go_from_beginning_to_end():
    assert stage(0.0, 0.2) == (True, 0.0)
    assert stage(0.1, 0.2) == (True, 0.5)
    assert stage(0.2, 0.2) == (False, 0.0)
    assert stage(1.0, 0.2) == (False, 1.0)
