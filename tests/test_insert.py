"""Inserting blocks, and finding the places for them."""

from __future__ import annotations

import re

import pytest
from rewriting import MIX, sound, text_graph

from spacelang.diagnostics import SpaceError
from spacelang.ir.block import Block
from spacelang.ir.build import BlockBuilder
from spacelang.ir.dim import Dim, Symbol
from spacelang.ir.node import Call, TensorType
from spacelang.ir.pattern import parse_pattern
from spacelang.loader import load
from spacelang.passes.base import Insertion
from spacelang.passes.insert import Insert
from spacelang.passes.pipeline import run
from spacelang.passes.places import find


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
        ('insert(mix, after: norm, name: "a b")', 'SP209.*name cannot be "a b"'),
        ('insert(mix, after: norm, name: "m..n")', "SP209.*a path of labels"),
        ("insert(3, after: norm)", "SP209.*a block is wanted"),
        ("insert(limited, after: blocks[0].attn.softmax)", "SP601.*it has limits"),
    ],
)
def test_what_cannot_be_inserted(step: str, message: str) -> None:
    text = f"""use deit
space wrong from deit(192, 3, depth: 2) {{ {MIX}
  block half(a: [B, H, N, M]) {{ return a[:, :, :, 0..<98] }}
  block flat(a: [B, H, N, M]) {{ return rearrange(a, "b h i j -> (b h) i j") }}
  block limited(a: [B, H, N, M]) {{ choose n in 1..2  require n < 2  return a * n }}
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
    shown = [label.text for label in found.secondary[:2]]
    assert shown == ["takes [B, 3, 197, 197]", "gives [B, 3, 197, 98]"]


def test_identity_mix_changes_nothing() -> None:
    import torch

    from spacelang.backends.torch.reference.interpret import interpret

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
        build = BlockBuilder("affine")
        build.size(Symbol("%B"))
        batch = Dim.of(Symbol("%B"))
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
