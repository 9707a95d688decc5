"""The card of a published subset: computed facts, a picture of them, and the README they are put into."""

import re
from collections.abc import Callable, Sequence
from dataclasses import fields
from importlib.resources import files
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import DatasetCard, DatasetCardData

from ..names import is_repo_id
from ..recipe import DifficultyFacts, ModelFacts, QuadrantCounts, Recipe, SelectionFacts, SelectionSettings, Source
from ..reporting.figures import COLORS, NAMES, plot_quadrants
from ..selection.quadrants import QUADRANTS, QuadrantRule
from ..selection.scores import score_columns
from ..selection.turns import ALIGNMENT
from .markdown import code, code_block, plain
from .sections import markers, section_of


TAGS = ["diq", "data-selection", "arxiv:2508.01450"]
FIGURES = {
    "quadrants.png": "Difficulty against influence, a point a row",
    "histograms.png": "The scores' distributions",
}
AUDITED = "**Scored were only**"
HOW_MANY = "- How many:"
DIFFICULTY_LIMITS = {
    "IFDDifficulty": "The difficulty is IFD, the loss of the answer with its prompt over its loss without, under the "
    "model itself: a wrong answer looks difficult to it.",
    "ColumnDifficulty": "The difficulty was a column of the source data; its bias is inherited.",
}
CLASSIFIER_LIMIT = "The difficulty is a classifier's opinion; its bias is inherited."
UNKNOWN_LIMIT = "Where the difficulty comes from is not recorded; its bias is inherited."


def render_card(
    repo_id: str,
    config: str,
    recipe: Recipe,
    metadata: DatasetCardData,
    figures: Sequence[str],
    look: str | None = None,
) -> DatasetCard:
    """The card of a repository that holds this one subset.

    Args:
        repo_id (`str`):
            The dataset repository.
        config (`str`):
            Configuration of the subset.
        recipe ([`~diq_hf.recipe.Recipe`]):
            As it is published in `diq_recipe.json`: the scorer's facts, `selection`, `files` and `digest`.
        metadata (`DatasetCardData`):
            The YAML head.
        figures (`Sequence[str]`):
            Names of the pictures there are.
        look (`str`, *optional*):
            The line that says where there is a page to look at.
    """
    selection = recipe.selection
    configs = [entry["config_name"] for entry in metadata["configs"]]
    quadrant_rows, threshold_rows, digest_row = number_rows(recipe)
    return DatasetCard.from_template(
        metadata,
        template_str=(files("diq_hf.hub_cards") / "subset.md.jinja").read_text(encoding="utf-8"),
        title=repo_id.split("/")[-1],
        repo_id=repo_id,
        config=config,
        heading=_heading(config, selection),
        recipe=recipe,
        selection=selection,
        pool_given=selection.strategy is None or f"{config}_scores" in configs,
        quadrant_rows=quadrant_rows,
        threshold_rows=threshold_rows,
        digest_row=digest_row,
        audit_line=_audit_line(recipe),
        how_many=how_many(selection),
        first=_first(selection),
        look=look,
        of=_named(recipe.pool) if recipe.pool else None,
        model=_named(recipe.model) if recipe.model else None,
        made_by=_made_by(recipe),
        figures={path: caption for path, caption in FIGURES.items() if path in figures},
        difficulty_limit=_difficulty_limit(recipe.difficulty),
        code=code,
        plain=plain,
        code_block=code_block,
    )


def number_rows(recipe: Recipe) -> tuple[list[str], list[str], str]:
    """The card's numbers as lines of its tables, which is how they are found again to be verified."""
    selection = recipe.selection
    pool, subset, whole = selection.pool, selection.subset, selection.strategy is None

    def line(name: str, meaning: str, count: Callable[[QuadrantCounts], int]) -> str:
        of_pool = f"{count(pool):,}" if pool else "not given"
        of_subset = "" if whole else f" {count(subset):,} |"
        return f"| {name} | {meaning} | {of_pool} |{of_subset}"

    def unscored(counts: QuadrantCounts) -> int:
        return counts.rows - sum(getattr(counts, name) for name in QUADRANTS)

    quadrants = [line(name, NAMES[name], attrgetter(name)) for name in QUADRANTS]
    quadrants += [line("none", "without both scores", unscored)] if pool and unscored(pool) else []
    quadrants.append(line("all", "", attrgetter("rows")))
    thresholds = []
    for name in ("difficulty", "influence"):
        value = getattr(selection, f"{name}_threshold")
        shown = "not given" if value is None else f"{value:.6g}"
        thresholds.append(f"| {name} threshold | {getattr(selection, f'{name}_percentile'):g} | {shown} |")
    return quadrants, thresholds, f"| digest of the recipe | `{recipe.digest}` |"


def how_many(selection: SelectionFacts) -> str:
    """The line of the card's first lines that holds numbers."""
    rows, pool = selection.subset.rows, selection.pool
    if selection.strategy is None or pool is None:
        return f"{HOW_MANY} {rows:,} rows"
    return f"{HOW_MANY} {rows:,} of {pool.rows:,} rows ({rows / pool.rows:.2g} of the pool)"


