"""What choosing costs, in tokens through the model: counted from what each strategy must compute, once; and, with a
training, what a strategy costs in all.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from ..facts import Facts
from .results import Comparison, Work


# What a strategy needs is made of these passes over the pool; one that several need is paid by each of them.
_PARTS: Mapping[str, tuple[str, ...]] = {
    "influence": ("validation", "scores"),
    "alignment": ("validation", "scores"),  # from the same passes
    "loss": ("losses",),
    "difficulty": ("losses", "answers"),
    "mismatch": ("losses", "answers", "null"),
}


def pass_works(tokens: int, answers: int, validation: int, null: int) -> dict[str, Work]:
    """The work of each part.

    Args:
        tokens (`int`):
            Tokens of the pool.
        answers (`int`):
            Tokens of its answers alone, as IFD takes them.
        validation (`int`):
            Tokens of the validation rows.
        null (`int`):
            Tokens of the foreign pairs that `mismatch` is held against.
    """
    return {
        "validation": Work(forward=validation, backward=validation),
        "scores": Work(forward=tokens, backward=tokens),
        "losses": Work(forward=tokens),
        "answers": Work(forward=answers),
        "null": Work(forward=null),
    }


def selecting(needs: Iterable[str], works: Mapping[str, Work], free: Iterable[str] = ()) -> Work:
    """What a strategy must compute before it can choose.

    Args:
        needs (`Iterable[str]`):
            Scores, as [`Strategy.passes`] names them.
        works (`dict`):
            See [`pass_works`]; further needs (`"less"`, say) under their own names.
        free (`Iterable[str]`, *optional*):
            Needs that cost nothing here, such as a difficulty that the rows came with.
    """
    needs = [need for need in needs if need not in set(free)]
    parts = {part for need in needs for part in _PARTS.get(need, (need,))}
    if "scores" in parts:
        parts.discard("losses")  # the same forward pass
    return sum((works[part] for part in sorted(parts)), Work())


@dataclass(frozen=True, kw_only=True)
class TotalCost(Facts):
    """What a strategy costs at one budget: choosing and one training, in passes over the pool, and in seconds."""

    strategy: str
    ratio: float | None = None
    selecting: float
    training: float
    selecting_seconds: float
    training_seconds: float

    @property
    def epochs(self) -> float:
        return self.selecting + self.training

    @property
    def seconds(self) -> float:
        return self.selecting_seconds + self.training_seconds


def total_costs(comparison: Comparison) -> list[TotalCost]:
    """What each strategy costs at each budget: choosing, and the mean of its trainings.

    Raises:
        `ValueError`: The comparison does not say what an epoch is, or what a choice took.
    """
    epoch = comparison.epoch.passes
    if epoch <= 0:
        raise ValueError("`epoch` of a comparison must state the tokens of one pass over the pool.")
    choices = {(choice.strategy, choice.ratio): choice.selecting for choice in comparison.choices}
    found = []
    for (strategy, ratio), runs in comparison.by_strategy().items():
        if (strategy, ratio) not in choices and ratio is not None:
            raise ValueError(f"The comparison has runs of {strategy!r} at {ratio}, but not what it chose (`choices`).")
        selecting = choices.get((strategy, ratio))  # taking all rows costs nothing
        found.append(
            TotalCost(
                strategy=strategy,
                ratio=ratio,
                selecting=selecting.passes / epoch if selecting else 0.0,
                training=float(np.mean([run.training.passes for run in runs.values()])) / epoch,
                selecting_seconds=float(selecting.seconds) if selecting else 0.0,
                training_seconds=float(np.mean([run.training.seconds for run in runs.values()])),
            )
        )
    return found
