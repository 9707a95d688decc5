"""Figures of scored rows: files, or SVG inside a page."""

import io
from pathlib import Path
from typing import Any

import numpy as np

from ..selection.quadrants import QUADRANTS, QuadrantRule
from ..selection.scores import score_columns


# One hue for the quadrant that is taken first, greys and softer tones for the others; told apart in greyscale too.
COLORS = {"Q1": "#d1495b", "Q2": "#edae49", "Q3": "#66a182", "Q4": "#9aa5b1"}
NAMES = {
    "Q1": "hard, influential",
    "Q2": "easy, influential",
    "Q3": "hard, little influence",
    "Q4": "easy, little influence",
}
SELECTED = "#3f7fd9"
# Stands for the page's text colour, light or dark, in figures that are drawn for the page.
INK = "#010203"
VECTOR_LIMIT = 2000  # more points than this are drawn as pixels, or a figure would weigh megabytes


def plot_quadrants(scored: Any, rule: QuadrantRule, path: str | Path, title: str = "", selected: Any = ()) -> Path:
    """Draws difficulty against influence, one point a row, coloured by quadrant.

    Args:
        scored ([`~datasets.Dataset`]):
            A dataset with both score columns.
        rule ([`QuadrantRule`]):
            The thresholds, drawn as lines.
        path (`str` or `Path`):
            Where the picture goes; its ending decides the format.
        title (`str`, *optional*):
            Heading.
        selected (`Sequence[int]`, *optional*):
            Positions of rows to ring.

    Returns:
        `Path`: `path`.
    """
    columns = score_columns(scored, (rule.difficulty_column, rule.influence_column))
    figure, axes = new_figure((7, 5))
    _draw_quadrants(axes, *columns.values(), rule, np.asarray(selected, dtype=int))
    axes.set_title(title)
    figure.savefig(path, dpi=150)
    return Path(path)


def plot_moves(history: Any, path: str | Path) -> Path:
    """Draws how rows move between quadrants: a column a scoring, and ribbons for rows that were in both.

    Args:
        history ([`~datasets.Dataset`]):
            What [`~diq_hf.training.history.SelectionHistory.load`] gives.
        path (`str` or `Path`):
            Where the picture goes; its ending decides the format.

    Returns:
        `Path`: `path`.
    """
    table = history.with_format("numpy")
    steps, rows, selected = table["step"][:], table["row"][:], table["selected"][:]
    codes = np.array([-1 if code is None else code for code in history["quadrant"][:]])
    rounds = np.unique(steps)
    figure, axes = new_figure((max(6, 1.6 * len(rounds)), 5))
    curve = np.linspace(0, 1, 40)
    smooth = curve * curve * (3 - 2 * curve)
    before: dict[int, int] = {}
    floors: list[float] = []
    for x, step in enumerate(rounds):
        at = steps == step
        now = {int(row): int(code) for row, code in zip(rows[at], codes[at], strict=True) if code >= 0}
        counts = np.bincount(list(now.values()), minlength=4)
        bottoms = list(counts.sum() - np.cumsum(counts))  # Q1 on top
        for code, name in enumerate(QUADRANTS):
            axes.bar(x, counts[code], 0.16, bottoms[code], color=COLORS[name], label=name if x == 0 else None)
            chosen = int((at & selected & (codes == code)).sum())
            if chosen:
                axes.text(x, bottoms[code] + counts[code] / 2, f"{chosen}", ha="center", va="center", fontsize=7)
        if before:
            left, right = list(floors), list(bottoms)
            for old in reversed(range(4)):
                for new in reversed(range(4)):
                    flow = sum(before.get(row) == old for row, code in now.items() if code == new)
                    if flow:
                        low = left[old] + (right[new] - left[old]) * smooth
                        span = x - 0.92 + 0.84 * curve
                        axes.fill_between(span, low, low + flow, color=COLORS[QUADRANTS[old]], alpha=0.35, linewidth=0)
                        left[old] += flow
                        right[new] += flow
        before, floors = now, bottoms
    axes.set_xticks(range(len(rounds)), [str(step) for step in rounds])
    axes.set_xlabel("update step of the scoring (figures: selected rows)")
    axes.set_ylabel("scored rows")
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(path, dpi=150)
    return Path(path)


