"""Storage rules: which combinations are sound, and that every slice they make lies in its storage."""

from __future__ import annotations

from math import prod

import pytest

from spacelang import plugins
from spacelang.analysis.cost import CostModel
from spacelang.backends.torch.lowering.tables import bucket_index, offset_index
from spacelang.diagnostics import Source, SpaceError
from spacelang.ir.dim import Dim
from spacelang.ir.gather import entries
from spacelang.ir.graph import Graph
from spacelang.ir.param import Gather, Slice
from spacelang.ir.storage import bank_position, merged, picks
from spacelang.ir.text import write
from spacelang.loader import load
from spacelang.passes.pipeline import run
from spacelang.passes.specialize import specialize
from spacelang.passes.storage_layout import lay_out
from spacelang.syntax.ir_text import read as read_ir
from spacelang.syntax.write import write_space

TEXT = """
space tiny() {{
  input x: [B, 8]
  choose a in {a}
  choose b in {{2, 4}}
  output linear(x, a + b) as g
  weights {{ {rules} }}
}}
"""


def tiny(rules: str, a: str = "{2, 4}") -> Graph:
    return load(Source("<tiny>", TEXT.format(rules=rules, a=a)))


@pytest.mark.parametrize(
    ("rules", "a", "code"),
    [
        ("b: entangle", "{2, 4}", "SP401"),
        ("g.weight: entangle(flat)  a: entangle  b: entangle", "{2, 4}", "SP403"),
        ("_: entangle(flat)", "{2, 4}", "SP403"),
        ("_: entangle(centre)", "{3, 4}", "SP302"),
        ("a: entangle  b: entangle(centre)", "{2, 4}", "SP404"),
        ("a: store(64)  b: separate", "{2, 4}", "SP404"),
        ("a: separate  b: store(64)", "{2, 4}", "SP404"),
        ("a: store(3)  b: entangle", "{2, 4}", "SP403"),
        ("_: entangle  c: entangle", "{2, 4}", "SP504"),
    ],
)
def test_rules_that_do_not_fit(rules: str, a: str, code: str) -> None:
    with pytest.raises(SpaceError) as failed:
        tiny(rules, a)
    assert {d.code for d in failed.value.diagnostics} == {code}


TWO_USES = """
space t {{
  input x: [B, 8]
  choose a in {{2, 4}}
  choose b in {{2, 4}}
  choose c in {{1, 2}}
  when c == 1 {{ y = einsum(x, parameter([a, 8]) as w, "b c, o c -> b o") |> linear(4) as p }}
  else {{ y = einsum(x, parameter([b, 8]) as w, "b c, o c -> b o") |> linear(4) as q }}
  output y
  weights {{ {rules} }}
}}
"""


@pytest.mark.parametrize(
    ("rules", "code"),
    [
        ("a: entangle(centre)  b: entangle", "SP404"),
        ("a: entangle  b: entangle(centre)", "SP404"),
        ("a: separate  b: entangle", "SP404"),
        ("a: separate  b: store(6)", "SP404"),
        ("a: entangle(centre)  b: entangle(centre)", ""),
        ("a: store(6)  b: entangle(centre)", ""),
        ("a: entangle(centre)  b: entangle  w: entangle", ""),
    ],
)
def test_uses_of_one_parameter_agree_on_each_factor(rules: str, code: str) -> None:
    source = Source("<uses>", TWO_USES.format(rules=rules))
    if not code:
        assert "w" in load(source).storages
        return
    with pytest.raises(SpaceError) as failed:
        load(source)
    (only,) = failed.value.diagnostics
    assert (only.code, only.headline.split()[:3]) == (code, ["uses", "of", "w"])


MANY = " ".join(f"choose {name} in 1..40" for name in "abcdef")


@pytest.mark.parametrize(
    ("decisions", "size", "rule", "found"),
    [
        ("choose a in {16, 24}", "960 / (40 - a)", "a: store(40)", "SP302"),
        (MANY, "a + b + c + d + e + f", "a: store(50)", 250),
        (MANY, "a * b * c * d + e * (f + 3) // 4", "a: store(50)", 50 * 40**3 + 430),
        (MANY, "1 + (a + b + c + d + e + f) // 2", "a: store(50)", "SP507"),
    ],
)
def test_sizes_where_a_decision_counts_as_stored(
    decisions: str, size: str, rule: str, found: int | str
) -> None:
    text = f"""
    space stored {{
      input x: [B, 8]
      {decisions}
      output linear(x, {size}) as g
      weights {{ _: entangle  {rule} }}
    }}
    """
    source = Source("<stored>", text)
    if isinstance(found, int):
        assert load(source).storages["g.weight"].sizes == (found, 8)
        return
    with pytest.raises(SpaceError) as failed:
        load(source)
    (only,) = failed.value.diagnostics
    assert (only.code, only.primary.span.text) == (found, rule)


