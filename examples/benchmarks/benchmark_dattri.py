"""dattri-llm's exact GradDot scores for benchmark.py, in the environment that peer_env.sh makes:

    python benchmark_dattri.py ROUTE JOB.json

The query is the mean gradient of the validation rows, summed layer by layer off its own live source. Its two ways to
take a row's product with it:

- `dattri`, its default: each row's gradient of each module, then the dot product;
- `dattri_tokens`: `attribution_granularity="token"`, and the tokens' scores are summed here.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from benchmark_worker import MODULES, Worker, batches, row_losses
from dattri_llm import AttributionArguments, Gradient, GradientStreamer, HookManagerConfig, TracInAttributor
from dattri_llm.gradient import ops


class Mean:
    """The gradients of some rows as one, as a source with a single block."""

    def __init__(self, source: GradientStreamer, rows: int, dtype: torch.dtype):
        total = None
        with source:
            for _, block, _ in source:
                block = block.map_layers(
                    lambda name, value, kind: ops.materialize(value, kind).sum(0, keepdim=True).float(), consume=True
                )
                if total is None:
                    total = block
                else:
                    for name, tensor in total.data.items():
                        tensor += block.data[name]
        self.gradient: Gradient = total.map_layers(lambda name, value, kind: (value / rows).to(dtype), consume=True)

    def __iter__(self) -> Iterator[tuple[int, Gradient, list[str]]]:
        yield 0, self.gradient, ["mean"]

    def __len__(self) -> int:
        return 1


class Dattri:
    def __init__(self, worker: Worker, route: str):
        self.worker, self.route = worker, route
        self.model = worker.load_model()
        # Its advice for a probe: all is frozen but what gradients flow down to.
        self.model.requires_grad_(False)
        self.model.get_input_embeddings().requires_grad_(True)
        self.config = HookManagerConfig(linear_io=[rf"\.{name}$" for name in MODULES], include_frozen=True)
        self.arguments = AttributionArguments(
            output_dir=worker.job["scratch"], use_cpu=worker.device.type == "cpu", dataloader_pin_memory=False
        )
        self.losses: list[torch.Tensor] = []

    def source(self, items: list[dict]) -> GradientStreamer:
        """The gradients of the rows of some batches."""

        def loss(model: torch.nn.Module, batch: dict) -> torch.Tensor:
            found = row_losses(model, batch)
            self.losses.append(found.detach())
            return found.sum()

        # A batch is an item, so that batches are made by tokens, as the others' are.
        return GradientStreamer(
            self.model,
            items,
            self.arguments,
            batch_size=1,
            loss_fn=loss,
            config=self.config,
            collate_fn=lambda found: found[0],
        )

    def query(self, rows: list[dict]) -> Mean:
        _, items = batches(rows, self.worker.token_budget)
        return Mean(self.source(items), len(rows), self.worker.peer_dtype)

    def score(self, rows: list[dict], query: Mean) -> tuple[np.ndarray, np.ndarray]:
        """Scores and losses."""
        self.losses = []
        order, items = batches(rows, self.worker.token_budget)
        attributor = TracInAttributor(self.arguments)
        granularity = "token" if self.route == "dattri_tokens" else "instance"
        with self.source(items) as source:
            values = attributor.score_sources(source, query, attribution_granularity=granularity)[0]
        values = values[:, 0].double().numpy()
        if granularity == "token":  # padding counted
            lengths = [item["input_ids"].shape[1] for item in items for _ in item["input_ids"]]
            values = np.add.reduceat(values, np.cumsum([0, *lengths[:-1]]))
        scores, losses = np.empty(len(rows)), np.empty(len(rows))
        scores[order], losses[order] = values, torch.cat(self.losses).cpu().double().numpy()
        return scores, losses


def main(route: str, job: str) -> None:
    worker = Worker(Path(job))
    dattri = Dattri(worker, route)
    dattri.score(worker.warmup, dattri.query(worker.warmup))
    worker.start()
    with worker.phase("validation"):
        query = dattri.query(worker.validation)
    with worker.phase("pool"):
        scores, losses = dattri.score(worker.pool, query)
    dtype = str(worker.peer_dtype).removeprefix("torch.")
    worker.finish(scores=scores, losses=losses, settings=f"{worker.token_budget} tokens a batch, products in {dtype}")


if __name__ == "__main__":
    main(*sys.argv[1:])
