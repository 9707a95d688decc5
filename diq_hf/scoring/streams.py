"""Streams past memory: scored chunk by chunk to Parquet on disk, rows and scores together, and joined to shards there.

A run that was killed goes on behind the chunks that are there: it goes to the position that was noted with the last of
them, reads that chunk again, and refuses where it finds other rows. A stream that cannot go to a position (one that is
shuffled as it is read) is read again from its start instead.

Every process of a launcher reads the whole stream and scores every n-th chunk, so that the scores are, on a CPU, bit
for bit those of one process, and those of [`~diq_hf.DIQScorer.score`] on the same rows as a `Dataset`.
"""

import json
from collections.abc import Iterator
from functools import cached_property
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from accelerate.utils import gather_object
from datasets import Dataset, Features, IterableDataset, load_dataset
from datasets.utils import tqdm

from ..difficulty.sources import ColumnDifficulty
from ..digest import digest
from ..files import check_writable, remove_leftovers, replacing_folder
from ..names import RECIPE
from .chunks import check_unchanged, launched_state, null_of, share_directions
from .columns import with_columns
from .mismatch import CANDIDATES, NULL_SIZE
from .reliability import HALVES, report
from .shards import ScoredStream, note_of, path_of, reliability_of, write


# Rows at the start of a stream that `mismatch` is calibrated on, that its columns' types are taken from where it does
# not name them, and that it is known again by.
FIRST_ROWS = CANDIDATES * NULL_SIZE


def score_to_folder(
    scorer: Any,
    stream: IterableDataset,
    output_dir: str | Path | None,
    chunk_size: int,
    cache_dir: str | Path | None,
    state: Any,
) -> IterableDataset:
    """A stream's rows with their scores as Parquet shards in a folder: see [`~diq_hf.DIQScorer.score`]."""
    if output_dir is None:
        raise ValueError("A stream is scored to disk. Name a new folder for its rows and scores: `output_dir=...`.")
    output = Path(output_dir)
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise FileExistsError(f"`output_dir` is {output}, which is there already. Name a new folder, or remove it.")
    check_writable(output)
    if scorer.engine.lockstep.size > 1:
        raise ValueError(
            "Processes that share a sharded model score every chunk together, and a stream's chunks are shared out. "
            "Score a `Dataset`, or a model that fits on each device."
        )
    state = launched_state(scorer.engine.device, state)
    scored = score_stream(scorer, stream, chunk_size, cache_dir, state)
    if state is None or state.is_main_process:
        with replacing_folder(output) as folder:
            scored.save_to_disk(folder)
            (folder / RECIPE).write_text(json.dumps(scorer.recipe().to_json(), indent=2) + "\n", encoding="utf-8")
        scored.remove()
    if state is not None:
        state.wait_for_everyone()
    files = sorted(str(path) for path in (output / "data").glob("*.parquet"))
    return load_dataset("parquet", data_files=files, split="train", streaming=True)


