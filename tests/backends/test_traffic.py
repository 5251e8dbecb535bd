"""The model of memory traffic against the sizes of tensors that a network reads and writes."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from composition import HOSTS
from rewriting import text_graph
from small_spaces import VIT
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

from spacelang import load
from spacelang.analysis.traffic import Traffic, traffic
from spacelang.backends.torch import supernet
from spacelang.backends.torch.subnets.proof import example
from spacelang.ir.graph import Graph
from spacelang.passes.fuse import for_kernels
from spacelang.passes.fused_cost import compare
from spacelang.passes.specialize import specialize

TEXTS = {
    "deit": HOSTS["deit"],
    "swin": HOSTS["swin"],
    "mini_deit": "use minivit\nspace t = mini_deit(24, heads: 3, every: 2, image: 32)",
    "efficientvit": "use efficientvit\nspace t = efficientvit([16, 32, 48], heads: [2, 2, 3], kernels: [3, 5, 3], window: 4, image: 64, classes: 5)",
    "tinyvit": "use tinyvit\nspace t = tinyvit([16, 32, 32, 64], windows: [4, 2, 2], image: 64, classes: 5)",
    "autoformer": VIT,
    "mobilenetv3": "use mobilenetv3\nspace t = mobilenetv3([[8, 16], [16, 24]], [8, 8, 16], kernels: [3, 5, 3], strides: [1, 2, 2], gated: {0, 2}, hard: 2, features: 16, image: 32, classes: 5)",
}
# Channels that a convolution leaves outermost make some joined axes lie side by side.
TOLERANCE = {"tinyvit": 0.02}


class Counted(fx.Interpreter):
    """Runs a function; of every call that makes a tensor the bytes of what it reads and makes."""

    def __init__(self, module: fx.GraphModule, tally: list[int]) -> None:
        super().__init__(module)
        self.tally = tally

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        inner = self.fetch_attr(target)
        assert isinstance(inner, fx.GraphModule)
        return Counted(inner, self.tally).run(*args)

    def run_node(self, n: fx.Node) -> Any:
        made = super().run_node(n)
        if n.op in ("call_function", "call_method"):
            read = [
                t for t in tree_leaves(self.fetch_args_kwargs_from_env(n)) if isinstance(t, Tensor)
            ]
            held = {t.untyped_storage().data_ptr() for t in read}
            fresh = [
                t
                for t in tree_leaves(made)
                if isinstance(t, Tensor) and t.untyped_storage().data_ptr() not in held
            ]
            if fresh:
                self.tally[0] += sum(map(nbytes, (*read, *fresh)))
                self.tally[1] += 1
        return made


def nbytes(x: Tensor) -> int:
    """An index that is spread over a batch is read once."""
    spread = not x.is_floating_point()
    count = 1
    for size, stride in zip(x.shape, x.stride(), strict=True):
        count *= 1 if spread and stride == 0 else size
    return count * x.element_size()


def counted(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Bytes and launches of a network as it runs, in evaluation."""
    tally = [0, 0]

    def apply(
        scope: Any, function: Any, tensors: Any, weights: Any, others: Any, by_mode: bool
    ) -> Any:
        stored = [getattr(module, name) for module, name in weights]
        mode = (scope.training,) if by_mode else ()
        return Counted(function, tally).run(*tensors, *stored, *others, *mode)

    monkeypatch.setattr(supernet, "apply", apply)
    monkeypatch.setattr(supernet.Supernet, "_scope", lambda self, path: self)
    with torch.no_grad():
        supernet.Supernet(graph).eval()(*example(graph, seed=0))
    return tally[0], tally[1]


@pytest.mark.parametrize("name", TEXTS)
def test_unfused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = text_graph(TEXTS[name])
    if graph.decisions:
        graph = specialize(graph, graph.decisions.extreme("largest"))
    found = traffic(graph, batch=example(graph)[0].shape[0])
    bytes, launches = counted(graph, monkeypatch)
    if name not in TOLERANCE:
        assert (found.bytes, found.launches) == (bytes, launches)
    assert abs(found.bytes - bytes) <= TOLERANCE.get(name, 0) * bytes


@functools.cache
def fused(address: str) -> tuple[Graph, Graph]:
    graph = load(address)
    return graph, for_kernels(graph).graph


def moved(address: str, kernel: str, batch: int, width: int = 2) -> tuple[Traffic, Traffic, int]:
    """What all groups of a kernel moved before and move now, and at how many places."""
    rows = [r for r in compare(*fused(address), None, batch, width) if r.kernel == kernel]
    before = sum((row.before for row in rows), Traffic())
    after = sum((row.after for row in rows), Traffic())
    return before, after, sum(row.places for row in rows)


@dataclass(frozen=True)
class Form:
    """Relative positions at 197 tokens, heads 64 wide; an index table for each of `entries`."""

    space: str
    layers: int
    channels: int
    entries: tuple[int, ...]

    def floor(self, batch: int) -> int:
        """Bytes of queries, keys, values, the result, tables and indexes in float16, each once."""
        real = 4 * batch * 197 * self.channels + sum(count * 64 for count in self.entries)
        indexes = sum(197**2 * (1 if count <= 128 else 2) for count in self.entries)
        return self.layers * (2 * real + indexes)


