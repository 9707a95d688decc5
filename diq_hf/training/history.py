"""The history of a training's selections on disk: which rows were scored, when, and which were chosen."""

import base64
import zlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
from datasets import ClassLabel, Dataset, Features, Value, concatenate_datasets

from ..files import replacing
from ..selection.quadrants import QUADRANTS
from .pool import SCORES, Choice, Pool


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

    def clear(self, after: int = -1) -> None:
        """Removes what an earlier training wrote here about later steps."""
        for path in self._files():
            if int(path.stem.removeprefix("step-")) > after:
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
        with replacing(self.folder / f"step-{step:08d}.parquet") as unfinished:
            parquet.write_table(Dataset.from_dict(columns, features=FEATURES).data.table, unfinished)

    def load(self) -> Dataset | None:
        """All scorings, in order; `None` if there are none."""
        parts = [Dataset(parquet.read_table(path)) for path in self._files()]
        return concatenate_datasets(parts) if parts else None

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.parquet"))


def pack(values: np.ndarray) -> str:
    """An array as text, for a trainer's JSON state."""
    return f"{values.dtype.str}:" + base64.b85encode(zlib.compress(values.tobytes())).decode()


def unpack(text: str) -> np.ndarray:
    """What [`pack`] was given."""
    dtype, _, data = text.partition(":")
    return np.frombuffer(zlib.decompress(base64.b85decode(data)), dtype=dtype).copy()