def different_numbers(readme: str, config: str, recipe: Recipe) -> list[str]:
    """Lines of a card's tables that a recipe contradicts, one sentence each."""
    section = section_of(readme, config)
    if section is None:
        return [f"README.md has no section between the markers {' and '.join(markers(config))}"]
    lines = [" ".join(line.split()) for line in section.splitlines()]
    quadrants, thresholds, digest = number_rows(recipe)
    found = []
    audit = _audit_line(recipe)
    for expected in (_heading(config, recipe.selection), *quadrants, *thresholds, digest, *([audit] if audit else ())):
        expected = " ".join(expected.split())
        begins = expected[: expected.index("|", 1) + 1] if expected.startswith("|") else f"## `{config}`"
        begins = AUDITED if expected == audit else begins
        said = [line for line in lines if line.startswith(begins)]
        if said != [expected]:
            found.append(_otherwise(said, expected))
    # Cards of the first versions had no such line.
    said, expected = [line for line in lines if line.startswith(HOW_MANY)], how_many(recipe.selection)
    return found if said in ([], [expected]) else [*found, _otherwise(said, expected)]


def _otherwise(said: Sequence[str], expected: str) -> str:
    return f"the card says {' and '.join(map(repr, said)) or 'nothing'} instead of {expected!r}"


def size_category(num_rows: int) -> str:
    """As the Hub names it.

    Example:

    ```python
    >>> size_category(999), size_category(1000), size_category(2_000_000)
    ('n<1K', '1K<n<10K', '1M<n<10M')

    ```
    """
    bounds = ["1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T"]
    power = len(str(num_rows))
    if power <= 3:
        return "n<1K"
    return f"{bounds[power - 4]}<n<{bounds[power - 3]}" if power <= 12 else "n>1T"


def _heading(config: str, selection: SelectionFacts) -> str:
    rows, pool = selection.subset.rows, selection.pool
    if selection.strategy is None:
        return f"## `{config}`: all {rows:,} rows, scored"
    return f"## `{config}`: {rows:,} of {pool.rows:,} rows" if pool else f"## `{config}`: {rows:,} rows"


def _first(selection: SelectionFacts) -> str:
    """Which rows come first inside a quadrant."""
    if selection.order == "random":
        return f"rows in the order of a draw (seed {selection.seed})"
    if selection.order == ALIGNMENT:
        return "the validation rows choosing in turn, each the row whose gradient is nearest to its own"
    return "the row that is worth more first" if selection.per else "the larger influence first"


def _made_by(recipe: Recipe) -> list[tuple[str, str]]:
    """What decided the scores and what they cost, as the card's table: what is known of it."""
    facts = []
    if model := recipe.model:
        facts.append(("model", _named(model)))
        if model.adapter is not None:
            facts.append(("adapter", code(model.adapter) if model.adapter else "loaded, without a name"))
        facts.append(("weights", f"{plain(model.dtype or 'of unknown type')}, {_digest(model.digest)}"))
    if recipe.tokenizer:
        facts.append(("tokenizer", _digest(recipe.tokenizer)))
    for name, source in (("pool", recipe.pool), ("validation rows from", recipe.validation_source)):
        if source:
            facts.append((name, f"{_named(source)}, split {code(source.split)}"))
    for group in recipe.validation or ():
        name = f"validation group {code(group.group)}" if group.group else "validation"
        facts.append((name, f"{group.rows:,} rows, {_digest(group.digest)}"))
    if recipe.modules:
        modules = sorted({re.sub(r"\.\d+\.", ".\\*.", plain(name)) for name in recipe.modules})
        facts.append(("φ, the scored weights", f"{len(recipe.modules)} modules: {', '.join(modules)}"))
    if recipe.settings:
        facts.append(("settings", ", ".join(code(f"{name}={value}") for name, value in recipe.settings.items())))
    if difficulty := recipe.difficulty:
        named = f" {_named(difficulty.model)}" if difficulty.model else ""
        facts.append(("difficulty", f"{plain(difficulty.source)}{named}, {code(difficulty.fingerprint)}"))
    if null := recipe.mismatch:
        bounds = ", ".join(f"{plain(share)} at {bound:.3g}" for share, bound in null.quantiles.items())
        within = f" within the values of {code(null.source_column)}" if null.source_column else ""
        against = f"{null.size} answers after foreign prompts{within}, seed {null.seed}"
        facts.append(("mismatch", f"held against {against}; {bounds}"))
    if sure := recipe.reliability:
        wanted = f"; 0.9 would take {sure.wanted:,} validation rows" if sure.wanted else ""
        agreement = f"two halves of the {sure.validation:,} validation rows rank {sure.rows:,} rows alike to "
        facts.append(("how sure the ranks are", f"{agreement}{sure.split_half:.2f} (Spearman){wanted}"))
    if settings := _selected_by(recipe.selection):
        facts.append(("selected by", ", ".join(code(setting) for setting in settings)))
    if recipe.selection and recipe.selection.reasons:
        reasons = (f"{plain(reason)} {count:,}" for reason, count in recipe.selection.reasons.items())
        facts.append(("what became of the pool's rows", ", ".join(reasons)))
    if cost := recipe.cost:
        took = f"{cost.rows:,} rows in {cost.seconds:,.1f} s"
        per_second = f"{cost.rows / cost.seconds:.3g} rows a second" if cost.seconds else "scored"
        rate = f"{per_second} in a process on {plain(cost.device)} ({took})"
        facts.append(("cost", f"{rate}; the validation gradient {cost.validation_seconds:,.1f} s"))
        if sft := cost.sft_seconds:
            share = (cost.seconds + cost.validation_seconds) / sft
            facts.append(("share of a training run", f"{share:.2g} of {sft:,.0f} s"))
    if recipe.versions:
        versions = (f"{plain(name)} {plain(version)}" for name, version in recipe.versions.items())
        facts.append(("versions", ", ".join(versions)))
    return facts


