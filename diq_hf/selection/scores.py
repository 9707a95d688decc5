"""Columns of a dataset as numbers, read through Arrow."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..columns import class_label_numbers


def score_columns(scored: Any, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Columns of a dataset as float64, with NaN for null.

    Integers, floats, decimals and booleans (as 1 and 0) are numbers; a ClassLabel column holds the numbers that its
    classes are named for.

    Raises:
        `ValueError`: A column is missing, or holds something that is no number.
    """
    names = list(dict.fromkeys(names))
    present = getattr(scored, "column_names", None)
    if isinstance(present, Mapping):
        raise TypeError(f"Pass one split, not all of {sorted(present)}: `scored['train']`.")
    if present is not None and (missing := [name for name in names if name not in present]):
        raise ValueError(
            f"The dataset has no column {missing}; it has {sorted(present)}. Score it first: "
            "`ds.map(DIQScorer(model, validation, extra_columns=('loss', 'num_tokens')))`."
        )
    if hasattr(scored, "__len__"):
        columns = scored.select_columns(names).with_format("arrow")[:]
    else:
        # A stream is read once for all columns: each reading may compute the scores anew.
        rows = list(scored.select_columns(names))
        columns = {name: [row[name] for row in rows] for name in names}
    features = getattr(scored, "features", None) or {}
    found = {}
    for name in names:
        found[name] = floats(columns[name], name)
        if (numbers := class_label_numbers(features.get(name), name)) is not None:
            ids = found[name]
            known = np.isfinite(ids) & (ids >= 0)
            found[name] = np.where(known, numbers[np.where(known, ids, 0).astype(int)], np.nan)
    return found


def raw_columns(rows: Any, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Columns as float64, of a ClassLabel its ids, with NaN for null."""
    columns = rows.select_columns(list(names)).with_format("arrow")[:]
    return {name: floats(columns[name], name) for name in names}


def list_column(rows: Any, name: str) -> np.ndarray:
    """A column of lists of numbers, all of one length, as float32 of shape `(rows, numbers)`, with NaN for null.

    Raises:
        `ValueError`: The column is missing, holds no such lists, or lists of several lengths.
    """
    if name not in rows.column_names:
        raise ValueError(f"The dataset has no column {name!r}; it has {sorted(rows.column_names)}.")
    found = rows.select_columns([name]).with_format("arrow")[:][name].combine_chunks()
    remedy = "Score the rows with `extra_columns=['alignment']`, rename the column, or pass another `order`"
    if not holds_lists(found.type):
        raise ValueError(f"Column {name!r} holds {found.type}, not lists of numbers. {remedy}.")
    lengths = pc.list_value_length(found).drop_null().unique().to_pylist()
    if len(lengths) != 1 or not lengths[0]:
        said = "lists of several lengths: its rows were not scored alike" if len(lengths) > 1 else "no numbers"
        raise ValueError(f"Column {name!r} holds {said}. {remedy}.")
    values = np.full((len(found), lengths[0]), np.nan, dtype=np.float32)
    values[found.is_valid().to_numpy(zero_copy_only=False)] = (
        found.flatten().cast(pa.float32()).to_numpy(zero_copy_only=False).reshape(-1, values.shape[1])
    )
    return values


def holds_lists(kind: pa.DataType) -> bool:
    """Whether an Arrow type is one of lists of numbers."""
    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(test(kind) for test in tests) and any(test(kind.value_type) for test in _NUMBERS)


def class_codes(rows: Any, name: str) -> np.ndarray:
    """The class ids of a ClassLabel column as whole numbers, with -1 for null."""
    ids = raw_columns(rows, [name])[name]
    return np.where(np.isnan(ids), -1, ids).astype(int)


def floats(values: Any, name: str = "scores") -> np.ndarray:
    """Numbers as float64, with NaN for `None`.

    Args:
        values (`Sequence`):
            Numbers, in Python, numpy, torch or Arrow.
        name (`str`, *optional*, defaults to `"scores"`):
            Their column, for the error.

    Raises:
        `ValueError`: Something is no number.

    Example:

    ```python
    >>> floats([1, None, 2.5])
    array([1. , nan, 2.5])
    >>> floats(["high"], "difficulty")
    Traceback (most recent call last):
    ValueError: Column 'difficulty' holds string, and a score is a number...

    ```
    """
    if isinstance(values, np.ndarray) and values.dtype.kind in "fiub":
        return values.astype(np.float64)
    if not isinstance(values, pa.Array | pa.ChunkedArray):
        values = [value.tolist() if hasattr(value, "tolist") else value for value in values]
        try:
            values = pa.array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
            raise ValueError(f"Column {name!r} holds values that are no numbers alike: {error}") from error
    kind = values.type
    if pa.types.is_null(kind):
        return np.full(len(values), np.nan)
    if not any(test(kind) for test in _NUMBERS):
        remedy = "Name another column, or make it one of numbers"
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            remedy += f": `ds.cast_column({name!r}, Value('float32'))` reads numbers written as text"
        raise ValueError(f"Column {name!r} holds {kind}, and a score is a number. {remedy}.")
    try:
        return (
            pa.chunked_array([values] if isinstance(values, pa.Array) else values.chunks, kind)
            .cast(pa.float64())
            .to_numpy()
        )
    except pa.ArrowInvalid as error:
        raise ValueError(
            f"Column {name!r} holds whole numbers that are too large to be scores: {error}. Name another column."
        ) from error


_NUMBERS = (pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
