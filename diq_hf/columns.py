"""Columns as numbers: what a ClassLabel column's class ids stand for.

`class_encode_column` sorts names as words, so the ids 0, 1, 2 of a column of levels may be "easy", "hard", "medium" or
"2", "10", "3". No order can be read from such ids; only the names may hold one.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset


_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?|\d+(?:\.\d+)?")


def class_label_numbers(feature: Any, name: str) -> np.ndarray | None:
    """The number that each class id of a ClassLabel column stands for; `None` for any other feature.

    Names count as numbers where they are alike but for one number: "1" to "5", "level 1" to "level 5".

    Args:
        feature (`datasets.features.features.FeatureType`, *optional*):
            The column's feature, as in `dataset.features[name]`.
        name (`str`):
            The column, for the error.

    Returns:
        `np.ndarray` of shape `(classes,)`, float64, or `None`.

    Raises:
        `ValueError`: The names hold no numbers, or two of them the same.

    Example:

    ```python
    >>> class_label_numbers(ClassLabel(names=["level 1", "level 10", "level 2"]), "overall")
    array([ 1., 10.,  2.])
    >>> class_label_numbers(ClassLabel(names=["easy", "hard", "medium"]), "overall")
    Traceback (most recent call last):
    ValueError: Column 'overall' is a ClassLabel of ['easy', 'hard', 'medium'], and the order of its classes cannot...

    ```
    """
    if not isinstance(feature, ClassLabel):
        return None
    names = feature.names or []
    numbers = [_NUMBER.findall(label) for label in names]
    alike = len({_NUMBER.sub("#", label).strip().casefold() for label in names}) == 1
    values = [float(found[0]) for found in numbers if len(found) == 1]
    if not alike or len(values) < len(names) or len(set(values)) < len(names):
        shown = f"{names[:10]}" if len(names) <= 10 else f"{names[:10]} and {len(names) - 10} more"
        raise ValueError(
            f"Column {name!r} is a ClassLabel of {shown}, and the order of its classes cannot be read from their "
            "names; the ids themselves follow the alphabet. Map the names to numbers first: "
            f"`names = ds.features[{name!r}].names; ds.map(lambda row: {{'number': ORDER[names[row[{name!r}]]]}})`."
        )
    return np.array(values, dtype=np.float64)


def label_values(values: Any, numbers: np.ndarray) -> list[float | None] | float | None:
    """Class ids, one or many, as the numbers they stand for by [`class_label_numbers`].

    A null stays null, and so does -1, which is how `datasets` writes a label that is not known.

    Example:

    ```python
    >>> label_values([1, None, 0, -1], np.array([2.0, 5.0]))
    [5.0, None, 2.0, None]

    ```
    """
    if isinstance(values, Iterable):
        return [label_values(value, numbers) for value in values]
    return None if values is None or values < 0 else float(numbers[int(values)])


def with_class_names(row: Mapping, features: Mapping | None, names: Iterable[str]) -> Mapping:
    """A row in which ClassLabel columns, of those named, say what their classes are called. A null stays null, and
    -1, a label that is not known, becomes one.

    Example:

    ```python
    >>> with_class_names({"answer": 1, "n": 0}, {"answer": ClassLabel(names=["yes", "no"])}, ["answer", "n"])
    {'answer': 'no', 'n': 0}

    ```
    """
    labels = {name: features[name] for name in names if isinstance((features or {}).get(name), ClassLabel)}
    said = {name: class_names(row[name], label) for name, label in labels.items()}
    return {**row, **said} if said else row


def labels_as_numbers(dataset: Dataset, names: Iterable[str]) -> Dataset:
    """A dataset whose ClassLabel columns, of those named, hold the numbers that their classes stand for.

    Raises:
        `ValueError`: The classes of such a column have no order that can be read.
    """
    for name in names:
        numbers = class_label_numbers(dataset.features.get(name), name)
        if numbers is not None:
            dataset = _replaced(dataset, name, label_values(dataset.with_format(None)[name][:], numbers))
    return dataset


def labels_as_names(dataset: Dataset, names: Iterable[str]) -> Dataset:
    """A dataset whose ClassLabel columns, of those named, say what their classes are called; else as
    [`with_class_names`]."""
    for name in dict.fromkeys(names):
        if isinstance(dataset.features.get(name), ClassLabel):
            dataset = _replaced(dataset, name, class_names(dataset.with_format(None)[name][:], dataset.features[name]))
    return dataset


def class_names(values: Any, label: ClassLabel) -> list[str | None] | str | None:
    """Class ids, one or many, as the names of their classes: a null stays null, and -1 becomes one.

    Example:

    ```python
    >>> class_names([1, None, 0, -1], ClassLabel(names=["yes", "no"]))
    ['no', None, 'yes', None]

    ```
    """
    if isinstance(values, Iterable):
        return [class_names(value, label) for value in values]
    return None if values is None or values < 0 else label.int2str(int(values))


def _replaced(dataset: Dataset, name: str, values: list) -> Dataset:
    # Added before the other goes: a dataset without columns has no rows.
    dataset = dataset.rename_column(name, f"{name}_labels").add_column(name, values)
    return dataset.remove_columns(f"{name}_labels")
