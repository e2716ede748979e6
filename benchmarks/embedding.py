"""Sentence embeddings: `SentenceEncoder`, packed, against `transformers` with SDPA, padded, and with regard inside.

python benchmarks/embedding.py --model DIR --sentences FILE.jsonl.gz --passages FILE.jsonl.gz

DIR holds all-MiniLM-L6-v2; the records of the files have `source`, or `context`. `transformers` has to be importable. All begin
with token ids. The peers get batches of 64 with masks, in the order of the texts and sorted by length, pooled and normalized alike.
The ratios are to SDPA: of `SentenceEncoder` (encoder), and of the same transformers model after `regard.compat.huggingface.register()` with
`attn_implementation="regard"` (attention) and after `unpadded(model)` (layers).
The contenders take turns. On one thread a turn's time is the processor's, so that others on the machine count little; on more it is
the clock's, and the machine should be left alone.
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

from regard.compat.huggingface import register, unpadded
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
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    from transformers import AutoModel

    ours = SentenceEncoder.load(options.model)
    register()
    load = AutoModel.from_pretrained
    peers = [load(options.model, attn_implementation=name).eval() for name in ("sdpa", "regard", "sdpa")]
    embedders = [ours.embed_ids, *map(padded, (*peers[:2], unpadded(peers[2])))]
    for embed in embedders:  # what the first call alone does is not timed
        embed(ours.encode(["A dog runs."]))
    half = options.texts // 2
    sentences, passages = read(options.sentences, options.texts), read(options.passages, options.texts)
    mixed = sentences[:half] + passages[:half]
    print(
        f"{'texts':16}{'tokens a text':>14}{'order':>10}{'padding':>9}{'tokens/s':>10}{'encoder':>9}{'attention':>11}{'layers':>8}"
    )
    for name, texts in {"sentences": sentences, "passages": passages, "half and half": mixed}.items():
        random.Random(0).shuffle(texts)
        ids = ours.encode(texts)
        mean = sum(map(len, ids)) / len(ids)
        for order, sequences in {"given": ids, "sorted": sorted(ids, key=len)}.items():
            batches = [sequences[begin : begin + BATCH] for begin in range(0, len(ids), BATCH)]
            padding = 1 - sum(map(len, ids)) / sum(len(batch) * max(map(len, batch)) for batch in batches)
            chosen = batches[options.every // 2 :: options.every]
            tokens = sum(len(one) for batch in chosen for one in batch)
            own, sdpa, attention, layers = race(embedders, chosen)
            print(
                f"{name:16}{mean:14.1f}{order:>10}{padding:9.0%}{tokens / own:10.0f}{sdpa / own:8.2f}x"
                f"{sdpa / attention:10.2f}x{sdpa / layers:7.2f}x",
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


def race(embedders: list[Embed], batches: list[list[list[int]]]) -> list[float]:
    """Seconds of each, ours first, in turns; the vectors are compared."""
    ours, *peers = embedders
    spent = [0.0] * len(embedders)
    # Ours cuts its batches by tokens, so that it is given several at once, as by a caller with many texts.
    for begin in range(0, len(batches), GROUP):
        group = batches[begin : begin + GROUP]
        seconds, found = clocked(ours, [one for batch in group for one in batch])
        spent[0] += seconds
        for batch, vectors in zip(group, found.split([len(batch) for batch in group]), strict=True):
            for number, peer in enumerate(peers, 1):
                seconds, expected = clocked(peer, batch)
                spent[number] += seconds
                torch.testing.assert_close(vectors, expected, atol=1e-5, rtol=1e-4)
    return spent


def clocked(embed: Embed, ids: Sequence[list[int]]) -> tuple[float, Tensor]:
    """One turn: seconds, and the vectors."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    begin = clock()
    found = embed(ids)
    return clock() - begin, found


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
