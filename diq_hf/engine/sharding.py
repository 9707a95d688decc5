"""Where a model's weights lie: whole, in shards of FSDP2 or ZeRO-3 that come together layer by layer, or offloaded."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from accelerate.utils import align_module_device, has_offloaded_params
from peft import PeftModel
from torch import distributed, nn
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from .zero import Zero, gathered, in_zero


Result = TypeVar("Result")

# The name under which a root of FSDP runs what is to see its weights whole.
INSIDE = "_diq_inside"


class Sharding:
    """Brings a model's weights together where they are needed, and leaves them as they lay.

    FSDP2 gathers the weights of a layer while the layer runs, and those that belong to no layer (embeddings, the last
    norm, the head) while its root runs. What calls the backbone, or reads the head's matrix, is therefore run as a
    forward method of the root. A model of whole weights needs none of it, and everything here is a plain call.

    Args:
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            The model.
    """

    def __init__(self, model: nn.Module):
        self.model = model
        units = [module for module in model.modules() if isinstance(module, FSDPModule)]
        nested = {id(part) for unit in units for part in unit.modules() if part is not unit}
        self.tops: list[Any] = [unit for unit in units if id(unit) not in nested]
        self.units: list[Any] = units
        decoder = model.get_decoder()
        around = (top for top in self.tops if any(part is decoder for part in top.modules()))
        self.root: Any = next(around, None)
        self.zero = Zero(model)

    @property
    def offloaded(self) -> bool:
        """Whether weights lie elsewhere between their turns (`device_map` with the CPU or a disk)."""
        return any(has_offloaded_params(module) for module in self.model.modules())

    @property
    def group(self) -> distributed.ProcessGroup | None:
        """The processes that must run the same passes, since each of them holds a shard; `None` for one alone."""
        if self.zero:
            return self.zero.group
        meshes = [p.device_mesh for p in self.model.parameters() if isinstance(p, DTensor)]
        if not meshes or distributed.get_world_size() == 1:
            return None
        mesh = meshes[0]
        # Of several dimensions (replicas of shards) all go together.
        return mesh.get_group() if mesh.ndim == 1 else distributed.group.WORLD

    def inside(self, function: Callable[[], Result]) -> Result:
        """What a function gives where the root's weights are whole."""
        if self.root is None:
            return function()
        found: list[Any] = []

        def run() -> Any:
            found.append(function())
            return found[0] if isinstance(found[0], torch.Tensor) else None

        # What is returned passes through the root's hooks, which prepare the backward pass, and round what they hand
        # on if they are asked to. The tensor itself has the hooks and is not rounded.
        setattr(self.root, INSIDE, run)
        try:
            register_fsdp_forward_method(self.root, INSIDE)
            getattr(self.root, INSIDE)()
        except BaseException:
            self.settle()
            raise
        finally:
            delattr(self.root, INSIDE)
        return found[0]

    def forward(self, function: Callable[[], Result]) -> Result:
        """As `inside`, of what no backward pass follows: nothing stays whole."""
        found = self.inside(function)
        self.settle()
        return found

    def settle(self) -> None:
        """Puts every weight back into shards, also in the midst of a pass that an error has ended."""
        for top in self.tops:
            top.reset_iter_state()
        self.zero.settle()

    @contextmanager
    def settled(self) -> Iterator[None]:
        """Leaves nothing whole behind."""
        try:
            yield
        finally:
            self.settle()

    @contextmanager
    def whole(self, module: nn.Module) -> Iterator[None]:
        """The module's own weights, whole and on the device that computes with them."""
        if has_offloaded_params(module):
            with align_module_device(module):
                yield
            return
        if any(in_zero(parameter) for parameter in module.parameters(recurse=False)):
            with gathered(module):
                yield
            return
        if not any(isinstance(parameter, DTensor) for parameter in module.parameters(recurse=False)):
            yield
            return
        owner = self._owner(module)
        owner.unshard()
        try:
            yield
        finally:
            owner.reshard()

    def _owner(self, module: nn.Module) -> Any:
        """The unit of FSDP whose weights a module's are."""
        around = [unit for unit in self.units if any(part is module for part in unit.modules())]
        return around[-1]  # units come before those inside them


