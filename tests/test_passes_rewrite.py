"""Passes that rewrite what is there: inline, simplify, bucketise, relax, cascade."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spacelang.analysis.queries import model
from spacelang.backends.torch.reference.interpret import interpret
from spacelang.backends.torch.supernet import Supernet
from spacelang.diagnostics import Report, Source, SpaceError
from spacelang.ir.canonical import canonical
from spacelang.ir.decision import Assignment
from spacelang.ir.dim import Dim
from spacelang.ir.graph import Graph
from spacelang.ir.node import Value
from spacelang.ir.pattern import parse_pattern
from spacelang.ir.text import write
from spacelang.ir.verify import verify
from spacelang.loader import load
from spacelang.passes.base import Pass
from spacelang.passes.bucketise import Bucketise
from spacelang.passes.cascade import Cascade
from spacelang.passes.fold import materialised, norms_folded
from spacelang.passes.inline import Inline
from spacelang.passes.multiplex import Multiplex
from spacelang.passes.pipeline import run
from spacelang.passes.relax import Relax
from spacelang.passes.simplify import Simplify
from spacelang.passes.specialize import specialize
from spacelang.syntax.ir_text import read

SPACES = (
    "spaces/autoformer.space:autoformer_t",
    "use cdarts  space net = darts(8, stem: 8, cells: [1, 1, 1], image: 32, classes: 3)",
    "spaces/deit.space:deit_ti",
    "spaces/efficientvit.space:efficientvit_search",
    "spaces/tinyvit.space:tinyvit_5m",
)


def text_graph(text: str, **parameters: object) -> Graph:
    return load(Source("test.space", text), **parameters)


@pytest.fixture(
    scope="module", params=SPACES, ids=("autoformer", "cdarts", "deit", "efficientvit", "tinyvit")
)
def space(request: pytest.FixtureRequest) -> Graph:
    name = str(request.param)
    return load(name) if name.startswith("spaces/") else text_graph(name)


def sound(graph: Graph) -> Graph:
    """The graph, once the verifier has found nothing."""
    report = Report()
    verify(graph, report)
    assert [d.headline for d in report] == []
    return graph


def after(graph: Graph, *steps: Pass) -> Graph:
    return sound(run(graph, steps))


def weights_of(graph: Graph, seed: int = 0) -> dict[str, Tensor]:
    """Random weights in float64; variances are positive."""
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, Tensor] = {}
    for path, storage in graph.storages.items():
        value = torch.randn(storage.sizes, generator=generator, dtype=torch.float64)
        if storage.param.dtype != "f32":
            value = torch.zeros(storage.sizes, dtype=torch.int64)
        found[path] = value.abs() + 0.5 if path.endswith("running_var") else value * 0.3
    return found


def image(graph: Graph, seed: int = 1) -> Tensor:
    shape = [2 if d.symbols else int(d.at({})) for d in graph.root.inputs[0].types[0].shape]
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def output(
    graph: Graph, weights: Mapping[str, Tensor], assignment: Assignment | None = None
) -> Tensor:
    return interpret(graph, dict(weights), [image(graph)], assignment)[graph.outputs[0].name]


def same_function(before: Graph, made: Graph, samples: int = 3) -> None:
    """One function of the same weights, for random architectures."""
    weights = weights_of(before)
    drawn: Sequence[Assignment] = before.sample(samples, seed=5) if before.decisions else [{}]
    for assignment in drawn:
        wanted = output(before, weights, assignment)
        found = output(made, weights, assignment)
        assert torch.allclose(found, wanted, rtol=1e-10, atol=1e-11 * float(wanted.abs().max()))


def same_space(before: Graph, made: Graph) -> None:
    """The same decisions, storages and figures."""
    assert dict(made.decisions) == dict(before.decisions)
    assert {p: (s.shape, s.bank) for p, s in made.storages.items()} == {
        p: (s.shape, s.bank) for p, s in before.storages.items()
    }
    if not before.decisions:
        assert made.cost().params == before.cost().params
        return
    assert made.size() == before.size()
    for assignment in before.sample(5, seed=2):
        assert made.cost(assignment).params == before.cost(assignment).params


def refused(graph: Graph, step: Pass, code: str, *words: str) -> None:
    with pytest.raises(SpaceError) as failed:
        run(graph, step)
    assert {d.code for d in failed.value.diagnostics} == {code}
    assert all(word in str(failed.value) for word in words), str(failed.value)


def ops_of(graph: Graph) -> list[str]:
    return [place.node.op for place in graph.places()]


# Inline.


def test_inline_keeps_the_space_and_every_figure(space: Graph) -> None:
    graph, flat = space, after(space, Inline())
    assert flat.blocks == {}
    assert all(place.node.call is None for place in flat.places())
    same_space(graph, flat)
    assert list(flat.storages) == list(graph.storages)
    for assignment in graph.sample(3, seed=1) if graph.decisions else [{}]:
        assert flat.cost(assignment) == graph.cost(assignment)


def test_inline_keeps_the_function_to_the_bit() -> None:
    graph = load("spaces/autoformer.space:autoformer_t", image=32, classes=3)
    flat = run(graph, Inline())
    weights, assignment = weights_of(graph), graph.sample(1, seed=0)[0]
    assert torch.equal(output(graph, weights, assignment), output(flat, weights, assignment))


def test_a_fixed_network_ends_as_one_list_of_ops() -> None:
    flat = run(load("spaces/autoformer.space:autoformer_t_subnet"), Inline())
    assert not any(node.regions or node.call for node in flat.root.nodes)
    labels = {node.label for node in flat.root.nodes}
    assert {"encoder[3].attn.qkv", "encoder[3].attn", "encoder[12]"} <= labels


def test_inline_and_specialize_commute() -> None:
    graph = load("spaces/autoformer.space:autoformer_t")
    (assignment,) = graph.sample(1, seed=4)
    one, two = specialize(run(graph, Inline()), assignment), specialize(graph, assignment)
    assert one.cost() == two.cost() == run(two, Inline()).cost()
    assert not one.blocks


TAPPED = """
block pair(x: [B, N, C]) { return [relu(x), linear(x, C) as fc] }
block same(x: [B, N, C]) { return x }
block twice(x: [B, N, C]) { a, b = pair(x) as p  return same(a + b) as s }
space net() { input x: [B, 2, 3]  output twice(x) as t }
"""


def test_inline_keeps_the_names_of_values() -> None:
    graph = text_graph(TAPPED)
    flat = after(graph, Inline())
    weights = weights_of(graph)
    before: dict[str, Tensor] = {}
    there: dict[str, Tensor] = {}
    interpret(graph, dict(weights), [image(graph)], taps=before)
    interpret(flat, dict(weights), [image(graph)], taps=there)
    assert set(there) == {"x", "t", "t.p", "t.p.fc", "t.s"} <= set(before)
    assert all(torch.equal(before[path], there[path]) for path in there)


def test_inline_ties_weights_as_calls_do() -> None:
    graph = load("spaces/deit.space:deit_ti", depth=4, image=32)
    tied = run(graph, Multiplex(parse_pattern("blocks"), 2, (parse_pattern("norm1"),)))
    flat = after(tied, Inline())
    assert {p: s.shape for p, s in flat.storages.items()} == {
        p: s.shape for p, s in tied.storages.items()
    }
    assert len(flat.storages) < len(graph.storages)
    same_function(tied, flat)


def test_inline_ties_weights_of_different_sizes() -> None:
    graph = load("spaces/autoformer.space:autoformer_t", image=32, classes=3)
    tied = run(graph, Multiplex(parse_pattern("encoder"), 2))
    flat = after(tied, Inline())
    same_space(tied, flat)
    (shared,) = (p for p in flat.root.params if p.path == "encoder[0].attn.qkv.weight")
    heads = [s.name for s in shared.shape[0][1].symbols]
    assert sorted(heads) == ["encoder[0].heads", "encoder[1].heads"]


# Simplify.


def test_simplify_keeps_the_space_and_every_figure(space: Graph) -> None:
    graph = space
    for made in (after(graph, Simplify()), after(graph, Inline(), Simplify())):
        same_space(graph, made)
        for assignment in graph.sample(3, seed=1) if graph.decisions else [{}]:
            assert made.cost(assignment) == graph.cost(assignment)
        assert run(made, Simplify()) == made


def test_simplify_keeps_the_function() -> None:
    graph = load("spaces/autoformer.space:autoformer_t", image=32, classes=3)
    made = run(graph, [Inline(), Bucketise(), Simplify()])
    assert len(made.root.nodes) < len(run(graph, [Inline(), Bucketise()]).root.nodes)
    same_function(graph, made)


def test_readers_are_counted_once_for_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rearranges in a row: values are compared as often as there are pairs, not pairs squared."""
    pairs = "\n".join(
        f'y = rearrange(y, "b (n m) c -> b n m c", n: {n}) |> rearrange("b n m c -> b c n m")'
        ' |> gelu |> rearrange("b c n m -> b (n m) c")'
        for n in [2, 3] * 30
    )
    graph = text_graph(f"space net() {{ input x: [B, 6, 4] y = gelu(x)\n{pairs}\noutput y }}")
    equal = Value.__eq__
    compared = 0

    def counted(a: Value, b: object) -> bool:
        nonlocal compared
        compared += 1
        return equal(a, b)

    monkeypatch.setattr(Value, "__eq__", counted)
    made = Simplify().run(graph, Report())
    assert ops_of(made).count("rearrange") == 120
    assert compared < 6_000


