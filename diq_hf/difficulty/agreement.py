"""How well two sets of ordinal levels agree. Numbers only."""

from collections.abc import Sequence

import numpy as np

from ..ranks import spearman


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


def calibration(expected: Sequence[float], observed: Sequence[int]) -> list[tuple[int, float, float, int]]:
    """Expected levels against observed ones, in bins around each level.

    Returns:
        `list[tuple]`: For each level some expectation rounds to: the level, the mean expected and the mean observed
        level of these rows, and their number.

    Example:

    ```python
    >>> calibration([1.25, 1.25, 3.5], [1, 2, 5])
    [(1, 1.25, 1.5, 2), (4, 3.5, 5.0, 1)]

    ```
    """
    expected, observed = np.asarray(expected, dtype=float), np.asarray(observed, dtype=float)
    bins = np.floor(expected + 0.5).astype(int)
    return [
        (int(level), float(expected[rows].mean()), float(observed[rows].mean()), int(rows.sum()))
        for level in np.unique(bins)
        for rows in [bins == level]
    ]


def prediction_figures(
    observed: Sequence[int], predicted: Sequence[int], expected: Sequence[float]
) -> dict[str, float]:
    """How good predicted levels are.

    Args:
        observed (`Sequence[int]`):
            The true levels.
        predicted (`Sequence[int]`):
            The most probable levels.
        expected (`Sequence[float]`):
            The expected levels.

    Returns:
        `dict[str, float]`: [`level_agreement`] of observed and predicted; `mae`, the mean distance of the expected
        level from the observed one, and `mae_constant`, that of the best constant level; `spearman` of expected and
        observed; `calibration_error`, the mean distance of both in the bins of [`calibration`], by their rows.
    """
    observed, expected = np.asarray(observed), np.asarray(expected, dtype=float)
    bins = calibration(expected, observed)
    return level_agreement(observed, predicted) | {
        "mae": float(np.abs(expected - observed).mean()),
        "mae_constant": float(np.abs(np.median(observed) - observed).mean()),
        "spearman": spearman(expected, observed),
        "calibration_error": sum(rows * abs(mean - truth) for _, mean, truth, rows in bins) / len(observed),
    }
