"""`DIQCallback`: a trainer that keeps choosing the rows it trains on, with the weights it has by then."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from ..difficulty.sources import DifficultySource
from .plan import StepPlan
from .settings import Settings
from .steering import Steering
from .trainers import BOUND, Binding, bound_trainer, calling_trainer, check_trainer


class DIQCallback(TrainerCallback, ExportableState):
    """Trains on the rows that are difficult and influential for the model as it is, choosing anew as it learns.

    The trainer's `train_dataset` is the pool and its `eval_dataset` the validation set. The first selection is made
    from the pool's `difficulty` and `influence` columns, or by scoring it before the first step. Then, after each pass
    over the selection, candidates are scored with the present weights and the next selection is made from them.

    Trainer, arguments and dataset are not replaced: when training begins, a sampler of the pool's length is put into
    the trainer's loader, which draws from the selection alone, and the steps of its state and its schedule of the
    learning rate are made as many as the budget comes to. Scoring changes nothing else; the weights after n steps on
    the same rows are bit for bit the same.

    A new selection starts with the first update step whose rows were not fetched yet: one step later, and with
    `dataloader_num_workers` several (`dataloader_prefetch_factor` batches a worker). Where a pass is as short as
    that, it trains mostly the selection before; take fewer workers, or a larger `rescore_every`.

    All that cannot be steered or scored is refused before the first step: by the trainer's constructor as far as it is
    known there, else by `train()`. A validation loss that is not finite ends a training only there, too: later the
    selection is kept, with a warning.

    Args:
        ratio (`float`, *optional*):
            Share of the pool that is trained at a time, in (0, 1]; by default 0.1.
        num_rows (`int`, *optional*):
            Number of rows instead of `ratio`.
        rescore_every (`int`, *optional*, defaults to `1`):
            Score again after so many passes over the selection, or update steps; `None` keeps the first selection.
        rescore_unit (`str`, *optional*, defaults to `"passes"`):
            `"passes"` or `"steps"`.
        candidates (`float`, *optional*, defaults to `4`):
            Rows scored again, as a multiple of the selection: the present selection, the best of the others by their
            last known scores, and some at random, so that rows can come back. `None` scores the whole pool again.
            Otherwise no more tokens are scored than were trained since the last scoring, at the price of each, and
            scoring waits for a later pass if that is not enough for a quarter more rows than the selection has.
        validation (`Iterable[Mapping]`, *optional*):
            Validation rows in any format `SFTTrainer` takes, instead of the trainer's `eval_dataset`.
        difficulty (`str` or [`~diq_hf.difficulty.sources.DifficultySource`], *optional*):
            As in [`DIQScorer`]; by default the pool's `difficulty` column, else `"ifd"`. It is taken once.
        strategy (`str`, *optional*, defaults to `"diq"`):
            As in [`select_subset`], but for `"column:NAME"`; inside a quadrant the larger influence comes first.
        difficulty_percentile (`float`, *optional*, defaults to `50`):
            As in [`QuadrantRule.fit`].
        max_mismatch (`float`, *optional*, defaults to `"auto"`):
            As in [`select_subset`]: rows whose column `mismatch` is larger are passed over.
        max_similarity (`float`, *optional*, defaults to `"auto"`):
            As in [`select_subset`]: of rows this similar one is trained at a time. Rows of the same token ids count
            as copies even where the pool has no texts any more.
        warmup_ratio (`float`, *optional*, defaults to `0.0`):
            Share of the steps that are trained on rows of the whole pool before the first selection.
        max_validation_rows (`int`, *optional*, defaults to `360`):
            So many validation rows at most, drawn at random; `None` takes all.
        budget (`str`, *optional*, defaults to `"subset"`):
            `"subset"`: `num_train_epochs` counts passes over the selection, so a tenth of the rows costs a tenth of
            the steps, unless you set `max_steps`; `trainer.state.max_steps` has the number. `"pool"`: as many steps as
            without the callback. What the trainer itself counts in epochs (`eval_strategy="epoch"`, say) is passes
            over the pool either way.
        report_only (`bool`, *optional*, defaults to `False`):
            Score and log, but train on everything.
        online (`bool`, *optional*, defaults to `False`):
            Also read the influence of the rows being trained off their own forward and backward passes, dropout
            included, so that their scores are of their last step and not of the last scoring. Cross-entropy only.
            The validation gradient that they are read on stands beside each checkpoint, and a resumed run looks for it
            where that checkpoint was saved, and in `args.resume_from_checkpoint`.
        target_modules (`str` or `list[str]`, *optional*):
            As in [`DIQScorer`], for a model without an adapter.
        log_selection (`bool`, *optional*, defaults to `True`):
            Write every scoring to `diq` in the output folder: which rows, their scores, and whether they were chosen.
        seed (`int`, *optional*):
            By default the trainer's `data_seed`, else its `seed`.

    Raises:
        `ValueError`: The trainer cannot be steered (packing, a stream, FSDP1, ZeRO-3, a sampler of your own, no
            validation rows). The message says what to change.

    Example:

    ```python
    from trl import SFTTrainer
    from diq_hf import DIQCallback

    trainer = SFTTrainer(model, train_dataset=ds, eval_dataset=validation_rows, callbacks=[DIQCallback])
    trainer.train()
    ```
    """

    def __init__(
        self,
        ratio: float | None = None,
        num_rows: int | None = None,
        rescore_every: int | None = 1,
        rescore_unit: str = "passes",
        candidates: float | None = 4,
        validation: Iterable[Mapping] | None = None,
        difficulty: str | DifficultySource | None = None,
        strategy: str = "diq",
        difficulty_percentile: float = 50,
        max_mismatch: float | str | None = "auto",
        max_similarity: float | str | None = "auto",
        warmup_ratio: float = 0.0,
        max_validation_rows: int | None = 360,
        budget: str = "subset",
        report_only: bool = False,
        online: bool = False,
        target_modules: str | Sequence[str] | None = None,
        log_selection: bool = True,
        seed: int | None = None,
    ):
        self.settings = Settings(
            ratio=ratio,
            num_rows=None if num_rows is None else int(num_rows),
            rescore_every=rescore_every,
            rescore_unit=rescore_unit,
            candidates=candidates,
            validation=None if validation is None else list(validation),
            difficulty=difficulty,
            strategy=strategy,
            difficulty_percentile=difficulty_percentile,
            max_mismatch=max_mismatch,
            max_similarity=max_similarity,
            warmup_ratio=warmup_ratio,
            max_validation_rows=max_validation_rows,
            budget=budget,
            report_only=report_only,
            online=online,
            target_modules=target_modules,
            log_selection=log_selection,
            seed=seed,
        )
        self.saved: dict | None = None
        self._run: Steering | None = None
        self._plan: StepPlan | None = None

    def bind(self, trainer: Trainer) -> None:
        """Checks a trainer. Only needed for a callback that is added to a finished trainer.

        Args:
            trainer ([`~transformers.Trainer`]):
                The trainer whose rows are to be chosen.

        Raises:
            `ValueError`: It cannot be steered.
        """
        check_trainer(trainer, self.settings)
        _check_alone(trainer)
        # A schedule that is there before the trainer made one is the user's.
        own = trainer.lr_scheduler is not None and not getattr(trainer, "_created_lr_scheduler", False)
        BOUND[trainer] = Binding(self.settings, own_schedule=own)

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        self.bind(calling_trainer())

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        if self._run is not None:  # of a training that was interrupted
            self._run.detach()
            self._run = None
        if (trainer := bound_trainer(state)) is None:
            raise ValueError(
                "DIQCallback was added after the trainer was made, and has not seen it. Pass it as `callbacks=[...]`, "
                "or call `callback.bind(trainer)` before `trainer.train()`."
            )
        _check_alone(trainer)
        given = BOUND[trainer]
        # The trainer may have made this one from a checkpoint, which holds plain settings alone.
        self.settings = replace(
            self.settings, validation=given.settings.validation, difficulty=given.settings.difficulty
        )
        check_trainer(trainer, self.settings)  # arguments may have changed since
        self._plan = StepPlan(trainer, state, self.settings, given.own_schedule)
        if state.global_step and state.global_step >= state.max_steps:
            raise ValueError(
                f"The checkpoint is at step {state.global_step}, and {state.max_steps} steps are planned. Set "
                "`max_steps`, or pass `budget='pool'` to DIQCallback."
            )
        name = type(self).__name__
        stored = state.stateful_callbacks.get(name) or {}
        self.saved = stored.get("attributes", {}).get("saved")
        self._run = Steering(self.settings, trainer, kwargs["model"])
        self._run.begin(state, control, self.saved if state.global_step else None)
        # A checkpoint that was saved without this callback has no place for its state, and the next one wants it.
        state.stateful_callbacks[name] = self.state()

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        self._plan.begin_epoch(state)
        # The trainer tells the sampler too, but not through every loader that skips a resumed epoch's first batches.
        self._run.sampler.set_epoch(math.floor(state.epoch or 0))

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        self._run.begin_step(state)

    def on_substep_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        self._run.collect()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        self._run.collect()
        self._run.step(state, control)

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        self._run.gather()  # a checkpoint may follow
        self._plan.end_epoch(state)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        self._run.save(state)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        self._plan.begin_epoch(state)
        self._run.end()
        self.saved, self._run = self._run.saved(), None

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        if self._run is not None:
            self._run.gather()  # a checkpoint of the best may follow

    def state(self) -> dict:
        """What a checkpoint keeps: plain settings, the selections, and the last known scores."""
        saved = self.saved if self._run is None else self._run.saved()
        return {"args": self.settings.plain(), "attributes": {"saved": saved}}

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_run": None, "_plan": None}  # a training stays with its trainer


def _check_alone(trainer: Trainer) -> None:
    if sum(isinstance(callback, DIQCallback) for callback in trainer.callback_handler.callbacks) > 1:
        raise ValueError("The trainer has more than one DIQCallback, and each would choose its rows. Keep one.")
