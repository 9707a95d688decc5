"""`diq score`: a dataset and a model in, the dataset with its scores out."""

from pathlib import Path
from typing import Annotated

import typer

from .leaks import warn_of_leaks
from .options import Overwrite
from .outputs import check_folder, is_first_process, save_dataset
from .reading import AS_IT_IS, Reading
from .scoring_options import AS_USUAL, ScoringOptions, option


def score(
    context: typer.Context,
    dataset: Annotated[str, typer.Argument(help="Hub id, folder, data file or pattern of files.")],
    model: Annotated[str, typer.Option(help="Model to be fine-tuned: Hub id or folder.")],
    validation: Annotated[str, typer.Option(help="Validation rows, named like the dataset.")],
    output: Annotated[Path, typer.Option(help="Folder for the scored dataset.")],
    overwrite: Overwrite = False,
    reading: Reading = AS_IT_IS,
    scoring: ScoringOptions = AS_USUAL,
    projection_dim: Annotated[
        int | None, option(help="Also store gradients projected to so many numbers, for later validation sets.")
    ] = None,
    alignment: Annotated[
        bool,
        option("--alignment", help="Also compare gradients with each validation row's, so that these choose in turn."),
    ] = False,
    streaming: Annotated[
        bool, typer.Option("--streaming", help="Read the dataset as a stream, past memory, and write Parquet shards.")
    ] = False,
) -> None:
    """Add difficulty and influence to a dataset and save it. A killed run goes on where it stopped."""
    check_folder(output, overwrite, [dataset, validation, model, scoring.difficulty])
    from ..scoring.buckets import chunk_folder
    from ..scoring.reliability import LOW
    from ..scoring.streams import first_rows, score_stream

    rows, validation_rows = scoring.both(dataset, reading, validation, streaming)
    tested, first = scoring.difficulty == "ifd", first_rows(rows) if streaming else rows
    if streaming and reading.template is None:
        reading.of(first, scoring.on_bad_row, scoring.dataset_text_field)  # refused before the model is loaded
    scorer = scoring.scorer(model, validation_rows, first, tested, alignment, projection_dim=projection_dim)
    with chunk_folder(scoring.cache_dir, scorer.engine.device) as folder:
        places = {"chunk_size": scoring.chunk_size, "cache_dir": folder}
        if streaming:
            scored = rows = score_stream(scorer, rows, **places)
            if is_first_process():  # now that all have passed
                warn_of_leaks(first, validation_rows, "validation", scoring.dataset_text_field, scored.parts())
        else:
            scored = scorer.score(rows, **places)
        if is_first_process():
            recipe = scoring.recipe(context, scorer, dataset, rows, reading, validation, validation_rows)
            save_dataset(scored, output, overwrite, recipe)
            if streaming:
                scored.remove()
    if is_first_process():
        typer.echo(f"{len(scored)} scored rows in {output}")
        if scorer.reliability is not None and scorer.reliability.split_half >= LOW:  # else it was a warning
            typer.echo(str(scorer.reliability))
