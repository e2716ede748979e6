"""A language model of characters, trained for some minutes, beside the same minutes of plain PyTorch.

    python benchmarks/generation.py --data DIR --minutes 20
    python benchmarks/generation.py --data DIR --minutes 3 --only plain --steps 2000    # the CPU command of nanoGPT's README

DIR holds train, dev and test as `.txt.gz` or `.txt`. `ours` is `regard train generate` with what it chooses; `plain` is a
decoder as nanoGPT's, written anew here: `scaled_dot_product_attention`, LayerNorm, GELU, learned positions, AdamW, cosine
schedule, by default with the options of its README for a CPU: 4 layers of width 128, 4 heads, blocks of 64, batches of 12,
no dropout. Its schedule is fitted to the minutes; `--steps` gives it steps instead. Both are scored alike, on the
whole of dev and test in windows of their context that do not overlap, in nats per character. Run it while nothing else
runs. With `--nanogpt FOLDER`, a copy of the repository karpathy/nanoGPT, its own model takes the place of the one written here.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def main() -> None:
    """Train both and print a table in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/generation"))
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--only", choices=["ours", "plain"])
    parser.add_argument("--steps", type=int, help="of plain, instead of minutes")
    parser.add_argument("--nanogpt", type=Path)
    for name, value in {"layers": 4, "heads": 4, "dim": 128, "block": 64, "batch": 12}.items():
        parser.add_argument(f"--{name}", type=int, default=value, help="of plain")
    parser.add_argument("--dropout", type=float, default=0.0, help="of plain")
    arguments, options = parser.parse_known_args()
    print(f"machine: {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print("| | parameters | characters read | minutes | dev | test |\n| --- | --: | --: | --: | --: | --: |")
    if arguments.only != "plain":
        print(row("regard", ours(arguments, options)), flush=True)
    if arguments.only != "ours":
        print(row("nanoGPT" if arguments.nanogpt else "plain PyTorch", plain(arguments)), flush=True)


def row(name: str, found: dict[str, float]) -> str:
    """A line of the table."""
    counts = f"{found['parameters']:,.0f} | {found['read']:,.0f} | {found['minutes']:.1f}"
    return f"| {name} | {counts} | {found['dev']:.4f} | {found['test']:.4f} |"


def path_of(data: Path, split: str) -> Path:
    """The file of a part of the data."""
    return next(path for path in (data / f"{split}.txt.gz", data / f"{split}.txt") if path.exists())


def text_of(data: Path, split: str) -> str:
    """A part of the data."""
    path = path_of(data, split)
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return raw.decode()


def ours(arguments: argparse.Namespace, options: list[str]) -> dict[str, float]:
    """Train and score by the command line."""
    run, data, begin = arguments.out, arguments.data, time.monotonic()
    regard("train", "generate", "--train", path_of(data, "train"), "--dev", path_of(data, "dev"), "--out", run,
           "--minutes", arguments.minutes, "--overwrite", *options)  # fmt: skip
    minutes = (time.monotonic() - begin) / 60
    facts = json.loads(regard("inspect", run, "--json"))
    scores = {
        split: json.loads(regard("evaluate", run, "--data", path_of(data, split), "--json"))[
            "nats-per-character"
        ]
        for split in ("dev", "test")
    }
    steps = max(entry["step"] for entry in facts["scores"])
    read = steps * facts["recipe"]["tokens"]
    return {"parameters": facts["parameters"], "read": read, "minutes": minutes, **scores}


def regard(*command: object) -> str:
    """What a command gives; its messages are let through."""
    call = [sys.executable, "-m", "regard.cli", *map(str, command)]
    return subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True).stdout


