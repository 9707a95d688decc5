"""The history of a training's selections on disk: which rows were scored, when, and which were chosen."""

import base64
import zlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
from datasets import ClassLabel, Dataset, Features, Value, concatenate_datasets

from .pool import SCORES, Choice, Pool
from .quadrants import QUADRANTS
from .report import COLORS


FEATURES = Features(
    {
        "step": Value("int64"),
        "row": Value("int64"),
        **{name: Value("float32") for name in SCORES},
        "quadrant": ClassLabel(names=list(QUADRANTS)),
        "selected": Value("bool"),
    }
)


class SelectionHistory:
    """One Parquet file a scoring: `load_dataset("parquet", data_files="output/diq/*.parquet")`.

    `row` is the row's position in the trainer's dataset, `step` the update step after which it was scored.

    Args:
        folder (`str` or `Path`):
            Where the files go.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def clear(self) -> None:
        """Removes what an earlier training wrote here."""
        for path in self._files():
            path.unlink()

    def add(self, step: int, pool: Pool, choice: Choice) -> None:
        """Writes one scoring; the same step again replaces it."""
        columns = {
            "step": np.full(len(choice.rows), step),
            "row": choice.rows,
            **{name: pool.scores[name][choice.rows] for name in SCORES},
            "quadrant": [None if code < 0 else int(code) for code in choice.quadrants],
            "selected": choice.chosen,
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step-{step:08d}.parquet"
        unfinished = path.with_suffix(".unfinished")
        parquet.write_table(Dataset.from_dict(columns, features=FEATURES).data.table, unfinished)
        unfinished.replace(path)

    def load(self) -> Dataset | None:
        """All scorings, in order; `None` if there are none."""
        parts = [Dataset(parquet.read_table(path)) for path in self._files()]
        return concatenate_datasets(parts) if parts else None

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.parquet"))


def plot_moves(history: Dataset, path: str | Path) -> Path:
    """Draws how rows move between quadrants: a column a scoring, and ribbons for rows that were in both.

    Args:
        history ([`~datasets.Dataset`]):
            What [`SelectionHistory.load`] gives.
        path (`str` or `Path`):
            Where the picture goes; its ending decides the format.

    Returns:
        `Path`: `path`.
    """
    from matplotlib.figure import Figure

    table = history.with_format("numpy")
    steps, rows, selected = table["step"][:], table["row"][:], table["selected"][:]
    codes = np.array([-1 if code is None else code for code in history["quadrant"][:]])
    rounds = np.unique(steps)
    figure = Figure(figsize=(max(6, 1.6 * len(rounds)), 5), layout="constrained")
    axes = figure.add_subplot()
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
            if counts[code]:
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
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(path, dpi=150)
    return Path(path)


def pack(values: np.ndarray) -> str:
    """An array as text, for a trainer's JSON state."""
    return f"{values.dtype.str}:" + base64.b85encode(zlib.compress(values.tobytes())).decode()


def unpack(text: str) -> np.ndarray:
    """What [`pack`] was given."""
    dtype, _, data = text.partition(":")
    return np.frombuffer(zlib.decompress(base64.b85decode(data)), dtype=dtype).copy()
