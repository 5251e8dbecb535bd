"""Conditions mean what Python's of the same text mean, for each architecture."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest

from spacelang.analysis.claims import claims
from spacelang.analysis.extent import ways
from spacelang.diagnostics import Source, SpaceError
from spacelang.ir.text import write
from spacelang.ir.verify import verified
from spacelang.loader import from_scope, load
from spacelang.syntax.ir_text import read
from spacelang.syntax.parse import parse
from spacelang.syntax.scope import Library

A, B, ON = (3, 3.5, 5), (2, 3), (True, False)
TEXT = """
space s {
  input x: [B, 12]
  choose a in {3, 3.5, 5}
  choose b in {2, 3}
  choose on in {true, false}
  let large = a > 3
  when on { x = relu(x) }
  output linear(x, 2 * a) as f |> linear(b) as g
  weights { _: entangle }
"""


def between(low: float, value: float, high: float) -> bool:
    return low <= value <= high


LIMITS = {
    # A range is both ends and all between, wherever it stands.
    "a in 3..4": lambda a, b, on: between(3, a, 4),
    "a not in 3..4": lambda a, b, on: not between(3, a, 4),
    "not (a in 3..4)": lambda a, b, on: not between(3, a, 4),
    "b == 2 or a in 3..4": lambda a, b, on: b == 2 or between(3, a, 4),
    "b == 2 or a not in 3..4": lambda a, b, on: b == 2 or not between(3, a, 4),
    "not (b == 2 and a in 3..<3.5)": lambda a, b, on: not (b == 2 and 3 <= a < 3.5),
    "(b in 1..2.5) == (a in 3..4)": lambda a, b, on: between(1, b, 2.5) == between(3, a, 4),
    "(a if b == 2 else 3) in 3..4": lambda a, b, on: between(3, a if b == 2 else 3, 4),
    "a in 3..4 if on else b in 3..9": lambda a, b, on: between(3, a, 4) if on else b == 3,
    # With a step, and in a set, it is these numbers.
    "b == 2 or a in 3..4 by 1": lambda a, b, on: b == 2 or a in (3, 4),
    "not (a in {3, 4})": lambda a, b, on: a not in (3, 4),
    # Conditions are compared with conditions, booleans and decisions among booleans.
    "large == true": lambda a, b, on: a > 3,
    "large != true": lambda a, b, on: not a > 3,
    "false == (b > 2)": lambda a, b, on: b <= 2,
    "on == (a > 3)": lambda a, b, on: on == (a > 3),
    "(a > 3) != on": lambda a, b, on: on != (a > 3),
    "(a > 4) == large": lambda a, b, on: (a > 4) == (a > 3),
    "on == true or b == 3": lambda a, b, on: on or b == 3,
    "(b > 2) in {on, false}": lambda a, b, on: (b > 2) in (on, False),
    # One of two, a decision among booleans beside a condition.
    "(a > 3) if b == 2 else on": lambda a, b, on: a > 3 if b == 2 else on,
    "on if b == 2 else not large": lambda a, b, on: on if b == 2 else a <= 3,
    "large == b": lambda a, b, on: False,
}  # fmt: skip


@pytest.mark.parametrize("limit", LIMITS)
def test_a_limit_admits_what_python_does(limit: str) -> None:
    expected = {point for point in product(A, B, ON) if LIMITS[limit](*point)}
    text = f"{TEXT}  require {limit}\n}}"
    if not expected:
        with pytest.raises(SpaceError, match="SP502"):
            load(Source("s.space", text))
        return
    graph = load(Source("s.space", text))
    found = {(s["a"], s["b"], s["on"]) for s in graph.sample(400, seed=0)}
    assert found == expected
    assert graph.size() == ways(graph) == len(expected)


@pytest.mark.parametrize(
    "limit",
    [
        "params in 100..200 or b == 2",
        "not (params in 2K..9M)",
        "b == 2 or macs in 5M..6G",
        "params in 1..999 by 2",
    ],
)
def test_a_range_of_a_figure_inside_of_a_condition_is_told_as_it_is(limit: str) -> None:
    graph = load(Source("s.space", f"{TEXT}  require {limit}\n}}"))
    with pytest.raises(SpaceError) as failed:
        graph.size()
    assert ways(graph) is None
    (found,) = failed.value.diagnostics
    assert found.code == "SP508"
    assert len(found.headline) < 150


@pytest.mark.parametrize(
    ("limit", "size"),
    [
        ("params >= 1", 1),
        ("params > 0 and macs > 0", 1),
        ("params <= 0", 1),
        ("macs == 0", 1),
        ("params in 0..0", 1),
        ("params <= 1 / 2", 1),
        ("params >= 0", 2),
        ("activations >= 0 - 1", 2),
        ("params == 1 / 2", 0),
        ("macs <= 0 - 3", 0),
        ("params in 6..5", 0),
    ],
)
def test_a_network_may_have_no_parameters(limit: str, size: int) -> None:
    """A figure may be 0; an empty budget says what it reaches."""
    body = "input x: [B, 4] choose on in {true, false} when on { x = linear(x, 4) as f } output x"
    text = f"space s {{ {body}"
    assert load(Source("s.space", f"{text} }}")).size(limit) == size
    graph = load(Source("s.space", f"{text} require {limit} }}"))
    assert graph.size() == size
    assert read(Source("s.spaceir", write(graph))).size() == size
    (*_, last) = [*claims(graph)] or [None]
    if size == 1:
        assert last is None
    else:
        assert last is not None
        assert (last.code, size) in (("SP511", 2), ("SP502", 0))
        assert size or "reaches 0 to" in last.notes[0]


@pytest.mark.parametrize(
    ("limits", "size", "codes"),
    [
        ("require n > 1", 4, []),
        ("require n > 0", 6, ["SP511"]),
        ("require n > 1 require n < 3", 2, []),
        ("require n > 2 require n < 2", 0, ["SP502"]),
        ("require n > 2 require n < 2 require op != b", 0, ["SP502"]),
        ("require n > 1 and n < 3 and n != 2", 0, ["SP502"]),
    ],
)
def test_limits_on_one_decision_each(limits: str, size: int, codes: list[str]) -> None:
    """What no candidate meets, and what all do, without a count."""
    body = "choose n in {1, 2, 3} x = linear(x, n) as f |> linear(4) as g"
    body += " output choose op { a: relu(x) b: tanh(x) } weights { _: entangle }"
    graph = load(Source("s.space", f"space s {{ input x: [B, 4] {body} {limits} }}"))
    assert graph.size() == size
    assert [found.code for found in (*graph.remarks, *claims(graph))] == codes


def test_a_limit_of_a_block_is_told_once() -> None:
    """Where a use is there anyway, those that are optional say nothing more."""
    text = """
    block f(x: [B, C], n) { require n % 2 == 0  return linear(x, n) as up |> linear(C) as down }
    space s {
      input x: [B, 4]
      choose n in {2, 3, 4}
      choose depth in 1..3
      for i in 0..<depth { x = f(x, n) as f[i] }
      output x
      weights { _: entangle }
    }"""
    graph = load(Source("s.space", text))
    assert len(graph.require) == 1
    assert graph.size() == ways(graph) == 2 * 3


@pytest.mark.parametrize("value", ["on", "[x]", "\"word\""])  # fmt: skip
def test_only_numbers_lie_between_numbers(value: str) -> None:
    with pytest.raises(SpaceError) as failed:
        load(Source("s.space", f"{TEXT}  require {value} in 1..2\n}}"))
    assert failed.value.diagnostics[0].code == "SP209"


BRANCHES = {
    "when a == 3 { require a == 5 }": "a == 5",
    "when a == 3 { y = relu(x) } else { require a == 3 }": "a == 3",
    "when on { require a > 3 and a < 3.5 }": "a < 3.5",
    "for i in 0..<b { require b <= 2 }": "b <= 2",
}


@pytest.mark.parametrize("branch", BRANCHES)
def test_a_limit_that_leaves_nothing_of_its_branch_is_an_error(branch: str) -> None:
    with pytest.raises(SpaceError) as failed:
        load(Source("s.space", f"{TEXT}  {branch}\n}}"))
    (found,) = failed.value.diagnostics
    assert (found.code, found.headline) == ("SP502", f"{BRANCHES[branch]} does not hold")
    assert found.notes[-1].endswith("no architecture there meets it")


@pytest.mark.parametrize(
    "branch", ["when a == 3 { require on }", "for i in 0..<b { require i < 2 or on }"]
)
def test_a_limit_that_leaves_some_of_its_branch_is_one(branch: str) -> None:
    assert load(Source("s.space", f"{TEXT}  {branch}\n}}")).size() < len(A) * len(B) * len(ON)


SPLIT = """
block narrow(x: [B, C], n) { require n <= 3  return linear(x, n) as up |> linear(C) as down }
block whole(x: [B, C]) {
  choose heads in {2, 3, 4}
  LIMIT
  return linear(x, C / heads) as up |> linear(C) as down
}
block apart(x: [B, C]) {
  choose heads in {2, 3, 4}
  LIMIT
  parts = split(x, heads, axis: 1)
  return concat([linear(p, C / heads) as h[i] for i, p in enumerate(parts)], axis: 1)
}
space s {
  input x: [B, 12]
  choose width in {12, 24}
  choose on in {true, false}
  x = linear(x, width) as stem
  CALL
  output linear(x, 2) as head
  weights { _: entangle }
}
"""


def split(limit: str, block: str, around: str = "{}") -> Source:
    call = around.format(f"x = {block}(x) as f")
    return Source("s.space", SPLIT.replace("LIMIT", limit).replace("CALL", call))


@pytest.mark.parametrize(
    ("around", "there"),
    [
        ("{}", lambda width, on: True),
        ("when on {{ {} }}", lambda width, on: on),
        ("when width == 12 {{ {} }}", lambda width, on: width == 12),
        ("when width > 12 and not on {{ {} }}", lambda width, on: width > 12 and not on),
    ],
)
@pytest.mark.parametrize(
    ("limit", "met"),
    [
        ("require heads <= 3", lambda width, heads: heads <= 3),
        ("require C / heads in {3, 6, 8}", lambda width, heads: width / heads in (3, 6, 8)),
        ("require heads != 3 and C / heads > 3", lambda w, heads: heads != 3 and w / heads > 3),
        ("when C == 24 { require heads == 2 }", lambda width, heads: width != 24 or heads == 2),
        ("when heads == 2 { require C <= 24 }", lambda width, heads: True),
        ("x = narrow(x, heads) as n", lambda width, heads: heads <= 3),
    ],
)
@pytest.mark.parametrize("block", ["whole", "apart"])
def test_a_limit_of_a_block_is_one_under_a_condition_and_in_alternatives(
    block: str,
    limit: str,
    met: Callable[[int, int], bool],
    around: str,
    there: Callable[[int, bool], bool],
) -> None:
    """Whether its body must know the number that is chosen or not."""
    graph = verified(load(split(limit, block, around)))
    points = product((12, 24), (True, False))
    every = {(w, on, h) for w, on in points for h in ((2, 3, 4) if there(w, on) else (None,))}
    wanted = {point for point in every if point[2] is None or met(point[0], point[2])}
    drawn = graph.sample(200, seed=0)
    assert {(s["width"], s["on"], s.get("f.heads")) for s in drawn} == wanted
    assert graph.size() == len(wanted)


@pytest.mark.parametrize(
    ("limit", "around"),
    [
        ("require heads <= 1", "{}"),
        ("require heads <= 1", "when on {{ {} }}"),
        ("require C / heads <= 4", "when width == 24 {{ {} }}"),
        ("x = narrow(x, heads + 2) as n", "{}"),
        ("x = narrow(x, heads) as n", "x = narrow(x, 4) as m {}"),
        ("x = narrow(x, heads) as n", "{} x = narrow(x, 4) as m"),
    ],
)
def test_a_limit_that_no_alternative_meets_is_an_error(limit: str, around: str) -> None:
    """Also one that an alternative may leave unmet, where something else does."""
    with pytest.raises(SpaceError) as failed:
        load(split(limit, "apart", around))
    assert [found.code for found in failed.value.diagnostics] == ["SP502"]


@pytest.mark.parametrize("first", ["refused", "left"])
def test_what_one_space_refuses_another_may_leave_out(first: str) -> None:
    """Spaces of one library share their blocks, whoever is read first."""
    text = split("x = narrow(x, heads) as n", "apart").text.partition("space s")[0]
    text += "block through(x: [B, C]) { return narrow(x, 4) as n }\n"
    for name, call in (("refused", "through(x)"), ("left", "apart(x)")):
        text += (
            f"space {name} {{ input x: [B, 12] output {call} as f weights {{ _: entangle }} }}\n"
        )
    library, source = Library(None), Source("s.space", text)
    scope = library.scope(parse(source), None)
    for name in (first, "refused", "left", "refused"):
        if name == "left":
            assert from_scope(scope, name, source, library, {}).size() == 2
        else:
            with pytest.raises(SpaceError, match="SP502"):
                from_scope(scope, name, source, library, {})


def test_a_limit_of_a_cell_is_of_its_decisions() -> None:
    """Which are those of the network by the cell's name, wherever it is called."""
    text = """
    cell f(x: [B, C]) {
      choose a in {1, 2}
      choose b in {1, 2}
      require a <= b
      when a == 1 { require b == 2 }
      return linear(x, a * b) as up |> linear(C) as down
    }
    block g(x: [B, C]) { return f(x) as inner }
    space s { input x: [B, 4] output g(f(x) as one) as two weights { _: entangle } }
    """
    graph = load(Source("s.space", text))
    assert list(graph.decisions) == ["f.a", "f.b"]
    assert {(s["f.a"], s["f.b"]) for s in graph.sample(50, seed=0)} == {(1, 2), (2, 2)}
    assert read(Source("s.spaceir", write(graph))).size() == graph.size() == 2
