"""How well two sets of ordinal levels agree. Numbers only."""

from collections.abc import Sequence

import numpy as np


def confusion_matrix(first: Sequence[int], second: Sequence[int], num_levels: int = 5) -> np.ndarray:
    """Counts of pairs of levels 1 to `num_levels`: rows by `first`, columns by `second`.

    Raises:
        `ValueError`: The two differ in length, are empty, or hold something that is no level.
    """
    first, second = np.asarray(first), np.asarray(second)
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise ValueError(f"Levels are compared in pairs, and these have the shapes {first.shape} and {second.shape}.")
    for levels in (first, second):
        if wrong := sorted(set(levels.tolist()) - set(range(1, num_levels + 1)), key=str):
            raise ValueError(f"Levels are whole numbers from 1 to {num_levels}, not {wrong[0]!r}.")
    counts = np.zeros((num_levels, num_levels), dtype=int)
    np.add.at(counts, (first.astype(int) - 1, second.astype(int) - 1), 1)
    return counts


def quadratic_weighted_kappa(first: Sequence[int], second: Sequence[int], num_levels: int = 5) -> float:
    """Cohen's kappa with squared distances as weights: 1 for equal levels, 0 for the agreement of chance.

    NaN where all levels are one and the same, since chance agrees fully then. (Cohen 1968,
    https://doi.org/10.1037/h0026256.)

    Example:

    ```python
    >>> round(quadratic_weighted_kappa([1, 2, 3, 4, 5], [1, 2, 3, 5, 4]), 3)
    0.9

    ```
    """
    counts = confusion_matrix(first, second, num_levels)
    levels = np.arange(num_levels)
    weights = (levels[:, None] - levels[None, :]) ** 2
    by_chance = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / counts.sum()
    disagreement = float((weights * by_chance).sum())
    return float("nan") if disagreement == 0 else 1 - float((weights * counts).sum()) / disagreement


def level_agreement(
    first: Sequence[int | None], second: Sequence[int | None], num_levels: int = 5
) -> dict[str, float]:
    """How well two judges, or two runs of one, agree on the rows that both gave a level.

    Returns:
        `dict[str, float]`: `rows` compared, the shares `exact` and `within_one`, and `kappa` (quadratic weights); all
        NaN but `rows` where none can be compared.

    Example:

    ```python
    >>> level_agreement([1, 2, 3, None], [1, 3, 5, 2])["within_one"]
    0.6666666666666666

    ```
    """
    pairs = [pair for pair in zip(first, second, strict=True) if None not in pair]
    if not pairs:
        return {"rows": 0, "exact": float("nan"), "within_one": float("nan"), "kappa": float("nan")}
    ours, theirs = (np.array(levels) for levels in zip(*pairs, strict=True))
    distance = np.abs(ours - theirs)
    return {
        "rows": len(pairs),
        "exact": float((distance == 0).mean()),
        "within_one": float((distance <= 1).mean()),
        "kappa": quadratic_weighted_kappa(ours, theirs, num_levels),
    }
