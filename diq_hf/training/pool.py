"""What is known of a pool's rows while a trainer learns from them, and which rows follow from it. Numbers only."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset, Value

from ..columns import class_label_numbers, label_values
from ..difficulty.sources import DifficultySource, difficulty_source
from ..recipe import SelectionSettings
from ..selection.quadrants import QuadrantRule
from ..selection.scores import score_columns
from ..selection.select import select_rows
from ..selection.settings import STRATEGY_COLUMNS
from .passing import PassedOver


# Of the candidates beside the present selection, one in so many is drawn from the rows that are not among the best.
RANDOM_SHARE = 4
SCORES = ("difficulty", "influence", "loss")


@dataclass(frozen=True)
class Choice:
    """A selection, and what it was made from.

    Args:
        rows (`np.ndarray`):
            The rows that could be selected.
        chosen (`np.ndarray`):
            For each of them, whether it was.
        quadrants (`np.ndarray`):
            For each of them, 0 for Q1 to 3 for Q4, or -1 without both scores.
        rule ([`QuadrantRule`], *optional*):
            The thresholds, where there are both scores.
    """

    rows: np.ndarray
    chosen: np.ndarray
    quadrants: np.ndarray
    rule: QuadrantRule | None

    @property
    def selection(self) -> np.ndarray:
        """The selected rows, in the pool's order."""
        return np.sort(self.rows[self.chosen])


class Pool:
    """The last known scores of every row.

    Args:
        num_tokens (`np.ndarray`):
            Tokens of each row.
        num_selected (`int`):
            Rows to select.
        strategy (`str`, *optional*, defaults to `"diq"`):
            See [`select_subset`].
        difficulty_percentile (`float`, *optional*, defaults to `50`):
            See [`QuadrantRule.fit`].
        seed (`int`, *optional*, defaults to `0`):
            Seed of random candidates and of the strategy `"random"`.

    `passed_over` says which rows are not selected whatever their scores.
    """

    def __init__(
        self,
        num_tokens: np.ndarray,
        num_selected: int,
        strategy: str = "diq",
        difficulty_percentile: float = 50,
        seed: int = 0,
    ):
        self.num_tokens, self.num_selected = num_tokens, num_selected
        self.strategy, self.difficulty_percentile, self.seed = strategy, difficulty_percentile, seed
        # float32, as columns of scores are, so that a resumed run has the same numbers.
        self.scores = {name: np.full(len(num_tokens), np.nan, dtype=np.float32) for name in SCORES}
        self.passed_over = PassedOver(np.zeros(len(num_tokens), dtype=bool))
        self.selection: np.ndarray | None = None
        self.draws = 0

    def update(self, rows: np.ndarray, found: dict[str, np.ndarray]) -> None:
        """Takes new scores of some rows."""
        for name, values in found.items():
            self.scores[name][rows] = values

    def choose(self, rows: np.ndarray | None = None, weights: np.ndarray | None = None) -> Choice:
        """Selects among some rows, all by default.

        Args:
            rows (`np.ndarray`, *optional*):
                Rows that may be selected.
            weights (`np.ndarray`, *optional*):
                How many rows of the pool each stands for, where they are no fair sample of it: the influence's
                threshold remains the pool's median, as far as they tell.

        Raises:
            `ValueError`: No row has the scores that the strategy needs.
        """
        rows = np.arange(len(self.num_tokens)) if rows is None else rows
        columns = {name: values[rows] for name, values in self.scores.items()}
        columns = {name: values for name, values in columns.items() if np.isfinite(values).any()}
        usable = np.ones(len(rows), dtype=bool)
        rule, quadrants = None, np.full(len(rows), -1)
        if {"difficulty", "influence"} <= set(columns):
            scored = Dataset.from_dict(columns)
            usable = np.isfinite(columns["difficulty"]) & np.isfinite(columns["influence"])
            rule = self._rule(scored, columns, usable, weights)
            quadrants = rule.codes(columns["difficulty"], columns["influence"])
        elif self.strategy in SCORES:
            usable = np.isfinite(self.scores[self.strategy][rows])
        # A row that is passed over counts for the thresholds like any other.
        out, read = self.passed_over.rows[rows], self.passed_over.read
        columns |= {STRATEGY_COLUMNS["length"]: self.num_tokens[rows], "mismatch": out.astype(float)}
        settings = SelectionSettings(
            num_rows=max(1, min(self.num_selected, int((usable & ~out).sum()))),
            strategy=self.strategy,
            seed=self.seed + self.draws,
            max_mismatch=0.5,
            max_similarity=None if read is None else self.passed_over.max_similarity,
        )
        texts = None if read is None else lambda some: read(rows[some])
        chosen = select_rows(Dataset.from_dict(columns), settings, rule, may_be_short=True, read=texts).rows
        if not len(chosen):
            raise ValueError(
                "No row can be trained: all are without scores, or passed over. Allow more: "
                "`DIQCallback(max_mismatch=None, max_similarity=None)`."
            )
        self.draws += 1
        return Choice(rows, np.isin(np.arange(len(rows)), chosen), quadrants, rule)

    def candidates(self, most_rows: int, most_tokens: float) -> tuple[np.ndarray, np.ndarray]:
        """Rows worth scoring again: the selection, the best of the others by their last scores, and some at random.

        Args:
            most_rows (`int`):
                So many rows at most.
            most_tokens (`float`):
                So many tokens at most.

        Returns:
            `tuple[np.ndarray, np.ndarray]`: the rows, and how many rows of the pool each stands for.
        """
        ranked = self._ranking()
        ranked = ranked[~self.passed_over.rows[ranked]]
        others = ranked[~np.isin(ranked, self.selection)]
        extra = min(len(others), max(0, most_rows - len(self.selection)))
        drawn = extra // RANDOM_SHARE
        best, rest = others[: extra - drawn], others[extra - drawn :]
        rng = np.random.default_rng([self.seed, self.draws])
        lucky = rng.choice(rest, size=drawn, replace=False) if drawn else rest[:0]
        # Mixed, so that the cut at the budget leaves some of both.
        order = np.argsort(
            np.concatenate([np.arange(len(best)) * max(1, drawn), np.arange(drawn) * max(1, len(best))]), kind="stable"
        )
        rows = np.concatenate([self.selection, np.concatenate([best, lucky])[order]])
        rows = rows[: np.searchsorted(np.cumsum(self.num_tokens[rows]), most_tokens, side="right")]
        weights = np.ones(len(rows))
        by_luck = np.isin(rows, lucky)
        if by_luck.any():
            weights[by_luck] = (len(ranked) - len(rows) + by_luck.sum()) / by_luck.sum()
        return rows, weights

    def _ranking(self) -> np.ndarray:
        """Rows that can be selected, the best by their last scores first."""
        finite = np.isfinite(self.scores["influence"])
        if self.strategy == "loss":
            key = self.scores["loss"]
        elif self.strategy == "influence" or not np.isfinite(self.scores["difficulty"]).any():
            key = self.scores["influence"]
        else:
            scored = Dataset.from_dict({name: self.scores[name] for name in ("difficulty", "influence")})
            rule = QuadrantRule.fit(scored, difficulty_percentile=self.difficulty_percentile)
            return rule.order(self.scores["difficulty"], self.scores["influence"])
        order = np.argsort(-key, kind="stable")
        return order[np.isfinite(key[order]) & finite[order]]

    def _rule(
        self, scored: Dataset, columns: dict[str, np.ndarray], usable: np.ndarray, weights: np.ndarray | None
    ) -> QuadrantRule:
        if weights is None:
            return QuadrantRule.fit(scored, difficulty_percentile=self.difficulty_percentile)
        difficulty = self.scores["difficulty"]
        influence = np.quantile(
            columns["influence"][usable].astype(float), 0.5, weights=weights[usable], method="inverted_cdf"
        )
        return QuadrantRule(
            float(np.percentile(difficulty[np.isfinite(difficulty)].astype(float), self.difficulty_percentile)),
            float(influence),
        )


