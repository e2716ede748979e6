"""How fast a trained translator writes: the kernel in every precision beside PyTorch, and beside CTranslate2.

    python benchmarks/decoding.py --run runs/multi30k --data DIR/test.jsonl.gz
    python benchmarks/decoding.py --run runs/multi30k --data DIR/test.jsonl.gz --ctranslate2 FOLDER

The contenders take turns within every round; a figure is the median of the rounds, and a ratio compares figures of one table
only. FOLDER is the same model as CTranslate2 reads it; it gets the texts as pieces, while ours cuts and joins them as well.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch

import regard
from regard.data.records import read_records
from regard.data.tokenizer import Tokenizer
from regard.decoding.engine import Engine, EngineWriter
from regard.tasks import translate

PRECISIONS = ("fp32", "bf16", "int8")
THEIRS = {"fp32": "float32", "bf16": "bfloat16", "int8": "int8"}
Contender = Callable[[list[str], int], Any]


def main() -> None:
    """Print the tables in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--sentences", type=int, default=256, help="of the data, spread evenly")
    parser.add_argument("--single", type=int, default=40, help="sentences written one by one")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ctranslate2", type=Path)
    asked = parser.parse_args()
    predictor = regard.load(asked.run)
    records = list(read_records(asked.data, predictor.task.fields))
    records = records[:: max(1, len(records) // asked.sentences)][: asked.sentences]
    texts = [record.fields["source"] for record in records]
    contenders = ours(predictor) | (theirs(asked.ctranslate2, predictor) if asked.ctranslate2 else {})
    print(f"{torch.get_num_threads()} threads, {len(texts)} sentences, 64 or 320 (greedy) at once\n")
    for beam in (1, 5):
        print(f"beam {beam}\n\n| | sentences a second | one sentence, ms | BLEU |\n| --- | --- | --- | --- |")
        speed = timed(contenders, texts, beam, asked.rounds)
        alone = one_by_one(contenders, texts[:: max(1, len(texts) // asked.single)][: asked.single], beam)
        for name, contender in contenders.items():
            score = bleu(predictor, contender(texts, beam), records)
            print(f"| {name} | {len(texts) / speed[name]:,.0f} | {1000 * alone[name]:.2f} | {score} |")
        print()
        for precision in PRECISIONS:
            print(f"{precision}, all: {shares(predictor, [texts], beam, precision)}")
            print(f"{precision}, one: {shares(predictor, [[text] for text in texts[:20]], beam, precision)}")
        print()


def ours(predictor: Any) -> dict[str, Contender]:
    """The kernel in every precision, and the plain writer."""

    def kernel(precision: str) -> Contender:
        return lambda texts, beam: predictor(texts, beam=beam, precision=precision)

    def plain(texts: list[str], beam: int) -> Any:
        with mock.patch.object(translate, "is_for", return_value=False):
            return predictor.task.predict(predictor.model, texts, beam=beam)

    return {"PyTorch": plain, **{precision: kernel(precision) for precision in PRECISIONS}}


def theirs(folder: Path, predictor: Any) -> dict[str, Contender]:
    """CTranslate2 on as many cores: a translator on each for many texts in batches of 64, all of them for a single one.

    It stops a little earlier than ours, when a beam is full.
    """
    import ctranslate2

    tokenizer: Tokenizer = predictor.task.tokenizer
    cut: dict[str, list[str]] = {}

    def contender(precision: str) -> Contender:
        cores, kind = torch.get_num_threads(), THEIRS[precision]
        many = ctranslate2.Translator(str(folder), compute_type=kind, inter_threads=cores, intra_threads=1)
        single = ctranslate2.Translator(str(folder), compute_type=kind, intra_threads=cores)

        def write(texts: list[str], beam: int) -> Any:
            sources = [cut.setdefault(text, tokenizer.pieces(tokenizer.encode(text))) for text in texts]
            model = single if len(texts) == 1 else many
            return model.translate_batch(sources, beam_size=beam, max_batch_size=64, min_decoding_length=0)

        return write

    known = ctranslate2.get_supported_compute_types("cpu")
    able = [precision for precision in PRECISIONS if THEIRS[precision] in known]
    return {f"CTranslate2 {precision}": contender(precision) for precision in able}


def timed(contenders: dict[str, Contender], texts: list[str], beam: int, rounds: int) -> dict[str, float]:
    """Seconds for all texts, the median over rounds in which the contenders take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, contender in contenders.items():
            begin = time.perf_counter()
            contender(texts, beam)
            if number:  # the first round packs and warms
                seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(times) for name, times in seconds.items()}


def one_by_one(contenders: dict[str, Contender], texts: list[str], beam: int) -> dict[str, float]:
    """Seconds for a sentence alone, the median over sentences."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for text in texts:
        for name, contender in contenders.items():
            begin = time.perf_counter()
            contender([text], beam)
            seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(times) for name, times in seconds.items()}


def bleu(predictor: Any, found: Any, records: list[Any]) -> str:
    """The score of what was written, of texts or of CTranslate2's pieces."""
    if hasattr(found[0], "hypotheses"):
        core = predictor.task.tokenizer._core
        texts = [
            predictor.task.tokenizer.decode([core.token_to_id(piece) for piece in one.hypotheses[0]])
            for one in found
        ]
        found = [translate.Translation("", text, 0.0, ()) for text in texts]
    return f"{predictor.task.score(found, records)[0].value:.2f}"


def shares(predictor: Any, batches: list[list[str]], beam: int, precision: str) -> str:
    """Where the time goes, as shares; what is left is the search's own bookkeeping."""
    parts = [
        ("cutting", Tokenizer, "encode_batch"),
        ("encoder", Engine, "encode"),
        ("encoder and its keys", EngineWriter, "begin"),
        ("steps", EngineWriter, "step"),
        ("joining", Tokenizer, "decode"),
    ]
    spent = {name: 0.0 for name, *_ in parts}

    def watched(name: str, function: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            begin = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                spent[name] += time.perf_counter() - begin

        return call

    with contextlib.ExitStack() as stack:
        for name, owner, method in parts:
            stack.enter_context(mock.patch.object(owner, method, watched(name, getattr(owner, method))))
        begin = time.perf_counter()
        for texts in batches:
            predictor(texts, beam=beam, precision=precision)
        whole = time.perf_counter() - begin
    spent["keys"] = spent.pop("encoder and its keys") - spent["encoder"]
    spent["search"] = whole - sum(spent.values())
    return ", ".join(f"{name} {seconds / whole:.0%}" for name, seconds in spent.items())


if __name__ == "__main__":
    main()
