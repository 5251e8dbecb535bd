"""What a real call of a fused group launches and moves, against the model of it."""

from __future__ import annotations

import pytest
import torch
from kernels.moved import Moved
from rewriting import text_graph

from spacelang.analysis.traffic import traffic
from spacelang.backends.torch.lowering.kernels import fits, with_kernels
from spacelang.backends.torch.subnets.proof import example
from spacelang.backends.torch.supernet import Supernet
from spacelang.backends.triton.launch import require_fused
from spacelang.passes.fuse import for_kernels
from spacelang.passes.fused_cost import models

CASCADE = """use efficientvit
space t {
  input x: [B, 48, 3, 4]
  bias = take(parameter([3, 12], init: 0) as biases, offset_index(3, 4, kind: "absolute") as index, axis: 1)
  output relu(cascade(split(x, 3, axis: 1), axis: 1) |i, part| {
    return head(part, i, max(3, 5 - 2 * i), 16, bias[i]) as _
  })
}"""
GATED = """space t {
  input x: [B, 6, 7, 7]
  choose kernel in {3, 5}
  y = conv(x, 6, kernel, stride: 2, groups: 6) as c |> batch_norm as n |> hard_swish
  gate = mean(y, axes: [2, 3], keep: true) |> conv(4, bias: true) as r |> relu |> conv(6, bias: true) as e |> hard_sigmoid
  output y * gate
  weights { _: entangle  kernel: entangle(centre) }
}"""
# Network -> its text, its kernels, and how often they go over what they write.
NETWORKS = {
    "cascade": (CASCADE, ["_kernel"], 4),  # a head's result is read by the next, then rectified
    "gated": (GATED, ["_squeeze_kernel", "_forward_kernel"], 1),
}


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_a_call_launches_and_moves_what_the_model_says(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, kernels, passes = NETWORKS[name]
    graph = text_graph(text)
    with with_kernels(required=True):
        model = Supernet(graph, seed=1).eval()
        assert sum(fits(graph).values()) == 1  # the network is that group
    fused = for_kernels(graph).graph
    inputs = example(graph, seed=1)
    chosen = graph.decisions.extreme("smallest")  # a slice of the largest weight
    model.activate(chosen)
    said = traffic(fused, chosen, batch=len(inputs[0]), models=models(fused))
    with require_fused(), Moved(monkeypatch, passes) as found:
        model(*inputs)
    assert found.kernels == kernels
    assert found.bytes == said.bytes, found.others
    assert found.launches == said.launches, found.others
