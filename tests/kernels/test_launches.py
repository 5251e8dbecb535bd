"""What a real call of a fused group launches and moves, against the model of it."""

from __future__ import annotations

import pytest
import torch
from kernels.moved import Moved, storages
from rewriting import text_graph

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
