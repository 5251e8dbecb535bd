"""What passes declare to preserve, over random architectures, and what they do at neutral points."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import pytest
import torch
from composition import HOSTS, STEPS, host, shipped
from rewriting import MIX, sound, text_graph
from small_spaces import THIRDS
from torch import Tensor

from spacelang.backends.torch.reference.interpret import interpret
from spacelang.backends.torch.subnets.proof import example
from spacelang.diagnostics import SpaceError
from spacelang.ir.decision import Assignment
from spacelang.ir.graph import Graph
from spacelang.ir.storage import bank_position, merged
from spacelang.passes.base import Pass
from spacelang.passes.pipeline import run
from spacelang.plugins import BUILTIN, load

Weights = dict[str, Tensor]

VIT = """
use autoformer
space host = autoformer({8, 12}, 1..3, {1, 2}, {1, 1.5, 2}, stored: 16, image: 32, classes: 5)
"""
PATHS = """
block unit(x: [B, C, H, W], kernel) -> [B, C, H, W] {
  return conv(x, C, kernel) as c |> batch_norm as bn |> relu
}
block layer(x: [B, C, H, W]) -> [B, C, H, W] {
  return choose op { small: unit(x, 3) as _  large: unit(x, 5) as _  plain: conv(x, C) as c  skip: x }
}
space host {
  input x: [B, 4, 6, 6]
  choose depth in 1..3
  for i in 0..<depth { x = layer(x) as layers[i] }
  output mean(x, axes: [2, 3]) |> linear(3) as head
}
"""
SIZES = """
space host {
  input x: [B, 4, 6, 6]
  choose width in {2, 4, 6}
  choose kernel in {3, 5}
  x = conv(x, width, kernel) as first |> relu |> conv(width * 2, 3) as second
  output mean(x, axes: [2, 3]) |> linear(3) as head
  weights { _: separate }
}
"""
FOLDED = """
space host {
  input x: [B, 4, 6, 6]
  choose width in {2, 4}
  x = conv(x, width, 3) as c |> batch_norm as bn |> relu
  output mean(x, axes: [2, 3]) |> linear(3) as head
  weights { _: entangle }
}
"""
DEPTHWISE = """
block layer(x: [B, C, H, W]) -> [B, C, H, W] {
  choose kernel in {3, 5}
  return x + (conv(x, C, kernel, groups: C) as dw |> batch_norm as bn |> swish)
}
space host {
  input x: [B, 4, 6, 6]
  choose width in {4, 6}
  choose depth in 1..3
  x = conv(x, width) as first
  for i in 0..<depth { x = layer(x) as layers[i] }
  output mean(x, axes: [2, 3]) |> linear(3) as head
  weights { _: entangle  layers[_].kernel: entangle(centre) }
}
"""
INSERTED = VIT.replace(
    "space host =",
    f"{MIX}\nspace base =",
) + """
space host from base { rewrite { insert(mix, after: encoder[_].attn.softmax, name: "m") } }
"""  # fmt: skip

COUNT = frozenset({"bn.num_batches_tracked"})


@dataclass(frozen=True)
class Row:
    """A space and what is run on it; for a pass that takes a block, the text with it in.

    `drops` are storages that go: the count of batches of a folded norm, which nothing computes by.
    """

    text: str
    pipeline: str
    done: str = ""
    drops: frozenset[str] = frozenset()


ROWS: Mapping[str, tuple[Row, ...]] = {
    "bucketise": (Row(VIT, "bucketise"),),
    "cascade": (Row("use deit\nspace host = deit(24, heads: 3, depth: 2, patch: 8, image: 32)", "cascade{path=blocks[_].attn}"),),
    "entangle": (
        Row(SIZES, "entangle"),
        Row(SIZES, "entangle{path=kernel,form=centre}, entangle{path=width}"),
        Row(PATHS, "entangle{path=layers[_].op,form=centre}"),
    ),
    "fuse": (
        Row(VIT, "bucketise, fuse"),
        Row(DEPTHWISE, "fuse"),
        Row(HOSTS["swin"], "fuse"),
    ),
    "inline": (Row(VIT, "inline"), Row(PATHS, "inline")),
    "insert": (Row(VIT, "", INSERTED),),
    "irpe": (Row(VIT, "irpe{on=[q,k,v]}"), Row(VIT, "irpe{method=cross,mode=bias,shared=false}")),
    "multiplex": (Row(VIT, "multiplex{path=encoder,every=2}"), Row(PATHS, "multiplex{path=layers,every=3}")),
    "relax": (Row(PATHS, "relax{op=softmax}"),),
    "sample": (Row(PATHS, "sample{seed=4}"),),
    "simplify": (Row(VIT, "simplify"), Row(FOLDED, "simplify{fold_norm=true}", drops=COUNT)),
}  # fmt: skip
CASES = [(name, row) for name, rows in ROWS.items() for row in rows]


def before_and_after(row: Row) -> tuple[Graph, Graph]:
    graph = text_graph(row.text)
    made = text_graph(row.done) if row.done else run(graph, row.pipeline)
    return graph, sound(made)


def random_weights(graph: Graph, seed: int = 0) -> Weights:
    """Random tensors in float64, those of banks one by one; variances are positive."""
    generator = torch.Generator().manual_seed(seed)
    found: Weights = {}
    for path, storage in graph.storages.items():
        for i, shape in enumerate(storage.tensors):
            name = f"{path}.{i}" if storage.bank else path
            value = 0.5 * torch.randn(merged(shape), generator=generator, dtype=torch.float64)
            if storage.param.dtype != "f32":
                value = torch.zeros(merged(shape), dtype=torch.int64)
            found[name] = value.abs() + 0.5 if path.endswith("running_var") else value
    return found


def outputs(graph: Graph, weights: Mapping[str, Tensor], assignment: Assignment) -> Tensor:
    inputs = [x.double() for x in example(graph, seed=6)]
    return interpret(graph, dict(weights), inputs, assignment)[graph.outputs[0].name]


def stored(graph: Graph) -> dict[str, object]:
    return {path: (s.shape, s.bank) for path, s in graph.storages.items()}


def drawn(graph: Graph, count: int = 4) -> list[Assignment]:
    return graph.sample(count, seed=8) if graph.decisions else [{}]


def close(found: Tensor, wanted: Tensor) -> bool:
    return torch.allclose(found, wanted, rtol=1e-10, atol=1e-11 * float(wanted.abs().max()))


def test_every_pass_has_a_row() -> None:
    assert set(ROWS) == set(BUILTIN["spacelang.passes"])


@pytest.mark.parametrize(
    ("name", "row"), CASES, ids=[f"{n}{i}" for n, rows in ROWS.items() for i in range(len(rows))]
)
def test_what_a_pass_declares_holds(name: str, row: Row) -> None:
    """Space: decisions and their number. Parameters: storage and counts. Function: outputs."""
    step: type[Pass] = load("spacelang.passes", name)
    graph, made = before_and_after(row)
    kept = step.preserves
    assert kept <= {"function", "parameters", "space"}
    assignments = drawn(graph)
    if "space" in kept:
        assert dict(made.decisions) == dict(graph.decisions)
        assert made.size() == graph.size()
    if "parameters" in kept:
        assert stored(made) == {p: s for p, s in stored(graph).items() if p not in row.drops}
        assert all(made.cost(a).params == graph.cost(a).params for a in assignments)
    if "function" in kept:
        weights = random_weights(graph)
        assert all(
            close(outputs(made, weights, a), outputs(graph, weights, a)) for a in assignments
        )


def test_only_what_changes_no_function_says_so() -> None:
    declared = {n: load("spacelang.passes", n).preserves for n in ROWS}
    assert {n for n, kept in declared.items() if "function" in kept} == {
        "bucketise", "fuse", "inline", "simplify",
    }  # fmt: skip
    assert {n for n, kept in declared.items() if not kept} == {"insert", "relax", "sample"}


# Neutral points.


@pytest.mark.parametrize("form", ["", ",form=centre"])
def test_entangled_candidates_are_slices(form: str) -> None:
    """A storage for each candidate, filled with its slice of the one, gives the same outputs."""
    graph = text_graph(SIZES)
    made = sound(run(graph, f"entangle{{path=_{form}}}"))
    shared = random_weights(made)
    for width, kernel in product((2, 4, 6), (3, 5)):
        apart = random_weights(graph, seed=1)
        chosen = {"width": width, "kernel": kernel}
        for path, storage in graph.storages.items():
            sizes = {"first.weight": (width, 4, kernel, kernel), "first.bias": (width,),
                     "second.weight": (2 * width, width, 3, 3), "second.bias": (2 * width,),
                     "head.weight": (3, 2 * width), "head.bias": (3,)}[path]  # fmt: skip
            cut = shared[path]
            for axis, (m, n) in enumerate(zip(cut.shape, sizes, strict=True)):
                cut = cut.narrow(axis, (m - n) // 2 if form else 0, n)
            position = bank_position(storage.bank, chosen)
            apart[f"{path}.{position}" if storage.bank else path] = cut
        assert torch.equal(outputs(made, shared, chosen), outputs(graph, apart, chosen))


def test_what_is_whole_under_a_condition_alone_is_entangled() -> None:
    """Which is no proof for the block where nothing of the kind is known."""
    made = sound(run(text_graph(THIRDS), "entangle"))
    assert stored(made) == stored(text_graph(THIRDS.replace("separate", "entangle")))
    with pytest.raises(SpaceError, match="SP302"):
        text_graph(re.sub(r"when .* \{ (.*) \}", r"\1", THIRDS))
    space = shipped("efficientvit")
    assert stored(sound(run(space, "entangle"))) == stored(space)


@pytest.mark.parametrize("form", ["", ",form=centre"])
def test_entangled_alternatives_are_slices(form: str) -> None:
    """Alternatives filled with slices of the first one's storage give the same outputs."""
    graph = text_graph(PATHS)
    made = sound(run(graph, f"entangle{{path=layers[_].op{form}}}"))
    gone = set(graph.storages) - set(made.storages)
    assert gone == {p for p in graph.storages if ".op.large." in p}
    shared = random_weights(made)
    assert shared["layers[0].op.small.c.weight"].shape == (4, 4, 5, 5)
    apart = {p: shared[p.replace(".op.large.", ".op.small.")].clone() for p in graph.storages}
    for path in apart:
        if path.endswith("small.c.weight"):
            start = 1 if form else 0
            apart[path] = apart[path][:, :, start : start + 3, start : start + 3]
    for chosen in drawn(graph, 12):
        assert torch.equal(outputs(made, shared, chosen), outputs(graph, apart, chosen))
        assert made.cost(chosen) == graph.cost(chosen)


