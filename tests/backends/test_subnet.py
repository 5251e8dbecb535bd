"""Subnets to take home: printed sources, written folders, exported programs."""

from __future__ import annotations

import ast
import json
import os
import py_compile
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_spaces import (
    CONVOLUTIONS,
    GATHERED,
    SEPARATE,
    SHARED,
    VIT,
    architectures,
    graph,
    inputs,
    supernet,
)
from torch import Tensor, nn

from spacelang.backends.torch.inputs import example
from spacelang.backends.torch.printing.source import print_network
from spacelang.backends.torch.subnets import proof
from spacelang.backends.torch.subnets import subnet as subnet_module
from spacelang.backends.torch.subnets.export import export
from spacelang.backends.torch.subnets.proof import ProofError, prove, relative
from spacelang.backends.torch.subnets.subnet import load_subnet, module_of, write_subnet
from spacelang.backends.torch.supernet import Supernet
from spacelang.diagnostics import SpaceError

# Groups, lists that start at 1, a parameter in a list, weights as operands, a module in a module.
LABELS = """
block unit(x: [B, N, C], hidden) -> [B, N, C] {
  return linear(x, hidden) as net[1] |> relu |> linear(C) as net[3]
}
space labels {
  input x: [B, 4, 6]
  choose hidden in {3, 5}
  x = unit(x, hidden) as stages[0].blocks[0] |> unit(2 * hidden) as stages[0].blocks[1]
  x = layer_norm(x) as stages[0].norm
  x = unit(x, hidden) as tail |> layer_norm as tail.norm
  x = unit(x, hidden) as tail[0] |> layer_norm as tail[1][2] |> layer_norm as tail[0][3][0]
  x = x + parameter([1, 4, 6]) as shift.at[0]
  w = parameter([6, 6]) as shared
  x = linear(x, 6, weight: w) as one |> linear(6, weight: w) as two
  a, b = split(x, [2, 4], axis: 2)
  output concat([b, a], axis: 2)
  weights { _: entangle }
}
"""

TEXTS = {
    "vit": VIT,
    "convolutions": CONVOLUTIONS,
    "labels": LABELS,
    "shared": SHARED,
    "separate": SEPARATE,
    "gathered": GATHERED,
}


def imported(source: str, folder: Path) -> nn.Module:
    path = folder / "network.py"
    path.write_text(source)
    return module_of(path).Network()


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_printed_networks_equal_the_supernet(text: str, tmp_path: Path) -> None:
    model = supernet(text).eval()
    for assignment in architectures(model.graph, 3, seed=8):
        source = print_network(model, assignment)
        assert print_network(model, assignment) == source
        network = imported(source, tmp_path).double().eval()
        extracted = model.extract(assignment)
        assert set(network.state_dict()) == set(extracted.state_dict())
        network.load_state_dict(extracted.state_dict())
        images = inputs(model.graph, batch=3)
        assert torch.equal(network(*images), model.activate(assignment)(*images))
        assert all(p.outputs == p.gradients == 0 for p in prove(model, assignment, network)[:1])


def test_what_a_printed_source_reads_like() -> None:
    model = Supernet(graph(VIT))
    source = print_network(model, {**model.assignment, "depth": 2})
    classes = [n.name for n in ast.parse(source).body if isinstance(n, ast.ClassDef)]
    assert classes == ["Group", "PatchEmbed", "Relative", "Attention", "Encoder", "Network"]
    assert "spacelang" not in source
    for line in (
        "self.fc1 = nn.Linear(width, width_ratio)",
        "self.proj = nn.Linear(64 * heads, width)",
        "        for layer in self.encoder:\n            x = layer(x)",
        "Encoder(12, 24, 2, 0.05)",
        '"""[B, 5, width] -> [B, 5, width]"""',
    ):
        assert line in source, line


