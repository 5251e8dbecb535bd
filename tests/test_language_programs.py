"""Programs of several networks, genotypes in and out, and registered functions of numbers."""

from __future__ import annotations

import json
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import cast

import pytest
from command import data, good, refused

import spacelang
from spacelang.checking import examine
from spacelang.diagnostics import Source, SpaceError
from spacelang.ir import program as programs
from spacelang.ir.dim import Dim
from spacelang.ir.graph import Graph
from spacelang.ir.program import Program
from spacelang.loader import load, load_program
from spacelang.syntax.cream import cream_depths, cream_resolution
from spacelang.syntax.format import format
from spacelang.syntax.frame import Frame
from spacelang.syntax.genotypes import OPERATIONS, read, write
from spacelang.syntax.parse import parse
from spacelang.syntax.scope import Library, Scope, read_source
from spacelang.syntax.session import Session
from spacelang.syntax.subnets import lines, take
from spacelang.syntax.values import SpaceValue

SPACES = Path(__file__).parent.parent / "spaces"

# A shallow and a deep network with one stem, cells that are decided once, and a pool for the deep one.
SMALL = """
cell node(a, b) {
  states = [a, b, relu(a)]
  choose inputs in 2 of states
  return total(inputs) |s, source, e| {
    return choose edge[e].op { fc: linear(s, 8) as fc  skip: s }
  }
}
space net(layers, classes = 3, stem = 8) {
  input x: [B, 4]
  a = linear(x, stem) as stem
  b = a
  for i in 0..<layers { a, b = b, node(a, b) as nodes[i] }
  output linear(b, classes) as head
}
space mixed(layers) from net(layers) { rewrite { relax(op: "softmax", inputs: "softmax") } }
"""
CYCLE = """
program cycle {
  network shallow = net(1)
  network deep = net(3)
  share stem
  pool memory = mixed(3) of deep: nodes
}
"""


def program(text: str) -> Program:
    return load_program(Source("<program>", SMALL + text))


def test_a_program_names_networks_what_they_share_and_the_pool() -> None:
    made = program(CYCLE)
    assert made.name == "cycle"
    assert list(made.networks) == ["shallow", "deep"]
    assert made.shared == dict.fromkeys(("stem.weight", "stem.bias"), ("shallow", "deep"))
    assert set(made.decisions.values()) == {("shallow", "deep")}
    pool = made.pool
    assert pool is not None
    assert (pool.name, pool.of, pool.paths) == ("memory", "deep", ("nodes",))
    assert pool.numel == 3 * 3 * (8 * 8 + 8)  # a layer for every source, not for every position
    assert spacelang.load_program is load_program


def test_slots_of_a_pool_go_by_source() -> None:
    pool = program(CYCLE).pool
    assert pool is not None
    fc = {"node.edge[0].op": "fc", "node.edge[1].op": "fc"}
    slots = pool.slots({"node.inputs": [2, 0], **fc})
    assert slots["nodes[0].edge[0].op.fc.fc.weight"] == "nodes[0].edge[2].op.fc.fc.weight"
    assert slots["nodes[2].edge[1].op.fc.fc.bias"] == "nodes[2].edge[0].op.fc.fc.bias"
    assert set(slots.values()) <= set(pool.stored)
    fewer = pool.slots({"node.inputs": [0, 1], **fc, "node.edge[0].op": "skip"})
    assert [p for p in fewer if "edge[0]" in p] == []
    assert len(fewer) == len(slots) // 2


