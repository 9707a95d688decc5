"""Trainers: which one is calling, whether its rows can be chosen, and what a training step costs."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pyarrow.compute as pc
import torch
from accelerate.data_loader import BatchSamplerShard
from datasets import Dataset, IterableDataset
from torch.utils.data import BatchSampler, RandomSampler, SequentialSampler
from transformers import Trainer, TrainerState
from transformers.trainer_pt_utils import LengthGroupedSampler
from trl import DPOTrainer

from ..engine.sharding import check_placement, check_torch
from .plan import planned_by_budget
from .sampler import SelectionSampler
from .settings import Settings


STREAMS = (IterableDataset, torch.utils.data.IterableDataset)
# Trainers whose rows have no loss of their own to score, by name, since TRL moves them about; and what to do instead.
_SFT_OR_DPO = "Train with SFTTrainer or DPOTrainer, or select first"
OTHER_LOSSES = {
    **dict.fromkeys(
        (
            *("GRPOTrainer", "AsyncGRPOTrainer", "A2POTrainer", "RLOOTrainer", "OnlineDPOTrainer"),
            *("NashMDTrainer", "XPOTrainer", "PPOTrainer", "SDPOTrainer"),
        ),
        "draws its answers while it trains, so a row has none to score before. Select prompts first, with a right "
        "answer as `completion` and how often they are solved as difficulty: `diq score --difficulty column:pass_rate "
        "--lower-is-harder`, then `diq select`.",
    ),
    "KTOTrainer": "compares each row with others of its batch (the KL term), so a row's loss is no row's own. "
    f"{_SFT_OR_DPO}: `diq score` reads `prompt` and `completion` of the desirable rows.",
    **dict.fromkeys(
        ("ORPOTrainer", "CPOTrainer", "TPOTrainer", "BCOTrainer"),
        "trains on a loss whose gradient DIQCallback does not know. "
        f"{_SFT_OR_DPO}: `diq score` reads `prompt` with `chosen` renamed to `completion`.",
    ),
    **dict.fromkeys(
        ("RewardTrainer", "PRMTrainer"),
        "trains a reward model, which predicts no tokens. Select its rows first with a language model: `diq score`, "
        "with `chosen` renamed to `completion`.",
    ),
    **dict.fromkeys(
        (
            "DistillationTrainer",
            "AsyncDistillationTrainer",
            "GKDTrainer",
            "GOLDTrainer",
            "IWOPDTrainer",
            "SDFTTrainer",
        ),
        f"learns a teacher's probabilities, which are no labels of the rows. {_SFT_OR_DPO}: `diq score`, then "
        "`diq select`.",
    ),
}
# The sampler that Trainer makes, by `train_sampling_strategy`.
SAMPLERS = {"random": RandomSampler, "sequential": SequentialSampler, "group_by_length": LengthGroupedSampler}


@dataclass(frozen=True)
class Binding:
    """What a trainer's callback was given, and whether the trainer was given a schedule of the learning rate."""

    settings: Settings
    own_schedule: bool


# Trainers that were checked. By them a callback finds its trainer: events do not carry it, and a trainer may replace
# its callbacks by others made from a checkpoint, which hold plain settings alone.
BOUND: WeakKeyDictionary[Trainer, Binding] = WeakKeyDictionary()


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


def bound_trainer(state: TrainerState) -> Trainer | None:
    """The trainer whose state this is, if it was checked."""
    return next((trainer for trainer in list(BOUND) if trainer.state is state), None)


def check_trainer(trainer: Trainer, settings: Settings) -> None:
    """Refuses a trainer whose rows cannot be chosen, as far as that is known when it has been made.

    Raises:
        `ValueError`: With what to change.
    """
    _check_loss(trainer)
    _check_rows(trainer, settings)
    _check_processes(trainer, settings)
    args = trainer.args
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
    if args.dataloader_drop_last and len(trainer.train_dataset) < trainer.get_total_train_batch_size(args):
        raise ValueError(
            f"The training set has {len(trainer.train_dataset)} rows, less than one step takes, and "
            "`dataloader_drop_last=True` drops them. Set it to False."
        )
    make = getattr(trainer._get_train_sampler, "__func__", trainer._get_train_sampler)
    if not settings.report_only and make.__module__.partition(".")[0] not in ("transformers", "trl"):
        raise ValueError(
            f"`{type(trainer).__name__}._get_train_sampler` chooses rows, and so does DIQCallback: yours would be "
            "dropped. Remove one of them; `train_sampling_strategy` sets the order that chosen rows come in."
        )
    settings.num_selected(len(trainer.train_dataset))


def _check_loss(trainer: Trainer) -> None:
    for kind in type(trainer).__mro__:
        if kind.__module__.partition(".")[0] == "trl" and (remedy := OTHER_LOSSES.get(kind.__name__.lstrip("_"))):
            raise ValueError(f"DIQCallback does not work with {kind.__name__.lstrip('_')}, which {remedy}")


def _check_rows(trainer: Trainer, settings: Settings) -> None:
    args, dataset = trainer.args, trainer.train_dataset
    if dataset is None or isinstance(dataset, STREAMS):
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
    if settings.validation is not None:
        return
    if not trainer.eval_dataset:
        raise ValueError(
            "Influence is measured on validation rows, and there are none. Pass `eval_dataset` to the trainer, or "
            "`DIQCallback(validation=rows)`."
        )
    for rows in trainer.eval_dataset.values() if isinstance(trainer.eval_dataset, dict) else [trainer.eval_dataset]:
        if isinstance(rows, STREAMS):
            raise ValueError("The evaluation set is a stream. Pass `DIQCallback(validation=list_of_rows)`.")


