"""Passes that insert blocks, tie layers and name places: insert, multiplex, pipelines as text."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spacelang.analysis.cost import Term
from spacelang.analysis.queries import counter, model
from spacelang.diagnostics import Report, Source, SpaceError
from spacelang.ir.block import Block
from spacelang.ir.dim import Dim, Symbol
from spacelang.ir.graph import Graph
from spacelang.ir.node import Call, TensorType
from spacelang.ir.pattern import parse_pattern
from spacelang.ir.text import write
from spacelang.ir.verify import verify
from spacelang.loader import load
from spacelang.passes.base import Insertion
from spacelang.passes.insert import Insert
from spacelang.passes.irpe import Irpe
from spacelang.passes.multiplex import Multiplex
from spacelang.passes.pipeline import run
from spacelang.passes.places import find
from spacelang.passes.specialize import specialize
from spacelang.passes.text import parse_pipeline

MIX = """
block mix(a: [B, H, N, M]) -> [B, H, N, M] {
  return rearrange(a, "b h i j -> b i j h") |> linear(H, bias: false) as _
      |> rearrange("b i j h -> b h i j")
}
"""


def paths(*texts: str) -> tuple[object, ...]:
    return tuple(parse_pattern(t) for t in texts)


def multiplex(path: str, every: object = 2, own: tuple[str, ...] = ()) -> Multiplex:
    return Multiplex(parse_pattern(path), every, paths(*own))  # pyright: ignore[reportArgumentType]


def text_graph(text: str) -> Graph:
    return load(Source("test.space", text))


def sound(graph: Graph) -> Graph:
    """The graph, once the verifier has found nothing."""
    report = Report()
    verify(graph, report)
    assert [d.headline for d in report] == []
    return graph


def weights(graph: Graph) -> int:
    return sum(s.numel for s in graph.storages.values() if s.param.role == "weight")


# The published networks.


@pytest.mark.parametrize(
    ("name", "params", "macs"),
    [
        ("mini_deit_ti", 3090304, 1276989312),
        ("mini_deit_s", 11450824, 4651473408),
        ("mini_deit_b", 44098408, 17692925952),
        ("mini_deit_b_384", 44390248, 56784893952),
        ("mini_swin_t", 12001765, 4593828864),
        ("mini_swin_s", 26463205, None),
        ("mini_swin_b", 46444852, 15701395456),
        ("mini_swin_b_384", 46512532, 48550322176),
    ],
)
def test_figures_of_minivit(name: str, params: int, macs: int | None) -> None:
    graph = sound(load(f"spaces/minivit.space:{name}"))
    cost = graph.cost()
    assert (cost.params, weights(graph)) == (params, params)
    assert macs is None or cost.macs == macs


@pytest.mark.parametrize(
    ("every", "full", "norms"),
    [
        (2, 44098408, 44057320),
        (3, 29928808, 29887720),
        (4, 22844008, 22802920),
        (6, 15759208, 15718120),
        (12, 8674408, 8633320),
    ],
)
def test_sharing_sweep_of_mini_deit(every: int, full: int, norms: int) -> None:
    assert load("spaces/minivit.space:mini_deit_b", every=every).cost().params == full
    text = f"""use deit
