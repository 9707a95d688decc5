"""Rows of a trainer's pool that are passed over whatever their scores: wrong answers, and copies."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash
from datasets import Dataset
from transformers.utils import logging

from ..selection.scores import score_columns
from ..selection.settings import MAX_MISMATCH, MAX_SIMILARITY
from ..selection.texts import RowTexts
from .settings import Settings


logger = logging.get_logger(__name__)

# What trainers leave of a row: the ids that it is trained on, and which of them count.
IDS = ("input_ids", "labels", "prompt_ids", "completion_ids", "chosen_ids", "rejected_ids")
TEXTS = ("prompt", "messages", "conversations", "text")
# Rows of equal words are not the same beside these.
MORE_THAN_WORDS = ("image", "images", "pixel_values")


@dataclass(frozen=True)
class PassedOver:
    """What is passed over.

    Args:
        rows (`np.ndarray`):
            For each row of the pool, whether it is never selected.
        read (`Callable`, *optional*):
            Prompts and answers of some rows, of which no two that are too similar are selected together.
        max_similarity (`float`, *optional*, defaults to `1`):
            From this similarity on.
    """

    rows: np.ndarray
    read: Callable[[np.ndarray], list[tuple[str, str]]] | None = None
    max_similarity: float = 1


def passed_over(dataset: Any, settings: Settings) -> PassedOver:
    """What a training passes over.

    Args:
        dataset ([`~datasets.Dataset`] or any other):
            The trainer's `train_dataset`.
        settings ([`Settings`]):
            What was asked for.

    Raises:
        `ValueError`: A bound is given, and the dataset has nothing to apply it to.
    """
    names = dataset.column_names if isinstance(dataset, Dataset) else []
    rows = np.zeros(len(dataset), dtype=bool)
    bound, similarity = settings.max_mismatch, settings.max_similarity
    if "mismatch" in names and bound is not None:
        found = score_columns(dataset, ["mismatch"])["mismatch"]
        rows |= found > (MAX_MISMATCH if bound == "auto" else bound)
    elif isinstance(bound, float | int):
        raise ValueError(
            "`max_mismatch` needs the column 'mismatch', and the training set has none. Score it with "
            "`extra_columns=['mismatch']` first, or leave `max_mismatch` out."
        )
    if similarity is None or set(MORE_THAN_WORDS) & set(names):
        return PassedOver(rows)
    if ids := [name for name in IDS if name in names]:
        rows |= _repeated(dataset, ids, ~rows)
    similarity = MAX_SIMILARITY if similarity == "auto" else similarity
    if any(name in names for name in TEXTS):
        return PassedOver(rows, RowTexts(dataset), similarity)
    if similarity < 1:
        logger.warning_once(
            "The training set has no texts any more, so only rows of the same token ids count as copies. For rows "
            "that are nearly the same, select before they are tokenized, or keep the columns of their texts."
        )
    return PassedOver(rows)


def _repeated(dataset: Dataset, names: list[str], usable: np.ndarray) -> np.ndarray:
    """Whether an earlier row that is usable has the same ids."""
    repeated, seen, row = np.zeros(len(dataset), dtype=bool), set(), 0
    for table in dataset.select_columns(names).with_format("arrow").iter(1000):
        digests = [xxhash.xxh3_128() for _ in range(len(table))]
        for name in names:
            column = table.column(name).cast(pa.list_(pa.int64())).combine_chunks()
            values, ends = column.values.to_numpy(), column.offsets.to_numpy()
            for digest, start, end in zip(digests, ends, ends[1:], strict=False):
                digest.update(f"{end - start} ".encode())
                digest.update(values[start:end].tobytes())
        for digest in digests:
            key = digest.digest()
            repeated[row] = key in seen
            if usable[row]:
                seen.add(key)
            row += 1
    return repeated
