"""What `datasets.map` hands over, a row or a batch in any of its forms, as plain rows."""

from collections.abc import Iterable, Mapping
from typing import Any

from datasets import ClassLabel
from datasets.formatting.formatting import LazyBatch, LazyRow

from ..columns import class_label_numbers, class_names, label_values
from ..rows.shapes import unknown_shape


def read_columns(
    examples: Mapping, names: Iterable[str], numbers: Iterable[str] = (), labels: Iterable[str] = ()
) -> dict[str, Any]:
    """The columns that scores depend on; no other is decoded. Of ClassLabel columns among `numbers` the numbers in the
    classes' names count, of those among `labels` the names."""
    values = {name: examples[name] for name in dict.fromkeys([*names, *numbers]) if name in examples}
    # What `map` gives knows its features; `score` has replaced its dataset's labels already.
    features = getattr(getattr(examples, "formatter", None), "features", None) or {}
    for name in set(labels) - set(numbers):
        if name in values and isinstance(label := features.get(name), ClassLabel):
            values[name] = class_names(values[name], label)
    for name in numbers:
        if (levels := class_label_numbers(features.get(name), name)) is not None:
            values[name] = label_values(values[name], levels)
    if not values:
        row = {name: examples[name] for name in examples}
        if all(isinstance(value, list) and value for value in row.values()):  # a batch, in all likelihood
            row = {name: value[0] for name, value in row.items()}
        raise ValueError(unknown_shape(row, row))
    return values


def as_rows(columns: Mapping[str, Any]) -> list[dict]:
    """A dict a row, of a dict of columns."""
    size = len(next(iter(columns.values())))
    return [{name: column[i] for name, column in columns.items()} for i in range(size)]


def is_batched(examples: Mapping, text_field: str) -> bool:
    """Whether `map` gave a batch or a row: by its type, else by the depth of a column whose depth is known."""
    if isinstance(examples, LazyBatch):
        return True
    if isinstance(examples, LazyRow):
        return False
    for name in ("input_ids", "messages", "conversations", "prompt", text_field):
        value = examples.get(name)
        if value is None:
            continue
        if isinstance(value, str):
            return False
        if name == "input_ids" and hasattr(value, "ndim"):
            return value.ndim == 2 or value.dtype == object
        if len(value):
            # A row's messages are dicts and its ids numbers; a batch has lists of them, or strings.
            return not isinstance(value[0], dict | int)
    raise ValueError(
        f"Cannot tell a batch from a row by the columns {sorted(examples)}. Pass `batched=True` or `batched=False` to "
        "the scorer, or use `scorer.score(ds)`."
    )