def test_what_is_dead_and_nameless_goes() -> None:
    graph = text_graph("""
      block dull(x: [B, N, C]) { return gelu(x) }
      space net() {
        input x: [B, 2, 3]
        a = relu(x)  b = dull(x)  c = linear(x, 4) as kept  d = gelu(x) as named
        output x * 2
      }""")
    made = after(graph, Simplify())
    assert sorted(ops_of(made)) == ["gelu", "input", "linear", "mul"]
    assert made.blocks == {}


def test_equal_values_are_computed_once() -> None:
    graph = text_graph("""
      space net() {
        input x: [B, 2, 3]
        a = gelu(relu(x))  b = gelu(relu(x)) as b
        output a + b + dropout(x, 0.1) * dropout(x, 0.1)
      }""")
    made = after(graph, Simplify())
    assert ops_of(made).count("gelu") == ops_of(made).count("relu") == 1
    assert ops_of(made).count("dropout") == 2
    assert [n.label for n in made.root.nodes if n.op == "gelu"] == ["b"]
    same_function(graph, made)


def test_two_names_of_equal_values_stay() -> None:
    made = after(
        text_graph("space net() { input x: [B, 3]  output (relu(x) as a) + (relu(x) as b) }"),
        Simplify(),
    )
    assert ops_of(made).count("relu") == 2


