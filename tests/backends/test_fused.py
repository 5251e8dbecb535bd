"""Fused networks against unfused ones: the same numbers and gradients, for every system.

Without a device what is fused is computed by the references of its kernels; `tests/kernels` has the
kernels themselves.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
import torch
from composition import HOSTS, host
from rewriting import text_graph
from small_spaces import BLOCKS, VIT
from torch import Tensor

from spacelang import compile as build
from spacelang import load
from spacelang.backends.torch.lowering.kernels import fits, with_kernels
from spacelang.backends.torch.subnets.proof import example
from spacelang.backends.torch.supernet import Supernet
from spacelang.backends.triton import launch
from spacelang.diagnostics import SpaceError
from spacelang.ir.graph import Graph
from spacelang.passes.pipeline import run

TOLERANCE = 1e-5  # of the largest magnitude, float32
KERNELS = {
    "deit": {"attention", "mlp"},
    "autoformer": {"attention", "mlp"},
    "s3": {"attention", "mlp"},
    "swin": {"attention", "mlp"},
    "tinyvit": {"attention", "mlp", "depthwise"},
    "efficientvit": {"cascade", "depthwise"},
    "cream": {"depthwise"},
    "cdarts": set(),
}
MINI = {
    "mini_deit": "mini_deit(24, heads: 3, image: 32)",
    "mini_swin": "mini_swin(16, [2, 1, 1, 1], heads: [1, 2, 2, 2], every: [2, 1, 1, 1], windows: [4, 4, 2, 1], image: 32)",
}


@pytest.fixture(autouse=True)
def no_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No device and no interpreter: the references of kernels, without their warnings."""
    monkeypatch.setattr(launch, "INTERPRETED", False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", launch.NotFused)
        yield


def both(graph: Graph) -> tuple[Supernet, Supernet]:
    """A supernet and the same fused, with weights that tell everything apart."""
    plain = build(graph, "torch")
    fused = build(graph, "triton")
    generator = torch.Generator().manual_seed(3)
    for tensor in (*plain.parameters(), *plain.buffers()):
        if tensor.is_floating_point():
            noise = torch.randn(tensor.shape, generator=generator)
            tensor.data.add_(
                (0.02 if tensor.dim() > 1 else 0.2) * noise if tensor.dim() else noise.abs()
            )
    for name, tensor in plain.named_buffers():
        if name.endswith("running_var"):
            tensor.abs_().add_(0.5)
    fused.load_state_dict(plain.state_dict())
    return plain, fused


def close(found: Tensor, wanted: Tensor, tolerance: float = TOLERANCE) -> bool:
    error = (found - wanted).detach().abs().max()
    return bool(error <= tolerance * wanted.detach().abs().max())


MOBILE = """use mobilenetv3
space t = mobilenetv3([[8, 16], [16, 24], [24]], [8, 8, 16, 16], kernels: [3, 5, 3, 5], strides: [1, 2, 2, 1],
                      gated: {0, 2, 3}, hard: 2, features: 16, image: 32, classes: 5)"""


@pytest.mark.parametrize("name", HOSTS)
def test_random_architectures(name: str) -> None:
    graph = host(name)
    plain, fused = (model.eval() for model in both(graph))
    assert fits_of(graph) == KERNELS[name]
    inputs = example(graph, seed=2)
    for architecture in graph.sample(n=3, seed=5) if graph.decisions else [{}]:
        with torch.no_grad():
            wanted = plain.activate(architecture)(*inputs)
            found = fused.activate(architecture)(*inputs)
        assert close(found, wanted), architecture


def fits_of(graph: Graph) -> set[str]:
    with with_kernels():
        return set(fits(graph))


@pytest.mark.parametrize(
    "name", ["deit", "autoformer", "swin", "tinyvit", "efficientvit", "cream", "mobile", *MINI]
)
def test_training_step(name: str) -> None:
    """Outputs, the gradient of every weight, and the statistics of norms, in training."""
    texts = {"mobile": MOBILE, **{mini: f"use minivit\nspace t = {MINI[mini]}" for mini in MINI}}
    graph = text_graph(texts[name]) if name in texts else host(name)
    if name in MINI:
        assert fits_of(graph) == {"mixed_attention", "mlp"}
    same_step(graph, *both(graph))


def same_step(graph: Graph, *models: Supernet) -> None:
    """Equal outputs, gradients and statistics, those of the first being the wanted ones."""
    inputs = example(graph, seed=2)
    outputs: list[Tensor] = []
    for model in models:
        torch.manual_seed(0)  # of drop path
        outputs.append(model.train()(*inputs))
    assert close(outputs[1], outputs[0])
    slope = torch.linspace(-1, 1.5, outputs[0].numel()).reshape(outputs[0].shape)
    for output in outputs:
        output.backward(slope)
    plain, fused = (dict(model.named_parameters()) for model in models)
    largest = max(float(p.grad.abs().max()) for p in plain.values() if p.grad is not None)
    for path, weight in plain.items():
        assert (weight.grad is None) == (fused[path].grad is None), path
        if weight.grad is not None:
            assert (weight.grad - fused[path].grad).abs().max() <= TOLERANCE * largest, path
    kept = dict(models[1].named_buffers())
    for path, statistic in models[0].named_buffers():
        if path in kept and "running" in path:
            assert torch.allclose(statistic, kept[path], rtol=1e-5, atol=1e-6), path


def test_gates_in_evaluation() -> None:
    """Squeeze-excite by means of planes that are not written, and norms as they are at each call."""
    graph = text_graph(MOBILE)
    plain, fused = (model.eval() for model in both(graph))
    assert fits(graph) == {"depthwise": 6}
    inputs = example(graph, seed=2)
    outputs = [model(*inputs) for model in (plain, fused)]
    assert close(outputs[1], outputs[0])
    for output in outputs:
        output.square().sum().backward()
    other = dict(fused.named_parameters())
    largest = max(float(p.grad.abs().max()) for p in plain.parameters() if p.grad is not None)
    for path, weight in plain.named_parameters():
        if weight.grad is not None:
            assert (weight.grad - other[path].grad).abs().max() <= TOLERANCE * largest, path


@pytest.mark.parametrize("method", ["product", "euclidean", "cross"])
def test_irpe_on_all_sides(method: str) -> None:
    graph = run(text_graph(HOSTS["deit"]), f"irpe{{method={method},on=[q,k,v]}}")
    plain, fused = (model.eval() for model in both(graph))
    assert fits_of(graph) == {"attention", "mlp"}
    inputs = example(graph, seed=2)
    with torch.no_grad():
        assert close(fused(*inputs), plain(*inputs))


def test_mixtures() -> None:
    graph = run(host("cdarts"), "relax{op=softmax}")
    plain, fused = (model.eval() for model in both(graph))
    assert fits_of(graph) == {"mixture"}
    inputs = example(graph, seed=2)
    with torch.no_grad():
        assert close(fused(*inputs), plain(*inputs))


def test_a_cascade_whose_weights_change() -> None:
    """What kernels read is what there is: nothing is kept from a call before."""
    graph = load("efficientvit.space:efficientvit_m0", image=32, larger_windows=True, classes=3)
    plain, fused = (model.eval() for model in both(graph))
    inputs = example(graph, seed=2)
    for step in range(2):
        with torch.no_grad():
            assert close(fused(*inputs), plain(*inputs)), step
            for model in (plain, fused):
                for weight in model.parameters():
                    weight.mul_(1.1)


def test_require_fused() -> None:
    """What no kernel takes, and where there is no device, is an error."""
    wide = text_graph("use deit\nspace t = deit(320, heads: 2, depth: 2, image: 32)")
    with pytest.raises(SpaceError, match="wider than 128"), with_kernels(required=True):
        Supernet(wide)
    graph = text_graph(VIT)
    with with_kernels(required=True):
        model = Supernet(graph).eval()
        with pytest.raises(SpaceError, match="no kernels for cpu"):
            model(*example(graph))


def test_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_told", set())
    graph = text_graph(VIT)
    model = build(graph, "triton").eval()
    inputs = example(graph)
    with pytest.warns(launch.NotFused) as told:
        _ = [model(*inputs) for _ in range(2)]
    found = [str(w.message) for w in told if w.category is launch.NotFused]
    assert found == ["the network does not run fused: there are no kernels for cpu"]


def test_extracted_networks_are_plain() -> None:
    """A network that is taken out of a fused supernet is that of the unfused one, bit for bit."""
    graph = text_graph(VIT)
    plain, fused = both(graph)
    (architecture,) = graph.sample(n=1, seed=1)
    one, other = (model.extract(architecture).eval() for model in (plain, fused))
    inputs = example(graph, seed=4)
    assert torch.equal(one(*inputs), other(*inputs))
    assert (
        fused.without_kernels()
        .eval()
        .activate(architecture)(*inputs)
        .equal(plain.eval().activate(architecture)(*inputs))
    )


MIXTURE = """space t { input x: [B, 4, 6]
  output choose op { a: linear(x, 5) as la  b: tanh(linear(x, 5) as lb) } }"""
COMPILED = {
    **{name: (text, "") for name, text in BLOCKS.items()},
    "irpe": (HOSTS["deit"].replace("depth: 4", "depth: 1"), "irpe{method=product,on=[q,k,v]}"),
    "mini_deit": ("use minivit\nspace t = mini_deit(24, heads: 3, every: 12, image: 32)", ""),
    "mixture": (MIXTURE, "relax{op=softmax}"),
}


@pytest.mark.parametrize("name", COMPILED)
def test_a_compiled_training_step(name: str) -> None:
    """Forward and backward as `torch.compile` traces them, each function once, sizes being symbols.

    Every operator of a kernel is one node of what is traced, here its reference.
    """
    text, passes = COMPILED[name]
    graph = run(text_graph(text), passes) if passes else text_graph(text)
    plain, fused = both(graph)
    fused.compile(backend="aot_eager")
    same_step(graph, plain, fused)
    torch._dynamo.reset()


def test_compile_and_export() -> None:
    """`torch.compile` and `torch.export` see custom ops where kernels are."""
    graph = text_graph(HOSTS["deit"])
    model = build(graph, "triton").eval()
    inputs = example(graph, seed=2)
    wanted = model(*inputs)
    exported = torch.export.export(model, tuple(inputs))
    called = {str(node.target) for node in exported.graph.nodes if node.op == "call_function"}
    assert {"spacelang.attention.default", "spacelang.linear.default"} <= called
    assert close(exported.module()(*inputs), wanted)
    assert close(torch.compile(model, backend="aot_eager", fullgraph=True)(*inputs), wanted)