@pytest.mark.parametrize("steps", ["_.op", "op.a.op,op.b.op,op", "op,op.a.op"])
def test_alternatives_in_alternatives_share_with_the_first(steps: str) -> None:
    """Ops written in the regions, a choice in a choice, and what has no counterpart."""
    graph = text_graph("""
      space host {
        input x: [B, 4, 6, 6]
        y = choose op {
          a: choose op { s: conv(x, 4, 3) as c  l: conv(x, 4, 5) as c }
          b: choose op { s: conv(x, 4, 5) as c  l: conv(x, 4, 7) as c }
          d: conv(x, 4) as other
        }
        output mean(y, axes: [2, 3]) |> linear(3) as head
      }""")
    # Once the outer alternatives share, the inner choices of both have one storage.
    passes = (f"entangle{{path={path},form=centre}}" for path in steps.split(","))
    made = sound(run(graph, ", ".join(passes)))
    kept = {p: s.sizes for p, s in made.storages.items() if p.startswith("op")}
    assert kept == {"op.a.op.s.c.weight": (4, 4, 7, 7), "op.d.other.weight": (4, 4, 1, 1)}
    shared = random_weights(made)
    for chosen in drawn(graph, 8):
        assert made.cost(chosen) == graph.cost(chosen)
        apart = random_weights(graph, seed=3)
        for path in apart:
            if path.endswith("c.weight"):
                size = graph.storages[path].sizes[-1]
                start = (7 - size) // 2
                cut = slice(start, start + size)
                apart[path] = shared["op.a.op.s.c.weight"][:, :, cut, cut]
            else:
                apart[path] = shared[path]
        assert torch.equal(outputs(made, shared, chosen), outputs(graph, apart, chosen))


