"""One compilation for a whole space, counted by the compiler's own counters."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy

import pytest
import torch
from small_spaces import VIT
from torch import Tensor
from torch._dynamo.utils import counters

from spacelang import compile as build
from spacelang import load
from spacelang.backends.torch.supernet import Supernet
from spacelang.diagnostics import Source
from spacelang.ir.decision import Assignment
from spacelang.ir.graph import Graph

TOLERANCE = 1e-10  # float64
FIRST = 10  # paths after which nothing more may be compiled


WIDTHS = """
space widths() {
  input pixels: [B, 3, 16, 16]
  choose width in {8, 12, 16}
  x = conv(pixels, width, 3) as stem |> batch_norm as bn |> relu
  for i in 0..<2 { x = layer(x) }
  output linear(mean(x, axes: [2, 3]), 5) as head
  weights { _: entangle }
}

block layer(x: [B, C, H, W]) -> [B, C, H, W] {
  choose expand in {1, 2}
  h = conv(x, C * expand) as pw |> batch_norm as bn1 |> relu
  return x + (conv(h, C, 3) as conv |> batch_norm as bn2)
}
"""


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def learnt(
    model: Supernet, assignment: Assignment, x: Tensor, amp: bool = False
) -> dict[str, Tensor]:
    """The output and all gradients of a step."""
    model.zero_grad(set_to_none=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=amp):
        y = model.activate(assignment)(x)
    assert isinstance(y, Tensor)
    torch.nn.functional.cross_entropy(y, torch.arange(len(x)) % y.shape[1]).backward()
    found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return {"output": y.detach(), **found}


def images(graph: Graph, batch: int) -> Tensor:
    shape = graph.root.inputs[0].types[0].shape
    sizes = [batch, *(int(size.at({})) for size in shape[1:])]
    return torch.randn(sizes, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("backend", ["torch", "fused", "triton"])
@pytest.mark.filterwarnings("ignore:the network does not run fused")  # references, traced alike
def test_no_architecture_compiles_anew(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """AutoFormer-T, random paths, drop path on: a graph for each function of the plan, and none
    from the tenth path on. Candidates of 4 heads fill their storage, those of 3 do not."""
    if backend == "triton":
        monkeypatch.setattr(
            pytest.importorskip("spacelang.backends.triton.launch"), "INTERPRETED", False
        )
    graph = load("autoformer.space:autoformer_t", image=32)
    model = build(graph, backend).train()
    functions = {run.step.function.module for run in model._plan.runs}
    assert len(functions) == 6, "four of the stem, the encoder, the head"
    model.compile(backend="eager")  # traced, and nothing is generated
    x = images(graph, 4)  # as many as heads
    paths = list(graph.sample(16, seed=0))
    assert {path["encoder[0].heads"] for path in paths} == {3, 4}
    for number, path in enumerate(paths):
        learnt(model, path, x)
        if number == FIRST - 1:
            assert counters["stats"]["unique_graphs"] == 6
    assert counters["stats"]["unique_graphs"] == 6
    assert not counters["graph_break"]


def test_convolutions_of_any_width() -> None:
    """Widths, of which one is as large as the image, and paths are no graphs of their own; running
    statistics move as they do without a compiler."""
    graph = load(Source("mixed.space", WIDTHS))
    eager, compiled = (build(graph, "torch").double().train() for _ in range(2))
    functions = {run.step.function.module for run in compiled._plan.runs}
    compiled.compile(backend="eager")
    x = images(graph, 2).double()
    for path in graph.sample(12, seed=0):
        wanted, found = (learnt(model, path, x) for model in (eager, compiled))
        for name, value in wanted.items():
            assert (found[name] - value).abs().max() <= TOLERANCE * value.abs().max(), name
    for (name, value), moved in zip(eager.named_buffers(), compiled.buffers(), strict=True):
        assert torch.allclose(moved, value, rtol=TOLERANCE), name
    assert counters["stats"]["unique_graphs"] == len(functions)


@pytest.mark.parametrize("backend", ["torch", "fused"])
def test_mixed_precision(backend: str) -> None:
    """What is traced narrows where autocast does, convolutions too: the bits of no compiler."""
    graph = load(Source("mixed.space", WIDTHS))
    eager, compiled = (build(graph, backend).train() for _ in range(2))
    functions = {run.step.function.module for run in compiled._plan.runs}
    compiled.compile(backend="eager")
    # As `fused` lays them out where nothing is compiled.
    x = images(graph, 2).contiguous(memory_format=torch.channels_last)
    for path in graph.sample(6, seed=0):
        wanted, found = (learnt(model, path, x, amp=True) for model in (eager, compiled))
        assert wanted["output"].dtype == torch.bfloat16
        assert wanted.keys() == found.keys()
        assert all(torch.equal(found[name], value) for name, value in wanted.items())
    assert counters["stats"]["unique_graphs"] == len(functions)


def test_the_same_results() -> None:
    """Outputs and gradients are those without a compiler, also where slices are all there is."""
    graph = load(Source("vit.space", VIT))
    eager, compiled = (build(graph, "fused").double().train() for _ in range(2))
    eager.dropping = compiled.dropping = False
    compiled.compile(backend="aot_eager")  # forward and backward are traced
    x = images(graph, 3).double()
    extremes = (graph.decisions.extreme(which) for which in ("largest", "smallest"))
    for path in (*extremes, *graph.sample(2, seed=1)):
        wanted, found = (learnt(model, path, x) for model in (eager, compiled))
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            assert (found[name] - value).abs().max() <= TOLERANCE * value.abs().max(), name


def test_copies_and_subnets_are_not_compiled() -> None:
    graph = load(Source("vit.space", VIT))
    model = build(graph, "torch")
    model.compile(backend="eager")
    x = images(graph, 2)
    subnet = model.extract()
    twin = deepcopy(model)
    assert not counters["stats"]["unique_graphs"]
    with torch.no_grad():
        wanted = model.eval()(x)
        assert counters["stats"]["unique_graphs"]
        made = counters["stats"]["unique_graphs"]
        assert torch.allclose(subnet.eval()(x), wanted, atol=1e-5)
        assert torch.allclose(twin.eval()(x), wanted, atol=1e-5)
    assert counters["stats"]["unique_graphs"] == made
