"""LESS: rows whose Adam step points where the loss of validation rows falls (https://huggingface.co/papers/2402.04333).

A model is warmed up on a few rows of the pool, and at checkpoints of it

    score(z) = max over groups G of  Σ over checkpoints i of  η_i · cos(Γ_i(z), ∇l(G; θ_i))

∇l(G; θ) is the mean gradient of the group's validation rows, and Γ(z) the step, over its learning rate, that Adam
would take next if it saw row z alone: from its moments m and v after the warm-up, with g(z) in both,

    Γ(z) = m' / (√v' + ε)
    m' = (β₁ m + (1 - β₁) g(z)) / (1 - β₁^(t+1))
    v' = (β₂ v + (1 - β₂) g(z)²) / (1 - β₂^(t+1))

What differs from the authors' code: gradients are whole, where they are projected to 8,192 dimensions there; the
corrections of m and v for their start and the place of ε are the optimizer's own (there: none, and √(v' + ε)); and a
group is one mean gradient, as the paper has it, where the code takes the mean of the cosines to its rows. η_i are
normalized, as there.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ..engine.influence import InfluenceEngine
from ..engine.modules import as_linear, some
from ..rows.encoded import EncodedRow


@dataclass(frozen=True, eq=False)
class AdamMoments:
    """What Adam keeps of one parameter.

    Args:
        first (`torch.Tensor`):
            Its first moment, as the optimizer has it.
        second (`torch.Tensor`):
            Its second moment, likewise.
        steps (`int`):
            Steps it has taken.
        betas (`tuple[float, float]`):
            The moments' decays.
        eps (`float`):
            ε.
    """

    first: torch.Tensor
    second: torch.Tensor
    steps: int
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def step(self, gradient: torch.Tensor) -> torch.Tensor:
        """The next step on a gradient of the moments' shape, over the learning rate, without weight decay."""
        of_first, of_second = self.betas
        first = self.first.to(gradient) * of_first + gradient * (1 - of_first)
        second = self.second.to(gradient) * of_second + gradient.square() * (1 - of_second)
        first, second = (
            moment / (1 - decay ** (self.steps + 1)) for moment, decay in ((first, of_first), (second, of_second))
        )
        return first / (second.sqrt() + self.eps)

    def flat(self, module: nn.Module) -> "AdamMoments":
        """Those of a module's weight, as a row's gradient there is laid out, on its device."""
        first, second = (as_linear(module, m).reshape(-1).to(module.weight.device) for m in (self.first, self.second))
        return AdamMoments(first, second, self.steps, self.betas, self.eps)


@dataclass(frozen=True, eq=False)
class LessCheckpoint:
    """A model in the midst of its warm-up.

    Args:
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            The model with the weights it had then.
        moments (`Mapping[str, AdamMoments]`):
            Its optimizer's, by the parameters' names: [`moments`].
        learning_rate (`float`):
            What the checkpoint counts for: the mean learning rate of the steps since the one before it.
    """

    model: nn.Module
    moments: Mapping[str, AdamMoments]
    learning_rate: float


def moments(trainer: Any) -> dict[str, AdamMoments]:
    """The moments that a trainer's Adam has by now, copied, by parameter.

    Args:
        trainer ([`~transformers.Trainer`]):
            A trainer that has taken a step, with an optimizer of the Adam kind (`optim="adamw_torch"`).

    Raises:
        `ValueError`: The optimizer has taken no step, or keeps no moments in full.
    """
    optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)  # without what accelerate wraps around it
    if optimizer is None or not optimizer.state:
        raise ValueError("The trainer's optimizer has no state: call `trainer.train()` for a step at least.")
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    found = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state.get(parameter)
            if not state:  # it has never had a gradient
                continue
            if id(parameter) not in names or "max_exp_avg_sq" in state or not _whole(state, parameter):
                raise ValueError(
                    f"{type(optimizer).__name__} keeps no first and second moments of the model's own parameters. "
                    'Train with `optim="adamw_torch"` and without sharding.'
                )
            found[names[id(parameter)]] = AdamMoments(
                state["exp_avg"].clone(),
                state["exp_avg_sq"].clone(),
                int(state["step"]),
                tuple(group["betas"]),
                group["eps"],
            )
    return found


def rank(
    checkpoints: Iterable[LessCheckpoint],
    pool: Sequence[EncodedRow],
    validation: Mapping[str, Sequence[EncodedRow]],
    target_modules: str | Sequence[str] | None = None,
    max_tokens_per_batch: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Each row's score, the higher the better.

    Args:
        checkpoints (`Iterable[LessCheckpoint]`):
            Checkpoints of the warm-up, taken up one after another: a generator may load each when its turn comes.
        pool (`Sequence[EncodedRow]`):
            Rows to score.
        validation (`Mapping[str, Sequence[EncodedRow]]`):
            Validation rows by group.
        target_modules (`str` or `Sequence[str]`, *optional*):
            For models without an adapter, the linear modules whose weights count; as in
            [`~diq_hf.engine.influence.InfluenceEngine`], by default q, k and v.
        max_tokens_per_batch (`int`, *optional*):
            As there.
        progress (`Callable`, *optional*):
            Called with the number of rows just done: at each checkpoint all validation rows, then the pool's.

    Returns:
        `np.ndarray` of shape `(len(pool),)`.

    Raises:
        `ValueError`: There is no validation row or no checkpoint, the moments belong to other parameters, or a score
            is no number.
    """
    if not validation:
        raise ValueError("There are no validation rows. Pass a group of them at least.")
    total, weights = np.zeros((len(pool), len(validation))), 0.0
    for checkpoint in checkpoints:
        engine = InfluenceEngine(checkpoint.model, target_modules, max_tokens_per_batch)
        if missing := [name for name in engine.modules if f"{name}.weight" not in checkpoint.moments]:
            raise ValueError(
                f"There are no moments of {some(missing)}. Take them from the trainer of this very model, and let it "
                "train what `target_modules` names."
            )
        steps = {
            name: checkpoint.moments[f"{name}.weight"].flat(module).step for name, module in engine.modules.items()
        }
        directions = [engine.validation_gradient(rows, progress) for rows in validation.values()]
        products, _, norms = engine.score(pool, directions, progress, norms=True, transforms=steps)
        total += checkpoint.learning_rate * products / norms[:, None] / [direction.norm for direction in directions]
        weights += checkpoint.learning_rate
    if weights <= 0:
        raise ValueError("There is no checkpoint with a learning rate above zero, so nothing could count.")
    scores = (total / weights).max(axis=1)
    if len(wrong := np.flatnonzero(~np.isfinite(scores))):
        raise ValueError(
            f"The score of {len(wrong)} rows is no number, of row {wrong[0]} for one: a loss overflows, or a gradient "
            "is zero. Look at the row, or warm up with a lower learning rate."
        )
    return scores


def _whole(state: Mapping[str, Any], parameter: torch.Tensor) -> bool:
    kept = [state.get("exp_avg"), state.get("exp_avg_sq")]
    return all(isinstance(m, torch.Tensor) and m.shape == parameter.shape and m.is_floating_point() for m in kept)
