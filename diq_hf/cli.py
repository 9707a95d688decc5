"""`diq`: the library from the command line. Parses, calls, prints."""

import os
from pathlib import Path
from typing import Annotated

import typer

from .app import App


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


@app.command(epilog="Example: diq score pool.jsonl --model ./model --validation val.jsonl --output scored")
def score(
    dataset: Annotated[str, typer.Argument(help="Hub id, folder, or a .jsonl, .json or .parquet file.")],
    model: Annotated[str, typer.Option(help="Model to be fine-tuned: Hub id or folder.")],
    validation: Annotated[str, typer.Option(help="Validation rows, named like the dataset.")],
    output: Annotated[Path, typer.Option(help="Folder for the scored dataset.")],
    split: Annotated[str, typer.Option(help="Split of the dataset.")] = "train",
    validation_split: Annotated[str, typer.Option(help="Split of the validation rows.")] = "train",
    difficulty: Annotated[str, typer.Option(help="'ifd', 'column:NAME', or a classifier's Hub id or folder.")] = "ifd",
    target_modules: Annotated[
        list[str] | None, typer.Option(help="Linear modules to score (repeatable); q, k and v by default.")
    ] = None,
    group_column: Annotated[
        str | None, typer.Option(help="Column that groups the validation rows: an influence for each.")
    ] = None,
    projection_dim: Annotated[
        int | None, typer.Option(help="Also store gradients projected to so many numbers, for later validation sets.")
    ] = None,
    max_length: Annotated[int, typer.Option(help="Rows are cut to this many tokens.")] = 1024,
    max_tokens_per_batch: Annotated[int | None, typer.Option(help="Tokens in a forward pass.")] = None,
    on_bad_row: Annotated[str, typer.Option(help="'raise', or 'null' to leave bad rows unscored.")] = "raise",
    chunk_size: Annotated[int, typer.Option(help="Rows in a chunk, the unit of resuming.")] = 512,
    cache_dir: Annotated[Path | None, typer.Option(help="Folder for finished chunks, seen by every process.")] = None,
) -> None:
    """Add difficulty and influence to a dataset and save it. A killed run goes on where it stopped."""
    from .scorer import DIQScorer

    rows = load_rows(dataset, split)
    scorer = DIQScorer(
        model,
        load_rows(validation, validation_split),
        difficulty=difficulty,
        target_modules=target_modules,
        group_column=group_column,
        projection_dim=projection_dim,
        max_length=max_length,
        extra_columns=("loss", "num_tokens"),
        max_tokens_per_batch=max_tokens_per_batch,
        on_bad_row=on_bad_row,
    )
    scored = scorer.score(rows, chunk_size=chunk_size, cache_dir=cache_dir)
    if int(os.environ.get("RANK", 0)) == 0:
        scored.save_to_disk(output)
        typer.echo(f"{len(scored)} scored rows in {output}")


@app.command(epilog="Example: diq select scored --ratio 0.1 --output subset")
def select(
    scored: Annotated[str, typer.Argument(help="A scored dataset, as `diq score` writes it.")],
    output: Annotated[Path, typer.Option(help="Folder for the subset.")],
    ratio: Annotated[float | None, typer.Option(help="Share of the rows, in (0, 1].")] = None,
    num_rows: Annotated[int | None, typer.Option(help="Number of rows, instead of --ratio.")] = None,
    strategy: Annotated[str, typer.Option(help="diq, random, influence, difficulty, loss or length.")] = "diq",
    difficulty_percentile: Annotated[float, typer.Option(help="Percentile above which a row is difficult.")] = 50,
    seed: Annotated[int, typer.Option(help="Seed of --strategy random.")] = 0,
) -> None:
    """Pick rows by quadrant (Q1, Q2, Q3, Q4) until the budget is met, and save them."""
    from .quadrants import QUADRANTS, QuadrantRule, select_subset

    rows = load_rows(scored, "train")
    rule = QuadrantRule.fit(rows, difficulty_percentile=difficulty_percentile)
    subset = select_subset(rows, ratio=ratio, num_rows=num_rows, strategy=strategy, rule=rule, seed=seed)
    subset.save_to_disk(output)
    codes = subset["quadrant"][:]
    counts = ", ".join(f"{name} {codes.count(code)}" for code, name in enumerate(QUADRANTS))
    typer.echo(f"{len(subset)} of {len(rows)} rows ({counts}) in {output}")


@app.command(epilog="Example: diq report scored --ratio 0.1 --output report.html")
def report(
    scored: Annotated[str, typer.Argument(help="A scored dataset, as `diq score` writes it.")],
    output: Annotated[Path, typer.Option(help="The page.")] = Path("report.html"),
    ratio: Annotated[float | None, typer.Option(help="Share of the rows that counts as selected; 0.1.")] = None,
    num_rows: Annotated[int | None, typer.Option(help="Number of selected rows, instead of --ratio.")] = None,
    difficulty_percentile: Annotated[float, typer.Option(help="Percentile above which a row is difficult.")] = 50,
    title: Annotated[str | None, typer.Option(help="Heading; the dataset's name by default.")] = None,
    max_rows: Annotated[int, typer.Option(help="Rows whose text the page holds for its search.")] = 2000,
) -> None:
    """Show a scored dataset on one page: quadrants, lengths, duplicates, rows to read and to search."""
    from .quadrants import QuadrantRule
    from .report import write_report

    rows = load_rows(scored, "train")
    rule = QuadrantRule.fit(rows, difficulty_percentile=difficulty_percentile)
    write_report(rows, output, ratio, num_rows, rule, title or Path(scored).name, max_rows=max_rows)
    typer.echo(f"{len(rows)} rows in {output}")


def load_rows(name: str, split: str):
    """A dataset by Hub id, `save_to_disk` folder, or data file."""
    from datasets import Dataset, DatasetDict, load_dataset, load_from_disk

    path = Path(name)
    builders = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}
    if path.suffix in builders:
        if not path.is_file():
            raise FileNotFoundError(f"There is no file {name}.")
        return load_dataset(builders[path.suffix], data_files=name, split="train")
    saved = path.is_dir() and any((path / file).exists() for file in ("state.json", "dataset_dict.json"))
    if not saved:
        return load_dataset(name, split=split)
    rows: Dataset | DatasetDict = load_from_disk(name)
    if isinstance(rows, DatasetDict) and split not in rows:
        raise ValueError(f"{name} has the splits {sorted(rows)}, not {split!r}.")
    return rows[split] if isinstance(rows, DatasetDict) else rows


def main() -> None:
    """Runs `diq`."""
    app()


if __name__ == "__main__":
    main()
