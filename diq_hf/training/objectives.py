"""What a trainer trains each row for: the loss whose gradients are compared, on rows as its collator makes them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from accelerate.utils import send_to_device
from transformers import Trainer
from transformers.utils import logging
from trl import DPOTrainer, SFTTrainer

from ..engine.influence import Direction, InfluenceEngine, scoring_mode
from ..engine.modules import computed_dtype
from ..rows.encoded import IGNORE_INDEX, EncodedRow, RowError


logger = logging.get_logger(__name__)

# What a trained token counts for beside the others of its row, by `SFTConfig.loss_type`.
WEIGHTS: dict[str, Callable[[torch.Tensor], torch.Tensor] | None] = {
    "nll": None,
    "chunked_nll": None,
    "dft": lambda losses: torch.exp(
        -losses
    ),  # the probability of the token (https://huggingface.co/papers/2508.05629)
}
# Keys of a batch that say where its rows begin and end, which a row that is scored says by itself.
LAYOUT = {
    "attention_mask",
    "position_ids",
    "cu_seq_lens_q",
    "cu_seq_lens_k",
    "max_length_q",
    "max_length_k",
    "seq_idx",
}
ELSEWHERE = "Or select before training with `DIQScorer`."
# Rows that are looked at before a training starts.
SAMPLE = 8


class Objective(Protocol):
    """One kind of training loss."""

    def read(self, dataset: Any, rows: Sequence[int], collate: Callable) -> list[Any]:
        """Rows of a trainer's dataset as this objective's items; those of a row with nothing to train are `None`."""

    def gradient(self, items: Sequence[Any]) -> Direction:
        """Mean gradient of the items' losses."""

    def influences(self, items: Sequence[Any], direction: Direction) -> tuple[np.ndarray, np.ndarray]:
        """Dot of each item's gradient with a direction, and the item's loss."""

    def sequence(self, item: Any) -> EncodedRow:
        """The item as a row whose answer the model is to learn."""

    def sequences(self, item: Any) -> tuple[EncodedRow, ...]:
        """All that is run for it."""


def objective_of(trainer: Trainer, engine: InfluenceEngine) -> Objective:
    """The objective of a trainer that is about to train.

    Raises:
        `ValueError`: Its loss is no sum of its rows' known ones, or its batches hold something else than rows.
    """
    return (PreferenceOptimization if isinstance(trainer, DPOTrainer) else LanguageModeling)(engine, trainer)


