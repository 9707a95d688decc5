"""Validation rows that choose in turn, each the row that is nearest to it, as RDS+ lets them
(https://huggingface.co/papers/2503.01807): so no few of them have all of a small budget."""

from typing import Any

import numpy as np

from .scores import holds_lists


# Cosines of a row's gradient with that of each validation row: see [`~diq_hf.scoring.alignment`].
ALIGNMENT = "alignment"


def has_alignment(rows: Any) -> bool:
    """Whether there is such a column: one of lists of numbers, whatever else may have its name."""
    if ALIGNMENT not in rows.column_names:
        return False
    return holds_lists(rows.select_columns([ALIGNMENT]).with_format("arrow")[:1][ALIGNMENT].type)


def places_in_turns(similarities: np.ndarray) -> np.ndarray:
    """For each row how early it is named when every validation row names its next best in turn.

    As in the authors' code, a validation row that names what another has named before it has had its turn. Equal ones
    are named in row order, and what is no number last.

    Args:
        similarities (`np.ndarray`):
            Of shape `(validation rows, rows)`; the first line has the first turn.

    Returns:
        `np.ndarray` of shape `(rows,)`: no two are equal, the first to be named has the least.

    Example:

    ```python
    >>> places_in_turns(np.array([[0.9, 0.8, 0.1], [0.7, 0.2, 0.3]])).tolist()
    [0, 2, 3]

    ```
    """
    turns, num_rows = similarities.shape
    first = np.full(num_rows, np.iinfo(np.int64).max)
    for turn, line in enumerate(similarities):
        named = np.empty(num_rows, dtype=np.int64)
        named[np.argsort(-line, kind="stable")] = np.arange(num_rows) * turns + turn
        np.minimum(first, named, out=first)
    return first
