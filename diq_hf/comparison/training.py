"""One run: rows in, a model out that was trained on them in so many steps of about equal tokens."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from torch.utils.data import DataLoader, Sampler
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from ..engine.loading import load_model, preferred_dtype
from .results import Work


# The paper's training, where it says anything (arXiv 2508.01450): LoRA on q, k and v, a cosine schedule.
LORA = {"r": 8, "target_modules": ["q_proj", "k_proj", "v_proj"]}
DEFAULTS = {"learning_rate": 1e-4, "lr_scheduler_type": "cosine", "num_train_epochs": 1}
# Fields of SFTConfig that a comparison decides itself, and why.
OWN = {
    "output_dir": "a run keeps no checkpoint: its result is a file of its own",
    "max_steps": "all strategies take equally many steps, by budget and `per_device_train_batch_size`",
    "seed": "there is a run for each of `seeds`",
    "data_seed": "there is a run for each of `seeds`",
    "packing": "batches are cut by tokens, so that all strategies take equally many steps",
    "train_sampling_strategy": "batches are cut by tokens, so that all strategies take equally many steps",
    "dataloader_drop_last": "every row that was chosen is trained",
    "eval_strategy": "held-out rows are measured at the end",
    "save_strategy": "a run keeps no checkpoint: its result is a file of its own",
    "report_to": "results are files and a page",
}


@dataclass(frozen=True)
class Training:
    """How every run trains.

    Args:
        model (`str`):
            Hub id or folder; each run starts from it anew.
        config (`dict`, *optional*):
            Fields of [`~trl.SFTConfig`], other than `OWN`.
        lora (`dict`, *optional*):
            Fields of [`~peft.LoraConfig`]; `None` trains all weights.
        model_init_kwargs (`dict`, *optional*):
            Arguments of `from_pretrained`.

    Raises:
        `ValueError`: A field is one that a comparison decides itself.
    """

    model: str
    config: Mapping[str, Any] = field(default_factory=dict)
    lora: Mapping[str, Any] | None = field(default_factory=lambda: dict(LORA))
    model_init_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        for name, reason in OWN.items():
            if name in self.config:
                raise ValueError(f"`training` has {name!r}, which is not yours to set here: {reason}. Leave it out.")
        known = SFTConfig.__dataclass_fields__
        if unknown := sorted(set(self.config) - set(known)):
            raise ValueError(f"`training` has {unknown}, and SFTConfig has no such field.")
        epochs = self.arguments.num_train_epochs
        if epochs != int(epochs) or epochs < 1:
            raise ValueError(f"`num_train_epochs` counts whole passes over the chosen rows, got {epochs}.")

    @cached_property
    def arguments(self) -> SFTConfig:
        """The trainer's arguments, but for what differs from run to run. (Made once: it resets accelerate's state.)"""
        return self._arguments()

    def _arguments(self, **own: Any) -> SFTConfig:
        gpu = torch.accelerator.is_available()
        defaults = {**DEFAULTS, "bf16": gpu and preferred_dtype() is torch.bfloat16, "use_cpu": not gpu}
        defaults |= {"logging_strategy": "no", "disable_tqdm": True, "output_dir": "unused"}
        fixed = {"save_strategy": "no", "eval_strategy": "no", "report_to": "none"}
        return SFTConfig(**(defaults | dict(self.config) | fixed | own))

    @property
    def settings(self) -> dict:
        """What decides a run beside its rows, as plain data."""
        return {"config": dict(self.config), "lora": self.lora and dict(self.lora)} | {
            "model_init_kwargs": {
                name: str(value) for name, value in self.model_init_kwargs.items() if name != "token"
            }
        }

    def tokens_per_step(self, mean_trained: float) -> float:
        """Trained tokens of a step: those that its rows have on average in a pool of `mean_trained` a row."""
        arguments = self.arguments
        return arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps * mean_trained

    def num_steps(self, num_tokens: int, mean_trained: float) -> int:
        """Steps in which so many chosen tokens are trained."""
        return max(1, round(num_tokens * self.num_epochs / self.tokens_per_step(mean_trained)))

    @property
    def num_epochs(self) -> int:
        """Passes over the chosen rows."""
        return int(self.arguments.num_train_epochs)

    def work(self, num_tokens: int) -> Work:
        """What training takes in which `num_tokens` tokens, trained or not, go through the model once."""
        arguments = self.arguments
        # Its name in transformers 5 is another than before.
        recomputed = getattr(arguments, "activation_checkpointing", False) or arguments.gradient_checkpointing
        forward = 2 if recomputed else 1
        return Work(forward=forward * num_tokens, backward=(2 if self.lora is None else 1) * num_tokens)

    def load(self) -> tuple[Any, Any]:
        """The model before any training, and its tokenizer."""
        return load_model(self.model, model_init_kwargs=dict(self.model_init_kwargs))

    def run(
        self,
        rows: Dataset,
        batches: Callable[["TokenTrainer"], Sampler],
        num_steps: int,
        seed: int,
        folder: str,
        progress: Callable[[int], None] | None = None,
        loaded: tuple[Any, Any] | None = None,
    ) -> "TokenTrainer":
        """Trains a fresh model and returns its trainer.

        Args:
            rows ([`~datasets.Dataset`]):
                Rows in a format of `SFTTrainer`, and no other column.
            batches (`Callable`):
                Gives the batches, `num_steps` times `gradient_accumulation_steps` of them, once the trainer is there.
            num_steps (`int`):
                Optimizer steps.
            seed (`int`):
                Of adapters and dropout.
            folder (`str`):
                For what the trainer writes, which is nothing as a rule.
            progress (`Callable`, *optional*):
                Called with each step that is done.
            loaded (`tuple`, *optional*):
                Model and tokenizer, if they are loaded already.
        """
        model, tokenizer = self.load() if loaded is None else loaded
        trainer = TokenTrainer(
            model,
            self._arguments(output_dir=folder, max_steps=num_steps, seed=seed),
            train_dataset=rows,
            processing_class=tokenizer,
            peft_config=None if self.lora is None else LoraConfig(task_type="CAUSAL_LM", **self.lora),
            callbacks=[] if progress is None else [_Progress(progress)],
        )
        if len(trainer.train_dataset) != len(rows):
            raise RuntimeError(
                f"SFTTrainer kept {len(trainer.train_dataset)} of {len(rows)} rows, so that positions would not be "
                "the pool's. Leave out rows without a trained token."
            )
        trainer.batches = batches(trainer)
        trainer.train()
        if trainer.state.global_step != num_steps:
            raise RuntimeError(
                f"The trainer took {trainer.state.global_step} steps where {num_steps} were planned, so its result "
                "cannot be compared."
            )
        return trainer


class TokenTrainer(SFTTrainer):
    """An [`~trl.SFTTrainer`] whose `batches` are given, a list of positions each."""

    batches: Sampler[Sequence[int]]

    def get_train_dataloader(self) -> DataLoader:
        """The loader of `batches`."""
        # What the trainer tokenized; texts are of no use to the collator.
        tensors = [name for name in self.train_dataset.column_names if name in _TENSORS]
        loader = DataLoader(
            self.train_dataset.select_columns(tensors),
            batch_sampler=self.batches,
            collate_fn=self.data_collator,
            pin_memory=self.args.dataloader_pin_memory,
        )
        return self.accelerator.prepare(loader)


_TENSORS = ("input_ids", "labels", "completion_mask", "assistant_masks", "seq_lengths")


class _Progress(TrainerCallback):
    def __init__(self, tell: Callable[[int], None]):
        self.tell = tell

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.tell(state.global_step)
