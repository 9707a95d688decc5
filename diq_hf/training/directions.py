"""The validation gradient that rows are being read on, beside a checkpoint: its weights no longer give it."""

from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, broadcast_object_list
from transformers.utils import logging

from ..engine.influence import Direction, InfluenceEngine
from ..engine.sharding import device_of


logger = logging.get_logger(__name__)

NAME = "diq_direction.safetensors"


def save_direction(direction: Direction, folder: str | Path) -> None:
    """Writes it into a checkpoint's folder."""
    direction.save(Path(folder) / NAME, direction.digest)


def find_direction(
    folders: Sequence[str | Path], name: str, engine: InfluenceEngine, accelerator: Accelerator
) -> Direction | None:
    """Looks for a direction in some folders. The first process looks, and tells the others.

    Args:
        folders (`Sequence[str or Path]`):
            Where the checkpoint may be that a training is resumed from.
        name (`str`):
            Its digest.
        engine ([`~diq_hf.engine.influence.InfluenceEngine`]):
            The engine that is to use it.
        accelerator ([`~accelerate.Accelerator`]):
            The trainer's.

    Returns:
        [`~diq_hf.engine.influence.Direction`] or `None`: The same on every process; `None` if there is no such file.

    Raises:
        `ValueError`: What stands there is torn, or of another training.
    """
    found, faults = None, []
    if accelerator.is_main_process:
        places = dict.fromkeys(Path(folder).absolute() / NAME for folder in folders)
        for path in filter(Path.exists, places):
            try:
                found = Direction.load(path, name)
                break
            except (OSError, ValueError) as error:
                faults.append(f"{path}: {error}")
        if found is None and not faults:
            logger.warning(
                f"There is no {NAME} in {[str(path.parent) for path in places]}, so the validation gradient is taken "
                "at the present weights, and the run is not the uninterrupted one. If the checkpoint was moved, say "
                "where to: `args.resume_from_checkpoint`."
            )
    if accelerator.num_processes > 1:
        told = [None if found is None else (found.num_rows, found.loss), faults]
        about, faults = broadcast_object_list(told)
        if about is not None:
            tensors = {}
            for part, module in engine.modules.items():  # one is whole at a time, where they lie in shards
                name, device = f"{part}.weight", device_of(module)
                whole = (
                    torch.empty(module.weight.shape, dtype=engine.dtype, device=device)
                    if found is None
                    else found.tensors[name].to(device)
                )
                tensors[name] = engine.spread.lay(part, broadcast(whole))
            found = Direction(tensors, *about)
    if found is None and faults:
        raise ValueError(faults[0])
    return found
