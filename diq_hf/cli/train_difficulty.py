"""`diq train-difficulty`: rows with levels in, a difficulty classifier with its card out."""

import os
import shutil
from pathlib import Path
from typing import Annotated

import typer

from ..files import put_in_place
from .options import Overwrite, TextField
from .outputs import CLASSIFIER, check_folder, is_first_process
from .reading import AS_IT_IS, Reading


def train_difficulty(
    dataset: Annotated[str, typer.Argument(help="Rows with levels 1 to 5 in columns; named as for `diq score`.")],
    output: Annotated[Path, typer.Option(help="Folder for the classifier and its card.")],
    overwrite: Overwrite = False,
    reading: Reading = AS_IT_IS,
    encoder: Annotated[str | None, typer.Option(help="Encoder's Hub id or folder; BiomedBERT by default.")] = None,
    knowledge: Annotated[str | None, typer.Option(help="Column of the levels of knowledge.")] = None,
    reasoning: Annotated[str | None, typer.Option(help="Column of the levels of reasoning.")] = None,
    overall: Annotated[str | None, typer.Option(help="Column of the overall levels.")] = None,
    dataset_text_field: TextField = "text",
    group_column: Annotated[
        str | None, typer.Option(help="Column of groups to hold out whole, as well as rows.")
    ] = None,
    holdout: Annotated[float, typer.Option(help="Share of the rows to hold out.")] = 0.2,
    max_length: Annotated[int, typer.Option(help="Prompts are cut to this many tokens.")] = 512,
    num_train_epochs: Annotated[float, typer.Option(help="Passes over the rows.")] = 5,
    learning_rate: Annotated[float, typer.Option(help="Highest learning rate.")] = 1e-4,
    seed: Annotated[int, typer.Option(help="Seed of heads, order and hold-out.")] = 0,
    push_to_hub: Annotated[str | None, typer.Option(help="Hub id to publish to.")] = None,
) -> None:
    """Train a difficulty classifier on rows with levels, judge it on held-out rows, and write its card.

    Without --knowledge, --reasoning and --overall the columns of these names are taken. A killed run goes on.
    """
    check_folder(output, overwrite, [dataset, encoder], CLASSIFIER)
    from accelerate import PartialState

    from ..difficulty.classifier import DEFAULT_ENCODER
    from ..difficulty.classifier_card import summary
    from ..difficulty.classifier_training import train_classifier

    named = {"knowledge": knowledge, "reasoning": reasoning, "overall": overall}
    rows = reading.load(dataset)
    # Beside its place, and always there, so that a killed run finds its checkpoints; the card names the inner folder.
    place = Path(os.path.realpath(output))
    unfinished = place.with_name(f".{place.name}.unfinished") / place.name
    classifier, figures = train_classifier(
        rows,
        unfinished,
        encoder=encoder or DEFAULT_ENCODER,
        labels={perspective: column for perspective, column in named.items() if column} or None,
        dataset_text_field=dataset_text_field,
        columns=reading.template,
        group_column=group_column,
        holdout=holdout,
        max_length=max_length,
        num_train_epochs=num_train_epochs,
        learning_rate=learning_rate,
        seed=seed,
    )
    PartialState().wait_for_everyone()  # every process has read the finished folder before it moves
    if is_first_process():
        check_folder(output, overwrite, kind=CLASSIFIER)  # again: another run may have been faster
        for checkpoints in unfinished.glob("checkpoints-*"):  # of runs with other settings, never finished
            shutil.rmtree(checkpoints)
        put_in_place(unfinished, place)
        shutil.rmtree(unfinished.parent)
        typer.echo(summary(figures))
        typer.echo(f"Classifier and card in {output}")
        if push_to_hub:
            typer.echo(f"Published: {classifier.push_to_hub(push_to_hub)}")
