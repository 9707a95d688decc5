"""Bytes of tensors alive at once, on a CPU, where no allocator counts them."""

import torch
from torch.distributed.tensor import DTensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts what is made while it lasts, and the shapes that each operation gives.

    With `shapes` nothing counts but tensors of those. Of one in shards the process's own part does.
    """

    def __init__(self, shapes=None):
        super().__init__()
        self.peak, self.shapes = 0, shapes
        self.made: list[tuple[str, tuple[int, ...]]] = []
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        before = {leaf.untyped_storage()._cdata for leaf in _tensors((args, kwargs))}
        found = function(*args, **(kwargs or {}))
        self._alive = {key: kept for key, kept in self._alive.items() if not kept[0].expired()}
        for leaf in _tensors(found):
            wanted = self.shapes is None or tuple(leaf.shape) in self.shapes
            if wanted and (key := leaf.untyped_storage()._cdata) not in before:
                self._alive[key] = StorageWeakRef(leaf.untyped_storage()), leaf.untyped_storage().nbytes()
                self.made.append((str(function), tuple(leaf.shape)))
        self.peak = max(self.peak, sum(size for _, size in self._alive.values()))
        return found


def _tensors(tree):
    leaves = [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
    return [leaf._local_tensor if isinstance(leaf, DTensor) else leaf for leaf in leaves]
