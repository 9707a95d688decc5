"""The choice: rows are taken in their order until the budget is met, and every other row is told why it was not."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..recipe import SelectionSettings
from .budgets import row_budget
from .duplicates import BLOCK, Copies, KnownCopies
from .quadrants import REASONS, QuadrantRule, add_columns, ranks
from .quotas import Quotas, column_sources
from .ranking import Ranking, rank_rows
from .settings import check_settings, settings_for
from .texts import RowTexts


SELECTED, BEYOND, DUPLICATE, MISMATCH, QUOTA, TOO_DIFFICULT, UNSCORED = range(len(REASONS))


@dataclass(frozen=True)
class Selection:
    """What was taken, and why the rest was not.

    Args:
        rows (`np.ndarray`):
            The rows taken, the first choice first.
        reasons (`np.ndarray`):
            For each row of the pool, what became of it: a position in `REASONS`.
        duplicate_of (`np.ndarray`):
            For each duplicate the taken row that it repeats, -1 for all others.
        ranking ([`Ranking`]):
            The order they were taken in.
        settings ([`SelectionSettings`]):
            What was asked for.
    """

    rows: np.ndarray
    reasons: np.ndarray
    duplicate_of: np.ndarray
    ranking: Ranking
    settings: SelectionSettings

    @property
    def counts(self) -> dict[str, int]:
        """What became of the pool's rows, and how many."""
        counts = np.bincount(self.reasons, minlength=len(REASONS))
        return {reason: int(count) for reason, count in zip(REASONS, counts, strict=True) if count}

    def subset(self, scored: Any) -> Any:
        """The rows taken, with `quadrant` and `diq_rank` where there are both scores.

        Rows that were passed over have no rank, so those that DIQ takes have the ranks 1, 2, 3, …
        """
        return add_columns(scored, **self._ranks).select(self.rows)

    def pool(self, scored: Any) -> Any:
        """All rows, with `quadrant`, `diq_rank`, `diq_reason` and `diq_duplicate_of`."""
        return add_columns(scored, **self._ranks, diq_reason=self.reasons, diq_duplicate_of=self.duplicate_of)

    @property
    def _ranks(self) -> dict[str, np.ndarray]:
        if self.ranking.rule is None:
            return {}
        order = self.ranking.diq_order
        order = order[np.isin(self.reasons[order], (SELECTED, BEYOND))]
        if self.settings.strategy == "diq":
            order = np.concatenate([self.rows, order[self.reasons[order] == BEYOND]])
        return {"quadrant": self.ranking.codes, "diq_rank": ranks(order, len(self.reasons))}