class LanguageModeling:
    """Cross-entropy over a row's trained tokens: `SFTTrainer`, and `Trainer` with a causal language model.

    It is their mean, or with `loss_type="dft"` the mean in which each token is weighted with its own probability: the
    gradient is then that of minus the mean probability. A loss that is not known by the trainer's class is compared
    with this one on a row, by its gradient. A mixture of experts' load-balancing loss belongs to a batch, not to a
    row, and is left out.
    """

    def __init__(self, engine: InfluenceEngine, trainer: Trainer):
        args = trainer.args
        loss_type = args.loss_type if isinstance(trainer, SFTTrainer) else "nll"
        smoothed = trainer.label_smoother is not None and loss_type != "dft"  # which leaves it out
        _refuse(
            {
                "loss_type": loss_type if loss_type not in WEIGHTS else None,
                "label_smoothing_factor": args.label_smoothing_factor if smoothed else None,
                "compute_loss_func": trainer.compute_loss_func,
            },
            "the cross-entropy",
        )
        _warn_of_experts(trainer, engine)
        self.engine, self.trainer = engine, trainer
        self.keys = {"input_ids", "labels"} | LAYOUT
        engine.row_loss.reweight = WEIGHTS[loss_type]
        self.weighted = WEIGHTS[loss_type] is not None
        loader = trainer.callback_handler.train_dataloader
        self._try(loader.dataset, loader.collate_fn)

    def read(self, dataset: Any, rows: Sequence[int], collate: Callable) -> list[EncodedRow | None]:
        items = []
        for row in rows:
            batch = collate([dataset[row]])
            _check_keys(batch, self.keys)
            item = _unpadded(batch, row)
            items.append(item if item.num_trained else None)
        return items

    def gradient(self, items: Sequence[EncodedRow]) -> Direction:
        return self.engine.validation_gradient(items)

    def influences(self, items: Sequence[EncodedRow], direction: Direction) -> tuple[np.ndarray, np.ndarray]:
        return self.engine.score(items, direction)

    def sequence(self, item: EncodedRow) -> EncodedRow:
        return item

    def sequences(self, item: EncodedRow) -> tuple[EncodedRow, ...]:
        return (item,)

    def _try(self, dataset: Any, collate: Callable) -> None:
        """Looks at a few rows, and compares the trainer's own loss on one of them where it may be another."""
        known = type(self.trainer).compute_loss is SFTTrainer.compute_loss
        for row in spread(len(dataset)):
            batch = collate([dataset[row]])
            if "input_ids" not in batch or "labels" not in batch:
                raise ValueError(
                    f"The trainer's batches hold {sorted(batch)}: without `input_ids` and `labels` there is no "
                    "language-model loss to score. DIQCallback works with SFTTrainer, DPOTrainer, and Trainer with a "
                    "collator that makes labels (`DataCollatorForLanguageModeling(tokenizer, mlm=False)`)."
                )
            item = _unpadded(batch, row)
            if not item.num_trained or (known and set(batch) <= self.keys):
                continue
            others = sorted(set(batch) - self.keys)
            if (error := self._difference(batch, item)) > self._tolerance():
                own = f"{type(self.trainer).__name__} has a loss of its own"
                cause = f"its batches hold {others}" if others else own
                raise ValueError(
                    "DIQCallback knows the influence of the mean cross-entropy of a row's tokens, and this trainer's "
                    f"gradients differ from it (by {error:.0%} on training row {row}): {cause}. Train without, or "
                    "select before training with `DIQScorer`."
                )
            self.keys |= set(batch)
            known = True

    def _difference(self, batch: Mapping, item: EncodedRow) -> float:
        """How far the gradient of the trainer's own loss is from the one that is scored, relative to it."""
        expected = self.gradient([item]).tensors
        inputs = send_to_device(dict(batch), self.engine.device)
        own = self.engine.gradient_of(
            lambda: self.trainer.compute_loss(self.engine.model, inputs), inputs["input_ids"]
        )
        off, norm = 0.0, 0.0
        for name, gradient in expected.items():
            off += float((own[name] - gradient).square().sum())
            norm += float(gradient.square().sum())
        return (off / norm) ** 0.5 if norm else float(off > 0)

    def _tolerance(self) -> float:
        return max(1e-3, 16 * torch.finfo(computed_dtype(self.engine.row_loss.head.weight)).eps)


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

    The reference model does not change, so a training row's log-probabilities under it are computed once.
    """

    KEYS = frozenset(
        ("input_ids", "attention_mask", "completion_mask", "ref_chosen_logps", "ref_rejected_logps"),
    )

    def __init__(self, engine: InfluenceEngine, trainer: DPOTrainer):
        args, own = trainer.args, type(trainer)
        others = {
            "loss_type": args.loss_type if trainer.loss_types != ["sigmoid"] else None,
            "f_divergence_type": args.f_divergence_type if trainer.f_divergence_type != "reverse_kl" else None,
            "use_weighting": trainer.use_weighting or None,
            "ld_alpha": trainer.ld_alpha,
            "sync_ref_model": args.sync_ref_model or None,  # a reference that changes
        }
        for name in ("compute_loss", "_compute_loss"):
            changed = getattr(own, name, None) is not getattr(DPOTrainer, name, None)
            others[f"{own.__name__}.{name}"] = "its own" if changed else None
        _refuse(others, "the plain DPO loss")
        _warn_of_experts(trainer, engine)
        self.engine, self.trainer, self.beta = engine, trainer, trainer.beta
        self.weight = trainer.loss_weights[0]
        loader = trainer.callback_handler.train_dataloader
        self.dataset = loader.dataset
        self.references = np.full((len(self.dataset), 2), np.nan)
        for row in spread(len(self.dataset)):
            _check_keys(loader.collate_fn([self.dataset[row]]), self.KEYS)

    def read(self, dataset: Any, rows: Sequence[int], collate: Callable) -> list[Pair | None]:
        items, size = [], self.trainer.args.per_device_train_batch_size
        for start in range(0, len(rows), size):
            places = list(rows[start : start + size])
            part = [dataset[row] for row in places]
            batch = collate(part)
            _check_keys(batch, self.KEYS)
            references = self._references(dataset, places, part, batch, collate)
            sequences = []
            for i in range(2 * len(part)):
                real = batch["attention_mask"][i].bool()
                trained = batch["completion_mask"][i][real].bool()
                ids = batch["input_ids"][i][real]
                sequences.append(EncodedRow(ids.numpy(), ids.masked_fill(~trained, IGNORE_INDEX).numpy()))
            for chosen, rejected, reference in zip(
                sequences[: len(part)], sequences[len(part) :], references.tolist(), strict=True
            ):
                pair = Pair(chosen, rejected, tuple(reference))
                items.append(pair if chosen.num_trained and rejected.num_trained else None)
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

    def sequences(self, item: Pair) -> tuple[EncodedRow, ...]:
        return item.chosen, item.rejected

    def _references(self, dataset: Any, rows: list[int], part: list, batch: Mapping, collate: Callable) -> np.ndarray:
        """Log-probabilities of both answers of each row under the reference model, of shape `(rows, 2)`."""
        if "ref_chosen_logps" in batch:
            return torch.stack([batch["ref_chosen_logps"], batch["ref_rejected_logps"]], dim=1).cpu().double().numpy()
        known = self.references[rows] if dataset is self.dataset else np.full((len(rows), 2), np.nan)
        missing = np.flatnonzero(np.isnan(known).any(axis=1))
        if len(missing):
            if len(missing) < len(part):
                batch = collate([part[i] for i in missing])
            model = self.trainer.ref_model or self.engine.model
            inputs = {name: tensor.to(self.engine.device) for name, tensor in batch.items()}
            with scoring_mode(self.engine.model):
                found = self.trainer.compute_ref_log_probs(model, inputs)
            known[missing] = torch.stack(list(found), dim=1).cpu().double().numpy()
            if dataset is self.dataset:
                self.references[rows] = known
        return known

    def _slopes(self, items: Sequence[Pair], means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Derivative of each pair's loss by its answers' mean cross-entropies, of shape `(pairs, 2)`; and the loss."""
        tokens = np.array([[item.chosen.num_trained, item.rejected.num_trained] for item in items], dtype=float)
        log_ratios = -means.reshape(-1, 2) * tokens - np.array([item.reference for item in items])
        margins = self.beta * (log_ratios[:, 0] - log_ratios[:, 1])
        slope = self.weight * self.beta * np.exp(-np.logaddexp(0, margins))  # β·σ(-margin)
        return slope[:, None] * tokens * [1, -1], self.weight * np.logaddexp(0, -margins)


