"""What a comparison is made of, as types: each run is a JSON file, and so is the whole."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..facts import Facts
from ..recipe import ModelFacts, Source


@dataclass(frozen=True, kw_only=True)
class Work(Facts):
    """Computed by a model: tokens forwards, tokens backwards, and seconds.

    A token backwards counts twice where the gradient of the weights is formed for all of them, as in full training,
    and once where it is not.
    """

    forward: int = 0
    backward: int = 0
    seconds: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(
            forward=self.forward + other.forward,
            backward=self.backward + other.backward,
            seconds=self.seconds + other.seconds,
        )

    def times(self, count: int) -> "Work":
        """The same done so many times."""
        return Work(forward=count * self.forward, backward=count * self.backward, seconds=count * self.seconds)

    @property
    def passes(self) -> int:
        """Tokens through the model, whichever way."""
        return self.forward + self.backward


@dataclass(frozen=True, kw_only=True)
class RunFacts(Facts):
    """One training and what came of it.

    Args:
        strategy (`str`):
            Who chose the rows, as it was asked for (`"diq"`, `"influence:max_mismatch=0.2"`).
        seed (`int`):
            Of the training, and of what the strategy draws.
        ratio (`float`, *optional*):
            Share of the pool's trained tokens (or rows) that were to be taken; `None` for all of them.
        steps (`int`):
            Optimizer steps.
        rows (`int`):
            Rows trained.
        tokens (`int`):
            Trained tokens, counted once for each time they were trained.
        losses (`tuple[float, ...]`):
            Mean loss of each held-out row, nats a trained token, after the training.
        correct (`tuple[float, ...]`, *optional*):
            For each question of multiple choice 1 where the right option is the likeliest, else 0.
        tasks (`dict[str, float]`, *optional*):
            Accuracy by name of other tasks.
        training ([`Work`]):
            The training itself.
    """

    strategy: str
    seed: int
    ratio: float | None = None
    steps: int
    rows: int
    tokens: int
    losses: tuple[float, ...]
    correct: tuple[float, ...] | None = None
    tasks: Mapping[str, float] | None = None
    training: Work


@dataclass(frozen=True, kw_only=True)
class ChoiceFacts(Facts):
    """What a strategy took (of several seeds, the first), and what choosing cost beside the training.

    `rows` are positions in the pool, the first choice first. `selecting` is what the choice had to compute.
    """

    strategy: str
    ratio: float | None = None
    rows: tuple[int, ...]
    tokens: int
    selecting: Work


@dataclass(frozen=True, kw_only=True)
class HeldoutFacts(Facts):
    """The held-out rows: group and trained tokens of each, its loss before any training, and the questions' groups."""

    groups: tuple[str, ...]
    tokens: tuple[int, ...]
    before: tuple[float, ...]
    question_groups: tuple[str, ...] | None = None
    correct_before: tuple[float, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class PoolFacts(Facts):
    """The pool's rows, column by column: what the page tells choices by. `None` where it is not known.

    `duplicate_of` is the row that a row repeats, -1 for none.
    """

    num_trained: tuple[int, ...]
    sources: tuple[str, ...] | None = None
    quadrants: tuple[str, ...] | None = None
    mismatch: tuple[float | None, ...] | None = None
    duplicate_of: tuple[int, ...] | None = None
    facts: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Comparison(Facts):
    """Everything that was run: what statistics and page are made of, and what is written as `comparison.json`.

    Args:
        digest (`str`):
            Of all that decides the runs: model, rows, settings, code.
        budget (`str`):
            `"tokens"` or `"rows"`: what `ratio` is a share of.
        ratios (`tuple[float, ...]`):
            The budgets.
        seeds (`tuple[int, ...]`):
            The seeds.
        strategies (`tuple[str, ...]`):
            As they were asked for.
        epoch ([`Work`]):
            One pass of training over the whole pool, in tokens; its seconds are estimated from the runs.
        training (`dict`):
            The training's settings that are not TRL's defaults, LoRA's among them.
        warnings (`tuple[str, ...]`):
            What a reader must know: leakage that was found, budgets that were not met.
        quick (`bool`):
            Whether this was an early answer.
    """

    digest: str
    budget: str = "tokens"
    ratios: tuple[float, ...]
    seeds: tuple[int, ...]
    strategies: tuple[str, ...]
    pool: PoolFacts
    heldout: HeldoutFacts
    choices: tuple[ChoiceFacts, ...] = ()
    runs: tuple[RunFacts, ...] = ()
    epoch: Work
    training: Mapping[str, Any]
    model: ModelFacts | None = None
    sources: Mapping[str, Source] | None = None
    commands: tuple[str, ...] | None = None
    versions: Mapping[str, str] | None = None
    warnings: tuple[str, ...] = ()
    quick: bool = False

    def by_strategy(self) -> dict[tuple[str, float | None], dict[int, RunFacts]]:
        """The runs of each strategy and budget by seed, in the order that was asked for."""
        found: dict[tuple[str, float | None], dict[int, RunFacts]] = {}
        for strategy in self.strategies:
            for ratio in (*self.ratios, None):
                runs = {run.seed: run for run in self.runs if (run.strategy, run.ratio) == (strategy, ratio)}
                if runs:
                    found[strategy, ratio] = dict(sorted(runs.items()))
        return found
