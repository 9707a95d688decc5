"""A device that is not there: tensors that say they are on `mps`, compute on the CPU and refuse what Apple's do.

Its refusals are float64 and company on another device, numbers without a dimension excepted. It finds lines that only
fail on such a machine, without one.
"""

from contextlib import contextmanager, nullcontext

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map


OTHER = torch.device("mps", 0)
HOME = torch.device("cpu")


class OtherTensor(torch.Tensor):
    """A tensor of the other device."""

    @staticmethod
    def __new__(cls, inner: torch.Tensor, requires_grad: bool | None = None):
        if requires_grad is not None:  # as accelerate makes weights anew, by the type of those before
            return torch.nn.Parameter(inner, requires_grad)
        _check_dtype(inner)
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, inner.stride(), inner.storage_offset(), dtype=inner.dtype, requires_grad=False
        )

    def __init__(self, inner: torch.Tensor, requires_grad: bool | None = None):
        if requires_grad is None:
            self.inner = inner

    device = property(lambda self: OTHER)
    is_cpu = property(lambda self: False)
    is_mps = property(lambda self: True)

    def __repr__(self):
        return f"OtherTensor({self.inner!r})"

    __torch_function__ = torch._C._disabled_torch_function_impl

    def numpy(self, *args, **kwargs):
        raise TypeError("can't convert mps:0 device type tensor to numpy. Use Tensor.cpu() first.")

    __array__ = numpy

    def tolist(self):
        return self.inner.tolist()

    def new_tensor(self, data, **kwargs):
        return OtherTensor(self.inner.new_tensor(data, **kwargs))

    def cpu(self):
        return _Back.apply(self)

    def to(self, *args, dtype=None, device=None, non_blocking=False, **kwargs):
        for arg in args:
            if isinstance(arg, torch.dtype):
                dtype = arg
            elif not isinstance(arg, bool):
                device = arg.device if isinstance(arg, torch.Tensor) else arg
                dtype = arg.dtype if isinstance(arg, torch.Tensor) else dtype
        if device is not None and torch.device(device).type == "meta":
            return self.inner.to(device)
        # The dtype changes where it exists: after the way back.
        tensor = self.cpu() if device is not None and torch.device(device).type == HOME.type else self
        return tensor if dtype is None else tensor.type(dtype)

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        leaves = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, torch.Tensor)]
        strangers = [leaf for leaf in leaves if not isinstance(leaf, cls) and leaf.ndim]
        if strangers and function is not torch.ops.aten.copy_.default:
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found at least two, mps:0 and cpu! ({function})"
            )
        for leaf in leaves:
            if leaf.ndim:
                _check_dtype(leaf)
        inner = tree_map(lambda x: x.inner if isinstance(x, cls) else x, (args, kwargs))
        found = function(*inner[0], **inner[1])
        if function.overloadpacket is torch.ops.aten._local_scalar_dense:
            return found
        # What is changed in place is handed back as the very tensor it was.
        known = {id(leaf.inner): leaf for leaf in leaves if isinstance(leaf, cls)}
        return tree_map(lambda x: _wrapped(x, known), found)


def _wrapped(value, known: dict[int, OtherTensor]):
    if not isinstance(value, torch.Tensor):
        return value
    return known[id(value)] if id(value) in known else OtherTensor(value)


def _check_dtype(tensor: torch.Tensor) -> None:
    if tensor.dtype == torch.float64:
        raise TypeError(
            "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64. Please use "
            "float32 instead."
        )


class _Back(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor):
        return tensor.inner.clone()

    @staticmethod
    def backward(ctx, gradient):
        return OtherTensor(gradient)


class _There(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor):
        return OtherTensor(tensor.clone())

    @staticmethod
    def backward(ctx, gradient):
        return gradient.inner


class _Made(TorchDispatchMode):
    """Makes tensors there and moves them there, in a backward pass too."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        asked = kwargs.get("device")
        if asked is None or asked.type != OTHER.type:
            return function(*args, **kwargs)
        found = function(*args, **kwargs | {"device": HOME})
        return found if isinstance(found, OtherTensor) else OtherTensor(found)


class _Asked(TorchFunctionMode):
    """What never comes as far as that under its true device."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.Tensor.to:
            kwargs = {name: _indexed(value) for name, value in kwargs.items()}
            if len(args) == 2 and isinstance(args[1], OtherTensor):
                args = (args[0], OTHER, args[1].dtype)
            args = tuple(map(_indexed, args))
            if not isinstance(args[0], OtherTensor) and OTHER in (*args[1:], kwargs.get("device")):
                # The dtype changes before.
                dtypes = [given for given in (*args, kwargs.get("dtype")) if isinstance(given, torch.dtype)]
                return _There.apply(args[0].to(*dtypes) if dtypes else args[0])
        elif function in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return function(*args, **kwargs).to(_indexed(device))
        with _casting(args, kwargs):
            return function(*args, **kwargs)


def _casting(args, kwargs):
    """Autocast of the other device for what computes there: its tensors are the CPU's to torch."""
    there = any(isinstance(leaf, OtherTensor) for leaf in tree_flatten((args, kwargs))[0])
    if not (there and torch.is_autocast_enabled(OTHER.type)):
        return nullcontext()
    return torch.autocast("cpu", torch.get_autocast_dtype(OTHER.type))


def _indexed(device):
    return OTHER if isinstance(device, str | torch.device) and torch.device(device).type == OTHER.type else device


@contextmanager
def other_devices():
    """While it lasts, there is the other device."""
    with _Made(), _Asked():
        yield OTHER


def on_other_device(model: torch.nn.Module) -> torch.nn.Module:
    """Moves a model there, tied weights together."""
    moved: dict[int, torch.Tensor] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                there = torch.nn.Parameter(OtherTensor(parameter.detach()), parameter.requires_grad)
                module._parameters[name] = moved.setdefault(id(parameter), there)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = moved.setdefault(id(buffer), OtherTensor(buffer))
    return model