def spread(count: int) -> list[int]:
    """A few positions, from the first to the last."""
    return np.unique(np.linspace(0, count - 1, min(count, SAMPLE)).astype(int)).tolist()


def _refuse(others: Mapping[str, Any], known: str) -> None:
    for name, value in others.items():
        if value is not None:
            value = getattr(value, "__name__", value)
            raise ValueError(
                f"DIQCallback knows the influence of {known}, and {name}={value!r} makes another. Train with the "
                "default, or select before training with `DIQScorer`."
            )


def _warn_of_experts(trainer: Trainer, engine: InfluenceEngine) -> None:
    config = engine.model.config.get_text_config()
    if getattr(trainer, "aux_loss_enabled", getattr(config, "output_router_logits", False)):
        logger.warning(
            "The training adds its experts' load-balancing loss (`router_aux_loss_coef`), which belongs to a whole "
            "batch: DIQCallback scores rows by the rest of the loss."
        )


def _check_keys(batch: Mapping, known: set[str] | frozenset[str]) -> None:
    if unknown := sorted(set(batch) - known):
        raise ValueError(
            f"The trainer's batches hold {unknown}, and a row is scored without. Leave the columns out of the "
            f"training set or the collator. {ELSEWHERE}"
        )


def _unpadded(batch: Mapping, row: int) -> EncodedRow:
    """The only row of a batch, less its padding.

    Raises:
        [`RowError`]: It is not one sequence that is read from its start.
    """
    ids, labels = (batch[name][0].cpu() for name in ("input_ids", "labels"))
    mask, positions = batch.get("attention_mask"), batch.get("position_ids")
    if mask is not None:
        if mask.shape != batch["input_ids"].shape:
            raise RowError(f"Row {row} has an `attention_mask` of its own for pairs of tokens. {ELSEWHERE}")
        real = mask[0].cpu().bool()
        places = real.nonzero().flatten()
        if len(places) and int(places[-1] - places[0]) + 1 != len(places):
            raise RowError(f"Row {row} has an `attention_mask` with holes: it is no single sequence. {ELSEWHERE}")
    else:
        length = len(ids)
        if positions is not None:  # behind a flat batch each token of padding begins anew
            places = positions.reshape(-1).nonzero()
            length = int(places[-1]) + 1 if len(places) else 1
        real = torch.arange(len(ids)) < length
    if positions is not None:
        found = positions.reshape(-1).cpu().long()
        if len(found) != len(ids) or not torch.equal(found[real], torch.arange(int(real.sum()))):
            raise RowError(
                f"Row {row} has `position_ids` that are not 0, 1, 2, … to its end: it is several rows in one (packed, "
                "with `seq_lengths`), and would be scored as one. Pass the rows unpacked; `padding_free=True` with "
                f"`max_length=None` joins them without padding. {ELSEWHERE}"
            )
    return EncodedRow(ids[real].numpy(), labels[real].numpy())
