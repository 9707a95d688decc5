"""How rows were scored and selected, as types: what `diq_recipe.json` holds, checked where it comes in."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from .facts import Facts
from .files import read_json


@dataclass(frozen=True, kw_only=True)
class Source(Facts):
    """Where rows are from, as [`~diq_hf.names.public_name`] names it."""

    name: str | None
    on_hub: bool
    split: str
    config: str | None = None
    rows: int | None = None
    revision: str | None = None


@dataclass(frozen=True, kw_only=True)
class ModelFacts(Facts):
    """The model that the scores are for, with its number of `parameters`. `adapter` is its PEFT adapter, `""` one that
    has no name."""

    name: str | None
    on_hub: bool
    digest: str | None = None
    dtype: str | None = None
    revision: str | None = None
    adapter: str | None = None
    parameters: int | None = None

    @classmethod
    def from_json(cls, value: Any, where: str = "recipe") -> "ModelFacts":
        if isinstance(value, Mapping) and value.get("adapter", "") is None:
            value = {**value, "adapter": ""}  # as the first recipes had it
        return super().from_json(value, where)


@dataclass(frozen=True, kw_only=True)
class ValidationFacts(Facts):
    """One group of validation rows; `None` is the name of the only one."""

    rows: int
    digest: str
    group: str | None = None


@dataclass(frozen=True, kw_only=True)
class DifficultyFacts(Facts):
    """Where the difficulty is from; `model` is that of a classifier."""

    source: str
    fingerprint: str
    model: ModelFacts | None = None


@dataclass(frozen=True, kw_only=True)
class MismatchFacts(Facts):
    """What `mismatch` was held against: so many foreign pairs, drawn by a seed within the sources that a column names,
    and which Λ/√S (√nats) only so large a share of them reaches."""

    size: int
    seed: int
    quantiles: Mapping[str, float]
    source_column: str | None = None


@dataclass(frozen=True, kw_only=True)
class ReliabilityFacts(Facts):
    """How far the influences of `rows` by two random halves of the `validation` rows rank alike (Spearman), and how
    many validation rows ranks of a reliability of 0.9 would take (Spearman and Brown)."""

    split_half: float
    validation: int
    rows: int
    wanted: int | None = None


@dataclass(frozen=True, kw_only=True)
class AuditFacts(Facts):
    """Of a pool of `pool` rows `scored` were; the share of the exact selection that was `found`, with the 95 %
    confidence interval from `low` to `high`, by `audited` rows at random, `missed` of which had been missed."""

    found: float
    low: float
    high: float
    pool: int
    scored: int
    audited: int
    missed: int


@dataclass(frozen=True, kw_only=True)
class Cost(Facts):
    """What a process has computed, and in which time; `sft_seconds` is a training run to compare it with."""

    rows: int
    seconds: float
    validation_seconds: float
    device: str
    sft_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class QuadrantCounts(Facts):
    """Rows in all, and those of each quadrant."""

    rows: int
    Q1: int
    Q2: int
    Q3: int
    Q4: int


@dataclass(frozen=True, kw_only=True)
class SelectionSettings(Facts):
    """How rows are selected: the arguments of [`~diq_hf.select_subset`]. The defaults are the paper's, with nothing
    passed over; `strategy` is `None` for the whole pool, and equal shares of a column are a `balance` without shares.
    `thresholds` (of difficulty, and of what influences are worth) are estimates, where not every row was scored.

    Derived without one of its settings, it would be another selection: so one that is not known is refused.
    """

    strategy: str | None = "diq"
    ratio: float | None = None
    num_rows: int | None = None
    seed: int = 0
    difficulty_percentile: float = 50
    influence_percentile: float = 50
    num_tokens: int | None = None
    per: str | None = None
    max_difficulty_percentile: float | None = None
    max_mismatch: float | None = None
    max_similarity: float | None = None
    text_columns: tuple[str, ...] | None = None
    balance: Mapping[str, Mapping[str, float]] | None = None
    thresholds: tuple[float, ...] | None = None
    order: str | None = None

    CLOSED: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class SelectionFacts(SelectionSettings):
    """The settings, and what came of them: thresholds, counts of pool and subset, why rows have no quadrant, and what
    became of each row of the pool.
    """

    difficulty_threshold: float | None = None
    influence_threshold: float | None = None
    max_difficulty_threshold: float | None = None
    pool: QuadrantCounts | None = None
    subset: QuadrantCounts | None = None
    unscored: Mapping[str, int] | None = None
    reasons: Mapping[str, int] | None = None


@dataclass(frozen=True, kw_only=True)
class Recipe(Facts):
    """How rows were scored and selected. Each part is `None` where it is not known.

    Args:
        algorithm (`str`, *optional*):
            Version of the scores: the same inputs give other scores under another.
        model ([`ModelFacts`], *optional*):
            The scoring model.
        tokenizer (`str`, *optional*):
            Digest of its tokenizer.
        validation (`tuple[ValidationFacts, ...]`, *optional*):
            The validation rows, a group each.
        modules (`tuple[str, ...]`, *optional*):
            The modules whose weights are scored.
        settings (`dict`, *optional*):
            How rows became tokens.
        difficulty ([`DifficultyFacts`], *optional*):
            Where the difficulty is from.
        mismatch ([`MismatchFacts`], *optional*):
            How the column `mismatch` was calibrated.
        reliability ([`ReliabilityFacts`], *optional*):
            How sure the ranks are.
        audit ([`AuditFacts`], *optional*):
            How much was found, where not every row was scored.
        cost ([`Cost`], *optional*):
            What scoring took.
        versions (`dict[str, str]`, *optional*):
            Versions of the libraries.
        pool ([`Source`], *optional*):
            Where the scored rows are from.
        validation_source ([`Source`], *optional*):
            Where the validation rows are from.
        commands (`tuple[str, ...]`, *optional*):
            The `diq` commands that made the rows.
        selection ([`SelectionFacts`], *optional*):
            How the rows were selected.
        files (`dict[str, str]`, *optional*):
            SHA-256 of each data file, once published.
        digest (`str`, *optional*):
            Digest of all the rest, once published.

    Example:

    ```python
    >>> recipe = Recipe.from_json({"algorithm": "diq-2", "selection": {"num_rows": 500}, "note": "a first try"})
    >>> recipe.selection.num_rows, recipe.selection.strategy, recipe.model, recipe.more
    (500, 'diq', None, {'note': 'a first try'})
    >>> Recipe.from_json({"cost": {"rows": 120}})
    Traceback (most recent call last):
    ValueError: recipe['cost'] has no 'seconds'; it has ['rows'].

    ```
    """

    algorithm: str | None = None
    model: ModelFacts | None = None
    tokenizer: str | None = None
    validation: tuple[ValidationFacts, ...] | None = None
    modules: tuple[str, ...] | None = None
    settings: Mapping[str, Any] | None = None
    difficulty: DifficultyFacts | None = None
    mismatch: MismatchFacts | None = None
    reliability: ReliabilityFacts | None = None
    audit: AuditFacts | None = None
    cost: Cost | None = None
    versions: Mapping[str, str] | None = None
    pool: Source | None = None
    validation_source: Source | None = None
    commands: tuple[str, ...] | None = None
    selection: SelectionFacts | None = None
    files: Mapping[str, str] | None = None
    digest: str | None = None

    @classmethod
    def load(cls, path: str | Path, name: str | None = None) -> "Recipe":
        """Reads a `diq_recipe.json`.

        Args:
            path (`str` or `Path`):
                The file.
            name (`str`, *optional*):
                What an error calls it; by default its path.

        Raises:
            `ValueError`: It is torn, no JSON, or not a recipe; the error names file and key.
        """
        return cls.from_json(read_json(path, name), f"{name or path}: recipe")