class Plain(nn.Module):
    """A decoder as GPT-2's, of PyTorch's own operations."""

    def __init__(
        self, vocabulary: int, layers: int, heads: int, dim: int, block: int, dropout: float
    ) -> None:
        super().__init__()
        self.heads, self.share = heads, dropout
        self.tokens, self.places = nn.Embedding(vocabulary, dim), nn.Embedding(block, dim)
        self.drop = nn.Dropout(dropout)
        parts = {"norm": nn.LayerNorm, "wide": lambda n: nn.Linear(n, 3 * n, bias=False), "out": lambda n: nn.Linear(n, n, bias=False),
                 "after": nn.LayerNorm, "up": lambda n: nn.Linear(n, 4 * n, bias=False), "down": lambda n: nn.Linear(4 * n, n, bias=False)}  # fmt: skip
        self.blocks = nn.ModuleList(
            nn.ModuleDict({name: make(dim) for name, make in parts.items()}) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(dim)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                ends = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * layers) if ends else 0.02)

    def forward(self, ids: Tensor) -> Tensor:
        """Ids (N, T) to scores (N, T, vocabulary)."""
        x = self.drop(self.tokens(ids) + self.places(torch.arange(ids.shape[1])))
        for block in self.blocks:
            wide = block["wide"](block["norm"](x)).unflatten(-1, (3, self.heads, -1)).transpose(1, 3)
            found = F.scaled_dot_product_attention(
                *wide.unbind(2), is_causal=True, dropout_p=self.share if self.training else 0.0
            )
            x = x + self.drop(block["out"](found.transpose(1, 2).flatten(-2)))
            x = x + self.drop(block["down"](F.gelu(block["up"](block["after"](x)))))
        return F.linear(self.norm(x), self.tokens.weight)


def plain(arguments: argparse.Namespace) -> dict[str, float]:
    """Train by AdamW on random blocks: warm-up, cosine to a tenth, as nanoGPT's configuration of Shakespeare says."""
    torch.manual_seed(0)
    text = {split: text_of(arguments.data, split) for split in ("train", "dev", "test")}
    alphabet = {character: number for number, character in enumerate(sorted(set("".join(text.values()))))}
    ids = {split: torch.tensor([alphabet[one] for one in part]) for split, part in text.items()}
    model = made(arguments, len(alphabet))
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99))
    begin, step, share = time.monotonic(), 0, 0.0
    model.train()
    while share < 1:
        cosine = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * share))
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1.0, (step + 1) / 100) * cosine
        starts = torch.randint(len(ids["train"]) - arguments.block, (arguments.batch,))
        windows = ids["train"][starts[:, None] + torch.arange(arguments.block + 1)]
        loss = F.cross_entropy(
            model_scores(model, windows[:, :-1], windows[:, 1:]).flatten(0, 1), windows[:, 1:].flatten()
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        spent = (time.monotonic() - begin) / 60
        share = step / arguments.steps if arguments.steps else spent / arguments.minutes
    minutes = (time.monotonic() - begin) / 60
    model.eval()
    scores = {split: score(model, ids[split], arguments.block) for split in ("dev", "test")}
    count = sum(parameter.numel() for parameter in model.parameters())
    read = step * arguments.batch * arguments.block
    return {"parameters": count, "read": read, "minutes": minutes, **scores}


def made(arguments: argparse.Namespace, vocabulary: int) -> nn.Module:
    """Our plain model, or nanoGPT's own from its folder."""
    shape = (arguments.layers, arguments.heads, arguments.dim, arguments.block, arguments.dropout)
    if arguments.nanogpt is None:
        return Plain(vocabulary, *shape)
    spec = importlib.util.spec_from_file_location("nanogpt_model", arguments.nanogpt / "model.py")
    module: Any = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    sys.modules["nanogpt_model"] = module
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    names = ("n_layer", "n_head", "n_embd", "block_size", "dropout")
    config = module.GPTConfig(**dict(zip(names, shape, strict=True)), vocab_size=vocabulary, bias=False)
    return module.GPT(config)


def model_scores(model: nn.Module, ids: Tensor, targets: Tensor) -> Tensor:
    """Scores of every position; nanoGPT's model gives them all only where it is told the targets."""
    return model(ids) if isinstance(model, Plain) else model(ids, targets.contiguous())[0]


@torch.no_grad()
def score(model: nn.Module, ids: Tensor, block: int) -> float:
    """Nats per character over a whole text, in blocks that do not overlap."""
    total = 0.0
    for begin in range(0, len(ids) - 1, block):
        window = ids[begin : begin + block + 1][None]
        scores = model_scores(model, window[:, :-1], window[:, 1:])
        total += float(F.cross_entropy(scores[0], window[0, 1:], reduction="sum"))
    return total / (len(ids) - 1)


if __name__ == "__main__":
    main()
