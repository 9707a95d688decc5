"""How sure are the ranks? Two halves of the validation rows, chosen at random, each rank the pool.

The validation gradients of the halves are summed apart, which costs nothing: the whole one is their mean. Read off the
same backward pass, they give two influences a row, and the Spearman correlation of these is the split-half
reliability r. By Spearman and Brown's formula m times as many validation rows give m·r / (1 + (m - 1)·r): 2r / (1 + r)
for the whole set, and what a whole set of 0.9 would take.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers.utils import logging

from ..engine.influence import Direction
from ..rows.encoded import EncodedRow


logger = logging.get_logger(__name__)

# Fewer validation rows have no halves worth the name; fewer scored rows have no ranks to compare.
LEAST_VALIDATION, LEAST_ROWS = 4, 10
WANTED, LOW = 0.9, 0.7
# A column of chunks alone: each row's product with the difference of the halves.
HALVES = "half_difference"
# In place of the difference where there is none.
NO_HALVES = Direction({}, 0, 0.0)


@dataclass(frozen=True)
class Reliability:
    """How far the ranks by influence hang on which validation rows were taken.

    Args:
        split_half (`float`):
            Spearman correlation of the influences by the two halves.
        num_validation (`int`):
            Validation rows.
        num_rows (`int`):
            Scored rows that were compared.
    """

    split_half: float
    num_validation: int
    num_rows: int

    @property
    def whole(self) -> float:
        """Reliability of the ranks by all validation rows."""
        return 2 * self.split_half / (1 + self.split_half)

    @property
    def rows_wanted(self) -> int | None:
        """Validation rows that ranks of a reliability of 0.9 would take, `None` where the halves do not agree."""
        if self.split_half <= 0:
            return None
        times = WANTED * (1 - self.split_half) / (self.split_half * (1 - WANTED))  # as many as a half
        return max(self.num_validation, math.ceil(round(times * self.num_validation / 2, 6)))

    def __str__(self) -> str:
        said = f"Ranks by two halves of the {self.num_validation} validation rows agree to {self.split_half:.2f}"
        if self.rows_wanted is None:
            return f"{said}: they have nothing in common."
        said += f" (Spearman), which makes the reliability of all {self.whole:.2f}"
        if self.rows_wanted == self.num_validation:
            return f"{said}."
        return f"{said}; 0.9 would take about {self.rows_wanted - self.num_validation} more."


def split_half(size: int, seed: int = 0) -> tuple[list[int], list[int]]:
    """Positions of a group's rows in two random halves.

    Example:

    ```python
    >>> [len(half) for half in split_half(5)]
    [3, 2]

    ```
    """
    order = np.random.default_rng([seed, size]).permutation(size).tolist()
    return order[: (size + 1) // 2], order[(size + 1) // 2 :]


def half_gradients(
    rows: Sequence[EncodedRow], gradient: Callable[[Sequence[EncodedRow]], Direction]
) -> tuple[Direction, Direction]:
    """A group's mean gradient, and its first half's less its second's: each row is differentiated once."""
    first, second = ([rows[i] for i in half] for half in split_half(len(rows)))
    halves = [gradient(half) for half in (first, second) if half]
    if len(halves) == 1:
        return halves[0], NO_HALVES
    difference = {name: tensor - halves[1].tensors[name] for name, tensor in halves[0].tensors.items()}
    return _mean(halves), Direction(difference, len(rows), 0.0)


def whole_difference(means: Sequence[Direction], differences: Sequence[Direction]) -> Direction | None:
    """The first halves' gradient less the second halves', over all groups; `None` where there are too few rows."""
    counts = half_counts([mean.num_rows for mean in means])
    if sum(counts) < LEAST_VALIDATION or not all(counts):
        return None
    total: dict[str, Any] = {}
    for mean, difference in zip(means, differences, strict=True):
        first, second = half_counts([mean.num_rows])
        # Of a group whose halves are M + second/n·D and M - first/n·D.
        of_mean = first / counts[0] - second / counts[1]
        of_difference = first * second / mean.num_rows * (1 / counts[0] + 1 / counts[1])
        for name, tensor in mean.tensors.items():
            part = tensor * of_mean
            if name in difference.tensors:
                part = part + difference.tensors[name] * of_difference
            total[name] = total[name] + part if name in total else part
    return Direction(total, sum(counts), 0.0)


def half_counts(sizes: Sequence[int]) -> tuple[int, int]:
    """Rows in each half of groups of so many rows."""
    return sum((size + 1) // 2 for size in sizes), sum(size // 2 for size in sizes)


def reliability(influence: np.ndarray, difference: np.ndarray, counts: tuple[int, int]) -> Reliability | None:
    """Of pool rows by their influence and their product with the difference of the halves; NaN for rows unread."""
    first = influence + difference * counts[1] / sum(counts)
    second = influence - difference * counts[0] / sum(counts)
    rows = np.isfinite(first) & np.isfinite(second)
    if rows.sum() < LEAST_ROWS or np.ptp(first[rows]) == 0 or np.ptp(second[rows]) == 0:
        return None
    agreement = float(np.corrcoef(_ranks(first[rows]), _ranks(second[rows]))[0, 1])
    return Reliability(agreement, sum(counts), int(rows.sum()))


def report(found: Reliability | None) -> None:
    """Logs it, as a warning where the ranks are not to be trusted."""
    if found is not None:
        (logger.warning if found.split_half < LOW else logger.info)(str(found))


def _mean(parts: Sequence[Direction]) -> Direction:
    rows = sum(part.num_rows for part in parts)
    weigh = lambda values: sum(value * (part.num_rows / rows) for value, part in zip(values, parts, strict=True))  # noqa: E731
    tensors = {name: weigh([part.tensors[name] for part in parts]) for name in parts[0].tensors}
    return Direction(tensors, rows, weigh([part.loss for part in parts]))


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # ties share their mean rank