def _check_processes(trainer: Trainer, settings: Settings) -> None:
    if trainer.is_fsdp_enabled and trainer.accelerator.state.fsdp_plugin.fsdp_version == 1:
        raise ValueError(
            "Rows cannot be scored with a model sharded by FSDP's first version, which flattens its weights. Use the "
            "second: `fsdp_version: 2` in accelerate's configuration, or `fsdp_config={'version': 2}`."
        )
    if trainer.is_fsdp_enabled:
        check_torch()
    if trainer.is_deepspeed_enabled:
        if trainer.accelerator.state.deepspeed_plugin.zero_stage == 3:
            raise ValueError(
                "Rows cannot be scored with a model sharded by ZeRO-3. Use FSDP2, which shards as it does "
                "(`fsdp_version: 2` in accelerate's configuration), or ZeRO stage 1 or 2."
            )
        if planned_by_budget(trainer, settings):
            raise ValueError(
                "DeepSpeed makes the learning rate's schedule before DIQCallback plans the steps. Set `max_steps`, "
                "or pass `budget='pool'`."
            )
    accelerator = trainer.accelerator
    parallel = getattr(accelerator, "parallelism_config", None)
    if split := [name for name in ("tp", "cp", "sp") if getattr(parallel, f"{name}_size", 1) > 1]:
        raise ValueError(
            f"Rows cannot be scored where processes share a row or a layer (`{split[0]}_size` of ParallelismConfig). "
            "Use FSDP2 or DDP, where every process runs its own rows."
        )
    if accelerator.split_batches and accelerator.num_processes > 1:
        raise ValueError(
            "With `split_batches=True` processes share a batch, and steps are not as long as Trainer counts them. Set "
            "it to False in `accelerator_config`."
        )
    # One that will be sharded when training begins, and may hold nothing before, is looked at there.
    if (settings.needed or settings.online) and not trainer.is_fsdp_enabled:
        check_placement(trainer.model)


def install(sampler: SelectionSampler, trainer: Trainer) -> None:
    """Makes a trainer that is about to train take its rows from a sampler.

    Raises:
        `ValueError`: Its loader would not ask the sampler, or asked another one of the user's own.
    """
    loader, strategy = trainer.callback_handler.train_dataloader, trainer.args.train_sampling_strategy
    remedy = (
        "DIQCallback puts a sampler of its own into the loader that `Trainer.get_train_dataloader` makes. Leave that "
        "method as it is, or pass `report_only=True`."
    )
    if not hasattr(loader, "set_sampler"):
        raise ValueError(
            f"The training loader is a {type(loader).__name__} that accelerate has not prepared. {remedy}"
        )
    batches = loader.batch_sampler
    if isinstance(batches, BatchSamplerShard):
        batches = batches.batch_sampler
    if type(batches) is not BatchSampler:
        own = loader.sampler if batches is None else batches
        raise ValueError(f"The training loader's batches are made by a {type(own).__name__}. {remedy}")
    found, pool = batches.sampler, len(trainer.train_dataset)
    own = type(found).__module__.partition(".")[0] not in ("torch", "accelerate", "transformers")
    drawn = isinstance(found, RandomSampler) and (found.replacement or found.num_samples != pool)
    if own or drawn or not isinstance(found, SAMPLERS.get(strategy, ())):
        raise ValueError(
            f"The training loader has a {type(found).__name__} of its own, where `train_sampling_strategy="
            f"{strategy!r}` makes another, and it would be dropped. {remedy}"
        )
    before = len(loader)
    loader.set_sampler(sampler)
    if batches.sampler is not sampler:
        raise ValueError(f"The training loader does not take its rows from the sampler it was given. {remedy}")
    processes = trainer.accelerator.num_processes
    if len(loader) != before or batches.batch_size * processes != sampler.batch_size:
        raise ValueError(
            f"The training loader has {before} batches of {batches.batch_size} rows, where the trainer's arguments "
            f"make {len(sampler) // sampler.batch_size} of {sampler.batch_size // processes}. {remedy}"
        )


def pool_lengths(trainer: Trainer) -> np.ndarray:
    """Tokens of each row that a trainer is about to train on.

    Raises:
        `ValueError`: Its loader serves other rows than its `train_dataset`.
    """
    served, dataset = trainer.callback_handler.train_dataloader.dataset, trainer.train_dataset
    if isinstance(served, STREAMS):
        raise ValueError(
            "`get_train_dataloader` serves a stream, and DIQCallback chooses rows by position. Serve a map-style "
            "dataset."
        )
    lengths = row_lengths(served)
    same = len(served) == len(dataset)
    if same and isinstance(served, Dataset) and isinstance(dataset, Dataset):
        same = np.array_equal(lengths, row_lengths(dataset))
    if not same:
        raise ValueError(
            f"`get_train_dataloader` serves {len(served)} rows that are not the {len(dataset)} of `train_dataset`, by "
            "which DIQCallback knows them. Pass the rows to be served as `train_dataset`."
        )
    return lengths


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
