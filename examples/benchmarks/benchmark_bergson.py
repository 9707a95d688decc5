"""bergson's exact scores for benchmark.py, through its Python API, in the environment that peer_env.sh makes:

    python benchmark_bergson.py ROUTE JOB.json

The query is the mean gradient of the validation rows, without projection, and a row's score its gradient's dot product
with it. bergson has three ways to take that:

- `bergson`, its default: each row's gradient of each module, then the dot product;
- `bergson_tokens`: `attribute_tokens`, which contracts every token's activation and output gradient with the query,
  and the tokens' scores are summed here;
- `bergson_output`: `token_influence="output"`, the derivative by forward-mode differentiation, with eager attention.
"""

import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from benchmark_worker import MODULES, Worker
from bergson import DataConfig, GradientProcessor, IndexConfig, PreprocessConfig, ScoreConfig, collect_gradients
from bergson.collector.gradient_collectors import GradientCollector
from bergson.data import allocate_batches, load_scores, pad_and_tensor
from bergson.score.output_influence import output_token_influence, query_directions
from bergson.score.score import create_scorer
from datasets import Dataset


def dataset(rows: list[dict]) -> Dataset:
    return Dataset.from_list(
        [{**{name: values.tolist() for name, values in row.items()}, "length": len(row["input_ids"])} for row in rows]
    )


class Bergson:
    def __init__(self, worker: Worker, route: str):
        self.worker, self.route = worker, route
        self.model = worker.load_model()
        # As bergson's own loader leaves a model: backward passes go down to the embeddings, and to nothing else.
        self.model.requires_grad_(False)
        self.model.get_input_embeddings().requires_grad_(True)
        names = [name for name, _ in self.model.base_model.named_modules()]
        self.modules = {name for name in names if name.endswith(MODULES)}
        self.folder = Path(worker.job["scratch"]) / route
        self.budget = worker.token_budget
        self.precision = worker.job["peer_precision"]

    def config(self, name: str, **settings) -> IndexConfig:
        """bergson's settings for one step, with an empty folder for what it writes."""
        path = self.folder / name
        shutil.rmtree(path, ignore_errors=True)
        config = IndexConfig(
            run_path=str(path),
            model=self.worker.job["model"],
            data=DataConfig(),
            projection_dim=0,
            loss_reduction="mean",
            token_batch_size=self.budget,
            **settings,
        )
        shutil.rmtree(config.partial_run_path, ignore_errors=True)
        config.partial_run_path.mkdir(parents=True)
        return config

    def collect(self, data: Dataset, config: IndexConfig, **kwargs) -> None:
        batches = allocate_batches(data["length"][:], self.budget)
        processor = GradientProcessor({}, projection_dim=None)
        collect_gradients(self.model, data, processor, config, batches=batches, target_modules=self.modules, **kwargs)

    def query(self, data: Dataset) -> str:
        """The folder with the mean gradient of some rows."""
        config = self.config("query")
        self.collect(data, config, preprocess_cfg=PreprocessConfig(aggregation="mean"))
        shutil.move(config.partial_run_path, config.run_path)
        return config.run_path

    def score(self, data: Dataset, query: str) -> tuple[np.ndarray, np.ndarray]:
        """Scores and losses."""
        tokens = self.route == "bergson_tokens"
        config = self.config("scores", attribute_tokens=tokens)
        dtype = self.worker.peer_dtype
        settings = ScoreConfig(query_path=query, precision=self.precision)
        scorer = create_scorer(
            config.partial_run_path,
            data,
            settings,
            PreprocessConfig(),
            self.worker.device,
            dtype,
            attribute_tokens=tokens,
        )
        if self.route == "bergson_output":
            losses = self.forward_mode(data, config, scorer)
        else:
            self.collect(data, config, scorer=scorer)
            losses = Dataset.load_from_disk(str(config.partial_run_path / "data.hf"))["loss"][:]
        scorer.writer.flush()
        found = load_scores(config.partial_run_path)
        values = np.asarray(found[:], dtype=np.float64)[:, 0]
        return np.add.reduceat(values, found.offsets[:-1]) if tokens else values, np.array(losses)

    def forward_mode(self, data: Dataset, config: IndexConfig, scorer) -> list[float]:
        """The loop of bergson's `output_influence_worker`, which loads the model itself."""
        targets = GradientCollector.discover_targets(self.model.base_model, self.modules)
        directions = query_directions(self.model, scorer.query_grads_t, targets)
        losses = torch.zeros(len(data))
        for indices in allocate_batches(data["length"][:], self.budget):
            batch = data[indices]
            input_ids, labels, _, _ = pad_and_tensor(batch["input_ids"], batch["labels"], device=self.worker.device)
            rates, found = output_token_influence(self.model, input_ids, labels, directions, config)
            losses[indices] = found.cpu()
            scorer.write_scores(indices, rates.sum(dim=1))
        return losses.tolist()


def main(route: str, job: str) -> None:
    worker = Worker(Path(job))
    bergson = Bergson(worker, route)
    pool, validation, warmup = dataset(worker.pool), dataset(worker.validation), dataset(worker.warmup)
    attention = "eager" if route == "bergson_output" else bergson.model.config._attn_implementation
    query = bergson.query(warmup)
    bergson.model.set_attn_implementation(attention)
    bergson.score(warmup, query)
    bergson.model.set_attn_implementation("sdpa")
    worker.start()
    with worker.phase("validation"):
        query = bergson.query(validation)
    bergson.model.set_attn_implementation(attention)
    with worker.phase("pool"):
        scores, losses = bergson.score(pool, query)
    worker.finish(
        scores=scores,
        losses=losses,
        settings=f"{bergson.budget} tokens a batch, score precision {bergson.precision}, {attention} attention",
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