@pytest.mark.parametrize(
    ("steps", "left"),
    [
        (["b h w c -> b c h w", "b c h w -> b h w c"], []),
        (["b h w c -> b (h w) c", "b (p q) d -> b p q d"], []),
        (["b h w c -> b (h w) c", "b n c -> n b c"], ["a0 a1 a2 a3 -> (a1 a2) a0 a3"]),
        (["b h w (g d) -> b g h w d", "... g h w d -> ... h w (g d)"], []),
        (["b h w c -> b c h w", "b c h w -> b c h w"], ["b h w c -> b c h w"]),
        (
            ["b h w c -> b (h w) c", "b n (g d) -> b g n d"],
            ["a0 a1 a2 (a3 a4) -> a0 a3 (a1 a2) a4"],
        ),
        (["... h w c -> ... (h w c)", "b (p q) -> b q p"], None),
    ],
)
def test_rearranges_in_a_row(steps: list[str], left: list[str] | None) -> None:
    sizes = {"b (p q) d -> b p q d": "p: 4", "b h w (g d) -> b g h w d": "g: 2",
             "b (p q) -> b q p": "p: 4", "b n (g d) -> b g n d": "g: 2"}  # fmt: skip
    calls = "".join(f' |> rearrange("{s}"{", " + sizes[s] if s in sizes else ""})' for s in steps)
    graph = text_graph(f"space net() {{ input x: [B, 4, 5, 6]  output x{calls} }}")
    made = after(graph, Simplify())
    found = [str(n.attributes["pattern"]) for n in made.root.nodes if n.op == "rearrange"]
    assert len(found) == 1 if left is None else found == left
    same_function(graph, made)


@settings(max_examples=40)
@given(st.data())
def test_any_rearranges_in_a_row(data: st.DataObject) -> None:
    """Axes of random factors, split, permuted and merged at random, keep their order of entries."""
    sizes = {"a": 2, "b": 3, "c": 5, "d": 2}
    axes = [["a"], ["b"], ["c"], ["d"]]
    calls = ""
    for _ in range(data.draw(st.integers(2, 4))):
        atoms = data.draw(st.permutations([atom for group in axes for atom in group]))
        cuts = sorted(data.draw(st.sets(st.integers(1, 3))))
        made = [list(atoms[i:j]) for i, j in zip([0, *cuts], [*cuts, 4], strict=True)]
        given_sizes = "".join(f", {x}: {sizes[x]}" for group in axes for x in group[1:])
        sides = (" ".join(f"({' '.join(g)})" for g in side) for side in (axes, made))
        calls += f' |> rearrange("{" -> ".join(sides)}"{given_sizes})'
        axes = made
    graph = text_graph(f"space net() {{ input x: [2, 3, 5, 2]  output x{calls} }}")
    made_graph = after(graph, Simplify())
    assert ops_of(made_graph).count("rearrange") <= 1
    same_function(graph, made_graph)


def test_a_named_rearrange_keeps_its_name() -> None:
    graph = text_graph("""
      space net() {
        input x: [B, 4, 5]
        y = rearrange(x, "b n c -> b c n") as turned |> rearrange("b c n -> b n c") as back
        output y * 2
      }""")
    made = after(graph, Simplify())
    assert [n.label for n in made.root.nodes if n.label] == ["x", "turned", "back"]
    assert ops_of(made).count("rearrange") == 1


SCALED = """
use vit
block attention(x: [B, N, C]) -> [B, N, C] {
  q, k, v = linear(x, [3, 2, 4]) as qkv |> unstack(axis: 2)
  s = SCORES
  return linear(weigh(softmax(s), v), C, axes: 2) as proj
}
space net() { input x: [B, 9, 8]  output attention(x) as attn }
"""


@pytest.mark.parametrize(
    ("scores", "count", "rank"),
    [
        ('einsum("...ihd,...jhd->...hij", q, k) * 0.3', 1, 4),
        ("scores(q, k) / 3", 1, 4),
        ("scores(q * 0.5, k) * 0.3", 1, 4),
        ('(scores(q, k) + einsum("bihd,ijd->bhij", q, parameter([9, 9, 4]) as r)) * 0.3', 1, 4),
    ],
)
def test_scales_move_onto_the_queries(scores: str, count: int, rank: int) -> None:
    graph = text_graph(SCALED.replace("SCORES", scores))
    made = after(graph, Simplify())
    (attention,) = (b for b in made.blocks.values() if b.name == "attention")
    scales = [n for n in attention.nodes if n.op in ("mul", "div")]
    assert len(scales) == count
    assert all(n.types[0].shape[-1] == Dim.of(4) for n in scales)  # q, no more the scores
    same_function(graph, made)


@pytest.mark.parametrize(
    "scores", ["(scores(q, k) as logits) * 0.3", "(scores(q, k) + parameter([9, 9]) as bias) * 0.3"]
)
def test_scales_stay_where_a_name_or_a_bias_is_between(scores: str) -> None:
    graph = text_graph(SCALED.replace("SCORES", scores))
    assert run(graph, Simplify()) == graph


@pytest.mark.parametrize(
    ("name", "folded"), [("efficientvit_m0", 2_334_916), ("efficientvit_m2", 4_168_338)]
)
def test_folded_norms_give_the_published_parameters(name: str, folded: int) -> None:
    graph = load(f"spaces/efficientvit.space:{name}")
    made = after(graph, Simplify(fold_norm=True))
    assert "batch_norm" not in ops_of(made)
    assert made.cost().params == graph.cost().params  # the same weights, read otherwise
    fixed, recipe = materialised(made)
    assert recipe is not None
    assert fixed.cost().params == folded
    assert fixed.cost().macs == graph.cost().macs
    assert {o.name for o in sound(recipe).outputs} <= set(sound(fixed).storages)


