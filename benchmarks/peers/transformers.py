"""Hugging Face transformers: Marian's shape (post-norm) or mBART's (pre-norm), trained from scratch by a plain loop.

Run by the peer's own interpreter. The loop is what its Trainer does at the least: SDPA attention, fused AdamW, clipping,
one cosine sized for the budget, the loss of the targets alone. Padded batches are made outside the model, beforehand.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import tokenizers
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

from peers import corpus
from peers.batches import epochs, padded, useful
from peers.budget import Budget, cosine
from peers.protocol import serve

IGNORED = -100  # a label that counts for nothing
HALF = 0.5  # where a run stands whose speed is measured
DEV_TOKENS = 4096
Batch = dict[str, Tensor]


class Transformers:
    """A model of one of the two shapes, with its batches and its optimizer."""

    def __init__(
        self,
        *,
        corpus_folder: str,
        architecture: str,
        order: str = "sorted",
        precision: str = "fp32",
        compiled: bool = False,
        tokens: int = 2048,
        learning_rate: float,
        warmup: float = 0.1,
        seed: int = 1,
        load: str | None = None,
    ) -> None:
        torch.manual_seed(seed)
        self.corpus = corpus.read(Path(corpus_folder))
        self.lengths = self.corpus.parts["train"].lengths
        self.pad = len(self.corpus.pieces)
        self.precision, self.learning_rate, self.warmup = precision, learning_rate, warmup
        if load is None:
            self.model = build(architecture, self.pad)
        else:
            self.model = transformers.AutoModelForSeq2SeqLM.from_pretrained(load, attn_implementation="sdpa")
        self.start = self.model.config.decoder_start_token_id
        self.forward = torch.compile(self.model, dynamic=True) if compiled else self.model
        # Fused: one pass over all weights; ours has no more than that.
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=1e-4, fused=True
        )
        self.batches = epochs(self.lengths, tokens, order, seed)

    def facts(self) -> dict[str, Any]:
        """Versions and size."""
        return {
            "versions": {"transformers": transformers.__version__, "torch": torch.__version__},
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "precision": self.precision,
            "threads": torch.get_num_threads(),
        }

    def train(self, *, updates: int) -> dict[str, Any]:
        """Some updates, timed."""
        return self._run(Budget(None, updates), schedule=False)

    def learn(
        self, *, folder: str, minutes: float | None = None, updates: int | None = None
    ) -> dict[str, Any]:
        """A whole training; the model is kept in `folder`."""
        answer = self._run(Budget(minutes, updates), schedule=True)
        self.model.save_pretrained(folder)
        _tokenizer(self.corpus.tokenizer).save_pretrained(folder)
        return answer | {"dev_loss": self._dev_loss()}

    @torch.inference_mode()
    def translate(
        self, *, beam: int, batch: int, count: int = 0, part: str = "test", limit: int = 0
    ) -> dict[str, Any]:
        """Token ids of the translations, and the seconds that each batch took."""
        self.model.eval()
        sources = self.corpus.parts[part].source
        numbers = corpus.by_length(self.corpus.parts[part], count)
        seconds, found = [], []
        for first in range(0, len(numbers), batch):
            begin = time.perf_counter()
            chosen = [sources[number] for number in numbers[first : first + batch]]
            ids, mask = _stacked(chosen, self.pad), _stacked([[1] * len(ids) for ids in chosen], 0)
            written = self.model.generate(
                input_ids=ids,
                attention_mask=mask,
                num_beams=beam,
                do_sample=False,
                max_new_tokens=limit or corpus.limit(chosen),
                suppress_tokens=[self.pad],
            )
            found += [self._cleaned(row) for row in written.tolist()]
            seconds.append(time.perf_counter() - begin)
        return {"seconds": seconds, "ids": corpus.in_order(numbers, found)}

    def _run(self, budget: Budget, *, schedule: bool) -> dict[str, Any]:
        self.model.train()
        real = full = 0
        while budget.progress < 1:
            numbers = next(self.batches)
            batch = self._batch("train", numbers)
            share = cosine(budget.progress if schedule else HALF, self.warmup)
            for group in self.optimizer.param_groups:
                group["lr"] = self.learning_rate * share
            with self._autocast():
                loss = self._loss(self.forward, batch, 0.1)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            budget.done += 1
            real += useful(self.lengths, numbers)
            full += padded(self.lengths, numbers)
        return {"seconds": budget.seconds, "updates": budget.done, "useful": real, "padded": full}

    def _loss(self, model: Any, batch: Batch, smoothing: float) -> Tensor:
        labels = batch["labels"]
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        logits = model(**inputs, use_cache=False).logits
        return F.cross_entropy(
            logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED, label_smoothing=smoothing
        )

    @torch.inference_mode()
    def _dev_loss(self) -> float:
        """Nats a dev token, ends counted, without smoothing, in float32."""
        self.model.eval()
        lengths = self.corpus.parts["dev"].lengths
        whole = range(len(lengths))
        summed = counted = 0.0
        for first in range(0, len(lengths), 64):
            batch = self._batch("dev", whole[first : first + 64])
            count = int((batch["labels"] != IGNORED).sum())
            summed += float(self._loss(self.model, batch, 0.0)) * count
            counted += count
        return summed / counted

    def _batch(self, part: str, numbers: Any) -> Batch:
        table = self.corpus.parts[part]
        sources = [table.source[number] for number in numbers]
        targets = [table.target[number] for number in numbers]
        return {
            "input_ids": _stacked(sources, self.pad),
            "attention_mask": _stacked([[1] * len(ids) for ids in sources], 0),
            "decoder_input_ids": _stacked([[self.start, *ids[:-1]] for ids in targets], self.pad),
            "labels": _stacked(targets, IGNORED),
        }

    def _autocast(self) -> AbstractContextManager[None]:
        return torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16")

    def _cleaned(self, ids: list[int]) -> list[int]:
        """Without the start, and up to the end."""
        ids = ids[1:]
        return ids[: ids.index(corpus.EOS)] if corpus.EOS in ids else [one for one in ids if one != self.pad]


def build(architecture: str, pad: int) -> Any:
    """A new model of 4 + 4 layers, width 128, feed-forward 256, 4 heads; `pad`, the last id, is the vocabulary's size."""
    sizes = {
        "vocab_size": pad + 1, "d_model": 128, "encoder_layers": 4, "decoder_layers": 4,
        "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 256, "decoder_ffn_dim": 256,
        "activation_function": "relu", "dropout": 0.1, "attention_dropout": 0.0, "activation_dropout": 0.0,
        "init_std": 128**-0.5, "scale_embedding": True, "max_position_embeddings": 256,
        # An end that is forced costs nothing, and would win over honest ones.
        "forced_eos_token_id": None,
        "pad_token_id": pad, "eos_token_id": corpus.EOS, "bos_token_id": None,
        "attn_implementation": "sdpa",
    }  # fmt: skip
    if architecture == "mbart":
        # Read by CTranslate2's converter: what the model is by nature, and a tokenizer that is not mBART's own.
        said = {"normalize_before": True, "normalize_embedding": True, "tokenizer_class": "Tokenizer"}
        return transformers.MBartForConditionalGeneration(
            transformers.MBartConfig(**sizes, **said, decoder_start_token_id=corpus.EOS)
        )
    model = transformers.MarianMTModel(
        transformers.MarianConfig(
            **sizes,
            decoder_start_token_id=pad,
            share_encoder_decoder_embeddings=True,
            tie_word_embeddings=True,
        )
    )
    _keep_zero(model.get_input_embeddings().weight, pad)
    return model


def _keep_zero(weight: Tensor, row: int) -> None:
    """Marian starts writing from a zero embedding, but the tied scores would move it."""
    with torch.no_grad():
        weight[row] = 0
    weight.register_hook(lambda gradient: gradient.index_fill(0, torch.tensor([row]), 0))


def _stacked(rows: list[list[int]], fill: int) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + [fill] * (width - len(row)) for row in rows])


def _tokenizer(path: Path) -> Any:
    """Our tokenizer as transformers knows it, for CTranslate2's converter."""
    core = tokenizers.Tokenizer.from_file(str(path))
    core.add_special_tokens(["<pad>"])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


if __name__ == "__main__":
    serve(Transformers)
