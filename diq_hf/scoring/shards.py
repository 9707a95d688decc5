"""Rows with their scores in Parquet files: a chunk each while a stream is scored, joined to shards when it is done.

A chunk's file is named by the position of its first row and says what it holds. No more of a
stream than a chunk is in memory.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features
from transformers.utils import logging

from ..files import replacing
from ..rows.encoded import EncodedRow
from .columns import count_missing
from .reliability import HALVES, Reliability, half_counts, reliability


logger = logging.get_logger(__name__)

# Rows, evenly spaced, that the ranks' reliability is taken from.
COMPARED_ROWS = 100_000
# Bytes of a shard at most, as `datasets` has it.
SHARD_BYTES = 500 * 2**20
# Under this key a chunk's file says what it holds.
NOTE = b"diq_chunk"


@dataclass(frozen=True)
class ScoredStream:
    """A stream's rows with their scores, in chunks on disk.

    Args:
        folder (`Path`):
            Of the chunks.
        chunk_size (`int`):
            Rows in each but the last.
        num_rows (`int`):
            All rows.
        split (`str`, *optional*):
            The split that was read.
    """

    folder: Path
    chunk_size: int
    num_rows: int
    split: Any = None

    def __len__(self) -> int:
        return self.num_rows

    @property
    def paths(self) -> list[Path]:
        """The chunks' files, in the stream's order."""
        return [path_of(self.folder, start) for start in range(0, self.num_rows, self.chunk_size)]

    def parts(self) -> Iterator[Dataset]:
        """The rows, chunk by chunk."""
        return (Dataset(_read(path)) for path in self.paths)

    def save_to_disk(self, folder: Path) -> None:
        """Joins the chunks to Parquet shards in `folder/data`, one chunk in memory at a time."""
        shards: list[list[Path]] = [[]]
        size = 0
        for path in self.paths:
            if shards[-1] and size + path.stat().st_size > SHARD_BYTES:
                shards.append([])
                size = 0
            shards[-1].append(path)
            size += path.stat().st_size
        place = folder / "data"
        place.mkdir(parents=True)
        features = Features.from_arrow_schema(pq.read_schema(self.paths[0]))
        del features[HALVES]
        schema = features.arrow_schema
        for i, chunks in enumerate(shards):
            name = f"train-{i:05d}-of-{len(shards):05d}.parquet"  # as the Hub names them, whatever split was read
            with pq.ParquetWriter(place / name, schema, write_page_checksum=True) as writer:
                for path in chunks:
                    writer.write_table(_read(path).select(schema.names).cast(schema))

    def remove(self) -> None:
        """Removes the chunks, once they are joined elsewhere."""
        rmtree(self.folder, ignore_errors=True)


def path_of(folder: Path, start: int) -> Path:
    """A chunk's file, by the position of its first row."""
    return folder / f"{start:012d}.parquet"


def write(path: Path, scored: Dataset, note: dict) -> None:
    """Writes a chunk with a note of what it holds: a killed process leaves no such file behind."""
    schema = scored.features.arrow_schema
    schema = schema.with_metadata({**(schema.metadata or {}), NOTE: json.dumps(note).encode()})
    with replacing(path) as unfinished:
        pq.write_table(scored.with_format("arrow")[:].cast(schema), unfinished, write_page_checksum=True)


def note_of(path: Path, recipe: str) -> dict | None:
    """What a chunk's file says, or `None` if it has to be computed. One that was moved here is another's."""
    try:
        metadata = pq.read_schema(path).metadata or {}
    except FileNotFoundError:
        return None
    except (OSError, pa.ArrowException) as error:
        logger.warning(f"Computing a chunk again: {path} is torn: {error}")
        return None
    note = json.loads(metadata.get(NOTE, b"{}"))
    return note if note.get("recipe") == recipe and path_of(path.parent, note["rows"][0]) == path else None


def _read(path: Path, columns: list[str] | None = None) -> pa.Table:
    """A chunk, or some of its columns; a damaged one is removed, so that it is computed again."""
    try:
        return pq.read_table(path, columns=columns, page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        path.unlink(missing_ok=True)
        raise OSError(f"{path} was damaged and is removed: {error}. Run again to have it computed again.") from error


def reliability_of(scored: ScoredStream, validation: Mapping[Any, Sequence[EncodedRow]]) -> Reliability | None:
    """Of evenly spaced rows; also logs how many rows have no influence or no difficulty."""
    every = math.ceil(scored.num_rows / COMPARED_ROWS)
    influences, differences, unscored, missing = [], [], [], []
    kinds = {field.name: field.type for field in pq.read_schema(scored.paths[0])}
    name = "difficulty" if pa.types.is_floating(kinds.get("difficulty", pa.null())) else "influence"
    for i, path in enumerate(scored.paths):
        table = _read(path, list({"influence", HALVES, name}))
        influence, difference, difficulty = (table[column].to_numpy() for column in ("influence", HALVES, name))
        missing += (i * scored.chunk_size + np.flatnonzero(~np.isfinite(difficulty) & ~np.isnan(influence))).tolist()
        unscored += (i * scored.chunk_size + np.flatnonzero(np.isnan(influence))).tolist()
        start = -i * scored.chunk_size % every
        influences.append(influence[start::every])
        differences.append(difference[start::every])
    if unscored:
        logger.warning(f"{len(unscored)} of {scored.num_rows} rows were not scored, row {unscored[0]} the first.")
    count_missing(np.array(missing), scored.num_rows)
    difference = np.concatenate(differences)
    if np.isnan(difference).all():
        return None
    first, second = zip(*half_counts(validation), strict=True)
    return reliability(np.concatenate(influences), difference, (sum(first), sum(second)))
