"""Sentence embeddings on one thread: `SentenceEncoder`, packed, against `transformers` with SDPA, padded.

python benchmarks/embedding.py --model DIR --sentences FILE.jsonl.gz --passages FILE.jsonl.gz

DIR holds all-MiniLM-L6-v2; the records of the files have `source`, or `context`. `transformers` has to be importable. All begin
with token ids. The peers get batches of 64 with masks, in the order of the texts and sorted by length, pooled and normalized alike.
The contenders take turns, and a turn's time is the processor's, so that others on the machine count little.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import time
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regard.data.embedding import SentenceEncoder

BATCH, GROUP = 64, 4
Embed = Callable[[Sequence[list[int]]], Tensor]


def main() -> None:
    """Print for each mixture of texts the tokens a second and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--sentences", required=True)
    parser.add_argument("--passages", required=True)
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument(
        "--every", type=int, default=1, help="time one batch of so many, evenly over the order"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    from transformers import AutoModel

    ours = SentenceEncoder.load(options.model)
    peer = padded(AutoModel.from_pretrained(options.model, attn_implementation="sdpa").eval())
    for embed in (ours.embed_ids, peer):  # what the first call alone does is not timed
        embed(ours.encode(["A dog runs."]))
    half = options.texts // 2
    sentences, passages = read(options.sentences, options.texts), read(options.passages, options.texts)
    mixed = sentences[:half] + passages[:half]
    print(f"{'texts':16}{'tokens a text':>14}{'order':>10}{'padding':>9}{'tokens/s':>10}{'ratio':>8}")
    for name, texts in {"sentences": sentences, "passages": passages, "half and half": mixed}.items():
        random.Random(0).shuffle(texts)
        ids = ours.encode(texts)
        mean = sum(map(len, ids)) / len(ids)
        for order, sequences in {"given": ids, "sorted": sorted(ids, key=len)}.items():
            batches = [sequences[begin : begin + BATCH] for begin in range(0, len(ids), BATCH)]
            padding = 1 - sum(map(len, ids)) / sum(len(batch) * max(map(len, batch)) for batch in batches)
            chosen = batches[options.every // 2 :: options.every]
            tokens = sum(len(one) for batch in chosen for one in batch)
            own, other = race(ours.embed_ids, peer, chosen)
            print(
                f"{name:16}{mean:14.1f}{order:>10}{padding:9.0%}{tokens / own:10.0f}{other / own:7.2f}x",
                flush=True,
            )


def read(path: str, count: int) -> list[str]:
    """The first different texts of a file."""
    texts: dict[str, None] = {}
    with gzip.open(path, "rt", encoding="utf8") as file:
        for line in file:
            record = json.loads(line)
            texts.setdefault(record.get("source") or record["context"])
            if len(texts) == count:
                break
    return list(texts)


def race(ours: Embed, peer: Embed, batches: list[list[list[int]]]) -> tuple[float, float]:
    """Seconds of ours and of the peer, in turns; the vectors are compared."""
    own = other = 0.0
    # Ours cuts its batches by tokens, so that it is given several at once, as by a caller with many texts.
    for begin in range(0, len(batches), GROUP):
        group = batches[begin : begin + GROUP]
        seconds, found = clocked(ours, [one for batch in group for one in batch])
        own += seconds
        for batch, vectors in zip(group, found.split([len(batch) for batch in group]), strict=True):
            seconds, expected = clocked(peer, batch)
            other += seconds
            torch.testing.assert_close(vectors, expected, atol=1e-5, rtol=1e-4)
    return own, other


def clocked(embed: Embed, ids: Sequence[list[int]]) -> tuple[float, Tensor]:
    """One turn: seconds of the processor, and the vectors."""
    begin = time.process_time()
    found = embed(ids)
    return time.process_time() - begin, found


def padded(peer: nn.Module) -> Embed:
    """The peer as sentence-transformers calls it."""

    @torch.no_grad()
    def embed(ids: Sequence[list[int]]) -> Tensor:
        longest = max(map(len, ids))
        words = torch.tensor([[*one, *[0] * (longest - len(one))] for one in ids])
        mask = torch.tensor([[1] * len(one) + [0] * (longest - len(one)) for one in ids])
        states = peer(input_ids=words, attention_mask=mask).last_hidden_state
        weights = mask[:, :, None].float()
        return F.normalize((states * weights).sum(1) / weights.sum(1), dim=-1)

    return embed


if __name__ == "__main__":
    main()
