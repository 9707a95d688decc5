"""The independent oracle: one row at a time, plain autograd, full logits, float64."""

from functools import partial

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy


def row_gradient(model, phi, row):
    """One row's gradient and loss."""
    flags = [p.requires_grad for p in model.parameters()]
    for parameter in phi:
        parameter.requires_grad_(True)
    model.eval()
    logits = model(input_ids=torch.tensor(row.input_ids)[None]).logits[0, :-1].double()
    loss = cross_entropy(logits, torch.tensor(row.labels)[1:])
    parts = [g.double() for g in torch.autograd.grad(loss, phi)]
    for parameter, flag in zip(model.parameters(), flags, strict=True):
        parameter.requires_grad_(flag)
    return parts, loss.item()


def oracle(model, phi, rows, validation):
    """Influence and loss, from one row's gradient at a time."""
    gradients = [row_gradient(model, phi, row)[0] for row in validation]
    means = [sum(parts) / len(validation) for parts in zip(*gradients, strict=True)]
    found = [row_gradient(model, phi, row) for row in rows]
    return np.array([(sum((a * b).sum().item() for a, b in zip(g, means, strict=True)), lo) for g, lo in found]).T


def attention_weights(model):
    """The weights scored by default, spelled out: q, k and v, or GPT-2's fusion of them."""
    names = ("q_proj.weight", "k_proj.weight", "v_proj.weight", "attn.c_attn.weight")
    return [p for name, p in model.named_parameters() if name.endswith(names)]


def in_float64(model):
    """The model in float64 throughout. RMS norms cast to float32 by themselves, a rounding of 1e-8 in gradients."""

    def forward(norm, x):
        x = x * torch.rsqrt(
            x.square().mean(-1, keepdim=True) + getattr(norm, "variance_epsilon", getattr(norm, "eps", 0))
        )
        return x * (1 + norm.weight if "Gemma" in type(norm).__name__ else norm.weight)

    for module in model.double().modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = partial(forward, module)
    return model


def with_lora(model, **settings):
    settings = {"r": 4, "target_modules": ["q_proj", "k_proj", "v_proj", "down_proj"], "lora_dropout": 0.3} | settings
    model = get_peft_model(model, LoraConfig(**settings))
    with torch.random.fork_rng():
        torch.manual_seed(3)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # zero at the start, which would leave half of the gradient untested
                torch.nn.init.normal_(parameter, std=0.1)
    return model


def relative_error(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()
