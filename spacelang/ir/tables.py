"""Invariants of what is no block: outputs, storage rules, requirements, dialects, settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import isfinite
from typing import cast

from spacelang import plugins
from spacelang.diagnostics import Diagnostic
from spacelang.ir.gather import forms as gathers
from spacelang.ir.subject import Subject, broken


def outputs(subject: Subject) -> Iterator[Diagnostic]:
    """The root yields the graph's outputs, each of a name of its own."""
    graph = subject.graph
    found = [output.name for output in graph.outputs]
    if not found or len(set(found)) < len(found):
        yield broken(f"{graph.name} has no output, or two of one name", graph.root.span)
    if tuple(output.value for output in graph.outputs) != graph.root.outputs:
        yield broken(f"{graph.name} puts out other values than its root yields", graph.root.span)


def rules(subject: Subject) -> Iterator[Diagnostic]:
    """Storage rules are of a known kind, with an argument that the kind has."""
    sharing = plugins.table("spacelang.sharing")
    for rule in subject.graph.rules:
        allowed = RULES.get(rule.kind)
        if rule.kind not in sharing and (allowed is None or not allowed(rule.argument)):
            yield broken(f"no storage rule is {rule}", rule.span)


def stored(subject: Subject) -> Iterator[Diagnostic]:
    """What is stored wider is a decision among numbers, none of them larger."""
    graph = subject.graph
    for path, number in graph.stored.items():
        choice = graph.decisions.get(path)
        values = ("",) if choice is None else choice.values
        if any(isinstance(v, str | bool | tuple) or v > number for v in values):
            yield broken(f"{path} cannot be stored at {number}", graph.root.span)


def require(subject: Subject) -> Iterator[Diagnostic]:
    """Requirements speak of decisions and of figures."""
    known = frozenset(subject.known.space().values())
    for condition in subject.graph.require:
        if not condition.symbols <= known:
            text = f"the requirement {condition} speaks of what is no decision"
            yield broken(text, subject.graph.root.span)


def dialects(subject: Subject) -> Iterator[Diagnostic]:
    """A dialect is kept under its name; its renames compute with the indices that they bind."""
    for name, dialect in subject.graph.dialects.items():
        span = subject.graph.root.span
        if dialect.name != name:
            yield broken(f"the dialect {dialect.name} is kept as {name}", span)
        for rename in dialect.renames:
            bound = {i for hop in rename.own.hops for i in hop.indices if isinstance(i, str)}
            indices = (index for hop in rename.foreign for index in hop.indices)
            if not {s.name for index in indices for s in index.symbols} <= bound:
                yield broken(f"the rename of {rename.own} in {name} binds too little", span)
            if rename.layout is not None and rename.layout.kind not in LAYOUTS:
                yield broken(f"no layout is called {rename.layout.kind}", span)


def search(subject: Subject) -> Iterator[Diagnostic]:
    """Settings of engines are plain values."""
    for engine, settings in subject.graph.search.items():
        if not all(map(_plain, settings.values())):
            yield broken(f"a setting of {engine} is no plain value", subject.graph.root.span)


def _plain(value: object) -> bool:
    if isinstance(value, tuple):
        return all(map(_plain, cast(tuple[object, ...], value)))
    if isinstance(value, float):
        return isfinite(value)
    return value is None or isinstance(value, bool | int | str)


LAYOUTS = ("order", "shape")
RULES: Mapping[str, Callable[[str | int], bool]] = {
    "entangle": lambda argument: argument in ("", "flat", "centre", *gathers()),
    "separate": lambda argument: argument == "",
    "store": lambda argument: isinstance(argument, int) and argument > 0,
    "tie": lambda argument: argument == "" or (isinstance(argument, int) and argument > 0),
}
