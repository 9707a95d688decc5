"""Figures of a scored dataset."""

from pathlib import Path
from typing import Any

import numpy as np

from .quadrants import QUADRANTS, QuadrantRule, score_columns


# One hue for the quadrant that is taken first, greys and softer tones for the others; told apart in greyscale too.
COLORS = {"Q1": "#d1495b", "Q2": "#edae49", "Q3": "#66a182", "Q4": "#9aa5b1"}
NAMES = {
    "Q1": "hard, influential",
    "Q2": "easy, influential",
    "Q3": "hard, little influence",
    "Q4": "easy, little influence",
}


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
    from matplotlib.figure import Figure  # the plain figure: no window system is touched

    columns = score_columns(scored, (rule.difficulty_column, rule.influence_column))
    difficulty, influence = columns[rule.difficulty_column], columns[rule.influence_column]
    codes = rule.codes(difficulty, influence)
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.add_subplot()
    for code, name in enumerate(QUADRANTS):
        rows = codes == code
        axes.scatter(
            difficulty[rows],
            influence[rows],
            s=24,
            color=COLORS[name],
            edgecolors="white",
            linewidths=0.4,
            label=f"{name} {NAMES[name]} ({rows.sum()})",
        )
    if len(selected):
        picked = np.asarray(selected)
        axes.scatter(
            difficulty[picked],
            influence[picked],
            s=70,
            facecolors="none",
            edgecolors="black",
            linewidths=1,
            label=f"selected ({len(picked)})",
        )
    axes.axvline(rule.difficulty_threshold, color="black", linewidth=0.8, linestyle=":")
    axes.axhline(rule.influence_threshold, color="black", linewidth=0.8, linestyle=":")
    axes.set_xlabel("difficulty")
    axes.set_ylabel("influence (drop of the validation loss per unit step)")
    axes.set_title(title)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=150)
    return Path(path)
