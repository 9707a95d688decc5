"""Scores of a trainer's own rows at its present weights, shared between its processes."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate.utils import gather_object
from datasets.utils import tqdm
from transformers import Trainer

from ..difficulty.sources import DifficultySource, RowBatch
from ..engine.influence import Direction, InfluenceEngine
from ..rows.encoded import RowError
from ..rows.validation import encode_group
from .objectives import LanguageModeling, Objective, objective_of, spread
from .words import RowWords


Result = TypeVar("Result")

# Rows of a process held as tokens at once; within them batches are made of rows of like length. Processes wait for
# each other after so many, and hear whether another has failed.
CHUNK = 512


class TrainerScorer:
    """Influence of the rows a trainer trains on, and their difficulty, as [`~diq_hf.DIQScorer`] would give them.

    Every process of the trainer calls each method with the same arguments and gets the same result; each computes its
    share. Rows are read through the trainer's own dataset and collator, so the tokens that count are those it trains.

    Args:
        trainer ([`~transformers.Trainer`]):
            The trainer, about to train.
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            Its bare model. It comes back from every call as it was.
        validation (`Iterable[Mapping]`, *optional*):
            Validation rows in any format of `SFTTrainer`; by default the trainer's `eval_dataset`.
        target_modules (`str` or `Sequence[str]`, *optional*):
            See [`~diq_hf.DIQScorer`].
        max_validation_rows (`int`, *optional*):
            So many validation rows at most, drawn at random.
        seed (`int`, *optional*, defaults to `0`):
            Seed of that draw.
        difficulty ([`~diq_hf.difficulty.sources.DifficultySource`], *optional*):
            The source that will be asked for, tried on a few rows.

    Raises:
        `ValueError`: The trainer's loss or its batches are not known here, no validation row has a token to train on,
            or the source cannot read the rows.
    """

    def __init__(
        self,
        trainer: Trainer,
        model: Any,
        validation: Iterable[Mapping] | None = None,
        target_modules: str | Sequence[str] | None = None,
        max_validation_rows: int | None = None,
        seed: int = 0,
        difficulty: DifficultySource | None = None,
    ):
        self.trainer, self.accelerator = trainer, trainer.accelerator
        with self.accelerator.autocast():  # the precision that it will compute in
            self.engine = InfluenceEngine(model, target_modules)
            self.shared = self.engine.lockstep.size > 1  # the processes hold one model in shards
            self.objective: Objective = objective_of(trainer, self.engine)
        loader = trainer.callback_handler.train_dataloader
        self.dataset, self.collate = loader.dataset, loader.collate_fn
        self.words = RowWords(trainer, self.dataset)
        self.validation = self._validation(validation, max_validation_rows, seed)
        sequences = [sequence for item in self.validation for sequence in self.objective.sequences(item)]
        for sequence in sequences:
            try:
                self.engine.check_row(sequence)
            except RowError as error:
                raise RowError(f"A validation row is too long: {error}") from error
        self.validation_tokens = sum(map(len, sequences))
        if difficulty is not None:
            places = spread(len(self.dataset))
            for row, item in zip(places, self._read(places), strict=True):
                if item is not None:
                    self.words.prepare(row, self.objective.sequence(item), difficulty)

    def direction(self) -> Direction:
        """The mean validation gradient at the present weights."""
        count, loss = len(self.validation), 0.0
        tensors: dict[str, torch.Tensor] = {}

        def add(places: Sequence[int]) -> float:
            if not places:
                return 0.0
            weight = len(places) / count
            found = self.objective.gradient([self.validation[place] for place in places])
            for name, tensor in found.tensors.items():
                if name in tensors:
                    tensors[name].add_(tensor, alpha=weight)
                else:
                    tensors[name] = tensor.mul_(weight)
            return found.loss * weight

        for places in self._chunks(count):
            loss += sum(self._together(add, places))
        if self.accelerator.num_processes > 1 and not self.shared:
            for name, module in self.engine.modules.items():
                part = tensors.get(f"{name}.weight")
                if part is None:  # this process had no row
                    part = torch.zeros_like(module.weight, dtype=self.engine.dtype)
                tensors[f"{name}.weight"] = self.accelerator.reduce(part, "sum")
        return Direction(tensors, count, loss)

    def score(
        self,
        rows: Sequence[int],
        direction: Direction | None,
        difficulty: DifficultySource | None = None,
    ) -> dict[str, np.ndarray]:
        """Scores of some rows of the training set.

        Args:
            rows (`Sequence[int]`):
                Their positions.
            direction ([`Direction`], *optional*):
                The validation gradient at the present weights; without it there is no influence.
            difficulty ([`~diq_hf.difficulty.sources.DifficultySource`], *optional*):
                Where difficulties come from, if they are wanted.

        Returns:
            `dict[str, np.ndarray]`: Columns of shape `(len(rows),)`, float64; NaN where a row has nothing to train or
            its loss overflows.
        """
        names = [*(["influence", "loss"] if direction else []), *(["difficulty"] if difficulty else [])]
        table = {name: np.full(len(rows), np.nan) for name in names}

        def share(places: Sequence[int]) -> tuple[list[int], dict[str, np.ndarray]]:
            items = self._read([rows[place] for place in places])
            kept = [(place, item) for place, item in zip(places, items, strict=True) if item is not None]
            if not kept:
                return [], {}
            places, items = map(list, zip(*kept, strict=True))
            return places, self._score(items, [rows[place] for place in places], direction, difficulty)

        hidden = self.accelerator.process_index > 0
        with tqdm(total=len(rows), desc="DIQ scoring", unit=" rows", leave=False, disable=hidden) as bar:
            for places in self._chunks(len(rows)):
                for scored, found in self._together(share, places):
                    for name, values in found.items():
                        table[name][scored] = values
                bar.update(min(CHUNK * self.accelerator.num_processes, bar.total - bar.n))
        return table

    def _score(
        self, items: list, rows: list[int], direction: Direction | None, difficulty: DifficultySource | None
    ) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = {}
        if direction is not None:
            influence, loss = self.objective.influences(items, direction)
            bad = ~(np.isfinite(influence) & np.isfinite(loss))
            influence[bad] = loss[bad] = np.nan
            found |= {"influence": influence, "loss": loss}
        if difficulty is not None:
            encoder = self.words.encoder
            sequences = [self.objective.sequence(item) for item in items]
            prepared = [
                self.words.prepare(row, sequence, difficulty) for row, sequence in zip(rows, sequences, strict=True)
            ]
            batch = RowBatch(prepared, None, None, encoder, None)
            # Sources look at the cross-entropy, whatever is made of it in training.
            with self.engine.row_loss.plain():
                if not difficulty.reusable:
                    cross_entropy = isinstance(self.objective, LanguageModeling) and not self.objective.weighted
                    losses = found["loss"] if found and cross_entropy else self.engine.losses(sequences)
                    batch = RowBatch(prepared, sequences, losses, encoder, self.engine.losses)
                found["difficulty"] = difficulty(batch)["difficulty"]
        return found

    def _read(self, rows: Sequence[int]) -> list:
        return self.objective.read(self.dataset, rows, self.collate)

    def _validation(self, rows: Iterable[Mapping] | None, most: int | None, seed: int) -> list:
        if rows is not None:
            if not isinstance(self.objective, LanguageModeling):
                raise ValueError(
                    "Preference rows for validation are prepared by the trainer: pass them as its `eval_dataset`, not "
                    "as `validation`."
                )
            rows = list(rows)
            return encode_group([rows[i] for i in _drawn(len(rows), most, seed)], None, self.words.encoder)
        sets = self.trainer.eval_dataset
        loaders = [self.trainer.get_eval_dataloader(name) for name in (sets if isinstance(sets, dict) else [None])]
        places = [(loader, i) for loader in loaders for i in range(len(loader.dataset))]
        items = [item for place in _drawn(len(places), most, seed) for item in self._read_validation(*places[place])]
        if not (kept := [item for item in items if item is not None]):
            raise ValueError("No validation row has a token to train on. Pass others as `eval_dataset`.")
        return kept

    def _read_validation(self, loader: Any, row: int) -> list:
        try:
            return self.objective.read(loader.dataset, [row], loader.collate_fn)
        except RowError as error:
            raise RowError(f"The evaluation set: {error}") from error

    def _chunks(self, count: int) -> Iterator[range]:
        """This process's share of so many positions, chunk by chunk: as many chunks as every other has. Processes that
        hold shards of one model take all of them, and the engine shares each out."""
        processes = self.accelerator.num_processes
        if self.shared:
            for start in range(0, count, CHUNK * processes):
                yield range(start, min(start + CHUNK * processes, count))
            return
        share = range(self.accelerator.process_index, count, processes)
        for start in range(0, -(-count // processes), CHUNK):
            yield share[start : start + CHUNK]

    def _together(self, function: Callable[[Sequence[int]], Result], places: Sequence[int]) -> list[Result]:
        """What a function gives in the trainer's precision, on every process; once where they work on it together.

        An error of one is raised by all, so that none waits for it.
        """
        if self.shared:
            with self.engine.lockstep.together(), self.accelerator.autocast():
                return [function(places)]
        result, error = None, None
        try:
            with self.accelerator.autocast():
                result = function(places)
        except Exception as raised:
            error = raised
        if self.accelerator.num_processes == 1:
            results, message = [result], None
        else:
            answers = gather_object([(result, error and f"{type(error).__name__}: {error}")])
            results = [result for result, _ in answers]
            message = next((message for _, message in answers if message), None)
        if error is not None:
            raise error
        if message is not None:
            raise RuntimeError(f"Another process could not score its rows: {message}")
        return results


def _drawn(count: int, most: int | None, seed: int) -> list[int]:
    if most is None or count <= most:
        return list(range(count))
    return sorted(np.random.default_rng(seed).choice(count, size=most, replace=False).tolist())
