"""The commands of `diq`, in the order of their work."""

import os
import sys
from typing import Annotated

import typer

from .annotate import annotate
from .app import App
from .compare import SeveralWords, compare
from .look import look
from .push import push
from .report import report
from .score import score
from .select import select
from .train_difficulty import train_difficulty
from .validation import validation
from .verify import verify


app = App(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Find the few rows of a fine-tuning set worth training on.",
)


@app.callback(invoke_without_command=True)
def version(show: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if show:
        from diq_hf import __version__

        typer.echo(__version__)
        raise typer.Exit


EXAMPLES = {
    look: "diq look pool.jsonl --model ./model",
    validation: "diq validation --source medqa --source own=questions.jsonl --pool pool.jsonl --output val.jsonl",
    score: "diq score pool.jsonl --model ./model --validation val.jsonl --output scored",
    select: "diq select scored --ratio 0.1 --output subset",
    annotate: "diq annotate pool.jsonl --model judge --base-url http://localhost:8000/v1 --output labels",
    train_difficulty: "diq train-difficulty labelled.jsonl --group-column template --output classifier",
    push: "diq push subset me/medical-diq --config-name diq_1pct --scored scored",
    verify: "diq verify me/medical-diq",
    report: "diq report scored --ratio 0.1 --output report.html",
    compare: "diq compare pool.jsonl --model ./model --validation val.jsonl --heldout test.jsonl --output compared",
}
for command, example in EXAMPLES.items():
    app.command(cls=SeveralWords, epilog=f"Example: {example}")(command)


def main() -> None:
    """Runs `diq`."""
    if not sys.stderr.isatty():
        # Nested bars move the cursor and fill a log. `datasets` and tqdm look here when they are imported, which
        # is later. `HF_DATASETS_DISABLE_PROGRESS_BARS=0 TQDM_DISABLE=` keeps bars all the same.
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("TQDM_DISABLE", "1")
    app()


if __name__ == "__main__":
    main()
