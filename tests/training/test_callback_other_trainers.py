"""Trainers whose rows cannot be scored are refused by name, with what to do instead, before they train."""

import contextlib
import importlib
import pkgutil

import pytest
import trl.experimental
from conftest import SENTENCES, make_model, make_tokenizer
from datasets import Dataset
from trainings import PLAIN

from diq_hf import DIQCallback
from diq_hf.training.trainers import OTHER_LOSSES


PROMPTS = [{"prompt": SENTENCES[i % 4]} for i in range(4)]
PAIRS = [row | {"chosen": " yes", "rejected": " no"} for row in PROMPTS]
KINDS = {
    "GRPO": (
        ("trl",),
        PROMPTS,
        {"per_device_train_batch_size": 2, "num_generations": 2},
        "pass_rate --lower-is-harder",
    ),
    "RLOO": (
        ("trl",),
        PROMPTS,
        {"per_device_train_batch_size": 2, "num_generations": 2},
        "pass_rate --lower-is-harder",
    ),
    "KTO": (
        ("trl", "trl.experimental.kto"),
        [row | {"completion": " yes", "label": i % 2 == 0} for i, row in enumerate(PROMPTS)],
        {"per_device_train_batch_size": 2},
        "of the desirable rows",
    ),
    "ORPO": (("trl.experimental.orpo", "trl"), PAIRS, {}, "`chosen` renamed to `completion`"),
    "CPO": (("trl.experimental.cpo", "trl"), PAIRS, {}, "`chosen` renamed to `completion`"),
}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("subclass", [False, True])
def test_refused_by_name(name, subclass, tmp_path):
    modules, rows, settings, remedy = KINDS[name]
    for module in modules:
        home = importlib.import_module(module)
        if hasattr(home, f"{name}Trainer"):
            break
    else:
        pytest.skip(f"this TRL has no {name}Trainer")
    kind = getattr(home, f"{name}Trainer")
    kind = type("Mine", (kind,), {}) if subclass else kind
    rewarded = {"reward_funcs": lambda completions, **rest: [0.0] * len(completions)}
    with pytest.raises(ValueError, match=rf"does not work with {name}Trainer, which .*{remedy}"):
        kind(
            model=make_model(),
            args=getattr(home, f"{name}Config")(**PLAIN, output_dir=str(tmp_path), **settings),
            train_dataset=Dataset.from_list(rows),
            processing_class=make_tokenizer(),
            callbacks=[DIQCallback],
            **rewarded if name in ("GRPO", "RLOO") else {},
        )


def test_every_trainer_of_trl_is_known():
    """Those that are here today, wherever: it works, or is refused by its own name or its parent's."""
    homes = [trl, *(f"trl.experimental.{found.name}" for found in pkgutil.iter_modules(trl.experimental.__path__))]
    found = {}
    for home in homes:
        with contextlib.suppress(ImportError, RuntimeError):  # of those that need other packages
            home = importlib.import_module(home) if isinstance(home, str) else home
            found |= {name: getattr(home, name) for name in dir(home) if name.endswith("Trainer")}
    assert {"SFTTrainer", "DPOTrainer", "GRPOTrainer", "KTOTrainer", "RewardTrainer"} <= set(found)
    for name, kind in found.items():
        names = {parent.__name__.lstrip("_") for parent in kind.__mro__}
        scored = names & {"SFTTrainer", "DPOTrainer"} and "compute_loss" not in vars(kind)
        assert name in ("SFTTrainer", "DPOTrainer") or scored or names & set(OTHER_LOSSES), (
            f"{name} would be met by a general error, or by none"
        )