def test_folded_norms_keep_the_function_in_evaluation() -> None:
    graph = load(
        "spaces/efficientvit.space:efficientvit_m0", image=32, larger_windows=True, classes=3
    )
    made = run(graph, Simplify(fold_norm=True))
    same_function(graph, made)
    fixed, recipe = materialised(made)
    assert recipe is not None
    weights = weights_of(graph)
    values = {**weights, **interpret(recipe, dict(weights), [])}
    stored = {path: values[path] for path in fixed.storages}
    assert not any(path.endswith("running_mean") for path in stored)
    assert torch.allclose(output(fixed, stored), output(graph, weights), rtol=1e-9)


def test_norms_fold_in_spaces_too() -> None:
    graph = load("spaces/cream.space:cream", depths=[1, 1, 1, 1, 1], image=32, classes=3)
    made = after(graph, Simplify(fold_norm=True))
    assert made.size() == graph.size()
    same_function(graph, made)


def test_a_norm_whose_product_is_read_twice_is_not_folded() -> None:
    graph = text_graph("""
      space net() {
        input x: [B, 3, 4, 4]
        y = conv(x, 5) as c
        output (batch_norm(y) as bn) + y
      }""")
    assert norms_folded(graph) is graph


def test_weights_of_a_space_are_not_materialised() -> None:
    with pytest.raises(SpaceError, match="hang on"):
        materialised(load("spaces/efficientvit.space:efficientvit_search"))


def test_nothing_is_materialised_where_nothing_is_computed() -> None:
    assert materialised(load("spaces/deit.space:deit_ti", depth=2))[1] is None


# Bucketise.


def test_bucketise_gives_the_figures_of_autoformer() -> None:
    graph = load("spaces/autoformer.space:autoformer_t_subnet")
    made = after(graph, Bucketise())
    assert graph.cost().macs - 1_283_236_352 == 198_702_080
    assert made.cost().macs - 1_283_236_352 == 60_518_400
    assert made.cost().params == graph.cost().params


def test_bucketise_keeps_space_and_weights() -> None:
    graph = load("spaces/autoformer.space:autoformer_t")
    made = after(graph, Bucketise())
    same_space(graph, made)
    layers = sum(place.node.op == "bucket_sum" for place in made.places())
    assert layers == 2 * 14
    assert "relative" not in made.blocks
    assert run(made, Bucketise()) == made


def test_bucketise_keeps_the_function() -> None:
    graph = load("spaces/autoformer.space:autoformer_t", image=48, classes=3)
    same_function(graph, run(graph, Bucketise()), 2)
    same_function(graph, run(graph, [Inline(), Bucketise()]), 1)


TERMS = """
block rows(n, dim, scale) -> [9, 9, dim] {
  v = parameter([8, dim]) as v
  h = parameter([8, dim]) as h
  return take(v, clipped_index(3, 3, axis: 0, reach: 2))
       - take(h, clipped_index(3, 3, axis: 1, reach: 2)) * scale
}
space net() {
  input x: [B, 9, 8]
  q = linear(x, [2, 4]) as q
  p = softmax(einsum("bihd,bjhd->bhij", q, linear(x, [2, 4]) as k)) as p
  output TERM
}
"""


@pytest.mark.parametrize(
    ("term", "ops"),
    [
        ('einsum("bihd,ijd->bhij", q, rows(9, 4, 0.5) as r)', {"gather"}),
        ('einsum("ijd,bihd->bijh", rows(9, 4, 0.5) as r, q)', {"gather"}),
        ('einsum("bjhd,ijd->bhij", q, rows(9, 4, 2) as r)', {"gather"}),
        ('einsum("bhij,ijd->bihd", p, rows(9, 4, 0.5) as r)', {"bucket_sum"}),
        ('einsum("bhij,ijd->bjhd", p, rows(9, 4, 2) as r)', {"bucket_sum"}),
        (
            'einsum("bihd,hijd->bhij", q, take(parameter([2, 8, 4]) as t, '
            "clipped_index(3, 3, axis: 0, reach: 2), axis: 1))",
            {"gather"},
        ),
        (
            'einsum("bhij,ijhd->bihd", p, take(parameter([8, 2, 4]) as t, '
            "clipped_index(3, 3, axis: 0, reach: 2)))",
            {"bucket_sum"},
        ),
    ],
)
def test_bucketise_on_every_side(term: str, ops: set[str]) -> None:
    graph = text_graph(TERMS.replace("TERM", term))
    made = after(graph, Bucketise())
    assert ops <= set(ops_of(made))
    assert "take" not in ops_of(made)
    same_space(graph, made)
    same_function(graph, made)


@pytest.mark.parametrize(
    "term",
    [
        'einsum("bihd,ijd->bijhd", q, rows(9, 4, 2) as r)',  # nothing is summed over
        'einsum("bihd,ijd->bih", q, rows(9, 4, 2) as r)',
        "p + take(parameter([8]) as t, clipped_index(3, 3, axis: 0, reach: 2))",
    ],
)
def test_bucketise_leaves_other_terms(term: str) -> None:
    graph = text_graph(TERMS.replace("TERM", term))
    if "bijhd" in term:
        same_function(graph, run(graph, Bucketise()))
    else:
        refused(graph, Bucketise(), "SP601", "no relative-position term in net")


