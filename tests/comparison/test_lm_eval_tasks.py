"""What is asked of lm-eval, and what its answers become. The package itself is not needed."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from diq_hf.comparison.lm_eval_tasks import lm_eval_tasks


RESULTS = {"arc": {"alias": "arc", "acc,none": 0.25, "acc_norm,none": 0.5}, "gsm8k": {"exact_match,strict-match": 0.1}}


@pytest.fixture
def asked(monkeypatch):
    asked = []

    def simple_evaluate(model, tasks, **settings):
        asked.append((model, tasks, settings, model.pretrained.training))
        return {"results": RESULTS}

    package, models, huggingface = (ModuleType(name) for name in ("lm_eval", "lm_eval.models", "lm_eval.huggingface"))
    package.simple_evaluate = simple_evaluate
    huggingface.HFLM = lambda **arguments: SimpleNamespace(**arguments)
    monkeypatch.setitem(sys.modules, "lm_eval", package)
    monkeypatch.setitem(sys.modules, "lm_eval.models", models)
    monkeypatch.setitem(sys.modules, "lm_eval.models.huggingface", huggingface)
    return asked


def test_accuracy_of_a_model_in_eval_mode(asked, model, tokenizer):
    model.train()
    assert lm_eval_tasks(model, tokenizer, ["arc"], limit=3) == {"arc": 0.25}
    (lm, tasks, settings, training) = asked[0]
    assert lm.pretrained is model and lm.tokenizer is tokenizer
    assert tasks == ["arc"] and settings["limit"] == 3
    assert not training and model.training


def test_a_task_without_accuracy_is_refused(asked, model, tokenizer):
    with pytest.raises(ValueError, match=r"no `acc` for 'gsm8k' but \['exact_match,strict-match'\]"):
        lm_eval_tasks(model, tokenizer, ["arc", "gsm8k"])


def test_tasks_need_a_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(ImportError, match="pip install"):
        lm_eval_tasks(None, None, ["arc_easy"])
