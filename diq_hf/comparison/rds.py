"""RDS+: rows whose last hidden states point where those of validation rows do (https://huggingface.co/papers/2503.01807).

A row, prompt and answer, is the mean of its tokens' last hidden states with weights that grow linearly with the
position; rows are compared by cosine. Validation rows then take turns, each naming the row nearest to it that it has
not named yet. As in the authors' code, a validation row that names what another has named before it has had its turn.
There the padding of a batch has a part in the mean; here a row is what it is alone.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from ..rows.encoded import EncodedRow
from ..selection.turns import places_in_turns
from .forward import Forward


def rank(
    model: nn.Module,
    pool: Sequence[EncodedRow],
    validation: Sequence[EncodedRow],
    max_tokens_per_batch: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """All rows of a pool, the first choice first.

    Args:
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            A causal language model, as it is before training.
        pool (`Sequence[EncodedRow]`):
            Rows to choose from.
        validation (`Sequence[EncodedRow]`):
            Rows they are to be near to. The order decides whose turn comes first.
        max_tokens_per_batch (`int`, *optional*):
            As in [`~diq_hf.engine.influence.InfluenceEngine`].
        progress (`Callable`, *optional*):
            Called with the number of rows just done, of `len(validation) + len(pool)`.

    Returns:
        `np.ndarray` of shape `(len(pool),)`: positions in the pool.
    """
    if not validation:
        raise ValueError("There are no validation rows, so no row is nearer to them than another. Pass at least one.")
    if not pool:
        return np.empty(0, dtype=np.int64)
    forward = Forward(model, max_tokens_per_batch)
    wanted, found = (_unit(forward.states(rows, weighted_mean, progress)) for rows in (validation, pool))
    return np.argsort(places_in_turns(wanted @ found.T))


def weighted_mean(states: torch.Tensor) -> torch.Tensor:
    """Mean of a row's states, of shape `(tokens, hidden_size)`; the token at position t, from 1, counts t times."""
    weights = torch.arange(1, len(states) + 1, dtype=states.dtype, device=states.device)
    return weights @ states / weights.sum()


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