@pytest.mark.parametrize(
    ("rules", "stored"),
    [
        ("_: entangle", 8),
        ("_: entangle(centre)", 8),
        ("a: store(64)  b: entangle", 68),
        ("a: store(64)  b: entangle(centre)", 68),
        ("b: store(64)  a: entangle(centre)", 68),
        ("a: store(64)  b: store(6)", 70),
    ],
)
def test_slices_lie_inside_of_the_storage(rules: str, stored: int) -> None:
    graph = tiny(rules)
    assert graph.storages["g.weight"].sizes == (stored, 8)
    (part,) = graph.root.nodes[1].params["weight"].index[0]
    assert isinstance(part, Slice)
    for a in (2, 4):
        for b in (2, 4):
            start = part.start.at({"a": a, "b": b})
            assert isinstance(start, int)
            assert 0 <= start <= stored - (a + b)
            assert (start == (stored - a - b) // 2) == ("centre" in rules or stored == a + b)


# Separate: a tensor for each candidate, of its size.

WIDTHS = (range(64, 97, 32), range(96, 193, 32), range(128, 385, 32), range(224, 577, 32))


def shapes(graph: Graph, path: str) -> list[tuple[int, ...]]:
    return [merged(shape) for shape in graph.storages[path].tensors]


def test_a_published_space_of_separate_candidates() -> None:
    graph = load("spaces/tinyvit.space:tinyvit_contraction")
    first, second, third, last = WIDTHS
    wanted = {
        "head.weight": [(1000, w) for w in last],
        "head.bias": [(1000,)],
        "patch_embed.seq[0].c.weight": [(w // 2, 3, 3, 3) for w in first],
        "patch_embed.seq[2].c.weight": [(w, w // 2, 3, 3) for w in first],
        "layers[0].blocks[1].conv1.c.weight": [(w * e, w, 1, 1) for e in (3, 4) for w in first],
        "layers[0].downsample.conv1.c.weight": [(b, a, 1, 1) for a in first for b in second],
        "layers[2].blocks[7].attn.qkv.weight": [(3 * w, w) for w in third],
        "layers[3].blocks[0].mlp.fc1.weight": [(r * w, w) for r in (3, 4) for w in last],
        "layers[1].blocks[0].attn.attention_biases": [
            (w // 32, side * side) for w in second for side in (7, 14)
        ],
    }
    for path, expected in wanted.items():
        assert sorted(shapes(graph, path)) == sorted(expected), path
    assert all(len(set(shapes(graph, p))) == len(shapes(graph, p)) for p in wanted)
    total = sum(storage.numel for storage in graph.storages.values())
    assert total == 232_034_695
    assert total == sum(prod(n) for path in graph.storages for n in shapes(graph, path))


def test_separate_beside_other_rules() -> None:
    graph = tiny("a: separate  b: separate")
    assert shapes(graph, "g.weight") == [(4, 8), (6, 8), (6, 8), (8, 8)]
    assert shapes(graph, "g.bias") == [(4,), (6,), (6,), (8,)]
    graph = load(Source("<t>", """
        space t() {
          input x: [B, 8]
          choose out in {2, 4}
          choose k in {3, 5}
          choose unit in {6, 12}
          output einsum(x, parameter([out, unit, k]) as p, "b c, o u k -> b o") as y
          weights { unit: separate  out: store(16)  k: entangle(centre) }
        }
    """))  # fmt: skip
    assert graph.storages["p"].tensors == (((16,), (6,), (5,)), ((16,), (12,), (5,)))
    assert graph.storages["p"].numel == 16 * 5 * 18


def test_each_candidate_reads_its_own() -> None:
    graph = tiny("g.weight: separate  _: entangle", a="{2, 4, 8}")
    storage = graph.storages["g.weight"]
    assert shapes(graph, "g.weight") == [(a + b, 8) for a in (2, 4, 8) for b in (2, 4)]
    for a in (2, 4, 8):
        for b in (2, 4):
            values = graph.decisions.check({"a": a, "b": b})
            position = bank_position(storage.bank, values)
            assert picks(storage.bank, position) == values
            assert merged(storage.tensors[position]) == (a + b, 8)


TURNED = """
block layer(x: [B, C]) -> [B, C] {
  choose hidden in {2, 3, 4}
  return linear(linear(x, hidden, bias: false) as up, C, bias: false) as down
}
space t {
  input x: [B, 4]
  for i in 0..1 { x = layer(x) as layers[i] }
  output x
  weights { _: entangle(backwards)  layers[_]: tie }
}
"""


def backwards(length: int, stored: int) -> range:
    """An index table that does not ascend."""
    return range(stored - 1, stored - 1 - length, -1)


def test_tied_uses_through_a_table_that_does_not_ascend(monkeypatch: pytest.MonkeyPatch) -> None:
    """One tensor of which two uses read different entries is kept in its own order: a use that
    reads them in another has no place there. What all read alike is kept as they read it."""
    known, found = plugins.table, plugins.load

    def table(group: str) -> object:
        extra = {"backwards": __name__} if group == "spacelang.tables" else {}
        return {**known(group), **extra}

    monkeypatch.setattr(plugins, "table", table)
    monkeypatch.setattr(
        plugins,
        "load",
        lambda group, name: backwards if name == "backwards" else found(group, name),
    )
    graph = load(Source("<t>", TURNED))
    for first, second in ((4, 2), (2, 3)):
        with pytest.raises(SpaceError, match=r"SP601.*cannot be specialised"):
            specialize(graph, {"layers[0].hidden": first, "layers[1].hidden": second})
    alike = specialize(graph, {"layers[0].hidden": 3, "layers[1].hidden": 3})
    assert alike.storages["layers[0].up.weight"].sizes == (3, 4)


SHARED_BANK = """
block layer(x: [B, C]) {{
  choose r in {r}
  return linear(linear(x, C * r) as up, C) as down
}}
space t() {{
  input x: [B, 4]
  for i in 0..1 {{ x = layer(x) as layers[i] }}
  output x
  weights {{ _: separate  layers[_]: tie }}
}}
"""


def test_tied_uses_pick_by_their_own_decisions() -> None:
    graph = load(Source("<t>", SHARED_BANK.format(r="{1, 2}")))
    assert shapes(graph, "layers[0].up.weight") == [(4, 4), (8, 4)]
    assert len(graph.storages) == 4
    for first, second, params in ((1, 1, 40), (2, 2, 76), (1, 2, 112), (2, 1, 112)):
        values = {"layers[0].r": first, "layers[1].r": second}
        assert graph.cost(values).params == params
        model = CostModel(graph)
        assert sum(row.params for row in model.per_op(graph.decisions.check(values))) == params
    assert graph.size("params <= 100") == 2


def test_a_bank_of_too_many_tensors() -> None:
    with pytest.raises(SpaceError) as failed:
        load(Source("<t>", """
            space t() {
              input x: [B, 8]
              choose a in 1..300
              choose b in 1..300
              output linear(x, a + b) as g
              weights { _: separate }
            }
        """))  # fmt: skip
    assert {d.code for d in failed.value.diagnostics} == {"SP507"}
    assert "g.weight would be 90,000 tensors" in str(failed.value)


# Index tables: square, corner and band.


@pytest.mark.parametrize(
    ("table", "length", "stored", "expected"),
    [
        ("square", 9, 25, [6, 7, 8, 11, 12, 13, 16, 17, 18]),
        ("square", 10, 26, [6, 7, 8, 11, 12, 13, 16, 17, 18, 25]),
        ("square", 26, 26, list(range(26))),
        ("corner", 4, 9, [0, 1, 3, 4]),
        ("corner", 5, 10, [0, 1, 3, 4, 9]),
        ("band", 3, 7, [2, 3, 4]),
        ("band", 4, 8, [2, 3, 4, 7]),
        ("square", 16, 25, "middle"),
        ("square", 10, 25, "no squares"),
        ("square", 25, 9, "no squares"),
        ("band", 3, 8, "one middle"),
        ("band", 9, 7, "one middle"),
        ("corner", 1 << 21, 1 << 30, "entries"),
    ],
)
def test_index_tables(table: str, length: int, stored: int, expected: list[int] | str) -> None:
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=expected):
            entries(table, length, (stored,))
    else:
        assert list(entries(table, length, (stored,))) == expected


def test_tables_read_what_the_published_indices_mean() -> None:
    """An offset or distance leads to the same weight in a small window and in a large one."""
    for kind, table in (("signed", "square"), ("absolute", "corner")):
        small, large = (offset_index(side, side, kind) for side in (3, 5))
        sizes = {3: (25, 9), 5: (81, 25)}
        read = entries(table, sizes[3][kind == "absolute"], (sizes[5][kind == "absolute"],))
        for a in range(9):
            for b in range(9):
                far = [row * 5 + column for row, column in (divmod(a, 3), divmod(b, 3))]
                assert read[int(small[a, b])] == int(large[far[0], far[1]])
    small, large = (bucket_index(5, 5, "product", ratio, 1) for ratio in (1, 2))
    read = entries("square", 26, (82,))
    near = [i for i in range(1, 26) if i in (7, 8, 12, 13)]  # offsets of at most one
    for i in near:
        for j in near:
            assert read[int(small[i, j])] == int(large[i, j])
    assert read[int(small[0, 3])] == int(large[0, 3])


GATHERED = """
space t() {{
  input x: [B, 6]
  choose side in {side}
  output linear(x, side * side + {more}) as g
  weights {{ {rule} }}
}}
"""


def test_a_gathered_rule() -> None:
    text = GATHERED.format(side="{1, 3}", more=1, rule="side: entangle(square)")
    graph = load(Source("<t>", text))
    (part,) = graph.root.nodes[1].params["weight"].index[0]
    assert part == Gather("square", (Dim.of(10),), graph.root.nodes[1].types[0].shape[1])
    assert merged(graph.storages["g.weight"].shape) == (10, 6)
    assert read_ir(Source("<ir>", write(graph))) == graph
    assert "through square(10)" in write(graph)
    assert load(Source("<t>", write_space(graph))).hash == graph.hash
    assert lay_out(graph) is graph or lay_out(graph) == graph
    small = specialize(graph, {"side": 1})
    assert merged(small.storages["g.weight"].shape) == (2, 6)
    plain = run(graph, "entangle{path=side}")
    assert plain.root.nodes[1].params["weight"].index[0][0].start == 0


@pytest.mark.parametrize(
    ("side", "more", "rule", "code"),
    [
        ("{2, 3}", 0, "side: entangle(square)", "SP302"),
        ("{2, 3}", 0, "side: entangle(middle)", "SP204"),
        ("{1, 2}", 3, "side: entangle(corner)", "SP302"),
    ],
)
def test_a_gathered_rule_that_does_not_fit(side: str, more: int, rule: str, code: str) -> None:
    with pytest.raises(SpaceError) as failed:
        load(Source("<t>", GATHERED.format(side=side, more=more, rule=rule)))
    assert {d.code for d in failed.value.diagnostics} == {code}


SLICED = """
spaceir 1
graph t
root t {{
  decide dim n in {{2, 4}}
  param p: [8] = constant(1) undecayed
  %0: [B, 4] = input() as x
  %1: [{length}] = parameter(shape=[{length}], init=init constant(1)) {{p[{part}]}} as p
  yield %1
}}
output %1 as output
"""


@pytest.mark.parametrize(
    ("part", "length", "fits"),
    [
        ("4 +: 4", "4", True),
        ("0:4", "4", True),
        ("0 +: 4 by 2", "4", True),
        ("1 +: 4 by 2", "4", True),
        ("2 +: 4 by 2", "4", False),
        ("8 - n +: n", "n", True),
        ("9 - n +: n", "n", False),
        ("n +: 4", "4", True),
        ("2*n +: 4", "4", False),
    ],
)
def test_a_storage_holds_what_is_declared(part: str, length: str, fits: bool) -> None:
    text = SLICED.format(part=part, length=length)
    if not fits:
        with pytest.raises(SpaceError, match="reads outside of p"):
            read_ir(Source("<ir>", text))
        return
    assert read_ir(Source("<ir>", text)).storages["p"].shape == ((8,),)


KNOWN = """
block heads(x: [B, N, C]) {{
  choose heads in {{2, 4}}
  return total(split(linear(x, 4 * heads) as up, heads, axis: 2))
}}
space known {{
  input x: [B, 3, 8]
  output heads(x) as a
  weights {{ {rules} }}
}}
"""


def test_alternatives_for_values_share_what_they_call_alike() -> None:
    """`separate` would give each a tensor; what is not done is not passed over in silence."""
    for rules in ("_: separate", "a.heads: separate", "_: entangle  a.up.weight: separate"):
        with pytest.raises(SpaceError) as failed:
            load(Source("<known>", KNOWN.format(rules=rules)))
        assert {d.code for d in failed.value.diagnostics} == {"SP403"}
        assert "a.up.weight cannot be separate for the values of a.heads" in str(failed.value)
    shared = load(Source("<known>", KNOWN.format(rules="_: separate  a.heads: entangle")))
    assert shared.storages["a.up.weight"].sizes == (16, 8)
    assert not shared.storages["a.up.weight"].bank


BANKS = """
block layer(x: [B, C]) {{
  choose a in {{1, 2, 3}}
  return linear(x, C * a) as up |> linear(C) as down
}}
space banks {{
  input x: [B, 4]
  choose width in {{4, 8}}
  x = linear(x, width) as stem
  for i in 0..1 {{ x = layer(x) as layers[i] }}
  output x
  weights {{ _: separate {tie} }}
}}
"""


def test_inlining_keeps_the_order_of_a_bank() -> None:
    """A checkpoint of the one is read as one of the other: tensors go by their number."""
    graph = load(Source("<banks>", BANKS.format(tie="")))
    inlined = run(graph, "inline")
    for path, storage in graph.storages.items():
        assert inlined.storages[path].tensors == storage.tensors, path
        assert inlined.storages[path].bank == storage.bank, path
    assert [s.name for s in graph.storages["layers[1].up.weight"].bank] == ["width", "layers[1].a"]


def test_tied_uses_that_pick_by_their_own_decisions_stay_calls() -> None:
    graph = load(Source("<banks>", BANKS.format(tie="layers[_]: tie")))
    with pytest.raises(SpaceError, match=r"SP601.*layers\[1\] cannot be inlined"):
        run(graph, "inline")


def test_tied_uses_keep_their_places_in_a_subnet() -> None:
    """A kernel of 3 lies in the middle of one of 5 that reads the same tensor; banks are numbered."""
    text = """
    block layer(x: [B, C, H, W]) {{ choose kernel in {{3, 5}}  return conv(x, C, kernel) as c }}
    space kernels {{
      input x: [B, 4, 6, 6]
      for i in 0..1 {{ x = layer(x) as layers[i] }}
      output x
      weights {{ _: {rule}  layers[_]: tie }}
    }}"""
    taken = {"layers[0].kernel": 5, "layers[1].kernel": 3}
    centred = load(Source("<kernels>", text.format(rule="entangle(centre)")))
    small = specialize(centred, taken)
    assert {path: s.sizes for path, s in small.storages.items()} == {
        "layers[0].c.weight": (4, 4, 5, 5)
    }
    starts = {
        place.path: [int(p.start.at({})) for axis in view.index for p in axis if isinstance(p, Slice)]
        for place in small.places()
        for view in place.node.params.values()
    }  # fmt: skip
    assert starts == {"layers[0].c": [0, 0, 0, 0], "layers[1].c": [0, 0, 1, 1]}
    banked = specialize(load(Source("<kernels>", text.format(rule="separate"))), taken)
    assert {path: s.sizes for path, s in banked.storages.items()} == {
        "layers[0].c.weight.0": (4, 4, 3, 3),
        "layers[0].c.weight.1": (4, 4, 5, 5),
    }


def test_tied_uses_with_banks_of_different_decisions_are_refused_where_they_are_loaded() -> None:
    text = """
    block f(x: [B, C]) { return linear(x, 3) as part }
    space banks {
      input x: [B, 8]
      choose a in {4, 8}
      x = f(x) as one |> linear(a) as two
      output linear(x, 3) as three
      weights { _: separate  one.part: tie(three, slices: leading) }
    }"""
    with pytest.raises(SpaceError, match="SP402"):
        load(Source("<banks>", text))


@pytest.mark.parametrize("rule", ["entangle", "entangle(centre)", "separate"])
def test_sizes_by_decision_read_around_the_middle_where_a_tie_does(rule: str) -> None:
    """Else two uses would read parts that are not inside each other, and no slice is the whole."""
    text = f"""
    space s {{
      input x: [B, 4]
      choose width in {{8, 16}}
      x = linear(x, width) as a |> linear(8) as b |> layer_norm() as n
      output layer_norm(linear(x, width) as c) as m
      weights {{ _: {rule}  m: tie(n, slices: centre) }}
    }}"""
    if rule != "entangle(centre)":
        with pytest.raises(SpaceError, match="SP402"):
            load(Source("<middles>", text))
        return
    graph = load(Source("<middles>", text))
    for width in (8, 16):
        stored = specialize(graph, {"width": width}).storages.values()
        assert graph.cost({"width": width}).params == sum(s.numel for s in stored)
