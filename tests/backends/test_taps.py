"""Labelled values are read by their path from every form of a network."""

from __future__ import annotations

import copy
from collections.abc import MutableMapping
from pathlib import Path

import pytest
import torch
from small_spaces import CONVOLUTIONS, SHARED, VIT, architectures, close, graph, inputs, supernet
from small_spaces import tensors as stored
from torch import Tensor

from spacelang.backends.torch.distillation.taps import taps
from spacelang.backends.torch.reference.interpret import interpret
from spacelang.backends.torch.subnets.subnet import load_subnet, write_subnet
from spacelang.backends.torch.supernet import Supernet
from spacelang.diagnostics import SpaceError

# A label on a sum, on an activation, in a region, on a call, on a split projection, and twice used.
LABELS = """
block mix(x: [B, N, C], heads) -> [B, N, C] {
  q, k, v = unstack(linear(x, [3, heads, 4]) as qkv, axis: -3)
  a = softmax(einsum("bihd,bjhd->bhij", q, k)) as attended
  return rearrange(einsum("bhij,bjhd->bihd", a, v), "b n h d -> b n (h d)") as mixed
         |> linear(C) as proj
}
space labels {
  input x: [B, 5, 6]
  choose heads in {1, 2}
  choose deep in {false, true}
  y = (x + mix(x, heads) as first) as mid
  when deep { y = tanh(y + (mix(y, heads) as second)) as late }
  output mean(relu(y) as act, axes: [1]) |> linear(3) as head
  weights { _: entangle }
}
"""
PATHS = ["first", "mid", "late", "act", "head", "first.attended", "first.mixed", "first.proj",
         "second.attended", "second"]  # fmt: skip


def interpreted(model: Supernet, images: list[Tensor], chosen: object) -> dict[str, Tensor]:
    found: MutableMapping[str, Tensor] = {}
    weights = {name: tensor.detach() for name, tensor in stored(model).items()}
    interpret(model.graph, weights, images, chosen, taps=found)
    return dict(found)


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("heads", [1, 2])
def test_every_form_gives_the_same_values(deep: bool, heads: int, tmp_path: Path) -> None:
    model = supernet(LABELS, torch.float32).eval()
    chosen = {"heads": heads, "deep": deep}
    images = inputs(model.graph, dtype=torch.float32)
    wanted = interpreted(model, images, chosen)
    there = [path for path in PATHS if path in wanted]
    assert ("second" in there) == deep
    found = taps(model.activate(chosen), PATHS, *images)
    assert sorted(found) == sorted(there)
    extracted = model.extract()
    network = load_subnet(write_subnet(model, chosen, tmp_path / "subnet").folder)
    others = {
        "extracted": taps(copy.deepcopy(extracted), there, *images),
        "printed": taps(network, there, *images),
    }
    for path in there:
        assert close(found[path], wanted[path], 1e-6), path
        for form, values in others.items():
            assert torch.equal(values[path], found[path]), (form, path)


def test_a_projection_that_is_taken_apart_is_read_whole() -> None:
    model = supernet(LABELS).eval()
    images = inputs(model.graph)
    chosen = {"heads": 1, "deep": False}
    wanted = interpreted(model, images, chosen)["first.qkv"]
    assert wanted.shape == (2, 5, 3, 1, 4)
    for network in (model.activate(chosen), model.extract(chosen)):
        assert close(taps(network, ["first.qkv"], *images)["first.qkv"], wanted)


@pytest.mark.parametrize("text", [VIT, CONVOLUTIONS, SHARED], ids=["vit", "convolutions", "shared"])
def test_all_labels_of_supernets_and_extracted_networks(text: str) -> None:
    model = supernet(text).eval()
    images = inputs(model.graph)
    places = (p for p in model.graph.places() if p.node.label and p.node.types)
    paths = list(dict.fromkeys(place.path for place in places))
    for chosen in architectures(model.graph, 2, seed=1):
        wanted = interpreted(model, images, chosen)
        found = taps(model.activate(chosen), paths, *images)
        assert set(found) <= set(wanted)
        assert found
        for path, value in found.items():
            assert close(value, wanted[path]), path
        network = model.extract()
        inside = [path for path in network.meta["taps"] if path in found]
        assert inside
        for path, value in taps(network, inside, *images).items():
            assert torch.equal(value, found[path]), path


def test_taps_change_nothing() -> None:
    model = supernet(LABELS).eval()
    images = inputs(model.graph)
    before = model(*images)
    taps(model, PATHS[:3], *images)
    assert torch.equal(model(*images), before)
    assert list(model.state_dict()) == list(supernet(LABELS).state_dict())


def test_gradients_flow_from_taps() -> None:
    model = supernet(LABELS)
    images = inputs(model.graph)
    taps(model, ["mid"], *images)["mid"].sum().backward()
    assert stored(model)["first.proj.weight"].grad is not None
    assert stored(model)["head.weight"].grad is None


def test_unknown_paths_are_refused(tmp_path: Path) -> None:
    model = supernet(LABELS, torch.float32).eval()
    images = inputs(graph(LABELS), dtype=torch.float32)
    written = load_subnet(write_subnet(model, model.assignment, tmp_path / "subnet").folder)
    for network in (model, model.extract(), written):
        with pytest.raises(SpaceError, match=r"SP504.*nowhere\[2\]"):
            taps(network, ["nowhere[2]"], *images)