@pytest.mark.parametrize(
    ("address", "pool", "shared", "cells"),
    [
        ("cdarts.space:cifar10_cycles", 4_544_768, [1_392, 417_290, 433_674], 1_926_656),
        ("cdarts_imagenet.space:imagenet_cycles", 3_234_176, [3_752, 1_178_600, 1_194_984], 1_925_120),
    ],
)  # fmt: skip
def test_the_programs_of_cdarts(address: str, pool: int, shared: list[int], cells: int) -> None:
    """The specification's weights: of the pool, of stem and both heads, and of the search's cells."""
    made = load_program(address)
    assert made.pool is not None
    assert made.pool.numel == pool
    deep = made.networks["deep"]
    sizes = {
        head: sum(
            deep.storages[path].numel
            for path in made.shared
            if path.startswith(head) and deep.storages[path].param.role == "weight"
        )
        for head in ("feature_extractor", "distill_aux_head1", "distill_aux_head2")
    }
    assert list(sizes.values()) == shared
    found = [
        s.numel
        for path, s in made.networks["shallow"].storages.items()
        if path.startswith("nas_layers") and s.param.role == "weight"
    ]
    assert sum(found) == cells
    assert list(deep.decisions) == list(graphs()["cifar10"].decisions)
    drops = [p for p in deep.places() if p.node.op == "drop_path"]
    rates = {p.instance.absolute(cast(Dim, p.node.attributes["rate"])) for p in drops}
    assert rates == {Dim.of(0)}, "no path is dropped while searching"


@pytest.mark.parametrize(
    ("text", "code", "says", "place"),
    [
        ("program p { network a = net(1) }", "SP208", "two networks", "program p"),
        ("program p { network a = net(1) network a = net(2) }", "SP203", "called a", "network a"),
        ("program p { net a = net(1) network b = net(2) }", "SP208", "`net`", "net a"),
        ("program p { network a = net(1) network b = nut(2) }", "SP201", "nut", "nut"),
        (
            "program p { network a = net(1) network b = net(2, classes: 5) share head }",
            "SP402", "differently", "head",
        ),
        ("program p { network a = net(1) network b = net(2) share tail }", "SP504", "tail", "tail"),
        (
            "program p { network a = net(1) network b = net(2) share nodes[1] }",
            "SP504", "no two networks", "nodes[1]",
        ),
        (
            "program p { network a = net(1) network b = net(2) pool c = mixed(2) of d: nodes }",
            "SP201", "called d", "pool c",
        ),
        (
            "program p { network a = net(1) network b = net(2) pool c = mixed(2) of b: noden }",
            "SP504", "nothing below noden", "noden",
        ),
        (
            "program p { network a = net(1) network b = net(2) pool c = mixed(1) of b: nodes }",
            "SP402", "no slot", "pool c",
        ),
        (
            "program p { network a = net(1) network b = net(2)\n"
            "pool c = mixed(2) of b: nodes pool d = mixed(2) of b: nodes }",
            "SP203", "a second pool", "pool d",
        ),
        (
            "program p { network a = net(1) network b = other(2) }\n"
            "space other(n) { input x: [B, 4] choose node.inputs in {1, 2}\n"
            "output linear(x, n) as fc }",
            "SP402", "other candidates", "network b",
        ),
    ],
)  # fmt: skip
def test_programs_that_do_not_fit(text: str, code: str, says: str, place: str) -> None:
    with pytest.raises(SpaceError) as failed:
        program(text)
    found = failed.value.diagnostics[0]
    assert found.code == code
    assert says in found.headline
    assert found.primary.span.text.startswith(place)
    whole = examine("<program>", Source("<program>", SMALL + text), SPACES)
    assert (code, found.headline) in {(d.code, d.headline) for d in whole.report.errors}


def test_a_weight_that_is_hardly_ever_read_has_its_slot_too() -> None:
    def of(name: str, biased: bool) -> str:
        made = (
            f"o{i}: linear(x, 8, bias: {str(biased or i != 17).lower()}) as f" for i in range(60)
        )
        cell = f"cell {name}_cell(x) {{ return choose op {{ {' '.join(made)} }} }}"
        return f"{cell} space {name}() {{ input x: [B, 8] output {name}_cell(x) as m }} "

    text = of("whole", True) + of("less", False)
    text += "program p { network a = whole() network b = whole() pool c = less() of a: m }"
    with pytest.raises(SpaceError, match=r"m.op.o17.f.bias has no slot in c"):
        program(text)
    assert program(text.replace("c = less()", "c = whole()")).pool is not None


