"""A selection as numbers that can be derived again from the scores: thresholds, counts, quadrants, ranks and rows."""

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np

from ..columns import labels_as_numbers
from ..recipe import QuadrantCounts, SelectionFacts, SelectionSettings
from .quadrants import QUADRANTS, QuadrantRule
from .scores import class_codes, raw_columns, score_columns
from .select import select_rows
from .settings import settings_for
from .turns import ALIGNMENT


# The configuration that is the whole pool.
WHOLE = "scored"
# What a selection can be derived from, of columns that hold no text; beside them, sources and influences on groups.
SCORES = ("difficulty", "influence", "loss", "num_tokens", "num_trained", "mismatch")
# What it gives: to the subset the first two, to the pool all four.
DERIVED = ("quadrant", "diq_rank", "diq_reason", "diq_duplicate_of")


def derive_selection(
    scored: Any,
    settings: SelectionSettings,
    known_copies: np.ndarray | None = None,
) -> tuple[Any, Any, SelectionFacts]:
    """Selects rows of a scored pool.

    Args:
        scored ([`~datasets.Dataset`]):
            The whole pool, with its scores.
        settings ([`SelectionSettings`]):
            How to select; facts that a [`SelectionFacts`] states beside them are passed over.
        known_copies (`np.ndarray`, *optional*):
            For each row the row that it repeats, -1 for none, where texts are not at hand.

    Returns:
        The pool and the subset, both with `quadrant` and `diq_rank`, the pool with the reasons as well, and the
        [`SelectionFacts`].
    """
    if settings.strategy is None:
        percentiles = settings.difficulty_percentile, settings.influence_percentile
        rule = QuadrantRule(*settings.thresholds) if settings.thresholds else QuadrantRule.fit(scored, *percentiles)
        pool = subset = rule.annotate(scored)
        reasons = None
    else:
        selection = select_rows(scored, settings, known_copies=known_copies)
        rule, reasons = selection.ranking.rule, selection.counts
        if rule is None:
            raise ValueError("A selection is recorded with both scores, and the dataset has only one of them.")
        pool, subset = selection.pool(scored), selection.subset(scored)
    facts = SelectionFacts(
        **{setting.name: getattr(settings, setting.name) for setting in fields(SelectionSettings)},
        difficulty_threshold=rule.difficulty_threshold,
        influence_threshold=rule.influence_threshold,
        max_difficulty_threshold=rule.max_difficulty_threshold,
        pool=count_quadrants(pool),
        subset=count_quadrants(subset),
        unscored=count_unscored(pool, settings.thresholds is not None),
        reasons=reasons,
    )
    return pool, subset, facts


def possible_settings(scored: Any, described: SelectionFacts) -> list[SelectionFacts]:
    """The settings that a subset may have been selected by: as they are described, and, where nothing is said of what
    was passed over, with what [`select_subset`] passes over by default, in the paper's order and in its own.
    """
    if described.strategy is None:
        return [described]
    automatic = settings_for(scored, num_rows=1)
    passed_over: list[dict] = [{}]
    if described.max_mismatch is None and described.max_similarity is None:
        passed_over.append({name: getattr(automatic, name) for name in ("max_mismatch", "max_similarity")})
    orders = [described.order]
    if described.strategy == "diq" and described.order is None and described.per != "row":
        orders = list(dict.fromkeys([None, automatic.order, "random"]))
    asked = [replace(described, order=order, **passed) for order in orders for passed in passed_over]
    return [one for i, one in enumerate(asked) if one not in asked[:i]]


def count_quadrants(rows: Any) -> QuadrantCounts:
    """Rows by quadrant."""
    codes = class_codes(rows, "quadrant")
    counts = {name: int((codes == code).sum()) for code, name in enumerate(QUADRANTS)}
    return QuadrantCounts(rows=len(codes), **counts)


def count_unscored(rows: Any, some: bool = False) -> dict[str, int]:
    """Why rows have no quadrant, and how many; `some`: because only some were scored."""
    columns = score_columns(rows, [name for name in SCORES if name in rows.column_names])
    no_influence = ~np.isfinite(columns["influence"])
    # A scorer counts the tokens of every row it could encode.
    empty = no_influence & (columns.get("num_tokens", np.ones(len(no_influence))) == 0)
    reasons = {
        "no row to train on": empty,
        "no score, since only some rows were scored" if some else "no finite influence": no_influence & ~empty,
        "no finite difficulty": ~no_influence & ~np.isfinite(columns["difficulty"]),
    }
    return {reason: int(found.sum()) for reason, found in reasons.items() if found.any()}


