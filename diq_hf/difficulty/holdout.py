"""Rows held out to judge a classifier on: every level on both sides, and no group on both."""

from collections.abc import Mapping, Sequence

import numpy as np


def hold_out(
    levels: Mapping[str, Sequence[int]], share: float, groups: Sequence | None = None, seed: int = 0
) -> np.ndarray:
    """Picks about `share` of the rows so that each level of each perspective keeps its share on both sides.

    Groups (single rows where there are none) are taken in random order, the largest first, and held out where that
    brings the counts of levels closer to their share.

    Args:
        levels (`Mapping[str, Sequence[int]]`):
            Each perspective's levels of the rows; 0 where a row has none.
        share (`float`):
            Share of the rows to hold out, in (0, 1).
        groups (`Sequence`, *optional*):
            The group of each row. A group is never split.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the order.

    Returns:
        `np.ndarray` of bools: whether a row is held out.

    Raises:
        `ValueError`: A level has too few rows, or groups, to stand on both sides.

    Example:

    ```python
    >>> hold_out({"overall": [1, 1, 1, 2, 2, 2]}, 1 / 3).sum()
    np.int64(2)

    ```
    """
    if not 0 < share < 1:
        raise ValueError(f"The share of rows to hold out must lie between 0 and 1, got {share}.")
    cells = {(name, level): np.asarray(column) == level for name, column in levels.items() for level in set(column)}
    cells = {cell: rows for cell, rows in cells.items() if cell[1]}
    size = len(next(iter(levels.values())))
    names, members = np.unique(np.arange(size) if groups is None else np.asarray(groups), return_inverse=True)
    counts = np.stack([np.bincount(members, weights=rows, minlength=len(names)) for rows in cells.values()], axis=1)
    total = counts.sum(axis=0)
    order = np.random.default_rng(seed).permutation(len(names))
    order = order[np.argsort(-counts.sum(axis=1)[order], kind="stable")]
    held, taken = np.zeros(counts.shape[1]), np.zeros(len(names), dtype=bool)
    for group in order:
        if _distance(held + counts[group], total, share) < _distance(held, total, share):
            held += counts[group]
            taken[group] = True
    unit = "rows" if groups is None else "groups"
    for (name, level), in_held, in_all, group_counts in zip(cells, held, total, counts.T, strict=True):
        if not 0 < in_held < in_all:
            raise ValueError(
                f"Level {level} of {name!r} has {int((group_counts > 0).sum())} {unit}, too few to stand both in "
                f"training and among the {share:.0%} held out. Label more rows of it, or hold out a larger share."
            )
    return taken[members]


def _distance(held: np.ndarray, total: np.ndarray, share: float) -> float:
    return float((((held - share * total) ** 2) / total).sum())