def test_a_weight_at_positions_of_two_picks_has_no_one_slot() -> None:
    """Tied nodes with picks of their own: one may draw another source than the next."""
    small = SMALL.replace("cell node(a, b)", "block node(a: [B, C], b: [B, C]) -> [B, C]")
    tied = small.replace("as head\n", "as head\n  weights { nodes[_]: tie }\n", 1)
    assert tied.count("tie") == 1
    with pytest.raises(SpaceError, match=r"SP402.*nodes\[0\].edge\[0\].op has no one slot"):
        load_program(Source("<program>", tied + CYCLE))
    assert load_program(Source("<program>", small + CYCLE)).pool is not None


def test_a_missing_slot_that_may_never_be_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "feasible", lambda guards: None)
    with pytest.raises(SpaceError, match=r"SP308.*cannot be settled"):
        program("program p { network a = net(1) network b = net(2) pool c = mixed(1) of b: nodes }")
    assert program(CYCLE).pool is not None


def test_check_proves_the_programs_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "two.space"
    file.write_text(SMALL + CYCLE)
    found = data("check", file)
    names = [space["name"] for one in found["files"] for space in one["spaces"]]
    assert names == ["cycle"]
    file.write_text(SMALL + CYCLE.replace("share stem", "share stem, tail"))
    assert "SP504" in refused("check", file, code=2)
    # What a network shares with a space of the file is told once.
    file.write_text(SMALL + "space bad = nut(1)\nprogram p { network a = bad network b = net(1) }")
    found = examine("two.space", Source(str(file), file.read_text()), tmp_path)
    assert [d.code for d in found.report] == ["SP201"]


def test_a_program_is_no_space() -> None:
    with pytest.raises(SpaceError, match="is a program"):
        load("cdarts.space:cifar10_cycles")
    with pytest.raises(SpaceError, match="has no program"):
        load_program("deit.space")
    assert load(Source("<program>", SMALL + CYCLE + "space s = net(1)")).name == "s"


def test_programs_are_formatted() -> None:
    assert format(parse(Source("<p>", CYCLE))).strip() == CYCLE.strip()
    short = format(parse(Source("<p>", CYCLE.replace("\n", " "))))
    assert short.startswith(
        "program cycle { network shallow = net(1)  network deep = net(3)  share"
    )
    assert format(parse(Source("<p>", short))) == short


def test_show_and_info_print_a_program(tmp_path: Path) -> None:
    file = tmp_path / "small.space"
    file.write_text(SMALL + CYCLE, "utf-8")
    for command in ("show", "info"):
        shown = good(command, f"{file}:cycle")
        assert "a pool, keeps 648 parameters of deep: nodes" in shown
        assert "shallow + deep  share 40 parameters: stem" in shown
    record = data("info", f"{file}:cycle")
    assert record["pool"] == {"name": "memory", "of": "deep", "paths": ["nodes"], "params": 648}
    assert record["shared"]["stem.bias"] == ["shallow", "deep"]
    assert "ok" in good("check", f"{file}:cycle")
    file.write_text(file.read_text("utf-8").replace("share stem", "share stern"), "utf-8")
    assert "SP504" in refused("check", f"{file}:cycle")


# Genotypes.

CELL = (
    "Genotype(normal=[[('sep_conv_3x3', 0), ('sep_conv_3x3', 1)], "
    "[('sep_conv_3x3', 1), ('sep_conv_3x3', 2)], [('sep_conv_3x3', 0), ('sep_conv_3x3', 1)], "
    "[('skip_connect', 0), ('skip_connect', 2)]], normal_concat=range(2, 6), "
    "reduce=[[('sep_conv_5x5', 1), ('max_pool_3x3', 0)], [('dil_conv_5x5', 2), "
    "('skip_connect', 0)], [('sep_conv_3x3', 0), ('sep_conv_5x5', 1)], [('sep_conv_3x3', 0), "
    "('dil_conv_5x5', 2)]], reduce_concat=range(2, 6))"
)
PUBLISHED = {
    "cdarts_cifar": (3_859_318, 5_493_856),
    "cdarts_imagenet_cell": (4_669_534, 6_360_256),
    "dartsv1": (3_169_414, 4_510_432),
    "dartsv2": (3_349_342, 4_718_752),
    "pcdarts_cifar": (3_634_678, 5_270_560),
    "pcdarts_imagenet": (3_721_510, 5_342_464),
    "pdarts": None,  # of this one no figure is published
}


