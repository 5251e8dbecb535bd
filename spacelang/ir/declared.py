"""Invariants, second stage: names, options, parameters and decisions. One function a row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction

from spacelang.diagnostics import Diagnostic
from spacelang.ir.condition import CONDITIONS
from spacelang.ir.dim import Dim
from spacelang.ir.gather import tables
from spacelang.ir.indices import indices
from spacelang.ir.mentions import mentions, shaped
from spacelang.ir.node import Attribute, Node, join
from spacelang.ir.op import Option, ops
from spacelang.ir.param import Gather, Init
from spacelang.ir.ranges import rates as within
from spacelang.ir.ranges import starts
from spacelang.ir.replace import check_replacement
from spacelang.ir.subject import Subject, broken, everything


def symbols(subject: Subject) -> Iterator[Diagnostic]:
    """Sizes and conditions mention only what the block knows, with the values known of it."""
    for block in subject.blocks:
        if len({size.name for size in block.sizes}) != len(block.sizes):
            yield broken(f"{block.name} has two sizes of one name", block.span)
        known = subject.symbols(block)
        allowed = frozenset(known.values())
        for what, where, span in mentions(block):
            if what.symbols <= allowed:
                continue
            for symbol in sorted(what.symbols - allowed, key=str):
                found = known.get(symbol.name)
                # A symbol by itself may be narrowed to the values of an alternative.
                if (
                    found is None
                    or what is not symbol
                    or not set(symbol.values) <= set(found.values)
                ):
                    text = f"{where} of {block.name} mentions {symbol}, which it does not know so"
                    yield broken(text, span)


def rates(subject: Subject) -> Iterator[Diagnostic]:
    """No shape holds a rate."""
    for block in subject.blocks:
        for symbol in sorted(shaped(block), key=str):
            if symbol.rate:
                yield broken(f"a shape of {block.name} holds the rate {symbol}", block.span)


def batches(subject: Subject) -> Iterator[Diagnostic]:
    """No condition hangs on a free size, for which a network is compiled once."""
    for block in subject.blocks:
        for what, where, span in mentions(block):
            if isinstance(what, CONDITIONS):
                for symbol in sorted(what.symbols, key=str):
                    if symbol.free and not symbol.rate:
                        text = f"a condition of {where} of {block.name} hangs on {symbol}"
                        yield broken(f"{text}, which is any size", span)


def ranges(subject: Subject) -> Iterator[Diagnostic]:
    """A number with a rate in it keeps to the interval of its option at every use; no parameter
    starts by a number that hangs on a decision."""
    for found in (*within(subject.graph), *starts(subject.graph)):
        yield broken("; ".join((found.headline, *found.notes)), found.primary.span)


def reads(subject: Subject) -> Iterator[Diagnostic]:
    """An index lies in the axis that it reads; asked where types and options are right."""
    for found in indices(subject.graph):
        yield broken("; ".join((found.headline, *found.notes)), found.primary.span)


def bindings(subject: Subject) -> Iterator[Diagnostic]:
    """A size is bound to what takes no value that it does not; a rate may be anything."""
    for block in subject.blocks:
        for _, node in everything(block):
            if node.call is None:
                continue
            for size in subject.graph.blocks[node.call.block].sizes:
                try:
                    check_replacement(size, node.call.sizes[size.name])
                except ValueError as failed:
                    yield broken(f"%{node.id} of {block.name} binds {size}: {failed}", node.span)


def decisions(subject: Subject) -> Iterator[Diagnostic]:
    """A path is one decision; its values fit its kind and lie within its hull."""
    for block in subject.blocks:
        count = Counter(choice.path for choice in block.decisions)
        for choice in block.decisions:
            where = f"{choice.path} of {block.name}"
            if count[choice.path] > 1:
                yield broken(f"two decisions {where}", choice.span)
            if not choice.values or len(set(choice.values)) < len(choice.values):
                yield broken(f"{where} has no value, or one twice", choice.span)
            if {type(value) for value in choice.values} not in VALUES[choice.kind]:
                yield broken(f"{where} has values that are not of its kind", choice.span)
            if choice.hull is not None and not set(choice.values) <= set(choice.hull):
                yield broken(f"{where} has values outside its hull", choice.span)
    found: dict[str, tuple[object, ...]] = {}
    for instance in subject.graph.instances():
        for choice in instance.block.decisions:
            path = join(instance.decide, choice.path)
            here = (choice.kind, choice.values, choice.hull)
            if found.setdefault(path, here) != here:
                yield broken(f"two different decisions of the path {path}", choice.span)


NUMBERS = [{Fraction}, {int}, {int, Fraction}]
VALUES: Mapping[str, list[set[type]]] = {
    "dim": [*NUMBERS, {str}, {bool}],
    "presence": [*NUMBERS, {str}, {bool}],
    "path": [{str}],
    "pick": [{tuple}],
}


def options(subject: Subject) -> Iterator[Diagnostic]:
    """A node has its op's options, each of its kind, and as many operands as the op reads."""
    for block in subject.blocks:
        for _, node in everything(block):
            for wrong in _options(node):
                yield broken(f"%{node.id} of {block.name}: {wrong}", node.span)