def read_scores(
    dataset: Any, difficulty: str | DifficultySource | None
) -> tuple[dict[str, np.ndarray], DifficultySource | None]:
    """Scores that a trainer's rows come with, and where their difficulty comes from if they have none.

    Args:
        dataset ([`~datasets.Dataset`] or any other):
            The trainer's `train_dataset`.
        difficulty (`str` or [`~diq_hf.difficulty.sources.DifficultySource`], *optional*):
            See [`~diq_hf.DIQCallback`].

    Raises:
        `ValueError`: A column of that name holds no numbers.
    """
    names = dataset.column_names if isinstance(dataset, Dataset) else []
    columns = {name: name for name in SCORES if name in names}
    if difficulty is not None:
        columns.pop("difficulty", None)
        if isinstance(difficulty, str) and difficulty.startswith("column:"):
            columns["difficulty"] = difficulty.removeprefix("column:")
    scores = {}
    for score, column in columns.items():
        if column not in names:
            raise ValueError(f"The training set has no column {column!r}; it has {sorted(names)}.")
        feature = dataset.features[column]
        if (numbers := class_label_numbers(feature, column)) is not None:
            values = label_values(dataset.with_format(None)[column][:], numbers)
            scores[score] = np.array(values, dtype=np.float64)  # with NaN for None
        elif isinstance(feature, Value) and feature.dtype.startswith(("float", "int", "uint", "bool")):
            scores[score] = score_columns(dataset, [column])[column]
        else:
            other = "" if score != "difficulty" else ", or name another difficulty: `DIQCallback(difficulty='ifd')`"
            raise ValueError(
                f"The training set's column {column!r} holds no numbers but {feature}, and would be taken as {score}. "
                f"Rename it{other}."
            )
    source = None
    if "difficulty" not in columns:
        source = difficulty_source("ifd" if difficulty is None else difficulty)
    return scores, source
