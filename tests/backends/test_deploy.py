"""Deployed networks: the outputs of the model, by fewer and packed operations, on every system."""

from __future__ import annotations

import copy
import io
import operator
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from small_networks import SMALL, images, model_of
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from spacelang.backends.torch.inference import deploy as deploying
from spacelang.backends.torch.inference.deploy import Deployed, deploy
from spacelang.backends.torch.inference.packed import available
from spacelang.backends.torch.inference.peephole import letters
from spacelang.backends.torch.supernet import Supernet
from spacelang.diagnostics import Report, SpaceError
from spacelang.ir.graph import Graph
from spacelang.ir.node import Value
from spacelang.ir.verify import verify
from spacelang.loader import load
from spacelang.passes.deploy import deployed
from spacelang.passes.specialize import specialize


def difference(network: Deployed, model: Supernet, x: Tensor) -> float:
    with torch.inference_mode():
        found, wanted = network(x), model(x)
    return float((found - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("system", SMALL)
def test_outputs_are_those_of_the_model(system: str) -> None:
    address, settings = SMALL[system]
    model = model_of(address, **settings)
    graph = model.graph
    for assignment in graph.sample(2, seed=4) if graph.decisions else [{}]:
        model.activate(assignment)
        main, recipes = deployed(specialize(graph, assignment), batch=2)
        for made in (main, *recipes):
            report = Report()
            verify(made, report)
            report.check()
        network = deploy(model, assignment, batch=2)
        assert difference(network, model, images(model, 2)) < 1e-5


def ops(network: Deployed) -> Counter[object]:
    return Counter(node.target for node in network._network.graph.nodes)


def test_what_efficientvit_is_made_of() -> None:
    """No norm, no einsum, no table is left; residual depthwise convolutions add nothing."""
    space = load("efficientvit.space:efficientvit_m0")
    main, recipes = deployed(space, batch=64)
    for graph in (main, *recipes):
        report = Report()
        verify(graph, report)
        report.check()
    found = Counter(node.op for node in main.root.nodes)
    assert not {"batch_norm", "take", "offset_index", "identity", "div", "sqrt"} & found.keys()
    assert found["conv"] == 4 + 24 + 16 + 2  # stem, queries of each head, mixing, merging
    # Feed-forward and attention residuals, a bias a head, heads that are chained.
    assert found["add"] == 16 + 6 + 24 + 18
    # Of one image, the queries of the last stage are 4 x 4 x 16: a matrix for each channel.
    few, _ = deployed(space, batch=1)
    assert Counter(node.op for node in few.root.nodes)["conv"] == found["conv"] - 12
    network = deploy(model_of("efficientvit.space:efficientvit_m0", classes=7))
    left = ops(network)
    assert left[torch.einsum] == 0
    assert left[torch.baddbmm] == 24 + 12
    if available():
        assert left[torch.ops.mkldnn._convolution_pointwise.default] == found["conv"] - 12
    assert left["add_"] == 16 + 6
    assert left[operator.add] == 18
    assert left["split"] == left[operator.getitem] == left["permute"] == left[F.pad] == 0


def test_attention_is_taken_as_one() -> None:
    left = ops(deploy(model_of("deit.space:deit_ti", image=32, classes=7)))
    assert left[F.scaled_dot_product_attention] == 12
    assert left["softmax"] == left[torch.einsum] == left[operator.mul] == 0


def test_relative_terms_are_layers_with_products_in_them() -> None:
    """Tables of all heads are packed as layers are; what is gathered takes the product in."""
    left = ops(deploy(model_of("irpe.space:deit_ti_product_k", image=32, classes=7)))
    assert left[torch.einsum] == left[F.scaled_dot_product_attention] == 0
    assert left[torch.gather] == left["baddbmm_"] == 12


def test_nothing_is_added_into_constants(tmp_path: Path) -> None:
    """What hangs on parameters alone is computed once, and every call reads it as it was."""
    body = "output (linear(parameter([1, 4]) as p, 4) as l) + x"
    model = small(tmp_path, body, "x: [B, 4]")
    network, x = deploy(model), torch.randn(1, 4)
    assert torch.equal(network(x), network(x))
    assert difference(network, model, x) < 1e-6


def test_attention_may_be_computed_by_another_kernel() -> None:
    """The strides of what PyTorch's attention gives hang on the kernel that it picks in a call."""
    model = model_of("deit.space:deit_ti", image=32, classes=7)
    network, x = deploy(model, batch=2), images(model, 2)
    with sdpa_kernel(SDPBackend.MATH):
        assert difference(network, model, x) < 1e-5


def test_inputs_may_be_transposed(tmp_path: Path) -> None:
    model = small(tmp_path, "output linear(x, 5) as a", "x: [B, 8, 8]")
    x = torch.randn(2, 8, 8).transpose(1, 2)
    assert difference(deploy(model, batch=2), model, x) < 1e-6


def test_a_compiler_takes_deployed_networks() -> None:
    """Its graph has views of their own where sums are written into them."""
    model = model_of("efficientvit.space:efficientvit_m0", image=64, larger_windows=True, classes=7)
    network, x = deploy(model, batch=2), images(model, 2)
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    assert torch.allclose(compiled(x), network(x), atol=1e-5)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize(
    "mode",
    [
        lambda: torch.autocast("cpu", torch.bfloat16),
        lambda: default_dtype(torch.float64),
        lambda: torch.device("meta"),
    ],
    ids=["autocast", "float64", "meta"],
)
def test_what_the_caller_has_set_changes_nothing(
    mode: Callable[[], AbstractContextManager[object]],
) -> None:
    model = model_of("irpe.space:deit_ti_product_k", image=32, classes=7)
    network, x = deploy(model, batch=2), images(model, 2)
    wanted = network(x)
    with mode():
        assert torch.equal(network(x), wanted)
        assert torch.equal(deploy(model, batch=2)(x), wanted)


def test_axes_of_one_may_have_any_stride(tmp_path: Path) -> None:
    """Of one channel, maps with and without channels last are the same memory."""
    body = 'output conv(relu(rearrange(x, "b c h w -> b c w h")), 6, 3) as c'
    network = deploy(small(tmp_path, body, "x: [B, 1, 12, 4]"), batch=2)
    x = torch.randn(2, 1, 12, 4)
    last = x.as_strided(x.shape, (48, 1, 4, 1))
    assert x.stride() != last.stride()
    assert torch.equal(network(x), network(last))


@pytest.mark.parametrize("bias", ["true", "false"])
def test_heads_are_mixed_from_the_left(bias: str, tmp_path: Path) -> None:
    """No map is copied to bring its heads side by side; wide layers stay layers."""
    space = tmp_path / "mixed.space"
    space.write_text(f"""
      space net() {{
        input a: [B, 3, 9, 10]
        x = rearrange(a, "b h i j -> b i j h") |> linear(5, bias: {bias}) as mix
        x = rearrange(x, "b i j h -> b h i j") |> softmax
        y = rearrange(x, "b h i j -> b i j h") |> linear(80) as wide
        output mean(y, axes: [1, 2])
      }}""")
    model = model_of(f"{space}:net")
    network = deploy(model, batch=2)
    assert difference(network, model, images(model, 2)) < 1e-5
    counted = ops(network)
    assert counted[torch.baddbmm if bias == "true" else torch.bmm] == 1
    assert counted[F.linear] == 1


def test_without_packed_operators_it_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from spacelang.backends.torch.inference import packed

    model = model_of("tinyvit.space:tinyvit_5m", image=64, larger_windows=True, classes=7)
    monkeypatch.setattr(packed, "available", lambda: False)
    network = deploy(model, batch=3)
    assert not any("mkldnn" in str(target) for target in ops(network))
    assert difference(network, model, images(model, 3)) < 1e-5


def test_weights_of_the_model_stay() -> None:
    model = model_of("efficientvit.space:efficientvit_m0", image=64, larger_windows=True, classes=7)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    network = deploy(model)
    network(images(model, 1))
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert list(network.parameters()) == []


def test_one_shape_is_taken() -> None:
    model = model_of("deit.space:deit_ti", image=32, classes=7)
    network = deploy(model, batch=2)
    with pytest.raises(SpaceError, match=r"for \[2, 3, 32, 32\] of float32 on cpu, not \[3, 3, 32"):
        network(images(model, 3))
    with pytest.raises(SpaceError, match="SP301"):
        network(images(model, 2).double())
    with pytest.raises(SpaceError, match="SP"):
        network(torch.zeros(2, 1, 32, 32))


def test_letters_of_an_ellipsis() -> None:
    a, b, out = letters("...ihd,...jhd->...hij", 5, 5)
    assert (a, b, out) == (tuple("ABihd"), tuple("ABjhd"), tuple("ABhij"))
    assert letters("bihd,td->bhit", 4, 2) == (tuple("bihd"), tuple("td"), tuple("bhit"))


DENSE = """
space small() {
  input x: [B, 6, 3, 4]
  output conv(x, 6, KERNEL, groups: 6, bias: BIAS) as c
}"""


@pytest.mark.parametrize(("kernel", "bias"), [(3, "true"), (5, "false"), (7, "true")])
def test_depthwise_of_few_pixels(kernel: int, bias: str, tmp_path: Path) -> None:
    """Each pixel sees the window around it, and zeros beyond the edge."""
    path = tmp_path / "small.space"
    path.write_text(DENSE.replace("KERNEL", str(kernel)).replace("BIAS", bias))
    model = model_of(f"{path}:small")
    network = deploy(model, batch=2)
    assert F.conv2d not in ops(network)
    assert not any("convolution" in str(target) for target in ops(network))
    assert difference(network, model, images(model, 2)) < 1e-5


# Small spaces.

SHARED = {
    "tied, norms of their own": """
      a = conv(x, 8, 1, bias: true) as a |> batch_norm() as n |> relu()
      output conv(a, 8, 1, bias: true) as b |> batch_norm() as m
      weights { b: tie(a) }""",
    "tied, one scaled": """
      a = conv(x, 8, 3) as a
      output (conv(relu(a), 8, 3) as b) * 0.25
      weights { b: tie(a) }""",
    "tied, one pointwise": """
      a = conv(x, 8, 1) as a
      output conv(relu(a), 8, 1, stride: 2) as b
      weights { b: tie(a) }""",
    "tied, one residual": """
      a = conv(x, 8, 3, groups: 8) as a |> relu()
      output a + (conv(a, 8, 3, groups: 8) as b)
      weights { b: tie(a) }""",
    "one parameter, three readers": """
      w = parameter([4, 4]) as w
      a = linear(x, 4, weight: w, bias: false)
      b = linear(relu(a), 4, weight: w * 0.5, bias: false)
      output b + linear(x, 4, weight: w, bias: false) * 3""",
    "two parameters of the root": """
      w1 = parameter([4, 4]) as w1
      w2 = parameter([4, 4]) as w2
      a = linear(x, 4, weight: w1, bias: false)
      output linear(relu(a), 4, weight: w2 * 3, bias: false)""",
    "two parameters of other sizes": """
      w1 = parameter([6, 4]) as w1
      w2 = parameter([4, 6]) as w2
      a = linear(x, 6, weight: w1, bias: false)
      output linear(relu(a), 4, weight: w2, bias: false)""",
    "a parameter called weight": """
      w = parameter([4, 4]) as q
      p = parameter([4]) as weight
      output relu(linear(x, 4, weight: w * 2, bias: false)) * p""",
    "a layer called as a constant": """
      p = parameter([4]) as p
      y = linear(x, 4) as constant_0
      z = linear(y, 4) as constants[0]
      output z + p * 2""",
}


def small(tmp_path: Path, body: str, input: str = "x: [B, 8, 12, 4]") -> Supernet:
    """The model of a space, its weights and statistics drawn."""
    path = tmp_path / "small.space"
    path.write_text(f"space small() {{\n  input {input}\n{body}\n}}")
    return model_of(f"{path}:small")


@pytest.mark.parametrize("case", SHARED)
def test_computed_weights_have_places_of_their_own(case: str, tmp_path: Path) -> None:
    model = small(tmp_path, SHARED[case])
    main, recipes = deployed(model.graph, batch=2)
    report = Report()
    for made in (main, *recipes):
        verify(made, report)
    report.check()
    new = [output.name for recipe in recipes for output in recipe.outputs]
    assert len({*new, *model.graph.storages}) == len(new) + len(model.graph.storages)
    assert difference(deploy(model, batch=2), model, images(model, 2)) < 1e-5


def test_products_of_the_same_values_share_them(tmp_path: Path) -> None:
    w = "w = parameter([4, 4]) as w\nv = w * 2\n"
    twice = "output linear(relu(linear(x, 4, weight: v, bias: false)), 4, weight: v, bias: false)"
    main, (recipe,) = deployed(small(tmp_path, w + twice).graph)
    assert len(main.storages) == len(recipe.outputs) == 1


def test_a_bias_that_spreads_a_batched_product(tmp_path: Path) -> None:
    body = """
      p = parameter([5, 8, 8]) as p
      output einsum("bij,bjk->bik", x, x) + p"""
    model = small(tmp_path, body, "x: [1, 8, 8]")
    assert difference(deploy(model), model, images(model, 1)) < 1e-5


def test_a_network_that_differs_is_not_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small(tmp_path, "output linear(x, 4) as l")

    def cut(graph: Graph, batch: int, maps: bool) -> object:
        main, recipes = deployed(graph, batch, maps)
        (node,) = (n for n in main.root.nodes if n.op == "linear")
        relu = replace(node, operands=(Value(node.id),), id=99, op="relu", params={}, attributes={})
        outputs = (Value(99),)
        root = replace(main.root, nodes=(*main.root.nodes, relu), outputs=outputs)
        named = (replace(main.outputs[0], value=outputs[0]),)
        return replace(main, root=root, outputs=named), recipes

    monkeypatch.setattr(deploying, "deployed", cut)
    with pytest.raises(SpaceError, match=r"SP605.*differs from the model by \d"):
        deploy(model)


LINEAR = "output linear(x, 4) as l"


@pytest.mark.parametrize("batch", [-1, 0, 1.5, "2", True])
def test_a_batch_is_a_number_from_1(batch: object, tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=r"SP209.*whole number from 1"):
        deploy(small(tmp_path, LINEAR), batch=batch)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("body", "input", "message"),
    [
        ("output take(parameter([50, 8]) as t, ids)", "ids: [B, 12] in 0..<50", "SP605.* of i64"),
        (LINEAR, "x: [1, 3, 4]", "SP209.*not 2 at a time"),
    ],
)
def test_inputs_that_are_refused(body: str, input: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=message):
        deploy(small(tmp_path, body, input), batch=2)


@pytest.mark.parametrize(
    "use",
    [
        Deployed.half,
        copy.copy,
        copy.deepcopy,
        lambda d: torch.save(d, io.BytesIO()),
        lambda d: torch.save(nn.Sequential(d).state_dict(), io.BytesIO()),
        lambda d: nn.Sequential(d).load_state_dict({}),
    ],
)
def test_it_stays_where_it_is(use: Callable[[Deployed], object], tmp_path: Path) -> None:
    network = deploy(small(tmp_path, LINEAR))
    with pytest.raises(SpaceError, match=r"SP605.*cannot be"):
        use(network)


@pytest.mark.parametrize(
    ("body", "input"),
    [
        ("output x", "x: [B, 8]"),
        ('output rearrange(x, "b (h w) -> b h w", h: 2)', "x: [B, 8]"),
        ("output linear(parameter([3, 4]) as p, 4) as l", "x: [B, 8]"),
        ("output conv(x, 6, 3) as c", "x: [B, 8, 12, 4]"),
    ],
)
def test_outputs_are_the_callers_own(body: str, input: str, tmp_path: Path) -> None:
    model = small(tmp_path, body, input)
    network, x = deploy(model, batch=2), images(model, 2)
    kept, first = x.clone(), network(x)
    assert first.is_contiguous()
    before = first.clone()
    first.zero_()
    assert torch.equal(x, kept)
    assert torch.equal(network(x), before)
