"""Tensors on disk with the recipe they were made by: whole or absent, never half a file and never a mix of recipes."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ..digest import tensors_digest
from ..files import replacing


def save_tensors(path: str | Path, tensors: Mapping[str, torch.Tensor], recipe: Mapping) -> None:
    """Writes named tensors and their recipe (plain JSON) in one step: a killed process leaves no such file behind.

    Raises:
        `OSError`: The disk is full or the folder not writable; what stood at `path` is still there.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"recipe": json.dumps(recipe, sort_keys=True), "digest": tensors_digest(tensors)}
    with replacing(path) as unfinished:
        unfinished.write_bytes(save(tensors, metadata))


def load_tensors(path: str | Path) -> tuple[dict[str, torch.Tensor], dict]:
    """Reads named tensors and their recipe.

    Raises:
        `ValueError`: The file is torn or was changed.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise ValueError(f"{path} is torn: {error}. Remove it to have it made again.") from error
    if metadata.get("digest") != tensors_digest(tensors):
        raise ValueError(f"{path} is not what was written: its digest differs. Remove it to have it made again.")
    return tensors, json.loads(metadata["recipe"])
