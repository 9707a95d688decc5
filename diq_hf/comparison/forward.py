"""Rows through a model without gradients: what each costs it, and what it makes of their tokens."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from ..engine.attention import Packing
from ..engine.loss import RowLoss
from ..engine.modes import evaluating
from ..engine.positions import row_limit
from ..engine.sharding import Sharding, check_placement, device_of
from ..rows.batching import Batch, TokenBudget
from ..rows.encoded import EncodedRow, RowError


class Forward:
    """Forward passes over rows, in eval mode and in batches by a budget of tokens. The model comes back as it was.

    Unlike [`~diq_hf.engine.influence.InfluenceEngine`] it asks nothing of what the model trains, so models with DoRA,
    `modules_to_save` or frozen adapters may be looked at as well.

    Args:
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            A causal language model.
        max_tokens_per_batch (`int`, *optional*):
            Tokens in a batch, padding counted; halved by itself when memory runs out. By default 2048 on a CPU and
            16384 elsewhere.
    """

    def __init__(self, model: nn.Module, max_tokens_per_batch: int | None = None):
        check_placement(model)
        self.model = model
        with evaluating(model):
            self.row_loss = RowLoss(model, Sharding(model))
            self.backbone = self.row_loss.backbone
            self.row_limit = row_limit(self.backbone, self.row_loss.decoder, model.config.get_text_config())
            self.packing = Packing(self.backbone, self.row_loss.decoder)
        self.device = device_of(model.get_input_embeddings())
        self.budget = TokenBudget.on(self.device, max_tokens_per_batch, self.packing.possible)

    def losses(self, rows: Sequence[EncodedRow], progress: Callable[[int], None] | None = None) -> np.ndarray:
        """Each row's cross-entropy, summed over its trained tokens: nats, float64, of shape `(len(rows),)`."""
        return self._run(rows, lambda batch: self.row_loss(batch), progress)

    def states(
        self,
        rows: Sequence[EncodedRow],
        pool: Callable[[torch.Tensor], torch.Tensor],
        progress: Callable[[int], None] | None = None,
    ) -> np.ndarray:
        """What `pool` makes of each row's last hidden states, in float32 or wider: float64, a vector a row."""

        def pooled(batch: Batch) -> torch.Tensor:
            hidden = self.backbone(**batch.model_inputs).last_hidden_state
            wide = torch.promote_types(hidden.dtype, torch.float32)  # not every device has float64
            return torch.stack([pool(row.to(wide)) for row in batch.rows(hidden)])

        return self._run(rows, pooled, progress)

    def _run(
        self,
        rows: Sequence[EncodedRow],
        read: Callable[[Batch], torch.Tensor],
        progress: Callable[[int], None] | None,
    ) -> np.ndarray:
        for i, row in enumerate(rows):
            try:
                if self.row_limit is not None:
                    self.row_limit.check(row)
            except RowError as error:
                raise RowError(f"Row {i}: {error}") from error

        def forward(indices: list[int]) -> np.ndarray:
            batch = Batch.of([rows[i] for i in indices], self.packing.possible, self.device)
            return read(batch).cpu().double().numpy()

        found: list[np.ndarray] = [np.empty(0)] * len(rows)
        with evaluating(self.model), self.packing.applied(), torch.no_grad():
            for indices, values in self.budget.run(rows, forward):
                for i, value in zip(indices, values, strict=True):
                    found[i] = value
                if progress is not None:
                    progress(len(indices))
        return np.array(found)
