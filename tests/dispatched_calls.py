"""What a function asks of PyTorch: operations that a GPU would wait for, copies, large results."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten

#: Their results, or the shapes of these, depend on values: on a GPU the CPU waits for them.
WAITS = {aten.equal, aten._local_scalar_dense, aten.nonzero, aten._unique2, aten.masked_select}


class DispatchedCalls(TorchDispatchMode):
    """While active, watches the operations, below autograd.

    Attributes:
        num_waits: how many operations a GPU would wait for.
        crossings: a line for each operation that has tensors of two devices, copies included. A
            single number may lie on the CPU, as in PyTorch.
        largest_bytes: the size of the largest result.
    """

    def __init__(self):
        super().__init__()
        self.num_waits = 0
        self.crossings: list[str] = []
        self.largest_bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        made = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        masks = func.overloadpacket in (aten.index, aten.index_put, aten.index_put_) and any(
            x.dtype == torch.bool for x in tree_leaves(args[1]) if isinstance(x, Tensor)
        )
        self.num_waits += func.overloadpacket in WAITS or masks
        devices = {x.device.type for x in [*given, *made] if x.dim() or x.device.type != "cpu"}
        if len(devices) > 1:
            shapes = ", ".join(f"{x.device.type}{tuple(x.shape)}" for x in [*given, *made])
            self.crossings.append(f"{func}: {shapes}")
        for x in made:
            self.largest_bytes = max(self.largest_bytes, x.numel() * x.element_size())
        return out
