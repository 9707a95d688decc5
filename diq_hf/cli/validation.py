"""`diq validation`: questions of several sources in, an equal number of rows a task out."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ..files import check_writable, replacing
from .inputs import load_rows
from .leaks import leak_words
from .options import Overwrite


def validation(
    source: Annotated[
        list[str],
        typer.Option(
            help="A task and its rows (repeatable): a benchmark by name (gpqa, hle, medbullets, medmcqa, medqa, "
            "medxpertqa, mmlu-pro-health, pubmedqa), or TASK=DATASET, named as for `diq score`."
        ),
    ],
    output: Annotated[Path, typer.Option(help="The JSON lines: task, prompt, completion, source, source_row.")],
    overwrite: Overwrite = False,
    per_task: Annotated[
        int, typer.Option(help="Rows of each task; the paper took 20 and found ranks stable from 40 to 50.")
    ] = 45,
    split: Annotated[
        list[str] | None,
        typer.Option(help="TASK=SPLIT, or DATASET=SPLIT of --pool or --held-out, if not the usual one (repeatable)."),
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(help="TASK=CONFIGURATION, or DATASET=CONFIGURATION of --pool or --held-out (repeatable)."),
    ] = None,
    pool: Annotated[
        list[str] | None,
        typer.Option(help="What will be trained on: rows that stand there are left out (repeatable)."),
    ] = None,
    held_out: Annotated[
        list[str] | None, typer.Option(help="What the training will be judged by: the same (repeatable).")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 0,
) -> None:
    """Draw validation rows, as many of each task, for `diq score --validation … --group-column task`.

    Rows that also stand in the pool or among the held-out rows are named and left out, and so are rows that are there
    twice: equal but for case, white space and punctuation, nearly equal, or the same question.
    """
    if per_task < 1:
        raise ValueError(f"`per_task` is {per_task}; a task has one row at least.")
    if output.exists() and not (overwrite and output.is_file()):
        raise FileExistsError(
            f"{output} is there already. Choose another --output, or replace a file with --overwrite."
        )
    check_writable(output)
    splits = dict(_named(text, "--split", "TASK=SPLIT") for text in split or ())
    configs = dict(_named(text, "--name", "TASK=CONFIGURATION") for text in name or ())
    named = dict(_source(text) for text in source)
    if len(named) < len(source):
        raise ValueError("Two of --source have one task's name. Name them apart: --source TASK=DATASET.")
    beside = [*(pool or ()), *(held_out or ())]
    for option, given in (("--split", splits), ("--name", configs)):
        if unknown := [task for task in given if task not in named and task not in beside]:
            raise ValueError(f"{option} names the task {unknown[0]!r}, and there are {', '.join([*named, *beside])}.")
    others = {name: _prompts(name, load_rows(name, splits.get(name), configs.get(name))) for name in beside}
    tasks = {task: _read(task, *where, splits.get(task), configs.get(task)) for task, where in named.items()}
    chosen = []
    for task, rows in tasks.items():
        usable = _apart(task, rows, others, chosen)
        if len(usable) < per_task:
            raise ValueError(
                f"{task} has {len(usable)} rows that can be taken, of {len(rows)}, and `per_task` is {per_task}. "
                "Lower it for all tasks, or leave this one out."
            )
        from ..rows.benchmarks import sample

        chosen += [usable[i] for i in sample(len(usable), per_task, task, seed)]
    with replacing(output) as unfinished:
        unfinished.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in chosen), encoding="utf-8")
    typer.echo(f"{len(chosen)} rows in {output}: {per_task} of each task ({', '.join(tasks)})")


def _named(text: str, option: str, form: str) -> tuple[str, str]:
    name, sign, value = text.rpartition("=")
    if not (name and sign and value):
        raise ValueError(f"{option} is {text!r}; it has the form {form}.")
    return name, value


def _source(text: str) -> tuple[str, tuple[Any, str]]:
    """A task's name, and where its rows are: a benchmark, or a dataset's name."""
    from ..rows.benchmarks import BENCHMARKS

    task, _, dataset = text.partition("=")
    if dataset:
        return task, (None, dataset)
    if text not in BENCHMARKS:
        raise ValueError(
            f"--source is {text!r}, which is no benchmark that is known ({', '.join(BENCHMARKS)}). Name rows of your "
            f"own as TASK=DATASET: --source {Path(text).stem or 'task'}={text}."
        )
    return text, (BENCHMARKS[text], BENCHMARKS[text].dataset)


def _read(task: str, benchmark: Any, dataset: str, split: str | None, config: str | None) -> list[dict]:
    from ..names import public_name
    from ..rows.benchmarks import read_question
    from ..rows.encoded import RowError
    from ..rows.shapes import is_choice
    from ..selection.texts import RowTexts

    if benchmark is None:
        rows, read = load_rows(dataset, split, config), read_question
        if not is_choice(rows.column_names) and not RowTexts(rows).columns:
            template = _fitting(dataset, rows, by_names=True)
            read = read_question if template is None else lambda row: read_question(template(row))
    else:
        rows, read = load_rows(dataset, split or benchmark.split, config or benchmark.config), benchmark.read
        if not benchmark.tried:
            typer.secho(
                f"diq: {task}: the reader of {dataset} follows its published columns and was never tried on its "
                "files. Look at what it gave.",
                fg="yellow",
                err=True,
            )
    found = []
    for i, row in enumerate(rows.with_format(None)):
        try:
            made = read(row)
        except KeyError as error:
            raise ValueError(f"{task}: row {i} of {dataset} has no column {error}; it has {sorted(row)}.") from error
        except RowError as error:
            raise RowError(f"{task}: row {i} of {dataset}: {error}") from error
        if made is not None:
            found.append({"task": task, **made, "source": public_name(dataset)["name"], "source_row": i})
    return found


def _prompts(name: str, rows: Any) -> Any:
    """Rows to compare with: of columns that are no format, questions with options among them, what fits makes some."""
    from ..rows.benchmarks import read_question
    from ..rows.encoded import RowError
    from ..rows.shapes import is_choice
    from ..selection.texts import RowTexts

    if is_choice(rows.column_names):

        def made(row: dict) -> dict:
            try:
                return read_question(row)
            except RowError:  # it has nothing to compare
                return {"prompt": None, "completion": None}

        return rows.with_format(None).map(made, remove_columns=rows.column_names)
    known = bool(RowTexts(rows).columns)
    template = None if "completion" in rows.column_names else _fitting(name, rows, by_names=not known)
    if template is not None:
        return template.apply(rows, "skip")
    if not known:
        from ..rows.shapes import unknown_shape

        raise ValueError(f"{name}: {unknown_shape(rows.column_names, rows[0])}")
    return rows


def _fitting(name: str, rows: Any, by_names: bool) -> Any:
    """The template that reads a dataset's columns; one that is found by their names alone is told."""
    from ..rows.presets import column_template
    from ..rows.shapes import fitting

    found = fitting(rows.column_names, rows[0])
    if found is None or isinstance(found, str):
        return column_template(found)
    if not by_names:
        return None
    reading = found.messages or f"{found.prompt} and its answer {found.completion}"
    typer.echo(f"diq: {name} is read by its columns' names: {reading!r}", err=True)
    return found


def _apart(task: str, rows: list[dict], others: dict[str, Any], chosen: list[dict]) -> list[dict]:
    """Rows of a task that stand neither elsewhere nor before."""
    from datasets import Dataset

    from ..selection.leakage import find_leaks

    if not rows:
        return rows
    here = Dataset.from_list([{name: row[name] for name in ("prompt", "completion")} for row in rows])
    out: set[int] = set()
    for name, other in others.items():
        if leaks := find_leaks(other, here):
            typer.secho(
                f"diq: {leak_words(leaks, len(rows), task, f'{name} as well', 'They are left out.')}", err=True
            )
            out |= {leak.other_row for leak in leaks}
    twice = {leak.other_row for leak in find_leaks(here, here) if leak.pool_row < leak.other_row}
    if chosen:
        before = Dataset.from_list([{name: row[name] for name in ("prompt", "completion")} for row in chosen])
        twice |= {leak.other_row for leak in find_leaks(before, here)}
    if twice - out:
        typer.echo(f"{task}: {len(twice - out)} rows that are there twice are left out", err=True)
    return [row for i, row in enumerate(rows) if i not in out | twice]
