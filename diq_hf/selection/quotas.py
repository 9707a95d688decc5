"""Shares of a budget by the values of a column: how much of each source may be taken."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa


def check_balance(balance: str | Mapping | None) -> dict[str, dict[str, float]] | None:
    """A balance as it is recorded: a column with the shares of its values, none of them for equal shares."""
    if balance is None:
        return None
    balance = {balance: {}} if isinstance(balance, str) else balance
    if not isinstance(balance, Mapping) or len(balance) != 1 or not isinstance(next(iter(balance.values())), Mapping):
        raise TypeError(
            f"`balance` is {balance!r}; it is a column, for equal shares of its values, or one column with the shares "
            "of some of them: `{'source': {'medquad': 0.3}}`."
        )
    ((column, shares),) = balance.items()
    shares = {str(value): float(share) for value, share in shares.items()}
    if wrong := {value: share for value, share in shares.items() if not 0 < share <= 1}:
        raise ValueError(f"Shares are in (0, 1], and `balance` has {wrong}.")
    if sum(shares.values()) > 1 + 1e-9:
        raise ValueError(f"The shares of `balance` add up to {sum(shares.values()):g}, which is more than 1.")
    return {column: shares}


class Quotas:
    """What may still be taken of each source.

    Args:
        sources (`np.ndarray`):
            The source of each row, as a position in `names`.
        names (`list[str]`):
            Names of the sources.
        shares (`dict[str, float]`):
            Shares of the budget; the other sources have what is left, together. Without any, all have the same, and
            what a small source leaves over goes to the others.
        budget (`float`):
            Rows or tokens.
    """

    def __init__(self, sources: np.ndarray, names: list[str], shares: Mapping[str, float], budget: float):
        self.equal = not shares
        if missing := [name for name in shares if name not in names]:
            raise ValueError(f"`balance` names {missing}, and there are only {sorted(names)[:20]}.")
        self.names = [*shares, "the others"] if shares else names
        pots = {name: place for place, name in enumerate(self.names)}
        self._pots = np.array([pots.get(name, len(shares)) for name in names], dtype=int)[sources]
        parts = [*shares.values(), 1 - sum(shares.values())] if shares else [1 / len(names)] * len(names)
        self._of_row = self._pots.tolist()
        self.left = dict(enumerate(_apportioned(parts, budget)))
        self.full = {pot for pot, amount in self.left.items() if amount <= 0}

    @property
    def pots(self) -> np.ndarray:
        """For each row which share it is taken from, a number."""
        return self._pots

    @property
    def filled(self) -> bool:
        """Whether nothing more may be taken."""
        return len(self.full) == len(self.left)

    def open(self, rows: np.ndarray) -> np.ndarray:
        """For each row, whether its source is not full yet."""
        return ~np.isin(self._pots[rows], list(self.full))

    def admits(self, row: int, cost: float) -> bool:
        """Whether a row still fits; if not, its source is full and no smaller row slips in after it."""
        pot = self._of_row[row]
        if pot in self.full or cost > self.left[pot]:
            self.full.add(pot)
            return False
        return True

    def take(self, row: int, cost: float) -> None:
        """Takes a row."""
        pot = self._of_row[row]
        self.left[pot] -= cost
        if self.left[pot] <= 0:
            self.full.add(pot)

    def reopen(self, rows: np.ndarray, left: float) -> None:
        """Shares out what is left of the budget among the sources of rows that were turned away."""
        sources = np.unique(self._pots[rows]).tolist()
        self.left = {**dict.fromkeys(self.left, 0), **dict.fromkeys(sources, max(1, left // len(sources)))}
        self.full = set(self.left) - set(sources)

    def unmet(self) -> dict[str, float]:
        """What is left to take of sources that have no more rows."""
        return {self.names[pot]: amount for pot, amount in self.left.items() if pot not in self.full}


def column_sources(scored: Any, column: str) -> tuple[np.ndarray, list[str]]:
    """The value of each row in a column of few values, as a position in the names of all, and the names.

    Raises:
        `ValueError`: The column is missing, or its values are no names.
    """
    if column not in scored.column_names:
        raise ValueError(f"`balance` names the column {column!r}; the dataset has {scored.column_names}.")
    values = scored.select_columns([column]).with_format("arrow")[:][column]
    if not any(test(values.type) for test in _NAMES):
        raise ValueError(f"`balance` names the column {column!r} of {values.type}; sources are strings or integers.")
    encoded = values.combine_chunks().dictionary_encode("encode")
    names, feature = encoded.dictionary.to_pylist(), scored.features[column]
    if hasattr(feature, "int2str"):
        names = [None if code is None or code < 0 else feature.int2str(code) for code in names]
    return encoded.indices.to_numpy().astype(int), ["none" if name is None else str(name) for name in names]


_NAMES = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_boolean)


def _apportioned(shares: list[float], budget: float) -> list[float]:
    """Whole parts of a budget in given shares that add up to it: the largest fractions are rounded up."""
    exact = [share * budget for share in shares]
    parts = [int(part + 1e-9) for part in exact]
    largest = sorted(range(len(parts)), key=lambda place: (parts[place] - exact[place], place))
    for place in largest[: int(budget) - sum(parts)]:
        parts[place] += 1
    return parts
