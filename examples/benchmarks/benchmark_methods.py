"""The methods that benchmark.py compares, the peers apart; each is run in a process of its own:

python benchmark_methods.py METHOD JOB.json
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
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


def matmul(worker: Worker) -> None:
    """What the machine makes of one large matrix product, in the model's dtype."""
    size, times = (8192, 20) if worker.device.type == "cuda" else (2048, 5)
    left, right = (torch.randn(size, size, device=worker.device).to(worker.dtype) for _ in range(2))
    seconds = []
    for _ in range(3 + times):
        worker.synchronize()
        start = time.perf_counter()
        left @ right
        worker.synchronize()
        seconds.append(time.perf_counter() - start)
    worker.finish(flops=2 * size**3 / statistics.median(seconds[3:]))


def forward(worker: Worker) -> None:
    """What no method can do without: the losses alone, in the batches of `diq`."""
    engine = InfluenceEngine(worker.load_model(), max_tokens_per_batch=worker.job["max_tokens_per_batch"])
    pool = encoded(worker.pool)
    engine.losses(encoded(worker.warmup))
    worker.start()
    with worker.phase("pool"):
        losses = engine.losses(pool)
    worker.finish(losses=losses, settings=f"{engine.budget.max_tokens} tokens a batch")


def diq(worker: Worker, attention: str | None = None) -> None:
    model = worker.load_model()
    if attention is not None:
        model.set_attn_implementation(attention)
    engine = InfluenceEngine(model, max_tokens_per_batch=worker.job["max_tokens_per_batch"])
    pool, validation, warmup = encoded(worker.pool), encoded(worker.validation), encoded(worker.warmup)
    encoder = RowEncoder(AutoTokenizer.from_pretrained(worker.job["tokenizer"]))
    engine.score(warmup, engine.validation_gradient(warmup))
    if attention is not None and worker.device.type == "cuda":  # FlexAttention is compiled for shapes, not loaded
        engine.score(pool, engine.validation_gradient(validation))
    worker.start()
    with worker.phase("validation"):
        direction = engine.validation_gradient(validation)
    with worker.phase("pool"):
        scores, losses = engine.score(pool, direction)
    if worker.answers is not None:
        with worker.phase("difficulty"):
            IFDDifficulty()(RowBatch(encoded(worker.answers), pool, losses, encoder, engine.losses))
    how = f"packed by {engine.packing.implementation}" if engine.packing.possible else "padded"
    worker.finish(scores=scores, losses=losses, settings=f"{engine.budget.max_tokens} tokens a batch, {how}")
    if worker.job["profile"]:
        profile(worker, lambda: engine.score(pool[:64], direction))


def diq_flex(worker: Worker) -> None:
    diq(worker, "flex_attention")


def profile(worker: Worker, work: Callable[[], object]) -> None:
    """Leaves a table of what a piece of work spends its time in."""
    kind = worker.device.type
    activities = [torch.profiler.ProfilerActivity.CPU]
    activities += [torch.profiler.ProfilerActivity.CUDA] if kind == "cuda" else []
    with torch.profiler.profile(activities=activities) as found:
        work()
        worker.synchronize()
    table = found.key_averages().table(sort_by=f"self_{kind}_time_total", row_limit=40, max_name_column_width=80)
    Path(worker.job["profile"]).write_text(table + "\n")


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


def sft(worker: Worker, settings: dict, online: bool = False) -> None:
    """One epoch of `SFTTrainer` with LoRA, as in the paper (r = 8 on q, k and v); `trainer.train()` alone is timed."""
    from benchmark_online import Reading
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    class Validating(Reading):
        def on_train_begin(self, args, state, control, **kwargs):
            with worker.phase("validation"):
                super().on_train_begin(args, state, control, **kwargs)

    def plain(rows: list[dict]) -> Dataset:
        return Dataset.from_list([{name: values.tolist() for name, values in row.items()} for row in rows])

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
            train_dataset=plain(worker.pool),
            eval_dataset=plain(worker.validation) if online else None,
            processing_class=AutoTokenizer.from_pretrained(worker.job["tokenizer"]),
            peft_config=LoraConfig(r=8, target_modules=targets, task_type="CAUSAL_LM"),
        )
        tokens = sum(map(len, trainer.train_dataset["input_ids"]))
        if tokens != sum(len(row["input_ids"]) for row in worker.pool):
            raise RuntimeError(f"SFTTrainer trains on {tokens} tokens, not on those the others score.")
        row = {name: torch.tensor(values)[None].to(worker.device) for name, values in worker.warmup[0].items()}
        adapter = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
        torch.autograd.grad(trainer.model(**row).loss, adapter)
        if online:
            reading = Validating()
            reading.trainer = trainer
            trainer.add_callback(reading)
        worker.start()
        with worker.phase("pool"):
            trainer.train()
        worker.seconds["pool"] -= worker.seconds.get("validation", 0.0)
        if online and len(reading.online.influences) != len(worker.pool):
            raise RuntimeError(f"{len(reading.online.influences)} of {len(worker.pool)} rows were read.")
    worker.finish(settings=names or "TRL's defaults")


def sft_default(worker: Worker) -> None:
    sft(worker, {})


def sft_best(worker: Worker) -> None:
    sft(worker, worker.job["sft_best"])


def online(worker: Worker) -> None:
    """As `sft_best`, with each row's influence on the weights of before, read off the step that trains it."""
    sft(worker, worker.job["sft_best"], online=True)


METHODS = (matmul, forward, row_by_row, row_by_row_fp32, diq, diq_flex, sft_default, sft_best, online)


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.disable_progress_bar()
    {method.__name__: method for method in METHODS}[sys.argv[1]](Worker(Path(sys.argv[2])))
