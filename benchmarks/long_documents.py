"""What a long document costs a summarizer: in training a window with a global token beside full attention, and beside LED; and in writing.

    python benchmarks/long_documents.py
    python benchmarks/long_documents.py --lengths 2048 4096 8192 16384 --window 256 --threads 2

One document and a summary of 128 tokens, output and gradients of the whole loss; every figure is of a process of its own, the time
the least of the rounds, the memory the peak above what stood before. LED (Beltagy et al. 2020) is transformers' own class with as
many layers, heads and as wide a window, from random weights; where transformers is missing its column is left out. Writing is a
beam of 5 that reads the document by the window and writes as many tokens, without an end.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from regard import Packed
from regard.decoding import search
from regard.decoding.copying import CopyWriter
from regard.nn import CopyingEncoderDecoder, Shape

VOCABULARY, SUMMARY = 2000, 128
BEAM, END = 5, 1
WRITING = "writing"
SIZES = {"dim": 128, "heads": 4, "hidden": 256, "encoder_layers": 2, "decoder_layers": 1}
Step = Callable[[], object]


def main() -> None:
    """Print the table in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048, 4096, 8192, 16384])
    parser.add_argument("--window", type=int, default=256, help="tokens on each side")
    parser.add_argument(
        "--others", type=int, default=16384, help="longest document of full attention and LED"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1)
    asked = parser.parse_args()
    names = [f"window {asked.window}", WRITING, "full attention"]
    if importlib.util.find_spec("transformers"):
        names.append("LED")
    print(f"{asked.threads} threads; seconds, MiB\n")
    print("| tokens | " + " | ".join(names) + " |\n|" + " --: |" * (len(names) + 1))
    for length in asked.lengths:
        cells = []
        for name in names:
            if name not in names[:2] and length > asked.others:
                cells.append("")
                continue
            seconds, peak = in_fresh_process(name, length, asked.window, asked.threads, asked.rounds)
            cells.append(f"{seconds:.2f}, {peak / 2**20:,.0f}")
        print(f"| {length:,} | " + " | ".join(cells) + " |", flush=True)


def in_fresh_process(name: str, *arguments: int) -> tuple[float, int]:
    """Seconds and bytes of one contender."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(measure, (name, *arguments))


def measure(name: str, length: int, window: int, threads: int, rounds: int) -> tuple[float, int]:
    """The least time of a step, and the peak of memory above what stood before."""
    torch.set_num_threads(threads)
    make = {"LED": led_step, WRITING: our_writing}.get(name, our_step)
    make(64, window)()  # what is loaded and allocated once
    width = None if name == "full attention" else window
    step = make(length, width)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before, seconds = peak_memory(), []
    for _ in range(rounds):
        begin = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - begin)
    return min(seconds), peak_memory() - before


def our_step(length: int, window: int | None) -> Step:
    """Loss and gradients of our model."""
    model = CopyingEncoderDecoder(Shape(VOCABULARY, **SIZES, dropout=0.1, window=window))  # type: ignore[arg-type]
    source, target = (Packed(torch.randint(VOCABULARY, (n,)), np.array([0, n])) for n in (length, SUMMARY))

    def step() -> None:
        model.zero_grad()
        model.loss(source, target, target.values).backward()

    return step


def our_writing(length: int, window: int | None) -> Step:
    """Reading a document and writing a summary of it."""
    model = CopyingEncoderDecoder(Shape(VOCABULARY, **SIZES, window=window)).eval()  # type: ignore[arg-type]
    source = torch.randint(3, VOCABULARY, (length,)).tolist()

    def step() -> None:
        search(Endless(model, [source]), [SUMMARY], beam=BEAM, bos=0, eos=END)

    return step


class Endless(CopyWriter):
    """Writes as much as it may."""

    def scores(self, states: torch.Tensor, tokens: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
        """Log-probabilities (M, vocabulary), that of the end next to nothing."""
        return super().scores(states, tokens, read).index_fill(-1, torch.tensor([END]), -1e9)


def led_step(length: int, window: int | None) -> Step:
    """The same of LED."""
    from transformers import LEDConfig, LEDForConditionalGeneration

    sizes: dict[str, Any] = {
        f"{side}_{name}": SIZES[ours]
        for side in ("encoder", "decoder")
        for name, ours in (("layers", f"{side}_layers"), ("attention_heads", "heads"), ("ffn_dim", "hidden"))
    }
    config = LEDConfig(
        vocab_size=VOCABULARY, d_model=SIZES["dim"], attention_window=2 * (window or 0),
        max_encoder_position_embeddings=max(1024, length), **sizes,
    )  # fmt: skip
    model = LEDForConditionalGeneration(config).train()
    source, target = (torch.randint(3, VOCABULARY, (1, n)) for n in (length, SUMMARY))
    sees_all = torch.zeros_like(source)
    sees_all[:, 0] = 1

    def step() -> None:
        model.zero_grad()
        model(input_ids=source, labels=target, global_attention_mask=sees_all).loss.backward()

    return step


def peak_memory() -> int:
    """The most memory that this process has held, in bytes; since the last time that it was asked to forget."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


if __name__ == "__main__":
    main()