def test_rows_that_are_summed_many_times_are_read_once() -> None:
    doubled = "  for i in 0..<40 { r = r + r }\n  return r * power(2, -39)\n}"
    text = TERMS.replace("return take(v", "r = take(v").replace("* scale\n}", f"* scale\n{doubled}")
    text = text.replace("TERM", 'einsum("bihd,ijd->bhij", q, rows(9, 4, 0.5) as r)')
    made = after(text_graph(text), Bucketise())
    assert ops_of(made).count("gather") == 2  # vertical and horizontal ones, each with its factor
    assert max(len(block.nodes) for block in (made.root, *made.blocks.values())) < 40
    same_function(text_graph(text), made)


def test_bucketise_meets_the_figures_of_irpe() -> None:
    graph = load("spaces/irpe.space:deit_s_product_qkv")
    made = after(graph, Bucketise())
    assert graph.cost().macs - made.cost().macs == 178_831_872 - 45_388_800
    assert run(load("spaces/irpe.space:deit_s_product_k"), Bucketise()) is not None  # done already


# Relax.

CELLS = """
block edge(x: [B, N, C]) {
  return choose op { mix: linear(x, C) as fc  act: gelu(x)  none: zero(x) }
}
cell normal(a, b) {
  states = [a, b]
  for n in 0..2 {
    choose inputs[n] in 2 of states
    y = total(inputs) |s, source, e| { return edge(s) as dag[n][e] }
    states = states + [y]
  }
  return concat(states[2..4], axis: 2)
}
space net(large = 3) {
  input x: [B, 2, 6]
  choose depth in 1..large
  a = x  b = x
  for i in 0..<depth {
    y = linear(normal(a, b) as cells[i], 6) as join[i]
    a = b
    b = y
  }
  output b
}
"""


def darts_figures(graph: Graph) -> dict[str, int]:
    found: dict[str, int] = {}
    for path, storage in graph.storages.items():
        if storage.param.role == "weight":
            head = path.partition("[")[0].partition(".")[0]
            found[head] = found.get(head, 0) + storage.numel
    return found


def test_relax_gives_the_search_network_of_cdarts() -> None:
    graph = sound(load("spaces/cdarts.space:cifar10_search"))
    assert not graph.decisions
    figures = darts_figures(graph)
    assert figures == {
        "feature_extractor": 1_392, "nas_layers": 1_926_656, "fc": 2_570, "alphas": 252,
        "distill_aux_head1": 417_290, "distill_aux_head2": 433_674,
    }  # fmt: skip
    alphas = {p: s for p, s in graph.storages.items() if p.startswith("alphas.")}
    assert sum(s.numel for p, s in alphas.items() if p.endswith(".op")) == 224
    assert alphas["alphas.normal.dag[3][4].op"].sizes == (8,)
    assert alphas["alphas.reduction.inputs[2]"].sizes == (4,)
    assert not any(s.param.decay for s in alphas.values())
    cell = sum(s.numel for p, s in graph.storages.items()
               if p.startswith("nas_layers[0][0].") and s.param.role == "weight")  # fmt: skip
    assert cell == 45_888
    work = model(graph)
    macs = {"all": 0, "far": 0}
    for place in graph.places():
        done = int(work.of_node(place)[0].at({}))
        macs["all"] += done
        macs["far"] += done if place.path.startswith("distill_aux_head2") else 0
    assert macs["all"] + macs["far"] == 311_747_584  # published with the second head run twice


@pytest.mark.parametrize(
    ("arguments", "cells", "stem"),
    [
        ("16, stem: 48, cells: [7, 7, 6], image: 32, classes: 10, affine: false", 4_544_768, 1_392),
        ("16, stem: 16, cells: [3, 3, 2], image: 224, classes: 1000, large: true, affine: false",
         1_925_120, 3_752),
        ("16, stem: 16, cells: [5, 5, 4], image: 224, classes: 1000, large: true, affine: false",
         3_234_176, 3_752),
    ],
)  # fmt: skip
def test_relax_gives_the_other_networks_of_cdarts(arguments: str, cells: int, stem: int) -> None:
    graph = text_graph(f"use cdarts\nspace net = darts({arguments})")
    figures = darts_figures(run(graph, Relax({"op": "softmax", "inputs": "softmax"})))
    assert figures["nas_layers"] == cells
    assert figures["feature_extractor"] == stem


def relaxed_weights(
    graph: Graph, relaxed: Graph, weights: Mapping[str, Tensor], assignment: Assignment
) -> dict[str, Tensor]:
    """The weights of an architecture in its search network, with one-hot architecture weights."""
    found = weights_of(relaxed, seed=9)
    for path, value in assignment.items():
        if path.startswith("normal.inputs"):
            found[f"alphas.{path}"] = torch.zeros_like(found[f"alphas.{path}"])
            found[f"alphas.{path}"][value] = 1.0
    for n in range(3):
        drawn = assignment[f"normal.inputs[{n}]"]
        assert isinstance(drawn, list)
        for e, source in enumerate(drawn):
            kind = ["mix", "act", "none"].index(str(assignment[f"normal.dag[{n}][{e}].op"]))
            alpha = f"alphas.normal.dag[{n}][{source}].op"
            found[alpha] = torch.zeros(3, dtype=torch.float64)
            found[alpha][kind] = 1.0
            for path, value in weights.items():
                own = f".dag[{n}][{e}]."
                if own in path:
                    found[path.replace(own, f".dag[{n}][{source}].")] = value
    return found | {p: v for p, v in weights.items() if p in found and ".dag[" not in p}