def describe_subset(subset: Any, selection: SelectionFacts | None) -> SelectionFacts:
    """The selection of a subset whose pool is not at hand: as it was recorded, or, unrecorded, by its ranks."""
    missing = [name for name in (*SCORES[:2], *DERIVED[:2]) if name not in subset.column_names]
    if missing:
        raise ValueError(
            f"The subset has no column {missing}. Pass what `select_subset` returns, or the whole scored pool with "
            f"`config_name={WHOLE!r}`."
        )
    if selection is None:
        ranks = score_columns(subset, ["diq_rank"])["diq_rank"]
        if not np.array_equal(ranks, np.arange(1, len(ranks) + 1)):
            raise ValueError(
                "The subset's `diq_rank` is not 1, 2, 3, …, so it is not the first rows by DIQ. Say how it was "
                "selected: `recipe={..., 'selection': {'strategy': 'random', 'ratio': 0.1, 'seed': 0}}`."
            )
        selection = SelectionFacts(num_rows=len(ranks))
    return replace(selection, subset=count_quadrants(subset))


def proof_columns(settings: SelectionSettings | None) -> tuple[str, ...]:
    """The columns that a selection can be derived from, and those that it gives."""
    more = () if settings is None else (*(settings.balance or ()), *([ALIGNMENT] * (settings.order == ALIGNMENT)))
    return (*SCORES, *(name for name in more if name not in SCORES), *DERIVED)


def scores_alone(pool: Any, settings: SelectionSettings | None = None) -> Any:
    """Of every row of a pool its position and its scores, without a text.

    Classes become what they stand for, since a file read without its features has only their ids.
    """
    names = [name for name in proof_columns(settings) if name in pool.column_names]
    alone = labels_as_numbers(pool.select_columns(names), [name for name in names if name in SCORES])
    for name in (settings and settings.balance) or ():
        if hasattr(feature := alone.features[name], "int2str"):
            values = [None if code is None else feature.int2str(code) for code in alone[name][:]]
            alone = alone.remove_columns(name).add_column(name, values)
    return alone.add_column("row", np.arange(len(pool)))


def differences(selection: SelectionFacts, scores: Any | None, subset: Any) -> list[str]:
    """Where what is published does not follow from the published scores, one sentence each.

    Args:
        selection ([`SelectionFacts`]):
            The selection as it is stated.
        scores ([`~datasets.Dataset`], *optional*):
            The whole pool's scores. Without them only the subset's own columns can be held against `selection`.
        subset ([`~datasets.Dataset`]):
            The subset as it was published.
    """
    if scores is None:
        found = _different_facts(selection.to_json(), {"subset": count_quadrants(subset).to_json()})
        thresholds = selection.difficulty_threshold, selection.influence_threshold
        if None not in thresholds:
            rule = QuadrantRule(*thresholds)
            codes = rule.codes(*score_columns(subset, SCORES[:2]).values())
            found += _different_rows("the subset", raw_columns(subset, ["quadrant"]), {"quadrant": codes})
        return found
    bare = scores.remove_columns([name for name in DERIVED if name in scores.column_names])
    published = raw_columns(scores, [name for name in DERIVED if name in scores.column_names])
    copies = published.get("diq_duplicate_of", np.full(len(scores), np.nan))
    copies = np.where(np.isfinite(copies), copies, -1).astype(np.int64)
    try:
        pool, chosen, derived = derive_selection(bare, selection, known_copies=copies)
    except ValueError as error:
        return [f"the selection cannot be derived: {error}"]
    # Selections that were published before there were reasons state none.
    facts = {name: fact for name, fact in derived.to_json().items() if name != "reasons" or selection.reasons}
    found = _different_facts(selection.to_json(), facts)
    given = [name for name in DERIVED if name in pool.column_names and (name in published or name in DERIVED[:2])]
    found += _different_rows("the pool's scores", published, raw_columns(pool, given))
    names = (*SCORES[:2], *DERIVED[:2])
    return found + _different_rows("the subset", raw_columns(subset, names), raw_columns(chosen, names))


def _different_facts(stated: Mapping, derived: Mapping, where: str = "") -> list[str]:
    found = []
    for name, value in derived.items():
        said = stated.get(name)
        if isinstance(value, dict):
            said = said or {}
            found += _different_facts(said, dict.fromkeys(said, 0) | value, f"{where}{name} ")
        elif not (math.isclose(said, value, rel_tol=1e-9) if _both_floats(said, value) else said == value):
            found.append(f"{where}{name} is stated as {said}; the scores give {value}")
    return found


def _both_floats(*values: Any) -> bool:
    return all(isinstance(value, float) for value in values)


def _different_rows(where: str, published: Mapping[str, np.ndarray], derived: Mapping[str, np.ndarray]) -> list[str]:
    found = []
    for name, expected in derived.items():
        if name not in published:
            return [f"{where} has no column {name!r}"]
        values = published[name]
        if len(values) != len(expected):
            return [f"{where} has {len(values)} rows; the selection gives {len(expected)}"]
        wrong = np.flatnonzero(~((values == expected) | (np.isnan(values) & np.isnan(expected))))
        if len(wrong):
            first = wrong[0]
            found.append(
                f"{where}: `{name}` differs in {len(wrong)} of {len(values)} rows, first in row {first}: "
                f"{values[first]:g} is published, the scores give {expected[first]:g}"
            )
    return found
