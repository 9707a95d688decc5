"""Scores of a trainer's own rows at its present weights, shared between its processes."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate.utils import gather_object
from datasets.utils import tqdm
from transformers import Trainer
from trl import DPOTrainer, SFTTrainer

from ..difficulty.sources import DifficultySource, RowBatch
from ..engine.influence import Direction, InfluenceEngine
from ..rows.encoded import EncodedRow, RowError
from ..rows.formats import RowEncoder
from ..rows.validation import encode_group
from .objectives import LanguageModeling, Objective, PreferenceOptimization


Result = TypeVar("Result")

# Rows held as tokens at once; within them batches are made of rows of like length.
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
    """

    def __init__(
        self,
        trainer: Trainer,
        model: Any,
        validation: Iterable[Mapping] | None = None,
        target_modules: str | Sequence[str] | None = None,
        max_validation_rows: int | None = None,
        seed: int = 0,
    ):
        self.trainer, self.accelerator = trainer, trainer.accelerator
        with self.accelerator.autocast():  # the precision that it will compute in
            self.engine = InfluenceEngine(model, target_modules)
        self.objective: Objective = (
            PreferenceOptimization(self.engine, trainer)
            if isinstance(trainer, DPOTrainer)
            else LanguageModeling(self.engine)
        )
        loader = trainer.callback_handler.train_dataloader
        self.dataset, self.collate = loader.dataset, loader.collate_fn
        self.validation = self._validation(validation, max_validation_rows, seed)
        self.validation_tokens = sum(map(self.objective.num_tokens, self.validation))

    def direction(self) -> Direction:
        """The mean validation gradient at the present weights."""
        share = self.validation[self.accelerator.process_index :: self.accelerator.num_processes]
        found = self._together(lambda: self.objective.gradient(share) if share else None)
        tensors, loss, count = {}, 0.0 if found is None else found.loss, len(share) / len(self.validation)
        for name, module in self.engine.modules.items():
            key = f"{name}.weight"
            part = torch.zeros_like(module.weight, dtype=self.engine.dtype) if found is None else found.tensors[key]
            tensors[key] = self.accelerator.reduce(part * count, "sum")
        loss = self.accelerator.reduce(torch.tensor(loss * count, device=self.accelerator.device), "sum")
        return Direction(tensors, len(self.validation), float(loss))

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
        table = np.full((len(names), len(rows)), np.nan)
        mine = range(self.accelerator.process_index, len(rows), self.accelerator.num_processes)

        def score_share() -> None:
            with tqdm(
                total=len(rows),
                desc="DIQ scoring",
                unit=" rows",
                leave=False,
                disable=self.accelerator.process_index > 0,
            ) as bar:
                for start in range(0, len(mine), CHUNK):
                    places = list(mine)[start : start + CHUNK]
                    items = self._read([rows[i] for i in places])
                    kept = [(place, item) for place, item in zip(places, items, strict=True) if item is not None]
                    if kept:
                        columns = [place for place, _ in kept]
                        found = self._score(
                            [item for _, item in kept], [rows[i] for i in columns], direction, difficulty
                        )
                        for line, name in enumerate(names):
                            table[line, columns] = found[name]
                    bar.update(len(places) * self.accelerator.num_processes)

        self._together(score_share)
        # A row has one process's value and zeros from the others; NaN stays NaN in a sum.
        mask = np.zeros(len(rows), dtype=bool)
        mask[list(mine)] = True
        shared = self.accelerator.reduce(
            torch.tensor(np.where(mask, table, 0.0), device=self.accelerator.device), "sum"
        )
        return dict(zip(names, shared.cpu().numpy(), strict=True))

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
            encoder = RowEncoder(self._tokenizer, max_length=None)
            sequences = [self.objective.sequence(item) for item in items]
            prepared = []
            for row, sequence in zip(rows, sequences, strict=True):
                try:
                    prepared.append(difficulty.prepare(self._as_read(row, sequence, difficulty), encoder))
                except RowError as error:
                    raise RowError(f"Training row {row}: {error}") from error
            batch = RowBatch(prepared, None, None, encoder, None)
            if not difficulty.reusable:
                losses = self.engine.losses(sequences)
                batch = RowBatch(prepared, sequences, losses, encoder, self.engine.losses)
            found["difficulty"] = difficulty(batch)["difficulty"]
        return found

    def _as_read(self, row: int, sequence: EncodedRow, difficulty: DifficultySource) -> dict:
        """A row for a source of difficulty: its words where the trainer kept them and they are what counts, else the
        tokens that are trained."""
        columns = dict(self.trainer.train_dataset[row])
        if difficulty.reusable and set(columns) & {"prompt", "messages", "conversations", "text"}:
            return {name: value for name, value in columns.items() if name not in ("input_ids", "labels")}
        return columns | {"input_ids": sequence.input_ids.tolist(), "labels": sequence.labels.tolist()}

    def _read(self, rows: Sequence[int]) -> list:
        return self.objective.read([self.dataset[row] for row in rows], self.collate)

    def _validation(self, rows: Iterable[Mapping] | None, most: int | None, seed: int) -> list:
        if rows is not None:
            if not isinstance(self.objective, LanguageModeling):
                raise ValueError(
                    "Preference rows for validation are prepared by the trainer: pass them as its `eval_dataset`, not "
                    "as `validation`."
                )
            args = self.trainer.args
            names = ("truncation_mode", "completion_only_loss", "assistant_only_loss", "dataset_text_field")
            settings = {name: getattr(args, name) for name in names} if isinstance(self.trainer, SFTTrainer) else {}
            encoder = RowEncoder(self._tokenizer, max_length=getattr(args, "max_length", None), **settings)
            rows = list(rows)
            return encode_group([rows[i] for i in _drawn(len(rows), most, seed)], None, encoder)
        sets = self.trainer.eval_dataset
        loaders = [self.trainer.get_eval_dataloader(name) for name in (sets if isinstance(sets, dict) else [None])]
        places = [(loader, i) for loader in loaders for i in range(len(loader.dataset))]
        items = [
            item
            for place in _drawn(len(places), most, seed)
            for item in self.objective.read([places[place][0].dataset[places[place][1]]], places[place][0].collate_fn)
        ]
        if not (kept := [item for item in items if item is not None]):
            raise ValueError("No validation row has a token to train on. Pass others as `eval_dataset`.")
        return kept

    @property
    def _tokenizer(self) -> Any:
        return getattr(self.trainer.processing_class, "tokenizer", self.trainer.processing_class)

    def _together(self, function: Callable[[], Result]) -> Result:
        """Calls it in the trainer's precision; an error of one process is raised by all, so that none waits for it."""
        result, error = None, None
        try:
            with self.accelerator.autocast():
                result = function()
        except Exception as raised:
            error = raised
        if self.accelerator.num_processes > 1:
            messages = gather_object([f"{type(error).__name__}: {error}" if error else ""])
            if error is None and (others := [message for message in messages if message]):
                raise RuntimeError(f"Another process could not score its rows: {others[0]}")
        if error is not None:
            raise error
        return result


def _drawn(count: int, most: int | None, seed: int) -> list[int]:
    if most is None or count <= most:
        return list(range(count))
    return sorted(np.random.default_rng(seed).choice(count, size=most, replace=False).tolist())