def device_of(module: nn.Module) -> torch.device:
    """Where a module computes, wherever its weights lie between its turns."""
    if has_offloaded_params(module):
        place = module._hf_hook.execution_device
        return torch.device(place) if not isinstance(place, int) else torch.device(_accelerator(), place)
    return module.weight.device


def _accelerator() -> str:
    found = torch.accelerator.current_accelerator()
    return "cuda" if found is None else found.type


def check_torch() -> None:
    """Refuses to shard with a torch whose FSDP2 cannot be told to put weights back in the midst of a pass.

    Raises:
        `ImportError`: It is older than 2.13.
    """
    if not hasattr(FSDPModule, "reset_iter_state"):
        raise ImportError(
            f"Models sharded by FSDP2 are scored with torch 2.13 and later, and this is {torch.__version__}: "
            "`pip install -U torch`, or score a whole model (a process a device, without FSDP)."
        )


def check_placement(model: nn.Module) -> None:
    """Refuses wrapped models, and those whose weights cannot be brought together a layer at a time.

    Raises:
        `TypeError`: It is no transformers or PEFT model.
        `ValueError`: It is sharded in another way than by FSDP2 or ZeRO-3.
        `ImportError`: It is sharded, and torch is too old for it.
    """
    for module in model.modules():
        if isinstance(module, FullyShardedDataParallel):
            raise ValueError(
                "The model is sharded by FSDP's first version, whose weights are flattened, so a module's cannot be "
                "told. Use the second: `fsdp_version: 2` in accelerate's configuration, or "
                "`torch.distributed.fsdp.fully_shard`."
            )
        if isinstance(module, FSDPModule):
            check_torch()
    if not isinstance(model, PreTrainedModel | PeftModel):
        raise TypeError(
            f"A {type(model).__name__} cannot be scored: pass the transformers or PEFT model itself, which is "
            "`accelerator.unwrap_model(model)` of a wrapped one."
        )
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if getattr(getattr(base.config, "distributed_config", None), "pp_size", 1) not in (None, 1):
        raise ValueError(
            "The model's layers are spread over processes (pipeline parallel), so no process sees a row's whole pass. "
            "Use FSDP2 (`DistributedConfig(fsdp_size=...)`), or `device_map='auto'` in one process."
        )
    sharded = {id(p) for module in model.modules() if isinstance(module, FSDPModule) for p in module.parameters()}
    offloaded = {
        id(p) for module in model.modules() if has_offloaded_params(module) for p in module.parameters(recurse=False)
    }
    for name, parameter in model.named_parameters():
        if in_zero(parameter) and not hasattr(parameter, "_z3_optimizer"):
            raise ValueError(
                f"`{name}` is sharded by DeepSpeed ZeRO-3, and no engine runs it. Score the model that "
                "`deepspeed.initialize` or a trainer has prepared, with an optimizer, or use FSDP2, which shards as "
                "ZeRO-3 does (`fsdp_version: 2` in accelerate's configuration)."
            )
        if isinstance(parameter, DTensor):
            names = parameter.device_mesh.mesh_dim_names or ()
            if id(parameter) not in sharded or {"tp", "ep"} & set(names):
                raise ValueError(
                    f"`{name}` is split between processes (tensor or expert parallel, `tp_plan`), so none of them "
                    "sees its gradient. Use FSDP2 (`DistributedConfig(fsdp_size=...)` or accelerate's "
                    "`fsdp_version: 2`), which gathers a layer while it runs, or `device_map='auto'` in one process."
                )
        elif parameter.is_meta and id(parameter) not in offloaded:
            raise ValueError(
                f"`{name}` has no values (device `meta`): the model is sharded or offloaded in a way that is not "
                "known here, or was never filled. Load it whole, with `device_map`, or with FSDP2."
            )
