"""The commands by name; each one's own file is imported when it runs."""

from __future__ import annotations

from cyclopts import App, Parameter

from regard import __version__

COMMANDS = {
    "train": (
        "Train a model from a file of examples.",
        """
        regard train translate
        regard train translate --train pairs.tsv --out runs/mine --minutes 5
        regard train translate --train train.jsonl.gz --dev dev.jsonl.gz
        regard train translate --train a.en,a.de --dev b.en,b.de --dry-run
        regard train summarize --train train.jsonl.gz --dev dev.jsonl.gz --out runs/summaries
        regard train roles --train train.jsonl.gz --dev dev.jsonl.gz --out runs/roles
        regard train answer --train a.jsonl.gz,b.json --dev dev.jsonl.gz --out runs/answer
        regard train generate --train book.txt --out runs/book
        regard train --resume --out runs/mine
        """,
    ),
    "evaluate": (
        "Score a model on a file of examples.",
        """
        regard evaluate runs/mine --data test.jsonl.gz
        regard evaluate runs/mine --data test.en,test.de --lowercase --json
        regard evaluate runs/mine --data test.jsonl.gz --precision int8
        regard evaluate runs/roles --data test.conll --each
        regard evaluate runs/mine --data test.jsonl.gz --by length
        """,
    ),
    "compare": (
        "Say which of two models is better, where, and whether it may be luck.",
        """
        regard compare runs/mine runs/other --data test.jsonl.gz
        regard compare runs/mine runs/other --data test.jsonl.gz --by frequency --json
        regard compare mine.jsonl other.jsonl --data test.jsonl.gz --lowercase
        """,
    ),
    "predict": (
        "Use a model: on texts, on a file, or on what comes in.",
        """
        regard predict runs/mine "A dog runs on the beach."
        regard predict runs/mine --input sentences.txt > translations.txt
        cat sentences.txt | regard predict runs/mine --precision int8 --json
        regard predict runs/mine "A dog runs." --attention dog.html
        regard predict runs/summaries --input documents.jsonl --json
        regard predict runs/roles "The dog chases the cat." --columns
        regard predict runs/answer "Who wrote it?" --passage text.txt
        regard predict runs/book --prompt "It was" --length 500 --stream
        """,
    ),
    "inspect": (
        "Say what a run is: its data, its recipe, its scores.",
        """
        regard inspect runs/mine
        regard inspect runs/mine --json
        """,
    ),
    "waste": (
        "Say what padding would cost on a file, before anything is trained.",
        """
        regard waste train.jsonl.gz
        regard waste train.en,train.de --tokens 1024 4096 --sentences 64
        regard waste train.jsonl.gz --run runs/mine --json
        regard waste lines.txt --field text --unit characters
        """,
    ),
    "export": (
        "Write a model for another program: CTranslate2 or ONNX Runtime.",
        """
        regard export runs/mine --to onnx --out exported/mine
        regard export runs/mine --to ctranslate2 --out exported/mine
        """,
    ),
}


def make_app() -> App:
    """The `regard` command."""
    app = App(
        "regard",
        help="Train and use models of attention on data of your own.",
        help_prologue=_examples(
            "\n".join(examples.strip().splitlines()[0] for _, examples in COMMANDS.values())
        ),
        version=__version__,
        help_format="plaintext",
        default_parameter=Parameter(negative=(), show_default=False),
        exit_on_error=False,
        print_error=False,
        suppress_keyboard_interrupt=False,
        result_action="return_value",
    )
    for name, (title, examples) in COMMANDS.items():
        app.command(f"regard.cli.{name}:{name}", name=name, help=title, help_prologue=_examples(examples))
    return app


def _examples(lines: str) -> str:
    shown = [f"  {line.strip()}" for line in lines.strip().splitlines()]
    return "\n".join(["Examples:", *shown, ""])
