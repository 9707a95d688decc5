"""A scorer in forked workers of `map(num_proc=...)`: they share its process's memory, so its pickle is its name."""

import os
import weakref
from collections.abc import Callable
from typing import Any

import torch


# By fingerprint.
_SCORERS: weakref.WeakValueDictionary = weakref.WeakValueDictionary()


def shared(scorer: Any) -> tuple[Callable, tuple[str]]:
    """What a scorer's `__reduce__` returns."""
    fingerprint = scorer.fingerprint
    _SCORERS[fingerprint] = scorer
    return _found, (fingerprint,)


def _found(fingerprint: str) -> Any:
    scorer = _SCORERS.get(fingerprint)
    if scorer is None:
        raise RuntimeError(
            "A DIQScorer holds a model and lives in the process that made it; only forked workers can share it. Use "
            "`num_proc=None`, or start several processes with `torchrun`."
        )
    if os.getpid() != scorer.process:
        if scorer.engine.device.type != "cpu":
            raise RuntimeError("`num_proc` forks, and a fork cannot use the accelerator. Use `num_proc=None`.")
        # The forked copy of the thread pool has no threads; waiting for one would never end.
        torch.set_num_threads(1)
    return scorer