def page_figures(
    difficulty: np.ndarray,
    influence: np.ndarray,
    lengths: np.ndarray,
    rule: QuadrantRule,
    selected: np.ndarray,
    unit: str,
    mismatch: np.ndarray | None = None,
) -> dict[str, str]:
    """The figures of the report's page."""
    from matplotlib.ticker import LogLocator, NullLocator

    scored_rows = np.isfinite(difficulty) & np.isfinite(influence)
    figure, axes = new_figure((4.6, 4.2))
    _draw_quadrants(axes, difficulty, influence, rule, selected, INK)
    axes.set_ylabel("influence")
    figures = {"quadrants": page_svg(figure)}
    histograms = [
        ("difficulty", difficulty[scored_rows], rule.difficulty_threshold),
        ("influence", influence[scored_rows], rule.influence_threshold),
    ]
    if mismatch is not None and np.isfinite(mismatch).any():
        histograms.append(("mismatch", mismatch[np.isfinite(mismatch)], None))
    for name, values, threshold in histograms:
        figure, axes = new_figure((4.6, 2.6))
        low, high = np.percentile(values, [0.5, 99.5])
        axes.hist(np.clip(values, low, high), bins=40, color=SELECTED)
        if threshold is not None:
            axes.axvline(threshold, color=INK, linewidth=1, linestyle=":")
        axes.set_xlabel(name)
        axes.set_ylabel("rows")
        figures[name] = page_svg(figure)
    figure, axes = new_figure((4.6, 3.2))
    codes = np.where(np.isfinite(lengths), rule.codes(difficulty, influence), -1)
    for code, name in enumerate(QUADRANTS):
        _scatter(axes, lengths[codes == code], influence[codes == code], len(codes), color=COLORS[name])
    if (codes >= 0).any() and lengths[codes >= 0].min() > 0:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.xaxis.set_minor_locator(NullLocator())
    axes.axhline(rule.influence_threshold, color=INK, linewidth=0.8, linestyle=":")
    axes.set_xlabel(unit)
    axes.set_ylabel("influence")
    figures["lengths"] = page_svg(figure)
    return figures


def _draw_quadrants(
    axes: Any,
    difficulty: np.ndarray,
    influence: np.ndarray,
    rule: QuadrantRule,
    selected: np.ndarray,
    ink: str = "black",
) -> None:
    codes = rule.codes(difficulty, influence)
    for code, name in enumerate(QUADRANTS):
        rows = codes == code
        label = f"{name} {NAMES[name]} ({rows.sum():,})"
        _scatter(axes, difficulty[rows], influence[rows], len(codes), color=COLORS[name], label=label)
    if len(selected):
        label = f"selected ({len(selected):,})"
        axes.scatter(
            difficulty[selected],
            influence[selected],
            s=50 if len(codes) <= VECTOR_LIMIT else 12,
            facecolors="none",
            edgecolors=SELECTED,
            linewidths=1,
            label=label,
            rasterized=len(codes) > VECTOR_LIMIT,
        )
    axes.axvline(rule.difficulty_threshold, color=ink, linewidth=0.8, linestyle=":")
    axes.axhline(rule.influence_threshold, color=ink, linewidth=0.8, linestyle=":")
    axes.set_xlabel("difficulty")
    axes.set_ylabel("influence (drop of the validation loss per unit step)")
    axes.figure.legend(loc="outside upper left", ncols=2, fontsize=8, frameon=False)


def _scatter(axes: Any, x: np.ndarray, y: np.ndarray, total: int, **style: Any) -> None:
    few = total <= VECTOR_LIMIT
    axes.scatter(x, y, s=18 if few else 4, linewidths=0, alpha=0.85 if few else 0.5, rasterized=not few, **style)


def new_figure(size: tuple[float, float]) -> tuple[Any, Any]:
    """An empty figure and its axes.

    Raises:
        `ImportError`: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # the plain figure: no window system is touched
    except ImportError as error:
        raise ImportError("Figures need matplotlib: `pip install 'diq-hf[report]'`.") from error

    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def page_svg(figure: Any) -> str:
    """The figure as SVG inside a page: text as text, in the page's colour, on the page's ground."""
    import matplotlib

    for axes in figure.axes:
        axes.tick_params(which="both", colors=INK, labelsize=9)
        axes.spines[:].set_color(INK)
        for label in (axes.xaxis.label, axes.yaxis.label):
            label.set(color=INK, size=9)
    for legend in figure.legends:
        for text in legend.get_texts():
            text.set_color(INK)
    for axes in figure.axes:
        axes.patch.set_visible(False)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "diq_hf"}):
        file = io.StringIO()
        figure.savefig(
            file,
            format="svg",
            transparent=True,
            dpi=150,
            metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")),
        )
    svg = file.getvalue()
    return svg[svg.index("<svg") :].replace(INK, "currentColor")
