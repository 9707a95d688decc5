"""Trainers: which one is calling, whether its rows can be chosen, and what a training step costs."""

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from datasets import Dataset, IterableDataset
from transformers import Trainer
from trl import DPOTrainer


def calling_trainer() -> Trainer:
    """The trainer whose event this is. Events carry its model, arguments and loaders, but not the trainer itself."""
    frame = inspect.currentframe()
    try:
        while frame is not None:
            if isinstance(found := frame.f_locals.get("self"), Trainer):
                return found
            frame = frame.f_back
    finally:
        del frame
    raise ValueError("DIQCallback works inside a transformers `Trainer`, and none called it.")


def check_trainer(trainer: Trainer, needs_validation: bool) -> None:
    args, dataset = trainer.args, trainer.train_dataset
    if dataset is None or isinstance(dataset, IterableDataset | torch.utils.data.IterableDataset):
        raise ValueError(
            "DIQCallback chooses rows by position, and the training set is "
            f"{'missing' if dataset is None else 'a stream'}. Pass a map-style dataset, for instance "
            "`Dataset.from_generator(lambda: iter(stream))`."
        )
    if getattr(args, "packing", False) or getattr(args, "eval_packing", False):
        raise ValueError(
            "With `packing=True` rows are cut and joined, so none can be chosen. Pass `packing=False`; "
            "`padding_free=True` with `max_length=None` saves the padding as well."
        )
    if args.train_sampling_strategy == "batch_rebalance":
        raise ValueError(
            "`train_sampling_strategy='batch_rebalance'` makes its batches for the whole pool. Use 'random' or "
            "'group_by_length'."
        )
    if args.auto_find_batch_size:
        raise ValueError(
            "`auto_find_batch_size` changes the number of steps after they were planned. Set "
            "`per_device_train_batch_size`."
        )
    if args.dataloader_drop_last and len(dataset) < trainer.get_total_train_batch_size(args):
        raise ValueError(
            f"The training set has {len(dataset)} rows, less than one step takes, and `dataloader_drop_last=True` "
            "drops them. Set it to False."
        )
    if trainer.is_fsdp_enabled:
        raise ValueError(
            "Rows cannot be scored with a model sharded by FSDP. Use DDP (`torchrun` without `fsdp`), where every "
            "process holds the whole model; LoRA needs little more memory than the model."
        )
    if trainer.is_deepspeed_enabled and trainer.accelerator.state.deepspeed_plugin.zero_stage == 3:
        raise ValueError("Rows cannot be scored with a model sharded by ZeRO-3. Use DDP, or ZeRO stage 1 or 2.")
    if needs_validation and not trainer.eval_dataset:
        raise ValueError(
            "Influence is measured on validation rows, and there are none. Pass `eval_dataset` to the trainer, or "
            "`DIQCallback(validation=rows)`."
        )
    for rows in trainer.eval_dataset.values() if isinstance(trainer.eval_dataset, dict) else [trainer.eval_dataset]:
        if needs_validation and isinstance(rows, IterableDataset | torch.utils.data.IterableDataset):
            raise ValueError("The evaluation set is a stream. Pass `DIQCallback(validation=list_of_rows)`.")


def price_of_training(trainer: Trainer) -> float:
    """What training on a token costs, in the cost of scoring one: a forward pass and a backward pass to the inputs."""
    passes = 2 if hasattr(trainer.model, "peft_config") else 3  # the weights' own gradients, unless they are frozen
    passes += bool(trainer.args.gradient_checkpointing)
    # A preference's reference model runs for both.
    reference = isinstance(trainer, DPOTrainer) and not trainer.precompute_ref_logps
    return (passes + reference) / (2 + reference)


def row_lengths(dataset: Any) -> np.ndarray:
    """Tokens of each row."""
    for names in (("input_ids",), ("prompt_ids", "chosen_ids", "prompt_ids", "rejected_ids")):
        if isinstance(dataset, Dataset) and set(names) <= set(dataset.column_names):
            batches = dataset.select_columns(list(dict.fromkeys(names))).with_format("arrow").iter(batch_size=10000)
            return np.concatenate(
                [sum(pc.list_value_length(table[name]).to_numpy() for name in names) for table in batches]
            )
        if not isinstance(dataset, Dataset) and isinstance(dataset[0], Mapping) and set(names) <= set(dataset[0]):
            return np.array(
                [sum(len(row[name]) for name in names) for row in (dataset[i] for i in range(len(dataset)))]
            )
    raise ValueError(
        "The trainer's rows have no `input_ids`. DIQCallback works with SFTTrainer, DPOTrainer, and Trainer on "
        "tokenized rows."
    )