def test_a_relaxed_depth_with_one_weight_is_that_depth() -> None:
    graph = text_graph(PATHS)
    made = sound(run(graph, "relax{depth=plain}"))
    assert set(graph.decisions) - set(made.decisions) == {"depth"}
    assert all(not c.live.symbols for c in made.decisions.values())
    weights = random_weights(graph)
    for chosen in drawn(graph, 8):
        depth = chosen["depth"]
        assert isinstance(depth, int)
        alphas = torch.zeros(3, dtype=torch.float64)
        alphas[depth - 1] = 1.0
        open_ = {path: chosen.get(path, "skip") for path in made.decisions}
        found = outputs(made, {**weights, "alphas.depth": alphas}, open_)
        assert torch.equal(found, outputs(graph, weights, chosen))


def test_a_depth_inside_a_block_and_one_of_two_choices() -> None:
    """Weights are handed down to the block; a size beside a depth stays a decision."""
    graph = text_graph("""
      block stage(x: [B, C]) -> [B, C] {
        choose depth in {1, 2}
        choose ratio in {1, 2}
        for i in 0..<depth { x = linear(x, C * ratio) as up[i] |> gelu |> linear(C) as down[i] }
        return x
      }
      space host {
        input x: [B, 6]
        for s in 0..1 { x = stage(x) as stages[s] }
        output x
        weights { _: entangle }
      }""")
    made = sound(run(graph, "relax{depth=plain}"))
    assert set(made.decisions) == {"stages[0].ratio", "stages[1].ratio"}
    weights = random_weights(graph)
    for chosen in drawn(graph, 6):
        alphas = {
            f"alphas.stages[{s}].depth": torch.eye(2, dtype=torch.float64)[
                int(str(chosen[f"stages[{s}].depth"])) - 1
            ]
            for s in (0, 1)
        }
        open_ = {p: v for p, v in chosen.items() if p.endswith("ratio")}
        assert close(outputs(made, {**weights, **alphas}, open_), outputs(graph, weights, chosen))