space plain from deit(768, 12, token: false) {{
  rewrite {{ multiplex(blocks, every: {every}, own: [norm1, norm2]) }}
}}"""
    assert text_graph(text).cost().params == norms


@pytest.mark.parametrize(
    ("width", "depths", "heads", "every", "figures"),
    [
        (96, [2, 2, 6, 2], [3, 6, 12, 24], [2, 2, 6, 2], (12001765, 11767645, 11755741)),
        (96, [2, 2, 6, 2], [3, 6, 12, 24], [2, 2, 2, 2], (15551677, 15317557, 15308725)),
        (96, [2, 2, 6, 2], [3, 6, 12, 24], [1, 1, 1, 1], (28522474, 28288354, 28288354)),
        (128, [2, 2, 18, 2], [4, 8, 16, 32], [2, 2, 6, 2], (27526612, 26886564, 26850212)),
        (128, [2, 2, 18, 2], [4, 8, 16, 32], [2, 2, 18, 2], (21220532, 20580484, 20540036)),
    ],
)
def test_ablations_of_mini_swin(
    width: int, depths: list[int], heads: list[int], every: list[int], figures: tuple[int, ...]
) -> None:
    """With all transforms, with own norms only, with nothing of its own."""
    text = f"use minivit\nspace full = mini_swin({width}, {depths}, heads: {heads}, every: {every})"
    found = [text_graph(text).cost().params]
    for own in ("[norm1, norm2]", "[]"):
        step = f"multiplex(layers[_].blocks, every: {every}, own: {own})"
        base = f'swin({width}, {depths}, heads: {heads}, seam: "always")'
        text = f"use swin\nspace part from {base} {{ rewrite {{ {step} }} }}"
        found.append(text_graph(text).cost().params)
    assert tuple(found) == figures


def test_parts_of_mini_deit() -> None:
    graph = load("spaces/minivit.space:mini_deit_ti")
    parts = dict.fromkeys(("pos_embed", "rpe_k", "conv_", "qkv", "proj", "mlp", ".norm"), 0)
    for path, stored in graph.storages.items():
        for part in parts:
            parts[part] += stored.numel if part in path else 0
    patch = 147648
    assert parts == {
        "pos_embed": 37632,
        "rpe_k": 37632,
        "conv_": 216,
        "qkv": 667008,
        "proj": 222336 + patch,
        "mlp": 1775232,
        ".norm": 9216,
    }


def test_names_published_for_mini_deit() -> None:
    graph = load("spaces/minivit.space:mini_deit_ti")
    found = {graph.dialects["published"].foreign(p)[0]: s for p, s in graph.storages.items()}
    wanted = {"pos_embed"} | {
        f"{n}.{k}" for n in ("patch_embed.proj", "norm", "head") for k in ("weight", "bias")
    }
    for g in range(6):
        start = f"blocks.{g}.block"
        for linear in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
            wanted |= {f"{start}.{linear}.{k}" for k in ("weight", "bias")}
        for r in range(2):
            wanted |= {
                f"{start}.norm{n}.instances.{r}.{k}" for n in (1, 2) for k in ("weight", "bias")
            }
            wanted.add(f"{start}.attn.rpe_k.instances.{r}.lookup_table_weight")
            wanted |= {f"{start}.attn.conv_{c}.instances.{r}.weight" for c in "lw"}
    assert set(found) == wanted
    assert found["blocks.3.block.attn.rpe_k.instances.1.lookup_table_weight"].sizes == (1, 64, 49)


def test_names_published_for_mini_swin() -> None:
    graph = load("spaces/minivit.space:mini_swin_t")
    found = {graph.dialects["published"].foreign(p)[0] for p in graph.storages}
    own = ("norm1_list", "norm2_list", "proj_l", "proj_w", "local_norm_list", "local_conv_list")
    for s, depth in enumerate((2, 2, 6, 2)):
        start = f"layers.{s}.blocks.0"
        assert f"{start}.attn.relative_position_bias_table" in found
        assert {f"{start}.mlp.fc1.weight", f"{start}.attn.qkv.bias"} <= found
        for t in range(depth):
            assert {f"{start}.{o}.{t}.{k}" for o in own for k in ("weight", "bias")} <= found
        assert not any(f"layers.{s}.blocks.1." in name for name in found)


# Insert.


def test_inserted_parameters_stand_below_the_anchor() -> None:
    graph = load("spaces/minivit.space:mini_swin_t")
    for path in (
        "attn.proj_l.weight",
        "attn.proj_w.bias",
        "local_norm.weight",
        "local_conv.weight",
    ):
        assert f"layers[2].blocks[5].{path}" in graph.storages
    assert graph.storages["layers[2].blocks[5].attn.proj_l.weight"].sizes == (12, 12)


def test_insert_copies_a_block_for_some_of_its_uses() -> None:
    text = f"""use deit
