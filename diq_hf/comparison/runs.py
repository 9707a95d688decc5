"""Runs that are shared: each is a file once it is done, and whoever finds it missing may do it."""

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datasets import Dataset
from filelock import FileLock, Timeout

from ..digest import digest
from ..files import read_json, remove_leftovers, replacing
from .batches import TokenBatches
from .heldout import HeldOut
from .results import RunFacts
from .training import TokenTrainer, Training


# Raise it whenever the same run would give another result.
VERSION = "run-1"


@dataclass(frozen=True)
class Run:
    """One training that is wanted.

    Args:
        strategy (`str`):
            Who chose.
        ratio (`float`, *optional*):
            The budget; `None` for every row.
        seed (`int`):
            Of the training.
        rows (`tuple[int, ...]`):
            What is trained, in the pool's order.
        num_steps (`int`):
            Optimizer steps.
        digest (`str`):
            Names everything that decides the result, whoever chose the rows.
    """

    strategy: str
    ratio: float | None
    seed: int
    rows: tuple[int, ...]
    num_steps: int
    digest: str

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.strategy}{'' if self.ratio is None else f' {self.ratio:.3g}'}, seed {self.seed}"


class RunFolder:
    """Results of runs, a file each, in a folder that several processes write to.

    Args:
        folder (`Path`):
            The folder; it is made.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)

    def path(self, run: Run) -> Path:
        """The file of a run that is done."""
        return self.folder / f"{run.digest}.json"

    def result(self, run: Run) -> RunFacts | None:
        """What came of a run, `None` if it has not been done."""
        path = self.path(run)
        if not path.is_file():
            return None
        # The same rows may have been chosen by several.
        found = RunFacts.from_json(read_json(path), str(path))
        return replace(found, strategy=run.strategy, ratio=run.ratio, seed=run.seed)

    def finish(self, runs: Sequence[Run], do: Callable[[Run], RunFacts], done: Callable[[Run], None]) -> None:
        """Does every run that is not done and that no other process is doing, and waits for those.

        Args:
            runs (`Sequence[Run]`):
                What is wanted, the most wanted first.
            do (`Callable`):
                Does one.
            done (`Callable`):
                Told of each run when it is done, by whomever.
        """
        waiting = list(runs)
        while waiting:
            for run in list(waiting):
                with self._claimed(run) as claimed:
                    if not claimed:
                        continue
                    if not self.path(run).is_file():
                        result = do(run)
                        with replacing(self.path(run)) as unfinished:
                            unfinished.write_text(dumped(result))
                waiting.remove(run)
                done(run)
            if waiting:
                time.sleep(1)  # others are at it; should one be killed, its claim goes with it

    @contextlib.contextmanager
    def _claimed(self, run: Run) -> Iterator[bool]:
        if self.path(run).is_file():
            yield True
            return
        lock = FileLock(self.folder / f"{run.digest}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()


def run_digest(decisive: Any, rows: str, num_steps: int, seed: int) -> str:
    """Names a run by what decides its result: what all runs share, its rows, steps and seed."""
    return digest([VERSION, decisive, rows, num_steps, seed])


def train_and_measure(
    run: Run,
    rows: Dataset,
    num_trained: Sequence[int],
    num_tokens: int,
    training: Training,
    heldout: HeldOut,
    progress: Callable[[int], None] | None = None,
    tasks: Callable[[Any], dict[str, float]] | None = None,
    batches: Callable[[TokenTrainer], Any] | None = None,
) -> RunFacts:
    """Does one run.

    Args:
        run ([`Run`]):
            Which.
        rows ([`~datasets.Dataset`]):
            Its rows, in a format of `SFTTrainer`.
        num_trained (`Sequence[int]`):
            Trained tokens of each.
        num_tokens (`int`):
            Tokens of all, trained or not.
        training ([`Training`]):
            How it is trained.
        heldout ([`HeldOut`]):
            What it is measured by.
        progress (`Callable`, *optional*):
            Called with each step that is done.
        tasks (`Callable`, *optional*):
            Gives accuracies by name, of a trained model.
        batches (`Callable`, *optional*):
            See [`Training.run`]; by default batches of equal tokens.
    """
    cuts = run.num_steps * training.arguments.gradient_accumulation_steps
    given = batches or (lambda trainer: TokenBatches(num_trained, cuts, training.num_epochs, run.seed))
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        trainer = training.run(rows, given, run.num_steps, run.seed, folder, progress)
        seconds = time.perf_counter() - started
        losses, correct = heldout.measure(trainer.model)
        return RunFacts(
            strategy=run.strategy,
            seed=run.seed,
            ratio=run.ratio,
            steps=run.num_steps,
            rows=len(rows),
            tokens=int(sum(num_trained)) * training.num_epochs,
            losses=tuple(map(float, losses)),
            correct=None if correct is None else tuple(map(float, correct)),
            tasks=tasks(trainer.model) if tasks else None,
            training=replace(training.work(num_tokens * training.num_epochs), seconds=seconds),
        )


def dumped(facts: Any) -> str:
    """Facts as JSON, in which no number may be NaN."""
    import json

    return json.dumps(facts.to_json(), indent=1, allow_nan=False)
