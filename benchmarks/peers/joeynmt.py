"""JoeyNMT 2.3: its own loop, its own random token batches, its own search.

Run by the peer's own interpreter. Its files hold our pieces, separated by spaces, so that it trains on the same ids. Added from
outside: where its loop stops, what is counted, fused AdamW, the schedule that the other peers have, and bfloat16 if asked for;
its own schedules do not end with a budget.
"""

from __future__ import annotations

import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from joeynmt.batch import Batch
from joeynmt.config import parse_global_args, set_validation_args
from joeynmt.prediction import prepare
from joeynmt.search import search
from joeynmt.training import TrainManager

from peers import corpus
from peers.budget import Budget, cosine
from peers.protocol import serve
from peers.steps import Steps

WEIGHTS = "model.pt"
UNK, PAD, BOS, EOS = range(4)  # its ids; pieces follow
SPECIALS = 3  # of ours, before the pieces
SMOOTHING = 0.1
HALF = 0.5  # where a run stands whose speed is measured


class JoeyNMT:
    """A model, its trainer, and the files it reads."""

    def __init__(
        self,
        *,
        corpus_folder: str,
        tokens: int = 2048,
        precision: str = "fp32",
        learning_rate: float,
        warmup: float = 0.1,
        seed: int = 1,
        load: str | None = None,
    ) -> None:
        self.corpus = corpus.read(Path(corpus_folder))
        self.learning_rate, self.warmup, self.precision = learning_rate, warmup, precision
        folder = Path(tempfile.mkdtemp())
        _write(self.corpus, folder)
        settings = parse_global_args(
            _configuration(folder, tokens, learning_rate, seed), rank=0, mode="train"
        )
        self.model, train, dev, _ = prepare(settings, rank=0, mode="train")
        if load is not None:
            self.model.load_state_dict(torch.load(Path(load) / WEIGHTS, weights_only=True))
        self.autocast = {"device_type": "cpu", "enabled": precision == "bf16", "dtype": torch.bfloat16}
        self.trainer = TrainManager(
            rank=0, model=self.model, model_dir=settings.model_dir, device=settings.device, n_gpu=0, num_workers=0,
            autocast=self.autocast, seed=seed, train_args=settings.train, dev_args=set_validation_args(settings.test),
        )  # fmt: skip
        for group in self.trainer.optimizer.param_groups:
            group["fused"] = True
        self.steps = Steps(lambda: self.trainer.train_and_validate(train_data=train, valid_data=dev))
        self._step, self.trainer._train_step = self.trainer._train_step, self._counted
        self.trainer.scheduler_step_at = "never"
        self.budget, self.scheduled = Budget(None, 1), False
        self.useful = self.padded = 0

    def facts(self) -> dict[str, Any]:
        """Versions and size."""
        return {
            "versions": {"joeynmt": version("joeynmt"), "torch": torch.__version__},
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
        Path(folder).mkdir(parents=True, exist_ok=True)
        torch.save(self.model.state_dict(), Path(folder) / WEIGHTS)
        return answer | {"dev_loss": self._dev_loss()}

    def translate(
        self, *, beam: int, batch: int, count: int = 0, part: str = "test", limit: int = 0
    ) -> dict[str, Any]:
        """Token ids of the translations, and the seconds that each batch took; sorted by length for it."""
        self.model.eval()
        table = self.corpus.parts[part]
        numbers = corpus.by_length(table, count)
        seconds, found = [], []
        for first in range(0, len(numbers), batch):
            begin = time.perf_counter()
            chosen = [table.source[number] for number in numbers[first : first + batch]]
            most = limit or corpus.limit(chosen)
            rows, _, _ = search(
                model=self.model, batch=_batch(chosen), beam_size=beam, beam_alpha=1.0, max_output_length=most
            )
            found += [_from_its(row) for row in rows.tolist()]
            seconds.append(time.perf_counter() - begin)
        return {"seconds": seconds, "ids": corpus.in_order(numbers, found)}

    def _run(self, budget: Budget, *, schedule: bool) -> dict[str, Any]:
        self.budget, self.scheduled = budget, schedule
        self.useful = self.padded = 0
        self.steps.go(lambda: budget.progress < 1)
        answer = {"seconds": budget.seconds, "updates": budget.done}
        return answer | {"useful": self.useful, "padded": self.padded}

    def _counted(self, batch: Batch) -> tuple[float, int]:
        """Its own step, after a halt where the budget is spent: then the update before it is complete, too."""
        self.steps.before()
        progress = self.budget.progress if self.scheduled else HALF
        for group in self.trainer.optimizer.param_groups:
            group["lr"] = self.learning_rate * cosine(progress, self.warmup)
        self.useful += int(batch.src_length.sum()) + int(batch.ntokens)
        self.padded += batch.src.numel() + batch.trg.numel()
        self.budget.done += 1
        found: tuple[float, int] = self._step(batch)
        return found

    @torch.inference_mode()
    def _dev_loss(self) -> float:
        """Nats a dev token, ends counted, without smoothing."""
        self.model.eval()
        self.model.loss_function = ("crossentropy", 0.0)
        part = self.corpus.parts["dev"]
        summed = counted = 0.0
        for first in range(0, len(part.source), 64):
            numbers = range(first, min(first + 64, len(part.source)))
            batch = _batch([part.source[n] for n in numbers], [part.target[n] for n in numbers])
            summed += float(self.model(return_type="loss", **vars(batch))[0])
            counted += int(batch.ntokens)
        self.model.loss_function = ("crossentropy", SMOOTHING)
        return summed / counted


def _configuration(folder: Path, tokens: int, learning_rate: float, seed: int) -> dict[str, Any]:
    side = {
        "max_length": 250,
        "lowercase": False,
        "normalize": False,
        "level": "word",
        "voc_file": str(folder / "pieces"),
    }
    block = {
        "type": "transformer", "num_layers": 4, "num_heads": 4, "hidden_size": 128, "ff_size": 256, "dropout": 0.1,
        "layer_norm": "pre", "embeddings": {"embedding_dim": 128, "scale": True, "dropout": 0.1},
    }  # fmt: skip
    specials = {"unk_token": "<unk>", "pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    numbers = {"unk_id": UNK, "pad_id": PAD, "bos_id": BOS, "eos_id": EOS}
    return {
        "name": "peer", "model_dir": str(folder), "use_cuda": False, "fp16": False, "random_seed": seed,
        "data": {
            **{name: str(folder / name) for name in corpus.PARTS}, "dataset_type": "plain",
            "src": {**side, "lang": "source"}, "trg": {**side, "lang": "target"},
            "special_symbols": {**specials, **numbers},
        },
        "testing": {"batch_size": 64, "batch_type": "sentence", "eval_metrics": ["bleu"]},
        "training": {
            "optimizer": "adamw", "adam_betas": [0.9, 0.98], "learning_rate": learning_rate, "learning_rate_min": 0.0,
            "scheduling": "warmupinversesquareroot", "learning_rate_warmup": 400, "weight_decay": 1e-4,
            "clip_grad_norm": 1.0, "label_smoothing": SMOOTHING, "loss": "crossentropy",
            "normalization": "tokens", "batch_size": tokens, "batch_type": "token", "epochs": 10**6,
            "validation_freq": 10**9, "logging_freq": 10**9, "shuffle": True, "overwrite": True, "print_valid_sents": [],
        },
        "model": {
            "initializer": "xavier_uniform", "embed_initializer": "xavier_uniform", "tied_embeddings": True,
            "tied_softmax": True, "encoder": block, "decoder": block,
        },
    }  # fmt: skip


def _write(exported: corpus.Corpus, folder: Path) -> None:
    """The splits as lines of pieces without the ends, which it adds, and the pieces themselves."""
    for name, part in exported.parts.items():
        for side, sentences in (("source", part.source), ("target", part.target)):
            lines = (" ".join(exported.pieces[number] for number in ids[:-1]) + "\n" for ids in sentences)
            (folder / f"{name}.{side}").write_text("".join(lines), encoding="utf8")
    (folder / "pieces").write_text("\n".join(exported.pieces[SPECIALS:]) + "\n", encoding="utf8")


def _batch(sources: list[list[int]], targets: list[list[int]] | None = None) -> Batch:
    source = [_to_its(ids) for ids in sources]
    target = None if targets is None else torch.tensor(_filled([[BOS, *_to_its(ids)] for ids in targets]))
    return Batch(
        src=torch.tensor(_filled(source)), src_length=torch.tensor([len(ids) for ids in source]), src_prompt_mask=None,
        trg=target, trg_prompt_mask=None, indices=torch.arange(len(source)), device=torch.device("cpu"),
        pad_index=PAD, eos_index=EOS, is_train=False,
    )  # fmt: skip


def _filled(rows: list[list[int]]) -> list[list[int]]:
    width = max(map(len, rows))
    return [row + [PAD] * (width - len(row)) for row in rows]


def _to_its(ids: list[int]) -> list[int]:
    special = {corpus.UNK: UNK, corpus.BOS: BOS, corpus.EOS: EOS}
    return [special.get(number, number + 1) for number in ids]


def _from_its(row: list[int]) -> list[int]:
    ids = row[: row.index(EOS)] if EOS in row else row
    return [number - 1 if number > EOS else corpus.UNK for number in ids if number != PAD]


if __name__ == "__main__":
    serve(JoeyNMT)
