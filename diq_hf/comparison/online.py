"""`diq-online`: rows chosen again while training, at the same tokens and steps as by those who choose once."""

import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from .batches import cut
from .pool import Pool
from .strategies import Strategy


# So many times the rows of the next part are chosen.
PARTS = 4


class OnlineBatches(Sampler[list[int]]):
    """Batches of equal tokens, each part of which is chosen by the weights that the training has reached.

    Args:
        model (`Any`):
            The model in training.
        pool ([`Pool`]):
            The rows, with the scores before any training, by which the first part is chosen. Batches are positions in
            [`Pool.usable`].
        strategy ([`Strategy`]):
            How rows are chosen of those that were not trained yet.
        num_tokens (`int`):
            The budget in trained tokens.
        num_batches (`int`):
            Batches in all.
    """

    def __init__(self, model: Any, pool: Pool, strategy: Strategy, num_tokens: int, num_batches: int):
        self.model, self.pool, self.strategy = model, pool, strategy
        self.num_tokens, self.num_batches = num_tokens, num_batches
        self.taken: list[int] = []
        """Positions of the rows that were chosen, in the pool."""

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[list[int]]:
        pool, place = self.pool, {int(row): i for i, row in enumerate(self.pool.usable)}
        num_trained, parts = pool.num_trained, min(PARTS, self.num_batches)
        self.taken = []
        for part in range(parts):
            scored = pool.scored if part == 0 else self._scored()
            left = np.setdiff1d(pool.usable, self.taken)
            # What earlier parts fell short by is made up for.
            budget = round(self.num_tokens * (part + 1) / parts) - int(num_trained[self.taken].sum())
            rows = left[self.strategy.take(scored.select(left), num_tokens=budget)]
            self.taken += rows.tolist()
            batches = self.num_batches * (part + 1) // parts - self.num_batches * part // parts
            for batch in cut(num_trained[rows], batches):
                yield [place[int(row)] for row in rows[batch.start : batch.stop]]

    def _scored(self) -> Any:
        """The pool by the model as it is now; whether an answer belongs to its prompt is no matter of training."""
        scored = self.pool.scored
        kept = [name for name in ("num_trained", "mismatch") if name in scored.column_names]
        bare = scored.select_columns([*self.pool.row_columns, *kept])
        with tempfile.TemporaryDirectory() as folder:
            return self.pool.scoring.scorer(self.model, bare, mismatch=False).score(bare, cache_dir=folder)