FORMS = {
    "AutoFormer-T": Form("autoformer.space:autoformer_t", 14, 256, (30,) * 4),
    "DeiT-S, iRPE on keys": Form("irpe.space:deit_s_product_k", 12, 384, (50,)),
    "DeiT-S, iRPE on queries, keys and values": Form(
        "irpe.space:deit_s_product_qkv", 12, 384, (50,) * 3
    ),
    "DeiT-S, iRPE's product on queries and keys": Form(
        "irpe.space:deit_s_product_qk", 12, 384, (50,) * 2
    ),
    "DeiT-S, iRPE's Euclidean on keys": Form("irpe.space:deit_s_euc_k", 12, 384, (82,)),
    "DeiT-S, iRPE's quantised on keys": Form("irpe.space:deit_s_quant_k", 12, 384, (134,)),
    "DeiT-S, iRPE's cross on keys": Form("irpe.space:deit_s_cross_k", 12, 384, (82,) * 2),
}
BATCHES = (1, 8, 128)


@pytest.mark.parametrize("name", FORMS)
def test_relative_positions_move_a_part_of_the_published_form(name: str, root: Path) -> None:
    """AutoFormer's gathers N x N x D on keys and values, iRPE's on values alone."""
    form, document = FORMS[name], (root / "docs" / "kernels.md").read_text("utf-8")
    cells: list[str] = []
    for batch in BATCHES:
        before, after, places = moved(form.space, "attention", batch)
        assert places == form.layers
        floor = form.floor(batch)
        assert floor < after.bytes
        cells.append(f"1/{before.bytes / after.bytes:.1f} (1/{before.bytes / floor:.1f})")
        assert 8 * after.bytes <= before.bytes
        row = (
            f"{before.bytes / 1e6:.3f} MB, {before.launches} launches | {after.bytes / 1e6:.3f} MB"
        )
        if batch == 1 and "'s " not in name:
            assert (
                f"attention of {name} | 1 | {row} ({cells[0].split()[0]}), {after.launches}"
                in document
            )
    assert f"| {name} | {' | '.join(cells)} |" in document


BESIDE = {"DeiT-S, iRPE's quantised on keys": 3.5, "DeiT-S, iRPE's cross on keys": 4.5}
"""Whose tables, in float32, are more than a block's memory holds: lookups are written and read."""


@pytest.mark.parametrize("name", FORMS)
def test_relative_positions_in_float32(name: str, root: Path) -> None:
    document = (root / "docs" / "kernels.md").read_text("utf-8")
    cells: list[str] = []
    for batch in BATCHES:
        before, after, _ = moved(FORMS[name].space, "attention", batch, width=4)
        cells.append(f"1/{before.bytes / after.bytes:.1f}")
        assert BESIDE.get(name, 8) * after.bytes <= before.bytes
        assert (8 * after.bytes <= before.bytes) == (name not in BESIDE)
    assert f"| {name}, float32 | {' | '.join(cells)} |" in document


@pytest.mark.parametrize(("name", "share"), [("Mini-DeiT-Ti", 8), ("Mini-Swin-T", 6)])
def test_mixed_heads_move_a_part_of_the_published_form(name: str, share: int, root: Path) -> None:
    """Maps of all heads, written and read by each mix, against none; float16.

    At 49 tokens most of what moves is queries, keys, values and the result, which have to.
    """
    address = f"minivit.space:{name.lower().replace('-', '_')}"
    before, after, places = moved(address, "mixed_attention", 1)
    assert places == 12
    less = f"{after.bytes / 1e6:.3f} MB (1/{before.bytes / after.bytes:.1f}), {after.launches}"
    row = f"| {name} | 1 | {before.bytes / 1e6:.3f} MB, {before.launches} launches | {less} launches |"
    assert row.removeprefix("| ") in (root / "docs" / "kernels.md").read_text("utf-8")
    assert share * after.bytes <= before.bytes


@pytest.mark.parametrize("name", ["MobileNetV3-Large", "MobileNetV3-Small"])
def test_gated_planes_are_written_once(name: str, root: Path) -> None:
    """A depthwise convolution with its norm, activation and, in most blocks, squeeze-excite."""
    address = f"mobilenetv3.space:{name.lower().replace('-', '_')}"
    before, after, _ = moved(address, "depthwise", 8)
    less = f"{after.bytes / 1e6:.3f} MB (1/{before.bytes / after.bytes:.1f}), {after.launches}"
    row = f"depthwise groups of {name} | 8 | {before.bytes / 1e6:.3f} MB, {before.launches} launches | {less} launches |"
    assert row in (root / "docs" / "kernels.md").read_text("utf-8")
    assert 2 * after.bytes <= before.bytes


def test_a_cascade_is_one_launch() -> None:
    before, after, places = moved("efficientvit.space:efficientvit_m0", "cascade", 1)
    assert after.launches == places == 6
    assert before.launches >= 30 * places
    assert after.bytes < before.bytes
