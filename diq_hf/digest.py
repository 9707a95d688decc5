"""Digests: short names for everything that decides a score, the same in every process and on every machine.

`datasets` names a cached `map` by hashing its function. Hashing a model that way gives another name in every
process, so a scorer is hashed by these digests instead.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import xxhash
from accelerate.utils import align_module_device, has_offloaded_params
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor


def digest(value: Any) -> str:
    """Digest of plain data: strings, numbers, lists, dicts, sets."""
    text = json.dumps(value, sort_keys=True, default=lambda x: sorted(x) if isinstance(x, set | frozenset) else str(x))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def tensors_digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """Digest of named tensors: names, types, shapes and bytes. Shards are brought together, one tensor at a time, so
    all processes that hold them must ask."""
    state = xxhash.xxh3_128()
    for name in sorted(tensors):
        tensor = _whole(tensors[name])
        state.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        state.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return state.hexdigest()


def sampled_digest(model: nn.Module, values: int = 64) -> str:
    """Digest of a few values of every weight, spread over it: cheap, and enough to see a step, a merge or a load.

    It does not see a change of single values between those.
    """
    state, parts = xxhash.xxh3_128(), {}
    for name, tensor in sorted(model.state_dict(keep_vars=True).items()):
        if tensor.is_meta:  # offloaded, where no training changes it
            continue
        flat = _whole(tensor).reshape(-1)
        state.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        sample = flat[:: max(1, len(flat) // values)].contiguous().view(torch.uint8)
        parts.setdefault(tensor.device, []).append(sample)
    for samples in parts.values():  # one copy from each device
        state.update(torch.cat(samples).cpu().numpy())
    return state.hexdigest()


class _Weights(Mapping):
    """A model's weights by name; those that are offloaded come one at a time."""

    def __init__(self, model: nn.Module):
        self.state, self.places = model.state_dict(keep_vars=True), {}
        for prefix, module in model.named_modules():
            if has_offloaded_params(module):
                self.places |= {f"{prefix}.{name}": (module, name) for name in module.state_dict()}

    def __getitem__(self, name: str) -> torch.Tensor:
        tensor = self.state[name]
        if not (tensor.is_meta and name in self.places):
            return tensor
        module, own = self.places[name]
        with align_module_device(module, torch.device("cpu")):
            return module.state_dict()[own].clone()

    def __iter__(self) -> Iterator[str]:
        return iter(self.state)

    def __len__(self) -> int:
        return len(self.state)


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    if hasattr(tensor, "ds_id"):  # of DeepSpeed's ZeRO-3
        import deepspeed

        with deepspeed.zero.GatheredParameters([tensor]):
            return tensor.detach().clone()
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


# Where a model was loaded from, how it was first filled, what it pads and stops with: nothing that scores depend on.
# (Building a trainer writes the tokenizer's ids into the model's configuration.)
_NOT_COMPUTED = {
    "_name_or_path",
    "architectures",
    "auto_mapping",
    "base_model_name_or_path",
    "bos_token_id",
    "distributed_config",
    "dtype",
    "eos_token_id",
    "inference_mode",
    "init_lora_weights",
    "pad_token_id",
    "peft_version",
    "revision",
    "task_type",
    "torch_dtype",
    "transformers_version",
    "use_cache",
}


def model_digest(model: nn.Module) -> str:
    """Digest of what a model computes: its weights, configuration and adapters."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    configs = {"": model.config, **getattr(model, "peft_config", {})}
    parts = {name: _computed(config.to_dict()) for name, config in configs.items()}
    adapters = model.active_adapters if len(configs) > 1 else None
    adapters = adapters() if callable(adapters) else adapters  # a method of transformers, a property of PEFT
    kind = next(kind for kind in type(base).__mro__ if not issubclass(kind, FSDPModule))  # the class as it was
    return digest([kind.__name__, parts, adapters, tensors_digest(_Weights(model))])


def _computed(config: Any) -> Any:
    if not isinstance(config, dict):
        return config
    return {str(key): _computed(value) for key, value in config.items() if key not in _NOT_COMPUTED}


def tokenizer_digest(tokenizer: Any) -> str:
    """Digest of a tokenizer: vocabulary, rules, special tokens and chat template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        state = json.loads(backend.to_str())
        # Set by the last call, not by what the tokenizer is.
        state["truncation"] = state["padding"] = None
    else:
        state = tokenizer.get_vocab()
    return digest([type(tokenizer).__name__, state, tokenizer.special_tokens_map, tokenizer.chat_template])
