"""What a real call of a fused group launches and moves, against the model of it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from rewriting import text_graph
from torch import Tensor
from torch._library.custom_ops import OPDEFS
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from triton.runtime.interpreter import GridExecutor

from spacelang.analysis.traffic import traffic
from spacelang.backends.torch.lowering.kernels import fits, with_kernels
from spacelang.backends.torch.subnets.proof import example
from spacelang.backends.torch.supernet import Supernet
from spacelang.backends.triton.launch import require_fused
from spacelang.passes.fuse import for_kernels
from spacelang.passes.fused_cost import models

CASCADE = """use efficientvit
block cascaded(x: [B, C, H, W], heads, kernel) -> [B, C, H, W] {
  bias = take(parameter([heads, H * W], init: 0) as biases, offset_index(H, W, kind: "absolute") as index, axis: 1)
  return relu(cascade(split(x, heads, axis: 1), axis: 1) |i, part| {
    return head(part, i, kernel, 16, bias[i]) as _
  })
}
space t {
  input x: [B, 48, 3, 4]
  choose heads in {2, 3}
  choose kernel in {3, 5}
  output cascaded(x, heads, kernel) as a
  weights { _: entangle  kernel: entangle(centre) }
}"""
GATED = """space t {
  input x: [B, 6, 7, 7]
  choose kernel in {3, 5}
  y = conv(x, 6, kernel, stride: 2, groups: 6) as c |> batch_norm as n |> hard_swish
  gate = mean(y, axes: [2, 3], keep: true) |> conv(4, bias: true) as r |> relu |> conv(6, bias: true) as e |> hard_sigmoid
  output y * gate
  weights { _: entangle  kernel: entangle(centre) }
}"""
# Network -> its text, its kernels, how often they go over what they write, and an architecture whose
# weights are slices: rows of projections, of another step in each head, and the middle of windows.
NETWORKS = {
    # A head's result is read by the next, then rectified.
    "cascade": (CASCADE, ["_kernel"], 4, {"heads": 3, "kernel": 3}),
    "gated": (GATED, ["_squeeze_kernel", "_forward_kernel"], 1, {"kernel": 3}),
}


class Launches(TorchDispatchMode):
    """Kernels, operations of PyTorch that are no views, and bytes of what they read and make."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, passes: int) -> None:
        super().__init__()
        self.kernels: list[str] = []
        self.others: list[str] = []
        self.weights: set[int] = set()
        self.copies: list[str] = []  # what reads nothing but weights
        self.bytes = 0
        self.inside = False
        run = GridExecutor.__call__

        def launched(grid: Any, *given: Any, **named: Any) -> None:
            self.kernels.append(grid.fn.__name__)
            operands = dict(zip(grid.arg_names, given, strict=False)) | named
            self.bytes += (passes - 1) * size_of(operands.get("out")) + size_of(operands)
            self.inside = True  # the interpreter moves operands by operations of its own
            run(grid, *given, **named)
            self.inside = False

        monkeypatch.setattr(GridExecutor, "__call__", launched)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "spacelang":
            with self:  # what an operator does besides its launch is seen, too
                return OPDEFS[func.name()]._init_fn(*args, **(kwargs or {}))
        made = func(*args, **(kwargs or {}))
        view = storages(made) <= storages(args) and not func._schema.is_mutable
        if not self.inside and not view and "empty" not in func.name():
            self.others.append(func.name())
            if storages(args) and storages(args) <= self.weights:
                self.copies.append(func.name())
            self.bytes += size_of((args, kwargs)) + size_of(made)
        return made


def storages(operands: Any) -> set[int]:
    return {t.untyped_storage().data_ptr() for t in tree_leaves(operands) if isinstance(t, Tensor)}


def size_of(operands: Any) -> int:
    """Bytes of tensors, each once."""
    found = {t.data_ptr(): t for t in tree_leaves(operands) if isinstance(t, Tensor)}
    return sum(math.prod(t.shape) * t.element_size() for t in found.values())


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_a_call_launches_and_moves_what_the_model_says(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, kernels, passes, chosen = NETWORKS[name]
    graph = text_graph(text)
    with with_kernels(required=True):
        model = Supernet(graph, seed=1).eval()
        assert len(fits(graph)) == 1  # the network is that group
    fused = for_kernels(graph).graph
    inputs = example(graph, seed=1)
    model.activate(chosen)
    said = traffic(fused, chosen, batch=len(inputs[0]), models=models(fused))
    with require_fused(), Launches(monkeypatch, passes) as found:
        found.weights = storages((list(model.parameters()), list(model.buffers())))
        model(*inputs)
    assert found.kernels == kernels
    assert found.copies == []
    assert found.bytes == said.bytes, found.others
    assert len(found.kernels) + len(found.others) == said.launches, found.others


def test_a_step_of_training_copies_no_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and backward: kernels and products read slices of weights where they lie."""
    text, _, _, chosen = NETWORKS["cascade"]
    with with_kernels(required=True):
        model = Supernet(text_graph(text), seed=1).train()
    model.activate(chosen)
    inputs = example(model.graph, seed=1)
    with require_fused(), Launches(monkeypatch, 1) as found:
        found.weights = storages(list(model.parameters()))
        model(*inputs).sum().backward()
    assert len(found.kernels) == (5 + 3) * 3
    assert set(found.copies) <= {"aten::zeros_like"}  # room for gradients