def test_one_hot_weights_are_the_choice() -> None:
    graph = text_graph(CELLS)
    made = after(graph, Relax({"op": "plain", "inputs": "plain"}))
    assert set(made.decisions) == {"depth"}
    weights = weights_of(graph)
    for assignment in graph.sample(6, seed=3):
        chosen = dict(assignment)
        if chosen["depth"] == 2:  # a draw may be spelt in any order
            chosen["normal.inputs[1]"] = list(reversed(chosen["normal.inputs[1]"]))
        there = relaxed_weights(graph, made, weights, chosen)
        wanted = output(graph, weights, chosen)
        found = output(made, there, {"depth": chosen["depth"]})
        assert torch.allclose(found, wanted, rtol=1e-12, atol=1e-12)


def test_a_softmax_with_one_large_entry_is_the_choice() -> None:
    graph = text_graph(CELLS, large=1)
    made = after(graph, Relax({"op": "softmax"}))
    assert {p.rpartition(".")[2].partition("[")[0] for p in made.decisions} == {"inputs", "depth"}
    weights = weights_of(graph)
    for assignment in graph.sample(4, seed=1):
        there = weights_of(made) | weights
        for path, value in assignment.items():
            if path.endswith(".op"):
                entry = ["mix", "act", "none"].index(str(value))
                there[f"alphas.{path}"] = torch.zeros(3, dtype=torch.float64)
                there[f"alphas.{path}"][entry] = 1e4
        open_ = {p: v for p, v in assignment.items() if not p.endswith(".op")}
        assert torch.equal(output(made, there, open_), output(graph, weights, assignment))


def test_relaxed_cost_is_that_of_all_alternatives() -> None:
    graph = text_graph(CELLS, large=1)
    made = run(graph, Relax({"op": "softmax", "inputs": "softmax"}))
    edges, cell = 2 + 3 + 4, 6 * 6 * 2
    assert made.cost({"depth": 1}).macs == edges * cell + 2 * 18 * 6
    alphas = 3 * edges + edges
    assert made.cost({"depth": 1}).params == edges * (36 + 6) + (18 * 6 + 6) + alphas


def test_a_relaxed_pick_leaves_a_decision_for_each_source() -> None:
    graph = text_graph(CELLS, large=1)
    made = after(graph, Relax({"inputs": "softmax"}))
    ops = {f"normal.dag[{n}][{j}].op" for n in range(3) for j in range(n + 2)}
    assert set(made.decisions) == {"depth", *ops}
    assert made.size() == 3 ** len(ops)


INLINE_CHOICE = """
space net() {
  input x: [B, 2, 6]
  states = [x, gelu(x)]
  for n in 0..1 {
    choose inputs[n] in 2 of states
    y = total(inputs) |s, source, e| {
      return choose op[n][e] { mix: linear(s, 6) as fc  deep: choose inner { a: relu(s)  b: -s } }
    }
    states = states + [y]
  }
  output states[3]
}
"""


def test_choices_written_in_the_region_follow_their_source() -> None:
    graph = text_graph(INLINE_CHOICE)
    made = after(graph, Relax({"inputs": "softmax"}))
    assert {"op[1][2]", "op[1][0].deep.inner", "op[0][1]"} <= set(made.decisions)
    assert not any(path.startswith("inputs") for path in made.decisions)
    assert {"op[1][2].mix.fc.weight", "alphas.inputs[1]"} <= set(made.storages)
    both = after(graph, Relax({"inputs": "softmax", "op": "sigmoid"}))
    assert set(both.decisions) == {f"op[{n}][{j}].deep.inner" for n in (0, 1) for j in range(n + 2)}
    assert all(not c.live.symbols for c in both.decisions.values())
    assert both.size() == 2**5
    every = after(graph, Relax({"inputs": "plain", "op": "plain", "inner": "plain"}))
    assert not every.decisions
    assert every.storages["alphas.op[1][2].deep.inner"].sizes == (2,)
    assert every.storages["alphas.op[1][2].alphas"].sizes == (2,)
    later = after(both, Relax({"inner": "plain"}))
    assert {"alphas.op[1][2].alphas", "alphas.op[1][2].deep.inner"} <= set(later.storages)
    assert Supernet(later)(torch.ones(1, 2, 6)).isfinite().all()


@pytest.mark.parametrize("order", [["op inner"], ["op", "inner"], ["inner", "op"]], ids=str)
def test_a_choice_inside_of_a_choice(order: list[str]) -> None:
    """Both have parameters, none inside of the other, so a module holds them."""
    made = text_graph(
        "space net() { input x: [B, 2, 6]\n"
        "  output choose op { a: linear(choose inner { p: relu(x)  q: -x }, 6) as fc  b: x } }"
    )
    for names in order:
        made = after(made, Relax(dict.fromkeys(names.split(), "softmax")))
    assert {p for p in made.storages if "alphas" in p} == {"alphas.op.alphas", "alphas.op.a.inner"}
    model = Supernet(made).double()
    x = torch.randn(3, 2, 6, dtype=torch.float64)
    weights = {name: tensor.detach() for name, tensor in model.named_parameters()}
    assert torch.allclose(model(x), interpret(made, weights, [x])["output"])


def test_relax_drops_rules_of_what_is_gone() -> None:
    text = CELLS.replace("output b\n", "output b\n  weights { normal.dag[_][_].op: separate }\n")
    graph = text_graph(text, large=1)
    assert run(graph, Relax({"op": "softmax"})).rules == ()
    assert run(graph, Relax({"inputs": "softmax"})).rules == graph.rules


