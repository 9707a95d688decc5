"""What rows say, as digests beside their scores: so that no other text can stand beside the scores of a row.

A digest is over all columns of a published row but those of the published scores. Neither the order of the columns nor
their Arrow types nor a trip through Parquet changes it; in a struct, a key that is null is the same as none.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datasets import Dataset


CONTENT = "content_digest"
# The column that says which row of the pool a row of the subset is: `diq_rank` is another in each.
RANK = "diq_rank"
# Rows and bytes that are in memory at once: a few bytes of Parquet may unfold to many of text.
BATCH, MEMORY = 256, 1_000_000_000


def add_contents(scores: Dataset, pool: Dataset, subset: Dataset) -> Dataset:
    """Scores of a pool, with a digest of the content of each of its rows.

    Args:
        scores ([`~datasets.Dataset`]):
            A row for each of the pool, without texts.
        pool ([`~datasets.Dataset`]):
            The pool.
        subset ([`~datasets.Dataset`]):
            The rows of it that are published, whose columns are digested.

    Raises:
        `ValueError`: The subset has a column that the pool lacks.
    """
    columns = content_columns(subset.column_names, scores.column_names)
    if missing := [name for name in columns if name not in pool.column_names]:
        raise ValueError(
            f"The subset has the columns {missing}, which the scored pool lacks: nothing shows that they are of the "
            "same rows. Remove them, or add them to the pool before rows are selected."
        )
    if not columns:  # there is nothing but scores
        return scores
    return scores.add_column(CONTENT, list(digests(batches(pool, columns))))


def content_columns(published: Iterable[str], scores: Iterable[str]) -> list[str]:
    """The columns that digests are over: of the published rows, those that the published scores lack."""
    return sorted(set(published) - set(scores))


def batches(rows: Dataset, columns: Sequence[str]) -> Iterator[Any]:
    """Columns of a dataset in Arrow tables of a few rows."""
    return iter(rows.with_format("arrow").select_columns(list(columns)).iter(BATCH))


def batches_of_files(files: Iterable[Path], columns: Sequence[str]) -> Iterator[Any]:
    """The same of Parquet files."""
    for file in files:
        parquet = pq.ParquetFile(file)
        metadata = parquet.metadata
        groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
        chunks = [group.column(i).total_uncompressed_size for group in groups for i in range(metadata.num_columns)]
        # At worst, each row repeats the one long text that a column holds.
        rows = max(1, min(BATCH, MEMORY // max(1, *chunks, 1)))
        yield from parquet.iter_batches(rows, columns=list(columns))


def digests(tables: Iterable[Any]) -> Iterator[str]:
    """A digest a row."""
    for table in tables:
        names = table.schema.names
        columns = [table.column(name).to_pylist() for name in names]
        for i in range(table.num_rows):
            row = {name: column[i] for name, column in zip(names, columns, strict=True)}
            text = json.dumps(_without_null(row), sort_keys=True, default=_named)
            yield hashlib.sha256(text.encode()).hexdigest()[:32]


def different_contents(scores: Dataset, ranks: Sequence[int], found: Iterable[str]) -> list[str]:
    """Whether rows of a subset say something else than when they were scored, in one sentence.

    Args:
        scores ([`~datasets.Dataset`]):
            The pool's scores, with digests.
        ranks (`Sequence[int]`):
            `diq_rank` of each row of the subset.
        found (`Iterable[str]`):
            The rows' digests.
    """
    stated = dict(zip(scores[RANK][:], scores[CONTENT][:], strict=True))
    found = list(found)
    wrong = [i for i, (rank, said) in enumerate(zip(ranks, found, strict=True)) if stated.get(rank) != said]
    if not wrong:
        return []
    return [
        f"the subset: the content of {len(wrong)} of {len(found)} rows, first of row {wrong[0]}, is not that of the "
        "rows that were scored"
    ]


def _without_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_null(part) for name, part in value.items() if part is not None}
    return [_without_null(part) for part in value] if isinstance(value, list | tuple) else value


def _named(value: Any) -> list[str]:
    """What JSON does not have: dates, decimals, bytes."""
    return [type(value).__name__, value.hex() if isinstance(value, bytes) else str(value)]
