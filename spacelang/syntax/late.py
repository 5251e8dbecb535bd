"""Late parameters: numbers of a block that only ever scale (drop-path rates).

They may differ from call to call without making another block of it: AutoFormer's fourteen encoders,
each with its own rate, are one block.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from spacelang.ir.op import ops
from spacelang.syntax import tree
from spacelang.syntax.scope import Scope
from spacelang.syntax.values import Closure


def late_params(closure: Closure) -> tuple[str, ...]:
    """The parameters whose every use in the body is (part of) a rate."""
    return _late(closure, ())


def _late(closure: Closure, chain: tuple[int, ...]) -> tuple[str, ...]:
    definition = closure.definition
    if id(definition) in chain:
        return ()
    chain = (*chain, id(definition))
    cached = _CACHE.get(id(definition))
    if cached is not None and cached[0] is definition:
        return cached[1]
    names = [p.name for p in definition.params if p.type is None]
    early: set[str] = set()
    uses: set[str] = set()
    for name, is_rate in _uses(definition.body, False, closure.scope, chain):
        uses.add(name)
        if not is_rate:
            early.add(name)
    for param in definition.params:
        for part in (param.default, param.type):
            early.update(name for name, _ in _uses(part, False, closure.scope, chain))
    early.update(name for name, _ in _uses(definition.result, False, closure.scope, chain))
    found = tuple(n for n in names if n in uses and n not in early)
    _CACHE[id(definition)] = (definition, found)
    return found


_CACHE: dict[int, tuple[tree.BlockOf, tuple[str, ...]]] = {}


def _uses(
    node: object, rate: bool, scope: Scope, chain: tuple[int, ...]
) -> Iterator[tuple[str, bool]]:
    """Every name that is read below a node, and whether it stands in a rate."""
    match node:
        case tree.Name(name):
            yield name, rate
        case tree.Pipe(value, call):
            yield from _uses(value, rate, scope, chain)
            yield from _call(call, 1, rate, scope, chain)
        case tree.CallOf() | tree.Labelled():
            yield from _call(node, 0, rate, scope, chain)
        case tuple():
            for item in cast(tuple[object, ...], node):
                yield from _uses(item, rate, scope, chain)
        case tree.Tree():
            arithmetic = isinstance(node, tree.Number | tree.Unary | tree.Binary)
            for name in node.__dataclass_fields__:
                if name != "span":
                    yield from _uses(getattr(node, name), rate and arithmetic, scope, chain)
        case _:
            return


def _call(
    node: tree.Expr, piped: int, rate: bool, scope: Scope, chain: tuple[int, ...]
) -> Iterator[tuple[str, bool]]:
    if isinstance(node, tree.Labelled):
        yield from _uses(node.label, False, scope, chain)
        yield from _call(node.value, piped, rate, scope, chain)
        return
    if not isinstance(node, tree.CallOf):
        yield from _uses(node, rate, scope, chain)
        return
    rates = _rates(node.callee, scope, chain)
    yield from _uses(node.callee, False, scope, chain)
    position = piped
    for argument in node.arguments:
        key = argument.name if argument.name is not None else position
        position += argument.name is None
        yield from _uses(argument.value, key in rates, scope, chain)
    if node.region is not None:
        yield from _uses(node.region.body, False, scope, chain)


def _rates(callee: tree.Expr, scope: Scope, chain: tuple[int, ...]) -> set[str | int]:
    """Names and positions of a callee's arguments that are rates."""
    if not isinstance(callee, tree.Name):
        return set()
    owner = scope.find(callee.name)
    if owner is not None:
        value = owner.names[callee.name]
        if not isinstance(value, Closure):
            return set()
        names = [p.name for p in value.definition.params]
        late = _late(value, chain)
        return {*late, *(i for i, n in enumerate(names) if n in late)}
    definition = ops().get(callee.name)
    if definition is None:
        return set()
    first = len(definition.operands)
    return {
        key
        for i, (name, option) in enumerate(definition.options.items())
        if option.kind == "rate"
        for key in (name, first + i)
    }
