"""The quadrant rule: from two scores a row to the rows worth training on. Numbers only; nothing here needs a model.

Q1 high difficulty, high influence; Q2 low difficulty, high influence; Q3 high difficulty, low influence; Q4 low, low
(https://huggingface.co/papers/2508.01450). High means at least the threshold. A row whose scores are missing or not
finite has no quadrant and is never selected.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..columns import class_label_numbers, label_values
from .scores import floats, score_columns


QUADRANTS = ("Q1", "Q2", "Q3", "Q4")
# What becomes of a row.
REASONS = ("selected", "beyond the budget", "duplicate", "mismatch", "quota", "too difficult", "unscored")


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
        max_difficulty_threshold (`float`, *optional*):
            A row with a difficulty above it keeps its quadrant, and is neither kept nor selected.
        class_numbers (`tuple`, *optional*):
            Of columns that are a ClassLabel the numbers that class ids stand for, as [`~QuadrantRule.fit`] finds them.

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
    max_difficulty_threshold: float | None = None
    class_numbers: tuple[tuple[str, tuple[float, ...]], ...] = ()

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
        max_difficulty_percentile: float | None = None,
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
            max_difficulty_percentile (`float`, *optional*):
                Rows above this percentile of the difficulty are too difficult to be selected: 90 is hard, but not the
                last tenth.

        Raises:
            `ValueError`: A column is missing or holds no numbers, no row has both scores, or a percentile is out of
                range.
        """
        columns = score_columns(scored, (difficulty_column, influence_column))
        features = getattr(scored, "features", None) or {}
        numbers = {name: class_label_numbers(features.get(name), name) for name in columns}
        return cls.of(
            columns[difficulty_column],
            columns[influence_column],
            difficulty_percentile,
            influence_percentile,
            max_difficulty_percentile,
            keep=keep,
            difficulty_column=difficulty_column,
            influence_column=influence_column,
            class_numbers=tuple((name, tuple(map(float, of))) for name, of in numbers.items() if of is not None),
        )

    @classmethod
    def of(
        cls,
        difficulty: np.ndarray,
        influence: np.ndarray,
        difficulty_percentile: float = 50,
        influence_percentile: float = 50,
        max_difficulty_percentile: float | None = None,
        **options: Any,
    ) -> "QuadrantRule":
        """As [`~QuadrantRule.fit`], from the numbers themselves; `options` are those of the class."""
        percentiles = {
            "difficulty_percentile": difficulty_percentile,
            "influence_percentile": influence_percentile,
            "max_difficulty_percentile": max_difficulty_percentile,
        }
        for name, value in percentiles.items():
            if value is not None and not 0 <= value <= 100:
                raise ValueError(f"`{name}` must be between 0 and 100, got {value}.")
        if max_difficulty_percentile is not None and max_difficulty_percentile < difficulty_percentile:
            raise ValueError(
                f"`max_difficulty_percentile={max_difficulty_percentile}` is below `difficulty_percentile="
                f"{difficulty_percentile}`, so no row would be difficult and yet not too difficult."
            )
        scored_rows = np.isfinite(difficulty) & np.isfinite(influence)
        if not scored_rows.any():
            names = [options.get(f"{name}_column", name) for name in ("difficulty", "influence")]
            raise ValueError(
                f"None of the {len(difficulty)} rows has finite values in both {names[0]!r} and {names[1]!r}. Score "
                "the dataset first."
            )
        low, high = difficulty_percentile, max_difficulty_percentile
        return cls(
            float(np.percentile(difficulty[scored_rows], low)),
            float(np.percentile(influence[scored_rows], influence_percentile)),
            max_difficulty_threshold=None if high is None else float(np.percentile(difficulty[scored_rows], high)),
            **options,
        )

    def __call__(self, *examples: Any) -> Any:
        """True for the rows to keep: `ds.filter(rule)`, `ds.filter(rule, batched=True)`, or with
        `input_columns=["difficulty", "influence"]`, which reads no other column.
        """
        names = self.difficulty_column, self.influence_column
        if len(examples) == 1 and isinstance(examples[0], Mapping):
            if missing := [name for name in names if name not in examples[0]]:
                raise ValueError(f"The dataset has no column {missing}. Score it first: `ds.map(DIQScorer(...))`.")
            examples = tuple(examples[0][name] for name in names)
        elif len(examples) != 2:
            raise TypeError(f"A rule takes a row, a batch, or the two score columns: `input_columns={list(names)}`.")
        numbers = dict(self.class_numbers)
        one = np.ndim(examples[0]) == 0
        difficulty, influence = (
            floats(label_values(values, numbers[name]) if name in numbers else values, name)
            for name, values in zip(names, ([value] if one else value for value in examples), strict=True)
        )
        codes = self.codes(difficulty, influence)
        kept = np.isin(codes, [QUADRANTS.index(name) for name in self.keep]) & ~self.too_difficult(difficulty)
        return bool(kept[0]) if one else kept.tolist()

    def codes(self, difficulty: Sequence[float | None], influence: Sequence[float | None]) -> np.ndarray:
        """Quadrants as integers: 0 for Q1 to 3 for Q4, and -1 for a row without both scores."""
        difficulty, influence = floats(difficulty, self.difficulty_column), floats(influence, self.influence_column)
        easy, weak = difficulty < self.difficulty_threshold, influence < self.influence_threshold
        return np.where(np.isfinite(difficulty) & np.isfinite(influence), easy + 2 * weak, -1)

    def too_difficult(self, difficulty: Sequence[float | None]) -> np.ndarray:
        """Whether each difficulty is above `max_difficulty_threshold`."""
        difficulty = floats(difficulty, self.difficulty_column)
        if self.max_difficulty_threshold is None:
            return np.zeros(len(difficulty), dtype=bool)
        return np.isfinite(difficulty) & (difficulty > self.max_difficulty_threshold)

    def quadrants(self, difficulty: Sequence[float | None], influence: Sequence[float | None]) -> list[str | None]:
        """Quadrant names, and `None` for a row without both scores."""
        return [None if code < 0 else QUADRANTS[code] for code in self.codes(difficulty, influence)]

    def order(self, difficulty: Sequence[float | None], influence: Sequence[float | None]) -> np.ndarray:
        """Positions of the rows that may be selected, in the paper's order.

        Quadrants Q1 to Q4; within one the larger influence first, then the larger difficulty, then the earlier row.
        Rows without both scores, and too difficult ones, are left out.
        """
        difficulty, influence = floats(difficulty, self.difficulty_column), floats(influence, self.influence_column)
        codes = self.codes(difficulty, influence)
        order = np.lexsort((-difficulty, -influence, codes))  # stable, so ties keep row order
        return order[(codes[order] >= 0) & ~self.too_difficult(difficulty)[order]]

    def annotate(self, scored: Any) -> Any:
        """Adds `quadrant` (`ClassLabel` Q1 to Q4) and `diq_rank` (1 comes first in the paper's order), null for rows
        without both scores; a row that is too difficult has a quadrant and no rank.

        Args:
            scored ([`~datasets.Dataset`]):
                A dataset with both score columns.
        """
        columns = score_columns(scored, (self.difficulty_column, self.influence_column))
        scores = columns[self.difficulty_column], columns[self.influence_column]
        return add_columns(scored, quadrant=self.codes(*scores), diq_rank=ranks(self.order(*scores), len(scored)))


def ranks(order: np.ndarray, size: int) -> np.ndarray:
    """Of each of `size` rows its place in an order, from 1; -1 for rows that are not in it."""
    found = np.full(size, -1)
    found[order] = np.arange(1, len(order) + 1)
    return found


def add_columns(rows: Any, **columns: np.ndarray) -> Any:
    """Adds columns of whole numbers that a selection writes, in place of those of an earlier one; below 0 is null.

    Raises:
        `ValueError`: The dataset has a column of such a name that is not a selection's.
    """
    from datasets import ClassLabel, Value

    features = {
        "quadrant": ClassLabel(names=list(QUADRANTS)),
        "diq_rank": Value("int32"),
        "diq_reason": ClassLabel(names=list(REASONS)),
        "diq_duplicate_of": Value("int64"),
    }
    present = [name for name in features if name in rows.column_names]
    if strange := [name for name in present if rows.features[name] != features[name]]:
        raise ValueError(f"The dataset has columns {strange} of its own. Rename or remove them.")
    rows = rows.remove_columns(present) if present else rows
    for name, values in columns.items():
        # A masked array is an array to `datasets` and has nulls for Arrow.
        rows = rows.add_column(name, np.ma.masked_array(values, mask=values < 0), feature=features[name])
    return rows