def test_what_relax_refuses() -> None:
    graph = text_graph(CELLS)
    wide = text_graph(CELLS.replace("gelu(x)  none", "linear(linear(x, size), C)  none").replace(
        "  return choose op {", "  choose size in {2, 4}\n  return choose op {"
    ) + "space wide from net { weights { _: entangle } }")  # fmt: skip
    refused(wide, Relax({"size": "softmax"}), "SP601", "no path, no pick and no presence")
    refused(graph, Relax({"opp": "softmax"}), "SP504", "no decision is called opp")
    refused(graph, Relax({"op": "hard"}), "SP204", "softmax, sigmoid, plain")
    refused(graph, Relax(), "SP204", "needs a decision")
    refused(graph, Relax({"op": "softmax"}, spread=-1), "SP209", "spread")


def test_numbers_cannot_be_mixed() -> None:
    graph = text_graph("""
      space net() {
        input x: [B, 2, 6]
        choose heads in {2, 3}
        y = choose op { p: linear(x, 6) as f  q: gelu(x) }
        output rearrange(y, "b n (h d) -> b h n d", h: heads)
      }""")
    assert run(graph, Relax({"op": "plain"})).storages["alphas.op"].sizes == (2,)
    refused(graph, Relax({"heads": "plain"}), "SP601", "heads cannot become a mixture")


# Cascade.

ATTENTION = """
use conv
use vit
block head(part: [B, D, H, W], bias: [N, M], kernel, key) -> [B, D, H, W] {
  q, k, v = conv_bn(part, 2 * key + D) as qkvs |> split([key, key, D], axis: 1)
  q = conv_bn(q, key, kernel, groups: key) as dws
  s = einsum("bcyx,bcvu->byxvu", q, k) * rsqrt(key) |> rearrange("b y x v u -> b (y x) (v u)")
  p = softmax(s + bias)
  return einsum("bij,bcj->bci", p, rearrange(v, "b c y x -> b c (y x)"))
      |> rearrange("b c (y x) -> b c y x", y: H)
}
block table(heads, N) -> [heads, N * N, N * N] {
  return take(parameter([heads, N * N], init: 0) as attention_biases,
              offset_index(N, N, kind: "absolute"), axis: 1)
}
block sliced(x: [B, C, H, W], heads, kernels, key = 4) -> [B, C, H, W] {
  bias = table(heads, H) as _
  ys = []
  for i, part in enumerate(split(x, heads, axis: 1)) {
    ys = ys + [head(part, bias[i], kernels[i], key) as heads[i]]
  }
  return relu(concat(ys, axis: 1)) |> conv_bn(C, gamma: 0) as proj[1]
}
block written(x: [B, C, H, W], heads, kernels, key = 4) -> [B, C, H, W] {
  bias = table(heads, H) as _
  y = cascade(split(x, heads, axis: 1), axis: 1) |i, part| {
    return head(part, bias[i], kernels[i], key) as heads[i]
  }
  return relu(y) |> conv_bn(C, gamma: 0) as proj[1]
}
block projected(x: [B, N, C], heads) -> [B, N, C] {
  let dim = C / heads
  q, k, v = linear(x, [3, heads, dim]) as qkv |> unstack(axis: 2)
  p = softmax(scores(q * rsqrt(dim), k) + parameter([heads, N, N]) as bias)
  return linear(weigh(p, v), C, axes: 2) as proj
}
block written_out(x: [B, N, C], heads) -> [B, N, C] {
  let dim = C / heads
  bias = parameter([heads, N, N]) as bias
  y = cascade(split(x, heads, axis: 2), axis: 2) |i, part| {
    q, k, v = linear(part, [3, 1, dim]) as qkv[i] |> unstack(axis: 2)
    p = softmax(scores(q * rsqrt(dim), k) + bias[i])
    return weigh(p, v) |> rearrange("b n h d -> b n (h d)")
  }
  return linear(y, C) as proj
}
space maps(heads = 4, cascaded = false) {
  input x: [B, 16, 3, 3]
  when cascaded { output written(x, heads, [7, 5, 3, 3]) as attn }
  else { output sliced(x, heads, [7, 5, 3, 3]) as attn }
}
space words(heads = 4, cascaded = false) {
  input x: [B, 5, 16]
  when cascaded { output written_out(x, heads) as attn } else { output projected(x, heads) as attn }
}
"""


def attention(form: str, **parameters: object) -> Graph:
    only = ATTENTION if form == "words" else ATTENTION[: ATTENTION.index("space words")]
    return text_graph(only, **parameters)


def cascade(path: str, parts: int = 0) -> Cascade:
    return Cascade(parse_pattern(path), parts)


def test_heads_on_slices_become_the_written_cascade() -> None:
    made = after(attention("maps"), cascade("attn"))
    written = attention("maps", cascaded=True)
    assert canonical(made) == canonical(written)
    assert made.cost() == written.cost() == attention("maps").cost()
    weights = weights_of(written)
    assert torch.equal(output(made, weights), output(written, weights))
    assert not torch.equal(output(made, weights), output(attention("maps"), weights))


def test_one_projection_becomes_the_written_cascade() -> None:
    made = after(attention("words"), cascade("attn"))
    written = attention("words", cascaded=True)
    assert {p: s.sizes for p, s in made.storages.items()} == {
        p: s.sizes for p, s in written.storages.items()
    }
    assert made.cost() == written.cost()
    assert made.cost().params < attention("words").cost().params
    weights = weights_of(written)
    assert torch.allclose(output(made, weights), output(written, weights), rtol=1e-12)


@pytest.mark.parametrize("form", ["maps", "words"])
def test_one_head_is_the_plain_attention(form: str) -> None:
    graph = attention(form, heads=1)
    assert run(graph, cascade("attn")) == graph
    assert run(attention(form), cascade("attn", 1)) == attention(form)


