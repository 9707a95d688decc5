"""The methods that benchmark.py compares, bergson apart; each is run in a process of its own:

python benchmark_methods.py METHOD JOB.json
"""

import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from benchmark_worker import Worker
from datasets import Dataset
from transformers import AutoTokenizer
from transformers.utils import logging

from diq_hf.difficulty.sources import IFDDifficulty, RowBatch
from diq_hf.engine.influence import InfluenceEngine
from diq_hf.engine.modules import scored_modules
from diq_hf.rows.encoded import EncodedRow
from diq_hf.rows.formats import RowEncoder


def encoded(rows: list[dict]) -> list[EncodedRow]:
    return [EncodedRow(**row) for row in rows]


def forward(worker: Worker) -> None:
    """What no method can do without: the losses alone, in the batches of `diq`."""
    engine = InfluenceEngine(worker.load_model(), max_tokens_per_batch=worker.job["max_tokens_per_batch"])
    pool = encoded(worker.pool)
    engine.losses(encoded(worker.warmup))
    worker.start()
    with worker.phase("pool"):
        losses = engine.losses(pool)
    worker.finish(losses=losses, settings=f"{engine.budget.max_tokens} tokens a batch")


def diq(worker: Worker) -> None:
    engine = InfluenceEngine(worker.load_model(), max_tokens_per_batch=worker.job["max_tokens_per_batch"])
    pool, validation, warmup = encoded(worker.pool), encoded(worker.validation), encoded(worker.warmup)
    encoder = RowEncoder(AutoTokenizer.from_pretrained(worker.job["tokenizer"]))
    engine.score(warmup, engine.validation_gradient(warmup))
    worker.start()
    with worker.phase("validation"):
        direction = engine.validation_gradient(validation)
    with worker.phase("pool"):
        scores, losses = engine.score(pool, direction)
    if worker.answers is not None:
        with worker.phase("difficulty"):
            IFDDifficulty()(RowBatch(encoded(worker.answers), pool, losses, encoder, engine.losses))
    worker.finish(scores=scores, losses=losses, settings=f"{engine.budget.max_tokens} tokens a batch")


def row_by_row(worker: Worker, dtype: torch.dtype | None = None) -> None:
    """Autograd for one row at a time through the model's own loss, as LESS takes its gradients."""
    model = worker.load_model(dtype).requires_grad_(False)
    weights = [module.weight.requires_grad_(True) for module in scored_modules(model).values()]
    exact = torch.float64 if dtype is not None else torch.float32

    def gradient(row: dict) -> tuple[tuple[torch.Tensor, ...], float]:
        batch = {name: torch.tensor(values)[None].to(worker.device) for name, values in row.items()}
        if dtype is None:
            loss = model(**batch, use_cache=False).loss
        else:  # torch's fp32 cross-entropy is off by more than the methods that are to be judged
            logits = model(batch["input_ids"], use_cache=False).logits[0, :-1].double()
            loss = torch.nn.functional.cross_entropy(logits, batch["labels"][0, 1:])
        return torch.autograd.grad(loss, weights), loss.item()

    def mean_gradient(rows: list[dict]) -> list[torch.Tensor]:
        sums = [torch.zeros_like(weight, dtype=exact) for weight in weights]
        for row in rows:
            for total, part in zip(sums, gradient(row)[0], strict=True):
                total += part
        return [total / len(rows) for total in sums]

    def score(row: dict, direction: list[torch.Tensor]) -> tuple[float, float]:
        parts, loss = gradient(row)
        dots = [(part.to(exact) * mean).sum() for part, mean in zip(parts, direction, strict=True)]
        return float(torch.stack(dots).sum()), loss

    score(worker.warmup[0], mean_gradient(worker.warmup[:1]))
    worker.start()
    with worker.phase("validation"):
        direction = mean_gradient(worker.validation)
    with worker.phase("pool"):
        found = np.array([score(row, direction) for row in worker.pool])
    sums = str(exact).removeprefix("torch.")
    worker.finish(scores=found[:, 0], losses=found[:, 1], settings=f"batches of one row, dot products in {sums}")


def row_by_row_fp32(worker: Worker) -> None:
    """The truth: as `row_by_row`, with fp32 weights, and losses and sums in fp64."""
    row_by_row(worker, torch.float32)


def sft(worker: Worker, settings: dict) -> None:
    """One epoch of `SFTTrainer` with LoRA, as in the paper (r = 8 on q, k and v); `trainer.train()` alone is timed."""
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    names = ", ".join(f"{name}={value}" for name, value in settings.items())
    settings = {"max_length": worker.job["max_length"], **settings}
    # SFTTrainer itself loads a model given by name in fp32.
    model = worker.load_model(getattr(torch, settings.pop("dtype", "float32")))
    targets = sorted({name.rsplit(".", 1)[-1] for name in scored_modules(model)})
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model,
            args=SFTConfig(
                output_dir=folder,
                num_train_epochs=1,
                learning_rate=1e-4,
                lr_scheduler_type="cosine",
                report_to="none",
                save_strategy="no",
                disable_tqdm=True,
                use_cpu=worker.device.type == "cpu",
                **settings,
            ),
            train_dataset=Dataset.from_list(
                [{name: values.tolist() for name, values in row.items()} for row in worker.pool]
            ),
            processing_class=AutoTokenizer.from_pretrained(worker.job["tokenizer"]),
            peft_config=LoraConfig(r=8, target_modules=targets, task_type="CAUSAL_LM"),
        )
        tokens = sum(map(len, trainer.train_dataset["input_ids"]))
        if tokens != sum(len(row["input_ids"]) for row in worker.pool):
            raise RuntimeError(f"SFTTrainer trains on {tokens} tokens, not on those the others score.")
        row = {name: torch.tensor(values)[None].to(worker.device) for name, values in worker.warmup[0].items()}
        adapter = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
        torch.autograd.grad(trainer.model(**row).loss, adapter)
        worker.start()
        with worker.phase("pool"):
            trainer.train()
    worker.finish(settings=names or "TRL's defaults")


def sft_default(worker: Worker) -> None:
    sft(worker, {})


def sft_best(worker: Worker) -> None:
    sft(worker, worker.job["sft_best"])


METHODS = (forward, row_by_row, row_by_row_fp32, diq, sft_default, sft_best)


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.disable_progress_bar()
    {method.__name__: method for method in METHODS}[sys.argv[1]](Worker(Path(sys.argv[2])))
