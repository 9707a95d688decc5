"""How long a training with chosen rows is: its update steps, and a learning rate that falls over just these."""

import math

from transformers import Trainer, TrainerState
from transformers.utils import logging

from .settings import Settings


logger = logging.get_logger(__name__)


def planned_by_budget(trainer: Trainer, settings: Settings) -> bool:
    """Whether the number of steps is the budget's, not the user's or the pool's."""
    return settings.budget == "subset" and not settings.report_only and trainer.args.max_steps <= 0


class StepPlan:
    """The steps of a training that is about to begin, which it shortens to what the budget comes to.

    The trainer's arguments are left alone, for they may be another trainer's too: steps are those of its state, and
    its schedule of the learning rate is made anew for them by `Trainer.create_scheduler`.

    Args:
        trainer ([`~transformers.Trainer`]):
            The trainer; its optimizer and its schedule are made, and of a resumed training they are loaded.
        state ([`~transformers.TrainerState`]):
            Its state.
        settings ([`Settings`]):
            What was asked for.
        own_schedule (`bool`):
            The user passed a schedule to the trainer, which is left as it is.
    """

    def __init__(self, trainer: Trainer, state: TrainerState, settings: Settings, own_schedule: bool):
        self.steps = self.steps_of_trainer = state.max_steps
        if not planned_by_budget(trainer, settings):
            return
        args, size = trainer.args, len(trainer.train_dataset)
        selected = settings.num_selected(size)
        planned = math.ceil(args.num_train_epochs * selected / trainer.get_total_train_batch_size(args))
        self.steps = min(planned, self.steps_of_trainer)
        if trainer.is_world_process_zero():
            logger.warning(
                f"DIQCallback trains on {selected} of {size} rows at a time: {args.num_train_epochs:g} passes over "
                f"them are {self.steps} steps. For another length set `max_steps`, or pass `budget='pool'`."
            )
        state.max_steps = self.steps
        batches = len(trainer.callback_handler.train_dataloader)
        state.num_train_epochs = math.ceil(self.steps / math.ceil(batches / args.gradient_accumulation_steps))
        state.compute_steps(args, self.steps)
        if not own_schedule:
            _make_schedule(trainer, self.steps, resumed=state.global_step > 0)

    def begin_epoch(self, state: TrainerState) -> None:
        """The steps that the training is to have."""
        state.max_steps = self.steps

    def end_epoch(self, state: TrainerState) -> None:
        """What the trainer planned by itself: at the end it takes its throughput as a share of these steps."""
        state.max_steps = self.steps_of_trainer


def _make_schedule(trainer: Trainer, steps: int, resumed: bool) -> None:
    groups = trainer.optimizer.param_groups
    rates = [group["lr"] for group in groups]
    former, trainer.lr_scheduler = trainer.lr_scheduler, None
    schedule = trainer.create_scheduler(num_training_steps=steps)
    if resumed:
        schedule.load_state_dict(former.state_dict())
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
    trainer.callback_handler.lr_scheduler = schedule
