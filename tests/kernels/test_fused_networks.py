"""Whole small networks of every system, eager against fused, their kernels in the interpreter.

Where a system is a space, of architectures that are drawn from it: their weights are slices of the
stored ones, their widths, heads, windows and depths the kernels' arguments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
import torch
from rewriting import text_graph
from small_spaces import BLOCKS
from torch import Tensor

from spacelang import compile as build
from spacelang.backends.torch.bench.work import fill
from spacelang.backends.torch.lowering.kernels import fits, with_kernels
from spacelang.backends.torch.subnets.proof import example
from spacelang.backends.torch.supernet import Supernet
from spacelang.backends.triton import launch
from spacelang.ir.decision import Assignment
from spacelang.ir.graph import Graph
from spacelang.passes.pipeline import run

TOLERANCE = 1e-5  # of the largest magnitude, float32
MINI_DEIT = """use minivit
use deit
space t from deit(16, heads: choose {2, 4}, token: false, depth: 2, drop: 0, patch: 8, image: 16, classes: 3) {
  block mix(a: [B, H, N, M]) -> [B, H, N, M] {
    return rearrange(a, "b h i j -> b i j h") |> linear(H, bias: false) as _ |> rearrange("b i j h -> b h i j")
  }
  rewrite {
    irpe(method: "product", on: ["k"])
    insert(mix, before: blocks[_].attn.softmax, name: "conv_l")
    insert(mix, after: blocks[_].attn.softmax, name: "conv_w")
    multiplex(blocks, every: 2, own: [norm1, norm2, attn.rpe_k, attn.conv_l, attn.conv_w])
  }
  weights { _: entangle }
}"""
S3 = """use swin
block layer(x: [B, H, W, C]) -> [B, H, W, C] {
  choose window in {2, 4}
  choose heads in {1, 2}
  choose ratio in {1, 2}
  return encoder(x, heads, 32, window, false, ratio, 0) as _
}
space t {
  input pixels: [B, 3, 16, 16]
  choose width in {8, 16}
  choose depth in 1..2
  x = patch_embed(pixels, width, patch: 4) as stem
  for i in 0..<depth { x = layer(x) as blocks[i] }
  output mean(layer_norm(x) as norm, axes: [1, 2]) |> linear(3) as head
  weights { _: entangle  blocks[_].window: entangle(centre) }
}"""
IRPE = "irpe{method=product,on=[q,k,v]}"
DEIT = "use deit\nspace t = deit(16, heads: 2, depth: 2, drop: 0, patch: 8, image: 16, classes: 3)"
# System -> its text, passes, the kernels that it runs on.
NETWORKS = {
    "autoformer": (
        "use autoformer\nspace t = autoformer({8, 12}, 1..2, {1, 2}, {1, 1.5}, stored: 16, image: 32, classes: 3)",
        "",
        {"attention": 2, "mlp": 2},
    ),
    "irpe": (DEIT, IRPE, {"attention": 2, "mlp": 2}),
    "mini_deit": (MINI_DEIT, "", {"mixed_attention": 2, "mlp": 2}),
    "mini_swin": (
        "use minivit\nspace t = mini_swin(24, [1, 1, 1, 1], heads: [3, 2, 2, 2], every: [1, 1, 1, 1], windows: [4, 2, 2, 1], image: 32)",
        "",
        {"mixed_attention": 4, "mlp": 4},
    ),
    "swin": (
        "use swin\nspace t = swin(16, [2, 1, 1, 1], heads: [1, 1, 2, 4], windows: [2, 2, 2, 1], drop: 0, image: 32, classes: 3)",
        "",
        {"attention": 5, "mlp": 5},
    ),
    "s3": (S3, "", {"attention": 2, "mlp": 2}),
    "tinyvit": (
        "use tinyvit\nspace t from tinyvit([8, 32, choose {32, 64}, 32], windows: [choose {2, 4}, 2, 1], depths: [1, 1, choose {1..2}, 1], expand: choose {1, 2}, ratio: choose {1, 2}, image: 32, classes: 3) { weights { _: separate } }",
        "",
        {"attention": 4, "depthwise": 8, "mlp": 4},
    ),
    "efficientvit": (
        "use efficientvit\nspace t from efficientvit([16, choose {16, 24}, 16], heads: [choose {1, 2}, 1, 1], kernels: [choose {3, 5}, 3], depths: [1, 1, 1], window: 2, image: 32, classes: 3) { weights { _: entangle } }",
        "",
        {"cascade": 4, "depthwise": 12},
    ),
    "gated": (
        "space t { input x: [B, 3, 7, 7]  choose k in {3, 5}  choose w in {6, 8}  y = conv(x, w) as p |> conv(w, k, stride: 2, groups: w) as c |> batch_norm as n |> hard_swish\n"
        "output y * (mean(y, axes: [2, 3], keep: true) |> conv(4, bias: true) as r |> relu |> conv(w, bias: true) as e |> hard_sigmoid)  weights { _: entangle  k: entangle(centre) } }",
        "",
        {"depthwise": 1},
    ),
    "mobilenetv3": (
        "use mobilenetv3\nspace t = mobilenetv3_search([4, 4], strides: [2, 2], image: 16, classes: 3)",
        "",
        {"depthwise": 9},
    ),
    "cream": ("use cream\nspace t { input x: [B, 4, 8, 8]  x = separable(layer(x, 8, 1) as blocks[0]) as blocks[1]  output layer(x, 8, 2) as blocks[2] }", "", {"depthwise": 13}),
    "cdarts": ("use cdarts\nspace t = darts(2, stem: 4, cells: [1, 1, 1], image: 32, classes: 3)", "relax{op=softmax}", {"mixture": 36}),
}  # fmt: skip


def models(text: str, passes: str, wanted: Mapping[str, int]) -> tuple[Supernet, Supernet]:
    """A network as it is and on these kernels, with the same weights, of which all matter."""
    graph = text_graph(text)
    graph = run(graph, passes) if passes else graph
    with with_kernels(required=True):  # no fallback
        fused = Supernet(graph)
        assert fits(graph) == wanted
    fill(fused.state_dict())
    plain = build(graph)
    plain.load_state_dict(fused.state_dict())
    return plain, fused


def close(found: Tensor, wanted: Tensor, tolerance: float = TOLERANCE) -> bool:
    error = (found - wanted).detach().abs().max()
    return bool(error <= tolerance * wanted.detach().abs().max())


TRAINED = ("autoformer", "irpe", "mini_deit", "mini_swin", "gated")
"""Of these gradients, too."""


def drawn(graph: Graph) -> list[Assignment]:
    """Two architectures of a space; of a network itself."""
    return graph.sample(n=2, seed=1, law="choices") if graph.decisions else [{}]


@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in TRAINED])
def test_evaluation(name: str) -> None:
    plain, fused = (model.eval() for model in models(*NETWORKS[name]))
    inputs = [x[:1] for x in example(plain.graph, seed=1)]
    for architecture in drawn(plain.graph):
        plain.activate(architecture)
        with torch.no_grad(), launch.require_fused():
            found = fused.activate(architecture)(*inputs)
        assert close(found, plain(*inputs)), architecture


@pytest.mark.parametrize("name", TRAINED)
def test_gradients(name: str) -> None:
    """Outputs and the gradient of every weight, forward and backward in kernels."""
    both = [model.eval() for model in models(*NETWORKS[name])]
    inputs = [x[:1] for x in example(both[0].graph, seed=1)]
    for architecture in drawn(both[0].graph):
        same_step(both, inputs, architecture)


NORMED = {
    "efficientvit": (BLOCKS["efficientvit"], "", {"cascade": 1, "depthwise": 3}),
    "tinyvit": (BLOCKS["tinyvit"], "", {"depthwise": 2}),
    "cream": (BLOCKS["cream"], "", {"depthwise": 2}),
    "gated": NETWORKS["gated"],
    "cdarts": NETWORKS["cdarts"],
}


@pytest.mark.parametrize("name", NORMED)
def test_a_step_in_training(name: str) -> None:
    """Batch norms by the statistics of the batch, and what they keep of it, besides gradients."""
    both = [model.train() for model in models(*NORMED[name])]
    inputs = example(both[0].graph, seed=1)
    before = {path: statistic.clone() for path, statistic in both[0].named_buffers()}
    same_step(both, inputs, drawn(both[0].graph)[0])
    kept = {path: statistic for path, statistic in both[1].named_buffers() if "running" in path}
    assert any(not torch.equal(before[path], statistic) for path, statistic in kept.items())
    for path, statistic in kept.items():
        assert torch.allclose(statistic, both[0].get_buffer(path), rtol=TOLERANCE, atol=1e-6), path


def same_step(both: Sequence[Supernet], inputs: Sequence[Tensor], architecture: Assignment) -> None:
    """Equal outputs and gradients of every weight, those of the first being the wanted ones."""
    outputs: list[Tensor] = []
    for model in both:
        model.zero_grad()
        torch.manual_seed(0)  # of drop path
        with launch.require_fused():
            outputs.append(model.activate(architecture)(*inputs))
            outputs[-1].square().sum().backward()
    assert close(outputs[1], outputs[0]), architecture
    wanted, found = (dict(model.named_parameters()) for model in both)
    largest = max(float(p.grad.abs().max()) for p in wanted.values() if p.grad is not None)
    for path, weight in wanted.items():
        assert (weight.grad is None) == (found[path].grad is None), path
        if weight.grad is not None:
            assert (weight.grad - found[path].grad).abs().max() <= TOLERANCE * largest, path


HALF = {"autoformer": 2e-2, "mini_deit": 2e-2, "gated": 2e-2, "tinyvit": 2e-2, "efficientvit": 5e-2}
"""Bounds of bfloat16, as `test_mlp`, `test_attention` and `test_cascade` have them."""


@pytest.mark.parametrize("name", HALF)
def test_automatic_mixed_precision(name: str) -> None:
    """Everything goes through kernels, and is as near to the same in float32 as they are.

    Streams are float32 (AutoFormer, Mini-DeiT) or, where convolutions made them, bfloat16.
    """
    plain, fused = (model.eval() for model in models(*NETWORKS[name]))
    inputs = [x[:1] for x in example(plain.graph, seed=1)]
    with torch.autocast("cpu", torch.bfloat16), launch.require_fused():
        found = fused(*inputs)
    wanted = plain(*inputs)
    assert close(found, wanted, HALF[name])
    if name not in TRAINED:
        return
    slopes = [
        torch.autograd.grad(out.float().square().sum(), [*model.parameters()], allow_unused=True)
        for model, out in ((plain, wanted), (fused, found))
    ]
    largest = max(float(slope.abs().max()) for slope in slopes[0] if slope is not None)
    for slope, half in zip(*slopes, strict=True):
        assert (slope is None) == (half is None)
        if slope is not None:
            assert half.dtype == torch.float32
            assert (half - slope).abs().max() <= HALF[name] * largest
