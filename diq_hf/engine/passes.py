"""The model run over rows: in batches, on every process that holds a shard of it, with probes in its modules."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn
from transformers.utils import logging

from ..rows.batching import Batch, TokenBudget
from ..rows.encoded import EncodedRow, RowError
from .attention import Packing
from .lockstep import IDLE_ROW, Lockstep
from .loss import RowLoss
from .memory import memory_plan
from .modes import evaluating, scoring_mode
from .modules import check_quantization, scored_modules
from .positions import row_limit
from .probes import Probes
from .recomputing import Recomputing
from .sharding import Sharding, check_placement, device_of
from .spread import Spread


logger = logging.get_logger(__name__)

Result = TypeVar("Result")


class Passes:
    """What one model is run with: the lower half of [`~diq_hf.engine.influence.InfluenceEngine`]."""

    def __init__(
        self,
        model: nn.Module,
        target_modules: str | Sequence[str] | None = None,
        max_tokens_per_batch: int | None = None,
    ):
        check_placement(model)
        self.model = model
        self.modules = scored_modules(model, target_modules)
        check_quantization(model)
        self.sharding = Sharding(model)
        self.device = device_of(model.get_input_embeddings())
        self.lockstep = Lockstep(self.sharding, self.device)
        with evaluating(model):  # once, for all that is tried out
            self.sharding.forward(self._try_out)
        if self.sharding.offloaded:
            self.recomputing.prefer()
        # Processes make their batches alike.
        self.packing.possible = self.lockstep.all_agree(self.packing.possible)
        self.probes = Probes(self.modules)
        self.spread = Spread(self.modules, self.lockstep, whole=hasattr(model, "peft_config"))
        self.budget = TokenBudget.on(self.device, max_tokens_per_batch, self.packing.possible)
        self._planned = False

    def _try_out(self) -> None:
        self.row_loss = RowLoss(self.model, self.sharding)
        backbone, decoder = self.row_loss.backbone, self.row_loss.decoder
        self.row_limit = row_limit(backbone, decoder, self.model.config.get_text_config())
        self.packing = Packing(backbone, decoder)
        self.recomputing = Recomputing(decoder, self.sharding)

    def check_row(self, row: EncodedRow) -> None:
        """
        Raises:
            [`RowError`]: The row is longer than the model's positions.
        """
        if self.row_limit is not None:
            self.row_limit.check(row)

    def losses(self, rows: Sequence[EncodedRow], progress: Callable[[int], None] | None = None) -> np.ndarray:
        """Loss of each row, by a forward pass alone: nats, float64, of shape `(len(rows),)`."""
        self._check(rows)
        loss, mine = np.full(len(rows), np.nan), self.lockstep.share(rows)
        own = [rows[i] for i in mine]

        def forward(indices: list[int]) -> np.ndarray:
            run = [own[i] for i in indices] or [IDLE_ROW]
            return self._means(self._batch(run), run).cpu().double().numpy()

        with scoring_mode(self.model), self.packing.applied(), torch.no_grad():
            for indices, found in self._run(own, forward, progress):
                loss[[mine[i] for i in indices]] = found
        return self.lockstep.joined(mine, loss)

    def _run(
        self,
        rows: Sequence[EncodedRow],
        function: Callable[[list[int]], Result],
        progress: Callable[[int], None] | None,
    ) -> Iterator[tuple[list[int], Result]]:
        """Passes over this process's rows, in step with the others'."""
        backward = torch.is_grad_enabled()  # without a backward pass nothing is kept, nor made again
        with self.recomputing.applied():
            if backward and not self._planned:
                self._plan(function)
            relief = self._relief if backward else None
            with closing(self.lockstep.run(rows, self.budget, function, relief, progress)) as passes:
                yield from passes

    def _relief(self, switch: bool) -> bool:
        self.probes.rest()
        return self.recomputing(switch)

    def _plan(self, function: Callable[[list[int]], Any]) -> None:
        """Logs what this will take, where anybody reads it."""
        self._planned = True
        if self.lockstep.all_agree(not logger.isEnabledFor(logging.INFO)):
            return
        one_pass, size = lambda: function([]), len(IDLE_ROW)
        plan = memory_plan(self.model, self.spread.numel(), one_pass, size, self.budget.max_tokens, self.device)
        self.sharding.settle()
        logger.info(plan)

    def _check(self, rows: Sequence[EncodedRow], name: str = "Row") -> None:
        for i, row in enumerate(rows):
            try:
                self.check_row(row)
            except RowError as error:
                raise RowError(f"{name} {i}: {error}") from error

    def _batch(self, rows: Sequence[EncodedRow]) -> Batch:
        return Batch.of(rows, self.packing.possible, self.device)

    def _means(self, batch: Batch, rows: Sequence[EncodedRow]) -> torch.Tensor:
        losses = self.row_loss(batch)
        return losses / losses.new_tensor([row.num_trained for row in rows])
