"""Everything that decides how a model is trained: one place for Python, TOML and the command line."""

from __future__ import annotations

import dataclasses
import json
import math
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from regard._errors import CheckpointError, ConfigError, nearest
from regard.data.records import MAX_CHARACTERS

ABOVE_ZERO = (
    "minutes",
    "steps",
    "vocabulary",
    "dim",
    "heads",
    "hidden",
    "encoder_layers",
    "decoder_layers",
    "tokens",
    "accumulate",
    "learning_rate",
    "matrix_learning_rate",
    "clip",
    "evaluations",
    "dev_examples",
    "patience",
    "save_minutes",
    "save_steps",
    "max_characters",
    "threads",
    "variants",
    "init_learning_rate",
    "layer_decay",
    "window",
    "stride",
    "longest_answer",
    "side",
    "context",
)
SHARES = ("dropout", "label_smoothing", "warmup", "average", "bpe_dropout", "pretrain", "cider_finish")
PATCHES = (2, 4, 8)
# What `init` leaves no room for.
FROM_NOTHING = ("vocabulary", "dim", "encoder_layers", "bpe_dropout", "unspaced", "lowercase")
PRECISIONS = ("auto", "fp32", "bf16")
KINDS = ("attention", "recurrent")
CUTS = ("runs", "scripts", "characters")
UNITS = ("characters", "bytes", "subwords")
DOCUMENTS = ("files", "lines")