space some from deit(192, 3, depth: 4) {{ {MIX}
  rewrite {{ insert(mix, before: blocks[1..2].attn.softmax, name: "m") }}
}}"""
    graph = sound(text_graph(text))
    base = load("spaces/deit.space:deit_ti", depth=4)
    new = [p for p in graph.storages if p not in base.storages]
    assert new == ["blocks[1].attn.m.weight", "blocks[2].attn.m.weight"]
    assert graph.blocks["attention"] == base.blocks["attention"]
    assert graph.blocks["encoder"] == base.blocks["encoder"]
    called = [n.call.block for n in graph.root.nodes if n.call and n.call.path.startswith("blocks")]
    assert called == ["encoder", "encoder.2", "encoder.2", "encoder"]
    assert graph.cost().macs - base.cost().macs == 2 * 197 * 197 * 9


def test_insert_is_absent_where_its_layer_is() -> None:
    text = f"""use autoformer
space mixed from autoformer_t {{ {MIX}
  rewrite {{ insert(mix, after: encoder[_].attn.softmax, name: "m") }}
}}"""
    graph, base = sound(text_graph(text)), load("spaces/autoformer.space:autoformer_t")
    assert graph.storages["encoder[13].attn.m.weight"].shape == ((4,), (4,))
    for seed in range(5):
        (chosen,) = graph.sample(1, seed=seed)
        heads = [chosen[f"encoder[{i}].heads"] for i in range(int(chosen["depth"]))]
        cost, before = graph.cost(chosen), base.cost(chosen)
        assert cost.params - before.params == sum(h * h for h in heads)
        assert cost.macs - before.macs == sum(h * h for h in heads) * 197 * 197
    assert graph.size() == base.size()


def test_insert_without_a_name_and_on_an_output() -> None:
    text = """
block extra(x: [B, C]) -> [B, C] { return linear(x, C) as one |> linear(C) as two }
space base(n = 3) { input x: [B, 8]  x = linear(x, 4) as first
  output linear(x, n) as head  output aux: linear(x, n) as side }
space grown from base {
  rewrite { insert(extra, after: head)  insert(extra, before: side, name: "s") }
}
"""
    graph = sound(text_graph(text))
    assert set(graph.storages) == {
        f"{p}.{k}"
        for p in ("first", "head", "side", "one", "two", "s.one", "s.two")
        for k in ("weight", "bias")
    }
    last = graph.root.by_id[graph.outputs[0].value.node]
    assert last.call is not None
    assert graph.outputs[0].value == graph.root.outputs[0]
    assert graph.cost().params == 8 * 4 + 4 + 4 * 3 + 3 + 2 * (9 + 3)


def test_insert_meets_an_anchor_inside_a_condition() -> None:
    text = """
block extra(x: [B, C]) -> [B, C] { return linear(x, C) as one }
space base { input x: [B, 8]  choose deep in {0, 1}
  when deep == 1 { x = (x + relu(linear(x, 8) as a)) as sum }
  output linear(x, 2) as head }
space grown from base { rewrite { insert(extra, after: sum, name: "e") } }
"""
    graph = sound(text_graph(text))
    assert graph.cost({"deep": 1}).params - graph.cost({"deep": 0}).params == 72 + 72


def test_inserted_block_takes_decisions_of_its_own() -> None:
    text = """