def select_subset(
    scored: Any,
    ratio: float | None = None,
    num_rows: int | None = None,
    strategy: str = "diq",
    rule: QuadrantRule | None = None,
    seed: int = 0,
    *,
    num_tokens: int | None = None,
    per: str = "paper",
    difficulty_percentile: float = 50,
    max_difficulty_percentile: float | None = None,
    influence_percentile: float = 50,
    max_mismatch: float | str | None = "auto",
    max_similarity: float | str | None = "auto",
    text_columns: Sequence[str] | None = None,
    balance: str | Mapping[str, Mapping[str, float]] | None = None,
    order: str = "auto",
    return_pool: bool = False,
) -> Any:
    """Picks the rows worth training on: Q1, then Q2, Q3 and Q4, until the budget is met.

    Rows that the prompt tells to be wrong, and rows that repeat one that is taken, are passed over, by every strategy.
    The paper's own selection is `order="influence", max_mismatch=None, max_similarity=None`.

    Args:
        scored ([`~datasets.Dataset`]):
            A dataset with `difficulty` and `influence` columns; a comparison needs its own column only.
        ratio (`float`, *optional*):
            Share of all rows, in (0, 1]: `max(1, floor(ratio * N + 0.5))` rows.
        num_rows (`int`, *optional*):
            Number of rows, instead of `ratio`.
        strategy (`str`, *optional*, defaults to `"diq"`):
            `"diq"`, or for comparison at the same budget `"random"`, `"influence"`, `"difficulty"`, `"loss"`,
            `"length"`: the largest values first. `"column:NAME"` ranks by a column of your own.
        rule ([`QuadrantRule`], *optional*):
            Thresholds and column names; fitted on `scored` by default.
        seed (`int`, *optional*, defaults to `0`):
            For what is drawn.
        num_tokens (`int`, *optional*):
            Number of trained tokens (column `num_trained`), instead of `ratio`. The first row that goes beyond it
            ends the selection.
        per (`str`, *optional*, defaults to `"paper"`):
            What a row is worth. One step lowers the validation loss by η·Σ n·influence / Σ n over its batch's rows, n
            being their trained tokens (column `num_trained`), so it depends on how batches are made. `"paper"` ranks
            by `influence`. `"token"` is for batches of about equal tokens (packing, token budgets): `influence` with
            a budget in tokens, `influence` × n with one in rows. `"row"` is for batches of equal rows (TRL's
            default): n·(`influence` − λ), λ being the mean influence a token of the rows that are reached this way,
            before duplicates are left out. The quadrants' threshold is one of the same values.
        difficulty_percentile (`float`, *optional*, defaults to `50`):
            See [`QuadrantRule.fit`], instead of `rule`; like the next two.
        max_difficulty_percentile (`float`, *optional*):
            90 leaves out the most difficult tenth.
        influence_percentile (`float`, *optional*, defaults to `50`):
            Of what `per` ranks by.
        max_mismatch (`float`, *optional*, defaults to `"auto"`):
            Rows with a larger `mismatch` are passed over: their answers seem to belong to other prompts. A row whose
            mismatch is not known is not. `"auto"` is 0.2 where the column is there; `None` passes over none.
        max_similarity (`float`, *optional*, defaults to `"auto"`):
            Of rows whose texts are this similar, and whose answers are, the one that comes first is taken:
            Jaccard index of runs of four words. Rows that are equal but for case and white space count as duplicates
            always; 1 leaves it at that, `None` compares no texts. `"auto"` is 0.7 where the dataset has texts.
        text_columns (`Sequence[str]`, *optional*):
            Columns that make up a row's text, the last of them its answer; by default those of a row format.
        balance (`str` or `dict`, *optional*):
            A fair share by a column: `"source"` gives each of its values the same share of the budget (what a small
            one leaves over goes to the others), `{"source": {"medquad": 0.3}}` some of them shares of their own (the
            others have the rest together).
        order (`str`, *optional*, defaults to `"auto"`):
            Who comes first inside a quadrant: the larger `"influence"`, as in the paper; a draw by `seed`, `"random"`;
            or by `"alignment"` the validation rows in turn, each naming the row whose gradient is nearest to its own.
            The largest influences are those of short rows, and trained on they did not beat rows drawn from the whole
            pool; the other two did (README). `"auto"` is `"alignment"` where the column is there and `"random"` where
            it is not, and `"influence"` with `per="row"`.
        return_pool (`bool`, *optional*, defaults to `False`):
            Whether to return all rows as well.

    Returns:
        [`~datasets.Dataset`]: The selected rows, the first choice first, with `quadrant` and `diq_rank` where the
        dataset has both scores. Rows without them are passed over then, by every strategy. With `return_pool`, the
        subset and the pool, which says of each row in `diq_reason` why it was not selected, and in `diq_duplicate_of`
        which selected row it repeats.

    Raises:
        `ValueError`: The budget is out of range or above what can be taken, or a column is missing or holds no
            numbers.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> scored = Dataset.from_dict({"difficulty": [1.0, 5.0, 4.0, 2.0], "influence": [0.9, 0.1, 0.8, 0.2]})
    >>> select_subset(scored, ratio=0.5)["diq_rank"][:]
    [1, 2]

    ```
    """
    if not hasattr(scored, "select"):
        raise TypeError(
            f"Rows of a {type(scored).__name__} cannot be picked by position. Pass one map-style split, for instance "
            "`Dataset.from_generator(lambda: iter(stream))`, or filter the stream with a `QuadrantRule`."
        )
    if rule is not None and (difficulty_percentile, influence_percentile, max_difficulty_percentile) != (50, 50, None):
        raise ValueError("Pass percentiles to `QuadrantRule.fit`, or without a `rule`: a rule has its thresholds.")
    settings = settings_for(
        scored,
        ratio=ratio,
        num_rows=num_rows,
        strategy=strategy,
        seed=seed,
        num_tokens=num_tokens,
        per=per,
        difficulty_percentile=difficulty_percentile,
        max_difficulty_percentile=max_difficulty_percentile,
        influence_percentile=influence_percentile,
        max_mismatch=max_mismatch,
        max_similarity=max_similarity,
        text_columns=text_columns,
        balance=balance,
        order=order,
    )
    selection = select_rows(scored, settings, rule)
    subset = selection.subset(scored)
    return (subset, selection.pool(scored)) if return_pool else subset


def select_rows(
    scored: Any,
    settings: SelectionSettings,
    rule: QuadrantRule | None = None,
    known_copies: np.ndarray | None = None,
    may_be_short: bool = False,
    read: Callable[[np.ndarray], list[tuple[str, str]]] | None = None,
) -> Selection:
    """As [`select_subset`], by settings in which nothing is `"auto"`.

    Args:
        scored ([`~datasets.Dataset`]):
            Rows with their scores.
        settings ([`SelectionSettings`]):
            How to select.
        rule ([`QuadrantRule`], *optional*):
            See [`select_subset`].
        known_copies (`np.ndarray`, *optional*):
            For each row the row that it repeats, -1 for none, where texts are not at hand.
        may_be_short (`bool`, *optional*, defaults to `False`):
            Take what there is where the budget cannot be met.
        read (`Callable`, *optional*):
            Prompts and answers of some rows, where `scored` has none.
    """
    check_settings(settings)
    ranking = rank_rows(scored, settings, rule)
    reasons = np.full(len(scored), UNSCORED)
    reasons[ranking.order] = BEYOND
    if ranking.too_difficult is not None:
        reasons[ranking.too_difficult] = TOO_DIFFICULT
    if ranking.mismatch is not None:
        reasons[(reasons == BEYOND) & (ranking.mismatch > settings.max_mismatch)] = MISMATCH
    order = ranking.order[reasons[ranking.order] == BEYOND]
    copies = None
    if settings.max_similarity is not None:
        if known_copies is not None:
            copies = KnownCopies(known_copies)
        else:
            read = RowTexts(scored, settings.text_columns) if read is None else read
            copies = Copies(read, order, settings.max_similarity)
    in_tokens = settings.num_tokens is not None
    budget = settings.num_tokens if in_tokens else row_budget(len(scored), settings.ratio, settings.num_rows)
    quotas = None
    for column, shares in (settings.balance or {}).items():
        quotas = Quotas(*column_sources(scored, column), shares, budget)
    costs = ranking.num_trained.tolist() if in_tokens else [1] * len(scored)
    filling = Filling(budget, costs, quotas, copies, reasons)
    filling.take(order)
    selection = Selection(np.array(filling.taken, dtype=np.int64), reasons, filling.duplicate_of, ranking, settings)
    if not may_be_short and not filling.done(whole=not in_tokens):
        raise ValueError(_shortfall(selection, filling, in_tokens))
    return selection


