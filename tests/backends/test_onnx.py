"""Networks for ONNX Runtime: the outputs of the model, in the forms that it runs fastest."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_networks import SMALL, images, model_of
from small_spaces import CONDITIONED, inputs, supernet
from torch import Tensor

from spacelang.backends.onnx import runner
from spacelang.backends.onnx.network import Network
from spacelang.backends.onnx.stem import paired, wider
from spacelang.backends.torch.inference.deploy import deploy, deployment
from spacelang.backends.torch.supernet import Supernet
from spacelang.diagnostics import Source, SpaceError
from spacelang.loader import load

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

NETWORKS = {
    **SMALL,
    "tinyvit": ("tinyvit.space:tinyvit_5m", {"image": 96, "larger_windows": True, "classes": 7}),
}


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("system", NETWORKS)
def test_outputs_are_those_of_the_model(system: str, batch: int) -> None:
    address, settings = NETWORKS[system]
    model = model_of(address, **settings)
    assignment = next(iter(model.graph.sample(1, seed=4))) if model.graph.decisions else {}
    network = deploy(model, assignment, batch=batch, runtime="onnxruntime")
    x = images(model, batch)
    with torch.inference_mode():
        assert relative(network(x), model.activate(assignment)(x)) < 1e-5


def test_sizes_that_are_whole_under_a_condition_alone() -> None:
    model = supernet(CONDITIONED, torch.float32).eval()
    (x,) = inputs(model.graph, dtype=torch.float32)
    for width in (4, 6, 9):
        network = deploy(model, {"width": width}, batch=len(x), runtime="onnxruntime")
        with torch.inference_mode():
            assert relative(network(x), model.activate({"width": width})(x)) < 1e-5


def ops(content: bytes) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load_from_string(content).graph.node)


def test_what_efficientvit_is_made_of() -> None:
    """Biases of attention are in the products, and there are no norms and nothing of shapes."""
    model = model_of("efficientvit.space:efficientvit_m0", classes=7)
    made = deployment(model, {}, 1, "onnxruntime")
    found = ops(made.content)
    assert {"BatchNormalization", "Shape", "Pad", "Slice", "Div"}.isdisjoint(found)
    # Queries, keys and values of 24 heads; their scores but those of 4 windows; the head.
    assert found["Gemm"] == 4 * (6 - 1) + 4 * (6 - 1) + 1
    assert found["Transpose"] == 2  # into windows and back, once
    assert made.content == deployment(model, {}, 1, "onnxruntime").content


def test_rows_are_moved_once() -> None:
    """DeiT's tokens come to stand side by side for all of its blocks; Swin moves them by gathers."""
    deit = model_of("deit.space:deit_ti", image=32, classes=7)
    found = ops(deployment(deit, {}, 3, "onnxruntime").content)
    assert found["Gather"] == 3  # for the norm before attention and what it is added to, and back
    assert found["Split"] == found["Einsum"] == 0
    swin = model_of("swin.space:swin_t", classes=7)
    found = ops(deployment(swin, {}, 1, "onnxruntime").content)
    assert found["Split"] == found["Concat"] == found["Slice"] == 0


def test_layers_of_maps_are_convolutions() -> None:
    tiny = model_of("tinyvit.space:tinyvit_5m", classes=7)
    found = ops(deployment(tiny, {}, 1, "onnxruntime").content)
    # 17 before and between the stages; of each of 10 blocks projection, local and two of the MLP.
    assert found["Conv"] == 17 + 4 * 10
    assert found["Gelu"] == 23