def score_stream(
    scorer: Any, stream: IterableDataset, chunk_size: int, cache_dir: str | Path | None, state: Any = None
) -> ScoredStream:
    """Scores a stream to chunks in `cache_dir`, on all processes of a launcher.

    Raises:
        `ValueError`: There are no rows, they are not all of the same columns and types, or they are not those of the
            run that is to be gone on with; or processes read different rows.
        `RuntimeError`: The stream cannot be read, or the model was changed meanwhile.
    """
    if chunk_size < 1:
        raise ValueError(f"`chunk_size` must be at least 1, got {chunk_size}.")
    state = launched_state(scorer.engine.device, state)
    rank, world = (0, 1) if state is None else (state.process_index, state.num_processes)
    scorer.weights_digest(again=True)
    fingerprint = scorer.fingerprint
    first = first_rows(stream)
    scorer._check_columns(first.column_names)
    if isinstance(scorer.difficulty, ColumnDifficulty):
        scorer.difficulty.missing(first)
    _agree(world, first._fingerprint, "begins with other rows")
    null = null_of(scorer, scorer.readable(first), cache_dir, state)
    root = share_directions(scorer, cache_dir, state)
    recipe = digest(["stream-1", fingerprint, first._fingerprint, chunk_size, null.digest if null else None])
    folder, features, num_rows = root / recipe, first.features, 0
    del first
    written: list[Path] = []
    with tqdm(desc="Chunks", unit=" chunks", disable=rank > 0) as bar:
        for chunk in _Source(stream, chunk_size, folder, recipe, rank, world):
            if chunk.is_own and not chunk.is_known:
                table = _table(chunk.examples, features, chunk.rows)
                path = path_of(folder, chunk.rows.start)
                write(path, _score(scorer, table, chunk.rows, null), chunk.note(recipe))
                written.append(path)
            num_rows = chunk.rows.stop
            bar.update()
    check_unchanged(scorer, fingerprint, written, "stream")
    _agree(world, num_rows, "ends with another row")  # and all have written what is theirs
    scored = ScoredStream(folder, chunk_size, num_rows, stream.split)
    if rank == 0:
        for place in (root, folder):
            remove_leftovers(place)
    if lost := [path.name for path in scored.paths if not path.exists()]:
        raise FileNotFoundError(
            f"{len(lost)} chunks, {lost[0]} among them, are not in {folder}. Every process must see the same "
            "`cache_dir`; run again to compute them."
        )
    scorer.audit = scorer.selection = None
    scorer.reliability = reliability_of(scored, scorer.validation)
    report(scorer.reliability)
    if state is not None:
        state.wait_for_everyone()  # before one of them joins the chunks and removes them
    return scored


def first_rows(stream: IterableDataset) -> Dataset:
    """The first rows of a stream as a dataset, named by its content: for whatever takes a look at rows beforehand.

    Raises:
        `ValueError`: There are none.
    """
    examples = list(islice(_rows(_plain(stream)), FIRST_ROWS))
    if not examples:
        raise ValueError("The stream has no rows. Look at what it reads, and at its filters.")
    first = _table(examples, stream.features, range(len(examples)))
    return Dataset(first.data, info=first.info, fingerprint=digest([examples, str(stream.features)]))


class _Chunk(NamedTuple):
    """Rows of a stream, and how to come to them again."""

    examples: list[dict]
    rows: range
    position: dict
    is_own: bool
    is_known: bool

    def note(self, recipe: str) -> dict:
        """What its file says of it."""
        rows = [self.rows.start, self.rows.stop]
        return {"recipe": recipe, "rows": rows, "digest": digest(self.examples), "position": self.position}


