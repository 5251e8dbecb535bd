"""Options that are wrong: every pass on every host ends in a sound graph or in a diagnostic."""

from __future__ import annotations

from itertools import count
from typing import Any, get_type_hints

import pytest
from composition import HOSTS, host
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spacelang.diagnostics import Diagnostic, Report, SpaceError
from spacelang.ir.build import BlockBuilder
from spacelang.ir.dim import Dim, Symbol
from spacelang.ir.graph import Graph
from spacelang.ir.node import Call, TensorType
from spacelang.ir.pattern import Pattern, parse_pattern
from spacelang.ir.verify import verify
from spacelang.passes.base import Insertion, Pass, options
from spacelang.passes.insert import Insert
from spacelang.passes.pipeline import run
from spacelang.passes.places import spots
from spacelang.plugins import BUILTIN, load

PASSES = sorted(BUILTIN["spacelang.passes"])
WORDS = (
    "", "centre", "flat", "corner", "band", "square", "k", "q", "v", "kv", "product", "cross", "euclidean", "quantised", "bias",
    "contextual", "softmax", "sigmoid", "plain", "random", "largest", "depth", "op", "width", "é",
)  # fmt: skip
plain = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 5),
    st.sampled_from([10**9, 2**70, 0.5, -1.0, 1e300, 1e-300, float("inf"), float("nan")]),
    st.sampled_from(WORDS),
)
values = st.recursive(plain, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=4)
GARBAGE = ("_", "a", "a[_]", "_.weight", "a[0..2].b", "a[i]")


def paths(graph: Graph) -> st.SearchStrategy[Pattern]:
    """Paths of the graph, whole or cut off, with an index or any, and paths of nothing."""
    known = sorted({s.path for s in spots(graph)} | set(graph.storages) | set(graph.decisions))

    @st.composite
    def drawn(draw: st.DrawFn) -> Pattern:
        text = draw(st.one_of(st.sampled_from(known), st.sampled_from(GARBAGE)))
        hops = text.split(".")
        text = ".".join(hops[: draw(st.integers(1, len(hops)))])
        if draw(st.booleans()):
            text = text.replace("[0]", "[_]").replace("[1]", "[_]")
        try:
            return parse_pattern(text)
        except ValueError:
            return parse_pattern("_")

    return drawn()


def option(kind: object, graph: Graph) -> st.SearchStrategy[Any]:
    """Values of an option by its annotation: often of the right type."""
    text = str(kind)
    if "tuple" in text and "Pattern" in text:
        return st.lists(paths(graph), max_size=3).map(tuple)
    if "Pattern" in text:
        return paths(graph)
    if "Mapping" in text:
        labels = [p.rpartition(".")[2].partition("[")[0] for p in graph.decisions]
        keys = st.sampled_from([*labels, "nothing"])
        return st.one_of(st.dictionaries(keys, plain, max_size=2), values)
    return values


def steps(name: str, graph: Graph) -> st.SearchStrategy[Pass]:
    step: type[Pass] = load("spacelang.passes", name)
    hints = get_type_hints(step)
    required = {f.name: f for f in options(step).values() if f.name in ("path", "block")}

    @st.composite
    def drawn(draw: st.DrawFn) -> Pass:
        given_ = {
            f.name: draw(option(hints[f.name], graph))
            for f in options(step).values()
            if f.name in required or draw(st.booleans())
        }
        return step(**given_)

    return drawn()


class Doubled:
    """A block made in Python for any value of a fixed network: y = 2 x."""

    name = "doubled"

    def at(self, type: TensorType, path: str, taken: frozenset[str]) -> Insertion:
        build = BlockBuilder("doubled")
        free = Symbol("%B")
        build.size(free)
        symbols = {s.name for size in type.shape for s in size.symbols}
        inner = type.substitute(dict.fromkeys(symbols, free))
        y = build.one("mul", [build.input(inner, "x")], {"number": Dim.of(2)})
        name = next(n for i in count() if (n := f"doubled{i}") not in taken)
        outer: Dim | Symbol = Symbol(min(symbols)) if symbols else Dim.of(1)
        call = Call(name, path, path, path, sizes={"%B": outer})
        return Insertion(call, type, {name: build.finish([y], name)})


def ends(graph: Graph, step: Pass) -> None:
    """In a graph in which the verifier finds nothing, or in diagnostics with codes."""
    report = Report()
    found: tuple[Diagnostic, ...] | None = None
    try:
        verify(run(graph, step), report)
    except SpaceError as refused:
        found = refused.diagnostics
    assert [d.headline for d in report] == []
    assert found is None or (found and all(d.code and d.headline for d in found))


@pytest.mark.parametrize("on", ["deit", "swin"])
@settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_place_of_an_insertion(on: str, data: st.DataObject) -> None:
    graph = host(on)
    place = st.one_of(st.none(), paths(graph), paths(graph), plain)
    names = st.one_of(st.sampled_from(["m", "m.n", "m[0]", "", "qkv", "a b", "[", "é", "."]), plain)
    ends(
        graph,
        Insert(
            Doubled(),
            before=data.draw(place),
            after=data.draw(st.one_of(st.none(), place)),
            name_=data.draw(names),
            operand=data.draw(st.one_of(st.integers(-2, 3), plain)),
        ),
    )


CASES = [(p, h) for p in PASSES if p != "insert" for h in HOSTS]


@pytest.mark.parametrize(("name", "on"), CASES, ids=[f"{h}-{p}" for p, h in CASES])
@settings(max_examples=6, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_options_end_in_a_graph_or_a_diagnostic(
    name: str, on: str, data: st.DataObject
) -> None:
    graph = host(on)
    ends(graph, data.draw(steps(name, graph)))
