"""Texts as vectors: a pretrained encoder over packed batches, pooled and normalized as sentence-transformers does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from regard._errors import ConfigError, DataError
from regard._packed import Packed
from regard.data.packing import pack_ids
from regard.data.pretrained import load_encoder, local_folder, read_modules
from regard.data.pretrained_tokenizer import PretrainedTokenizer
from regard.nn.pretrained import PretrainedEncoder, mean_pool
from regard.nn.pretrained_shape import read_json

POOLINGS = ("mean", "cls")
BUDGET = 2048  # tokens of a batch; the widest layer's outputs then stay near the processor


class SentenceEncoder:
    """Sentences and passages as vectors whose products tell how much they have in common (Reimers and Gurevych 2019).

        encoder = SentenceEncoder.load("all-MiniLM-L6-v2")
        vectors = encoder.embed(["A dog runs.", "Ein Hund läuft."])    # (2, 384)
        vectors @ vectors.T

    Arguments:
        encoder: a pretrained encoder.
        tokenizer: its vocabulary.
        pooling: "mean" of a text's states, or "cls", the first one.
        normalize: divide each vector by its length.
        longest: tokens of a text, marks included, behind which it is cut; by default what the encoder has positions for.
        lowercase: lower the case of texts first.
        prompt: what is put before each text.

    Raises:
        ConfigError: another pooling, or `longest` out of range.
    """

    def __init__(
        self,
        encoder: PretrainedEncoder,
        tokenizer: PretrainedTokenizer,
        *,
        pooling: str = "mean",
        normalize: bool = False,
        longest: int | None = None,
        lowercase: bool = False,
        prompt: str = "",
    ) -> None:
        if pooling not in POOLINGS:
            raise ConfigError(f"pooling must be one of {', '.join(POOLINGS)}. Received {pooling!r}.")
        self.encoder, self.tokenizer = encoder, tokenizer
        self.pooling, self.normalize, self.lowercase, self.prompt = pooling, normalize, lowercase, prompt
        self.marks = len(tokenizer.join([])[0])
        self.longest = encoder.shape.longest if longest is None else longest
        if not self.marks < self.longest <= encoder.shape.longest:
            raise ConfigError(
                f"a text may have {self.marks + 1} to {encoder.shape.longest} tokens here. Received longest={longest}."
            )

    @classmethod
    def load(cls, folder: str | Path) -> SentenceEncoder:
        """The encoder in a folder, or of a name on the Hugging Face hub, with the steps that its `modules.json` names.

        A folder without `modules.json` is pooled by the mean and not normalized, as sentence-transformers does.

        Raises:
            CheckpointError, ConfigError: as `load_encoder`, or the folder asks for a step that is not known here.
        """
        folder = local_folder(folder)
        encoder, tokenizer = load_encoder(folder)
        modules = read_modules(folder)
        unknown = [kind for kind, _ in modules[1:] if kind not in ("Pooling", "Normalize")]
        if unknown:
            raise ConfigError(
                f"{folder / 'modules.json'}: a step is not known here. Expected: Transformer, Pooling, Normalize. "
                f"Received: {', '.join(unknown)}. To mend it: choose a model without it."
            )
        prompt = read_prompt(folder) if modules else ""
        pooling = [read_pooling(folder / path, prompt) for kind, path in modules if kind == "Pooling"]
        settings = sorted((folder / modules[0][1]).glob("sentence_*_config.json")) if modules else []
        given = read_json(settings[0]) if settings else {}
        longest = given.get("max_seq_length")
        return cls(
            encoder,
            tokenizer,
            pooling=pooling[0] if pooling else "mean",
            normalize=any(kind == "Normalize" for kind, _ in modules),
            longest=None if longest is None else min(int(longest), encoder.shape.longest),
            lowercase=bool(given.get("do_lower_case", False)),
            prompt=prompt,
        )

    def embed(self, texts: str | Sequence[str], *, tokens: int = BUDGET) -> Tensor:
        """A vector for each text, (N, dim), float32; for one text (dim,). No gradients are recorded.

        Arguments:
            texts: the texts; long ones are cut.
            tokens: tokens of a batch, which decides memory and speed and nothing else.

        Raises:
            DataError: a text is no string.
        """
        if isinstance(texts, str):
            return self.embed_ids(self.encode([texts]), tokens=tokens)[0]
        return self.embed_ids(self.encode(texts), tokens=tokens)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text with the marks around them, cut to `longest`."""
        for text in texts:
            if not isinstance(text, str):
                raise DataError(f"a text is not a string. Expected: str. Received: {type(text).__name__}.")
        texts = [self.prompt + (text.lower() if self.lowercase else text) for text in texts]
        room = self.longest - self.marks
        return [self.tokenizer.join(ids[:room])[0] for ids in self.tokenizer.encode_batch(texts)]

    @torch.no_grad()
    def embed_ids(self, sequences: Sequence[Sequence[int]], *, tokens: int = BUDGET) -> Tensor:
        """A vector for each sequence of token ids, (N, dim)."""
        device = self.encoder.words.weight.device
        vectors = torch.empty(len(sequences), self.encoder.shape.dim)
        was = self.encoder.training
        self.encoder.eval()
        try:
            for chosen in _batches([len(ids) for ids in sequences], tokens):
                ids = pack_ids([sequences[index] for index in chosen])
                states = self.encoder(ids.with_values(ids.values.to(device)))
                vectors[torch.from_numpy(chosen)] = self._pooled(states).float().cpu()
        finally:
            self.encoder.train(was)
        return vectors

    def _pooled(self, states: Packed) -> Tensor:
        if self.pooling == "mean":
            pooled = mean_pool(states)
        else:
            pooled = states.values[torch.from_numpy(states.offsets[:-1]).long()]
        return F.normalize(pooled, dim=-1) if self.normalize else pooled


def read_pooling(folder: Path, prompt: str) -> str:
    """The pooling that a folder of sentence-transformers asks for; ConfigError where it is none of ours."""
    config = read_json(folder / "config.json")
    prefix = "pooling_mode_"
    asked = [
        key.removeprefix(prefix) for key, value in config.items() if key.startswith(prefix) and value is True
    ]
    if prompt and config.get("include_prompt") is False:
        asked.append(f"without the prompt {prompt!r}")
    names = {"mean_tokens": "mean", "cls_token": "cls"}
    modes = [names.get(mode, mode) for mode in asked] or [str(config.get("pooling_mode", "mean"))]
    if len(modes) > 1 or modes[0] not in POOLINGS:
        raise ConfigError(
            f"{folder / 'config.json'}: this pooling is not known here. Expected: one of {', '.join(POOLINGS)}. "
            f"Received: {', '.join(modes)}. To mend it: choose another model, or pool the hidden states yourself."
        )
    return modes[0]


def read_prompt(folder: Path) -> str:
    """What a folder of sentence-transformers puts before every text."""
    path = folder / "config_sentence_transformers.json"
    config = read_json(path) if path.is_file() else {}
    prompts, name = config.get("prompts") or {}, config.get("default_prompt_name")
    return "" if name is None else str(prompts.get(name, ""))


def _batches(lengths: Sequence[int], tokens: int) -> Iterator[np.ndarray]:
    """Numbers of the sequences in batches of neighbours by length, of at most `tokens` tokens or of one sequence."""
    order = np.argsort(-np.asarray(lengths, np.int64), kind="stable")
    begin = total = 0
    for place, index in enumerate(order):
        if place > begin and total + lengths[index] > tokens:
            yield order[begin:place]
            begin, total = place, 0
        total += lengths[index]
    if len(order):
        yield order[begin:]
