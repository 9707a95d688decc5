"""kronfluence's exact scores for benchmark.py, in the environment that peer_env.sh makes:

    python benchmark_kronfluence.py kronfluence JOB.json

Its `identity` strategy, which is the plain dot product, with the validation rows' gradients summed into one query
(`aggregate_query_gradients`). Its one call takes the query's gradient and then the rows' scores.
"""

import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from benchmark_worker import MODULES, Worker, batches, row_losses
from kronfluence.analyzer import Analyzer, prepare_model
from kronfluence.arguments import FactorArguments, ScoreArguments
from kronfluence.task import Task
from kronfluence.utils.dataset import DataLoaderKwargs


class MeanLosses(Task):
    """Each row's mean loss, summed over the batch."""

    def __init__(self, modules: list[str]):
        self.modules = modules
        self.losses: list[torch.Tensor] = []
        self.query_is_done = lambda: None

    def get_influence_tracked_modules(self) -> list[str]:
        return self.modules

    def compute_measurement(self, batch: dict, model: torch.nn.Module) -> torch.Tensor:
        return row_losses(model, batch).sum()

    def compute_train_loss(self, batch: dict, model: torch.nn.Module, sample: bool = False) -> torch.Tensor:
        self.query_is_done()
        losses = row_losses(model, batch)
        self.losses.append(losses.detach())
        return losses.sum()


class Kronfluence:
    def __init__(self, worker: Worker):
        self.worker = worker
        model = worker.load_model()
        self.task = MeanLosses([name for name, _ in model.named_modules() if name.endswith(MODULES)])
        self.analyzer = Analyzer(
            analysis_name="benchmark",
            model=prepare_model(model, self.task),
            task=self.task,
            cpu=worker.device.type == "cpu",
            disable_tqdm=True,
            output_dir=worker.job["scratch"],
        )
        # A batch is an item, so that batches are made by tokens, as the others' are.
        self.analyzer.set_dataloader_kwargs(DataLoaderKwargs(collate_fn=lambda items: items[0]))
        dtype = worker.peer_dtype
        self.settings = ScoreArguments(
            aggregate_query_gradients=True,
            per_sample_gradient_dtype=dtype,
            precondition_dtype=dtype,
            score_dtype=dtype,
        )

    def score(self, name: str, pool: list[dict], validation: list[dict], phases: bool = False) -> tuple:
        """Scores and losses of the pool's rows."""
        budget = self.worker.token_budget
        (order, train), (_, queries) = (batches(rows, budget) for rows in (pool, validation))
        self.analyzer.fit_all_factors(
            name, train, per_device_batch_size=1, factor_args=FactorArguments(strategy="identity")
        )
        self.task.losses = []
        with ExitStack() as phase:

            def pool_begins() -> None:
                if not self.task.losses:
                    phase.close()
                    phase.enter_context(self.worker.phase("pool"))

            if phases:
                self.task.query_is_done = pool_begins
                phase.enter_context(self.worker.phase("validation"))
            self.analyzer.compute_pairwise_scores(
                scores_name=name,
                factors_name=name,
                query_dataset=queries,
                train_dataset=train,
                per_device_query_batch_size=1,
                per_device_train_batch_size=1,
                score_args=self.settings,
            )
            found = self.analyzer.load_pairwise_scores(name)["all_modules"][0].double().numpy() / len(validation)
        scores, losses = np.empty(len(pool)), np.empty(len(pool))
        scores[order], losses[order] = found, torch.cat(self.task.losses).cpu().double().numpy()
        return scores, losses


def main(route: str, job: str) -> None:
    worker = Worker(Path(job))
    kronfluence = Kronfluence(worker)
    kronfluence.score("warmup", worker.warmup, worker.warmup)
    worker.start()
    scores, losses = kronfluence.score("scores", worker.pool, worker.validation, phases=True)
    dtype = str(worker.peer_dtype).removeprefix("torch.")
    worker.finish(scores=scores, losses=losses, settings=f"{worker.token_budget} tokens a batch, products in {dtype}")


if __name__ == "__main__":
    main(*sys.argv[1:])
