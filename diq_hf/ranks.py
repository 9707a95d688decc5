"""How well two lists of numbers agree on an order. Numbers only."""

from collections.abc import Sequence

import numpy as np


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Rank correlation, ties at their mean rank; NaN where one side is constant.

    Example:

    ```python
    >>> spearman([1, 2, 3], [10.0, 20.0, 15.0])
    0.5

    ```
    """
    first, second = (_ranks(np.asarray(values, dtype=float)) for values in (first, second))
    if not len(first):
        return float("nan")
    spread = first.std() * second.std()
    return float(((first - first.mean()) * (second - second.mean())).mean() / spread) if spread else float("nan")


def _ranks(values: np.ndarray) -> np.ndarray:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (counts.cumsum() - (counts - 1) / 2)[places]
