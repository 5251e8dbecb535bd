"""Storage rules: which combinations are sound, and that every slice they make lies in its storage."""

from __future__ import annotations

import pytest

from spacelang.diagnostics import Source, SpaceError
from spacelang.ir.graph import Graph
from spacelang.ir.param import Slice
from spacelang.loader import load

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