def test_two_pixels_as_channels_of_one() -> None:
    """The first convolutions of EfficientViT-M0, which have 8 channels between them."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 20, 28, generator=generator)
    first, last = (torch.randn(o, i, 3, 3, generator=generator) for o, i in ((8, 3), (5, 8)))
    wanted = F.conv2d(F.conv2d(x, first, stride=2, padding=1).relu(), last, stride=2, padding=1)
    wide, pairs = (torch.from_numpy(f(w.numpy())) for f, w in ((wider, first), (paired, last)))
    y = F.conv2d(F.pad(x, (1, 0, 1, 1)), wide, stride=(2, 4)).relu()
    found = F.conv2d(F.pad(y, (1, 0, 1, 1)), pairs, stride=(2, 1))
    assert relative(found, wanted) < 1e-6


def test_views_are_joined() -> None:
    net = Network("n")
    x = net.input("x", (2, 3, 4))
    assert net.reshape(net.reshape(x, (6, 4)), (2, 3, 4)) is x
    assert net.transpose(net.transpose(x, (2, 0, 1)), (1, 2, 0)) is x
    one = net.input("one", (2, 1, 4))
    y = net.transpose(one, (1, 0, 2))
    assert net.maker(y).op == "Reshape"
    c = net.constant(np.arange(6.0).reshape(2, 3))
    assert net.transpose(c, (1, 0)).entries.tolist() == [[0, 3], [1, 4], [2, 5]]


def test_orders_of_rows_are_one() -> None:
    net = Network("n")
    x = net.input("x", (2, 4, 4, 64))
    there = net.reshape(net.transpose(net.reshape(x, (2, 2, 2, 4, 64)), (0, 2, 1, 3, 4)), x.shape)
    y = net.pointwise("Relu", there)
    back = net.transpose(net.reshape(y, (2, 2, 2, 4, 64)), (0, 2, 1, 3, 4))
    assert [call.op for call in net.calls([net.plain(net.reshape(back, x.shape))])] == ["Relu"]
    there = [call.op for call in net.calls([net.plain(y)])]
    assert [op for op in there if op != "Reshape"] == ["Relu", "Gather"]


def test_one_shape_is_taken() -> None:
    model = model_of("deit.space:deit_ti", image=32, classes=7)
    network = deploy(model, batch=2, runtime="onnxruntime")
    with pytest.raises(SpaceError, match=r"for \[2, 3, 32, 32\] of float32 on cpu, not \[3, 3, 32"):
        network(images(model, 3))
    x = images(model, 2)
    first = network(x)
    kept = first.clone()
    assert torch.equal(network(x.to(memory_format=torch.channels_last)), kept)
    first.zero_()
    assert torch.equal(network(x), kept)


def test_what_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("deit.space:deit_ti", image=32, classes=7)
    with pytest.raises(SpaceError, match=r"SP604.*no runtime 'tvm'"):
        deploy(model, runtime="tvm")
    monkeypatch.setattr(runner, "find_spec", lambda name: None)
    with pytest.raises(SpaceError, match=r"SP604.*onnx is not installed"):
        deploy(model, runtime="onnxruntime")


def test_an_op_without_a_row(tmp_path: Any) -> None:
    path = tmp_path / "small.space"
    path.write_text("space s() {\n input x: [B, 3, 8, 8]\n output resize(x, to: [4, 4])\n}")
    with pytest.raises(SpaceError, match=r"SP605.*has resize"):
        deploy(model_of(f"{path}:s"), runtime="onnxruntime")


def test_a_file_of_another_network() -> None:
    made = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]>'
        "sum (float[1] a, float[1] b) => (float[1] y) { y = Add(a, b) }"
    )
    with pytest.raises(SpaceError, match=r"SP702.*2 inputs"):
        runner.Runner(made.SerializeToString())


def test_a_damaged_file() -> None:
    with pytest.raises(SpaceError, match="SP702"):
        runner.Runner(b"no model")


@pytest.mark.parametrize(("given", "out"), [("c_1", "v_2"), ("v_1", "c_2"), ("v1", "c1")])
def test_names_of_the_graph_are_its_own(given: str, out: str) -> None:
    net = Network("n")
    x = net.input(given, (2, 3))
    y = net.call("Relu", [net.call("Add", [x, net.constant(np.ones((2, 3)))], x.shape)], x.shape)
    content = net.written({out: y})
    graph = onnx.load_from_string(content).graph
    made = [name for node in graph.node for name in node.output]
    assert len({given, *made, *(c.name for c in graph.initializer)}) == 1 + len(made) + 1
    images = np.array([[-3, -2, -1], [0, 1, 2]], np.float32)
    assert (runner.Runner(content)(images) == np.maximum(images + 1, 0)).all()


@pytest.mark.parametrize("affine", ["false", "true"])
def test_a_norm_by_itself(affine: str) -> None:
    text = f"""space bare {{
      input x: [B, 3, 9, 9]
      x = max_pool(x, 3) |> batch_norm(affine: {affine}) as norm
      output mean(x, axes: [2, 3])
    }}"""
    model = Supernet(load(Source("bare.space", text))).eval()
    with torch.no_grad():
        model.get_buffer("norm.running_var").copy_(torch.tensor([0.5, 2, 3]))
    x = torch.randn(1, 3, 9, 9)
    assert relative(deploy(model, {}, runtime="onnxruntime")(x), model(x)) < 1e-5
