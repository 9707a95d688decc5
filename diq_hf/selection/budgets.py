"""How much may be taken, and what a row is worth of it."""

import math
from collections.abc import Callable

import numpy as np


# What a row's influence is counted for.
PER = ("paper", "token", "row")
# Rounds in which the mean that a selection reaches is looked for; it stands still after a few.
_ROUNDS = 50


def row_budget(size: int, ratio: float | None, num_rows: int | None) -> int:
    """Rows to select out of `size`: see [`select_subset`]."""
    if (ratio is None) == (num_rows is None):
        raise ValueError("Pass exactly one of `ratio` and `num_rows`.")
    if num_rows is not None:
        return _whole("num_rows", num_rows)
    if not 0 < ratio <= 1:
        raise ValueError(f"`ratio` must be in (0, 1], got {ratio!r}.")
    return max(1, math.floor(ratio * size + 0.5))


def check_budget(ratio: float | None, num_rows: int | None, num_tokens: int | None) -> None:
    """Refuses a budget that is none, or more than one."""
    if sum(value is not None for value in (ratio, num_rows, num_tokens)) != 1:
        raise ValueError("Pass exactly one of `ratio`, `num_rows` and `num_tokens`.")
    if num_tokens is not None:
        _whole("num_tokens", num_tokens)
    else:
        row_budget(1, ratio, num_rows)


def worth(
    influence: np.ndarray, num_trained: np.ndarray | None, per: str, in_tokens: bool, mean: float = 0
) -> np.ndarray:
    """What rows are ranked by.

    One step lowers the validation loss by η·Σ n·influence / Σ n over its batch's rows, n being their trained tokens.

    - `"paper"`: the influence.
    - `"token"`, for batches of equal tokens: a token is worth the influence, and a row that many times its tokens. A
      budget in tokens is spent best by the first, one in rows by the second.
    - `"row"`, for batches of equal rows: m rows are worth m times their mean influence a token, and the rows with the
      best mean are those with the largest n·(influence − `mean`), `mean` being the one they reach.

    Args:
        influence (`np.ndarray`):
            Influence of each row.
        num_trained (`np.ndarray`, *optional*):
            Trained tokens of each row.
        per (`str`, *optional*):
            See above; `None` is `"paper"`.
        in_tokens (`bool`):
            Whether the budget is in tokens.
        mean (`float`, *optional*, defaults to `0`):
            For `"row"`.
    """
    if per == "row":
        return num_trained * (influence - mean)
    return num_trained * influence if per == "token" and not in_tokens else influence


def mean_reached(
    influence: np.ndarray, num_trained: np.ndarray, num_rows: int, order: Callable[[np.ndarray], np.ndarray]
) -> float:
    """The mean influence a trained token of the rows that `per="row"` selects.

    Starting from the rows with the largest influence, each round selects by the mean that the last one reached
    (Dinkelbach's method, https://doi.org/10.1287/mnsc.13.7.492).

    Args:
        influence (`np.ndarray`):
            Influence of each row.
        num_trained (`np.ndarray`):
            Trained tokens of each row.
        num_rows (`int`):
            The budget.
        order (`Callable`):
            Rows in the order in which they are selected, given what they are worth.
    """

    def mean(rows: np.ndarray) -> float:
        return float((influence[rows] * num_trained[rows]).sum() / num_trained[rows].sum())

    best = mean(order(influence)[:num_rows])
    for _ in range(_ROUNDS):
        reached = mean(order(worth(influence, num_trained, "row", False, best))[:num_rows])
        if reached <= best:  # thresholds move with the mean, so a round may also lose
            break
        best = reached
    return best


def _whole(name: str, value: int) -> int:
    if isinstance(value, bool) or value != int(value) or value < 1:
        raise ValueError(f"`{name}` must be a whole number of at least 1, got {value!r}.")
    return int(value)
