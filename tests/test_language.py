"""Meaning of the language beside the examples of its page: blocks, limits, ties, hulls, lints."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from spacelang.analysis.queries import model
from spacelang.analysis.space import lints
from spacelang.cli.check import checked
from spacelang.diagnostics import Report, Source, SpaceError
from spacelang.ir.graph import Graph
from spacelang.ir.verify import verify
from spacelang.loader import load
from spacelang.passes.specialize import specialize

SPACES = Path(__file__).parent.parent / "spaces"


def graph_of(text: str) -> Graph:
    graph = load(Source("<test>", text))
    report = Report()
    verify(graph, report)
    report.check()
    return graph


def refused(text: str) -> list[tuple[str, str]]:
    with pytest.raises(SpaceError) as failed:
        load(Source("<test>", text))
    return [(found.code, found.headline) for found in failed.value.diagnostics]


def space(body: str) -> str:
    """A space of one input, its weights entangled."""
    return f"space s {{\n  input x: [B, 16]\n{body}\n  output x\n  weights {{ _: entangle }}\n}}"


# Blocks.

NESTED = """
block enc(x: [B, width]) -> [B, width] {
  choose ratio in {1, 2}
  return linear(x, width * ratio) as up |> linear(width) as down
}
"""


def test_a_size_seen_by_name_and_one_that_is_given_are_one() -> None:
    """A block inside a space that is called from another block: `width` reaches it twice."""
    graph = graph_of(
        space(f"""
        choose width in {{8, 16}}
        {NESTED}
        block stage(x: [B, C], n) {{ for i in 0..<n {{ x = enc(x) as enc[i] }} return x }}
        x = linear(x, width) as stem |> stage(2) as a |> stage(3) as b
        """)
    )
    assert graph.size() == 2 * 2**5
    assert graph.cost(graph.decisions.extreme("largest")).params == 16 * 17 + 5 * (
        32 * 17 + 16 * 33
    )


def test_a_block_that_is_handed_over_sees_its_own_names() -> None:
    outside = "block twice(x: [B, C], f) { return f(f(x) as one) as two }\n"
    body = f"""
      choose width in {{8, 16}}
      choose other in {{8, 16}}
      {NESTED}
      y = linear(x, other) as first
      x = linear(x, width) as second |> twice(enc) as a
    """
    assert graph_of(outside + space(body)).size() == 2 * 2 * 2 * 2
    assert refused(outside + space(body + "y = twice(y, enc) as b")) == [
        ("SP303", "x of enc is not of its declared type")
    ]


def test_one_block_is_made_for_calls_of_one_kind() -> None:
    graph = load(SPACES / "autoformer.space:autoformer_t")
    names = [node.call.block for node in graph.root.everywhere() if node.call is not None]
    assert names.count("encoder") == 14
    assert sum(name.startswith("encoder") for name in graph.blocks) == 1


def test_names_of_used_files_keep_their_meaning(tmp_path: Path) -> None:
    (tmp_path / "sizes.space").write_text("let base = 4\nlet large = 4 * base\n")
    path = tmp_path / "main.space"
    path.write_text("use sizes\nlet base = 100\n" + space("x = linear(x, large) as fc"))
    assert load(path).cost().params == 16 * 17


def test_a_let_that_reads_itself() -> None:
    text = "let a = b + 1\nlet b = a + 1\n" + space("x = linear(x, a) as fc")
    assert refused(text) == [("SP206", "a `let` that reads itself")]


# Decisions.


def test_a_decision_among_words_is_known_inside_of_an_alternative() -> None:
    graph = graph_of(
        """
        block f(x: [B, C, H, W], mode) { return resize(x, [8, 8], mode: mode) }
        space s {
          input x: [B, 4, 4, 4]
          choose mode in {"bilinear", "nearest"}
          output f(x, mode)
        }
        """
    )
    assert graph.size() == 2
    (choose,) = (node for node in graph.root.nodes if node.op == "choose")
    modes = [node.attributes["mode"] for block in graph.blocks.values() for node in block.nodes[1:]]
    assert len(choose.regions) == 2
    assert modes == ["bilinear", "nearest"]


def test_whole_number_inputs_keep_their_range() -> None:
    graph = graph_of(
        "space s { input ids: [B, 6] in 0..<32\n"
        "output take(parameter([32, 4]) as table, ids) |> mean(axes: [1]) }"
    )
    (node,) = graph.root.inputs
    assert node.types[0].dtype == "i64"
    assert [str(n) for n in node.attributes["within"]] == ["0", "31"]


@pytest.mark.parametrize(
    ("kernel", "stride"), [(k, s) for k in range(1, 6) for s in range(1, 4) if k >= s - 1]
)
def test_a_transposed_convolution_makes_the_map_larger_by_its_stride(
    kernel: int, stride: int
) -> None:
    graph = graph_of(
        "space s { input x: [B, 4, 5, 7]\n"
        f"output conv_transpose(x, 6, {kernel}, stride: {stride}, groups: 2) as up }}"
    )
    shape = [str(size) for size in graph.root.type_of(graph.outputs[0].value).shape]
    lost = stride == 1 and kernel % 2 == 0
    assert shape == ["B", "6", str(5 * stride - lost), str(7 * stride - lost)]
    assert graph.cost().params == 4 * 3 * kernel * kernel
    assert graph.cost().macs == 4 * 5 * 7 * 3 * kernel * kernel


# Limits.

LIMITS = """
  for s in 0..1 {
    choose width[s] in {8, 16, 24}
    choose depth[s] in 0..2
    for i in 0..<depth {
      choose extra[s][i] in {1, 2}
      x = linear(x, 16 * extra) as up[s][i] |> linear(16) as down[s][i]
    }
    x = linear(x, width) as out[s] |> linear(16) as back[s]
  }
