"""A model's mode while it is looked at, and its own afterwards."""

from contextlib import contextmanager

import torch
from torch import nn
from torch.distributed.tensor import DTensor


@contextmanager
def evaluating(model: nn.Module):
    """Eval mode; every module's flag is put back as it was, whatever happens.

    A module with a `train` of its own gets its mode back by it: there transformers exchanges kernels and PEFT's DoRA
    drops what it kept, which a flag written by hand would leave as they are in eval mode.
    """
    flags = [(module, module.training) for module in model.modules()]  # a module before those inside it
    try:
        model.eval()
        yield
    finally:
        try:
            for module, training in flags:
                # By now a module around it may have changed it as well, so the flag alone says what is left to do.
                if module.training != training and getattr(module.train, "__func__", None) is not nn.Module.train:
                    module.train(training)
        finally:
            for module, training in flags:
                module.training = training


@contextmanager
def scoring_mode(model: nn.Module):
    """Eval mode, with no parameter differentiated: gradients are read as they pass. Everything is put back.

    Eval mode also turns gradient checkpointing off, which in training mode can return no gradients without a word.

    Weights in shards keep their flags: those of the whole weights are made from them once, for the training that may
    come as well. Nothing is asked for the gradients of either.
    """
    devices = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}
    flags = [(p, p.requires_grad) for p in model.parameters() if not isinstance(p, DTensor)]
    try:
        with torch.random.fork_rng(devices=devices), torch.enable_grad(), evaluating(model):
            for parameter, _ in flags:
                parameter.requires_grad_(False)
            yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
