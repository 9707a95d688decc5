"""Trainers that are small enough to train in a test, and a recorder that tells their rows by the tokens they see."""

import random
from itertools import pairwise

import torch
from conftest import SENTENCES, chat, make_model, make_tokenizer
from datasets import load_dataset
from peft import LoraConfig
from transformers import DataCollatorForLanguageModeling, Trainer, TrainerCallback, TrainingArguments
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer


LORA = LoraConfig(r=4, target_modules=["q_proj", "k_proj", "v_proj"], lora_dropout=0.1)
PLAIN = {"use_cpu": True, "bf16": False, "report_to": [], "disable_tqdm": True, "save_strategy": "no"}


def rows_of_chat(count, seed=0):
    rng = random.Random(seed)
    words = " ".join(SENTENCES).split()
    make = lambda most: " ".join(rng.choices(words, k=rng.randint(2, most)))  # noqa: E731
    return [chat(f"{seed}{i}: {make(6)}", make(14)) | {"number": i} for i in range(count)]


class Recorder(TrainerCallback):
    """Rows of every update step, by the tokens that the model is given in training mode."""

    def __init__(self):
        self.steps, self.current = [], []

    def watch(self, trainer):
        def rows_of(args, kwargs):
            if not trainer.model.training or not torch.is_grad_enabled():  # a reference model's pass
                return
            ids, mask = kwargs["input_ids"], kwargs.get("attention_mask")
            if mask is not None:
                parts = [row[kept.bool()] for row, kept in zip(ids, mask, strict=True)]
            else:  # padding-free: rows begin where positions do
                starts = [*(kwargs["position_ids"][0] == 0).nonzero().flatten().tolist(), ids.shape[1]]
                parts = [ids[0, a:b] for a, b in pairwise(starts)]
            self.current.append([tuple(part.tolist()) for part in parts])

        names = trainer.train_dataset.column_names
        self.keys = {}
        for i, row in enumerate(trainer.train_dataset):
            ids = row["input_ids"] if "input_ids" in names else row["prompt_ids"] + row["chosen_ids"]
            self.keys[tuple(ids)] = i
        trainer.model.register_forward_pre_hook(lambda module, *inputs: rows_of(*inputs), with_kwargs=True)
        trainer.add_callback(self)

    def on_step_end(self, args, state, control, **kwargs):
        # The rejected answers of a preference batch stand behind the chosen ones, and are nobody's key.
        self.steps.append([self.keys[key] for batch in self.current for key in batch if key in self.keys])
        self.current = []


def make_trainer(kind, rows, validation, folder, callback, model=None, **settings):
    settings = PLAIN | {"output_dir": str(folder), "per_device_train_batch_size": 2, "learning_rate": 1e-2} | settings
    peft_config = settings.pop("peft_config", None)
    shared = {"train_dataset": rows, "eval_dataset": validation, "processing_class": make_tokenizer()}
    shared["callbacks"] = [callback] if callback is not None else []
    model = make_model() if model is None else model
    if kind == "sft":
        return SFTTrainer(model, SFTConfig(**settings), peft_config=peft_config, **shared)
    if kind == "dpo":
        shared["ref_model"] = None if peft_config else make_model()
        return DPOTrainer(model, args=DPOConfig(**settings), peft_config=peft_config, **shared)
    tokenizer = shared["processing_class"]

    def tokenize(row):
        return tokenizer(row["completion"][0]["content"])

    for name in ("train_dataset", "eval_dataset"):
        shared[name] = shared[name].map(tokenize)
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    return Trainer(model, TrainingArguments(**settings), data_collator=collator, **shared)


def selections(folder):
    """The chosen rows by the step after which they were chosen, as the history on disk has them."""
    history = load_dataset("parquet", data_files=f"{folder}/diq/*.parquet", split="train")
    chosen = {}
    for row in history:
        chosen.setdefault(row["step"], set())
        if row["selected"]:
            chosen[row["step"]].add(row["row"])
    return chosen


def check_only_chosen_rows_were_trained(recorder, chosen, lag):
    """`lag` update steps after a scoring, batches that were fetched before it are used up."""
    assert len(chosen) > 1
    for number, rows in enumerate(recorder.steps):  # the step that makes the global step number + 1
        allowed = {step: kept for step, kept in chosen.items() if step <= number}
        current = max(allowed)
        if number - current >= lag or len(allowed) == 1:
            assert set(rows) <= allowed[current]
        else:
            assert set(rows) <= set().union(*(kept for step, kept in allowed.items() if step >= sorted(allowed)[-2]))
    last = max(chosen)
    trained = [row for rows in recorder.steps[last + lag :] for row in rows]
    assert len(trained) >= len(chosen[last])  # the case is long enough to say something
    assert set(trained) == chosen[last]


def hooks_of(model):
    kinds = ((module._forward_hooks, module._forward_pre_hooks) for module in model.modules())
    return [hook for pair in kinds for hooks in pair for hook in hooks.values()]


def weights_after(trainer):
    trainer.train()
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
