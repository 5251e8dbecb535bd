"""Printed supernets: a whole space as a module that needs PyTorch alone."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file
from small_spaces import CONVOLUTIONS, SHARED, VIT, architectures, close, graph, inputs, trained

from spacelang.backends.torch.printing.supernet_source import print_supernet
from spacelang.backends.torch.subnets.subnet import module_of
from spacelang.backends.torch.supernet import Supernet
from spacelang.diagnostics import Report
from spacelang.ir.graph import Graph
from spacelang.ir.verify import verify
from spacelang.loader import load
from spacelang.passes.inference import for_inference

# Sizes by floor, least and most, a root, a condition in a size, two guarded values, booleans.
SIZES = """
block part(x: [B, C], kept) -> [B, M] {
  choose wide in {false, true}
  let m = min(kept, 9) if wide else max(C // 3, 2)
  return linear(x, m) as a
}
space sizes {
  input x: [B, 7]
  choose width in {6, 10, 16}
  choose ratio in {1.5, 2.5}
  choose deep in {false, true}
  x = linear(x, width * ratio) as first
  x = x * sqrt(width)
  x = choose op { soft: tanh(x)  hard: relu(x) }
  y = part(x, width) as parts[0]
  a, b = split(x, [2, width * ratio - 2], axis: 1)
  when deep { a = a * 2  b = relu(b) }
  output concat([a, b, y, part(x, 4) as parts[1]], axis: 1) |> linear(3) as head
  weights { _: entangle }
}
"""

TEXTS = {"vit": VIT, "convolutions": CONVOLUTIONS, "shared": SHARED}

RUN = """
import importlib.util, json, sys
from pathlib import Path
sys.modules["spacelang"] = None                       # any import of it fails
import torch
from safetensors.torch import load_file
spec = importlib.util.spec_from_file_location("model", "model.py")
model = importlib.util.module_from_spec(spec)
spec.loader.exec_module(model)
network = model.Network().double().eval()
network.load_state_dict(load_file("weights.safetensors"))
case = load_file("case.safetensors")
images = [case[f"input{i}"] for i in range(sum(name.startswith("input") for name in case))]
for number, assignment in enumerate(json.loads(Path("assignments.json").read_text())):
    found = network.activate(assignment)(*images)
    found = {"output": found} if isinstance(found, torch.Tensor) else found
    for name, y in found.items():
        assert torch.equal(y, case[f"{number} {name}"]), (number, name)
print("equal")
"""


def imported(source: str, folder: Path) -> ModuleType:
    path = folder / "supernet.py"
    path.write_text(source)
    return module_of(path)


def run_alone(model: Supernet, folder: Path, count: int) -> None:
    """The printed source in a process that cannot import us gives the same bits."""
    space = model.graph
    chosen = architectures(space, count, seed=3)
    images = inputs(space)
    case = {f"input{i}": x for i, x in enumerate(images)}
    for number, assignment in enumerate(chosen):
        found = model.activate(assignment)(*images)
        named = {"output": found} if isinstance(found, torch.Tensor) else found
        case |= {f"{number} {name}": y.detach() for name, y in named.items()}
    (folder / "model.py").write_text(print_supernet(space))
    (folder / "assignments.json").write_text(json.dumps([dict(a) for a in chosen]))
    save_file(case, folder / "case.safetensors")
    save_file(model.state_dict(), folder / "weights.safetensors")
    command = [sys.executable, "-c", RUN]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.stdout == "equal\n", done.stderr


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_printed_supernet_alone_equals_ours(text: str, tmp_path: Path) -> None:
    run_alone(trained(graph(text)).eval(), tmp_path, 6)


@pytest.mark.parametrize("space", ["autoformer.space:autoformer_t", "cream.space:cream"])
def test_printed_supernets_of_papers(space: str, root: Path, tmp_path: Path) -> None:
    model = trained(load(root / "spaces" / space)).eval()
    network = imported(print_supernet(model.graph), tmp_path).Network().double().eval()
    network.load_state_dict(model.state_dict())
    images = inputs(model.graph, 1)
    with torch.no_grad():
        for assignment in architectures(model.graph, 2, seed=4)[1:]:
            expected = model.activate(assignment)(*images)
            assert torch.equal(network.activate(assignment)(*images), expected)


def test_every_kind_of_size_is_printed(tmp_path: Path) -> None:
    model = trained(graph(SIZES)).eval()
    network = imported(print_supernet(model.graph), tmp_path).Network().double().eval()
    network.load_state_dict(model.state_dict())
    images = inputs(model.graph)
    for assignment in architectures(model.graph, 40, seed=5):
        expected = model.activate(assignment)(*images)
        assert torch.equal(network.activate(assignment)(*images), expected), assignment


def test_all_outputs_and_training(tmp_path: Path) -> None:
    model = trained(graph(CONVOLUTIONS))
    network = imported(print_supernet(model.graph), tmp_path).Network().double()
    network.load_state_dict(model.state_dict())
    images = inputs(model.graph)
    smallest = {**model.graph.decisions.extreme("smallest"), "layers[0].op": "plain"}
    expected = model.activate(smallest).train().all_outputs(*images)
    found = network.activate(smallest).train().all_outputs(*images)
    assert expected.keys() == found.keys() == {"auxiliary", "output"}
    assert all(torch.equal(found[name], y) for name, y in expected.items())
    sum(y.sum() for y in found.values()).backward()
    assert network.stem.weight.grad.abs().sum() > 0
    for name, value in model.state_dict().items():
        assert torch.equal(network.state_dict()[name], value), "running statistics move too"


def test_what_a_printed_supernet_reads_like() -> None:
    source = print_supernet(graph(VIT))
    assert print_supernet(graph(VIT)) == source
    assert "spacelang" not in source
    functions = [n.name for n in ast.parse(source).body if isinstance(n, ast.FunctionDef)]
    blocks = [name for name in functions if name in graph(VIT).blocks]
    assert sorted(blocks) == sorted(graph(VIT).blocks)
    for line in (
        "def encoder(w, x, width, heads, drop, ratio, training):",
        'w["attn_layer_norm.weight"][:width]',
        '    if d["depth"] > 2:\n        encoder_2 = encoder(\n            w.at("encoder.2"),',
        '"width": (12, 8),',
    ):
        assert line in source, line


def test_assignments_that_are_none(tmp_path: Path) -> None:
    network = imported(print_supernet(graph(VIT)), tmp_path).Network()
    with pytest.raises(KeyError, match="widht"):
        network.activate({"widht": 8})
    for wrong in (9, "8", True):
        with pytest.raises(ValueError, match="no candidate of width"):
            network.activate({"width": wrong})


@pytest.mark.parametrize("text", [CONVOLUTIONS, SHARED], ids=["convolutions", "shared"])
def test_inference_keeps_what_evaluation_gives(text: str, tmp_path: Path) -> None:
    space = graph(text)
    made = for_inference(space)
    report = Report()
    verify(made, report)
    report.check()
    assert list(made.decisions) == list(space.decisions)
    assert not any(o.training for o in made.outputs)
    model = trained(space).eval()
    other = Supernet(made).double().eval()
    state = model.state_dict()
    other.load_state_dict({name: state[name] for name in other.state_dict()})
    assert len(other.state_dict()) < len(state)
    network = imported(print_supernet(made), tmp_path).Network().double().eval()
    network.load_state_dict(other.state_dict())
    images = inputs(space)
    for assignment in architectures(space, 5, seed=6):
        expected = model.activate(assignment)(*images)
        found = other.activate(assignment)(*images)
        assert close(found, expected, 1e-10)
        assert torch.equal(network.activate(assignment)(*images), found)


def test_inference_of_what_has_nothing_to_fold() -> None:
    space: Graph = graph(VIT)
    assert for_inference(space).decisions == space.decisions
