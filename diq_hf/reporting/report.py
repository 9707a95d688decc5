"""The page that shows a scored dataset: one HTML file that needs nothing else."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..ranks import spearman
from ..rows.encoded import RowError
from ..rows.formats import RowEncoder
from ..selection.duplicates import exact_duplicates, near_duplicates
from ..selection.quadrants import QUADRANTS, REASONS, QuadrantRule
from ..selection.scores import raw_columns, score_columns
from ..selection.select import select_rows
from ..selection.settings import settings_for
from .figures import COLORS, NAMES, page_figures
from .pages import write


EXAMPLES = 5  # shown from each end of each quadrant
UNSCORED_SHOWN = 20
MAX_CHARACTERS = 1000  # of a prompt or an answer, on the page
NEAR_LIMIT = 20_000  # rows that are compared with each other
NEAR = 0.7
PAIRS_SHOWN = 20


def write_report(
    scored: Any,
    path: str | Path,
    ratio: float | None = None,
    num_rows: int | None = None,
    rule: QuadrantRule | None = None,
    title: str = "Scored dataset",
    dataset_text_field: str = "text",
    max_rows: int = 2000,
    **selection: Any,
) -> Path:
    """Writes a page about a scored dataset: one HTML file without any other, to open in a browser, send or print.

    It shows the quadrants with their thresholds, the distribution of both scores and of the mismatch, length against
    influence, why rows were not selected, duplicates, the first and last rows of each quadrant, the rows without
    scores, and a search through the rows' text. Needs matplotlib (`pip install 'diq-hf[report]'`).

    Args:
        scored ([`~datasets.Dataset`]):
            A dataset with both score columns.
        path (`str` or `Path`):
            Where the page goes. A page that is there is replaced.
        ratio (`float`, *optional*):
            Share of the rows that counts as selected, as in [`select_subset`]. By default the selection that a pool
            of [`select_subset`] records (`return_pool=True`), or 0.1 of one that records none.
        num_rows (`int`, *optional*):
            Number of rows that count as selected, instead of `ratio`.
        rule ([`QuadrantRule`], *optional*):
            Thresholds and column names; fitted on `scored` by default.
        title (`str`, *optional*, defaults to `"Scored dataset"`):
            Heading.
        dataset_text_field (`str`, *optional*, defaults to `"text"`):
            Column of plain text rows, as in [`~trl.SFTConfig`].
        max_rows (`int`, *optional*, defaults to `2000`):
            Rows whose text the page holds for its search. Of more, it holds so many, evenly spaced from the first
            choice to the last; figures and tables are always about all rows.
        selection:
            Further arguments of [`select_subset`], such as `max_similarity`.

    Returns:
        `Path`: `path`.

    Example:

    ```python
    from diq_hf import write_report

    write_report(scored, "report.html", ratio=0.01)
    ```
    """
    if not hasattr(scored, "select"):
        raise TypeError(
            f"A {type(scored).__name__} cannot be read by position. Pass one map-style split, for instance "
            "`Dataset.from_generator(lambda: iter(stream))`."
        )
    if max_rows < 1:
        raise ValueError(f"`max_rows` must be at least 1, got {max_rows}.")
    given, rule = rule, rule or QuadrantRule.fit(scored)
    pool = _selected(scored, given, dataset_text_field, selection | {"ratio": ratio, "num_rows": num_rows})
    return write(path, "report.html.jinja", _facts(pool, rule, dataset_text_field, max_rows) | {"title": title})


def _selected(scored: Any, rule: QuadrantRule | None, text_field: str, arguments: dict[str, Any]) -> Any:
    """The pool with what became of each row."""
    if "diq_reason" in scored.column_names and not any(value is not None for value in arguments.values()):
        return scored
    asked = any(arguments.get(name) is not None for name in ("ratio", "num_rows", "num_tokens"))
    columns = [text_field] if text_field != "text" and text_field in scored.column_names else None
    columns = arguments.pop("text_columns", columns)
    settings = settings_for(scored, text_columns=columns, **arguments if asked else arguments | {"ratio": 0.1})
    # A page about a pool that holds little else than copies shows that, unless more was asked for.
    return select_rows(scored, settings, rule, may_be_short=not asked).pool(scored)


def _facts(scored: Any, rule: QuadrantRule, text_field: str, max_rows: int) -> dict[str, Any]:
    """Everything the page says."""
    difficulty, influence = score_columns(scored, (rule.difficulty_column, rule.influence_column)).values()
    codes, order = rule.codes(difficulty, influence), rule.order(difficulty, influence)
    ranks = np.nan_to_num(raw_columns(scored, ["diq_rank"])["diq_rank"]).astype(int)
    order = order[np.argsort(np.where(ranks > 0, ranks, len(scored) + 1)[order], kind="stable")]
    reasons, duplicate_of = raw_columns(scored, ("diq_reason", "diq_duplicate_of")).values()
    is_selected = reasons == REASONS.index("selected")
    selected = order[is_selected[order]]

    texts = _Texts(scored, text_field)
    if "num_tokens" in scored.column_names:
        unit, lengths = "tokens", score_columns(scored, ["num_tokens"])["num_tokens"]
    else:
        unit, lengths = "characters", np.array([sum(map(len, texts.text(row))) for row in texts.rows], dtype=float)

    def describe(positions: Sequence[int]) -> list[dict]:
        return [
            {
                "row": int(i),
                "quadrant": QUADRANTS[codes[i]] if codes[i] >= 0 else None,
                "rank": int(ranks[i]) or None,
                "difficulty": float(difficulty[i]) if np.isfinite(difficulty[i]) else None,
                "influence": float(influence[i]) if np.isfinite(influence[i]) else None,
                "length": int(lengths[i]) if np.isfinite(lengths[i]) else None,
                "reason": REASONS[int(reasons[i])],
                "prompt": prompt,
                "answer": answer,
            }
            for i, (prompt, answer) in zip(positions, texts.cut(positions), strict=True)
        ]

    def summary(name: str, rows: np.ndarray) -> dict:
        means = {"difficulty": difficulty, "influence": influence, "length": lengths}
        known = {key: values[rows & np.isfinite(values)] for key, values in means.items()}
        means = {key: float(np.mean(values)) if len(values) else None for key, values in known.items()}
        return {"name": name, "rows": int(rows.sum()), "selected": int(is_selected[rows].sum()), **means}

    quadrants = []
    for code, name in enumerate(QUADRANTS):
        inside = order[codes[order] == code]
        ranked = inside[ranks[inside] > 0] if ranks[inside].any() else inside
        quadrants.append(
            summary(name, codes == code)
            | {
                "meaning": NAMES[name],
                "first": describe(ranked[:EXAMPLES]),
                "last": describe(ranked[max(EXAMPLES, len(ranked) - EXAMPLES) :]),
            }
        )
    unscored = np.flatnonzero(codes < 0)
    every = np.concatenate([order, unscored])
    embedded = every[np.linspace(0, len(every) - 1, min(max_rows, len(every))).astype(int)]
    scored_rows = codes >= 0
    measured = scored_rows & np.isfinite(lengths)
    length, of_length = lengths[measured], influence[measured]
    mismatch = score_columns(scored, ["mismatch"])["mismatch"] if "mismatch" in scored.column_names else None
    return {
        "version": __version__,
        "colors": COLORS,
        "total": len(scored),
        "rule": rule,
        "quadrants": quadrants,
        "pool": summary("all scored", scored_rows),
        "num_selected": len(selected),
        "num_unscored": len(unscored),
        "unscored": describe(unscored[:UNSCORED_SHOWN]),
        "unit": unit,
        "spearman": _known(spearman(length, of_length)),
        "spearman_size": _known(spearman(length, np.abs(of_length))),
        "length_groups": _length_groups(lengths, influence, np.flatnonzero(measured), is_selected),
        "reasons": [
            (reason, int((reasons == code).sum())) for code, reason in enumerate(REASONS) if (reasons == code).any()
        ],
        "repeated": [
            (int(row), int(duplicate_of[row])) for row in np.flatnonzero(np.isfinite(duplicate_of))[:PAIRS_SHOWN]
        ],
        "has_mismatch": mismatch is not None and bool(np.isfinite(mismatch).any()),
        "duplicates": _duplicates(selected, texts),
        "rows": describe(embedded),
        "max_characters": MAX_CHARACTERS,
        "figures": page_figures(difficulty, influence, lengths, rule, selected, unit, mismatch),
    }


class _Texts:
    """Prompts and answers of a dataset's rows, whatever their format; of a row in none, the row itself."""

    def __init__(self, scored: Any, text_field: str):
        names = ("prompt", "completion", "chosen", "rejected", "messages", "conversations", text_field)
        present = [name for name in dict.fromkeys(names) if name in scored.column_names]
        self.rows = scored.with_format(None).select_columns(present or list(scored.column_names))
        self.encoder = RowEncoder(None, dataset_text_field=text_field)  # text needs no tokenizer

    def text(self, row: Mapping) -> tuple[str, str]:
        if "input_ids" not in row:
            try:
                return self.encoder.texts(row)
            except (RowError, AttributeError):
                pass  # a malformed row is shown as it stands
        return json.dumps(row, ensure_ascii=False, default=str), ""

    def of(self, positions: Sequence[int]) -> list[tuple[str, str]]:
        return [self.text(row) for row in self.rows.select(positions)]

    def cut(self, positions: Sequence[int]) -> list[tuple[str, str]]:
        def cut(text: str) -> str:
            if len(text) <= MAX_CHARACTERS:
                return text
            return f"{text[:MAX_CHARACTERS].rstrip()} … [cut: {len(text):,} characters]"

        return [(cut(prompt), cut(answer)) for prompt, answer in self.of(positions)]