def _shortfall(selection: Selection, filling: "Filling", in_tokens: bool) -> str:
    unit = "trained tokens" if in_tokens else "rows"
    others = {reason: count for reason, count in selection.counts.items() if reason not in REASONS[:2]}
    passed_over = ", ".join(f"{count} {reason}" for reason, count in others.items()) or "none"
    if in_tokens and not filling.taken and filling.met:
        return f"`num_tokens={filling.budget}` is less than the first row alone has. Raise it."
    asked = f"{filling.budget} {unit} are asked for but only {filling.budget - filling.left:g} "
    asked += f"in the {len(filling.taken)} rows that" if in_tokens else f"of {len(selection.reasons)}"
    unmet = filling.quotas.unmet() if filling.quotas is not None and not filling.quotas.equal else {}
    short = f" Short of its share of `balance`: {', '.join(f'{name} by {left:g}' for name, left in unmet.items())}."
    return (
        f"{asked} can be taken; passed over: {passed_over}.{short if unmet else ''} Lower the budget, score the rest, "
        "or allow more (`max_mismatch`, `max_similarity`, `balance`)."
    )


class Filling:
    """A budget that is being filled.

    Args:
        budget (`int`):
            Rows or tokens.
        costs (`list`):
            What each row takes of it.
        quotas ([`~diq_hf.selection.quotas.Quotas`], *optional*):
            What may be taken of each source.
        copies ([`Copies`] or [`KnownCopies`], *optional*):
            Which rows repeat one that was taken.
        reasons (`np.ndarray`):
            What became of each row, written here.
    """

    def __init__(
        self, budget: int, costs: list, quotas: Quotas | None, copies: Copies | KnownCopies | None, reasons: np.ndarray
    ):
        self.budget, self.costs, self.quotas, self.copies, self.reasons = budget, costs, quotas, copies, reasons
        self.duplicate_of = np.full(len(reasons), -1)
        self.taken: list[int] = []
        self.left = budget
        self.met = False  # a row was met that did not fit any more

    def done(self, whole: bool) -> bool:
        """Whether the budget is met: to the last unit, or, unless `whole`, so far that the next row did not fit."""
        if not self.left:
            return True
        short = self.quotas is not None and not self.quotas.equal and self.quotas.unmet()
        return not whole and self.met and bool(self.taken) and not short

    def take(self, order: np.ndarray) -> None:
        """Takes rows in their order, until the budget is met or there are no more."""
        while len(order):
            before = len(self.taken)
            for start in range(0, len(order), BLOCK):
                if not self._take_block(order[start : start + BLOCK]):
                    return
            # What small sources leave over is shared out again, among rows that were turned away.
            turned = order[self.reasons[order] == QUOTA]
            if self.quotas is None or not self.quotas.equal or not len(turned) or len(self.taken) == before:
                return
            self.reasons[turned] = BEYOND
            self.quotas.reopen(turned, self.left)
            order = turned

    def _take_block(self, rows: np.ndarray) -> bool:
        """Whether to go on."""
        if self.quotas is not None:
            is_open = self.quotas.open(rows)
            self.reasons[rows[~is_open]] = QUOTA
            rows = rows[is_open]
        if self.copies is not None and len(rows):
            self.copies.prepare(rows)
        for row in rows.tolist():
            cost = self.costs[row]
            if self.quotas is not None and not self.quotas.admits(row, cost):
                self.reasons[row] = QUOTA
                self.met = True
            elif self.copies is not None and (other := self.copies.of(row)) is not None:
                self.reasons[row], self.duplicate_of[row] = DUPLICATE, other
            elif cost > self.left:
                self.met = True
                return False
            else:
                self._take_row(row, cost)
                if not self.left:
                    return False
        return True

    def _take_row(self, row: int, cost: float) -> None:
        self.reasons[row] = SELECTED
        self.taken.append(row)
        self.left -= cost
        if self.copies is not None:
            self.copies.take(row)
        if self.quotas is not None:
            self.quotas.take(row, cost)
