"""The linear modules whose weights are φ, and the quantized ones that cannot be scored."""

import re
from collections.abc import Sequence

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D


# The attention's q, k and v, the paper's LoRA targets, by the names models give them; fused projections included.
DEFAULT_TARGET_MODULES = ("q_proj", "k_proj", "v_proj", "qkv_proj", "query_key_value", "Wqkv", "c_attn")

# Why the output embeddings are no part of φ.
HEAD = (
    "They run at trained tokens only, a chunk at a time, where nothing is read, so influence would lack their share."
)


def scored_modules(model: nn.Module, target_modules: str | Sequence[str] | None = None) -> dict[str, nn.Module]:
    """The linear modules whose weights are φ, by name: see [`~diq_hf.engine.influence.InfluenceEngine`]."""
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)}
    if hasattr(model, "peft_config"):  # a PeftModel, or a transformers model with `add_adapter`
        if target_modules is not None:
            raise ValueError(
                "A PEFT model is scored by its trainable parameters, so `target_modules` must be None. To score "
                "base weights, merge the adapter first with `model.merge_and_unload()`."
            )
        found = {name: module for name, module in linear.items() if module.weight.requires_grad}
        head = {id(module) for module in model.get_output_embeddings().modules()}
        if trained := [name for name, module in found.items() if id(module) in head]:
            raise ValueError(
                f"The adapter trains the output embeddings ({some(trained)}). {HEAD} Leave `lm_head` out of "
                "`target_modules` and `modules_to_save`, or freeze it while scoring: "
                "`model.get_output_embeddings().requires_grad_(False)`."
            )
        ours = {id(module.weight) for module in found.values()}
        others = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in ours]
        if others:
            raise ValueError(
                f"Influence is exact for weights of linear modules such as LoRA's; these trainable parameters are "
                f"something else: {some(others)}. Train LoRA without DoRA, biases, embeddings or `modules_to_save`, "
                "or freeze them while scoring."
            )
        if not found:
            raise ValueError(
                "The PEFT model has no trainable parameter. Load it with "
                "`PeftModel.from_pretrained(..., is_trainable=True)`."
            )
    else:
        head = model.get_output_embeddings()
        names = DEFAULT_TARGET_MODULES if target_modules is None else target_modules
        if names in (DEFAULT_TARGET_MODULES, "all-linear"):  # the language model's, not a vision tower's
            decoder = {id(module) for module in model.get_decoder().modules()}
            linear = {name: module for name, module in linear.items() if id(module) in decoder}
        found = {name: module for name, module in linear.items() if _matches(name, names)}
        if head in found.values():
            raise ValueError(
                f"The output embeddings cannot be scored. {HEAD} Leave `lm_head` out of `target_modules`."
            )
        if not found:
            endings = sorted({name.rsplit(".", 1)[-1] for name, module in linear.items() if module is not head})
            raise ValueError(
                f"No linear module matches `target_modules` {names!r}. Its linear modules are called {some(endings)}."
            )
    for name, module in found.items():
        if not module.weight.is_floating_point():
            raise ValueError(f"`{name}` is quantized, so its weight has no gradient. Put a LoRA adapter on the model.")
    return found


def as_linear(module: nn.Module, weight: torch.Tensor) -> torch.Tensor:
    """A weight, or its gradient, as `(out_features, in_features)`, which `Conv1D` holds transposed."""
    return weight.T if isinstance(module, Conv1D) else weight


def computed_dtype(weight: torch.Tensor, device: torch.device | None = None) -> torch.dtype:
    """The dtype that products with a weight are computed in, where it is or on a device: its own, or autocast's."""
    kind = (device or weight.device).type
    if kind == "meta":  # offloaded, and nobody has said where to it comes
        return weight.dtype
    if weight.dtype == torch.float64 or not torch.is_autocast_enabled(kind):  # autocast leaves float64 alone
        return weight.dtype
    return torch.get_autocast_dtype(kind)


def check_quantization(model: nn.Module) -> None:
    """Refuses quantized layers of bitsandbytes that have no gradient, or that change with a row's company."""
    for name, module in model.named_modules():
        if getattr(module, "support_avx512bf16_for_cpu", False) and module.weight.device.type == "cpu":
            raise ValueError(
                f"`{name}` is quantized to 4 bits, and on this CPU bitsandbytes repacks such layers in eval mode "
                "into a form without gradients. Score on a GPU, or load the model without quantization."
            )
        if getattr(getattr(module, "state", None), "threshold", 0) > 0:
            raise ValueError(
                f"`{name}` is quantized by LLM.int8() with outliers, which are looked for in the whole batch, so a "
                "row's score would depend on its company. Load with "
                "`BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0)`, or in 4 bits."
            )


def _matches(name: str, targets: str | Sequence[str]) -> bool:
    if targets == "all-linear":
        return True
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return any(name == target or name.endswith(f".{target}") for target in targets)


def some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
