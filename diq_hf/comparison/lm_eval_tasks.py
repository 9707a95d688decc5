"""Tasks of `lm-eval`, where that package is installed."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from ..engine.modes import evaluating


def lm_eval_tasks(model: nn.Module, tokenizer: Any, tasks: Sequence[str], **settings: Any) -> dict[str, float]:
    """Accuracy on tasks of `lm-eval`, by their names there.

    Args:
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            A causal language model.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.
        tasks (`Sequence[str]`):
            Names of tasks or of groups of them.
        settings (*optional*):
            Other arguments of `lm_eval.simple_evaluate`, such as `num_fewshot` or `limit`.

    Returns:
        `dict[str, float]`: each task's `acc`.

    Raises:
        `ImportError`: `lm-eval` is not installed.
        `ValueError`: A task has no `acc`.
    """
    try:
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
    except ImportError as error:
        raise ImportError(
            f"{', '.join(tasks)}: such tasks are lm-eval's. Install it, `pip install lm_eval[hf]`, or leave them out."
        ) from error
    settings = {"bootstrap_iters": 0, "log_samples": False} | settings
    with evaluating(model):
        found = simple_evaluate(model=HFLM(pretrained=model, tokenizer=tokenizer), tasks=list(tasks), **settings)
    accuracy = {}
    for task in tasks:
        metrics = found["results"].get(task, {})
        if "acc,none" not in metrics:
            raise ValueError(
                f"lm-eval gives no `acc` for {task!r} but {sorted(metrics)}. Name tasks of multiple choice, or a "
                "group that has a mean of its own."
            )
        accuracy[task] = float(metrics["acc,none"])
    return accuracy
