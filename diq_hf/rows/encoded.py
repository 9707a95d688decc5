"""A row as the model sees it: token ids, and labels where they are trained."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import xxhash


IGNORE_INDEX = -100


class RowError(ValueError):
    """A row that cannot be scored. The message says what is wrong with it and what to change."""


@dataclass(frozen=True)
class EncodedRow:
    """Token ids of one row and the labels it is trained on.

    Args:
        input_ids (`np.ndarray` of shape `(length,)`):
            Token ids.
        labels (`np.ndarray` of shape `(length,)`):
            `input_ids` where a token is trained and -100 elsewhere. As in every causal language model the label at
            position t is predicted from position t - 1, so the first one never counts.
    """

    input_ids: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def num_trained(self) -> int:
        """Number of tokens whose cross-entropy is averaged into the row's loss."""
        return int((self.labels[1:] != IGNORE_INDEX).sum())


def rows_digest(rows: Iterable[EncodedRow]) -> str:
    """Digest of encoded rows, in order."""
    state = xxhash.xxh3_128()
    for row in rows:
        state.update(len(row).to_bytes(8, "little"))
        state.update(row.input_ids)
        state.update(row.labels)
    return state.hexdigest()
