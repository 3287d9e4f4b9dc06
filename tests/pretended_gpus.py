"""Two pretended devices on a machine without GPUs: all tensors are on the CPU, and operations across devices fail."""

from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

N_DEVICES = 2


class PretendedGpus(TorchFunctionMode):
    """While active, each tensor has a place: a number, or None if none was requested, as on a GPU's host.

    A result is where its operands are. Operands in different places raise RuntimeError, except where torch allows them:
    the host's single numbers and its indices.
    """

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if function == torch.Tensor.device.__get__:
            place = place_of(args[0])
            return torch.device("cpu") if place is None else torch.device("cpu", place)
        if function in (torch.Tensor.numpy, torch.Tensor.__array__) and place_of(args[0]) is not None:
            raise RuntimeError(f"{function}: the tensor is not on the host")
        if function is torch.Tensor.cpu:
            return put(args[0].clone(), None)
        if function is torch.Tensor.to:
            return self._to(*args, **kwargs)
        asked = kwargs.pop("device", None)
        result = function(*args, **kwargs)
        if function is torch.autograd.grad:
            inputs = args[1]
            return tuple(put(gradient, place_of(of)) for gradient, of in zip(result, inputs, strict=True))
        if asked is not None:
            return put(result, torch.device(asked).index)
        operands = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if function in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            operands = [operand for k, operand in enumerate(operands) if k == 0 or place_of(operand) is not None]
        places = {place_of(operand) for operand in operands if operand.dim() or place_of(operand) is not None}
        if len(places) > 1:
            raise RuntimeError(f"{function}: operands in places {places}")
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and not any(leaf is operand for operand in operands):
                put(leaf, *places or {None})
        return result

    @staticmethod
    def _to(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        place, dtype = place_of(tensor), kwargs.get("dtype")
        for target in (*args, kwargs.get("device")):
            if isinstance(target, torch.Tensor):
                place, dtype = place_of(target), target.dtype
            elif isinstance(target, torch.dtype):
                dtype = target
            elif isinstance(target, torch.device | str):
                place = torch.device(target).index
        if place == place_of(tensor) and dtype in (None, tensor.dtype):
            return tensor
        return put(tensor.to(dtype or tensor.dtype, copy=True), place)


def place_of(tensor: torch.Tensor) -> int | None:
    return getattr(tensor, "pretended_place", None)


def put(tensor: torch.Tensor, place: int | None) -> torch.Tensor:
    tensor.pretended_place = place  # type: ignore[attr-defined]
    return tensor


def spread(model: Any, unembedding: int) -> Any:
    """The decoder with half of its layers in place 0 and the rest in place 1, by the hooks of a real device map."""
    from accelerate.hooks import attach_align_device_hook_on_blocks

    n_layers = len(model.model.layers)
    places = {f"model.layers.{k}": N_DEVICES * k // n_layers for k in range(n_layers)}
    places |= {"model.embed_tokens": 0, "model.rotary_emb": 0, "model.norm": 1, "lm_head": unembedding}
    devices = {name: torch.device("cpu", place) for name, place in (places | {"": 0}).items()}
    for name, place in places.items():
        for module in model.get_submodule(name).modules():
            for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                put(tensor, place)
    with mock.patch("accelerate.hooks.set_module_tensor_to_device"):  # they are already where they belong
        attach_align_device_hook_on_blocks(model, execution_device=devices, offload=dict.fromkeys(places, False))
    return model
