"""Which tokens of a row are trained."""

from collections.abc import Mapping

import numpy as np

from .encoded import IGNORE_INDEX, RowError


# Columns of a pre-tokenized row that say which of its tokens are trained.
MASKS = ("labels", "completion_mask", "assistant_masks")


def check_masks(row: Mapping) -> None:
    """A pre-tokenized row whose only mask is null would be trained whole, its prompt with it."""
    if row.get("input_ids") is None or any(row.get(name) is not None for name in MASKS):
        return
    if null := [name for name in MASKS if name in row]:
        raise RowError(f"its `{null[0]}` is null, so nothing says which of its `input_ids` are trained. Fill it in.")


def row_labels(encoded: dict, row: dict, completion_only: bool | None) -> np.ndarray:
    """Labels of a row's tokens by its own `labels`, else by its masks."""
    input_ids = np.asarray(encoded["input_ids"], dtype=np.int64)
    labels = encoded.get("labels", row.get("labels"))
    if labels is not None:
        check_integers(labels, "labels", len(input_ids))
        return np.array(labels, dtype=np.int64)
    if completion_only is None:
        completion_only = "prompt" in row and "completion" in row
    trained = np.ones(len(input_ids), dtype=bool)
    if completion_only and "completion_mask" in encoded:
        trained &= np.asarray(encoded["completion_mask"], dtype=bool)
    if "assistant_masks" in encoded:
        trained &= np.asarray(encoded["assistant_masks"], dtype=bool)
    return np.where(trained, input_ids, IGNORE_INDEX)


def completion_mask(prompt_ids: list[int], input_ids: list[int]) -> list[int]:
    """Which of a row's tokens are of its completion: it starts where the prompt's own tokens and the row's part.

    Templates may render a prompt differently when it stands alone, and tokens may merge across the boundary.

    Example:

    ```python
    >>> completion_mask([1, 2, 3], [1, 2, 7, 8])
    [0, 0, 1, 1]

    ```
    """
    pairs = zip(prompt_ids, input_ids, strict=False)
    shared = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(prompt_ids), len(input_ids)))
    return [int(i >= shared) for i in range(len(input_ids))]


def last_run(labels: np.ndarray) -> np.ndarray:
    """Labels of the last tokens alone that are trained one after another.

    Example:

    ```python
    >>> last_run(np.array([-100, 7, -100, -100, 8, 9, -100])).tolist()
    [-100, -100, -100, -100, 8, 9, -100]

    ```
    """
    end = np.flatnonzero(labels != IGNORE_INDEX)[-1]
    masked = np.flatnonzero(labels[:end] == IGNORE_INDEX)
    start = masked[-1] + 1 if len(masked) else 0
    return np.where(np.arange(len(labels)) < start, IGNORE_INDEX, labels)


def check_integers(values: object, column: str, length: int) -> None:
    """One integer for each token."""
    if not isinstance(values, list) or len(values) != length or not all(isinstance(value, int) for value in values):
        raise RowError(
            f"`{column}` must be a list of {length} integers, one for each token. Mend it, or rename the column if it "
            "means something else."
        )
