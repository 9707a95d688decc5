"""What a training with chosen rows was asked for: the settings of [`~diq_hf.DIQCallback`], checked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from ..difficulty.sources import DifficultySource
from ..selection.budgets import row_budget
from ..selection.settings import STRATEGIES


# Of the pool, unless a number of rows is given.
RATIO = 0.1


@dataclass(frozen=True)
class Settings:
    """See [`~diq_hf.DIQCallback`], which has the same arguments."""

    ratio: float | None
    num_rows: int | None
    rescore_every: int | None
    rescore_unit: str
    candidates: float | None
    validation: list[Mapping] | None
    difficulty: str | DifficultySource | None
    strategy: str
    difficulty_percentile: float
    max_mismatch: float | str | None
    max_similarity: float | str | None
    warmup_ratio: float
    max_validation_rows: int | None
    budget: str
    report_only: bool
    online: bool
    target_modules: str | Sequence[str] | None
    log_selection: bool
    seed: int | None

    def __post_init__(self):
        for name, allowed in (
            ("rescore_unit", ("passes", "steps")),
            ("strategy", STRATEGIES),
            ("budget", ("subset", "pool")),
        ):
            if (value := getattr(self, name)) not in allowed:
                raise ValueError(f"`{name}` is {value!r}; choose from {list(allowed)}.")
        if self.rescore_every is not None and self.rescore_every < 1:
            raise ValueError(f"`rescore_every` must be at least 1 or None, got {self.rescore_every}.")
        if self.candidates is not None and self.candidates < 1.25:
            raise ValueError(f"`candidates` must be at least 1.25 times the selection or None, got {self.candidates}.")
        if self.max_validation_rows is not None and self.max_validation_rows < 1:
            raise ValueError(f"`max_validation_rows` must be at least 1 or None, got {self.max_validation_rows}.")
        if self.online and self.report_only:
            raise ValueError("`online=True` needs to know which rows are trained, which `report_only=True` does not.")
        if not 0 <= self.difficulty_percentile <= 100:
            raise ValueError(f"`difficulty_percentile` must be in [0, 100], got {self.difficulty_percentile}.")
        if not 0 <= self.warmup_ratio < 1:
            raise ValueError(f"`warmup_ratio` must be in [0, 1), got {self.warmup_ratio}.")
        if self.ratio is not None and self.num_rows is not None:
            raise ValueError("Pass `ratio` or `num_rows`, not both.")
        row_budget(1, self.share, self.num_rows)
        for name in ("max_mismatch", "max_similarity"):
            value = getattr(self, name)
            if value not in ("auto", None) and (isinstance(value, bool | str) or not 0 < value <= 1):
                raise ValueError(f"`{name}` is a share between 0 and 1, 'auto' or None, got {value!r}.")

    @property
    def share(self) -> float | None:
        """Share of the pool that is trained at a time, unless rows are counted."""
        return RATIO if self.ratio is None and self.num_rows is None else self.ratio

    @property
    def needed(self) -> tuple[str, ...]:
        """Scores that the strategy selects by."""
        return {"diq": ("difficulty", "influence"), "random": (), "length": ()}.get(self.strategy, (self.strategy,))

    @property
    def changing(self) -> bool:
        """Whether training changes the scores that the strategy selects by."""
        return bool({"influence", "loss"} & set(self.needed))

    def num_selected(self, size: int) -> int:
        """Rows of a pool that are trained at a time."""
        if self.num_rows is not None and self.num_rows > size:
            raise ValueError(f"`num_rows` is {self.num_rows} and the training set has {size} rows. Lower it.")
        return row_budget(size, self.share, self.num_rows)

    def plain(self) -> dict[str, Any]:
        """What can be written as JSON: all but the validation rows and where difficulties come from."""
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name not in ("validation", "difficulty")
        }