def genotype(text: str, layers: int = 3) -> Source:
    return Source("cell.json", json.dumps({str(layer): text for layer in range(layers)}, indent=1))


def test_a_published_genotype_is_an_assignment() -> None:
    found = read(genotype(CELL))
    assert found["normal.inputs[1]"] == [1, 2]
    assert found["reduction.dag[0][1].op"] == "max_pool"
    assert graphs()["cifar10"].cost(found).params == 3_859_318
    assert read(Source("again.json", write(found))) == found
    assert json.loads(write(found)) == dict.fromkeys("012", CELL)


@cache
def graphs() -> dict[str, Graph]:
    return {space: load(f"cdarts.space:{space}") for space in ("cifar10", "imagenet")}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_seven_genotypes_as_networks_and_as_files(name: str) -> None:
    """A subnet of the file, written as a genotype, read again and counted, is the subnet."""
    scope = Library(SPACES).scope(parse(read_source(SPACES / "cdarts.space")), SPACES)
    for position, (space, graph) in enumerate(graphs().items()):
        value = scope.names[f"{space}_{name}"]
        assert isinstance(value, SpaceValue)
        frame = Frame(Session(Library(SPACES)), name, value.definition.span)
        values = take(graph, lines(value, ()), frame, Scope(scope))
        given = graph.decisions.assignment(values)
        found = read(Source("cell.json", write(given)))
        cost = graph.cost(found)
        assert cost == graph.cost(given)
        figures = PUBLISHED[name]
        assert figures is None or cost.params == figures[position]


@pytest.mark.parametrize(
    ("old", "new", "code", "says", "place"),
    [
        ("'skip_connect', 0)]", "'skip_conect', 0)]", "SP501", "skip_conect", "'skip_conect'"),
        ("'skip_connect', 0)]", "'none', 0)]", "SP501", "called none", "'none'"),
        ("('skip_connect', 2)", "('skip_connect', 7)", "SP501", "no 7", "'skip_connect', 7"),
        ("('skip_connect', 2)", "('skip_connect', 0)", "SP501", "twice", "'skip_connect', 0"),
        (", ('skip_connect', 2)", "", "SP501", "2 edges", "normal"),
        ("range(2, 6), reduce=", "range(3, 6), reduce=", "SP501", "all its nodes", "range"),
        ("reduce=", "normal=", "SP101", "a field normal", "normal"),
        ("reduce_concat", "rest", "SP101", "a field rest", "rest"),
        ("('skip_connect', 2)", "(skip_connect, 2)", "SP101", "the name of", "skip_connect"),
        ("('skip_connect', 2)", "('skip_connect', -2)", "SP101", "a word", "-"),
        ("('skip_connect', 2)", "__import__('os')", "SP101", "`(`", "__import__"),
        ("reduce_concat=range(2, 6))", "", "SP101", "more", ""),
        ("reduce_concat=range(2, 6))", "reduce_concat=range(2, 6)) or 1", "SP101", "the end", "or"),
    ],
)
def test_a_wrong_genotype_is_told_at_its_place(
    old: str, new: str, code: str, says: str, place: str
) -> None:
    assert old in CELL
    with pytest.raises(SpaceError) as failed:
        read(genotype(CELL.replace(old, new, 1)))
    (found,) = failed.value.diagnostics
    assert found.code == code
    assert says in found.headline
    assert found.primary.span.text.startswith(place)
    assert found.primary.span.source.name == "cell.json"


def test_other_texts_are_no_genotypes() -> None:
    for text in ("", "[1]", "{}", '{"0": "x"}', '{"0": 1}', "[" * 100_000, '{"0": "Genotype("}'):
        with pytest.raises(SpaceError):
            read(Source("cell.json", text))
    other = json.dumps({"0": CELL, "1": CELL.replace("skip_connect", "sep_conv_5x5")})
    with pytest.raises(SpaceError, match="other cells"):
        read(Source("cell.json", other))
    with pytest.raises(SpaceError, match="not taken"):
        write({})
    found = dict(read(genotype(CELL)))
    with pytest.raises(SpaceError, match="none"):
        write({**found, "normal.dag[0][0].op": "none"})
    assert set(OPERATIONS.values()) < set(
        graphs()["cifar10"].decisions["normal.dag[0][0].op"].values
    )


