"""Held-out loss against total cost, drawn for the page."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..reporting.figures import INK, new_figure, page_svg


# White figures are read on each, and each is read on light and dark ground.
COLORS = {"better": "#2b7d56", "worse": "#c0394b", "open": "#5f6d7e", "baseline": "#3068b8"}
WIDTH, HEIGHT = 5.6, 4.0  # inches
APART = 0.055  # of the width, between two points
SAME = 1.05  # costs that are told apart
FARTHEST = 0.25  # of the strategies' range, at which a line for reference is still drawn
_TICKS = [digit * 10.0**power for power in range(-4, 4) for digit in (1, 2, 5)]
_NOTE = {"fontsize": 8, "color": INK, "ha": "right"}


def draw_costs(points: Sequence[dict[str, Any]], before: float | None, baseline: float | None) -> str:
    """Each strategy as a numbered point with its interval.

    Args:
        points (`Sequence[dict]`):
            `number`, `kind` (a key of `COLORS`), `epochs`, `loss`, and `low` and `high` of the loss or `None`.
        before (`float`, *optional*):
            The loss before any training.
        baseline (`float`, *optional*):
            The baseline's loss, drawn as a line.

    Returns:
        `str`: SVG.
    """
    figure, axes = new_figure((WIDTH, HEIGHT))
    costs = np.log10([point["epochs"] for point in points])
    width = max(float(np.ptp(costs)), 1.0)
    level = costs.copy()
    for members in _same(costs):
        level[members] = costs[members].mean()  # side by side in the order of their numbers
    places = spread(level / width, APART) * width
    left, right = min(places.min(), costs.min()) - 0.06 * width, max(places.max(), costs.max()) + 0.06 * width
    edges = [value for point in points for value in (point["loss"], point["low"], point["high"]) if value is not None]
    low, high = min(edges), max(edges)
    size = max(high - low, 1e-6)
    if before is not None and before <= high + FARTHEST * size:
        high, size = max(high, before), max(high, before) - low
        axes.axhline(before, color=INK, linewidth=0.8, linestyle=(0, (6, 3)))
        axes.annotate("before training", (0.99, before), xycoords=axes.get_yaxis_transform(), **_NOTE, va="bottom")
    elif before is not None:
        axes.annotate(f"before training: {before:.3f} ↑", (0.99, 0.99), xycoords="axes fraction", **_NOTE, va="top")
    if baseline is not None:
        axes.axhline(baseline, color=COLORS["baseline"], linewidth=0.9, linestyle=":")
    for members in _same(costs):
        if len(members) > 1:
            first, last = (edge(places[members]) for edge in (np.min, np.max))
            half = 0.4 * APART * width
            axes.axvspan(10 ** (first - half), 10 ** (last + half), color=COLORS["open"], alpha=0.1, linewidth=0)
            told = f"{np.mean([points[i]['epochs'] for i in members]):.2f} each"
            middle = 10 ** ((first + last) / 2)
            axes.annotate(told, (middle, 0.01), xycoords=axes.get_xaxis_transform(), **_NOTE | {"ha": "center"})
    for place, point in zip(10**places, points, strict=True):
        color = COLORS[point["kind"]]
        if point["low"] is not None:
            axes.plot([place] * 2, [point["low"], point["high"]], color=color, linewidth=1.4, zorder=2)
        marker = "s" if point.get("reference") else "o"
        axes.plot(place, point["loss"], marker, markersize=11, color=color, markeredgewidth=0, zorder=3)
        axes.annotate(
            str(point["number"]), (place, point["loss"]), color="white", fontsize=7, ha="center", va="center_baseline"
        )
    axes.set_xscale("log")
    axes.set_xlim(10**left, 10**right)
    axes.set_ylim(low - 0.08 * size, high + 0.1 * size)
    ticks = [
        tick for tick in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if left <= np.log10(tick) <= right
    ]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("choosing and training, in epochs of the whole pool")
    axes.set_ylabel("held-out loss, nats a token")
    return page_svg(figure)


def spread(places: np.ndarray, apart: float) -> np.ndarray:
    """Moves places as little as it takes to be so far apart, in their order."""
    order = np.argsort(places, kind="stable")
    # Less their number times the distance, they only must not fall: blocks that do are levelled to their mean.
    blocks: list[list[float]] = []
    for value in places[order] - apart * np.arange(len(places)):
        blocks.append([value, 1])
        while len(blocks) > 1 and blocks[-2][0] >= blocks[-1][0]:
            (first, count), (second, more) = blocks[-2:]
            blocks[-2:] = [[(first * count + second * more) / (count + more), count + more]]
    moved = np.concatenate([np.full(int(count), value) for value, count in blocks]) + apart * np.arange(len(places))
    result = np.empty(len(places))
    result[order] = moved
    return result


def _same(costs: np.ndarray) -> list[np.ndarray]:
    """Positions of costs (logarithms) that are nearly the same, a block each."""
    order = np.argsort(costs, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(costs[order]) > np.log10(SAME)) + 1)
