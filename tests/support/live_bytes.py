"""Bytes of tensors alive at once, on a CPU, where no allocator counts them."""

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts what is made while it lasts, and the shapes that each operation gives."""

    def __init__(self):
        super().__init__()
        self.peak = 0
        self.made: list[tuple[str, tuple[int, ...]]] = []
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        before = {
            leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)
        }
        found = function(*args, **(kwargs or {}))
        self._alive = {key: kept for key, kept in self._alive.items() if not kept[0].expired()}
        for leaf in tree_leaves(found):
            if isinstance(leaf, torch.Tensor) and (key := leaf.untyped_storage()._cdata) not in before:
                self._alive[key] = StorageWeakRef(leaf.untyped_storage()), leaf.untyped_storage().nbytes()
                self.made.append((str(function), tuple(leaf.shape)))
        self.peak = max(self.peak, sum(size for _, size in self._alive.values()))
        return found
