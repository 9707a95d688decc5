"""Validation rows: their groups, encoded, with an error that finds the row."""

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from datasets import ClassLabel, DatasetDict, IterableDatasetDict

from ..columns import with_class_names
from .encoded import EncodedRow, RowError
from .formats import RowEncoder


MISSING = "Pass at least one; the paper takes 20 a task."


def validation_groups(
    validation: Any, group_column: str | None, columns: Iterable[str] = ()
) -> dict[str | None, Iterable[Mapping]]:
    """Validation rows by group, in order of appearance; a single group without a name if there are none. Of `columns`
    that are ClassLabels they hold the names."""
    if isinstance(validation, DatasetDict | IterableDatasetDict | str):
        raise TypeError(
            f"`validation` must be a dataset, a list of rows or a dict of them, got {type(validation).__name__}. "
            "Pick a split, for instance `validation=ds['validation']`, or say `dict(ds)` if its splits are groups."
        )
    if isinstance(validation, Mapping):
        if group_column is not None:
            raise ValueError("`validation` is a dict of groups already; leave `group_column` out.")
        if wrong := [name for name in validation if not isinstance(name, str)]:
            raise TypeError(f"Groups of `validation` are named by strings, not by {wrong[0]!r}.")
        groups: dict[str | None, Any] = {name: _named(rows, columns) for name, rows in validation.items()}
    elif group_column is None:
        groups = {None: _named(validation, columns)}
    else:
        groups = {}
        for i, row in enumerate(_named(validation, [*columns, group_column])):
            name = row.get(group_column)
            if not isinstance(name, str):
                raise ValueError(
                    f"Validation row {i} has {name!r} as {group_column!r}, which is to name its group: a string."
                )
            groups.setdefault(name, []).append(row)
    if not groups:
        raise ValueError(f"There are no validation rows. {MISSING}")
    return groups


def _named(rows: Iterable[Mapping], columns: Iterable[str]) -> Iterable[Mapping]:
    features = getattr(rows, "features", None)
    if not any(isinstance((features or {}).get(name), ClassLabel) for name in columns):
        return rows
    return (with_class_names(row, features, columns) for row in rows)


def encode_group(rows: Iterable[Mapping], group: str | None, encoder: RowEncoder) -> list[EncodedRow]:
    """One group's rows, encoded."""
    of_group = "" if group is None else f" of group {group!r}"
    encoded = []
    for i, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise TypeError(
                f"Validation row {i}{of_group} is a {type(row).__name__}, not a dict. A dict of columns is no list of "
                "rows: use `Dataset.from_dict(...)`."
            )
        try:
            encoded.append(encoder(row))
        except RowError as error:
            raise RowError(f"Validation r{row_name(i, i, row)[1:]}{of_group}: {error}") from error
    if not encoded:
        raise ValueError(f"There are no validation rows{of_group}. {MISSING}")
    return encoded


def bad_row_mode(on_bad_row: str) -> str:
    """Checks what to do with a row that cannot be used: `"raise"` or `"skip"`."""
    if on_bad_row == "null":
        warnings.warn("`on_bad_row='null'` is called 'skip' now, and will be refused.", FutureWarning, stacklevel=3)
        return "skip"
    if on_bad_row not in ("raise", "skip"):
        raise ValueError(f"`on_bad_row` is {on_bad_row!r}; use 'raise' or 'skip'.")
    return on_bad_row


def row_name(position: int, index: int | None, row: Mapping) -> str:
    """A row's number and how it begins."""
    number = f"Row {index}" if index is not None else f"Row {position} of the batch"
    shown = next(
        (str(row[name]) for name in ("prompt", "messages", "conversations", "chosen", "text") if row.get(name)), ""
    )
    return f"{number} ({shown[:80]!r})" if shown else number
