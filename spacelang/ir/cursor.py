"""A place in a finished block where nodes are added, with all that `BlockBuilder` can.

    with draft.before(site) as at:
        gate = at.one("sigmoid", [at.value(site.operands[0])])

What is made stands at the place once the cursor is closed; parameters, decisions and sizes that it
brings belong to the block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from spacelang.diagnostics import NOWHERE, SpaceError, Span, error
from spacelang.ir.block import Block
from spacelang.ir.build import BlockBuilder, Level, Tensor
from spacelang.ir.condition import Condition
from spacelang.ir.dim import Dim, Symbol, symbol_of
from spacelang.ir.known import Known
from spacelang.ir.node import Call, Node, TensorType, Value
from spacelang.ir.param import Param
from spacelang.ir.retype import At, differs, names_of


class Cursor(BlockBuilder):
    """Adds nodes to one level of a block, between two of its nodes.

    owner    the block, whose scope regions share        level   the block, or the region in it
    position the number of nodes of the level that stand before
    known    what the blocks that may be called decide
    """

    def __init__(
        self,
        owner: Block,
        level: Block,
        position: int,
        guards: tuple[Condition, ...],
        blocks: Mapping[str, Block],
        known: Known,
    ) -> None:
        super().__init__(owner.name, owner.span)
        self.sizes = {size.name: size for size in owner.sizes}
        for choice in owner.decisions:
            self.decide(choice)
        for param in owner.params:
            self._declare(param)
        self._next = owner.next_id
        self.level = self.base = Level(None, guards)
        self.base.nodes = {node.id: node for node in level.nodes[:position]}
        self.position, self.blocks, self.known = position, blocks, known

    def value(self, value: Value) -> Tensor:
        """A value of this level, made before the place. KeyError for another."""
        return Tensor(self.base, value, self.base.type_of(value))

    def invoke(
        self,
        block: str,
        operands: Sequence[Tensor],
        path: str = "",
        sizes: Mapping[str, Dim | Symbol] | None = None,
        *,
        decide: str | None = None,
        store: str | None = None,
        span: Span = NOWHERE,
    ) -> tuple[Tensor, ...]:
        """Call a block: its results. Sizes that are an axis of an input are found by themselves.

        SP204 where operands or sizes are missing or too many, SP303 where a type does not fit.
        """
        callee = self.blocks.get(block)
        if callee is None:
            raise SpaceError(error("SP201", f"no block is called {block}", span))
        if len(operands) != len(callee.inputs):
            text = f"{block} takes {len(callee.inputs)} values, {len(operands)} given"
            raise SpaceError(error("SP204", text, span))
        bound = _bound(callee, [tensor.type for tensor in operands], dict(sizes or {}), span)
        call = Call(
            block,
            path,
            path if decide is None else decide,
            path if store is None else store,
            (),
            bound,
        )
        names = names_of(call, self.known.decisions(callee))
        for tensor, inside in zip(operands, callee.inputs, strict=True):
            wanted = inside.types[0].substitute(names)
            if found := differs(tensor.type, wanted, At(self.guards)):
                text = f"{inside.label or 'an operand'} of {block} is not of its type"
                raise SpaceError(error("SP303", text, span).note(found))
        types = tuple(callee.type_of(value).substitute(names) for value in callee.outputs)
        return self.call(call, operands, types, span)

    @property
    def declared(self) -> tuple[Param, ...]:
        """The parameters of the block, with those that were added."""
        return tuple(self.params.values())

    def cover(self, span: Span) -> None:
        """Give what was made without a span this one."""
        for node in self._added():
            if node.span is NOWHERE:
                self.base.nodes[node.id] = replace(node, span=span)

    def made(self) -> list[Node]:
        """The nodes that were added."""
        if self.level is not self.base:
            raise SpaceError(error("SP602", f"a region of {self.name} is still open"))
        return self._added()

    def _added(self) -> list[Node]:
        return list(self.base.nodes.values())[self.position :]


def _bound(
    callee: Block, types: Sequence[TensorType], sizes: dict[str, Dim | Symbol], span: Span
) -> dict[str, Dim | Symbol]:
    """The sizes of a call: those given, and those that stand alone as an axis of an input."""
    wanted = {size.name for size in callee.sizes}
    for type, node in zip(types, callee.inputs, strict=True):
        for outside, inside in zip(type.shape, node.types[0].shape, strict=False):
            symbol = symbol_of(inside)
            if symbol is not None and symbol.name in wanted:
                sizes.setdefault(symbol.name, outside)
    if set(sizes) != wanted:
        odd = ", ".join(sorted(set(sizes) ^ wanted))
        raise SpaceError(error("SP204", f"{callee.name} is called with other sizes: {odd}", span))
    return sizes
