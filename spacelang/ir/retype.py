"""Types found anew: what a node's results are by its op's shape row, against what is recorded.

A block may be used only where some condition of its callers holds, and what it records may be true
only there. So a claim is first tried on the block by itself, and where that does not do, at each of
its uses, in the decisions of the whole space (`At`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from spacelang.diagnostics import SpaceError
from spacelang.ir import row
from spacelang.ir.block import Block
from spacelang.ir.condition import Condition, disjunction
from spacelang.ir.dim import Dim, Symbol, product
from spacelang.ir.graph import Graph, Instance, conditions
from spacelang.ir.infer import Infer, NeedsValue
from spacelang.ir.known import Symbols
from spacelang.ir.names import under
from spacelang.ir.node import STRUCTURAL, Attribute, Call, Node, TensorType
from spacelang.ir.op import lookup
from spacelang.ir.param import Init, Param
from spacelang.ir.prove import Proved, equal, feasible, holds
from spacelang.ir.row import Inferred


@dataclass(frozen=True)
class At:
    """Where a claim is tried: in the block by itself (`instance` None), or at one of its uses."""

    guards: tuple[Condition, ...] = ()
    instance: Instance | None = None

    def dim(self, dim: Dim) -> Dim:
        """A size of the block as it is here: in the decisions of the space at a use."""
        return dim if self.instance is None else self.instance.absolute(dim)

    def condition(self, condition: Condition) -> Condition:
        """A condition of the block as it is here."""
        return condition if self.instance is None else self.instance.condition(condition)

    def type(self, type: TensorType) -> TensorType:
        """A type of the block as it is here."""
        return TensorType(tuple(self.dim(d) for d in type.shape), type.dtype)

    def under(self, condition: Condition) -> At:
        """The same place inside of a region that is there where the condition holds."""
        return At((*self.guards, self.condition(condition)), self.instance)

    def attribute(self, value: Attribute) -> Attribute:
        """An option's value here; what is no size stays."""
        match value:
            case Dim():
                return self.dim(value)
            case tuple():
                return tuple(self.attribute(v) for v in value)
            case Init():
                return Init(value.rule, tuple(self.dim(d) for d in value.arguments))
            case _:
                return value


def levels(block: Block, at: At) -> Iterator[tuple[Block, At]]:
    """A block and the regions in it that may be reached, each with the conditions around it."""
    yield block, at
    for node in block.nodes:
        for region, condition in zip(node.regions, conditions(node), strict=True):
            inner = at.under(condition)
            if feasible(inner.guards) is not False:
                yield from levels(region, inner)


def inferred(
    node: Node, operands: tuple[TensorType, ...], at: At, kind: type[Infer] = Infer
) -> Inferred:
    """The shape row of a node's op, run on operand types; `Settled` asks for no proof.

    Raises SpaceError where the row refuses, or wants to know a number that a decision holds.
    """
    definition = lookup(node.op)
    given = node.attributes.get("given", ())
    infer = kind(
        node.op,
        tuple(at.type(t) for t in operands),
        {
            key: value
            if key in definition.options and definition.options[key].kind == "rate"
            else at.attribute(value)
            for key, value in node.attributes.items()
        },
        tuple(str(name) for name in given) if isinstance(given, tuple) else (),
        at.guards,
        node.span,
    )
    try:
        return row.inferred(definition, infer)
    except NeedsValue as need:
        infer.fail("SP308", f"{node.op} must know {need.symbol.name}")
    except (ArithmeticError, ValueError, TypeError, KeyError, AssertionError) as failed:
        infer.fail("SP209", f"{node.op} cannot work with its options: {failed}")


def names_of(call: Call, decisions: Symbols) -> dict[str, Dim | Symbol]:
    """What the symbols of a callee are in its caller, by name; `decisions` are those it takes."""
    taken = {
        path: Symbol(under(call.decide, path), symbol.values) for path, symbol in decisions.items()
    }
    return {**taken, **call.sizes}


# Claims. Each returns what is wrong, or nothing.


def differs(a: TensorType, b: TensorType, at: At) -> str:
    """Whether two types are not one for every architecture."""
    if a.rank != b.rank or a.dtype != b.dtype:
        return f"{a} against {b}"
    for m, n in zip(a.shape, b.shape, strict=True):
        if m != n and not isinstance(equal(at.dim(m), at.dim(n), at.guards), Proved):
            return f"{a} against {b}"
    return ""


