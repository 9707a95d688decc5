"""A model's mode comes back as it was, by the model's own means."""

import pytest
import torch
from conftest import SIZES, make_model
from oracle import with_lora
from transformers import LlamaConfig, LlamaForCausalLM

from diq_hf.engine.influence import InfluenceEngine
from diq_hf.engine.modes import evaluating, scoring_mode
from diq_hf.rows.formats import RowEncoder


class Kernelized(LlamaForCausalLM):
    """transformers exchanges kernels on a change of mode, by the mode at that moment; here it is written down."""

    def __init__(self, config):
        super().__init__(config)
        self.kernels, self._use_kernels = "training", True

    def set_use_kernels(self, use_kernels, kernel_config=None, mode=None):
        self.kernels = "training" if self.training else "inference"


class KeepsFrozenPart(torch.nn.Module):
    """Its own `train` leaves a part in eval mode, whoever asks."""

    def __init__(self):
        super().__init__()
        self.part, self.other = torch.nn.Dropout(), torch.nn.Dropout()

    def train(self, mode=True):
        super().train(mode)
        self.part.eval()
        return self


def flags(model):
    return {name: module.training for name, module in model.named_modules()}


def test_kernels_of_training_come_back(tokenizer, pool, validation):
    model = Kernelized(LlamaConfig(**SIZES)).train()
    model.model.layers[0].eval()  # frozen by hand
    before = flags(model)
    assert model.kernels == "training"
    rows, validation_rows = ([RowEncoder(tokenizer)(row) for row in some] for some in (pool, validation))
    engine = InfluenceEngine(model)
    assert (model.kernels, flags(model)) == ("training", before)
    direction = engine.validation_gradient(validation_rows)
    assert (model.kernels, flags(model)) == ("training", before)
    engine.score(rows, direction)
    engine.losses(rows)
    assert (model.kernels, flags(model)) == ("training", before)
    with pytest.raises(KeyError), evaluating(model):
        assert model.kernels == "inference" and not any(flags(model).values())
        raise KeyError
    assert (model.kernels, flags(model)) == ("training", before)


def test_kernels_of_inference_stay(tokenizer, validation):
    model = Kernelized(LlamaConfig(**SIZES)).eval()
    model.set_use_kernels = None  # nothing changes, so nobody is called
    InfluenceEngine(model).validation_gradient([RowEncoder(tokenizer)(row) for row in validation])
    assert not any(flags(model).values())


def test_a_model_within_a_model():
    """The one inside is in another mode than the one around it."""
    outer = torch.nn.ModuleDict({"inner": Kernelized(LlamaConfig(**SIZES)).train()}).eval()
    inner = outer["inner"].train()
    inner.model.layers[1].eval()
    before = flags(outer)
    with evaluating(outer):
        assert inner.kernels == "inference"
    assert (inner.kernels, flags(outer)) == ("training", before)
    outer.train()
    inner.eval()
    with evaluating(outer):
        pass
    assert inner.kernels == "inference" and outer.training and not any(flags(inner).values())


@pytest.mark.parametrize("part", [True, False])
def test_flags_are_exact_where_a_module_has_its_own_mind(part):
    model = torch.nn.Sequential(KeepsFrozenPart()).train()
    model[0].part.training = part
    before = flags(model)
    with evaluating(model):
        assert not any(flags(model).values())
    assert flags(model) == before


def test_flags_come_back_if_a_module_refuses():
    class Refuses(torch.nn.Module):
        def train(self, mode=True):
            if mode:
                raise ImportError("kernels are gone")
            return super().train(mode)

    model = torch.nn.Sequential(Refuses(), torch.nn.Dropout())
    with pytest.raises(ImportError), evaluating(model):
        pass
    assert all(flags(model).values())


def test_dora_drops_what_it_keeps_in_eval_mode():
    """PEFT caches norms of weights outside training; afterwards the weights change."""
    model = with_lora(make_model(), use_dora=True).train()
    dora = next(module for name, module in model.named_modules() if type(module).__name__ == "DoraLinearLayer")
    with evaluating(model):
        dora._cache_store("weight-norm", "of these weights")
    assert dora._cache_get("weight-norm", None) is None


def test_scoring_mode_differentiates_nothing():
    model = make_model().train()
    model.lm_head.weight.requires_grad_(False)
    before = [p.requires_grad for p in model.parameters()]
    with torch.no_grad(), scoring_mode(model):
        assert torch.is_grad_enabled() and not any(p.requires_grad for p in model.parameters())
        assert not any(flags(model).values())
    assert [p.requires_grad for p in model.parameters()] == before and all(flags(model).values())
