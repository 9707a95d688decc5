"""The quadrant rule: from two scores a row to the rows worth training on. Numbers only; nothing here needs a model.

Q1 high difficulty, high influence; Q2 low difficulty, high influence; Q3 high difficulty, low influence; Q4 low, low
(https://huggingface.co/papers/2508.01450). High means at least the threshold. A row whose scores are missing or not
finite has no quadrant and is never selected.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


QUADRANTS = ("Q1", "Q2", "Q3", "Q4")
STRATEGIES = ("diq", "random", "influence", "difficulty", "loss", "length")
# The column a strategy ranks by, beside the two scores, and how a scorer is asked for it.
STRATEGY_COLUMNS = {"loss": "loss", "length": "num_tokens"}


@dataclass(frozen=True)
class QuadrantRule:
    """The two thresholds, and which quadrants `ds.filter(rule)` keeps.

    Args:
        difficulty_threshold (`float`):
            A difficulty at or above it is high.
        influence_threshold (`float`):
            An influence at or above it is high.
        keep (`tuple[str, ...]`, *optional*, defaults to `("Q1",)`):
            Quadrants that the rule is true for.
        difficulty_column (`str`, *optional*, defaults to `"difficulty"`):
            Column of the difficulty.
        influence_column (`str`, *optional*, defaults to `"influence"`):
            Column of the influence.

    Example:

    ```python
    >>> rule = QuadrantRule(difficulty_threshold=3.0, influence_threshold=0.5)
    >>> rule.quadrants([4.0, 1.0, 4.0, 1.0, None], [0.5, 0.9, 0.1, 0.1, 0.9])
    ['Q1', 'Q2', 'Q3', 'Q4', None]
    >>> rule({"difficulty": 4.0, "influence": 0.5})
    True

    ```
    """

    difficulty_threshold: float
    influence_threshold: float
    keep: tuple[str, ...] = ("Q1",)
    difficulty_column: str = "difficulty"
    influence_column: str = "influence"

    def __post_init__(self):
        object.__setattr__(self, "keep", (self.keep,) if isinstance(self.keep, str) else tuple(self.keep))
        if unknown := [name for name in self.keep if name not in QUADRANTS]:
            raise ValueError(f"`keep` has {unknown}; quadrants are {list(QUADRANTS)}.")

    @classmethod
    def fit(
        cls,
        scored: Any,
        difficulty_percentile: float = 50,
        influence_percentile: float = 50,
        keep: str | Sequence[str] = ("Q1",),
        difficulty_column: str = "difficulty",
        influence_column: str = "influence",
    ) -> "QuadrantRule":
        """Takes the thresholds from a scored dataset: percentiles, linearly interpolated, over the rows that have both
        scores.

        Args:
            scored ([`~datasets.Dataset`]):
                A dataset with both score columns.
            difficulty_percentile (`float`, *optional*, defaults to `50`):
                The difficulty threshold's percentile, in [0, 100].
            influence_percentile (`float`, *optional*, defaults to `50`):
                The influence threshold's percentile; 50, the median, is the paper's.
            keep (`Sequence[str]`, *optional*, defaults to `("Q1",)`):
                As in the class.
            difficulty_column (`str`, *optional*, defaults to `"difficulty"`):
                As in the class.
            influence_column (`str`, *optional*, defaults to `"influence"`):
                As in the class.

        Raises:
            `ValueError`: A column is missing, no row has both scores, or a percentile is out of range.
        """
        for name, value in (("difficulty", difficulty_percentile), ("influence", influence_percentile)):
            if not 0 <= value <= 100:
                raise ValueError(f"`{name}_percentile` must be between 0 and 100, got {value}.")
        columns = score_columns(scored, (difficulty_column, influence_column))
        difficulty, influence = columns[difficulty_column], columns[influence_column]
        scored_rows = np.isfinite(difficulty) & np.isfinite(influence)
        if not scored_rows.any():
            raise ValueError(
                f"None of the {len(difficulty)} rows has finite values in both {difficulty_column!r} and "
                f"{influence_column!r}. Score the dataset first."
            )
        return cls(
            float(np.percentile(difficulty[scored_rows], difficulty_percentile)),
            float(np.percentile(influence[scored_rows], influence_percentile)),
            keep,
            difficulty_column,
            influence_column,
        )

    def __call__(self, *examples: Any) -> Any:
        """True for the rows to keep: `ds.filter(rule)`, `ds.filter(rule, batched=True)`, or with
        `input_columns=["difficulty", "influence"]`, which reads no other column.
        """
        if len(examples) == 1 and isinstance(examples[0], Mapping):
            missing = [name for name in (self.difficulty_column, self.influence_column) if name not in examples[0]]
            if missing:
                raise ValueError(f"The dataset has no column {missing}. Score it first: `ds.map(DIQScorer(...))`.")
            difficulty, influence = examples[0][self.difficulty_column], examples[0][self.influence_column]
        elif len(examples) == 2:
            difficulty, influence = examples
        else:
            raise TypeError(
                "A rule takes a row, a batch, or the two score columns: "
                f"`input_columns=[{self.difficulty_column!r}, {self.influence_column!r}]`."
            )
        if np.ndim(difficulty) == 0:
            return self.quadrants([difficulty], [influence])[0] in self.keep
        return [name in self.keep for name in self.quadrants(difficulty, influence)]

    def codes(self, difficulty: Sequence[float | None], influence: Sequence[float | None]) -> np.ndarray:
        """Quadrants as integers: 0 for Q1 to 3 for Q4, and -1 for a row without both scores."""
        difficulty, influence = _floats(difficulty), _floats(influence)
        easy, weak = difficulty < self.difficulty_threshold, influence < self.influence_threshold
        return np.where(np.isfinite(difficulty) & np.isfinite(influence), easy + 2 * weak, -1)

    def quadrants(self, difficulty: Sequence[float | None], influence: Sequence[float | None]) -> list[str | None]:
        """Quadrant names, and `None` for a row without both scores."""
        return [None if code < 0 else QUADRANTS[code] for code in self.codes(difficulty, influence)]

    def order(self, difficulty: Sequence[float | None], influence: Sequence[float | None]) -> np.ndarray:
        """Positions of the rows with both scores, the first to be selected first.

        Quadrants Q1 to Q4; within one the larger influence first, then the larger difficulty, then the earlier row.
        """
        codes = self.codes(difficulty, influence)
        order = np.lexsort((-_floats(difficulty), -_floats(influence), codes))  # stable, so ties keep row order
        return order[codes[order] >= 0]

    def annotate(self, scored: Any) -> Any:
        """Adds `quadrant` (`ClassLabel` Q1 to Q4) and `diq_rank` (1 is selected first), null without both scores.

        Args:
            scored ([`~datasets.Dataset`]):
                A dataset with both score columns.
        """
        columns = score_columns(scored, (self.difficulty_column, self.influence_column))
        scores = columns[self.difficulty_column], columns[self.influence_column]
        ranks: list[int | None] = [None] * len(scored)
        for rank, row in enumerate(self.order(*scores), start=1):
            ranks[row] = rank
        codes = [None if code < 0 else int(code) for code in self.codes(*scores)]
        return _add_columns(scored, codes, ranks)


def select_subset(
    scored: Any,
    ratio: float | None = None,
    num_rows: int | None = None,
    strategy: str = "diq",
    rule: QuadrantRule | None = None,
    seed: int = 0,
) -> Any:
    """Picks the rows worth training on: Q1, then Q2, Q3 and Q4, until the budget is met.

    Args:
        scored ([`~datasets.Dataset`]):
            A dataset with `difficulty` and `influence` columns; a comparison needs its own column only.
        ratio (`float`, *optional*):
            Share of all rows, in (0, 1]: `max(1, floor(ratio * N + 0.5))` rows.
        num_rows (`int`, *optional*):
            Number of rows, instead of `ratio`.
        strategy (`str`, *optional*, defaults to `"diq"`):
            `"diq"`, or for comparison at the same budget `"random"`, `"influence"`, `"difficulty"`, `"loss"`,
            `"length"`: the largest values first.
        rule ([`QuadrantRule`], *optional*):
            Thresholds and column names; fitted on `scored` by default.
        seed (`int`, *optional*, defaults to `0`):
            For `"random"`.

    Returns:
        [`~datasets.Dataset`]: The selected rows, the first choice first, with `quadrant` and `diq_rank` where the
        dataset has both scores. Rows without them are passed over then, by every strategy.

    Raises:
        `ValueError`: The budget is out of range or above the number of rows that have scores, or a column is missing.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> scored = Dataset.from_dict({"difficulty": [1.0, 5.0, 4.0, 2.0], "influence": [0.9, 0.1, 0.8, 0.2]})
    >>> select_subset(scored, ratio=0.5)["diq_rank"][:]
    [1, 2]

    ```
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"`strategy` is {strategy!r}; choose from {list(STRATEGIES)}.")
    if not hasattr(scored, "select"):
        raise TypeError(
            f"Rows of a {type(scored).__name__} cannot be picked by position. Pass one map-style split, for instance "
            "`Dataset.from_generator(lambda: iter(stream))`, or filter the stream with a `QuadrantRule`."
        )
    names = (rule.difficulty_column, rule.influence_column) if rule else ("difficulty", "influence")
    has_both = set(names) <= set(scored.column_names)
    key = STRATEGY_COLUMNS.get(strategy) or {"influence": names[1], "difficulty": names[0]}.get(strategy)
    if strategy == "diq" or has_both:
        rule = rule or QuadrantRule.fit(scored)
        columns = score_columns(scored, names)
        order = rule.order(*columns.values())
    else:
        order = np.arange(len(scored))
    if strategy == "random":
        # Drawn in row order, so that the draw does not depend on the scores.
        order = np.random.default_rng(seed).permutation(np.sort(order))
    elif strategy != "diq":
        values = score_columns(scored, [key])[key]
        order = np.sort(order)
        order = order[np.isfinite(values[order])]
        order = order[np.argsort(-values[order], kind="stable")]
    budget = row_budget(len(scored), ratio, num_rows)
    if budget > len(order):
        raise ValueError(
            f"{budget} rows are asked for but only {len(order)} of {len(scored)} have finite scores. Lower `ratio` or "
            "`num_rows`, or score the rest."
        )
    return (rule.annotate(scored) if has_both else scored).select(order[:budget])


def row_budget(size: int, ratio: float | None, num_rows: int | None) -> int:
    """Rows to select out of `size`: see [`select_subset`]."""
    if (ratio is None) == (num_rows is None):
        raise ValueError("Pass exactly one of `ratio` and `num_rows`.")
    if num_rows is not None:
        if isinstance(num_rows, bool) or num_rows != int(num_rows) or num_rows < 1:
            raise ValueError(f"`num_rows` must be a whole number of at least 1, got {num_rows!r}.")
        return int(num_rows)
    if not 0 < ratio <= 1:
        raise ValueError(f"`ratio` must be in (0, 1], got {ratio!r}.")
    return max(1, math.floor(ratio * size + 0.5))


def score_columns(scored: Any, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Columns of a dataset as float64, with NaN for null."""
    present = getattr(scored, "column_names", None)
    if isinstance(present, Mapping):
        raise TypeError(f"Pass one split, not all of {sorted(present)}: `scored['train']`.")
    if present is not None and (missing := [name for name in names if name not in present]):
        raise ValueError(
            f"The dataset has no column {missing}; it has {sorted(present)}. Score it first: "
            "`ds.map(DIQScorer(model, validation, extra_columns=('loss', 'num_tokens')))`."
        )
    names = list(dict.fromkeys(names))
    if hasattr(scored, "__len__"):
        scored = scored.with_format(None)
        return {name: _floats(scored[name][:]) for name in names}
    # A stream is read once for all columns: each reading may compute the scores anew.
    rows = list(scored.select_columns(names))
    return {name: _floats([row[name] for row in rows]) for name in names}


def _floats(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _add_columns(scored: Any, codes: list[int | None], ranks: list[int | None]) -> Any:
    from datasets import ClassLabel, Value

    ours = ClassLabel(names=list(QUADRANTS))
    names = [name for name in ("quadrant", "diq_rank") if name in scored.column_names]
    if names and scored.features.get("quadrant") != ours:
        raise ValueError(f"The dataset has columns {names} of its own. Rename or remove them.")
    scored = scored.remove_columns(names) if names else scored
    scored = scored.add_column("quadrant", codes, feature=ours)
    return scored.add_column("diq_rank", ranks, feature=Value("int32"))