block wide(x: [B, C]) -> [B, C] {
  choose ratio in {1, 2}
  return linear(x, C * ratio) as up |> linear(C) as down
}
space base { input x: [B, 8]  for i in 0..2 { x = linear(x, 8) as layer[i] }  output x }
space grown from base {
  rewrite { insert(wide, after: layer[_], name: "w") }
  weights { _: entangle }
}
"""
    with pytest.raises(SpaceError, match=r"SP601.*makes w.*twice"):
        text_graph(text)
    one = text.replace("layer[_]", "layer[1]")
    graph = sound(text_graph(one))
    assert list(graph.decisions) == ["w.ratio"]
    assert graph.storages["w.up.weight"].sizes == (16, 8)
    assert graph.size() == 2


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ('insert(half, before: blocks[_].attn.softmax, name: "h")', "SP601.*gives 98 for 197"),
        ('insert(flat, after: blocks[_].attn.softmax, name: "h")', "SP601.*3 axes for 4"),
        ('insert(mix, after: blocks[_].attn.softmax, name: "qkv")', "SP601.*qkv.weight.*is there"),
        (
            'insert(mix, after: blocks[_].attn.relu, name: "h")',
            r"SP504.*nothing has the path blocks",
        ),
        ('insert(mix, name: "h")', "SP204.*one of before and after"),
        ("insert(mix, before: norm, after: norm)", "SP204.*one of before and after"),
        (
            "insert(mix, before: blocks[_].attn.softmax, operand: 1)",
            "SP601.*softmax has 1 operands",
        ),
        ("insert(mix, after: blocks[_].attn.unstack)", "SP601.*3 results"),
        ('insert(mix, after: norm, name: "h")', "SP301.*4 are declared"),
        ('insert(mix, after: [norm], name: "h")', "SP209.*after cannot be"),
        ("insert(3, after: norm)", "SP209.*a block is wanted"),
    ],
)
def test_what_cannot_be_inserted(step: str, message: str) -> None:
    text = f"""use deit
space wrong from deit(192, 3, depth: 2) {{ {MIX}
  block half(a: [B, H, N, M]) {{ return a[:, :, :, 0..<98] }}
  block flat(a: [B, H, N, M]) {{ return rearrange(a, "b h i j -> (b h) i j") }}
  rewrite {{ {step} }}
}}"""
    with pytest.raises(SpaceError) as failed:
        text_graph(text)
    assert re.search(message, str(failed.value), re.DOTALL), str(failed.value)


def test_a_misfit_shows_both_places() -> None:
    text = """use deit
space wrong from deit(192, 3, depth: 2) {
  block half(a: [B, H, N, M]) { return a[:, :, :, 0..<98] }
  rewrite { insert(half, before: blocks[_].attn.softmax, name: "h") }
}"""
    with pytest.raises(SpaceError) as failed:
        text_graph(text)
    (found,) = failed.value.diagnostics
    assert found.primary.span.text.startswith("insert(half")
    assert found.secondary[0].span.text.startswith("softmax")
    assert len(found.secondary) == 2


def test_identity_mix_changes_nothing() -> None:
    import torch

    from spacelang.backends.torch.interpret import interpret

    text = f"""use deit
