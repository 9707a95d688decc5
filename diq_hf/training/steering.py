"""One training whose rows are chosen as it goes: when rows are scored, which are taken, and what is told of it."""

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import Trainer, TrainerControl, TrainerState
from transformers.utils import logging

from ..difficulty.sources import DifficultySource, difficulty_source
from ..digest import tensors_digest
from ..engine.influence import Direction
from ..reporting.figures import plot_moves
from ..selection.quadrants import QUADRANTS, score_columns
from .history import SelectionHistory, pack, unpack
from .objectives import LanguageModeling
from .online import OnlineInfluence
from .pool import SCORES, Choice, Pool
from .rescoring import TrainerScorer
from .sampler import SelectionSampler
from .trainers import price_of_training, row_lengths


logger = logging.get_logger(__name__)


class Steering:
    """One training: from its first step, or the one it is resumed at, to its last."""

    def __init__(self, callback: Any, trainer: Trainer, model: Any):
        self.callback, self.trainer, self.model = callback, trainer, model
        args, loader = trainer.args, trainer.callback_handler.train_dataloader
        seed = args.seed if args.data_seed is None else args.data_seed
        self.seed = seed if callback.seed is None else callback.seed
        num_tokens = row_lengths(loader.dataset)
        self.num_selected = callback.num_selected(len(num_tokens))
        self.pool = Pool(
            num_tokens, self.num_selected, callback.strategy, callback.difficulty_percentile, seed=self.seed
        )
        self.step_size = trainer.get_total_train_batch_size(args)
        self.steps_per_epoch = -(-len(loader) // args.gradient_accumulation_steps)
        self.sampler: SelectionSampler | None = None
        if not callback.report_only:
            by_length = args.train_sampling_strategy == "group_by_length"
            self.sampler = SelectionSampler(
                len(num_tokens),
                self.step_size // args.gradient_accumulation_steps,
                args.gradient_accumulation_steps,
                self.seed,
                shuffle=args.train_sampling_strategy != "sequential",
                lengths=num_tokens if by_length else None,
                drop_last=args.dataloader_drop_last,
            )
            loader.set_sampler(self.sampler)
        self.history = SelectionHistory(Path(args.output_dir) / "diq") if callback.log_selection else None
        self.scorer: TrainerScorer | None = None
        self.difficulty: DifficultySource | None = None
        self.last_step: int | None = None  # after which rows were last selected; None while warming up
        self.scored_again = False
        self.online: OnlineInfluence | None = None
        self.position = 0  # before which no selection starts
        self.started, self.scoring_seconds, self.scored_rows = time.perf_counter(), 0.0, 0
        self._read_columns()

    def begin(self, state: TrainerState, control: TrainerControl) -> None:
        """At the first step, or at the step of a checkpoint that was saved without the callback."""
        epoch, step = divmod(state.global_step, self.steps_per_epoch)
        if self.sampler is not None:
            self.sampler.set_epoch(epoch)
            self.sampler.select(np.arange(len(self.pool.num_tokens)))
            skipped = 0 if self.trainer.args.ignore_data_skip else step
            self.position = epoch * len(self.sampler) + skipped * self.step_size
        self._clear_history()
        if self.callback.online:
            self._start_online()
        self.step(state, control)

    def _clear_history(self, after: int = -1) -> None:
        if self.history is not None and self.trainer.is_world_process_zero():
            self.history.clear(after)

    def detach(self) -> None:
        """Leaves the model as it was."""
        if self.online is not None:
            self.online.detach()

    def begin_step(self, state: TrainerState) -> None:
        """Before every update step."""
        if self.online is None:
            return
        epoch, step = divmod(state.global_step, self.steps_per_epoch)
        each = self.sampler.batch_size // self.trainer.accelerator.num_processes
        first = epoch * len(self.sampler) + step * self.step_size + self.trainer.accelerator.process_index * each

        def rows(batch: int) -> list[int]:
            start = first + batch * self.sampler.batch_size
            return self.sampler.rows(start, start + each)

        self.online.begin_step(rows)

    def collect(self) -> None:
        """After every backward pass."""
        if self.online is not None:
            self.online.collect()

    def gather(self) -> None:
        """Takes what the processes have read online into the pool's scores."""
        if self.online is not None:
            rows, influences = self.online.gathered(self.trainer.accelerator)
            self.pool.update(rows, {"influence": influences})

    def step(self, state: TrainerState, control: TrainerControl) -> None:
        """After every update step: selects anew if it is time to."""
        done = state.global_step
        if control.should_save:
            self.gather()
        if done >= state.max_steps:
            return
        if self.last_step is None:
            if done >= math.ceil(self.callback.warmup_ratio * state.max_steps):
                self._select_first(state, control)
        elif self.callback.rescore_every is not None and (done - self.last_step) % self._interval() == 0:
            self._select_again(state, control)

    def end(self, state: TrainerState) -> None:
        """Draws the history, and says what scoring took."""
        self.detach()
        if not self.trainer.is_world_process_zero():
            return
        logger.info(
            f"DIQCallback scored {self.scored_rows} rows in {self.scoring_seconds:.0f} s, {self._share():.1%} of the "
            "time since training began."
        )
        if self.callback.rescore_every is not None and not self.scored_again and self.scorer is not None:
            logger.warning(
                "Rows were never scored again: the training did not pay for it, with "
                f"{self.scorer.validation_tokens} tokens of validation rows to begin with. Lower "
                "`max_validation_rows`, or pass `candidates=None`."
            )
        if self.history is None or (history := self.history.load()) is None:
            return
        try:
            plot_moves(history, self.history.folder / "quadrants.png")
        except ImportError as error:
            logger.warning(f"The history has no picture. {error}")

    def _select_first(self, state: TrainerState, control: TrainerControl) -> None:
        strategy, scores = self.callback.strategy, self.pool.scores
        needed = {"diq": ("difficulty", "influence"), "random": (), "length": ()}.get(strategy, (strategy,))
        missing = [name for name in needed if not np.isfinite(scores[name]).any()]
        if missing:
            self._score(
                np.arange(len(self.pool.num_tokens)),
                "influence" in missing or "loss" in missing,
                self.difficulty if "difficulty" in missing else None,
            )
        self._take(self.pool.choose(), state, control)

    def _select_again(self, state: TrainerState, control: TrainerControl) -> None:
        """Scores candidates with the present weights and selects among them."""
        self.gather()
        strategy = self.callback.strategy
        if strategy not in ("diq", "influence", "loss"):  # nothing that training changes
            if strategy == "random":
                self._take(self.pool.choose(), state, control)
            return
        rows, weights = np.arange(len(self.pool.num_tokens)), None
        if self.callback.candidates is not None:
            steps = state.global_step - self.last_step
            trained = steps * self.step_size * float(self.pool.num_tokens[self.pool.selection].mean())
            self._make_scorer()
            paid = trained * price_of_training(self.trainer) - self.scorer.validation_tokens
            rows, weights = self.pool.candidates(int(self.callback.candidates * self.num_selected), paid)
            if len(rows) < min(1.25 * self.num_selected, len(self.pool.num_tokens)):
                return  # a later pass will have paid for more
        self._score(rows, True, None)
        self.scored_again = True
        self._take(self.pool.choose(rows, weights), state, control)

    def _score(self, rows: np.ndarray, influence: bool, difficulty: DifficultySource | None) -> None:
        start = time.perf_counter()
        self._make_scorer()
        direction = self.scorer.direction() if influence else None
        if self.online is not None and direction is not None:
            self.online.use(direction)
        found = self.scorer.score(rows, direction, difficulty)
        self.pool.update(rows, found)
        self.scored_rows += len(rows)
        self.scoring_seconds += time.perf_counter() - start
        for name, values in found.items():
            if (missing := int(np.isnan(values).sum())) and self.trainer.is_world_process_zero():
                logger.warning(f"{missing} of {len(rows)} rows have no finite {name}; they are not selected.")

    def _take(self, choice: Choice, state: TrainerState, control: TrainerControl) -> None:
        """Trains on the chosen rows from the next step on, and reports them."""
        before, selection = self.pool.selection, choice.selection
        self.pool.selection, self.last_step = selection, state.global_step
        if self.sampler is not None:
            self.sampler.select(selection, at=self.position)
        if self.trainer.is_world_process_zero() and self.history is not None:
            self.history.add(state.global_step, self.pool, choice)
        if len(selection) < self.num_selected and self.trainer.is_world_process_zero():
            logger.warning(
                f"Only {len(selection)} rows can be selected where {self.num_selected} are asked for: the others have "
                "no finite scores. They are passed over more often instead."
            )
        logs = {"diq/scored": len(choice.rows), "diq/selected": len(selection)}
        if choice.rule is not None:
            logs |= {f"diq/{name}": int((choice.quadrants == code).sum()) for code, name in enumerate(QUADRANTS)}
            logs["diq/difficulty_threshold"] = choice.rule.difficulty_threshold
            logs["diq/influence_threshold"] = choice.rule.influence_threshold
        if before is not None:
            logs["diq/overlap"] = float(np.isin(selection, before).mean())
        for name in ("difficulty", "influence"):
            for group, chosen in (("selected", choice.chosen), ("rest", ~choice.chosen)):
                values = self.pool.scores[name][choice.rows[chosen]]
                if np.isfinite(values).any():
                    logs[f"diq/{name}_{group}"] = float(np.nanmean(values))
        logs |= {"diq/seconds": self.scoring_seconds, "diq/share_of_time": self._share()}
        # The trainer's own logging, less what a subclass adds: SFTTrainer would empty its averages into this line.
        # And a log line is not the one that was due at this step.
        due = control.should_log
        Trainer.log(self.trainer, logs)
        control.should_log = due

    def _interval(self) -> int:
        """Update steps between two scorings."""
        every = self.callback.rescore_every
        if self.callback.rescore_unit == "steps":
            return every
        return math.ceil(every * len(self.pool.selection) / self.step_size)

    def _share(self) -> float:
        return self.scoring_seconds / max(time.perf_counter() - self.started, 1e-9)

    def _make_scorer(self) -> TrainerScorer:
        if self.scorer is None:
            callback = self.callback
            self.scorer = TrainerScorer(
                self.trainer,
                self.model,
                callback.validation,
                callback.target_modules,
                callback.max_validation_rows,
                self.seed,
                self.difficulty if callback.strategy in ("diq", "difficulty") else None,
            )
        return self.scorer

    def _start_online(self, direction: Direction | None = None) -> None:
        start = time.perf_counter()
        if not isinstance((objective := self._make_scorer().objective), LanguageModeling):
            raise ValueError(f"`online=True` knows no {type(objective).__name__}. Pass `online=False`.")
        self.online = OnlineInfluence(self.scorer.engine)
        self.online.use(self.scorer.direction() if direction is None else direction)
        self.online.attach()
        self.scoring_seconds += time.perf_counter() - start

    def save(self, state: TrainerState) -> None:
        """Beside a checkpoint: the direction that rows are being read on, which its weights no longer give."""
        if self.online is not None and self.trainer.is_world_process_zero():
            direction = self.online.direction
            direction.save(self._direction_path(state), tensors_digest(direction.tensors))

    def _direction_path(self, state: TrainerState) -> Path:
        return Path(self.trainer.args.output_dir) / f"checkpoint-{state.global_step}" / "diq_direction.safetensors"

    def _read_columns(self) -> None:
        """Scores that the pool comes with, and where its difficulty comes from if it has none."""
        dataset, wanted = self.trainer.train_dataset, self.callback.difficulty
        names = dataset.column_names if isinstance(dataset, Dataset) else []
        columns = {name: name for name in SCORES if name in names}
        if wanted is not None:
            columns.pop("difficulty", None)
            if isinstance(wanted, str) and wanted.startswith("column:"):
                columns["difficulty"] = wanted.removeprefix("column:")
        for column in columns.values():
            if column in names and not dataset.features[column].dtype.startswith(("float", "int", "uint", "bool")):
                raise ValueError(
                    f"The training set's column {column!r} holds no numbers. Rename it, or name another difficulty: "
                    "`DIQCallback(difficulty='ifd')`."
                )
        for name, values in score_columns(dataset, list(columns.values())).items() if columns else ():
            for score in (score for score, column in columns.items() if column == name):
                self.pool.scores[score][:] = values
        if "difficulty" not in columns:
            self.difficulty = difficulty_source("ifd" if wanted is None else wanted)

    def saved(self) -> dict:
        """Plain data that [`~Steering.restore`] goes on from."""
        return {
            "scores": {name: pack(values) for name, values in self.pool.scores.items()},
            "selection": None if self.pool.selection is None else pack(self.pool.selection),
            "selections": [[start, pack(rows)] for start, rows in self.sampler.recent()] if self.sampler else [],
            "draws": self.pool.draws,
            "steps": [self.step_size, self.steps_per_epoch],
            "direction": self.online and tensors_digest(self.online.direction.tensors),
            "scored_again": self.scored_again,
            "last_step": self.last_step,
            "scored_rows": self.scored_rows,
            "scoring_seconds": self.scoring_seconds,
            "seconds": time.perf_counter() - self.started,
        }

    def restore(self, saved: dict, state: TrainerState) -> None:
        """Goes on from what [`~Steering.saved`] gave."""
        self.pool.scores = {name: unpack(text) for name, text in saved["scores"].items()}
        if len(self.pool.scores["influence"]) != len(self.pool.num_tokens):
            raise ValueError(
                f"The checkpoint chose among {len(self.pool.scores['influence'])} rows and the trainer has "
                f"{len(self.pool.num_tokens)}. Resume with the dataset it was trained on."
            )
        self.pool.selection = None if saved["selection"] is None else unpack(saved["selection"])
        self.pool.draws, self.last_step = saved["draws"], saved["last_step"]
        self.scored_rows, self.scoring_seconds = saved["scored_rows"], saved["scoring_seconds"]
        self.scored_again = saved["scored_again"]
        self.started = time.perf_counter() - saved["seconds"]
        self._clear_history(state.global_step)
        elsewhere = self.trainer.args.ignore_data_skip or saved["steps"] != [self.step_size, self.steps_per_epoch]
        if self.sampler is not None:
            self.sampler.selections = [(start, unpack(text)) for start, text in saved["selections"]]
            if elsewhere and self.pool.selection is not None:
                # Positions mean other rows now: the selection goes on from the start of the epoch.
                self.sampler.set_epoch(state.global_step // self.steps_per_epoch)
                self.sampler.selections = []
                self.sampler.select(self.pool.selection)
        if self.callback.online:
            if elsewhere:
                raise ValueError(
                    "`online=True` goes on with the batches it had. Resume without `ignore_data_skip`, with the same "
                    "batch size and number of processes."
                )
            path = self._direction_path(state)
            if not path.exists():
                logger.warning(f"There is no {path}, so the validation gradient is taken at the present weights.")
            self._start_online(Direction.load(path, saved["direction"]) if path.exists() else None)
