"""A device that is not there: numbers stay on the CPU, and whoever mixes devices is caught as a card would catch them.

Within ``SecondDevice`` every tensor has a device of its own account: ``cuda`` for what was moved or made there and for
what is computed from it, the CPU for the rest. Operands on two devices are refused by the rules of PyTorch: a tensor
without dimensions goes with anything, and indices may stay on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._pytree import tree_flatten

CARD = torch.device("cuda:0")
CPU = torch.device("cpu")
_MARK = "_second_device"
_INDEXING = ("Tensor.__getitem__", "Tensor.__setitem__", "Tensor.index_put_")
# Copying between devices, and looking at a tensor without computing with another one.
_FREE = ("Tensor.to", "Tensor.copy_", "Tensor.cpu", "Tensor.cuda", "Tensor.type_as", "Tensor.data")


class TwoDevicesError(RuntimeError):
    """Operands of one operation are on two devices."""


class SecondDevice(TorchFunctionMode):
    """See above.

    Attributes:
        made: how many tensors an operation put on the card.
    """

    def __init__(self) -> None:
        super().__init__()
        self.made = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = resolve_name(func) or repr(func), dict(kwargs or {})
        name = name.removeprefix("torch.")
        if name.startswith("Tensor.device"):
            return device_of(args[0])
        if name.startswith("Tensor.is_cuda"):
            return device_of(args[0]) == CARD
        if name.startswith("Tensor.get_device"):
            return 0 if device_of(args[0]) == CARD else -1
        given = list(_tensors((args, kwargs)))
        places = {device_of(tensor) for tensor in given if tensor.ndim}
        args, wanted = _without_device(args, kwargs)
        if len(places) > 1 and not name.startswith(_FREE) and not _indexed_by_cpu(name, args):
            shapes = ", ".join(f"{tuple(tensor.shape)} on {device_of(tensor)}" for tensor in given)
            raise TwoDevicesError(f"{name} is given tensors on two devices: {shapes}")
        place = wanted or (CPU if name == "Tensor.cpu" else None)
        if place is None:
            place = CARD if CARD in places or (given and device_of(given[0]) == CARD) else CPU
        before = {id(tensor) for tensor in given}
        out = func(*args, **kwargs)
        for tensor in _tensors(out):
            if id(tensor) in before and device_of(tensor) != place and not name.startswith("Tensor.copy_"):
                # ``to`` gives the tensor itself back where nothing is to be done; another device is.
                return mark(tensor.clone(), place)
            if id(tensor) not in before:
                mark(tensor, place)
                self.made += place == CARD
        return out


def device_of(tensor: Tensor) -> torch.device:
    """Where a tensor is, on the account of this module."""
    return CARD if vars(tensor).get(_MARK) else CPU


def mark(tensor: Tensor, place: torch.device) -> Tensor:
    """Put a tensor somewhere."""
    setattr(tensor, _MARK, place == CARD)
    return tensor


def move(model: nn.Module) -> None:
    """Put a model's parameters and buffers on the card."""
    for tensor in (*model.parameters(), *model.buffers()):
        mark(tensor, CARD)


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, Tensor))


def _without_device(args: Any, kwargs: dict[str, Any]) -> tuple[Any, torch.device | None]:
    """The arguments with the CPU in place of any device, and the device that was asked for."""
    found = kwargs.get("device")
    if found is not None:
        kwargs["device"] = CPU
    for index, value in enumerate(args):
        if isinstance(value, torch.device) or (isinstance(value, str) and value.split(":")[0] in ("cuda", "cpu")):
            found, args = value, (*args[:index], CPU, *args[index + 1 :])
    return args, None if found is None else (CARD if torch.device(found).type == "cuda" else CPU)


def _indexed_by_cpu(name: str, args: Any) -> bool:
    """Whether the only tensors elsewhere are indices on the CPU."""
    if name not in _INDEXING:
        return False
    values = [args[0], *_tensors(args[2:])]
    indices = list(_tensors(args[1]))
    home = device_of(args[0])
    return all(device_of(value) == home or not value.ndim for value in values) and all(
        device_of(index) in (home, CPU) for index in indices
    )
