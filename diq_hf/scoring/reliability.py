"""How sure are the ranks? Two halves of the validation rows, chosen at random, each rank the pool.

The validation gradients of the halves are summed apart, which costs nothing: the whole one is their mean. Read off the
same backward pass, they give two influences a row, and the Spearman correlation of these is the split-half
reliability r. By Spearman and Brown's formula m times as many validation rows give m·r / (1 + (m - 1)·r): 2r / (1 + r)
for the whole set, and what a whole set of 0.9 would take.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from transformers.utils import logging

from ..engine.influence import Direction
from ..rows.encoded import EncodedRow


logger = logging.get_logger(__name__)

Name = TypeVar("Name")

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


def split_halves(groups: Mapping[Name, Sequence], seed: int = 0) -> dict[Name, tuple[list[int], list[int]]]:
    """Positions of each group's rows in two random halves; odd ones go to the smaller half in turn.

    Example:

    ```python
    >>> halves = split_halves({"a": "xxxxx", "b": "xxx"})
    >>> [len(half) for half in (*halves["a"], *halves["b"])]
    [3, 2, 1, 2]

    ```
    """
    draw, found, ahead = np.random.default_rng(seed), {}, 0
    for name, rows in groups.items():
        order = draw.permutation(len(rows)).tolist()
        cut = (len(order) + (len(order) % 2 and 1 - 2 * ahead)) // 2
        ahead = ahead ^ (len(order) % 2)
        found[name] = order[:cut], order[cut:]
    return found


def half_gradients(
    groups: Mapping[Name, Sequence[EncodedRow]], gradient: Callable[[Sequence[EncodedRow]], Direction], seed: int = 0
) -> tuple[dict[Name, Direction], Direction | None]:
    """Each group's mean gradient, and the first half's of all rows less the second's: each row is differentiated once.

    The difference is `None` where there are too few rows for halves.
    """
    means, difference, counts = {}, {}, half_counts(groups, seed)
    for name, halves in split_halves(groups, seed).items():
        parts = [gradient([groups[name][i] for i in half]) for half in halves if half]
        signed = [sign / count for half, sign, count in zip(halves, (1, -1), counts, strict=True) if half]
        means[name] = _mean(parts, signed, difference)
    if sum(counts) < LEAST_VALIDATION or not all(counts):
        return means, None
    return means, Direction(difference, sum(counts), 0.0)


def _mean(parts: Sequence[Direction], signed: Sequence[float], difference: dict[str, torch.Tensor]) -> Direction:
    """A group's mean of its halves, which are used up; adds each row's gradient, times a signed share, to the
    difference. A tensor at a time, so that hardly more is held than what is kept."""
    rows, tensors = sum(part.num_rows for part in parts), {}
    for name in list(parts[0].tensors):
        mean, *others = (part.tensors.pop(name) for part in parts)
        apart = mean * (signed[0] * parts[0].num_rows)
        mean.mul_(parts[0].num_rows / rows)
        for other, part, share in zip(others, parts[1:], signed[1:], strict=True):
            apart.add_(other, alpha=share * part.num_rows)
            mean.add_(other, alpha=part.num_rows / rows)
        tensors[name] = mean
        difference[name] = difference[name].add_(apart) if name in difference else apart
    return Direction(tensors, rows, sum(part.loss * part.num_rows for part in parts) / rows)


def half_counts(groups: Mapping[Name, Sequence], seed: int = 0) -> tuple[int, int]:
    """Rows in each half."""
    halves = split_halves(groups, seed).values()
    return sum(len(first) for first, _ in halves), sum(len(second) for _, second in halves)


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