def test_a_folder_is_a_network_without_spacelang(tmp_path: Path) -> None:
    model = supernet(VIT, torch.float32).eval()
    assignment = architectures(model.graph, 1)[-1]
    written = write_subnet(model, assignment, tmp_path / "subnet")
    image = inputs(model.graph, dtype=torch.float32)[0]
    expected = model.activate(assignment)(image)
    assert written.params == sum(p.numel() for p in model.extract().parameters())
    assert torch.equal(load_subnet(tmp_path / "subnet")(image), expected)
    program = """
import sys, torch
from model import Network
from safetensors.torch import load_file
network = Network().eval()
network.load_state_dict(load_file("weights.safetensors"))
image = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
print(sum(p.numel() for p in network.parameters()), float(network(image).sum()))
assert "spacelang" not in sys.modules
"""
    run = [sys.executable, "-c", program]
    done = subprocess.run(run, cwd=tmp_path / "subnet", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    params, total = done.stdout.split()
    image = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    assert int(params) == written.params
    assert float(total) == pytest.approx(float(model(image).sum()), rel=1e-5)


def test_the_manifest(tmp_path: Path) -> None:
    model = supernet(CONVOLUTIONS, torch.float32)
    smallest = model.graph.decisions.extreme("smallest")
    write_subnet(model, smallest, tmp_path / "subnet")
    manifest = json.loads((tmp_path / "subnet" / "manifest.json").read_text())
    assert manifest["kind"] == "subnet"
    assert manifest["space"] == "convolutions"
    assert manifest["graph"] == model.graph.hash
    assert manifest["assignment"] == dict(smallest)
    assert manifest["inputs"] == {"pixels": "[B, 3, 8, 8]"}
    assert [entry["dtype"] for entry in manifest["proof"]] == ["float64", "float32"]
    assert set(manifest["files"]) == {"model.py", "weights.safetensors"}
    write_subnet(model, smallest, tmp_path / "again")
    for name in ("model.py", "weights.safetensors", "manifest.json"):
        one, other = ((tmp_path / f / name).read_bytes() for f in ("subnet", "again"))
        assert one == other


@pytest.mark.parametrize("name", ["model.py", "weights.safetensors", "manifest.json"])
@pytest.mark.parametrize("change", ["damaged", "missing"])
def test_a_folder_that_was_changed_is_refused(name: str, change: str, tmp_path: Path) -> None:
    model = Supernet(graph(CONVOLUTIONS))
    folder = write_subnet(model, model.assignment, tmp_path / "subnet").folder
    if change == "missing":
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(b"print('run')" + (folder / name).read_bytes()[3:])
    with pytest.raises(SpaceError, match="SP702"):
        load_subnet(folder)


def test_a_network_that_differs_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Supernet(graph(VIT))

    def wrong(*arguments: object) -> str:
        return print_network(model, model.assignment).replace("* 0.125", "* 0.126")

    monkeypatch.setattr(subnet_module, "print_network", wrong)
    with pytest.raises(ProofError, match="float64"):
        write_subnet(model, model.assignment, tmp_path / "subnet")
    assert list(tmp_path.iterdir()) == []


def test_proofs_compare_gradients_too(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Supernet(graph(VIT))
    network = model.extract()
    assert all(p.outputs == p.gradients == 0 for p in prove(model, model.assignment, network))
    whole = proof._gradients
    monkeypatch.setattr(proof, "_gradients", lambda n: {k: g / 2 for k, g in whole(n).items()})
    with pytest.raises(ProofError, match=r"outputs by 0 .*gradients by 0\.5"):
        prove(model, model.assignment, network)


# Slices of what is tied; values of three readers, one of which stands before them in the text; what
# is read twice by one node.
ORDERED = """
space ordered {
  input x: [B, 50, 64]
  x = linear(x, 64) as wide |> tanh
  x = linear(x, 48) as narrow |> tanh
  early = sigmoid(x)
  later = relu(x) as later
  y = softmax(later * x) * later + early
  z = dropout(y, 0.5)
  output linear(z * z, 40, bias: false) as head
  weights { narrow: tie(wide, slices: leading)  head: tie(wide, slices: centre) }
}
"""


def test_gradients_are_added_up_in_one_order(tmp_path: Path) -> None:
    model = Supernet(graph(ORDERED))
    assert all(p.outputs == p.gradients == 0 for p in prove(model, {}, model.extract())[:1])
    made = write_subnet(model, {}, tmp_path / "subnet")
    assert made.proof[0].outputs == made.proof[0].gradients == 0
    assert print_network(model, {}).split("def forward")[1].count("dropout(") == 1


@pytest.mark.parametrize(("text", "ending"), [(VIT, "onnx"), (CONVOLUTIONS, "pt2")])
def test_exports_equal_eager(text: str, ending: str, tmp_path: Path) -> None:
    if ending == "onnx":
        pytest.importorskip("onnxscript")
    model = supernet(text, torch.float32).eval()
    network = model.extract(model.graph.decisions.extreme("smallest"))
    path = tmp_path / f"network.{ending}"
    found = export(network, example(model.graph), path)
    assert path.stat().st_size > 1000
    assert found.difference is None or found.difference <= 1e-5
    if ending == "pt2":
        image = inputs(model.graph, 5, torch.float32)[0]
        read = torch.export.load(path).module()
        assert relative(read(image), network(image)) <= 1e-6


def test_exports_that_cannot_be(tmp_path: Path) -> None:
    model = Supernet(graph(VIT))
    with pytest.raises(SpaceError, match="SP604"):
        export(model.extract(), example(model.graph), tmp_path / "network.tflite")

    class Branch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(SpaceError, match="SP605"):
        export(Branch(), (torch.ones(2, 3),), tmp_path / "network.pt2")
    assert list(tmp_path.iterdir()) == []


def test_a_source_is_read_as_it_stands(tmp_path: Path) -> None:
    """Not from a compiled copy of another text of its size and time."""
    path = tmp_path / "network.py"
    path.write_text("value = 1\n")
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    py_compile.compile(str(path), doraise=True)
    path.write_text("value = 2\n")
    os.utime(path, ns=times)
    assert module_of(path).value == 2


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        ([1.0], [float("nan")]),
        ([float("nan")], [1.0]),
        ([1.0], [float("inf")]),
        ([float("inf")], [float("inf")]),
        ([1.0], [0.0]),
        ([1.0], [1.0, 1.0]),
    ],
)
def test_what_is_no_number_and_what_is_nothing_are_never_near(
    found: list[float], wanted: list[float]
) -> None:
    one, other = torch.tensor(found), torch.tensor(wanted)
    assert relative(one, other) == float("inf")
    bad, good = {"a": one, "b": torch.ones(1)}, {"a": other, "b": torch.ones(1)}
    assert proof.worst(good, bad) == float("inf")
    assert relative(torch.zeros(2), torch.zeros(2)) == relative(torch.ones(0), torch.ones(0)) == 0


