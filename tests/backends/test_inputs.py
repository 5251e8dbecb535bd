"""Inputs of whole numbers: drawn from their range, from a compiled space to an exported network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from small_spaces import VIT, architectures, graph, supernet
from torch import nn

from spacelang.backends.torch.inputs import Input, example, parsed
from spacelang.backends.torch.reference.interpret import interpret
from spacelang.backends.torch.subnets.export import export
from spacelang.backends.torch.subnets.proof import prove, relative
from spacelang.backends.torch.subnets.subnet import write_subnet
from spacelang.backends.torch.subnets.subnet_folder import open_subnet
from spacelang.backends.torch.supernet import Supernet
from spacelang.diagnostics import SpaceError

# Entries from 3 on: a draw that forgot the range would miss the table's ends.
TOKENS = """
space tokens(vocabulary = 9) {
  input ids: [B, 6] in 3..<vocabulary
  choose width in {8, 12}
  choose depth in 1..2
  x = take(parameter([vocabulary, width]) as embedding, ids)
  for i in 0..<depth { x = x + (layer_norm(x) as norms[i] |> linear(width) as layers[i]) }
  output mean(x, axes: [1]) |> linear(5) as head
  weights { _: entangle }
}
"""


def test_examples_are_whole_numbers_of_the_range() -> None:
    (ids,) = example(graph(TOKENS), batch=200)
    assert ids.dtype == torch.int64
    assert ids.shape == (200, 6)
    assert set(ids.flatten().tolist()) == set(range(3, 9))
    assert torch.equal(ids, example(graph(TOKENS), batch=200)[0])
    assert not torch.equal(ids, example(graph(TOKENS), batch=200, seed=1)[0])
    (pixels,) = example(graph(VIT))
    assert pixels.is_floating_point()


def test_a_token_space_from_compile_to_export(tmp_path: Path) -> None:
    model = Supernet(graph(TOKENS), seed=0)
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    ids, labels = example(model.graph, batch=32)[0], torch.arange(32) % 5
    losses: list[float] = []
    for step in range(12):
        model.activate(architectures(model.graph, 1, seed=step)[step % 3])
        loss = nn.functional.cross_entropy(model(ids), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    largest = model.graph.decisions.extreme("largest")
    weights = {path: model.stored_tensor(path) for path in model.graph.storages}
    wanted = interpret(model.graph, weights, [ids], largest)["output"]
    assert relative(model.activate(largest)(ids), wanted) <= 1e-6

    smallest = model.graph.decisions.extreme("smallest")
    written = write_subnet(model, smallest, tmp_path / "subnet")
    assert [part.dtype for part in written.proof] == ["float64", "float32"]
    manifest = json.loads((tmp_path / "subnet" / "manifest.json").read_text())
    assert manifest["inputs"] == {"ids": "i64[B, 6] in 3..8"}
    network, inputs = open_subnet(tmp_path / "subnet")
    assert int(inputs[0].min()) >= 3
    assert torch.equal(network(ids), model.activate(smallest)(ids))
    export(network, inputs, tmp_path / "tokens.pt2")
    read = torch.export.load(tmp_path / "tokens.pt2").module()
    assert relative(read(ids), network(ids)) <= 1e-6


def test_a_token_space_goes_to_onnx(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    network = supernet(TOKENS, torch.float32).eval().extract()
    found = export(network, example(graph(TOKENS)), tmp_path / "tokens.onnx")
    assert found.difference is None or found.difference <= 1e-5


def test_proofs_see_another_table() -> None:
    model = supernet(TOKENS, torch.float32)
    network = model.extract()
    assert all(p.outputs == p.gradients == 0 for p in prove(model, model.assignment, network))
    with torch.no_grad():
        network.embedding += 1
    with pytest.raises(SpaceError, match="differs"):
        prove(model, model.assignment, network)


def test_inputs_of_another_kind_are_refused() -> None:
    model = Supernet(graph(TOKENS))
    with pytest.raises(SpaceError, match=r"SP303.*float32, not i64\[B, 6\] in 3\.\.8"):
        model(torch.zeros(2, 6))
    with pytest.raises(SpaceError, match=r"SP303.*int64, not \[B, 3, 32, 32\]"):
        Supernet(graph(VIT))(torch.zeros(2, 3, 32, 32, dtype=torch.int64))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[B, 3, 8]", Input(("B", 3, 8))),
        ("i64[B, 12] in 0..49", Input(("B", 12), (0, 49))),
        ("i64[4] in -3..-1", Input((4,), (-3, -1))),
        ("i64[B, 12]", None),
        ("[B] in 0..3", None),
        ("i64[B] in 5..3", None),
        ("[B, 99999999]", None),
        ("bool[B]", None),
        ("B, 3", None),
    ],
)
def test_inputs_as_text(text: str, found: Input | None) -> None:
    assert parsed(text) == found
    if found is not None:
        assert str(found) == text


@pytest.mark.parametrize(
    ("shapes", "says"),
    [
        (((4, 3), (1, 3)), r"SP303.*b is \[1, 3\], not \[2\*B, 3\] where B is a whole number"),
        (((4, 3), (4, 3)), r"SP303.*b is \[4, 3\], not \[2\*B, 3\] where B is 4"),
    ],
)
def test_one_size_is_one_number(shapes: tuple[tuple[int, ...], ...], says: str) -> None:
    text = "space two { input a: [B, 3] input b: [2*B, 3] output concat([a, b], axis: 0) }"
    model = Supernet(graph(text))
    assert model(torch.zeros(4, 3), torch.zeros(8, 3)).shape == (12, 3)
    with pytest.raises(SpaceError, match=says):
        model(*map(torch.zeros, shapes))
