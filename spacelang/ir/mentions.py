"""Every size and condition that a block holds, with where it stands."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from spacelang.diagnostics import Span
from spacelang.ir.block import Block
from spacelang.ir.condition import Condition
from spacelang.ir.dim import Dim, Symbol
from spacelang.ir.node import Attribute, Node
from spacelang.ir.param import Gather, Init, View

Mention = tuple[Dim | Condition | Symbol, str, Span]


def mentions(block: Block) -> Iterator[Mention]:
    """Sizes, conditions and bare symbols of a block: `(what, "the type of %3", span)`."""
    for choice in block.decisions:
        yield choice.live, f"the decision {choice.path}", choice.span
    for param in block.params:
        for size in (*(n for axis in param.shape for n in axis), *param.init.arguments):
            yield size, f"the parameter {param.path}", param.span
    for node in block.everywhere():
        for what in of_node(node):
            yield what, f"%{node.id}", node.span


def of_node(node: Node) -> Iterator[Dim | Condition | Symbol]:
    """Sizes, conditions and bare symbols of a node, without those of its regions."""
    for type in node.types:
        yield from type.shape
    for value in node.attributes.values():
        yield from _of_attribute(value)
    for view in node.params.values():
        yield from _of_view(view)
    if node.call is not None:
        yield from node.call.sizes.values()


def _of_attribute(value: Attribute) -> Iterator[Dim | Condition | Symbol]:
    match value:
        case None | bool() | str():
            return
        case tuple():
            for inner in value:
                yield from _of_attribute(inner)
        case Init():
            yield from value.arguments
        case _:
            yield value


def _of_view(view: View) -> Iterator[Dim]:
    for axis in view.index:
        for part in axis:
            yield part.length
            yield from part.arguments if isinstance(part, Gather) else (part.start,)


def shaped(block: Block) -> frozenset[Symbol]:
    """The symbols that shapes hold: types, parameters and what nodes read of them."""
    found: set[Symbol] = set()
    for param in block.params:
        _collect(found, (n for axis in param.shape for n in axis))
    for node in block.everywhere():
        for type in node.types:
            _collect(found, type.shape)
        for view in node.params.values():
            _collect(found, _of_view(view))
    return frozenset(found)


def _collect(found: set[Symbol], sizes: Iterable[Dim]) -> None:
    for size in sizes:
        found |= size.symbols
