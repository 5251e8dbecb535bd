"""What a real call of a fused group launches and moves, against the model of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from kernels.moved import Moved, storages
from rewriting import text_graph
from torch.utils._python_dispatch import TorchDispatchMode

from spacelang.analysis.traffic import traffic
from spacelang.backends.torch.lowering.kernels import fits, with_kernels
from spacelang.backends.torch.subnets.proof import example
from spacelang.backends.torch.supernet import Supernet
from spacelang.backends.triton.attention import attention
from spacelang.backends.triton.launch import require_fused
from spacelang.backends.triton.mixed_attention import mixed_attention
from spacelang.backends.triton.mixture import mixture
from spacelang.backends.triton.relations import relations
from spacelang.backends.triton.soft_labels import soft_labels
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
    with require_fused(), Moved(monkeypatch, passes) as found:
        found.weights = storages((list(model.parameters()), list(model.buffers())))
        model(*inputs)
    assert found.kernels == kernels
    assert found.copies == []
    assert found.bytes == said.bytes, found.others
    assert found.launches == said.launches, found.others


def test_a_step_of_training_copies_no_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and backward: kernels and products read slices of weights where they lie."""
    text, _, _, chosen = NETWORKS["cascade"]
    with with_kernels(required=True):
        model = Supernet(text_graph(text), seed=1).train()
    model.activate(chosen)
    inputs = example(model.graph, seed=1)
    with require_fused(), Moved(monkeypatch) as found:
        found.weights = storages(list(model.parameters()))
        model(*inputs).sum().backward()
    assert len(found.kernels) == (5 + 3) * 3
    assert set(found.copies) <= {"aten::zeros_like"}  # room for gradients


class Called(TorchDispatchMode):
    """The names of operations, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.name())
        return func(*args, **(kwargs or {}))


def test_no_zeros_for_what_nobody_differentiates() -> None:
    """What a kernel keeps for its backward is a result, too: as large as what went in, or larger."""
    q = torch.ones(1, 1, 3, 16, requires_grad=True)
    x = torch.ones(2, 4, 16, requires_grad=True)
    labels = torch.zeros(3, 1, dtype=torch.int64), torch.ones(3, 1)
    for loss in (
        lambda: attention(q, q, q, 1.0),
        lambda: mixed_attention(q, q, q, 1.0, None, None),
        lambda: relations([x] * 3, [x.detach()] * 3),
        lambda: soft_labels(q[0, 0], *labels),
    ):
        made = loss().sum()
        with Called() as found:
            made.backward()
        assert any(name.startswith("spacelang::") for name in found.names)
        assert found.names.count("aten::zeros") == 0


def test_a_gradient_that_there_is_not() -> None:
    """What comes after a kernel may give none back: then it has none, of lists neither."""

    class Stop(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, *slopes):
            return None

    q = torch.ones(1, 1, 3, 16, requires_grad=True)
    weights = torch.ones(2, requires_grad=True)
    for made in (attention(q, q, q, 1.0), mixture([q, q], weights)):
        Stop.apply(made).sum().backward()
    assert q.grad is None
    assert weights.grad is None