def test_a_sampled_network_is_its_architecture() -> None:
    graph = text_graph(VIT)
    weights = random_weights(graph)
    for seed in range(3):
        made = sound(run(graph, f"sample{{seed={seed}}}"))
        (chosen,) = graph.sample(1, seed=seed)
        assert not made.decisions
        assert made.cost() == graph.cost(chosen)
        own = {p: weights[p] for p in made.storages}
        for path, storage in made.storages.items():
            if path.endswith((".attn.qkv.weight", ".attn.proj.weight")):
                continue
            own[path] = own[path][tuple(slice(0, n) for n in storage.sizes)]
        heads = [p for p in chosen if p.endswith(".heads")]
        for path in heads:
            start, n = path.removesuffix(".heads"), int(str(chosen[path]))
            width = int(str(chosen["width"]))
            qkv = weights[f"{start}.attn.qkv.weight"].unflatten(0, (3, -1))
            own[f"{start}.attn.qkv.weight"] = qkv[:, : 64 * n, :width].flatten(0, 1)
            proj = weights[f"{start}.attn.proj.weight"]
            own[f"{start}.attn.proj.weight"] = proj[:width, : 64 * n]
        assert close(outputs(made, own, {}), outputs(graph, weights, chosen))


def test_tied_layers_are_layers_with_equal_weights() -> None:
    """Over random architectures: each layer reads its own slice of what the pair stores."""
    graph = text_graph(VIT)
    made = sound(run(graph, "multiplex{path=encoder,every=2,own=[attn_layer_norm]}"))
    few = random_weights(made)
    many = {
        p: few[p if p in few else p.replace("encoder[1]", "encoder[0]")] for p in graph.storages
    }
    for chosen in drawn(graph, 5):
        assert torch.equal(outputs(made, few, chosen), outputs(graph, many, chosen))


