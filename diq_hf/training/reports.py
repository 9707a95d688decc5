"""What is told of a selection: numbers for every tracker, and a table and histograms where the trainer has trackio."""

from typing import Any

import numpy as np
from transformers import Trainer
from transformers.integrations import TrackioCallback

from ..selection.quadrants import QUADRANTS
from .pool import Choice, Pool


TABLE_ROWS = 100
BINS = 40


def numbers(pool: Pool, choice: Choice, before: np.ndarray | None) -> dict[str, float]:
    """A selection in numbers, as a trainer logs them."""
    selection = choice.selection
    logs = {"diq/scored": len(choice.rows), "diq/selected": len(selection)}
    if choice.rule is not None:
        logs |= {f"diq/{name}": int((choice.quadrants == code).sum()) for code, name in enumerate(QUADRANTS)}
        logs["diq/difficulty_threshold"] = choice.rule.difficulty_threshold
        logs["diq/influence_threshold"] = choice.rule.influence_threshold
    if before is not None:
        logs["diq/overlap"] = float(np.isin(selection, before).mean())
    for name in ("difficulty", "influence"):
        for group, chosen in (("selected", choice.chosen), ("rest", ~choice.chosen)):
            values = pool.scores[name][choice.rows[chosen]]
            if np.isfinite(values).any():
                logs[f"diq/{name}_{group}"] = float(np.nanmean(values))
    return logs


def show_in_trackio(trainer: Trainer, step: int, pool: Pool, choice: Choice) -> None:
    """Logs histograms of the scores and a table of the first chosen rows, beside the trainer's own numbers.

    Nothing is done where the trainer does not report to trackio.
    """
    callbacks = trainer.callback_handler.callbacks
    if not trainer.is_world_process_zero() or not any(isinstance(each, TrackioCallback) for each in callbacks):
        return
    import trackio

    scores = {name: pool.scores[name] for name in ("difficulty", "influence")}
    shown: dict[str, Any] = {}
    for name, values in scores.items():
        known = values[choice.rows]
        if np.isfinite(known).any():
            shown[f"train/diq/{name}"] = trackio.Histogram(known, num_bins=BINS)
    rows, quadrants = choice.rows[choice.chosen], choice.quadrants[choice.chosen]
    # Q1 first, in it the largest influence first; rows without a quadrant or a score come last.
    order = np.lexsort((-np.nan_to_num(scores["influence"][rows], nan=-np.inf), np.where(quadrants < 0, 4, quadrants)))
    table = [
        {
            "row": int(rows[i]),
            "quadrant": QUADRANTS[quadrants[i]] if quadrants[i] >= 0 else None,
            **{name: _known(values[rows[i]]) for name, values in scores.items()},
        }
        for i in order[:TABLE_ROWS]
    ]
    columns = ["row", "quadrant", *scores]
    shown["train/diq/selection"] = trackio.Table(
        columns=columns, data=[[line[name] for name in columns] for line in table]
    )
    # As `TrackioCallback` does, which names its numbers so and leaves the counting to trackio.
    trackio.log(shown | {"train/global_step": step})


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