def _options(node: Node) -> Iterator[str]:
    definition = ops().get(node.op)
    extra = set(node.attributes)
    if definition is None:
        if node.op in ("guard", "choose"):
            extra.discard("conditions")
            given = node.attributes.get("conditions", ())
            if not isinstance(given, tuple) or len(given) != len(node.regions) or not all(
                isinstance(c, CONDITIONS) for c in given
            ):  # fmt: skip
                yield "each region has a condition"
        if node.op == "input" and _sizes(node.attributes.get("within", ())):
            extra.discard("within")
        if extra:
            yield f"{node.op} has no option {min(extra)}"
        return
    extra -= {*definition.options, "given"}
    if extra:
        yield f"{node.op} has no option {min(extra)}"
    for name, option in definition.options.items():
        if name not in node.attributes:
            yield f"{node.op} lacks its option {name}"
        elif not _fits(option, node.attributes[name]):
            yield f"{name} of {node.op} is of the wrong kind"
    given = node.attributes.get("given", ())
    optional = [name[:-1] for name in definition.operands if name.endswith("?")]
    names = given if isinstance(given, tuple) else ("",)
    if len(set(names)) < len(names) or not set(names) <= set(optional):
        yield f"{node.op} has no such optional operands"
    count = len(node.operands) - len(names)
    least = sum(not name.endswith("?") for name in definition.operands)
    most = len(definition.operands)
    if any(name.endswith("*") for name in definition.operands):
        least, most = 1, len(node.operands)
    if not least <= count <= most:
        yield f"{node.op} reads another number of values than {count}"


def _fits(option: Option, value: Attribute) -> bool:
    if option.default is None and value is None:
        return True
    return FITS[option.kind](value)


def _size(value: Attribute) -> bool:
    return isinstance(value, Dim)


def _sizes(value: Attribute) -> bool:
    return _size(value) or (isinstance(value, tuple) and all(map(_size, value)))


def _shape(value: Attribute) -> bool:
    return _size(value) or (isinstance(value, tuple) and all(map(_sizes, value)))


FITS: Mapping[str, Callable[[Attribute], bool]] = {
    "size": _size,
    "whole": _size,
    "number": _size,
    "rate": _size,
    "factors": _sizes,
    "sizes": _sizes,
    "wholes": _sizes,
    "shape": _shape,
    "bool": lambda value: isinstance(value, bool),
    "string": lambda value: isinstance(value, str),
    "init": lambda value: isinstance(value, Init),
    "any": lambda value: True,
}


def params(subject: Subject) -> Iterator[Diagnostic]:
    """A parameter is declared once, with a known bank; a view has its axes, by known tables."""
    known_tables = tables()
    for block in subject.blocks:
        count = Counter(param.path for param in block.params)
        known = subject.symbols(block)
        for param in block.params:
            if count[param.path] > 1:
                yield broken(f"{block.name} has two parameters {param.path}", param.span)
            for name in param.bank:
                if name not in known:
                    text = f"{param.path} of {block.name} has a bank of {name}, which is unknown"
                    yield broken(text, param.span)
        for _, node in everything(block):
            for view in node.params.values():
                param = block.param.get(view.param)
                if param is None:
                    text = f"%{node.id} of {block.name} reads {view.param}, which is not declared"
                    yield broken(text, node.span)
                elif [len(a) for a in view.index] != [len(a) for a in param.shape]:
                    text = (
                        f"%{node.id} of {block.name} reads {view.param} by other axes than it has"
                    )
                    yield broken(text, node.span)
                for part in (part for axis in view.index for part in axis):
                    if isinstance(part, Gather) and part.table not in known_tables:
                        text = f"%{node.id} of {block.name} reads through {part.table}"
                        yield broken(f"{text}, which is no index table", node.span)