def test_groups_of_heads() -> None:
    graph = attention("words")
    made = after(graph, cascade("attn", 2))
    assert made.storages["attn.qkv[1].weight"].shape == ((3, 2, 4), (8,))
    assert made.cost().params == graph.cost().params - 3 * 16 * 16 // 2


@pytest.mark.parametrize(
    ("name", "path", "layers"),
    [
        ("spaces/deit.space:deit_ti", "blocks[_].attn", 12),
        ("spaces/tinyvit.space:tinyvit_5m", "layers[1].blocks[_].attn", 2),
        ("spaces/swin.space:swin_t", "layers[2].blocks[_].attn", 6),
    ],
)
def test_published_attention_can_be_cascaded(name: str, path: str, layers: int) -> None:
    graph = load(name)
    made = after(graph, cascade(path))
    assert made.cost().macs < graph.cost().macs
    firsts = [p for p in made.storages if p.endswith("qkv[0].weight")]
    assert len(firsts) == layers


def test_some_layers_only() -> None:
    graph = load("spaces/deit.space:deit_ti")
    made = after(graph, cascade("blocks[0..2].attn"))
    widths = [made.storages.get(f"blocks[{i}].attn.qkv[2].weight") for i in range(4)]
    assert [w.sizes if w else None for w in widths] == [(192, 64)] * 3 + [None]
    assert made.storages["blocks[3].attn.qkv.weight"].sizes == (576, 192)


def test_cascade_keeps_the_size_of_the_space() -> None:
    text = ATTENTION.replace(
        "space words(heads = 4, cascaded = false) {",
        "space words(cascaded = false) {\n  choose heads in {2, 4}\n  weights { _: entangle }",
    )
    graph = text_graph(text)
    refused(graph, cascade("attn"), "SP601", "the number of heads", "2, 4")
    made = after(graph, cascade("attn", 2))
    assert made.size() == graph.size() == 2


CROSS = """
use vit
block attention(x: [B, N, C], z: [B, N, C], heads) -> [B, N, C] {
  let dim = C / heads
  q = linear(x, [heads, dim]) as q
  k = linear(z, [heads, dim]) as k
  return linear(weigh(softmax(scores(q, k)) as p, k), C, axes: 2) as proj
}
space net() { input x: [B, 5, 16]  output attention(x, relu(x), 4) as attn }
"""

MIXED = """
use vit
block attention(x: [B, N, C], heads) -> [B, N, C] {
  let dim = C / heads
  q, k, v = linear(x, [3, heads, dim]) as qkv |> unstack(axis: 2)
  p = softmax(scores(q, k))
  p = einsum("bhij,hg->bgij", p, parameter([heads, heads]) as talk) as mixed
  return linear(weigh(p, v), C, axes: 2) as proj
}
space net() { input x: [B, 5, 16]  output attention(x, 4) as attn }
"""


def test_what_cascade_refuses() -> None:
    refused(text_graph(MIXED), cascade("attn"), "SP601", "at mixed, it mixes the heads")
    refused(text_graph(CROSS), cascade("attn"), "SP601", "not made of the same value")
    refused(attention("words"), cascade("attn", 3), "SP601", "4 heads do not make 3 equal groups")
    refused(attention("maps"), cascade("attn", 2), "SP601", "4 heads on slices")
    refused(attention("maps"), cascade("attn.proj[1]"), "SP601", "no linear gives its heads")
    refused(attention("words"), cascade("attn.qkv"), "SP601", "attn.qkv is no block")
    refused(attention("words"), cascade("atn"), "SP504", "atn")
    refused(attention("maps", cascaded=True), cascade("attn"), "SP601", "reads the slices 0, 1")
    wide = load("spaces/autoformer.space:autoformer_t_subnet")
    refused(wide, cascade("encoder[_].attn"), "SP601", "[B, 197, 64]", "[B, 197, 48]")


# All of them.


def test_rewritten_graphs_have_an_exact_text() -> None:
    vit = load("spaces/autoformer.space:autoformer_t", image=48, classes=3)
    conv = load(
        "spaces/efficientvit.space:efficientvit_m0", image=32, larger_windows=True, classes=3
    )
    folded = run(conv, Simplify(fold_norm=True))
    fixed, recipe = materialised(folded)
    assert recipe is not None
    cells = run(text_graph(CELLS), Relax({"op": "softmax", "inputs": "sigmoid"}))
    made = [run(vit, [Bucketise()]), run(vit, [Inline(), Simplify()]), folded, fixed, recipe, cells]
    for graph in made:
        text = write(graph)
        assert write(read(Source("made.spaceir", text))) == text


def test_passes_compose_with_others() -> None:
    graph = load("spaces/autoformer.space:autoformer_t", image=48, classes=3)
    made = after(graph, Bucketise(), Simplify(), Inline(), Simplify())
    same_space(graph, made)
    same_function(graph, made, 1)
    (assignment,) = graph.sample(1, seed=8)
    weights = weights_of(graph)
    fixed = specialize(made, assignment)
    cut = {path: weights[path] for path in graph.storages}
    assert fixed.cost() == made.cost(assignment)
    assert set(fixed.storages) <= set(cut)


def test_a_search_network_can_be_inlined_and_simplified() -> None:
    graph = text_graph(CELLS, large=2)
    relaxed = after(graph, Relax({"op": "softmax", "inputs": "softmax"}))
    made = after(relaxed, Inline(), Simplify(), Inline())
    same_space(relaxed, made)
    same_function(relaxed, made)
