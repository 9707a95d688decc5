"""In which order rows are taken: each strategy's order, and the quadrants."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..recipe import SelectionSettings
from .budgets import mean_reached, row_budget, worth
from .quadrants import QuadrantRule
from .scores import list_column, score_columns
from .settings import COLUMN_PREFIX, STRATEGY_COLUMNS
from .turns import ALIGNMENT, places_in_turns


# Rows in the order in which they are taken, given what they are worth.
Order = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Ranking:
    """The order of a pool's rows.

    Args:
        order (`np.ndarray`):
            The rows that may be taken, the first to be taken first.
        mismatch (`np.ndarray`, *optional*):
            Of each row, where it counts.
        num_trained (`np.ndarray`, *optional*):
            Trained tokens of each row, where they count.
        rule ([`QuadrantRule`], *optional*):
            The thresholds, where there are both scores.
        codes (`np.ndarray`, *optional*):
            The quadrants, then.
        too_difficult (`np.ndarray`, *optional*):
            For each row, whether the rule says so, then.
        diq_order (`np.ndarray`, *optional*):
            The order of DIQ, then.
    """

    order: np.ndarray
    mismatch: np.ndarray | None = None
    num_trained: np.ndarray | None = None
    rule: QuadrantRule | None = None
    codes: np.ndarray | None = None
    too_difficult: np.ndarray | None = None
    diq_order: np.ndarray | None = None


def rank_rows(scored: Any, settings: SelectionSettings, rule: QuadrantRule | None = None) -> Ranking:
    """Ranks rows by a strategy.

    Args:
        scored ([`~datasets.Dataset`]):
            Rows with their scores.
        settings ([`SelectionSettings`]):
            The strategy, what influences are worth, percentiles and the order inside quadrants.
        rule ([`QuadrantRule`], *optional*):
            Thresholds and column names, instead of percentiles.

    Raises:
        `ValueError`: A column is missing, or the rule is one for other values.
    """
    names = (rule.difficulty_column, rule.influence_column) if rule else ("difficulty", "influence")
    in_tokens = settings.num_tokens is not None
    if rule is not None and (settings.per == "row" or (settings.per == "token" and not in_tokens)):
        raise ValueError(
            f"A rule's threshold is one of influences, and `per={settings.per!r}` ranks rows by other values. Leave "
            "the rule out and pass `difficulty_percentile`."
        )

    if settings.thresholds is not None:
        rule = QuadrantRule(*settings.thresholds)
    has_both = settings.strategy == "diq" or set(names) <= set(scored.column_names)
    by_influence = settings.strategy in ("diq", "influence")
    key = {"difficulty": names[0], **STRATEGY_COLUMNS}.get(settings.strategy)
    if settings.strategy.startswith(COLUMN_PREFIX):
        key = settings.strategy.removeprefix(COLUMN_PREFIX)
    needed = [*(names if has_both else ()), *(names[1:] if by_influence else ()), key]
    if in_tokens or settings.per:
        if "num_trained" not in scored.column_names:
            raise ValueError(
                "`per` and `num_tokens` count trained tokens, and the dataset has no column 'num_trained'. Score it "
                "with `extra_columns=['num_trained']`."
            )
        needed.append("num_trained")
    if settings.max_mismatch is not None:
        needed.append("mismatch")
    # Read at once: of rows that were shuffled, each reading gathers them again.
    columns = score_columns(scored, [name for name in needed if name])
    foreign = columns["mismatch"] > settings.max_mismatch if settings.max_mismatch is not None else None
    num_trained = columns.get("num_trained")
    if num_trained is not None:
        num_trained = np.where(num_trained >= 1, num_trained, np.nan)

    def values(name: str, order: Order) -> np.ndarray:
        """What rows are worth by a column of influences, if they are taken in such an order."""
        influence = columns[name]
        if num_trained is None:
            return influence
        influence, mean = np.where(np.isnan(num_trained), np.nan, influence), 0.0
        if settings.per == "row":
            budget = row_budget(len(scored), settings.ratio, settings.num_rows)
            reached = order if foreign is None else lambda worths: (found := order(worths))[~foreign[found]]
            mean = mean_reached(influence, num_trained, budget, reached)
        return worth(influence, num_trained, settings.per, in_tokens, mean)

    def rule_for(worths: np.ndarray) -> QuadrantRule:
        percentiles = (
            settings.difficulty_percentile,
            settings.influence_percentile,
            settings.max_difficulty_percentile,
        )
        return rule or QuadrantRule.of(difficulty, worths, *percentiles)

    def by_quadrant(worths: np.ndarray) -> np.ndarray:
        fitted = rule_for(worths)
        order = fitted.order(difficulty, worths)
        if settings.order is None:
            return order
        codes = fitted.codes(difficulty, worths)[order]
        if settings.order == ALIGNMENT:
            places = places_in_turns(list_column(scored, ALIGNMENT).T)
        else:
            # Drawn in row order, so that the draw does not depend on the scores.
            places = np.random.default_rng(settings.seed).permutation(len(scored))
        return order[np.lexsort((places[order], codes))]

    def by_size(sizes: np.ndarray) -> np.ndarray:
        order = rows[np.argsort(-sizes[rows], kind="stable")]
        return order[np.isfinite(sizes[order])]

    rows, found = np.arange(len(scored)), {}
    if has_both:
        difficulty = columns[names[0]]
        worths = values(names[1], by_quadrant)
        fitted = rule_for(worths)
        found = {"rule": fitted, "codes": fitted.codes(difficulty, worths), "diq_order": by_quadrant(worths)}
        found["too_difficult"] = fitted.too_difficult(difficulty) & (found["codes"] >= 0)
        rows = np.sort(found["diq_order"])  # without both scores no row is taken, by any strategy
    if by_influence:
        order = found["diq_order"] if settings.strategy == "diq" else by_size(values(names[1], by_size))
        order = order[np.isin(order, rows)]
    elif settings.strategy == "random":
        # Drawn in row order, so that the draw does not depend on the scores.
        order = np.random.default_rng(settings.seed).permutation(rows)
    else:
        order = by_size(columns[key])
    return Ranking(order, columns.get("mismatch"), num_trained, **found)
