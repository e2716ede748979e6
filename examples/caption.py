"""Train a captioner on emoji for a minute, and look at the patches that it read for each word.

    python examples/caption.py [minutes] [folder]

The drawings are people and hands of Noto Emoji (Apache-2.0), a sample that ships with regard. None of the test captions is in the
training part: whoever has seen a woman running and a dark skin tone has to put "woman running: dark skin tone" together.
"""

from __future__ import annotations

import sys
from pathlib import Path

import regard
from regard.samples import sample_path
from regard.tasks import make_task
from regard.training import runs
from regard.training.progress import Reporter, best_display
from regard.training.recipe import Recipe

MINUTES, FOLDER = 1.0, Path("runs/captions")
SHOWN = 8


def main(minutes: float = MINUTES, folder: Path = FOLDER) -> None:
    sample = sample_path("caption")
    folder.mkdir(parents=True, exist_ok=True)
    reporter = Reporter(folder / "metrics.jsonl", best_display())
    recipe = Recipe(minutes=minutes, evaluations=3)
    trainer = runs.begin(
        make_task("caption"), recipe, sample["train"], sample["dev"], folder, reporter, overwrite=True
    )
    try:
        trainer.run()
    finally:
        reporter.display.close()

    captioner = regard.load(folder)
    task = captioner.task
    test = list(task.read(sample["test"], recipe.max_characters))
    captions = captioner.predict([task.input_of(record) for record in test])
    print(f"\n{len(test)} drawings whose captions are in no training record")
    for score in task.score(captions, test):
        print(f"  {score.name:<8} {score.value:6.1f}")
    print()
    for record, caption in list(zip(test, captions, strict=True))[:: len(test) // SHOWN][:SHOWN]:
        print(f"  model   {caption}\n  person  {record.fields['captions'][0]}\n")

    surest = max(range(len(test)), key=lambda number: captions[number].score)
    (found,) = captioner.predict([task.input_of(test[surest])], attention=True)
    page = found.picture().save(folder / "caption.html")
    print(f"Where it looked for each word of {found.text!r}: open {page} in a browser.")
    print(f"Your turn: regard predict {folder} --image picture.png --attention look.html")


if __name__ == "__main__":
    given = sys.argv[1:]
    main(float(given[0]) if given else MINUTES, Path(given[1]) if len(given) > 1 else FOLDER)
