"""Train a translator from English to Chinese in three minutes, and look at its attention.

    python examples/demo.py [minutes] [folder]

The sentences are a sample of Tatoeba (CC BY 2.0 FR) that ships with regard. The test sentences are in no other part.
"""

from __future__ import annotations

import sys
from pathlib import Path

import regard
from regard.data.records import read_records
from regard.pictures import AttentionPicture
from regard.samples import sample_path
from regard.tasks import make_task
from regard.training import runs
from regard.training.progress import Reporter, best_display
from regard.training.recipe import Recipe

SHOWN = 8


def main(minutes: float = 3.0, folder: Path = Path("runs/demo")) -> None:
    sample = sample_path("translate")
    test = list(read_records(sample["test"], ("source", "target")))

    # A trainer has everything that changes while a model learns; the run folder has everything that is worth keeping.
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

    print(f"\n{len(test)} held-out sentences   before   after")
    for name, value in after.items():
        print(f"  {name:<22} {before[name]:9.1f} {value:7.1f}")

    print()
    for record in test[:SHOWN]:
        print(f"  {record.fields['source']}")
        print(f"     regard     {translator(record.fields['source']).text}")
        print(f"     reference  {record.fields['target']}\n")

    page = draw(translator, test[0].fields["source"], folder / "attention.html")
    print(f"Open {page} in a browser to see what the model looked at.")
    print(f'Your turn: .venv/bin/regard predict {folder} "Where is my cat?"')


def scores(translator: regard.Predictor, records: list) -> dict[str, float]:
    """BLEU and chrF of greedy translations."""
    translations = translator([record.fields["source"] for record in records], beam=1)
    return {score.name: score.value for score in translator.task.score(translations, records)}


def draw(translator: regard.Predictor, sentence: str, path: Path) -> Path:
    """One page with the attention of a translation: its words against those of the source, for every layer and head."""
    translation = translator(sentence, attention=True)
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
    main(*[float(minutes) for minutes in given[:1]], *[Path(folder) for folder in given[1:2]])
