"""A recipe's open options, filled from the size of the data and of the budget, with the reason for each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from regard.training.recipe import Recipe
from regard.training.workers import cores

MINUTES = 20.0  # of a run that names no budget
SHORT = 10.0  # minutes; a shorter run needs many updates more than large ones
SHORT_OF_A_CORE = 20.0  # minutes in which a small language model comes further than a large one
LONG_OF_A_CORE = 15.0  # minutes in which a reader of passages comes to learn its questions by heart
SOME = 16  # examples that an update should hold, as far as MOST tokens have room for them
MOST = 32_768
CHARACTERS_OF_A_TOKEN = 4  # roughly
SMOOTHING = 0.1
PRETRAINED = 0.2  # share of the budget, where there are texts for it and the task has no share of its own
HEAD = 32  # width of a head
PLANE = 4  # numbers that positions in a picture turn together; in a text they are two
FEW_PARTS = 250  # half a million characters
USUAL_RATE, USUAL_WIDTH = 5e-5, 768  # at which BERT is fine-tuned (Devlin et al. 2019)
HIGHEST_RATE = 3e-4  # at which narrower ones are (Turc et al. 2019)


@dataclass(frozen=True)
class Facts:
    """What the size of the data is."""

    examples: int
    characters: int
    width: int | None = None
    """Of the pretrained encoder, where there is one."""


@dataclass(frozen=True)
class Choice:
    """An option that was filled in."""

    option: str
    value: float
    reason: str


def fill(recipe: Recipe, facts: Facts, sizes: dict[str, Any]) -> tuple[Recipe, list[Choice]]:
    """The recipe with nothing left open, and what was chosen; `sizes` are those of the task for so many examples."""
    choices: list[Choice] = []

    def choose(option: str, value: Any, reason: str) -> Any:
        if getattr(recipe, option) is not None:
            return getattr(recipe, option)
        choices.append(Choice(option, value, reason))
        return value

    minutes = recipe.minutes
    if recipe.steps is None:
        minutes = choose("minutes", MINUTES, "the default budget")
    for option, value in sizes.items():
        if option == "heads" and recipe.dim is not None and recipe.dim % (PLANE * value):
            choose(option, fitting_heads(recipe.dim), f"to divide a width of {recipe.dim}")
        else:
            choose(option, value, f"for {facts.examples:,} examples")
    if recipe.unlabelled is not None and "pretrain" not in sizes:
        choose("pretrain", PRETRAINED, "for unlabelled texts")
    short = minutes is not None and minutes < SHORT
    if "tokens" not in sizes:
        choose("tokens", *_tokens(facts, short))
    if facts.width is not None:
        choose(
            "init_learning_rate", fine_tuning_rate(facts.width), f"for a pretrained width of {facts.width}"
        )
    chosen = {choice.option: choice.value for choice in choices}
    if recipe.label_smoothing is None:
        chosen.setdefault("label_smoothing", SMOOTHING)
    return recipe.replace(**chosen), choices


def fitting_heads(dim: int) -> int:
    """The number of heads whose size suits rotary positions and is closest to that of all presets.

    >>> [fitting_heads(dim) for dim in (32, 100, 256)]
    [1, 5, 8]
    """
    numbers = [heads for heads in range(1, dim + 1) if dim % (PLANE * heads) == 0]
    return min(numbers, key=lambda heads: abs(math.log(dim / heads / HEAD)), default=1)


def _tokens(facts: Facts, short: bool) -> tuple[int, str]:
    """Tokens of an update: enough for some examples at least, however long they are."""
    several = min(MOST, SOME * facts.characters // (CHARACTERS_OF_A_TOKEN * max(1, facts.examples)))
    if facts.examples < 5_000:
        tokens, reason = 1024, f"for {facts.examples:,} examples"
    elif short:
        tokens, reason = 2048, f"a run below {SHORT:g} minutes needs many updates more than large ones"
    else:
        tokens, reason = 4096, f"for {facts.examples:,} examples"
    if tokens >= several:
        return tokens, reason
    return several, f"room for {SOME} examples" if several < MOST else "the most, for long examples"


def fine_tuning_rate(width: int) -> float:
    """The peak rate for an encoder of this width: a narrow one learns by larger steps, at 384 by four times those of 768."""
    return min(HIGHEST_RATE, USUAL_RATE * (USUAL_WIDTH / width) ** 2)


def core_minutes(recipe: Recipe) -> float | None:
    """The minutes of one core that training may take; None for a budget in updates."""
    minutes = MINUTES if recipe.minutes is None and recipe.steps is None else recipe.minutes
    return None if minutes is None else minutes * cores(recipe.threads)


def encoder_decoder_sizes(examples: int) -> dict[str, float]:
    """An encoder-decoder and its vocabulary that fit so many examples."""
    if examples < 5_000:
        return _preset(vocabulary=2000, dim=96, heads=3, hidden=192, layers=(2, 2), dropout=0.3)
    if examples < 100_000:
        return _preset(vocabulary=4000, dim=128, heads=4, hidden=256, layers=(4, 2), dropout=0.1)
    return _preset(vocabulary=8000, dim=256, heads=8, hidden=768, layers=(6, 3), dropout=0.1)


def few_documents_sizes() -> dict[str, float]:
    """A summarizer of few documents: they are long, and what it copies it need not have seen before."""
    sizes = _preset(vocabulary=6000, dim=128, heads=4, hidden=256, layers=(3, 2), dropout=0.2)
    return {**sizes, "pretrain": 0.4}


def encoder_sizes(examples: int) -> dict[str, Any]:
    """An encoder and its vocabulary that fit so many examples."""
    sizes = encoder_decoder_sizes(examples)
    del sizes["decoder_layers"]
    return sizes


def reader_sizes(examples: int, minutes: float | None = None) -> dict[str, Any]:
    """A reader of passages for so many questions; `minutes` are those of one core, None where the budget is in updates.

    Where it has time to learn its questions by heart it first answers others, which are made of the passages, and drops more.
    """
    sizes = {**encoder_sizes(examples), "encoder_layers": 2, "decoder_layers": 3}
    sizes["vocabulary"] = 4000 if examples < 10_000 else 8000
    if 5_000 <= examples < 100_000 and minutes is not None and minutes >= LONG_OF_A_CORE:
        sizes |= {"pretrain": 0.25, "dropout": 0.15}
    return sizes


def _preset(
    *, vocabulary: int, dim: int, heads: int, hidden: int, layers: tuple[int, int], dropout: float
) -> dict[str, float]:
    encoder, decoder = layers
    sizes = {"vocabulary": vocabulary, "dim": dim, "heads": heads, "hidden": hidden}
    return {**sizes, "encoder_layers": encoder, "decoder_layers": decoder, "dropout": dropout}


def language_sizes(examples: int, minutes: float | None = None) -> dict[str, Any]:
    """A language model that fits so many texts, or parts of some two thousand characters of a longer one, and the budget.

    `minutes` are those of one core: two cores have twice as many.
    """
    sizes = {"dim": 192, "heads": 6, "hidden": 512, "decoder_layers": 6, "dropout": 0.1}
    few = examples < FEW_PARTS
    if few or (minutes is not None and minutes <= SHORT_OF_A_CORE):
        dropout = 0.2 if few else 0.1
        sizes = {"dim": 128, "heads": 4, "hidden": 384, "decoder_layers": 4, "dropout": dropout}
    return {**sizes, "context": 256, "tokens": 2048, "label_smoothing": 0.0}
