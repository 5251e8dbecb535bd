"""What attention is modelled to move against what its launches and operations read and write.

So a copy that the model does not know of is seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from rewriting import text_graph
from small_spaces import VIT
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from spacelang.analysis.traffic import Traffic
from spacelang.backends.torch.lowering.kernels import with_kernels
from spacelang.backends.torch.subnets.proof import example
from spacelang.backends.torch.supernet import Supernet
from spacelang.backends.triton import (
    attention,
    attention_kernels,
    mixed_attention,
    mixed_attention_kernels,
)
from spacelang.passes.fuse import for_kernels
from spacelang.passes.fused_cost import compare
from spacelang.passes.specialize import specialize

MINI = "use minivit\nspace t = mini_swin(24, [1, 1, 1, 1], heads: [3, 2, 2, 2], every: [1, 1, 1, 1], windows: [4, 2, 2, 1], image: 32)"


def irpe(method: str, on: str, ratio: float = 1.9) -> str:
    return f"""use deit
use irpe
space t from deit(32, heads: 2, depth: 1, drop: 0, patch: 8, image: 32, classes: 3) {{
  rewrite {{ irpe(method: "{method}", ratio: {ratio}, on: [{on}]) }}
}}"""


TEXTS = {
    "autoformer": VIT,
    "irpe_k": irpe("product", '"k"'),
    "irpe_qkv": irpe("product", '"q", "k", "v"'),
    "cross_k": irpe("cross", '"k"', 20),
    "euclidean_qkv": irpe("euclidean", '"q", "k", "v"', 20),  # more entries than a program can hold
    "mini_deit": "use minivit\nspace t = mini_deit(24, heads: 3, every: 12, image: 32)",
    "mini_swin": MINI,
    "swin": "use swin\nspace t = swin(32, [1, 1, 1, 1], heads: [2, 2, 2, 4], windows: [2, 2, 2, 1], drop: 0, image: 32, classes: 3)",
}
KERNELS = ("attention", "mixed_attention")


class Moving(TorchDispatchMode):
    """Of every operation that makes a tensor, and of every launch, what it reads and makes."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.launches = 0

    def add(self, tensors: list[Any]) -> None:
        self.bytes += sum(nbytes(x) for x in tensors if isinstance(x, Tensor))
        self.launches += 1

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        made = function(*args, **(kwargs or {}))
        read = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if isinstance(made, Tensor) and read and "empty" not in str(function):
            held = {x.untyped_storage().data_ptr() for x in read}
            if (
                function is torch.ops.aten.add_.Tensor
                or made.untyped_storage().data_ptr() not in held
            ):
                self.add([*read, made])
        return made


class Launched:
    """Stands for a kernel; what it finds is 0."""

    def __init__(self, kernel: Any, moving: Moving) -> None:
        self.moving, self.arg_names = moving, kernel.arg_names

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        def run(**operands: Any) -> None:
            self.moving.add(list(operands.values()))
            operands["out"].zero_()

        return run


def nbytes(x: Tensor) -> int:
    """Of what is spread over heads, once."""
    spread = (size for size, step in zip(x.shape, x.stride(), strict=True) if step)
    return torch.Size(spread).numel() * x.element_size() if x.numel() else 0


@pytest.mark.parametrize("name", TEXTS)
def test_what_moves_is_what_is_modelled(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = text_graph(TEXTS[name])
    if graph.decisions:
        graph = specialize(graph, graph.decisions.extreme("largest"))
    inputs = [torch.cat([x[:1]] * 2).half() for x in example(graph, seed=0)]
    with with_kernels(required=True):
        network = Supernet(graph).eval().half()
    moving = Moving()
    for module, kernels in (
        (attention, attention_kernels),
        (mixed_attention, mixed_attention_kernels),
    ):
        monkeypatch.setattr(module, "_op", module._op._init_fn)  # what the operator does is seen
        found = Launched(kernels.KERNELS["forward"], moving)
        monkeypatch.setitem(kernels.KERNELS, "forward", found)
    rows = compare(graph, for_kernels(graph).graph, None, batch=2, width=2)
    rows = [row for row in rows if row.kernel in KERNELS]
    for row in rows:
        module = network.lowering.block(row.block).module

        def watched(*operands: Any, plain: Callable[..., Any] = module.forward) -> Any:
            with moving:
                return plain(*operands)

        monkeypatch.setattr(module, "forward", watched)
    with torch.no_grad():
        network(*inputs)
    modelled = sum((row.after for row in rows), Traffic())
    assert (moving.bytes, moving.launches) == (modelled.bytes, modelled.launches)