def wrong_types(level: Block, owner: Block, node: Node, at: At) -> str:
    """Types, roles and sizes of parameters by the op's shape row."""
    operands = tuple(level.type_of(v) for v in node.operands)
    try:
        found = inferred(node, operands, at)
    except SpaceError as failed:
        return "; ".join(found.headline for found in failed.diagnostics)
    if len(found.types) != len(node.types):
        return f"{node.op} gives {len(found.types)} values, not {len(node.types)}"
    for type, recorded in zip(found.types, node.types, strict=True):
        if differs(type, at.type(recorded), At(at.guards)):
            return f"it is {type}, recorded as {recorded}"
    return _wrong_params(owner, node, found, at)


def _wrong_params(owner: Block, node: Node, found: Inferred, at: At) -> str:
    if set(found.params) != set(node.params):
        return f"its parameters are {_words(found.params)}, recorded are {_words(node.params)}"
    for role, wanted in found.params.items():
        view, param = node.params[role], owner.param[node.params[role].param]
        if _kind(param) != _kind(wanted):
            return f"{param.path} is a {_kind(param)}, not a {_kind(wanted)}"
        read = [product(at.dim(n) for n in axis) for axis in view.lengths]
        need = [product(axis) for axis in wanted.shape]
        if len(read) != len(need):  # one flat prefix of all factors
            read, need = [product(read)], [product(need)]
        for m, n in zip(read, need, strict=True):
            if m != n and not isinstance(equal(m, n, at.guards), Proved):
                return f"it reads {m} of {param.path} where it needs {n}"
    return ""


def _kind(param: Param) -> str:
    """What a parameter is, whatever its shape."""
    return f"{'' if param.persistent else 'transient '}{param.role} of {param.dtype}"


def _words(names: Mapping[str, object]) -> str:
    return ", ".join(name or "itself" for name in names) or "none"


def wrong_call(graph: Graph, level: Block, node: Node, decisions: Symbols, at: At) -> str:
    """The types at the border of a call, with the callee's sizes bound."""
    assert node.call is not None
    callee = graph.blocks[node.call.block]
    names = names_of(node.call, decisions)
    for number, (value, inside) in enumerate(zip(node.operands, callee.inputs, strict=True)):
        if found := differs(level.type_of(value), inside.types[0].substitute(names), at):
            return f"operand {number} of {callee.name}: {found}"
    for number, (type, value) in enumerate(zip(node.types, callee.outputs, strict=True)):
        if found := differs(type, callee.type_of(value).substitute(names), at):
            return f"result {number} of {callee.name}: {found}"
    return ""


def wrong_region(level: Block, node: Node, at: At) -> str:
    """The types at the border of regions; for a guard, those of its fallbacks."""
    for region, condition in zip(node.regions, conditions(node), strict=True):
        inside = at.under(condition)
        if feasible(inside.guards) is False:
            continue
        for value, inner in zip(node.operands, region.inputs, strict=True):
            if found := differs(level.type_of(value), inner.types[0], at):
                return f"an operand and the region's input: {found}"
        for type, value in zip(node.types, region.outputs, strict=True):
            if found := differs(type, region.type_of(value), inside):
                return f"where {condition}: {found}"
    if node.op == "guard":
        for type, value in zip(node.types, node.operands, strict=False):
            if found := differs(type, level.type_of(value), at):
                return f"a result and its fallback: {found}"
    return ""


def wrong_choice(node: Node, at: At) -> str:
    """Whether exactly one of a choice's conditions holds, always."""
    truths = [at.condition(condition) for condition in conditions(node)]
    if not isinstance(holds(disjunction(*truths), at.guards), Proved):
        return "no condition may hold"
    for position, first in enumerate(truths):
        for second in truths[:position]:
            if feasible((*at.guards, first, second)) is not False:
                return f"{second} and {first} may hold at once"
    return ""


def wrong_identity(level: Block, node: Node, at: At) -> str:
    """Whether a named value has the type of the value."""
    found = differs(level.type_of(node.operands[0]), node.types[0], at)
    return f"it names a value of another type: {found}" if found else ""


__all__ = [
    "STRUCTURAL", "At", "differs", "inferred", "levels", "names_of", "wrong_call", "wrong_choice",
    "wrong_identity", "wrong_region", "wrong_types",
]  # fmt: skip
