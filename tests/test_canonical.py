"""What the hash of a graph does not see: equal networks have one canonical form."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from spacelang.diagnostics import Source
from spacelang.ir.block import Block
from spacelang.ir.canonical import canonical
from spacelang.ir.condition import compare, conjunction, disjunction
from spacelang.ir.dim import Symbol
from spacelang.ir.graph import Graph
from spacelang.ir.names import Names, renamed
from spacelang.ir.node import Node
from spacelang.ir.verify import verified
from spacelang.loader import load
from spacelang.syntax.ir_text import read


def space(body: str) -> Graph:
    return load(Source("t.space", f"space t {{\ninput x: [B, 8]\n{body}\n}}"))


def ir(body: str) -> Graph:
    return verified(
        read(Source("t.spaceir", f"spaceir 1 graph t root t {{ {body} }} output %9 as output"))
    )


def test_the_order_in_which_branches_bind_names() -> None:
    one = space("""choose on in {true, false}
    y = gelu(x)
    when on { x = relu(x)  y = tanh(y) }
    output x * y""")
    other = space("""choose on in {true, false}
    x, y = gelu(x), x
    when on { x, y = tanh(x), relu(y) }
    output y * x""")
    assert one.hash == other.hash


def test_a_choice_without_results_is_guards() -> None:
    one = space("""choose on in {true, false}
    when on { y = linear(x, 4) as a } else { z = linear(x, 4) as b }
    output x""")
    other = space("""choose on in {true, false}
    when on { y = linear(x, 4) as a }
    when not on { z = linear(x, 4) as b }
    output x""")
    assert one.hash == other.hash
    assert {"a.weight", "b.weight"} <= set(one.storages)


REGION = """decide dim width in {4, 8}
  param fc.weight: [8, 8] = linear
  %0: [B, 8] = input() as x
  %1: [B, width] = linear(%0, out=width, bias=false) {weight=fc.weight[0:width][0:8]} as fc
  %9: [B, width] = choose(%1)
    when width == 4 {
      %2: [B, width] = input()
      %3: [B, HERE] = relu(%2)
      yield %3
    }
    when width == 8 {
      %4: [B, width] = input()
      yield %4
    }
  yield %9"""


def test_sizes_that_a_condition_fixes() -> None:
    one, other = (ir(REGION.replace("HERE", size)) for size in ("width", "4"))
    assert one.hash == other.hash
    assert one != other


DECLARED = """spaceir 1
graph t
block f {
  param fc.weight: [8, 8] = linear
  %0: [1, 8] = input() as x
  %1: [1, 8] = linear(%0, out=8, bias=false) {weight=fc.weight[0:8][0:8]} as fc
  yield %1
}
block g {
  param fc.weight: [TIED, 8] = linear
  param own.weight: [OWN, 8] = linear
  %0: [1, 8] = input() as x
  %1: [1, 4] = linear(%0, out=4, bias=false) {weight=fc.weight[0:4][0:8]} as fc
  %2: [1, 4] = linear(%0, out=4, bias=false) {weight=own.weight[0:4][0:8]} as own
  %3: [1, 4] = add(%1, %2)
  yield %3
}
root t {
  %0: [1, 8] = input() as x
  %1: [1, 8] = call f(%0) as a
  %2: [1, 4] = call g(%1) stores a owns [own] as b
  yield %2
}
output %2 as output"""


def declared(tied: int, own: int) -> Graph:
    text = DECLARED.replace("TIED", str(tied)).replace("OWN", str(own))
    return verified(read(Source("t.spaceir", text)))


def test_what_a_parameter_declares_beyond_its_reading() -> None:
    """Only where another reads as much: a storage is part of the form."""
    plain = declared(4, 4)
    assert plain.storages["a.fc.weight"].sizes == (8, 8)
    assert declared(6, 4) != plain
    assert declared(6, 4).hash == declared(8, 4).hash == plain.hash, "another reads eight rows"
    assert declared(12, 4).hash != plain.hash
    assert declared(12, 4).storages["a.fc.weight"].sizes == (12, 8)
    wide = declared(4, 6)
    assert wide.hash != plain.hash, "nobody else reads it"
    assert wide.storages["b.own.weight"].sizes == (6, 8)
    assert declared(8, 6).hash == wide.hash, "of two declarations the one that says nothing goes"


@pytest.mark.parametrize(
    "name", ["autoformer.space:autoformer_t", "cream.space", "swin.space:swin_t"]
)
def test_the_form_of_a_form(name: str) -> None:
    graph = canonical(load(f"spaces/{name}"))
    assert canonical(graph) == graph


def test_conditions_absorb_what_they_decide() -> None:
    a, b, c = (compare("<", 1, Symbol(name, (1, 2))) for name in "abc")
    assert disjunction(a, conjunction(a, b)) == a
    assert conjunction(a, disjunction(b, a)) == a
    both = disjunction(conjunction(a, b, c), conjunction(a, b), conjunction(c, a))
    assert both == disjunction(conjunction(a, b), conjunction(c, a))
    for values in product((1, 2), repeat=3):
        x, y, z = (v > 1 for v in values)
        known = dict(zip("abc", values, strict=True))
        assert both.at(known) == ((x and y and z) or (x and y) or (z and x))


def relabelled(graph: Graph) -> Graph:
    """The same with other names for the sizes of its blocks, in the opposite order."""
    new = {
        name: {s.name: f"%q{1000 - i}" for i, s in enumerate(sorted(block.sizes, key=str))}
        for name, block in graph.blocks.items()
    }

    def level(block: Block) -> Block:
        return replace(block, nodes=tuple(map(node, block.nodes)))

    def node(old: Node) -> Node:
        call = old.call
        if call is not None:
            sizes = {new[call.block][size]: value for size, value in call.sizes.items()}
            call = replace(call, sizes=sizes)
        return replace(old, call=call, regions=tuple(map(level, old.regions)))

    def block(name: str) -> Block:
        names, old = new[name], level(graph.blocks[name])
        sizes = tuple(replace(size, name=names[size.name]) for size in old.sizes)
        other = Names(lambda s: replace(s, name=names.get(s.name, s.name)))
        return renamed(replace(old, sizes=sizes), other)

    return replace(graph, root=level(graph.root), blocks={n: block(n) for n in graph.blocks})


TWO_SIZES = """
use vit
space t() {
  input x: [B, 16, 8]
  choose a in {2, 3} choose b in {4, 6}
  block f(x: [B, N, C]) {
    y = linear(x, a * b) as wide
    return linear(y * FIRST, C) as back
  }
  output f(x)
  weights { _: entangle }
}
"""


@pytest.mark.parametrize("address", ["quickstart", "small_ranges", "s3", "tinyvit", "a", "b"])
def test_names_of_sizes_of_blocks_mean_nothing(address: str) -> None:
    if len(address) == 1:
        graph = load(Source("t.space", TWO_SIZES.replace("FIRST", address)))
    else:
        graph = load(f"spaces/{address}.space")
    assert any(len(block.sizes) > 1 for block in graph.blocks.values())
    assert relabelled(graph).hash == graph.hash


def test_sizes_that_stand_in_other_places_are_not_exchanged() -> None:
    one, other = (load(Source("t.space", TWO_SIZES.replace("FIRST", n))) for n in ("a", "b"))
    assert one.hash != other.hash
