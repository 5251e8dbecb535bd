"""Weights that are shared: MiniViT's published figures, multiplex and combinations of passes."""

from __future__ import annotations

import random
from collections.abc import ItemsView, Iterator
from dataclasses import replace
from fractions import Fraction

import pytest
from rewriting import multiplex, sound, text_graph, weights

from spacelang.analysis.cost import Term
from spacelang.analysis.queries import counter, model
from spacelang.diagnostics import Report, SpaceError
from spacelang.ir.dim import Dim
from spacelang.ir.graph import Graph
from spacelang.ir.pattern import parse_pattern
from spacelang.ir.rule import Tie
from spacelang.ir.storage import Storage
from spacelang.loader import load
from spacelang.passes.irpe import Irpe
from spacelang.passes.multiplex import Multiplex
from spacelang.passes.pipeline import run
from spacelang.passes.specialize import specialize
from spacelang.passes.tie import tied

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


def test_heads_of_swin_share_its_width() -> None:
    """A head has what the number of heads leaves of the width."""
    published = load("spaces/swin.space:swin_t")
    more = load("spaces/swin.space:swin_t", heads=[4, 8, 16, 32])
    added = 2 * 1 + 2 * 2 + 6 * 4 + 2 * 8  # tables of 13 x 13, one a head
    assert more.cost().params == published.cost().params + added * 13 * 13
    assert more.cost().macs == published.cost().macs


@pytest.mark.parametrize(
    ("name", "params"),
    [("mini_deit_ti", 5754880), ("mini_deit_s", 22088392), ("mini_deit_b", 86607208)],
)
def test_mini_deit_without_sharing(name: str, params: int) -> None:
    assert load(f"spaces/minivit.space:{name}", every=1).cost().params == params


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


class Seen(dict[str, Storage]):
    """Storages that count how often all of them are gone through."""

    times = 0

    def __iter__(self) -> Iterator[str]:
        self.times += 1
        return super().__iter__()

    def items(self) -> ItemsView[str, Storage]:
        self.times += 1
        return super().items()


def test_storages_are_gone_through_once_for_all_instances() -> None:
    graph = text_graph("use deit\nspace many = deit(192, 3, depth: 24, token: false)")
    graph.__dict__["storages"] = seen = Seen(graph.storages)
    for made in (
        Multiplex(parse_pattern("blocks"), 2).run(graph, Report()),
        tied(graph, [Tie(parse_pattern("blocks[_]"))]),
    ):
        assert len(made.storages) < len(seen)
    assert seen.times == 1


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
    width, depth = int(chosen["width"]), int(chosen["depth"])
    total = 768 * width + width + width + 197 * width + 2 * width + 1000 * (width + 1)
    total += 4 * width * depth
    for first in range(0, depth, 2):
        pair = [i for i in (first, first + 1) if i < depth]
        heads = max(int(chosen[f"encoder[{i}].heads"]) for i in pair)
        ratio = max(Fraction(str(chosen[f"encoder[{i}].ratio"])) for i in pair)
        hidden = int(width * ratio)
        total += 3 * heads * 64 * (width + 1) + (heads * 64 + 1) * width + 4 * 30 * 64
        total += hidden * (width + 1) + width * (hidden + 1)
    return total


def test_figures_of_combinations() -> None:
    """Pairs of AutoFormer's layers with tables of their own; the other two by what they share."""
    pairs = sound(load("spaces/combinations/autoformer_pairs.space"))
    assert pairs.size() == load("spaces/autoformer.space:autoformer_t").size()
    tables = 14 * 2 * 64 * 50
    for chosen in pairs.sample(20, seed=4):
        depth = int(chosen["depth"])
        assert pairs.cost(chosen).params == _pairs(dict(chosen)) + tables * depth // 14
    cream = sound(load("spaces/combinations/cream_kernels.space"))
    assert cream.size() == load("spaces/cream.space:cream").size() == 6**21
    depthwise = {
        p: s.sizes for p, s in cream.storages.items() if p.endswith("op.k3e4.conv_dw.weight")
    }
    assert depthwise["blocks[1][1].op.k3e4.conv_dw.weight"] == (144, 1, 7, 7)
    assert [p for p in depthwise if p.startswith("blocks[3]")] == [
        f"blocks[3][{i}].op.k3e4.conv_dw.weight" for i in (0, 1, 3)
    ]
    base = load("spaces/efficientvit.space:efficientvit_search")
    made = sound(load("spaces/combinations/efficientvit_positions.space"))
    assert set(base.decisions) - set(made.decisions) == {"depths[1]", "depths[2]"}


def test_tied_graph_computes_what_equal_weights_compute() -> None:
    import torch

    from spacelang.backends.torch.reference.interpret import interpret

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
