"""`DIQCallback`: a trainer that keeps choosing the rows it trains on, with the weights it has by then."""

import copy
import inspect
import math
from collections.abc import Iterable, Mapping, Sequence

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState
from transformers.utils import logging

from ..difficulty.sources import DifficultySource
from ..selection.budgets import row_budget
from ..selection.settings import STRATEGIES
from .steering import Steering
from .trainers import calling_trainer, check_trainer


logger = logging.get_logger(__name__)


class DIQCallback(TrainerCallback, ExportableState):
    """Trains on the rows that are difficult and influential for the model as it is, choosing anew as it learns.

    The trainer's `train_dataset` is the pool and its `eval_dataset` the validation set. The first selection is made
    from the pool's `difficulty` and `influence` columns, or by scoring it before the first step. Then, after each pass
    over the selection, candidates are scored with the present weights and the next selection is made from them.

    Neither trainer nor dataset is replaced: a sampler of the pool's length is installed, which draws from the
    selection alone. Scoring changes nothing else; the weights after n steps on the same rows are bit for bit the same.

    Args:
        ratio (`float`, *optional*, defaults to `0.1`):
            Share of the pool that is trained at a time, in (0, 1].
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
            As in [`select_subset`].
        difficulty_percentile (`float`, *optional*, defaults to `50`):
            As in [`QuadrantRule.fit`].
        warmup_ratio (`float`, *optional*, defaults to `0.0`):
            Share of the steps that are trained on rows of the whole pool before the first selection.
        max_validation_rows (`int`, *optional*, defaults to `360`):
            So many validation rows at most, drawn at random; `None` takes all.
        budget (`str`, *optional*, defaults to `"subset"`):
            `"subset"`: `num_train_epochs` counts passes over the selection, so a tenth of the rows costs a tenth of
            the steps; the trainer's `args.max_steps` is set for that, unless you set it. `"pool"`: as many steps as
            without the callback. What the trainer itself counts in epochs (`eval_strategy="epoch"`, say) is passes
            over the pool either way.
        report_only (`bool`, *optional*, defaults to `False`):
            Score and log, but train on everything.
        online (`bool`, *optional*, defaults to `False`):
            Also read the influence of the rows being trained off their own forward and backward passes, dropout
            included, so that their scores are of their last step and not of the last scoring. Cross-entropy only.
        target_modules (`str` or `list[str]`, *optional*):
            As in [`DIQScorer`], for a model without an adapter.
        log_selection (`bool`, *optional*, defaults to `True`):
            Write every scoring to `diq` in the output folder: which rows, their scores, and whether they were chosen.
        seed (`int`, *optional*):
            By default the trainer's `data_seed`, else its `seed`.

    Raises:
        `ValueError`: The trainer cannot be steered (packing, a stream, FSDP, ZeRO-3, no validation rows). The message
            says what to change.

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
        ratio: float = 0.1,
        num_rows: int | None = None,
        rescore_every: int | None = 1,
        rescore_unit: str = "passes",
        candidates: float | None = 4,
        validation: Iterable[Mapping] | None = None,
        difficulty: str | DifficultySource | None = None,
        strategy: str = "diq",
        difficulty_percentile: float = 50,
        warmup_ratio: float = 0.0,
        max_validation_rows: int | None = 360,
        budget: str = "subset",
        report_only: bool = False,
        online: bool = False,
        target_modules: str | Sequence[str] | None = None,
        log_selection: bool = True,
        seed: int | None = None,
    ):
        for name, value, allowed in (
            ("rescore_unit", rescore_unit, ("passes", "steps")),
            ("strategy", strategy, STRATEGIES),
            ("budget", budget, ("subset", "pool")),
        ):
            if value not in allowed:
                raise ValueError(f"`{name}` is {value!r}; choose from {list(allowed)}.")
        if rescore_every is not None and rescore_every < 1:
            raise ValueError(f"`rescore_every` must be at least 1 or None, got {rescore_every}.")
        if candidates is not None and candidates < 1.25:
            raise ValueError(f"`candidates` must be at least 1.25 times the selection or None, got {candidates}.")
        if online and report_only:
            raise ValueError("`online=True` needs to know which rows are trained, which `report_only=True` does not.")
        if not 0 <= warmup_ratio < 1:
            raise ValueError(f"`warmup_ratio` must be in [0, 1), got {warmup_ratio}.")
        row_budget(1, ratio if num_rows is None else None, num_rows)
        self.ratio = ratio
        self.num_rows = None if num_rows is None else int(num_rows)
        self.rescore_every = rescore_every
        self.rescore_unit = rescore_unit
        self.candidates = candidates
        self.validation = None if validation is None else list(validation)
        self.difficulty = difficulty
        self.strategy = strategy
        self.difficulty_percentile = difficulty_percentile
        self.warmup_ratio = warmup_ratio
        self.max_validation_rows = max_validation_rows
        self.budget = budget
        self.report_only = report_only
        self.online = online
        self.target_modules = target_modules
        self.log_selection = log_selection
        self.seed = seed
        self.saved: dict | None = None
        self._run: Steering | None = None

    def bind(self, trainer: Trainer) -> None:
        """Checks a trainer and plans its steps. Only needed for a callback that is added to a finished trainer.

        Args:
            trainer ([`~transformers.Trainer`]):
                The trainer whose rows are to be chosen.

        Raises:
            `ValueError`: It cannot be steered.
        """
        check_trainer(trainer, needs_validation=self.validation is None)
        if sum(isinstance(callback, DIQCallback) for callback in trainer.callback_handler.callbacks) > 1:
            raise ValueError("The trainer has more than one DIQCallback, and each would choose its rows. Keep one.")
        # The trainer may replace a callback by one made from a checkpoint; what that cannot hold is found here.
        trainer._diq_callback = self
        planned = self._plan(trainer)
        if planned is None:
            return
        # A copy: the same arguments may serve a trainer without the callback.
        trainer.args = args = copy.copy(trainer.args)
        args.max_steps = trainer._diq_max_steps = planned
        size = len(trainer.train_dataset)
        selected = self.num_selected(size)
        if trainer.is_world_process_zero():
            logger.warning(
                f"DIQCallback trains on {selected} of {size} rows at a time: {args.num_train_epochs:g} passes over "
                f"them are max_steps={args.max_steps}. For another length set it, or pass `budget='pool'`."
            )

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        self.bind(calling_trainer())

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        trainer = calling_trainer()
        given = getattr(trainer, "_diq_callback", None)
        if given is None:
            raise ValueError(
                "DIQCallback was added after the trainer was made, too late to plan its steps. Pass it as "
                "`callbacks=[...]`, or call `callback.bind(trainer)` before `trainer.train()`."
            )
        if trainer.args.max_steps == getattr(trainer, "_diq_max_steps", None) != self._plan(trainer):
            raise ValueError(
                f"{self._plan(trainer)} steps are to be trained and {trainer.args.max_steps} were planned: arguments "
                "changed after the trainer was made. Call `callback.bind(trainer)` before `trainer.train()`."
            )
        if self._run is not None:  # of a training that was interrupted
            self._run.detach()
        if given is not self:  # the trainer made this one from a checkpoint, which holds plain settings alone
            self.validation, self.difficulty = given.validation, given.difficulty
        if state.global_step and state.global_step >= state.max_steps:
            raise ValueError(
                f"The checkpoint is at step {state.global_step}, and {state.max_steps} steps are planned. Set "
                "`max_steps`, or pass `budget='pool'` to DIQCallback."
            )
        name = type(self).__name__
        stored = state.stateful_callbacks.get(name) or {}
        self.saved = stored.get("attributes", {}).get("saved")
        self._run = Steering(self, trainer, kwargs["model"])
        if state.global_step and self.saved:
            self._run.restore(self.saved, state)
        else:
            self._run.begin(state, control)
        # A checkpoint that was saved without this callback has no place for its state, and the next one wants it.
        state.stateful_callbacks[name] = self.state()

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        # The trainer tells the sampler too, but not through every loader that skips a resumed epoch's first batches.
        if self._run.sampler is not None:
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

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        self._run.save(state)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        self._run.end(state)
        self.saved, self._run = self._run.saved(), None

    def state(self) -> dict:
        """What a checkpoint keeps: plain settings, the selections, and the last known scores."""
        names = set(inspect.signature(type(self)).parameters) - {"validation", "difficulty"}
        saved = self.saved if self._run is None else self._run.saved()
        return {"args": {name: getattr(self, name) for name in names}, "attributes": {"saved": saved}}

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        if self._run is not None:
            self._run.gather()  # a checkpoint of the best may follow

    def _plan(self, trainer: Trainer) -> int | None:
        """Steps that the budget comes to, or `None` where it is the user's or the pool's."""
        args, selected = trainer.args, self.num_selected(len(trainer.train_dataset))
        of_the_user = args.max_steps > 0 and args.max_steps != getattr(trainer, "_diq_max_steps", None)
        if self.budget == "pool" or self.report_only or of_the_user:
            return None
        return math.ceil(args.num_train_epochs * selected / trainer.get_total_train_batch_size(args))

    def num_selected(self, size: int) -> int:
        """Rows of a pool that are trained at a time."""
        if self.num_rows is not None and self.num_rows > size:
            raise ValueError(f"`num_rows` is {self.num_rows} and the training set has {size} rows. Lower it.")
        return row_budget(size, self.ratio if self.num_rows is None else None, self.num_rows)
