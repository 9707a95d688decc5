"""Tensors of the scored weights' shapes: whole on every process, or in shards as FSDP2 has the weights.

A process of N then holds an Nth of the validation gradient and of every direction. A direction comes together for one
module at a time, while that module runs, and a module's gradient is added up among the processes as soon as a backward
pass has formed it. An adapter's are whole everywhere: they are small, and so many small messages would cost more.
"""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import distributed, nn
from torch.distributed.tensor import DTensor, Replicate, Shard

from .lockstep import Lockstep
from .modules import as_linear
from .sharding import device_of
from .zero import shape_of


class Rows:
    """How FSDP2 shares a weight's rows out: to each process equally many, and to the last ones fewer.

    Args:
        weight (`DTensor`):
            The weight.
    """

    def __init__(self, weight: DTensor):
        self.mesh, self.placements, self.shape = weight.device_mesh, weight.placements, weight.shape
        self.dim = next(i for i, placement in enumerate(self.placements) if isinstance(placement, Shard))
        self.group, self.processes = self.mesh.get_group(self.dim), self.mesh.size(self.dim)
        self.height, rank = -(-self.shape[0] // self.processes), self.mesh.get_local_rank(self.dim)
        start, stop = (min(place * self.height, self.shape[0]) for place in (rank, rank + 1))
        self.own, self.held = slice(start, stop), stop - start

    def of(self, own: torch.Tensor) -> DTensor:
        """The tensor of which a process has its own rows."""
        stride = (self.shape[1], 1)
        return DTensor.from_local(own, self.mesh, self.placements, run_check=False, shape=self.shape, stride=stride)

    def new(self, like: torch.Tensor, parts: int = 1) -> torch.Tensor:
        """Zeros for the rows of so many processes, of equally many each."""
        return like.new_zeros(parts * self.height, self.shape[1])


class Spread:
    """Holds tensors where the weights of the scored modules lie.

    Args:
        modules (`Mapping[str, nn.Module]`):
            The scored modules, by name, their weights in shards if they ever are.
        lockstep ([`~diq_hf.engine.lockstep.Lockstep`]):
            The processes that share the model.
        whole (`bool`):
            Whether every process has tensors whole all the same.
    """

    def __init__(self, modules: Mapping[str, nn.Module], lockstep: Lockstep, whole: bool):
        self.modules, self.lockstep = modules, lockstep
        apart = lockstep.size > 1 and not whole
        self.rows = {name: Rows(m.weight) for name, m in modules.items() if apart and _by_rows(m.weight)}

    def zeros(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        """Of the shape of a module's weight, where it computes."""
        module, rows = self.modules[name], self.rows.get(name)
        if rows is None:  # by its shape, for the weight itself may be a shard
            return torch.zeros(shape_of(module.weight), dtype=dtype, device=device_of(module))
        return rows.of(torch.zeros(rows.held, rows.shape[1], dtype=dtype, device=device_of(module)))

    def lay(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor that every process has whole, as a module's weight lies; one that lies so, as it is."""
        rows = self.rows.get(name)
        if rows is None or isinstance(tensor, DTensor):
            return tensor
        return rows.of(tensor[rows.own].to(device_of(self.modules[name]), copy=True).contiguous())

    def whole(self, name: str) -> Callable[[torch.Tensor], torch.Tensor]:
        """Brings a module's tensor together, `(out_features, in_features)`, on every process, if it is in shards. All
        of them do so at one place of a pass."""
        module = self.modules[name]

        def bring(tensor: torch.Tensor) -> torch.Tensor:
            if not isinstance(tensor, DTensor):
                return tensor
            rows, own = self.rows[name], as_linear(module, tensor).to_local()
            found, padded = rows.new(own, rows.processes), rows.new(own)
            padded[: rows.held] = own
            # Nothing may fail between here and the sending, which the other processes wait for.
            if self.lockstep.gathering.due():
                distributed.all_gather_single(found, padded, group=rows.group)
            return as_linear(module, found[: rows.shape[0]])

        return bring

    def adder(self, name: str, total: torch.Tensor) -> Callable[[torch.Tensor | None, float], None] | None:
        """Adds what all processes have of a module's gradient, so many times, to a sum in shards: one may have nothing
        to add. `None` for a sum that is whole, to which each adds its own."""
        if not isinstance(total, DTensor):
            return None
        module, rows, held = self.modules[name], self.rows[name], total.to_local()

        def add(gradient: torch.Tensor | None, factor: float) -> None:
            padded, own = rows.new(held, rows.processes), rows.new(held)
            if gradient is not None:
                padded[: rows.shape[0]].add_(as_linear(module, gradient), alpha=factor)
            if self.lockstep.gathering.due():
                distributed.reduce_scatter_single(own, padded, group=rows.group)
            for dim in range(rows.mesh.ndim):  # replicas of the shards, each of which has run rows of its own
                if dim != rows.dim and self.lockstep.gathering.due():
                    distributed.all_reduce(own, group=rows.mesh.get_group(dim))
            held.add_(own[: rows.held])

        return add

    def numel(self) -> int:
        """How many numbers of a gradient this process holds."""
        held = {}
        for name, module in self.modules.items():
            height, width = shape_of(module.weight)
            held[id(module.weight)] = (self.rows[name].held if name in self.rows else height) * width
        return sum(held.values())


def in_shards(tensors: Iterable[torch.Tensor]) -> bool:
    """Whether each process holds a part only, so that all are needed to read them."""
    return any(isinstance(tensor, DTensor) for tensor in tensors)


def _by_rows(weight: torch.Tensor) -> bool:
    """Whether a weight is in shards of rows, and of nothing else."""
    if not isinstance(weight, DTensor):
        return False
    kinds = [placement for placement in weight.placements if not isinstance(placement, Replicate)]
    return len(kinds) == 1 and type(kinds[0]) is Shard and kinds[0].dim == 0
