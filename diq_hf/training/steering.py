"""One training whose rows are chosen as it goes: when rows are scored, which are taken, and what is told of it."""

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.utils import gather_object
from transformers import Trainer, TrainerControl, TrainerState
from transformers.utils import logging

from ..difficulty.sources import DifficultySource
from ..engine.influence import Direction, NonFiniteLossError
from ..reporting.figures import plot_moves
from .directions import find_direction, save_direction
from .history import SelectionHistory, pack, unpack
from .objectives import LanguageModeling
from .online import OnlineInfluence
from .passing import passed_over
from .pool import Choice, Pool, read_scores
from .reports import numbers, show_in_trackio
from .rescoring import TrainerScorer
from .sampler import SelectionSampler
from .settings import Settings
from .trainers import install, pool_lengths, price_of_training


logger = logging.get_logger(__name__)


class Steering:
    """One training: from its first step, or the one it is resumed at, to its last.

    Whatever cannot be steered or scored is refused here, before the first step.

    Args:
        settings ([`Settings`]):
            What was asked for.
        trainer ([`~transformers.Trainer`]):
            The trainer, about to train.
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            Its bare model.

    Raises:
        `ValueError`: The trainer's loader, loss, rows or model are not such as can be steered or scored.
    """

    def __init__(self, settings: Settings, trainer: Trainer, model: Any):
        self.settings, self.trainer = settings, trainer
        OnlineInfluence.detach_former(model)  # of a training that was interrupted
        args = trainer.args
        seed = args.seed if args.data_seed is None else args.data_seed
        self.seed = seed if settings.seed is None else settings.seed
        num_tokens = pool_lengths(trainer)
        self.num_selected = settings.num_selected(len(num_tokens))
        self.pool = Pool(
            num_tokens, self.num_selected, settings.strategy, settings.difficulty_percentile, seed=self.seed
        )
        scores, self.difficulty = read_scores(trainer.train_dataset, settings.difficulty)
        self.pool.update(np.arange(len(num_tokens)), scores)
        self.pool.passed_over = passed_over(trainer.train_dataset, settings)
        self.step_size = trainer.get_total_train_batch_size(args)
        self.sampler = SelectionSampler(
            len(num_tokens),
            self.step_size // args.gradient_accumulation_steps,
            args.gradient_accumulation_steps,
            self.seed,
            shuffle=args.train_sampling_strategy != "sequential",
            lengths=num_tokens if args.train_sampling_strategy == "group_by_length" else None,
            drop_last=args.dataloader_drop_last,
        )
        if not settings.report_only:
            install(self.sampler, trainer)
        self.history = SelectionHistory(Path(args.output_dir) / "diq") if settings.log_selection else None
        self.scorer: TrainerScorer | None = None
        self.online: OnlineInfluence | None = None
        self.last_step: int | None = None  # after which rows were last selected; None while warming up
        self.first_step = self.first_at = 0  # where this training begins, and the earliest step to select after
        self.scored_again = False
        self.started, self.scoring_seconds, self.scored_rows = time.perf_counter(), 0.0, 0
        if self._will_score():
            self.scorer = TrainerScorer(
                trainer,
                model,
                settings.validation,
                settings.target_modules,
                settings.max_validation_rows,
                self.seed,
                self.difficulty if "difficulty" in self._missing() else None,
            )
            if settings.online and not isinstance(objective := self.scorer.objective, LanguageModeling):
                raise ValueError(f"`online=True` knows no {type(objective).__name__}. Pass `online=False`.")

    def _will_score(self) -> bool:
        settings = self.settings
        again = settings.rescore_every is not None and settings.changing
        return settings.online or again or bool(self._missing())

    def _missing(self) -> list[str]:
        """Scores that the first selection needs and the pool has not."""
        return [name for name in self.settings.needed if not np.isfinite(self.pool.scores[name]).any()]

    def begin(self, state: TrainerState, control: TrainerControl, saved: dict | None = None) -> None:
        """Before the first step.

        Args:
            state ([`~transformers.TrainerState`]):
                The trainer's state, at the step of a checkpoint if it is resumed.
            control ([`~transformers.TrainerControl`]):
                The trainer's control.
            saved (`dict`, *optional*):
                What [`~Steering.saved`] gave for that checkpoint, if it was saved with the callback.
        """
        self.first_step = state.global_step
        self.sampler.begin(state.global_step, skip=not self.trainer.args.ignore_data_skip)
        if saved:
            self._restore(saved, state)
        if self.history is not None and self.trainer.is_world_process_zero():
            self.history.clear(state.global_step if saved else -1)
        if saved:
            return
        self.sampler.select(np.arange(len(self.pool.num_tokens)), start=self.sampler.epoch * len(self.sampler))
        if self.settings.online:
            self._start_online()
        self.step(state, control)

    def detach(self) -> None:
        """Leaves the model as it was."""
        if self.online is not None:
            self.online.detach()

    def begin_step(self, state: TrainerState) -> None:
        """Before every update step."""
        if self.online is not None:
            step, accelerator = state.global_step, self.trainer.accelerator
            here = {"process": accelerator.process_index, "num_processes": accelerator.num_processes}
            self.online.begin_step(lambda batch: self.sampler.batch_rows(step, batch, **here))

    def collect(self) -> None:
        """After every backward pass."""
        if self.online is not None:
            self.online.collect()

    def gather(self) -> None:
        """Takes what the processes have read online into the pool's scores."""
        if self.online is not None:
            rows, influences = self.online.gathered(self.trainer.accelerator)
            finite = np.isfinite(influences)  # the others keep what is known of them
            self.pool.update(rows[finite], {"influence": influences[finite]})

    def step(self, state: TrainerState, control: TrainerControl) -> None:
        """After every update step: selects anew if it is time to."""
        done = state.global_step
        if self.online is not None:
            self.online.begin_step(None)  # nothing is read between steps, nor after an error there
        if control.should_save:
            self.gather()
        if done >= state.max_steps:
            return
        if self.last_step is None:
            if done >= max(math.ceil(self.settings.warmup_ratio * state.max_steps), self.first_at):
                self._select_first(state, control)
        elif self.settings.rescore_every is not None and (done - self.last_step) % self._interval() == 0:
            self._select_again(state, control)

    def end(self) -> None:
        """Draws the history, and says what scoring took."""
        self.detach()
        if not self.trainer.is_world_process_zero():
            return
        logger.info(
            f"DIQCallback scored {self.scored_rows} rows in {self.scoring_seconds:.0f} s, {self._share():.1%} of the "
            "time since training began."
        )
        if self.settings.rescore_every is not None and not self.scored_again and self.scorer is not None:
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
        if missing := self._missing():
            difficulty = self.difficulty if "difficulty" in missing else None
            influence = bool({"influence", "loss"} & set(missing))
            if not self._score(state, np.arange(len(self.pool.num_tokens)), influence, difficulty):
                self.first_at = state.global_step + math.ceil(self.num_selected / self.step_size)
                return
        self._take(self.pool.choose(), state, control)

    def _select_again(self, state: TrainerState, control: TrainerControl) -> None:
        """Scores candidates with the present weights and selects among them."""
        self.gather()
        if not self.settings.changing:
            if self.settings.strategy == "random":
                self._take(self.pool.choose(), state, control)
            return
        rows, weights = np.arange(len(self.pool.num_tokens)), None
        if self.settings.candidates is not None:
            steps = state.global_step - self.last_step
            trained = steps * self.step_size * float(self.pool.num_tokens[self.pool.selection].mean())
            paid = trained * price_of_training(self.trainer) - self.scorer.validation_tokens
            rows, weights = self.pool.candidates(int(self.settings.candidates * self.num_selected), paid)
            if len(rows) < min(1.25 * self.num_selected, len(self.pool.num_tokens)):
                return  # a later pass will have paid for more
        if self._score(state, rows, True, None):
            self.scored_again = True
            self._take(self.pool.choose(rows, weights), state, control)

    def _score(self, state: TrainerState, rows: np.ndarray, influence: bool, source: DifficultySource | None) -> bool:
        """Scores rows with the present weights.

        Returns:
            `bool`: Whether there are scores. Before the first step it is an error if there are none; a training that
            has begun goes on without, for it would be lost.
        """
        start, begins = time.perf_counter(), state.global_step == self.first_step
        try:
            direction = self.scorer.direction() if influence else None
        except (NonFiniteLossError, RuntimeError) as error:
            # Of another process's error there are the words alone.
            if begins or NonFiniteLossError.__name__ not in f"{type(error).__name__}: {error}":
                raise
            self._warn_of_divergence(state, str(error))
            return False
        found = self.scorer.score(rows, direction, source)
        self.scored_rows += len(rows)
        self.scoring_seconds += time.perf_counter() - start
        if not begins and (empty := [name for name, values in found.items() if not np.isfinite(values).any()]):
            self._warn_of_divergence(state, f"None of {len(rows)} rows has a finite {empty[0]}.")
            return False
        self.pool.update(rows, found)
        if self.online is not None and direction is not None:
            self.online.use(direction)
        for name, values in found.items():
            if (missing := int(np.isnan(values).sum())) and self.trainer.is_world_process_zero():
                logger.warning(f"{missing} of {len(rows)} rows have no finite {name}; they are not selected.")
        return True

    def _warn_of_divergence(self, state: TrainerState, reason: str) -> None:
        if self.trainer.is_world_process_zero():
            logger.warning(
                f"Rows could not be scored after step {state.global_step}, and training goes on with those it has. "
                f"{reason} Has it diverged? Lower the learning rate, or train in bf16 or fp32."
            )

    def _take(self, choice: Choice, state: TrainerState, control: TrainerControl) -> None:
        """Trains on the chosen rows from the next step on, and reports them."""
        before, selection = self.pool.selection, choice.selection
        self.pool.selection, self.last_step = selection, state.global_step
        begin = self.sampler.next_start(state.global_step)
        if self.trainer.accelerator.num_processes > 1:  # of which one alone may read, and dispatch to the others
            begin = max(gather_object([begin]))
        self.sampler.select(selection, begin, state.global_step)
        if self.trainer.is_world_process_zero() and self.history is not None:
            self.history.add(state.global_step, self.pool, choice)
        if len(selection) < self.num_selected and self.trainer.is_world_process_zero():
            logger.warning(
                f"Only {len(selection)} rows can be selected where {self.num_selected} are asked for: the others have "
                "no finite scores or are passed over. Those are trained more often instead."
            )
        logs = numbers(self.pool, choice, before)
        logs |= {"diq/seconds": self.scoring_seconds, "diq/share_of_time": self._share()}
        # The trainer's own logging, less what a subclass adds: SFTTrainer would empty its averages into this line.
        # And a log line is not the one that was due at this step.
        due = control.should_log
        Trainer.log(self.trainer, logs)
        control.should_log = due
        show_in_trackio(self.trainer, state.global_step, self.pool, choice)

    def _interval(self) -> int:
        """Update steps between two scorings."""
        every = self.settings.rescore_every
        if self.settings.rescore_unit == "steps":
            return every
        return math.ceil(every * len(self.pool.selection) / self.step_size)

    def _share(self) -> float:
        return self.scoring_seconds / max(time.perf_counter() - self.started, 1e-9)

    def _start_online(self, direction: Direction | None = None) -> None:
        start = time.perf_counter()
        self.online = OnlineInfluence(self.scorer.engine)
        self.online.use(self.scorer.direction() if direction is None else direction)
        self.online.attach()
        self.scoring_seconds += time.perf_counter() - start

    def save(self, state: TrainerState) -> None:
        """Beside a checkpoint: the direction that rows are being read on, which its weights no longer give."""
        if self.online is not None and (self.trainer.is_world_process_zero() or self.online.direction.in_shards):
            save_direction(self.online.direction, Path(self.trainer.args.output_dir) / _checkpoint(state))

    def saved(self) -> dict:
        """Plain data that [`~Steering.begin`] goes on from."""
        return {
            "scores": {name: pack(values) for name, values in self.pool.scores.items()},
            "selection": None if self.pool.selection is None else pack(self.pool.selection),
            "selections": [[start, pack(rows)] for start, rows in self.sampler.selections],
            "draws": self.pool.draws,
            "steps": [self.step_size, self.sampler.steps_per_epoch],
            "direction": self.online and self.online.direction.digest,
            "output_dir": self.online and str(Path(self.trainer.args.output_dir).absolute()),
            "scored_again": self.scored_again,
            "last_step": self.last_step,
            "scored_rows": self.scored_rows,
            "scoring_seconds": self.scoring_seconds,
            "seconds": time.perf_counter() - self.started,
        }

    def _restore(self, saved: dict, state: TrainerState) -> None:
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
        moved = self.trainer.args.ignore_data_skip or saved["steps"] != [self.step_size, self.sampler.steps_per_epoch]
        self.sampler.restore([(start, unpack(text)) for start, text in saved["selections"]], moved)
        if self.settings.online:
            if moved:
                raise ValueError(
                    "`online=True` goes on with the batches it had. Resume without `ignore_data_skip`, with the same "
                    "batch size and number of processes."
                )
            self._start_online(self._find_direction(saved, state))

    def _find_direction(self, saved: dict, state: TrainerState) -> Direction | None:
        args = self.trainer.args
        if saved["direction"] is None:  # nothing was read online then
            return None
        folders = [Path(folder) / _checkpoint(state) for folder in (saved["output_dir"], args.output_dir)]
        if isinstance(args.resume_from_checkpoint, str):
            folders.insert(0, Path(args.resume_from_checkpoint))
        return find_direction(folders, saved["direction"], self.scorer.engine, self.trainer.accelerator)


def _checkpoint(state: TrainerState) -> str:
    return f"checkpoint-{state.global_step}"
