"""A model of transformers on one thread: padded with SDPA, with regard's attention, and with layers that compute no padding.

python benchmarks/huggingface.py [--train]

The model is a BERT of all-MiniLM-L6-v2's shape with random weights, the batches are 64 rows of random words whose lengths follow those of
sentences, of passages and of both. The contenders take turns on the same batch; a turn's time is the processor's.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from regard.compat.huggingface import register, unpadded

ROWS = 64
SIZES = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
# Mean and spread of the logarithm of a length.
LENGTHS = {"sentences": [(2.9, 0.45)], "passages": [(4.9, 0.35)], "half and half": [(2.9, 0.45), (4.9, 0.35)]}


def main() -> None:
    """Print for each mixture how full the batches are, SDPA's time, and how many times quicker the others are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--train", action="store_true", help="time forward and backward passes")
    parser.add_argument("--batches", type=int, default=4)
    options = parser.parse_args()
    torch.set_num_threads(1)
    register()
    models = {"sdpa": made("sdpa"), "attention": made("regard"), "layers": unpadded(made("sdpa"))}
    step = train if options.train else infer
    generator = np.random.default_rng(0)
    print(f"{'texts':16}{'full':>6}{'sdpa ms':>9}{'attention':>11}{'layers':>8}")
    for name, kinds in LENGTHS.items():
        spent, full = dict.fromkeys(models, 0.0), 0.0
        for number in range(options.batches + 1):
            ids, mask = batch(generator, kinds)
            seconds = {key: clocked(step, model, ids, mask) for key, model in models.items()}
            if number:  # what the first call alone does is not counted
                spent = {key: spent[key] + seconds[key] for key in models}
                full += float(mask.float().mean()) / options.batches
        ratios = [spent["sdpa"] / spent[key] for key in ("attention", "layers")]
        milliseconds = 1e3 * spent["sdpa"] / options.batches
        print(f"{name:16}{full:6.0%}{milliseconds:9.0f}{ratios[0]:10.2f}x{ratios[1]:7.2f}x", flush=True)


def made(implementation: str) -> nn.Module:
    """The same random model with another attention."""
    torch.manual_seed(0)
    return BertModel._from_config(BertConfig(**SIZES), attn_implementation=implementation)


def batch(generator: np.random.Generator, kinds: list[tuple[float, float]]) -> tuple[Tensor, Tensor]:
    """Words and mask (rows, longest)."""
    rows = [np.exp(generator.normal(mean, spread, ROWS // len(kinds))) for mean, spread in kinds]
    lengths = np.concatenate(rows).clip(3, 256).astype(int)
    mask = torch.as_tensor(np.arange(lengths.max()) < lengths[:, None])
    return torch.as_tensor(generator.integers(0, 30000, mask.shape)), mask.long()


@torch.no_grad()
def infer(model: nn.Module, ids: Tensor, mask: Tensor) -> None:
    """A forward pass."""
    model.eval()(input_ids=ids, attention_mask=mask)


def train(model: nn.Module, ids: Tensor, mask: Tensor) -> None:
    """A forward and a backward pass, with dropout."""
    states = model.train()(input_ids=ids, attention_mask=mask).last_hidden_state
    (states * mask[..., None]).sum().backward()


def clocked(step: Callable[..., None], *arguments: object) -> float:
    """Seconds of the processor."""
    begin = time.process_time()
    step(*arguments)
    return time.process_time() - begin


if __name__ == "__main__":
    main()