ATTENTION = ("deit", "autoformer", "s3", "swin", "tinyvit", "efficientvit")


@pytest.mark.parametrize("name", ATTENTION)
def test_tables_of_zeros_and_buckets_on_every_host(name: str) -> None:
    """irpe with zero tables is the host; with random ones bucketise keeps its function."""
    graph = host(name)
    made = run(graph, "irpe{on=[q,k,v],method=cross,shared=false}")
    weights = random_weights(graph)
    random = random_weights(made, seed=2)
    added = {p: v for p, v in random.items() if ".rpe_" in p}
    assert added
    zeros = {p: torch.zeros_like(v) for p, v in added.items()}
    (chosen,) = drawn(graph, 1)
    wanted = outputs(graph, weights, chosen)
    assert torch.equal(outputs(made, {**weights, **zeros}, chosen), wanted)
    other = outputs(made, {**weights, **added}, chosen)
    assert not torch.allclose(other, wanted)
    assert close(outputs(run(made, STEPS["bucketise"][name]), {**weights, **added}, chosen), other)


def test_irpe_of_maps_is_the_sum_by_hand() -> None:
    """Queries and keys as maps, two axes of tokens: each pair's row of the table, one by one."""
    text = """
      space host {
        input x: [B, 3, 2, 4]
        q = conv(x, 3) as q
        k = conv(x, 3) as k
        s = einsum("bcyx,bcvu->byxvu", q, k) |> rearrange("b y x v u -> b (y x) (v u)")
        output einsum("bij,bcj->bci", softmax(s), rearrange(k, "b c y x -> b c (y x)"))
      }"""
    made = sound(run(text_graph(text), "irpe{method=euclidean,on=[q,k,v]}"))
    weights = random_weights(made)
    inputs = [x.double() for x in example(made, seed=6)]
    taps: Weights = {}
    found = interpret(made, dict(weights), inputs, taps=taps)["output"]
    q, k = taps["q"].flatten(2), taps["k"].flatten(2)
    table = {side: weights[f"rpe_{side}.lookup_table_weight"][0] for side in "qkv"}

    def bucket(i: int, j: int) -> int:
        """Of the rounded distance d: d up to 1.9, then 1.9 + 1.9 log(d / 1.9) / log 8, at most 3."""
        distance = round(math.hypot(i // 4 - j // 4, i % 4 - j % 4))
        grown = 1.9 + 1.9 * math.log(max(distance, 1) / 1.9) / math.log(8)
        return 3 + (distance if distance <= 1.9 else min(round(grown), 3))

    wanted = torch.zeros_like(found)
    for b in range(len(found)):
        scores = torch.zeros(8, 8, dtype=torch.float64)
        for i, j in product(range(8), range(8)):
            row = bucket(i, j)
            scores[i, j] = q[b, :, i] @ k[b, :, j] + q[b, :, i] @ table["k"][:, row]
            scores[i, j] += k[b, :, j] @ table["q"][:, row]
        weighed = scores.softmax(dim=-1)
        for i, j in product(range(8), range(8)):
            wanted[b, :, i] += weighed[i, j] * (k[b, :, j] + table["v"][bucket(i, j)])
    assert close(found, wanted)