def _duplicates(selected: np.ndarray, texts: _Texts) -> dict[str, Any]:
    whole = [f"{prompt}\n{answer}" for prompt, answer in texts.of(selected)]
    groups = exact_duplicates(whole)
    pairs = near_duplicates(whole[:NEAR_LIMIT], NEAR)
    return {
        "superfluous": sum(len(group) - 1 for group in groups),
        "groups": [[int(selected[i]) for i in group] for group in groups[:PAIRS_SHOWN]],
        "num_groups": len(groups),
        "pairs": [(int(selected[i]), int(selected[j]), share) for i, j, share in pairs[:PAIRS_SHOWN]],
        "num_pairs": len(pairs),
        "compared": min(NEAR_LIMIT, len(selected)),
        "threshold": NEAR,
    }


def _length_groups(
    lengths: np.ndarray, influence: np.ndarray, rows: np.ndarray, is_selected: np.ndarray
) -> list[dict[str, Any]]:
    """Quarters of the scored rows, from the shortest to the longest."""
    by_length = rows[np.argsort(lengths[rows], kind="stable")]
    return [
        {
            "shortest": int(lengths[group[0]]),
            "longest": int(lengths[group[-1]]),
            "rows": len(group),
            "influence": float(np.mean(influence[group])),
            "size": float(np.mean(np.abs(influence[group]))),
            "selected": int(is_selected[group].sum()),
        }
        for group in np.array_split(by_length, 4)
        if len(group)
    ]


def _known(value: float) -> float | None:
    return value if np.isfinite(value) else None
