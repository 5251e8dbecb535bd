"""One compilation for a whole space: each function of a supernet once, whatever its sizes.

    model.compile()                        # torch.compile's options: backend, mode, ..
    model.activate(assignment)(images)     # no architecture compiles anything that another has

A function of `lower.py` takes its sizes as whole numbers, which `dynamic=True` makes symbols, and
absent layers are calls that are not made. What would still tell architectures apart is taken out:

* A slice that fills its storage is another case than one that does not (strides, and whether it is
  contiguous). Where a candidate fills an axis, the tensor is padded by an entry before the slice.
* The mask of a drop path whose rate is 0 is a tensor of ones, not None.
* A convolution is an operator of ours: the compiler's own is for one number of channels.
* A linear layer does not ask whether its weight is a slice.

* Sizes that happen to be equal, as a batch of 4 and 4 heads, are not taken for one.

So a graph is made for each function: the stem, the block, the head; one more set without gradients.
A size of 1 stays a case of its own, and so do running statistics that are read whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.fx import GraphModule
from torch.fx.experimental import _config

from spacelang.backends.torch.lowering.fused.operators import register
from spacelang.backends.torch.lowering.lower import Lowering
from spacelang.diagnostics import SpaceError, error

_shapes: Any = _config


class Compiled:
    """The functions of a lowering by what is compiled of them, each at its first call."""

    def __init__(self, lowering: Lowering, options: dict[str, Any]) -> None:
        register()
        self.lowering = Lowering(lowering.graph, lowering.exposed, lowering.kernels, compiled=True)
        self.options = {"dynamic": True, **options}
        self._made: dict[GraphModule, Callable[..., Any]] = {}

    def __call__(self, function: GraphModule) -> Callable[..., Any]:
        found = self._made.get(function)
        if found is None:
            found = self._made[function] = self._compiled(function)
        return found

    def _compiled(self, function: GraphModule) -> Callable[..., Any]:
        from torch._dynamo.exc import BackendCompilerFailed  # with PyTorch's compiler

        made = torch.compile(function, **self.options)

        def call(*inputs: Any) -> Any:
            try:
                with _shapes.patch(use_duck_shape=False):  # read while a graph is made
                    return made(*inputs)
            except BackendCompilerFailed as failed:
                told = str(failed.inner_exception).strip().partition("\n")[0]
                found = error("SP605", f"{failed.backend_name} cannot compile a function").note(
                    told
                )
                raise SpaceError(
                    found.hint("look after its compiler, or do without --torchcompile")
                ) from failed

        return call
