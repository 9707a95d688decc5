"""What a trainer trains each row for: the loss whose gradients are compared, on rows as its collator makes them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from trl import DPOTrainer

from ..engine.influence import Direction, InfluenceEngine, scoring_mode
from ..rows.encoded import IGNORE_INDEX, EncodedRow


class Objective(Protocol):
    """One kind of training loss."""

    def read(self, rows: Sequence[dict], collate: Callable) -> list[Any]:
        """Rows of the trainer's dataset as this objective's items; those of a row with nothing to train are `None`."""

    def gradient(self, items: Sequence[Any]) -> Direction:
        """Mean gradient of the items' losses."""

    def influences(self, items: Sequence[Any], direction: Direction) -> tuple[np.ndarray, np.ndarray]:
        """Dot of each item's gradient with a direction, and the item's loss."""

    def sequence(self, item: Any) -> EncodedRow:
        """The item as a row whose answer the model is to learn."""

    def num_tokens(self, item: Any) -> int:
        """Tokens that are run for it."""


class LanguageModeling:
    """Mean cross-entropy over a row's trained tokens: `SFTTrainer`, and `Trainer` with a causal language model."""

    def __init__(self, engine: InfluenceEngine):
        self.engine = engine

    def read(self, rows: Sequence[dict], collate: Callable) -> list[EncodedRow | None]:
        items = []
        for row in rows:
            batch = collate([row])
            if "input_ids" not in batch or "labels" not in batch:
                raise ValueError(
                    f"The trainer's batches hold {sorted(batch)}: without `input_ids` and `labels` there is no "
                    "language-model loss to score. DIQCallback works with SFTTrainer, DPOTrainer, and Trainer with a "
                    "collator that makes labels (`DataCollatorForLanguageModeling(tokenizer, mlm=False)`)."
                )
            real = batch["attention_mask"][0].bool() if "attention_mask" in batch else slice(None)
            item = EncodedRow(batch["input_ids"][0][real].numpy(), batch["labels"][0][real].numpy())
            items.append(item if item.num_trained else None)
        return items

    def gradient(self, items: Sequence[EncodedRow]) -> Direction:
        return self.engine.validation_gradient(items)

    def influences(self, items: Sequence[EncodedRow], direction: Direction) -> tuple[np.ndarray, np.ndarray]:
        return self.engine.score(items, direction)

    def sequence(self, item: EncodedRow) -> EncodedRow:
        return item

    def num_tokens(self, item: EncodedRow) -> int:
        return len(item)


@dataclass(frozen=True)
class Pair:
    """A chosen and a rejected answer, and the reference model's log-probability of each."""

    chosen: EncodedRow
    rejected: EncodedRow
    reference: tuple[float, float]


class PreferenceOptimization:
    """The DPO loss, -log σ(βΔ), with Δ the chosen answer's log-ratio to the reference model less the rejected one's.

    With c = β·σ(-βΔ) its gradient is c·(∇log π(rejected) - ∇log π(chosen)), and the gradient of an answer's
    log-probability is its mean cross-entropy's times minus its tokens. So both of a pair's answers are scored like
    any row, and their influences are combined.
    """

    def __init__(self, engine: InfluenceEngine, trainer: DPOTrainer):
        args = trainer.args
        others = {
            "loss_type": trainer.loss_types != ["sigmoid"],
            "f_divergence_type": trainer.f_divergence_type != "reverse_kl",
            "use_weighting": trainer.use_weighting,
            "ld_alpha": trainer.ld_alpha is not None,
            "sync_ref_model": args.sync_ref_model,  # a reference that changes
        }
        if unknown := [name for name, differs in others.items() if differs]:
            raise ValueError(
                f"DIQCallback knows the influence of the plain DPO loss, and {unknown[0]}="
                f"{getattr(args, unknown[0])!r} makes another. Train with the default, or select before training with "
                "`DIQScorer`."
            )
        self.engine, self.trainer, self.beta = engine, trainer, trainer.beta

    def read(self, rows: Sequence[dict], collate: Callable) -> list[Pair | None]:
        items, size = [], self.trainer.args.per_device_train_batch_size
        for start in range(0, len(rows), size):
            part = list(rows[start : start + size])
            batch = collate(part)
            count = len(part)
            if "ref_chosen_logps" in batch:
                chosen_logps, rejected_logps = batch["ref_chosen_logps"], batch["ref_rejected_logps"]
            else:
                model = self.trainer.ref_model or self.engine.model
                inputs = {name: tensor.to(self.engine.device) for name, tensor in batch.items()}
                with scoring_mode(self.engine.model):
                    chosen_logps, rejected_logps = self.trainer.compute_ref_log_probs(model, inputs)
            sequences = []
            for i in range(2 * count):
                real = batch["attention_mask"][i].bool()
                trained = batch["completion_mask"][i][real].bool()
                ids = batch["input_ids"][i][real]
                sequences.append(EncodedRow(ids.numpy(), ids.masked_fill(~trained, IGNORE_INDEX).numpy()))
            for i in range(count):
                pair = Pair(sequences[i], sequences[count + i], (float(chosen_logps[i]), float(rejected_logps[i])))
                items.append(pair if pair.chosen.num_trained and pair.rejected.num_trained else None)
        return items

    def gradient(self, items: Sequence[Pair]) -> Direction:
        rows = [row for item in items for row in (item.chosen, item.rejected)]
        slopes, losses = self._slopes(items, self.engine.losses(rows))
        # The engine takes the mean over twice as many rows as there are pairs.
        direction = self.engine.validation_gradient(rows, weights=2 * slopes.reshape(-1))
        return Direction(direction.tensors, len(items), float(losses.mean()))

    def influences(self, items: Sequence[Pair], direction: Direction) -> tuple[np.ndarray, np.ndarray]:
        influences, means = self.engine.score(
            [row for item in items for row in (item.chosen, item.rejected)], direction
        )
        slopes, losses = self._slopes(items, means)
        return (slopes * influences.reshape(-1, 2)).sum(axis=1), losses

    def sequence(self, item: Pair) -> EncodedRow:
        return item.chosen

    def num_tokens(self, item: Pair) -> int:
        return len(item.chosen) + len(item.rejected)

    def _slopes(self, items: Sequence[Pair], means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Derivative of each pair's loss by its answers' mean cross-entropies, of shape `(pairs, 2)`; and the loss."""
        tokens = np.array([[item.chosen.num_trained, item.rejected.num_trained] for item in items], dtype=float)
        log_ratios = -means.reshape(-1, 2) * tokens - np.array([item.reference for item in items])
        margins = self.beta * (log_ratios[:, 0] - log_ratios[:, 1])
        slope = self.beta * np.exp(-np.logaddexp(0, margins))  # β·σ(-margin)
        return slope[:, None] * tokens * [1, -1], np.logaddexp(0, -margins)
