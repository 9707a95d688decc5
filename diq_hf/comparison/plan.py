"""Which runs a comparison takes: what each strategy chooses, and that the choices are equal where they must be."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..digest import digest
from ..rows.encoded import rows_digest
from .heldout import HeldOut
from .online import PARTS, OnlineBatches
from .pool import Pool
from .results import ChoiceFacts, RunFacts, Work
from .runs import Run, run_digest, train_and_measure
from .strategies import Strategy
from .training import Training


ONLINE = "diq-online"


@dataclass(frozen=True)
class Plan:
    """All runs, the most wanted first: seed by seed, so that a comparison that is cut short is still one.

    Args:
        pool ([`Pool`]):
            What is chosen from.
        training ([`Training`]):
            How.
        strategies (`dict[str, Strategy]`):
            Who chooses, by what they were asked for as.
        choices (`tuple[ChoiceFacts, ...]`):
            What each takes, at the first seed.
        runs (`tuple[Run, ...]`):
            The runs.
        budgets (`dict[float, int]`):
            Trained tokens of each budget.
    """

    pool: Pool
    training: Training
    strategies: Mapping[str, Strategy]
    choices: tuple[ChoiceFacts, ...]
    runs: tuple[Run, ...]
    budgets: Mapping[float, int]

    def tokens_of(self, run: Run) -> int:
        """Tokens that a run trains."""
        if self.strategies[run.strategy].name == ONLINE:
            return self.budgets[run.ratio]
        return int(self.pool.num_trained[list(run.rows)].sum()) * self.training.num_epochs

    def do(
        self,
        run: Run,
        heldout: HeldOut,
        progress: Callable[[int], None] | None = None,
        tasks: Callable[[Any], dict[str, float]] | None = None,
    ) -> RunFacts:
        """Trains and measures."""
        pool, rows = self.pool, np.array(run.rows)
        if self.strategies[run.strategy].name != ONLINE:
            num_trained, num_tokens = pool.num_trained[rows], int(pool.num_tokens[rows].sum())
            return train_and_measure(
                run, pool.trainable(rows), num_trained, num_tokens, self.training, heldout, progress, tasks
            )
        batches: list[OnlineBatches] = []

        def choosing(trainer: Any) -> OnlineBatches:
            cuts = run.num_steps * self.training.arguments.gradient_accumulation_steps
            strategy = self.strategies[run.strategy]
            batches.append(OnlineBatches(trainer.model, pool, strategy, self.budgets[run.ratio], cuts))
            return batches[0]

        result = train_and_measure(
            run, pool.trainable(rows), (), 0, self.training, heldout, progress, tasks, batches=choosing
        )
        taken = batches[0].taken
        work = self.training.work(int(pool.num_tokens[taken].sum()))
        return replace(
            result,
            rows=len(taken),
            tokens=int(pool.num_trained[taken].sum()),
            training=replace(work, seconds=result.training.seconds),
        )


def make_plan(
    pool: Pool,
    training: Training,
    strategies: Sequence[Strategy],
    ratios: Sequence[float],
    seeds: Sequence[int],
    budget: str,
    decisive: Any,
) -> Plan:
    """Chooses, and looks whether it is fair.

    Args:
        pool ([`Pool`]):
            What is chosen from.
        training ([`Training`]):
            How it is trained.
        strategies (`Sequence[Strategy]`):
            Who chooses.
        ratios (`Sequence[float]`):
            Budgets.
        seeds (`Sequence[int]`):
            Seeds.
        budget (`str`):
            `"tokens"` or `"rows"`.
        decisive:
            What decides results beside rows, steps and seed, as plain data.

    Raises:
        `ValueError`: A strategy cannot meet a budget, or takes fewer rows than there are batches.
    """
    usable, num_trained = pool.usable, pool.num_trained
    candidates, total = pool.scored.select(usable), int(num_trained.sum())
    mean, accumulated = total / len(usable), training.arguments.gradient_accumulation_steps
    budgets = {ratio: int(ratio * total + 0.5) for ratio in ratios}
    choices, runs, last = [], [], []
    if training.num_epochs > 1 and any(strategy.name == ONLINE for strategy in strategies):
        raise ValueError(
            "'diq-online' trains each row that it chooses once, and `num_train_epochs` is "
            f"{training.num_epochs}: others would train more tokens. Leave it out, or train for one epoch."
        )
    for seed in seeds:
        for ratio in ratios:
            asked = {"num_tokens": budgets[ratio]} if budget == "tokens" else {"ratio": ratio}
            steps = training.num_steps(budgets[ratio], mean)
            for strategy in strategies:
                if strategy.name == "full":
                    continue
                if strategy.name == ONLINE:
                    strategy.check(candidates, **asked)
                    rows, tokens, selecting = usable, budgets[ratio], pool.selecting(strategy).times(PARTS)
                else:
                    rows = usable[strategy.take(candidates, seed, **asked)]
                    tokens, selecting = int(num_trained[rows].sum()), pool.selecting(strategy)
                    _check_fair(strategy, tokens, budgets[ratio], budget, num_trained)
                if len(rows) * training.num_epochs < steps * accumulated:
                    raise ValueError(
                        f"Strategy {strategy.text!r} takes {len(rows)} rows at {ratio:.3g}, fewer than the "
                        f"{steps * accumulated} batches of {steps} steps. Raise `per_device_train_batch_size` (fewer "
                        "and larger batches), or `ratio`."
                    )
                if seed == seeds[0]:
                    chosen = () if strategy.name == ONLINE else tuple(map(int, rows))
                    choices.append(
                        ChoiceFacts(
                            strategy=strategy.text, ratio=ratio, rows=chosen, tokens=tokens, selecting=selecting
                        )
                    )
                runs.append(_run(strategy, ratio, seed, rows, steps, pool, decisive))
        if any(strategy.name == "full" for strategy in strategies):
            last.append(
                _run(Strategy.parse("full"), None, seed, usable, training.num_steps(total, mean), pool, decisive)
            )
    if last:
        choices.append(ChoiceFacts(strategy="full", rows=tuple(map(int, usable)), tokens=total, selecting=Work()))
    by_text = {strategy.text: strategy for strategy in strategies}
    return Plan(pool, training, by_text, tuple(choices), (*runs, *last), budgets)


def _run(
    strategy: Strategy, ratio: float | None, seed: int, rows: np.ndarray, steps: int, pool: Pool, decisive: Any
) -> Run:
    rows = np.sort(rows)  # the order of training is the seed's: equal choices make one run
    named = pool.digest(rows)
    if strategy.name == ONLINE:  # what is chosen on the way hangs on the validation rows as well
        validation = [[name, rows_digest(group)] for name, group in pool.validation.items()]
        named = digest([named, strategy.text, ratio, PARTS, validation, str(pool.scoring.difficulty)])
    return Run(strategy.text, ratio, seed, tuple(map(int, rows)), steps, run_digest(decisive, named, steps, seed))


def _check_fair(strategy: Strategy, tokens: int, wanted: int, budget: str, num_trained: np.ndarray) -> None:
    if budget == "tokens" and wanted - tokens > num_trained.max():
        raise ValueError(
            f"Strategy {strategy.text!r} took {tokens} of {wanted} trained tokens, and others take all of them: the "
            "comparison would not be one of equal tokens. Lower `ratio`, or leave its options out."
        )
