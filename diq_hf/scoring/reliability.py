"""How sure are the ranks? Two halves of the validation rows, chosen at random, each rank the pool.

The validation gradients of the halves are summed apart, which costs nothing: the whole one is their mean. Read off the
same backward pass, they give two influences a row, and the Spearman correlation of these is the split-half
reliability r. By Spearman and Brown's formula m times as many validation rows give m·r / (1 + (m - 1)·r): 2r / (1 + r)
for the whole set, and what a whole set of 0.9 would take.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers.utils import logging

from ..engine.influence import Direction
from ..rows.encoded import EncodedRow, rows_digest


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


def split_half(size: int, key: str, seed: int = 0) -> tuple[list[int], list[int]]:
    """Positions of a group's rows in two random halves, by the digest of the rows: whatever other groups there are. An
    odd row goes to either half, by chance.

    Example:

    ```python
    >>> [len(half) for half in split_half(5, "5eed")], split_half(5, "5eed") == split_half(5, "5eed")
    ([2, 3], True)

    ```
    """
    number = int(key, 16)
    order = np.random.default_rng([seed, number % 2**32]).permutation(size).tolist()
    cut = (size + number // 2**32 % 2) // 2
    return order[:cut], order[cut:]


def half_gradients(
    rows: Sequence[EncodedRow], gradient: Callable[[Sequence[EncodedRow]], Direction], seed: int = 0
) -> tuple[Direction, Direction]:
    """A group's mean gradient, and that of its first half less that of its second, which is [`NO_HALVES`] of a single
    row. Each row is differentiated once."""
    halves = split_half(len(rows), rows_digest(rows), seed)
    parts = [gradient([rows[i] for i in half]) for half in halves if half]
    if len(parts) == 1:
        return parts[0], NO_HALVES
    first, second = parts
    mean, difference = {}, {}
    for name, of_first in first.tensors.items():  # in place, so that nothing is held but what is kept
        difference[name] = of_first.sub_(second.tensors[name])
        mean[name] = second.tensors[name].add_(difference[name], alpha=first.num_rows / len(rows))
    loss = (first.loss * first.num_rows + second.loss * second.num_rows) / len(rows)
    return Direction(mean, len(rows), loss), Direction(difference, len(rows), 0.0)


def joint_difference(
    means: Sequence[Direction], differences: Sequence[Direction], counts: Sequence[tuple[int, int]]
) -> Direction | None:
    """The mean gradient of all groups' first halves less that of their second; `None` where rows are too few.

    Args:
        means (`Sequence[Direction]`):
            Of each group.
        differences (`Sequence[Direction]`):
            As [`half_gradients`] gives them.
        counts (`Sequence[tuple[int, int]]`):
            Rows in each group's halves.
    """
    first, second = (sum(count) for count in zip(*counts, strict=True))
    if first + second < LEAST_VALIDATION or not (first and second):
        return None
    if len(means) == 1:
        return differences[0]
    total: dict[str, torch.Tensor] = {}
    for mean, difference, (a, b) in zip(means, differences, counts, strict=True):
        # The halves' own means are mean + b/(a+b)·difference and mean - a/(a+b)·difference.
        of_mean, of_difference = a / first - b / second, a * b / (a + b) * (1 / first + 1 / second)
        for name, tensor in mean.tensors.items():
            share = tensor * of_mean
            if difference.tensors:
                share.add_(difference.tensors[name].to(share.device), alpha=of_difference)
            total[name] = total[name].add_(share.to(total[name].device)) if name in total else share
    return Direction(total, first + second, 0.0)


def half_counts(groups: Mapping[Any, Sequence[EncodedRow]]) -> list[tuple[int, int]]:
    """Rows in each group's halves."""
    halves = (split_half(len(rows), rows_digest(rows)) for rows in groups.values())
    return [(len(first), len(second)) for first, second in halves]


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


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # ties share their mean rank
