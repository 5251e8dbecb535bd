"""Late parameters: numbers of a block that only ever scale (drop-path rates).

They may differ from call to call without making another block of it: AutoFormer's fourteen
encoders, each with its own rate, are one block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import cast

from spacelang.ir.op import ops
from spacelang.syntax import tree
from spacelang.syntax.scope import Scope
from spacelang.syntax.session import MAX_CALLS
from spacelang.syntax.values import Closure

Known = dict[int, tuple[str, ...]]
"""Late parameters by the id of a definition that is kept alive."""
Todo = list[tuple[object, bool]]
"""Trees to look into, and whether they stand in a rate."""


@dataclass(frozen=True)
class _Look:
    """What is known, and the definitions that are being looked into."""

    known: Known
    chain: tuple[int, ...] = ()


def late_params(closure: Closure, known: Known) -> tuple[str, ...]:
    """The parameters whose every use in the body is (part of) a rate; `known` are those found."""
    return _late(closure, _Look(known))


def _late(closure: Closure, look: _Look) -> tuple[str, ...]:
    definition = closure.definition
    if id(definition) in look.chain or len(look.chain) > MAX_CALLS:
        return ()
    found = look.known.get(id(definition))
    if found is not None:
        return found
    inner = replace(look, chain=(*look.chain, id(definition)))
    names = [p.name for p in definition.params if p.type is None]
    early: set[str] = set()
    uses: set[str] = set()
    for name, is_rate in _uses(definition.body, closure.scope, inner):
        uses.add(name)
        if not is_rate:
            early.add(name)
    for param in definition.params:
        for part in (param.default, param.type):
            early.update(name for name, _ in _uses(part, closure.scope, inner))
    early.update(name for name, _ in _uses(definition.result, closure.scope, inner))
    found = look.known[id(definition)] = tuple(n for n in names if n in uses and n not in early)
    return found


def _uses(root: object, scope: Scope, look: _Look) -> Iterator[tuple[str, bool]]:
    """Every name that is read below a tree, and whether it stands in a rate."""
    todo: Todo = [(root, False)]
    while todo:
        node, rate = todo.pop()
        match node:
            case tree.Name(name):
                yield name, rate
            case tree.Pipe(value, call):
                todo.append((value, rate))
                _call(call, 1, rate, scope, look, todo)
            case tree.CallOf() | tree.Labelled():
                _call(node, 0, rate, scope, look, todo)
            case tuple():
                todo += [(item, rate) for item in cast(tuple[object, ...], node)]
            case tree.Tree():
                scales = rate and isinstance(node, tree.Number | tree.Unary | tree.Binary)
                todo += [(child, scales) for child in node.children()]
            case _:
                pass


def _call(node: tree.Expr, piped: int, rate: bool, scope: Scope, look: _Look, todo: Todo) -> None:
    """Enter a call: its arguments are rates where the callee's parameters are."""
    if isinstance(node, tree.Labelled):
        todo.append((node.label, False))
        node = node.value
    if not isinstance(node, tree.CallOf):
        todo.append((node, rate))
        return
    rates = _rates(node.callee, scope, look)
    todo.append((node.callee, False))
    position = piped
    for argument in node.arguments:
        key = argument.name if argument.name is not None else position
        position += argument.name is None
        todo.append((argument.value, key in rates))
    if node.region is not None:
        todo.append((node.region.body, False))


def _rates(callee: tree.Expr, scope: Scope, look: _Look) -> set[str | int]:
    """Names and positions of a callee's arguments that are rates."""
    if not isinstance(callee, tree.Name):
        return set()
    owner = scope.find(callee.name)
    if owner is not None:
        value = owner.names[callee.name]
        if not isinstance(value, Closure):
            return set()
        names = [p.name for p in value.definition.params]
        late = _late(value, look)
        return {*late, *(i for i, n in enumerate(names) if n in late)}
    definition = ops().get(callee.name)
    if definition is None:
        return set()
    first = len([name for name in definition.operands if not name.endswith("?")])
    return {
        key
        for i, (name, option) in enumerate(definition.options.items())
        if option.kind == "rate"
        for key in (name, first + i)
    }
