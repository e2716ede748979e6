"""Eole 0.6, heir of OpenNMT-py: its own loop, its own length-sorted token batches, its own search.

Run by the peer's own interpreter. Its files hold our pieces, separated by spaces, so that it trains on the same ids. Added from
outside: where its loop stops, what is counted, fused AdamW, and the schedule that the other peers have.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from eole.config.run import PredictConfig, TrainConfig
from eole.constants import CorpusTask
from eole.inference_engine import InferenceEnginePY
from eole.inputters.dynamic_iterator import build_dynamic_dataset_iter
from eole.inputters.inputter import build_vocab
from eole.models.model import get_model_class
from eole.models.model_saver import build_model_saver
from eole.trainer import build_trainer
from eole.transforms import get_specials
from eole.utils.misc import set_random_seed
from eole.utils.optimizers import Optimizer

from peers import corpus
from peers.budget import Budget, cosine
from peers.protocol import serve
from peers.steps import Steps

SPECIALS = 3  # of ours, before the pieces; it brings its own
CPU = -1
HALF = 0.5  # where a run stands whose speed is measured


class Eole:
    """A trainer, or with `load` an engine that translates."""

    def __init__(
        self,
        *,
        corpus_folder: str,
        tokens: int = 2048,
        learning_rate: float,
        warmup: float = 0.1,
        seed: int = 1,
        load: str | None = None,
    ) -> None:
        self.corpus = corpus.read(Path(corpus_folder))
        self.ids = {piece: number for number, piece in enumerate(self.corpus.pieces)}
        self.warmup, self.engine = warmup, None
        self.budget, self.scheduled = Budget(None, 1), False
        self.useful = self.padded = self.parameters = 0
        if load is not None:
            self._open(load)
            return
        folder = Path(tempfile.mkdtemp())
        _write(self.corpus, folder)
        examples = len(self.corpus.parts["train"].source)
        self.config = TrainConfig(**_configuration(folder, examples, tokens, learning_rate, seed))
        self.config._validate_data_config()
        set_random_seed(seed, False)
        self.vocabs = build_vocab(self.config, get_specials(self.config, {}))
        self.model = get_model_class(self.config.model).for_training(
            self.config.model, self.vocabs, self.config.training, metadata=None, device_id=CPU
        )
        optimizer = Optimizer.from_config(self.model, self.config)
        for group in optimizer._optimizer.param_groups:
            group["fused"] = True
        optimizer._learning_rate_decay_fn = self._share
        self.saver = build_model_saver(self.config, self.model, self.vocabs, optimizer, CPU, {})
        self.trainer = build_trainer(self.config, CPU, self.model, self.vocabs, optimizer, model_saver=None)
        self._step, self.trainer._train_step = self.trainer._train_step, self._counted
        self.steps = Steps(lambda: self.trainer.train(self._iterator(CorpusTask.TRAIN), 0, valid_steps=10**9))
        self.parameters = sum(parameter.numel() for parameter in self.model.parameters())

    def facts(self) -> dict[str, Any]:
        """Versions and size."""
        known = {"parameters": self.parameters} if self.parameters else {}
        return {
            "versions": {"eole": version("eole"), "torch": torch.__version__},
            "precision": "fp32",
            "threads": torch.get_num_threads(),
            **known,
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
        self.saver.model_path = folder
        self.saver.save(self.budget.done)
        self._open(str(Path(folder) / f"step_{self.budget.done}"))
        Path(folder, "latest").write_text(f"step_{self.budget.done}", encoding="utf8")
        loss = self.trainer.validate(self._iterator(CorpusTask.VALID)).xent()
        return answer | {"dev_loss": loss}

    def translate(
        self, *, beam: int, batch: int, count: int = 0, part: str = "test", limit: int = 0
    ) -> dict[str, Any]:
        """Token ids of the translations, and the seconds that each batch took; sorted by length for it."""
        assert self.engine is not None
        table = self.corpus.parts[part]
        numbers = corpus.by_length(table, count)
        seconds, found = [], []
        for first in range(0, len(numbers), batch):
            begin = time.perf_counter()
            chosen = [table.source[number] for number in numbers[first : first + batch]]
            settings = {"beam_size": beam, "max_length": limit or corpus.limit(chosen), "n_best": 1}
            lines = [_line(self.corpus, ids) for ids in chosen]
            _, _, written = self.engine.infer_list(lines, settings=settings)
            found += [[self.ids.get(piece, corpus.UNK) for piece in best[0].split()] for best in written]
            seconds.append(time.perf_counter() - begin)
        return {"seconds": seconds, "ids": corpus.in_order(numbers, found)}

    def _run(self, budget: Budget, *, schedule: bool) -> dict[str, Any]:
        self.budget, self.scheduled = budget, schedule
        self.useful = self.padded = 0
        self.steps.go(lambda: budget.progress < 1)
        answer = {"seconds": budget.seconds, "updates": budget.done}
        return answer | {"useful": self.useful, "padded": self.padded}

    def _counted(self, batches: list[dict[str, Any]], *others: Any, **named: Any) -> None:
        """Its own step, after a halt where the budget is spent: then the update before it is complete, too."""
        self.steps.before()
        for batch in batches:
            # Its sources have no end, but its targets a begin: as many tokens as others count.
            self.useful += int(batch["srclen"].sum()) + int(batch["tgtlen"].sum())
            self.padded += batch["src"].numel() + batch["tgt"].numel()
        self.budget.done += 1
        self._step(batches, *others, **named)

    def _share(self, step: int) -> float:
        return cosine(self.budget.progress if self.scheduled else HALF, self.warmup)

    def _iterator(self, task: CorpusTask) -> Iterable[Any]:
        found: Iterable[Any] = build_dynamic_dataset_iter(
            self.config, {}, self.vocabs, task=task, device_id=CPU
        )
        return found

    def _open(self, path: str) -> None:
        latest = Path(path, "latest")
        model = Path(path, latest.read_text(encoding="utf8")) if latest.exists() else Path(path)
        # One batch at a time comes from here, and its search is told its beam at every call.
        self.engine = InferenceEnginePY(
            PredictConfig(model_path=str(model), src="-", batch_size=10**6, world_size=1, gpu_ranks=[])
        )


def _configuration(
    folder: Path, examples: int, tokens: int, learning_rate: float, seed: int
) -> dict[str, Any]:
    files = {
        name: {
            "path_src": str(folder / f"{part}.source"),
            "path_tgt": str(folder / f"{part}.target"),
            "transforms": [],
        }
        for name, part in (("corpus", "train"), ("valid", "dev"))
    }
    return {
        "seed": seed, "data": files, "src_vocab": str(folder / "pieces"), "share_vocab": True, "vocab_size_multiple": 1,
        "save_data": str(folder), "report_every": 10**9,
        "model": {
            "architecture": "transformer", "hidden_size": 128, "layers": 4, "heads": 4, "transformer_ff": 256,
            "mlp_activation_fn": "relu", "add_qkvbias": True, "add_ffnbias": True, "add_final_linear_bias": True,
            "embeddings": {"word_vec_size": 128, "position_encoding_type": "SinusoidalInterleaved"},
            "share_embeddings": True, "share_decoder_embeddings": True,
        },
        "training": {
            "model_path": str(folder / "model"), "world_size": 1, "gpu_ranks": [], "compute_dtype": "fp32",
            # Sorted over an epoch, as others are; it counts the longer side with padding.
            "batch_type": "tokens", "batch_size": tokens // 2, "batch_size_multiple": 1, "bucket_size": examples,
            "num_workers": 0, "normalization": "tokens", "optim": "adamw", "learning_rate": learning_rate,
            "adam_beta1": 0.9, "adam_beta2": 0.98, "weight_decay": 1e-4, "max_grad_norm": 1.0,
            "dropout": [0.1], "attention_dropout": [0.0], "dropout_steps": [0], "label_smoothing": 0.1,
            "param_init_method": "xavier_uniform", "log_attention_entropy": False, "valid_batch_size": 64,
        },
    }  # fmt: skip


def _write(exported: corpus.Corpus, folder: Path) -> None:
    """The splits as lines of pieces without the ends, which it adds, and the pieces themselves."""
    for name, part in exported.parts.items():
        for side, sentences in (("source", part.source), ("target", part.target)):
            lines = (_line(exported, ids) + "\n" for ids in sentences)
            (folder / f"{name}.{side}").write_text("".join(lines), encoding="utf8")
    (folder / "pieces").write_text("\n".join(exported.pieces[SPECIALS:]) + "\n", encoding="utf8")


def _line(exported: corpus.Corpus, ids: list[int]) -> str:
    return " ".join(exported.pieces[number] for number in ids[:-1])


if __name__ == "__main__":
    serve(Eole)
