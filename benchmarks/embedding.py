"""Sentence embeddings on one thread: `SentenceEncoder`, packed, against `transformers` with SDPA, padded.

python benchmarks/embedding.py --model DIR --sentences FILE.jsonl.gz --passages FILE.jsonl.gz

DIR holds all-MiniLM-L6-v2; the records of the files have `source`, or `context`. `transformers` has to be importable. All begin
with token ids. The peers get batches of 64 with masks, in the order of the texts and sorted by length, pooled and normalized alike.
The contenders take turns by the batch of 64, and a turn's time is the processor's, so that others on the machine count little.
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

BATCH = 64
Embed = Callable[[Sequence[list[int]]], Tensor]


def main() -> None:
    """Print for each mixture of texts the tokens a second and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--sentences", required=True)
    parser.add_argument("--passages", required=True)
    parser.add_argument("--texts", type=int, default=2000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    from transformers import AutoModel

    ours = SentenceEncoder.load(options.model)
    peer = AutoModel.from_pretrained(options.model, attn_implementation="sdpa").eval()
    half = options.texts // 2
    sentences, passages = read(options.sentences, options.texts), read(options.passages, options.texts)
    corpora = {
        "sentences": sentences,
        "passages": passages,
        "half and half": sentences[:half] + passages[:half],
    }
    print(
        f"{'texts':16}{'tokens a text':>14}{'padding':>9}{'sorted':>8}{'tokens/s':>10}{'unsorted':>10}{'sorted':>8}"
    )
    for name, texts in corpora.items():
        random.Random(0).shuffle(texts)
        ids = ours.encode(texts)
        seconds = race(ours, peer, ids)
        tokens, (mixed, even) = sum(map(len, ids)), [padding(order) for order in (ids, sorted(ids, key=len))]
        print(
            f"{name:16}{tokens / len(ids):14.1f}{mixed:9.0%}{even:8.0%}{tokens / seconds[0]:10.0f}"
            f"{seconds[1] / seconds[0]:9.2f}x{seconds[2] / seconds[0]:7.2f}x",
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


def race(ours: SentenceEncoder, peer: nn.Module, ids: list[list[int]]) -> list[float]:
    """Seconds of ours, of the peer in the given order and of the peer in order of length."""
    even = sorted(ids, key=len)
    seconds = [0.0, 0.0, 0.0]
    # Ours sorts by itself, so that it is given eight batches at once, as a caller with many texts would.
    for begin in range(0, len(ids), 8 * BATCH):
        _, found = clocked(seconds, 0, ours.embed_ids, ids[begin : begin + 8 * BATCH])
        for start in range(begin, min(begin + 8 * BATCH, len(ids)), BATCH):
            _, expected = clocked(seconds, 1, padded(peer), ids[start : start + BATCH])
            clocked(seconds, 2, padded(peer), even[start : start + BATCH])
            torch.testing.assert_close(found[start - begin :][:BATCH], expected, atol=1e-5, rtol=1e-4)
    return seconds


def clocked(seconds: list[float], who: int, embed: Embed, ids: Sequence[list[int]]) -> tuple[float, Tensor]:
    """One turn."""
    begin = time.process_time()
    found = embed(ids)
    spent = time.process_time() - begin
    seconds[who] += spent
    return spent, found


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


def padding(ids: list[list[int]]) -> float:
    """Share of the padded batches that is padding."""
    batches = [ids[start : start + BATCH] for start in range(0, len(ids), BATCH)]
    return 1 - sum(map(len, ids)) / sum(len(batch) * max(map(len, batch)) for batch in batches)


if __name__ == "__main__":
    main()