def test_the_command_reads_and_writes_genotypes(tmp_path: Path) -> None:
    file = tmp_path / "cell.json"
    file.write_text(genotype(CELL).text, "utf-8")
    assignment = good("genotype", file)
    other = tmp_path / "arch.json"
    other.write_text(assignment, "utf-8")
    assert json.loads(good("genotype", other)) == dict.fromkeys("012", CELL)
    assert data("cost", "cdarts.space:cifar10", "--arch", file)["params"] == 3_859_318
    file.write_text(file.read_text("utf-8").replace("skip_connect", "skip_conect"), "utf-8")
    failed = refused("cost", "cdarts.space:cifar10", "--arch", file)
    assert "no operation is called skip_conect" in failed
    assert "cell.json:2" in failed


# Functions.

ROWS = {
    (0, 600): ([4, 4, 4, 4, 4], 224, 29_809_073),
    (0, 481): ([2, 4, 4, 4, 4], 224, 29_595_185),
    (0, 400): ([2, 2, 4, 4, 3], 224, 23_782_945),
    (300, 400): ([2, 2, 4, 4, 3], 224, 23_782_945),
    (0, 287): ([1, 1, 3, 3, 3], 224, 20_115_369),
    (0, 200): ([1, 1, 3, 2, 1], 224, 8_189_337),
    (0, 100): ([1, 1, 1, 1, 1], 224, 4_895_257),
    (0, 50): ([1, 1, 1, 1, 1], 160, 4_895_257),
    (0, 22): ([1, 1, 2, 1, 1], 96, 5_858_417),
    (0, 20): ([1, 1, 1, 1, 1], 96, 4_895_257),
    (0, 8): ([1, 1, 3, 1, 1], 64, 6_821_577),
    (500, 600): ([4, 4, 4, 4, 4], 224, 29_809_073),
}
META = 4_001
"""Parameters of the teacher's network, which is no part of the space."""


@pytest.mark.parametrize("span", ROWS)
def test_depths_of_cream(span: tuple[int, int]) -> None:
    depths, resolution, params = ROWS[span]
    low, high = map(Fraction, span)
    assert cream_depths(low, high) == depths
    assert cream_resolution(low, high) == resolution
    graph = load("cream.space:cream_between", fmin=span[0], fmax=span[1], unused_block=True)
    kept = sum(s.numel for s in graph.storages.values() if s.param.role == "weight")
    assert kept + META == params
    assert [str(d) for d in graph.root.inputs[0].types[0].shape[2:]] == [str(resolution)] * 2


def test_a_range_without_depths_is_told_in_the_file() -> None:
    with pytest.raises(SpaceError) as failed:
        load("cream.space:cream_between", fmin=600, fmax=700)
    found = failed.value.diagnostics[0]
    assert found.code == "SP210"
    assert found.headline == "cream_depths has no value: no path of these stages costs 600 MFLOPs"
    assert found.primary.span.text == "cream_depths(fmin, fmax)"


@pytest.mark.parametrize(
    ("call", "code"),
    [
        ("cream_depths(1)", "SP204"),
        ("cream_depths(1, 2, 3)", "SP204"),
        ('cream_depths("a", 2)', "SP209"),
        ("cream_depths(5, 2)", "SP210"),
        ("cream_depths(n, 600)", "SP308"),
        ("cream_dephts(0, 600)", "SP201"),
    ],
)
def test_calls_of_registered_functions_are_checked(call: str, code: str) -> None:
    text = f"space s {{ input x: [B, 4] choose n in {{0, 1}} output x * len({call}) }}"
    with pytest.raises(SpaceError) as failed:
        load(Source("<call>", text))
    assert code in [found.code for found in failed.value.diagnostics]