def _audit_line(recipe: Recipe) -> str | None:
    """What is to be known of rows that were not scored, where not all of them were."""
    audit = recipe.audit
    if audit is None or recipe.selection is None or recipe.selection.thresholds is None:
        return None
    return (
        f"{AUDITED} {audit.scored:,} of {audit.pool:,} rows: the others could not be chosen, and the thresholds are "
        f"estimates. An audit says that about {audit.found:.0%} of the exact selection was found (95 % confidence: "
        f"{audit.low:.0%} to {audit.high:.0%}, by {audit.audited:,} rows at random, of which {audit.missed:,} had "
        "been missed)."
    )


def _selected_by(selection: SelectionFacts | None) -> list[str]:
    """Settings of a selection that are not the paper's."""
    if selection is None:
        return []
    parts = [part for part in fields(SelectionSettings) if part.name not in ("more", "strategy", "ratio", "num_rows")]
    values = {part.name: (getattr(selection, part.name), part.default) for part in parts}
    return [f"{name}={value}" for name, (value, default) in values.items() if value != default]


def _digest(digest: str | None) -> str:
    return f"digest {code(digest)}" if digest else "without a digest"


def _named(source: Source | ModelFacts) -> str:
    """A link where the Hub has it."""
    if not source.name:
        return "without a name"
    if not (source.on_hub and is_repo_id(source.name)):
        return f"{code(source.name)} (local)"
    folder = "datasets/" if isinstance(source, Source) else ""
    revision = f", revision {code(source.revision)}" if source.revision else ""
    return f"[{source.name}](https://huggingface.co/{folder}{source.name}){revision}"


def _difficulty_limit(difficulty: DifficultyFacts | None) -> str:
    return DIFFICULTY_LIMITS.get(difficulty.source, CLASSIFIER_LIMIT) if difficulty else UNKNOWN_LIMIT


def draw_selection(pool: Any | None, subset: Any, selection: SelectionFacts, folder: Path) -> list[Path]:
    """The figures of a card: the quadrants, where the thresholds are known, and how the scores are distributed."""
    from matplotlib.figure import Figure  # the plain figure: no window system is touched

    names = ("difficulty", "influence")
    drawn = subset if pool is None else pool
    shown = {"subset" if pool is None else "pool": drawn} | ({"subset": subset} if len(drawn) > len(subset) else {})
    thresholds = {name: getattr(selection, f"{name}_threshold") for name in names}
    paths = []
    if None not in thresholds.values():
        ranks = [score_columns(rows, ["diq_rank"])["diq_rank"] for rows in shown.values()]
        picked = np.flatnonzero(np.isin(*ranks)) if len(shown) == 2 else []
        rule = QuadrantRule(*thresholds.values())
        paths.append(plot_quadrants(drawn, rule, folder / "quadrants.png", selected=picked))
    figure = Figure(figsize=(7, 2.6), layout="constrained")
    columns = {label: score_columns(rows, names) for label, rows in shown.items()}
    for axes, name in zip(figure.subplots(1, 2), names, strict=True):
        edges = None
        for color, (label, scores) in zip((COLORS["Q4"], COLORS["Q1"]), columns.items(), strict=False):
            values = scores[name][np.isfinite(scores[name])]
            bins = int(np.clip(np.sqrt(len(values)), 8, 40))
            edges = np.histogram_bin_edges(values, bins) if edges is None else edges
            axes.hist(values, edges, color=color, label=f"{label} ({len(values):,})")
        if thresholds[name] is not None:
            axes.axvline(thresholds[name], color="black", linewidth=0.8, linestyle=":")
        axes.set_xlabel(name)
        axes.set_ylabel("rows")
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    paths.append(folder / "histograms.png")
    figure.savefig(paths[-1], dpi=150)
    return paths
