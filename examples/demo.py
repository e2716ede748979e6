"""Train a translator from English to Chinese in three minutes, and look at its attention.

    python examples/demo.py [minutes] [folder]

The sentences are a sample of Tatoeba (CC BY 2.0 FR) that ships with regard. The test sentences are in no other part.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import regard
from regard.data.records import Record, read_records
from regard.metrics.translation import bleu, chrf
from regard.pictures import AttentionPicture
from regard.samples import sample_path
from regard.tasks import make_task
from regard.training import runs
from regard.training.progress import Reporter, best_display
from regard.training.recipe import Recipe

MINUTES, FOLDER = 3.0, Path("runs/demo")
SCORED, SHOWN = 250, 8


def main(minutes: float = MINUTES, folder: Path = FOLDER) -> None:
    sample = sample_path("translate")
    test = list(read_records(sample["test"], ("source", "target")))[:SCORED]

    # The run folder holds a model from the beginning: one that has learned nothing yet.
    folder.mkdir(parents=True, exist_ok=True)
    reporter = Reporter(folder / "metrics.jsonl", best_display())
    task, recipe = make_task("translate"), Recipe(minutes=minutes)
    trainer = runs.begin(task, recipe, sample["train"], sample["dev"], folder, reporter, overwrite=True)
    before = scores(regard.load(folder), test)

    try:
        trainer.run()
    finally:
        reporter.display.close()
    translator = regard.load(folder)
    after = scores(translator, test)

    print(f"\n{len(test)} held-out sentences  before  after")
    for name in after:
        print(f"  {name:<21} {before[name]:7.1f} {after[name]:6.1f}")

    print("\nThe eight shortest of them, with what a person wrote:\n")
    shortest = sorted(test, key=lambda record: len(record.fields["source"]))[:SHOWN]
    translations = translator([record.fields["source"] for record in shortest])
    for record, translation in zip(shortest, translations, strict=True):
        print(f"  {record.fields['source']}")
        print(f"    model   {translation}")
        print(f"    person  {record.fields['target']}\n")

    surest = max(translations, key=lambda translation: translation.score)
    page = draw(translator(surest.source, attention=True), folder / "attention.html")
    print(f"What the model looked at: open {page} in a browser.")
    print(f'Your turn: regard predict {folder} "Where is my cat?"')


def scores(translator: Callable[..., Any], records: list[Record]) -> dict[str, float]:
    """BLEU and chrF of greedy translations."""
    translations = translator([record.fields["source"] for record in records], beam=1)
    texts = [translation.text for translation in translations]
    references = [record.fields["target"] for record in records]
    return {score.name: score.value for score in (bleu(texts, references), chrf(texts, references))}


def draw(translation: Any, path: Path) -> Path:
    """One page: the words of a translation against those of its source, for every layer and head."""
    seen = translation.attention.words()
    picture = AttentionPicture(
        seen.weights,
        queries=seen.target,
        keys=seen.source,
        title=f"{translation.source} → {translation.text}",
        query_name="Chinese",
        key_name="English",
    )
    return picture.save(path)


if __name__ == "__main__":
    given = sys.argv[1:]
    main(float(given[0]) if given else MINUTES, Path(given[1]) if len(given) > 1 else FOLDER)
