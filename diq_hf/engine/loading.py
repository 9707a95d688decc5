"""Models and tokenizers by name: whole, or in shards where the launcher was told so."""

import os
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate.utils import str_to_bool
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.distributed import DistributedConfig
from transformers.utils import find_adapter_config_file

from .sharding import check_torch


def load_model(model: Any, processing_class: Any = None, model_init_kwargs: dict | None = None) -> tuple[Any, Any]:
    """The model and its tokenizer, from a Hub id or folder (an adapter's too) or as they were given."""
    name, source = model, {}
    if isinstance(model, str | Path):
        kwargs = {"dtype": preferred_dtype(), **launched_shards(), **(model_init_kwargs or {})}
        source = {key: kwargs[key] for key in ("revision", "token", "trust_remote_code") if key in kwargs}
        if find_adapter_config_file(model, revision=kwargs.get("revision"), token=kwargs.get("token")) is not None:
            model = AutoPeftModelForCausalLM.from_pretrained(model, is_trainable=True, **kwargs)
        else:
            model = AutoModelForCausalLM.from_pretrained(model, **kwargs)
        if not {"device_map", "distributed_config"} & kwargs.keys():
            model.to(preferred_device())
    elif model_init_kwargs:
        raise ValueError("`model_init_kwargs` goes with a model given by name; this one is loaded already.")
    else:
        name = model.config._name_or_path
    if processing_class is None:
        folder = Path(name)
        if (folder / "adapter_config.json").is_file() and not (folder / "tokenizer_config.json").is_file():
            name = model.config._name_or_path  # an adapter saved without a tokenizer has its base model's
        processing_class = AutoTokenizer.from_pretrained(name, **source)
    # Processors of multimodal models hold the tokenizer that text rows need.
    return model, getattr(processing_class, "tokenizer", processing_class)


def launched_shards() -> dict[str, Any]:
    """What `from_pretrained` is to be told under `accelerate launch --use_fsdp`: each process reads its shards alone.

    Raises:
        `ValueError`: The launcher was told to use FSDP's first version.
        `ImportError`: torch or transformers is too old for it.
    """
    processes = int(os.environ.get("WORLD_SIZE", 1))
    if processes == 1 or not str_to_bool(os.environ.get("ACCELERATE_USE_FSDP", "false")):
        return {}
    if os.environ.get("FSDP_VERSION", "2") == "1":
        raise ValueError(
            "A model sharded by FSDP's first version cannot be scored, for it flattens the weights. Set "
            "`fsdp_version: 2` in accelerate's configuration, or `--fsdp_version 2`."
        )
    check_torch()
    if "fsdp_size" not in DistributedConfig.__dataclass_fields__:
        raise ImportError(
            f"A model is read in shards by transformers 5.14 and later, and this is {transformers.__version__}: "
            "`pip install -U transformers`, or launch without `--use_fsdp`."
        )
    return {"distributed_config": {"fsdp_size": processes}}


def preferred_device() -> torch.device:
    """The accelerator if there is one, of several this launched process's own; else the CPU."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return torch.device("cpu")
    return torch.device(accelerator.type, int(os.environ.get("LOCAL_RANK", 0)) % torch.accelerator.device_count())


def preferred_dtype() -> torch.dtype:
    """bf16 where this machine's hardware computes in it, else fp32."""
    if torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        # Before torch 2.11 nobody says what the CPU can: fp32 is never wrong there.
        capabilities = getattr(torch.cpu, "get_capabilities", dict)()
        native = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16")
    return torch.bfloat16 if native else torch.float32
