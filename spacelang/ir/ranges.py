"""What an option must be beside its kind: within an interval, one of some words.

    rate=option("rate", within=Interval(0, 1, below=True))     mode=option("string", words=MODES)

An op declares it as data, and one rule holds all ops to it. A number with a rate in it is told at
the uses of its block, where the rate has a value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from math import isfinite
from typing import TYPE_CHECKING

from spacelang.diagnostics import Diagnostic, SpaceError, error, placed
from spacelang.ir.atom import Function
from spacelang.ir.condition import Condition
from spacelang.ir.conflict import SETTLE, example_text, shown
from spacelang.ir.dim import Dim, Value
from spacelang.ir.facts import enumerable, points
from spacelang.ir.infer import Infer
from spacelang.ir.node import Attribute, Node, join
from spacelang.ir.op import Interval, OpDef, ops
from spacelang.ir.param import Param
from spacelang.ir.prove import Proved, Refuted, holds

if TYPE_CHECKING:
    from spacelang.ir.block import Block
    from spacelang.ir.graph import Graph


NUMBERS = ("size", "number", "rate")
"""Kinds of options that are no part of a shape: what is lowered once, for every batch."""


def check_options(definition: OpDef, infer: Infer) -> None:
    """SP103 for a number outside of its interval, SP204 for a word that the op does not know, SP210
    for a number larger than a float can be, SP308 for one that hangs on the batch."""
    for name, option in definition.options.items():
        value = infer.options.get(name)
        if option.words and isinstance(value, str) and value not in option.words:
            near = get_close_matches(value, option.words, 1)
            infer.fail(
                "SP204",
                f"{infer.name} has no {name} {value}",
                f"it has {', '.join(option.words)}",
                f"did you mean {near[0]}?" if near else "",
            )
        if option.kind in NUMBERS:
            for number in _numbers(value):
                infer.need_bound(number, f"{name} of {infer.name}")
                where = _overflow(number, infer.guards)
                if where is not None:
                    headline = f"{name} of {infer.name} is larger than a float can be"
                    infer.fail("SP210", headline, example_text(where) if where else "")
        if option.within is None:
            continue
        for number in _numbers(value):
            if not any(symbol.rate for symbol in number.symbols):
                what = f"{name} of {infer.name}"
                found = outside(option.within, number, infer.guards, what)
                if found is not None:
                    raise SpaceError(placed(found, infer.span))


def _overflow(number: Dim, guards: Sequence[Condition]) -> Mapping[str, Value] | None:
    """Where a product of functions is no finite float; None where it is, or no point is tried."""
    functions = any(
        isinstance(atom, Function) for monomial, _ in number.terms for atom, _ in monomial
    )
    if not functions or not enumerable(number.symbols):
        return None
    for point in points(number.symbols):
        try:
            there = all(g.at(point) for g in guards if g.symbols <= number.symbols)
            if there and not isfinite(number.at(point)):
                return point
        except OverflowError:
            return point
        except ArithmeticError:
            continue  # a function without a value there, which `definedness.py` tells
    return None


def _numbers(value: Attribute) -> Iterator[Dim]:
    entries = value if isinstance(value, tuple) else (value,)
    yield from (entry for entry in entries if isinstance(entry, Dim))


def outside(
    interval: Interval, number: Dim, guards: Sequence[Condition], what: str
) -> Diagnostic | None:
    """SP103 for a number that some architecture puts outside of its interval; SP308 if that is not
    settled."""
    for condition in interval.conditions(number):
        verdict = holds(condition, guards)
        if isinstance(verdict, Proved):
            continue
        if not isinstance(verdict, Refuted):
            found = error("SP308", f"not settled for the whole space: {what} is {interval}")
            return found.hint(SETTLE)
        found = error("SP103", f"{what} is {shown(number)}, and must be {interval}")
        return found.note(example_text(verdict.example)) if verdict.example else found
    return None


def starts(graph: Graph) -> Iterator[Diagnostic]:
    """SP308 for parameters that start by a number which hangs on a decision."""
    told: set[tuple[str, str]] = set()
    for instance, _, (param, number) in graph.nodes_of(_starting, once=True):
        here, block = instance.absolute(number), instance.block.name
        if here.constant is None and (block, param.path) not in told:
            told.add((block, param.path))
            what = f"how a parameter starts must be known, not {shown(here)}"
            found = error("SP308", what, param.span)
            yield found.note("weights are made once, and every architecture reads them")


def _starting(block: Block, node: Node) -> Iterator[tuple[Param, Dim]]:
    """The parameters that a node reads and the sizes they start by."""
    for view in node.params.values():
        param = block.param[view.param]
        yield from ((param, number) for number in param.init.arguments if number.symbols)


def rates(graph: Graph) -> Iterator[Diagnostic]:
    """SP103 for numbers with a rate that leave their interval at some use of their block, SP210 for
    those without a value there, SP308 for those that hang on the batch."""
    told: set[tuple[int, str]] = set()
    for instance, node, (name, interval, number) in graph.nodes_of(_rated, once=True):
        what = f"{name} of {node.op}"
        try:
            here = instance.absolute(number)
        except ArithmeticError as failed:
            found = error("SP210", f"{what} has no value").note(str(failed))
        else:
            found = outside(interval, here, instance.guards, what)
            if found is None and any(symbol.free for symbol in here.symbols):
                found = error("SP308", f"{what} must be known, not {shown(here)}")
        if found is not None and (id(node), name) not in told:
            told.add((id(node), name))
            path = join(instance.path, node.label)
            yield placed(found.note(f"at {path or 'the root'}"), node.span)


def _rated(_: Block, node: Node) -> Iterator[tuple[str, Interval, Dim]]:
    """The options of a node that have an interval, and in them each number with a rate."""
    definition = ops().get(node.op)
    for name, option in definition.options.items() if definition is not None else ():
        if option.kind != "rate" or option.within is None:
            continue
        for number in _numbers(node.attributes.get(name)):
            if any(symbol.rate for symbol in number.symbols):
                yield name, option.within, number
