"""`diq select`: a scored dataset and a budget in, the subset out."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from .inputs import load_rows
from .options import Overwrite, command_line
from .outputs import check_folder, load_recipe, save_dataset


def select(
    context: typer.Context,
    scored: Annotated[str, typer.Argument(help="A scored dataset, as `diq score` writes it.")],
    output: Annotated[Path, typer.Option(help="Folder for the subset.")],
    overwrite: Overwrite = False,
    ratio: Annotated[float | None, typer.Option(help="Share of the rows, in (0, 1].")] = None,
    num_rows: Annotated[int | None, typer.Option(help="Number of rows, instead of --ratio.")] = None,
    strategy: Annotated[str, typer.Option(help="diq, random, influence, difficulty, loss or length.")] = "diq",
    difficulty_percentile: Annotated[float, typer.Option(help="Percentile above which a row is difficult.")] = 50,
    seed: Annotated[int, typer.Option(help="Seed of --strategy random.")] = 0,
) -> None:
    """Pick rows by quadrant (Q1, Q2, Q3, Q4) until the budget is met, and save them."""
    check_folder(output, overwrite, [scored])
    from ..recipe import Recipe, SelectionSettings
    from ..selection.proof import derive_selection
    from ..selection.quadrants import QUADRANTS

    rows = load_rows(scored)
    recipe = load_recipe(scored) or Recipe()
    settings = SelectionSettings(
        strategy=strategy,
        ratio=ratio,
        num_rows=num_rows,
        seed=seed,
        difficulty_percentile=difficulty_percentile,
    )
    _, subset, selection = derive_selection(rows, settings)
    commands = (*(recipe.commands or ()), command_line(context))
    save_dataset(subset, output, overwrite, replace(recipe, commands=commands, selection=selection))
    counts = ", ".join(f"{name} {getattr(selection.subset, name)}" for name in QUADRANTS)
    typer.echo(f"{len(subset)} of {len(rows)} rows ({counts}) in {output}")