@dataclass(frozen=True)
class Recipe:
    """The options of a training run; None means "chosen from the data", see `regard.training.presets`."""

    minutes: float | None = None
    """Budget of the training in minutes of wall clock, scoring included; the schedule ends with it. Default: 20, unless `steps` is given."""
    steps: int | None = None
    """Budget of the run in updates, instead of minutes."""
    vocabulary: int | None = None
    """Number of pieces in the joint vocabulary."""
    lowercase: bool = False
    """Train and predict in lower case."""
    dim: int | None = None
    """Width of the model."""
    heads: int | None = None
    """Attention heads of every layer."""
    hidden: int | None = None
    """Width of the feed-forward layers."""
    encoder_layers: int | None = None
    """Blocks of the encoder."""
    decoder_layers: int | None = None
    """Blocks of the decoder; for roles and answers, blocks that run once for each predicate or question, with `init` its highest layers."""
    encoder: str = "attention"
    """"attention", or "recurrent": LSTMs of as many parameters in place of self-attention, for comparison; for roles and answers also above the encoder."""
    decoder: str = "attention"
    """The same for the decoder, which attends to its source all the same; tasks that only read have none."""
    dropout: float | None = None
    """Share of activations dropped after embedding and in both halves of every block."""
    label_smoothing: float | None = None
    """Share of the target's probability that is spread over the vocabulary. Default: 0.1; for generate 0, because its score is the likelihood itself."""
    bpe_dropout: float = 0.0
    """Probability with which a merge of the vocabulary is left out, so that training sees words cut in several ways; 0.1 is usual."""
    variants: int = 8
    """In how many ways every example is cut, with `bpe_dropout`."""
    r_drop: float = 0.0
    """Coefficient of the divergence between two passes under different dropout, at twice the cost of an update; 1 to 5 are usual."""
    pretrain: float | None = None
    """Share of the budget in which the encoder first learns to restore hidden pieces of the training inputs; for answer, in which
    the model answers questions made of the passages, and for summarize, in which it writes the sentence that says most of a document, left out or not.
    Default: 0; to summarize few documents 0.4, to answer by many questions 0.25, otherwise with `unlabelled` 0.2."""
    begin: str | None = None
    """Folder of a finished run of the same task, with whose weights this one begins; its vocabulary, labels and sizes stay."""
    teacher: str | None = None
    """Folder of a finished run of the same task, a larger one, from which this one learns too; it brings the vocabulary."""
    teacher_share: float = 0.5
    """How much of the loss is the divergence from the teacher; the rest is the training data's."""
    unlabelled: str | None = None
    """More texts to pretrain on: a file of inputs without answers, for answer of passages, or of plain text, one a line."""
    init: str | None = None
    """Folder of a pretrained encoder (BERT family), or its name on the hub, with which the task begins."""
    init_learning_rate: float | None = None
    """Peak learning rate of the highest layer of a pretrained encoder. By default 5e-5 for a width of 768, more for a narrower one."""
    layer_decay: float = 0.9
    """Factor of the learning rate from a layer of a pretrained encoder to the one below."""
    frozen_layers: int | None = None
    """How many of the lowest layers of a pretrained encoder stay as they are, its embeddings too."""
    tokens: int | None = None
    """Tokens of one update, source and target together, over all workers."""
    accumulate: int = 1
    """In how many parts an update is computed, one after the other, to save memory."""
    learning_rate: float = 3e-3
    """Peak learning rate of AdamW, for embeddings."""
    matrix_learning_rate: float = 0.02
    """Peak learning rate of Muon, for the matrices of linear and recurrent layers."""
    weight_decay: float = 0.0
    """Weight decay of the matrices."""
    warmup: float = 0.05
    """Share of the run in which the learning rate rises; afterwards it falls linearly to 0."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    average: float = 0.05
    """The weights that are used are an average over about this share of the run; 0 uses the last ones."""
    evaluations: int = 10
    """How often the run is scored on the dev set; of a budget in minutes less often where that would take more than a fifth of it."""
    dev_examples: int = 1000
    """How many dev examples are predicted for the dev score; the dev loss is that of as many as have some 65,000 tokens."""
    patience: int = 5
    """The run ends when so many evaluations in a row bring no better dev score."""
    save_minutes: float = 1.0
    """How often the state is saved, beside every evaluation."""
    save_steps: int | None = None
    """Save the state every so many updates, instead of by the clock."""
    max_characters: int = MAX_CHARACTERS
    """Longest text accepted in a field; longer ones are refused with their file and line."""
    text: str | None = None
    """Name of the field that is classified, or of the text to learn to write. Default: text, or image."""
    label: str | None = None
    """Name of the field of labels, one or a list of several. Default: label, or labels."""
    ngrams: bool = True
    """Whether a classifier of texts has a linear model of tokens and pairs of them beside attention."""
    side: int | None = None
    """Pictures are scaled down until their longer side has so many pixels."""
    patch: int | None = None
    """Side of the squares of a picture that become tokens, in pixels: 2, 4 or 8."""
    warp: float | None = None
    """How much pictures are shifted, turned and scaled in training; 1 is a little, 0 not at all. Default: 1; to classify 5,000 or more 0."""
    flip: bool = False
    """Pictures are mirrored in training, where left and right do not matter."""
    tint: float = 0.0
    """How much light, contrast and colours of pictures are varied in training; 1 is a little, 0 not at all."""
    languages: str | None = None
    """Languages of captions, such as en,de: those of de stand in captions_de, those of en in captions. Default: one, in captions.
    While training, the dev score, and with it the weights that are kept, is of the first alone."""
    cider_finish: float = 0.0
    """Share of the run, its last part, in which a captioner is trained on CIDEr-D itself; 0.1 is usual."""
    precision: str = "auto"
    """"fp32", "bf16" (matrix products in bfloat16, weights in float32), or "auto": bf16 where the machine computes it fast."""
    threads: int | None = None
    """CPU threads; by default as many as PyTorch takes."""
    units: str | None = None
    """What a language model reads and writes: "characters", "bytes" or "subwords". Default: characters."""
    context: int | None = None
    """Tokens that a language model reads at once."""
    documents: str = "files"
    """What is one document of plain text for generate: "files" or "lines"."""
    window: int | None = None
    """Pieces of a passage that are read at once; longer passages are read in several windows. For summaries: pieces on each side
    that a piece of the document sees, besides the first one; by default all of them."""
    coverage: float | None = None
    """For summaries: weight of the penalty for copying from a place again; it costs memory source x target, for one head."""
    matches: bool = True
    """For answers: tokens tell the model which words question and passage have in common, in which form, and how close by."""
    stride: int | None = None
    """Pieces from the beginning of one window to that of the next; less where a window would not overlap by the longest answer."""
    longest_answer: int | None = None
    """Pieces of the longest answer that is looked for, at most half a window. Default: what covers 99 of 100 training answers, from 8 to 64."""
    unspaced: str | None = None
    """Where Chinese and Japanese are cut before pieces are learned: "runs" (nowhere), "scripts" or "characters". By default as the data's script needs it."""
    seed: int = 0
    """Decides initial weights, order of the data and dropout."""

    def __post_init__(self) -> None:
        if self.minutes is not None and self.steps is not None:
            raise ConfigError(
                "a run has one budget. Expected minutes or steps. Received both; leave one out."
            )
        for name in ABOVE_ZERO:
            _check(self, name, lambda value: 0 < value < math.inf, "a number above 0")
        for name in SHARES:
            _check(self, name, lambda value: 0 <= value < 1, "a number from 0 to below 1")
        for name in ("weight_decay", "r_drop", "frozen_layers", "coverage"):
            _check(self, name, lambda value: 0 <= value < math.inf, "0 or more")
        _check(self, "layer_decay", lambda value: value <= 1, "at most 1")
        _check(self, "teacher_share", lambda value: 0 < value <= 1, "a number above 0, at most 1")
        _check(self, "unspaced", lambda value: value in CUTS, ", ".join(CUTS))
        _check(self, "units", lambda value: value in UNITS, ", ".join(UNITS))
        _check(self, "documents", lambda value: value in DOCUMENTS, " or ".join(DOCUMENTS))
        _check(self, "warp", lambda value: 0 <= value <= 5, "a number from 0 to 5")
        _check(self, "tint", lambda value: 0 <= value <= 5, "a number from 0 to 5")
        _check(self, "patch", lambda value: value in PATCHES, "2, 4 or 8")
        _check(self, "precision", lambda value: value in PRECISIONS, "auto, fp32 or bf16")
        for name in ("encoder", "decoder"):
            _check(self, name, lambda value: value in KINDS, " or ".join(KINDS))
        self._check_together()

    def _check_together(self) -> None:
        if self.unlabelled is not None and self.pretrain == 0:
            raise ConfigError(
                "unlabelled texts are for pretraining. Expected: a share of the budget for it, 0.2 for a fifth. Received: unlabelled "
                "and pretrain 0. Leave out one or the other."
            )
        given = [name for name in FROM_NOTHING if getattr(self, name)]
        given += ["encoder"] if self.encoder != "attention" else []
        if self.init is not None and given:
            raise ConfigError(
                f"a pretrained encoder brings its own vocabulary, size and layers. Received: init and {', '.join(given)}. Leave out "
                "one or the other."
            )

    def replace(self, **changes: Any) -> Recipe:
        """The recipe with some options changed."""
        return dataclasses.replace(self, **changes)

    def given(self) -> dict[str, Any]:
        """The options that are not None."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}


def _check(recipe: Recipe, name: str, holds: Any, expected: str) -> None:
    value = getattr(recipe, name)
    if value is not None and not holds(value):
        raise ConfigError(f"the option {name!r} must be {expected}. Received {value!r}.")


def recipe_from(options: dict[str, Any], source: str) -> Recipe:
    """A recipe from a table of options, each of which must exist and have the right kind."""
    known = {field.name: str(field.type) for field in fields(Recipe)}
    for name, value in options.items():
        if name not in known:
            raise ConfigError(
                f"{source}: unknown option {name!r}{nearest(name, known)}. Known: {', '.join(known)}."
            )
        if not _fits(value, known[name]):
            raise ConfigError(f"{source}: option {name!r} must be {known[name]}. Received {value!r}.")
    return Recipe(**options)


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a table; ConfigError says where it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path} does not exist; expected a TOML file of options.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}.") from error


def write_toml(tables: dict[str, dict[str, Any]]) -> str:
    """Tables of strings, numbers, truth values and lists of strings as TOML."""
    lines = []
    for title, table in tables.items():
        lines += [
            f"[{title}]",
            *(f"{name} = {_toml(value)}" for name, value in table.items() if value is not None),
            "",
        ]
    return "\n".join(lines)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml(item) for item in value)}]"
    if isinstance(value, int | float):
        return repr(value)
    raise CheckpointError(
        f"cannot write {type(value).__name__} to config.toml; expected text, numbers or lists of them."
    )


def _fits(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return "bool" in kind
    if isinstance(value, int):
        return "int" in kind or "float" in kind
    return type(value).__name__ in kind