space base {{ input x: [B, 10, 12]  output encoder(x, 3, 0) as only }}
space mixed from base {{ {MIX}
  rewrite {{ insert(mix, before: only.attn.softmax, name: "m") }}
}}"""
    mixed, base = text_graph(text), text_graph(text.split("space mixed")[0])
    generator = torch.Generator().manual_seed(0)
    values = {
        p: torch.randn(s.sizes, dtype=torch.float64, generator=generator)
        for p, s in base.storages.items()
    }
    x = torch.randn(2, 10, 12, dtype=torch.float64, generator=generator)
    grown = {**values, "only.attn.m.weight": torch.eye(3, dtype=torch.float64)}
    before, after = interpret(base, values, [x])["output"], interpret(mixed, grown, [x])["output"]
    assert torch.equal(before, after)


class Affine:
    """A block made in Python: `y = x * 2`, or with `wrong` one axis less."""

    name = "affine"

    def at(self, type: TensorType, path: str, taken: frozenset[str]) -> Insertion:
        from spacelang.ir.build import BlockBuilder

        build = BlockBuilder("affine")
        batch = build.size(Symbol("%B"))
        inner = TensorType((batch, *type.shape[1:]), type.dtype)
        y = build.one("mul", [build.input(inner, "x")], {"number": Dim.of(2)})
        name = next(f"affine{i}" for i in range(9) if f"affine{i}" not in taken)
        block: Block = build.finish([y], name)
        outer = type.shape[0]
        return Insertion(Call(name, path, path, path, sizes={"%B": outer}), type, {name: block})


def test_a_block_made_in_python_is_inserted() -> None:
    graph = load("spaces/deit.space:deit_ti", depth=3)
    made = run(graph, Insert(Affine(), after=parse_pattern("norm")))
    assert [n for n in made.blocks if n.startswith("affine")] == ["affine0"]
    assert sound(made).cost() == graph.cost()


# Multiplex.


def test_list_of_runs_and_remainders() -> None:
    text = "use deit\nspace eleven = deit(192, 3, depth: 11, token: false)"
    graph = text_graph(text)
    block = 12 * 192 * 192 + 13 * 192
    for every, kept in (
        (2, 6),
        ((2, 2, 2, 2, 2, 1), 6),
        ((11,), 1),
        (((5, 6),), 2),
        (1, 11),
        (99, 1),
    ):
        made = sound(run(graph, multiplex("blocks", every)))
        assert graph.cost().params - made.cost().params == (11 - kept) * block, every
        assert made.cost().macs == graph.cost().macs
    for wrong in ((2, 2), ((5, 5),), ((),)):
        with pytest.raises(SpaceError, match="SP505"):
            run(graph, multiplex("blocks", wrong))


def test_followers_read_the_leader_but_for_what_they_own() -> None:
    graph = run(load("spaces/deit.space:deit_ti"), multiplex("blocks", 3, ("norm1", "attn.qkv")))
    stored = set(graph.storages)
    assert {p for p in stored if p.startswith("blocks[4]")} == {
        f"blocks[4].{p}.{k}" for p in ("norm1", "attn.qkv") for k in ("weight", "bias")
    }
    assert "blocks[3].norm2.weight" in stored
    calls = [n.call for n in graph.root.nodes if n.call and n.call.path.startswith("blocks")]
    assert [c.store for c in calls[3:6]] == ["blocks[3]"] * 3
    assert [c.own for c in calls[3:5]] == [(), ("norm1", "attn.qkv")]


def test_own_paths_may_be_patterns() -> None:
    text = "use deit\nspace four = deit(192, 3, depth: 4)"
    graph = run(text_graph(text), multiplex("blocks", 2, ("_.weight", "attn._")))
    kept = {p.removeprefix("blocks[1].") for p in graph.storages if p.startswith("blocks[1]")}
    shared = {"norm1.bias", "norm2.bias", "mlp.fc1.bias", "mlp.fc2.bias"}
    whole = {p.removeprefix("blocks[0].") for p in graph.storages if p.startswith("blocks[0]")}
    assert whole - kept == shared


def test_instances_of_a_nested_block_are_tied_in_each_use() -> None:
    text = """
block layer(x: [B, C]) -> [B, C] { return linear(x, C) as fc }
block stage(x: [B, C]) -> [B, C] { for i in 0..3 { x = layer(x) as layers[i] }  return x }
space s { input x: [B, 8]  for s in 0..1 { x = stage(x) as stages[s] }  output x }
"""
    graph = text_graph(text)
    every = run(graph, multiplex("stages[_].layers", 2))
    assert set(every.blocks) == set(graph.blocks)
    assert [p for p in every.storages if p.endswith("weight")] == [
        f"stages[{s}].layers[{i}].fc.weight" for s in (0, 1) for i in (0, 2)
    ]
    one = sound(run(graph, multiplex("stages[1].layers", 4)))
    assert [p for p in one.storages if p.endswith("weight")] == [
        *(f"stages[0].layers[{i}].fc.weight" for i in range(4)),
        "stages[1].layers[0].fc.weight",
    ]
    assert "stage.2" in one.blocks
    both = run(every, multiplex("stages", 2))
    assert [p for p in both.storages if p.endswith("weight")] == [
        f"stages[0].layers[{i}].fc.weight" for i in (0, 2)
    ]


def test_stored_shapes_must_agree() -> None:
    text = """