class _Source:
    """The chunks of a stream from the first that a process has not done: its own, each held against the one on disk,
    and those of others, which it reads past.

    Raises:
        `ValueError`: The stream has other rows than those on disk.
    """

    def __init__(
        self, stream: IterableDataset, chunk_size: int, folder: Path, recipe: str, rank: int = 0, world: int = 1
    ):
        self.stream, self.chunk_size, self.rank, self.world = stream, chunk_size, rank, world
        self.note = lambda start: note_of(path_of(folder, start), recipe)
        self.folder = folder

    @cached_property
    def shape(self) -> str:
        """Names what the stream is made of, for a position says nothing to a stream that is made otherwise."""
        fresh = _plain(self.stream)
        return digest([fresh.state_dict(), fresh.num_shards])

    def __iter__(self) -> Iterator[_Chunk]:
        start, position = self.last_done()
        stream = self.at(position)
        rows = _rows(stream, start)
        while True:
            position = {"shape": self.shape, "state": stream.state_dict()}
            examples = list(islice(rows, self.chunk_size))
            if not examples:
                return
            place = range(start, start + len(examples))
            is_own = start // self.chunk_size % self.world == self.rank
            note = self.note(start) if is_own else None
            if note is not None and not _are(examples, place, note):
                raise ValueError(
                    f"Rows {place[0]} to {place[-1]} of the stream are not those of the run before, which cannot be "
                    "gone on with: a stream must give the same rows in the same order again (a shuffle takes a seed, "
                    f"a dataset on the Hub a revision). Remove {self.folder} to score it anew."
                )
            yield _Chunk(examples, place, position, is_own, note is not None)
            start = place.stop

    def last_done(self) -> tuple[int, dict | None]:
        """The last chunk before the first that is missing, if the stream comes to its rows from the position that was
        noted with them; else its start. (A shuffle's buffer is in no position: behind it other rows come.)"""
        last = None
        for index in count(self.rank, self.world):
            if (note := self.note(index * self.chunk_size)) is None:
                break
            last = note
        if last is not None and last["position"]["shape"] == self.shape:
            start, stop = last["rows"]
            found = list(islice(_rows(self.at(last["position"]), start), stop - start))
            if _are(found, range(start, start + len(found)), last):
                return start, last["position"]
        return 0, None

    def at(self, position: dict | None) -> IterableDataset:
        """The stream from a position on."""
        stream = _plain(self.stream)
        if position is not None:
            stream.load_state_dict(position["state"])
        return stream


def _are(examples: list[dict], rows: range, note: dict) -> bool:
    return note["rows"] == [rows.start, rows.stop] and note["digest"] == digest(examples)


def _plain(stream: IterableDataset) -> IterableDataset:
    """A stream at its start: rows of Python's own types, images and the like as they are stored."""
    plain = (stream if stream.features is None else stream.decode(False)).with_format(None)
    plain.set_epoch(stream.epoch)
    return plain


def _rows(stream: IterableDataset, start: int = 0) -> Iterator[dict]:
    """Rows one by one; an error of the stream says where it was."""
    reader = iter(stream)
    for at in count(start):
        try:
            row = next(reader, None)
        except Exception as error:
            raise RuntimeError(
                f"The stream broke after {at} rows: {type(error).__name__}: {str(error).rstrip('.')}. What is scored "
                "is kept: mend the stream and run again."
            ) from error
        if row is None:
            return
        yield row


def _score(scorer: Any, table: Dataset, rows: range, null: Any) -> Dataset:
    """Rows with their scores."""
    examples = scorer.readable(table)[:]
    difficulties = None
    if scorer.difficulty_recipe(table.column_names) is not None:
        difficulties = scorer.difficulties(examples)
    columns = scorer.score_batch(examples, rows, difficulties, null, halves=True)
    columns.setdefault(HALVES, np.full(len(rows), np.nan, dtype=np.float32))
    return with_columns(table, columns)


def _table(examples: list[dict], features: Features | None, rows: range) -> Dataset:
    """Rows as a dataset of the given types."""
    names = dict.fromkeys(name for row in examples for name in row) if features is None else features
    if strangers := sorted({name for row in examples for name in row} - set(names)):
        raise ValueError(
            f"Rows {rows[0]} to {rows[-1]} of the stream have columns that its first rows do not: {strangers}. Give "
            "it the features of all rows: `stream.cast(features)`."
        )
    columns = {name: [row.get(name) for row in examples] for name in names}
    try:
        return Dataset.from_dict(columns, features=features)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise ValueError(
            f"Rows {rows[0]} to {rows[-1]} of the stream are not of its first rows' types: {error}. Give it "
            "the features of all rows: `stream.cast(features)`."
        ) from error


def _agree(world: int, value: Any, differs: str) -> None:
    """Makes sure that all processes have the same stream before them."""
    if world > 1 and len(set(gather_object([value]))) > 1:
        raise ValueError(
            f"The stream {differs} on one process than on another. Give every process the whole stream in one order: "
            "without `split_dataset_by_node`, and shuffled with a seed if at all."
        )
