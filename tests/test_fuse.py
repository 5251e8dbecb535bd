"""The pass `fuse`: which groups become blocks of kernels, what stays, and why others are refused."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner
from composition import HOSTS, host
from rewriting import text_graph

from spacelang.cli.main import commands
from spacelang.diagnostics import Source, SpaceError
from spacelang.ir.graph import Graph
from spacelang.ir.text import write
from spacelang.ir.verify import verified
from spacelang.loader import load
from spacelang.passes.bucketise import bucketised
from spacelang.passes.fuse import GROUPS, OPENED, for_kernels, fused
from spacelang.passes.fused_cost import all_variants, group_of
from spacelang.passes.fusion import kernel_of
from spacelang.passes.opened import Helpers, open_helpers
from spacelang.passes.pipeline import run
from spacelang.passes.remake import with_root
from spacelang.syntax.ir_text import read

# Kernel -> at how many places of the largest network, and what is refused.
SPACES = {
    "quickstart.space:quickstart": ({"attention": 5, "mlp": 5}, 0),
    "autoformer.space:autoformer_t": ({"attention": 14, "mlp": 14}, 0),
    "autoformer.space:autoformer_b": ({"attention": 16, "mlp": 16}, 0),
    "irpe.space:deit_s_product_qkv": ({"attention": 12, "mlp": 12}, 0),
    "irpe.space:deit_s_cross_k": ({"attention": 12, "mlp": 12}, 0),
    "deit.space:deit_ti": ({"attention": 12, "mlp": 12}, 0),
    "swin.space:swin_t": ({"attention": 12, "mlp": 12}, 0),
    "s3.space:s3_start": ({"attention": 19, "mlp": 19}, 0),
    "minivit.space:mini_swin_t": ({"mixed_attention": 12, "mlp": 12}, 0),
    "minivit.space:mini_deit_ti": ({"mixed_attention": 12, "mlp": 12}, 0),
    "tinyvit.space:tinyvit_5m": ({"attention": 10, "depthwise": 15, "mlp": 10}, 0),
    "efficientvit.space:efficientvit_m0": ({"cascade": 6, "depthwise": 18}, 0),
    "efficientvit.space:efficientvit_search": ({"cascade": 24, "depthwise": 22}, 0),
    "cream.space:cream_to_50": ({"depthwise": 31}, 0),
    "mobilenetv3.space:mobilenetv3_search": ({"depthwise": 21}, 0),
    "cdarts.space:cifar10_search": ({"mixture": 144}, 0),
}


def places(graph: Graph) -> dict[str, int]:
    kernels = (kernel_of(instance.block.name) for instance in graph.instances())
    return dict(Counter(kernel for kernel in kernels if kernel))


@pytest.mark.parametrize("address", SPACES)
def test_shipped_spaces(address: str) -> None:
    """Groups, and all else as it was: weights, decisions, size, what architectures cost, the text."""
    graph = bucketised(load(address))
    result = fused(graph)
    made = verified(result.graph)
    wanted, refused = SPACES[address]
    assert places(made) == wanted
    assert len(result.refusals) == refused
    assert all(group_of(block) is not None for block in result.groups)
    assert {p: s.extents for p, s in made.storages.items()} == {
        p: s.extents for p, s in graph.storages.items()
    }
    assert made.size() == graph.size()
    for architecture in graph.sample(n=2, seed=1) if graph.decisions else [{}]:
        assert made.cost(architecture) == graph.cost(architecture)


GATED = {
    "cream.space:cream_to_50": 31,
    "efficientvit.space:efficientvit_m0": 2,
    "mobilenetv3.space:mobilenetv3_large": 8,
    "mobilenetv3.space:mobilenetv3_small": 9,
    "mobilenetv3.space:mobilenetv3_search": 12,
    "tinyvit.space:tinyvit_5m": 0,
}


@pytest.mark.parametrize("address", GATED)
def test_squeeze_and_excite_is_in_the_group(address: str) -> None:
    """From the convolution to the gated planes: no mean of planes and no gate is left outside."""
    made = for_kernels(load(address)).graph
    groups = [i.block for i in made.instances() if kernel_of(i.block.name) == "depthwise"]
    assert sum("mean" in {node.op for node in block.nodes} for block in groups) == GATED[address]
    others = [b for b in (made.root, *made.blocks.values()) if not kernel_of(b.name)]
    called = {node.call.block for b in others for node in b.everywhere() if node.call}
    assert not any("excite" in name for name in called)


EXCITED = """
space t {{
  input x: [B, 4, 9, 9]
  y = conv(x, 4, 3, groups: 4) as c |> batch_norm as n |> relu
  g = {}
  output {}
}}
"""
MEANS = "mean(y, axes: [2, 3], keep: true)"
LAYERED = f"{MEANS} |> conv(2, bias: true) as r |> relu |> conv(4, bias: true) as e |> sigmoid"


@pytest.mark.parametrize(
    ("gate", "last", "nodes"),
    [
        (LAYERED, "y * g", 9),
        (LAYERED, "g * y", 9),
        (LAYERED, "(y * g) + y", 3),  # the planes are read outside
        (LAYERED, "(y * g) + g", 3),  # the gate is
        (f"{LAYERED} |> dropout(0.5)", "y * g", 3),  # no layer of a gate
        ("mean(x, axes: [2, 3], keep: true)", "y * g", 3),  # means of other planes
        ("mean(y, axes: [1, 2, 3], keep: true)", "y * g", 3),  # not of planes
        (f"{MEANS} |> conv(1) as r", "y * g", 3),  # one factor for all channels
        (MEANS, "y * g", 5),
    ],
)
def test_what_a_gate_is(gate: str, last: str, nodes: int) -> None:
    (group,) = for_kernels(text_graph(EXCITED.format(gate, last))).groups
    assert sum(node.op != "input" for node in group.nodes) == nodes


def test_blocks_stay_blocks() -> None:
    """Fourteen layers are one block, whose heads are a size."""
    result = for_kernels(load("autoformer.space:autoformer_t"))
    (attention,) = (b for b in result.groups if kernel_of(b.name) == "attention")
    assert [str(size) for size in attention.sizes] == ["%B", "%heads"]
    counted = {kernel: len(found) for kernel, found in all_variants(result.graph).items()}
    assert counted == {"attention": 1, "mlp": 3}


def test_text_and_again() -> None:
    """The IR text holds fused blocks; fusing twice is fusing once; options name kernels."""
    graph = run(load("quickstart.space:quickstart"), "fuse")
    again = read(Source("fused.spaceir", write(graph)))
    assert again == graph
    assert again.hash == graph.hash
    assert fused(graph).graph is graph or places(fused(graph).graph) == places(graph)
    only = run(load("quickstart.space:quickstart"), "fuse{only=[mlp]}")
    assert places(only) == {"mlp": 5}
    with pytest.raises(SpaceError, match="there is no kernel magic"):
        run(load("quickstart.space:quickstart"), "fuse{only=[magic]}")


TWO_DEPTHWISE = """
space t {
  input x: [B, 4, 9, 9]
  x = conv(x, 4, 3, groups: 4) as c1 |> batch_norm as n1 |> swish
  output conv(x, 4, 3, groups: 4) as c2 |> batch_norm as n2 |> relu
}
"""


def test_a_graph_that_is_partly_fused() -> None:
    """A new block takes a name that no block of the graph has, and equal ones are one."""
    graph = text_graph(TWO_DEPTHWISE)
    done = fused(graph).graph
    relu_alone = Helpers(done.blocks, OPENED - {"swish"})
    partly = with_root(done, open_helpers(done.root, relu_alone).block, done.blocks)
    assert list(partly.blocks) == ["triton.depthwise"]
    again = verified(fused(partly).graph)
    assert again.blocks == done.blocks
    assert [n.call.block for n in again.root.nodes if n.call] == [
        "triton.depthwise",
        "triton.depthwise.2",
    ]
    assert set(again.storages) == set(graph.storages)
    assert again.cost({}) == graph.cost({})
    assert fused(again).graph.blocks == done.blocks


LAYERS = """
use vit
space t {
  input x: [B, 5, 8]
  for i in 0..<12 {
    q, k, v = layer_norm(x) as n1[i] |> linear([3, 2, 4]) as qkv[i] |> unstack(axis: 2)
    x = x + (softmax(scores(q, k) * rsqrt(4)) |> weigh(v) |> linear(8, axes: 2) as proj[i])
    x = x + (layer_norm(x) as n2[i] |> linear(16) as fc1[i] |> gelu |> linear(8) as fc2[i])
  }
  output x
}
"""
DOUBLED = """
space t {{
  input x: [B, 5, 8]
  y = {start}
  for i in 1..60 {{ y = y + y }}
  output {last}
}}
"""


def test_layers_in_one_block() -> None:
    """Every node is seen once: walked as a tree, twelve layers would take a day."""
    assert places(fused(text_graph(LAYERS)).graph) == {"attention": 12, "mlp": 12}


@pytest.mark.parametrize(
    ("start", "last"),
    [("x", "y"), ("parameter([5, 8], init: 1) as t", "x + y")],
    ids=["values", "constants"],
)
def test_a_sum_that_is_read_twice_is_walked_once(start: str, last: str) -> None:
    """Sixty doublings have 2**60 ways through them."""
    result = fused(text_graph(DOUBLED.format(start=start, last=last)))
    assert result.groups == result.refusals == ()


def test_masks_are_made_where_they_are_read() -> None:
    """The attention of shifted windows is given none, in sizes of its own."""
    for address in ("swin.space:swin_t", "s3.space:s3_start", "minivit.space:mini_swin_t"):
        made = for_kernels(load(address)).graph
        for block in made.blocks.values():
            for node in block.everywhere():
                if node.op == "shift_mask":
                    assert kernel_of(block.name) in ("attention", "mixed_attention")


ATTENTION = """
use vit
space t {{
  input x: [B, {tokens}, {width}]
  q, k, v = linear(x, [3, 2, {dim}]) as qkv |> unstack(axis: 2)
  s = scores(q, k) * rsqrt({dim}){more}
  p = softmax(s){after}
  y = weigh(p, v){value}
  output linear(y, 4, axes: 2) as proj
}}
"""


def attention(
    dim: int = 8, tokens: int = 5, more: str = "", after: str = "", value: str = ""
) -> str:
    return ATTENTION.format(tokens=tokens, width=8, dim=dim, more=more, after=after, value=value)


DEPTHWISE = """
space t {{
  input x: [B, 4, 9, 9]
  y = conv(x, 4, {conv}, groups: 4) as c |> batch_norm as n
  output {last}
}}
"""
MLP = """
space t {{
  input x: [B, 5, 8]
  h = layer_norm(x) as norm |> linear(16) as fc1 |> gelu
  output {last}
}}
"""
MIX = ' |> rearrange("b h i j -> b i j h") |> linear({}) as {} |> rearrange("b i j h -> b h i j")'
MASSES = ' + einsum("bhic,cd->bihd", bucket_sum(p{}, clipped_index(5, 1, axis: 0, reach: 3), buckets: 9), parameter([9, 8], init: 0) as tv)'
TOKENS = " |> linear(5) as m"
OFFSETS = "take(parameter([9], init: 0) as b, clipped_index(5, 1, axis: 0, reach: 3)) as bias"
CASCADE = """
use efficientvit
space t {{
  input x: [B, {heads} * 2, 2, 2]
  output cascaded_attention(x, {heads}, [{kernel} for i in 0..<{heads}], true) as a
}}"""
MINI = """
use minivit
space base = mini_deit(24, heads: 3, image: 32)
space t from base {{ rewrite {{ irpe(method: "product", on: ["{}"]) }} }}
"""
REFUSED = {
    "wide": (attention(dim=160), "wider than 128"),
    "dense": (attention(more=" + (parameter([5, 5], init: 0) as b)"), "no kernel adds b to logits"),
    "data": (attention(more=" + einsum(\"bihd,bjhd->bhij\", q, v)"), "2 products of queries with keys"),
    "twice": (attention(more="\nfor i in 1..60 { s = s + s }"), "more than once"),
    "terms": (attention(more="\nb = take(parameter([9], init: 0) as b, clipped_index(5, 1, axis: 0, reach: 3))\nfor i in 1..60 { b = b + b }\ns = s + b"), "more than once"),
    "read": (attention(value=" + weigh(p * 2, v)"), "read outside"),
    "window": (DEPTHWISE.format(conv="9", last="relu(n_)").replace("n_", "y"), "no kernel takes a window of 9"),
    "stride": (DEPTHWISE.format(conv="3, stride: 3", last="relu(y)"), "no kernel takes a stride of 3"),
    "pad": (DEPTHWISE.format(conv="3, pad: 2", last="relu(y)"), "no kernel pads by 2"),
    "dilation": (DEPTHWISE.format(conv="3, dilation: 2", last="relu(y)"), "no kernel takes a dilation"),
    "bias": (DEPTHWISE.format(conv="3, bias: true", last="relu(y)"), "no kernel takes a bias"),
    "many heads": (CASCADE.format(heads=9, kernel=3), "more than 8 heads"),
    "a wide window": (CASCADE.format(heads=2, kernel=17), "no plain depthwise convolution"),
    "dropout": (MLP.format(last="dropout(h, 0.5) |> linear(8) as fc2"), "it drops hidden channels"),
    "hidden": (MLP.format(last="linear(h, 8) as fc2 + sum_of_h").replace("sum_of_h", "mean(h, axes: [2], keep: true)"), "read outside"),
    "unbucketised": ("", "bucketise first"),
    "mixed twice": (attention(more=MIX.format(2, "m") + MIX.format(2, "n")), "mixed twice before"),
    "mixed tokens": (attention(after=TOKENS), "no axis of heads"),
    "mixed widths": (attention(after=MIX.format(4, "m") + MIX.format(2, "n")), "weights are mixed, and not head by head"),
    "mixed other logits": (attention(more=MIX.format(4, "m") + MIX.format(2, "n")), "logits are mixed, and not head by head"),
    "mixed and scaled": (attention(more=f"\ns = (s{MIX.format(2, 'm')}) * 2"), "moved or scaled"),
    "mixed and moved": (attention(tokens=4, more=f"\ns = (s{MIX.format(2, 'm')}) |> rearrange(\"b h i j -> b h j i\")"), "moved or scaled"),
    "mixed before offsets": (attention(more=f"\ns = (s{MIX.format(2, 'm')}) + {OFFSETS}"), "bias is added after heads are mixed"),
    "mixed many": (attention(more=MIX.format(2, "m")).replace("[3, 2, 8]", "[3, 34, 8]").replace("linear(2)", "linear(34)"), "34 heads that are mixed are more than 32"),
    "mixed masses": (attention(value=MASSES.format(MIX.format(2, "m"))), "with a term of the values"),
    "mixed, terms of keys": (MINI.format("q"), "with a term of the keys"),
    "mixed, terms of values": (MINI.format("v"), "with a term of the values"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str) -> None:
    text, why = REFUSED[name]
    graph = text_graph(text) if text else load("autoformer.space:autoformer_t", image=32)
    result = fused(bucketised(graph) if "use minivit" in text else graph)
    assert any(why in refusal.why for refusal in result.refusals), [str(r) for r in result.refusals]


def test_nothing_to_fuse() -> None:
    text = "space t { input x: [B, 4]  output linear(x, 3) as l }"
    with pytest.raises(SpaceError, match="fuse finds no group"):
        run(text_graph(text), "fuse")


@pytest.mark.parametrize("name", HOSTS)
def test_with_every_pass_that_shares(name: str) -> None:
    """A tied network fuses as well: its groups read the leader's weights."""
    graph = run(host(name), "simplify")
    made = verified(for_kernels(graph).graph)
    assert set(made.storages) == set(graph.storages)


def test_the_command() -> None:
    done = CliRunner().invoke(commands, ["kernels", "efficientvit.space:efficientvit_m0", "--json"])
    found = json.loads(done.output)
    assert {group["kernel"] for group in found["groups"]} == {"cascade", "depthwise"}
    assert found["network"]["fused"]["bytes"] < found["network"]["unfused"]["bytes"]
    assert found["variants"] == {"cascade": 3, "depthwise": 2, "squeeze": 1}
    assert found["refused"] == []


def test_the_command_without_a_space() -> None:
    found = json.loads(CliRunner().invoke(commands, ["kernels", "--json"]).output)
    assert found["kernels"].keys() >= GROUPS.keys() | {"soft_labels", "relations"}
    assert "cascade: cascaded attention" in CliRunner().invoke(commands, ["kernels"]).output


def test_the_command_says_what_does_not_fuse(tmp_path: Path) -> None:
    space = tmp_path / "t.space"
    space.write_text(attention(dim=160), "utf-8")
    text = CliRunner().invoke(commands, ["kernels", str(space)]).output
    assert "not fused: attention" in text
    assert "wider than 128" in text