"""


def by_hand(graph: Graph, condition: str) -> int:
    """Architectures that meet a Python condition over their assignment `a`, by trying all."""
    found: set[str] = set()
    names = list(graph.decisions)
    for point in product(*(choice.values for choice in graph.decisions.values())):
        a = graph.decisions.assignment(dict(zip(names, point, strict=True)))
        if CHECKS[condition](a):
            found.add(repr(sorted(a.items())))
    return len(found)


CHECKS = {
    "require width[s] <= width[s + 1]": lambda a: a["width[0]"] <= a["width[1]"],
    "require sum(depth[_]) <= 3": lambda a: a["depth[0]"] + a["depth[1]"] <= 3,
    "require sum(extra[_][_]) in 3..4": lambda a: (
        3 <= sum(v for p, v in a.items() if p.startswith("extra")) <= 4
    ),
    "require len(extra[0][_]) == 2 or width[0] == 8": lambda a: (
        sum(p.startswith("extra[0]") for p in a) == 2 or a["width[0]"] == 8
    ),
    "require max(extra[_][_]) <= 1": lambda a: all(
        v <= 1 for p, v in a.items() if p.startswith("extra")
    ),
    "require extra[_][_] in {1}": lambda a: all(
        v == 1 for p, v in a.items() if p.startswith("extra")
    ),
    "require extra[0][i] <= extra[1][i]": lambda a: all(
        f"extra[0][{i}]" not in a
        or f"extra[1][{i}]" not in a
        or a[f"extra[0][{i}]"] <= a[f"extra[1][{i}]"]
        for i in range(2)
    ),
    "require not (depth[0] == 2 and depth[1] == 2) and min(depth[_]) >= 1": lambda a: (
        not (a["depth[0]"] == 2 and a["depth[1]"] == 2) and min(a["depth[0]"], a["depth[1]"]) >= 1
    ),
}


@pytest.fixture(scope="module")
def unlimited() -> Graph:
    return graph_of(space(LIMITS))


@pytest.mark.parametrize("condition", CHECKS)
def test_limits_count_what_trying_counts(condition: str, unlimited: Graph) -> None:
    graph = graph_of(space(LIMITS + condition))
    assert graph.size() == by_hand(unlimited, condition)
    assert unlimited.size(condition.removeprefix("require ")) == graph.size()
    for assignment in graph.sample(20, seed=1):
        assert CHECKS[condition](assignment)
    assert graph.storages.keys() == unlimited.storages.keys()


@pytest.mark.parametrize(
    ("limit", "code"),
    [
        ("wdith[0] <= 8", "SP504"),
        ("wdith <= 8", "SP201"),
        ("width[7] <= 8", "SP504"),
        ("sum(width[_][_]) <= 8", "SP504"),
        ("width[_] <= depth[_]", "SP508"),
        ("reversed(width[_]) == 3", "SP508"),
        ("width[i + 1] <= 8", "SP201"),
        ("params * width[0] <= 8", "SP508"),
    ],
)
def test_limits_that_cannot_be_read(limit: str, code: str) -> None:
    def solve() -> None:
        graph_of(space(LIMITS + f"require {limit}")).size()

    with pytest.raises(SpaceError) as failed:
        solve()
    assert [found.code for found in failed.value.diagnostics] == [code]


def test_limits_of_a_derived_space_speak_of_its_base() -> None:
    text = space(LIMITS) + "\nspace t from s { require width[_] >= 16  require depth[0] == 0 }"
    assert graph_of(text).size("") == 2**2 * sum(2**n for n in range(3))


# Ties.


def test_tied_layers_are_stored_and_charged_once() -> None:
    body = "for i in 0..2 { x = linear(x, 16) as fc[i] }"
    apart = graph_of(f"space s {{ input x: [B, 16] {body} output x }}")
    tied = graph_of(f"space s {{ input x: [B, 16] {body} output x weights {{ fc[_]: tie }} }}")
    assert apart.cost().params == 3 * tied.cost().params
    assert list(tied.storages) == ["fc[0].weight", "fc[0].bias"]
    assert specialize(tied, {}).cost() == tied.cost()


def test_a_parameter_of_a_block_is_tied_across_its_uses() -> None:
    graph = graph_of(
        """
        block f(x: [B, C]) { return linear(x, C) as fc |> layer_norm as norm }
        space s {
          input x: [B, 8]
          for i in 0..2 { x = f(x) as f[i] }
          output x
          weights { f[_].fc: tie }
        }
        """
    )
    kept = ["f[0].fc.weight", "f[0].fc.bias"]
    norms = [f"f[{i}].norm.{role}" for i in range(3) for role in ("weight", "bias")]
    assert sorted(graph.storages) == sorted(kept + norms)
    assert model(graph).at({}).params == 8 * 9 + 3 * 16


# Lints and hulls.


def test_lints_of_shipped_spaces() -> None:
    found = lints(load(SPACES / "s3.space:s3_start"))
    assert [(lint.code, lint.headline) for lint in found] == [
        ("SP510", "nothing reads layers[3].blocks[0].window")
    ]
    assert found[0].notes[0].startswith("so it is for 3 decisions: ")
    for name in ("autoformer.space:autoformer_t", "cream.space:cream", "cdarts.space:cifar10"):
        assert not lints(load(SPACES / name))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("choose a in {1, 2, 3} x = linear(x, max(a, 2)) as fc", ["1 and 2 of a give the same network"]),
        ("x = choose op { a: relu(x)  b: relu(x)  c: gelu(x) }", ["a and b of op give the same network"]),
        ("choose a in {1, 2} x = linear(x, 8) as fc", ["nothing reads a"]),
        ("choose a in {1} x = linear(x, 8 * a) as fc", []),
        ("choose a in {8, 16} x = linear(x, a) as fc require a * 2 <= 32", ["a * 2 <= 32 excludes nothing"]),
        ("choose a in {8, 16} x = linear(x, a) as fc require macs >= 128", ["macs >= 128 excludes nothing"]),
        ("choose a in {8, 16} x = linear(x, a) as fc require macs <= 128", []),
    ],
)  # fmt: skip
def test_lints(body: str, expected: list[str]) -> None:
    assert [lint.headline for lint in lints(graph_of(space(body)))] == expected


def test_an_empty_budget_says_what_can_be_reached() -> None:
    body = "choose a in {8, 16} x = linear(x, a) as fc require params in 1K..2K"
    (found,) = lints(graph_of(space(body)))
    assert (found.code, found.severity) == ("SP502", "error")
    assert found.notes == ("params reaches 136 to 272; asked for 1,000 to 2,000",)
    assert found.primary.span.text == "params in 1K..2K"


def test_hulls_are_proved_by_check(tmp_path: Path) -> None:
    """The start of a search is right, and a width of its hull is not."""
    path = tmp_path / "hull.space"
    path.write_text(
        space("choose width in {8, 16} within 8..24 by 4\nx = linear(x, [width / 8, 8]) as fc\n"
              "x = rearrange(x, \"b h d -> b (h d)\")")
    )  # fmt: skip
    load(path)
    (found,) = checked(str(path), {}).report.errors
    assert found.code == "SP302"
    assert found.notes[-2:] == ("first disagreement: width = 20", "so it is within a hull")


def test_the_hull_of_s3_is_proved() -> None:
    assert not checked(str(SPACES / "s3.space:s3_start"), {}).report.errors


def test_a_warning_of_a_shared_block_is_one_of_every_space(tmp_path: Path) -> None:
    path = tmp_path / "two.space"
    block = "block body(x: [B, 8]) { return linear(linear(x, 8), 8) }\n"
    spaces = [
        f"space {name} {{ input x: [B, 8] output body(x) as b }}\n" for name in ("one", "two")
    ]
    path.write_text(block + "".join(spaces))
    together = checked(str(path), {}).graphs
    for name in ("one", "two"):
        alone = load(f"{path}:{name}")
        assert alone.remarks
        assert together[name].remarks == alone.remarks
        assert together[name].hash == alone.hash


@pytest.mark.parametrize("other", ["when", "else when"])
def test_a_limit_on_a_decision_that_is_taken_under_several_conditions(other: str) -> None:
    text = space(f"""
      choose flag in {{"a", "b", "c"}}
      when flag == "a" {{ choose n in {{4, 8}}  x = linear(x, n) as p |> linear(16) as q }}
      {other} flag == "b" {{ choose n in {{4, 8}}  x = linear(x, n) as r |> linear(16) as s }}
      require n == 4""")
    made = graph_of(text)
    assert made.size() == 3
    drawn = {(taken["flag"], taken.get("n")) for taken in made.sample(40)}
    assert drawn == {("a", 4), ("b", 4), ("c", None)}
    # What is no decision in one of the ways is no path.
    sometimes = text.replace("choose n in {4, 8}", "let n = 8", 1)
    assert [code for code, _ in refused(sometimes)] == ["SP308"]