def test_weights_that_are_no_numbers_are_not_proved(tmp_path: Path) -> None:
    model = Supernet(graph(VIT))
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(ProofError):
        write_subnet(model, model.assignment, tmp_path / "subnet")
    with pytest.raises(ProofError):
        export(model.extract(), example(model.graph), tmp_path / "network.pt2")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_are_compared_in_every_mode(mode, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Supernet(graph(VIT))
    network = model.extract()
    seen: list[int] = []
    whole = proof._gradients
    monkeypatch.setattr(proof, "_gradients", lambda n: seen.append(len(whole(n))) or whole(n))
    with mode():
        assert all(p.outputs == p.gradients == 0 for p in prove(model, model.assignment, network))
    assert seen == [len(list(network.parameters()))] * 2


def test_a_proof_without_gradients_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Supernet(graph(VIT))
    monkeypatch.setattr(proof, "_gradients", lambda _: {})
    monkeypatch.setattr(proof, "_slices", lambda *_: {})
    with pytest.raises(ProofError, match="no gradient"):
        prove(model, model.assignment, model.extract())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_model_of_other_numbers_is_rounded_and_proved(dtype: torch.dtype, tmp_path: Path) -> None:
    model = supernet(VIT, torch.float64).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.div_(3)
    made = write_subnet(model, model.assignment, tmp_path / "subnet")
    assert made.proof[0].outputs == made.proof[0].gradients == 0
    assert next(model.parameters()).dtype == dtype
    network = load_subnet(made.folder)
    wanted = model.extract().float().state_dict()
    assert all(torch.equal(t, wanted[n]) for n, t in network.state_dict().items())


def test_a_norm_of_more_axes_than_modules_have(tmp_path: Path) -> None:
    text = "space deep { input x: [B, 4, 2, 2, 2, 2] output batch_norm(x) as norm }"
    assert write_subnet(Supernet(graph(text)), {}, tmp_path / "subnet").proof[0].outputs == 0


def test_what_an_exporter_raises_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript")
    model = Supernet(graph(VIT))

    def failing(*_: object, **__: object) -> None:
        raise KeyError("aten.none")

    monkeypatch.setattr(torch.onnx, "export", failing)
    with pytest.raises(SpaceError, match=r"SP605.*torch\.onnx cannot(.|\n)*KeyError.*aten\.none"):
        export(model.extract(), example(model.graph), tmp_path / "network.onnx")
    monkeypatch.setattr(torch.export, "save", failing)
    with pytest.raises(SpaceError, match=r"SP605.*torch\.export cannot write"):
        export(model.extract(), example(model.graph), tmp_path / "network.pt2")
    assert list(tmp_path.iterdir()) == []