block layer(x: [B, C], n) -> [B, C] { return linear(x, n) as up |> linear(C) as down }
space s { input x: [B, 8]
  x = layer(x, 8) as layers[0]
  x = layer(x, 16) as layers[1]
  output x }
"""
    graph = text_graph(text)
    with pytest.raises(
        SpaceError, match=r"SP402.*layers\[0\] and layers\[1\] cannot share up"
    ) as failed:
        run(graph, multiplex("layers"))
    assert len(failed.value.diagnostics[0].secondary) == 2
    assert run(graph, multiplex("layers", 2, ("up", "down.weight"))).cost().params == 424 - 8


def test_layers_with_other_decisions_are_tied_by_what_they_store() -> None:
    text = """
block layer(x: [B, 8], most) -> [B, 8] {
  choose n in 1..most
  return linear(x, n) as up |> linear(8) as down
}
space s { input x: [B, 8]
  for i in 0..2 { x = layer(x, 4) as layers[i] }
  x = layer(x, 5) as layers[3]
  output x
  weights { _: entangle } }
"""
    graph = text_graph(text)
    with pytest.raises(SpaceError, match=r"SP402.*layers\[2\] and layers\[3\]"):
        run(graph, multiplex("layers"))
    made = sound(run(graph, multiplex("layers[0..2]", 3)))
    assert made.size() == graph.size() == 320
    for a in (1, 3, 4):
        for b in (1, 2, 4):
            chosen = {"layers[0].n": a, "layers[1].n": b, "layers[2].n": 2, "layers[3].n": 5}
            most = max(a, b, 2)
            assert made.cost(chosen).params == most * 17 + 8 + 5 * 17 + 8
            assert weights(specialize(made, chosen)) == made.cost(chosen).params


@pytest.mark.parametrize(
    ("step", "code"),
    [
        (multiplex("layers"), "SP504"),
        (multiplex("blocks", 2, ("norm3",)), "SP504"),
        (multiplex("blocks", 0), "SP209"),
        (multiplex("blocks", "two"), "SP209"),
        (multiplex("_"), "SP209"),
        (multiplex("blocks", (2, 2, 2)), "SP505"),
    ],
)
def test_what_cannot_be_tied(step: Multiplex, code: str) -> None:
    with pytest.raises(SpaceError, match=code):
        run(load("spaces/deit.space:deit_ti"), step)


def test_tied_layers_are_not_tied_again() -> None:
    graph = run(load("spaces/deit.space:deit_ti"), multiplex("blocks", 2))
    with pytest.raises(SpaceError, match=r"SP601.*tied already"):
        run(graph, multiplex("blocks", 4))


def test_what_is_inserted_into_tied_layers_is_tied() -> None:
    graph = run(load("spaces/deit.space:deit_ti"), multiplex("blocks", 2))
    made = sound(run(graph, Irpe()))
    tables = [p for p in made.storages if "rpe_k" in p]
    assert tables == [f"blocks[{i}].attn.rpe_k.lookup_table_weight" for i in range(0, 12, 2)]


def test_autoformer_tied_in_pairs() -> None:
    """The row of the same name among the counted spaces: cost terms over pairs of layers."""
    base = load("spaces/autoformer.space:autoformer_t")
    own = ("attn_layer_norm", "ffn_layer_norm")
    graph = sound(run(base, multiplex("encoder", 2, own)))
    assert graph.size() == 280_804_921_344
    scopes = {
        frozenset(
            s.name for s in (*term.size.symbols, *(s for g in term.guards for s in g.symbols))
        )
        for term in _monomials(graph)
    }
    largest = [s for s in scopes if not any(s < other for other in scopes)]
    assert sorted(map(len, largest)) == [3] * 12 + [4] * 2
    rng = random.Random(1)
    for chosen in graph.sample(40, seed=rng.randrange(99)):
        assert graph.cost(chosen).params == _pairs(dict(chosen))
    low, high = counter(graph).extremes("params")
    assert low == graph.cost(graph.decisions.extreme("smallest")).params
    assert high == graph.cost(graph.decisions.extreme("largest")).params


def _monomials(graph: Graph) -> Iterator[Term]:
    for term in model(graph).terms["params"]:
        for part in term.size.terms:
            yield replace(term, size=Dim((part,)))


def _pairs(chosen: dict[str, object]) -> int:
    """Parameters of tied AutoFormer-T, written by hand: of a pair the larger slices count."""
    width, depth = int(chosen["width"]), int(chosen["depth"])  # pyright: ignore
    total = 768 * width + width + width + 197 * width + 2 * width + 1000 * (width + 1)
    total += 4 * width * depth
    for first in range(0, depth, 2):
        pair = [i for i in (first, first + 1) if i < depth]
        heads = max(int(chosen[f"encoder[{i}].heads"]) for i in pair)  # pyright: ignore
        ratio = max(Fraction(str(chosen[f"encoder[{i}].ratio"])) for i in pair)
        hidden = int(width * ratio)
        total += 3 * heads * 64 * (width + 1) + (heads * 64 + 1) * width + 4 * 30 * 64
        total += hidden * (width + 1) + width * (hidden + 1)
    return total


def test_combinations_that_no_paper_has() -> None:
    pairs = sound(load("spaces/combinations.space:autoformer_irpe_pairs"))
    assert pairs.size() == load("spaces/autoformer.space:autoformer_t").size()
    tables = 14 * 2 * 64 * 50
    for chosen in pairs.sample(20, seed=4):
        depth = int(chosen["depth"])
        assert pairs.cost(chosen).params == _pairs(dict(chosen)) + tables * depth // 14
    base = load("spaces/swin.space:swin_t").cost()
    swin = sound(load("spaces/combinations.space:swin_irpe")).cost()
    assert swin.params - base.params == 12 * 2 * 2 * 32 * 7
    tiny = sound(load("spaces/combinations.space:tinyvit_pairs"))
    assert {p.split(".")[1] for p in tiny.storages if p.startswith("layers[2]") and "fc1" in p} == {
        "blocks[0]", "blocks[3]",
    }  # fmt: skip
    assert {"layers[2].blocks[4].local_conv.bn.running_var"} <= set(tiny.storages)


def test_tied_graph_computes_what_equal_weights_compute() -> None:
    import torch

    from spacelang.backends.torch.interpret import interpret

    text = "use deit\nspace four = deit(16, 2, depth: 4, patch: 4, image: 8, classes: 5)"
    graph = text_graph(text)
    tied = run(graph, multiplex("blocks", 2, ("norm1", "attn.qkv.bias")))
    generator = torch.Generator().manual_seed(1)
    few = {
        p: torch.randn(s.sizes, dtype=torch.float64, generator=generator)
        for p, s in tied.storages.items()
    }
    many = {
        p: few[
            p if p in few else p.replace("blocks[1]", "blocks[0]").replace("blocks[3]", "blocks[2]")
        ]
        for p in graph.storages
    }
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=generator)
    assert torch.equal(interpret(tied, few, [x])["output"], interpret(graph, many, [x])["output"])


# Places.


def test_nodes_are_found_by_label_by_op_and_by_block() -> None:
    graph = load("spaces/swin.space:swin_t")

    def names(pattern: str) -> list[str]:
        return [s.node.op for s in find(graph, parse_pattern(pattern))]

    assert names("layers[2].blocks[_].attn.logits") == ["add"] * 6
    assert names("layers[_].blocks[_].attn.softmax") == ["softmax"] * 12
    assert names("layers[0].blocks[0].attn") == ["call"]
    assert names("layers[0].blocks[0].attn.scores") == ["call"]
    assert names("layers[0].blocks[0].attn.qkv") == ["linear"]
    assert names("_.fc1") == ["linear"] * 12
    with pytest.raises(SpaceError, match="SP504"):
        find(graph, parse_pattern("layers[4].blocks"))


# Pipelines as text.


def test_pipeline_text() -> None:
    steps = parse_pipeline(
        "multiplex{path=layers[_].blocks, every=[2,[1,1],6,2], own=[norm1, attn.rpe_k]},\n"
        'irpe{method="cross",on=k,ratio=2.5,shared=false,path=blocks[0..2],skip=none}, irpe{}, irpe'
    )
    assert steps == (
        Multiplex(
            parse_pattern("layers[_].blocks"), (2, (1, 1), 6, 2), paths("norm1", "attn.rpe_k")
        ),  # pyright: ignore
        Irpe("cross", 2.5, "k", shared=False, path=paths("blocks[0..2]")),  # pyright: ignore
        Irpe(),
        Irpe(),
    )
    assert parse_pipeline("  ") == ()


def test_pipeline_text_runs() -> None:
    base = load("spaces/deit.space:deit_ti")
    made = run(base, "irpe{on=[k]}, multiplex{path=blocks,every=2,own=[attn.rpe_k]}")
    steps = [Irpe(), multiplex("blocks", 2, ("attn.rpe_k",))]
    assert made == run(base, steps)


@pytest.mark.parametrize(
    ("text", "code", "column"),
    [
        ("irp{}", "SP604", 1),
        ("irpe{metod=a}", "SP204", 6),
        ("irpe{on=k, on=v}", "SP204", 12),
        ("multiplex{every=2}", "SP204", 1),
        ("irpe{on}", "SP101", 8),
        ("irpe{on=}", "SP101", 9),
        ("irpe{on=k", "SP101", 10),
        ("irpe{on=k} irpe", "SP101", 12),
        ("irpe,", "SP101", 6),
        ("irpe{on=k.v}", "SP101", 9),
        ("irpe{on=[k}", "SP101", 11),
        ("irpe{on=[[[[[k", "SP102", 13),
        ("irpe{ratio=1e999}", "SP103", 12),
        ("multiplex{path=3}", "SP101", 16),
        ("multiplex{path=a[}", "SP101", 17),
        ('irpe{method="a\\q"}', "SP101", 13),
        ("insert{block=mix}", "SP209", 8),
        ("é", "SP101", 1),
    ],
)
def test_wrong_pipelines(text: str, code: str, column: int) -> None:
    with pytest.raises(SpaceError) as failed:
        parse_pipeline(text)
    (found,) = failed.value.diagnostics
    assert (found.code, found.primary.span.position) == (code, (1, column))


@given(st.text('irpemultx{}[]=,._ "\\019-k\n', max_size=40))
def test_any_text_is_a_pipeline_or_a_diagnostic(text: str) -> None:
    for start in ("", "irpe{on=", "multiplex{path="):
        with suppress(SpaceError):
            assert isinstance(parse_pipeline(start + text), tuple)


# Before and after, as text.

GOLDEN = Path(__file__).parent / "golden" / "passes"
FENCE = re.compile(r"^```(\w+)(?:: ([^\n]*))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("name", ["insert", "irpe", "multiplex"])
def test_golden_rewritings(name: str, update_golden: bool) -> None:
    """`space` is loaded; `ir` is its graph, `after` that of a pipeline, `error` what is refused."""
    file = GOLDEN / f"{name}.md"
    space = ""

    def shown(found: re.Match[str]) -> str:
        nonlocal space
        kind, pipeline, body = found.groups()
        if kind == "space":
            space = body
            return found[0]
        head = kind if pipeline is None else f"{kind}: {pipeline}"
        try:
            made = write(run(text_graph(space), pipeline or ()))
        except SpaceError as failed:
            assert kind == "error", str(failed)
            made = str(failed)
        return f"```{head}\n{made.strip()}\n```"

    text = file.read_text(encoding="utf-8")
    made = FENCE.sub(shown, text)
    if update_golden:
        file.write_text(made, encoding="utf-8")
    assert made == text or update_golden
