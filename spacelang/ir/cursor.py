"""A place in a finished block where nodes are added, with all that `BlockBuilder` can.

    with draft.before(site) as at:
        gate = at.one("sigmoid", [at.value(site.operands[0])])

What is made stands at the place once the cursor is closed; parameters, decisions and sizes that it
brings belong to the block.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from spacelang.diagnostics import NOWHERE, SpaceError, Span, error
from spacelang.ir.block import Block
from spacelang.ir.block_edits import BlockEdits, Declared
from spacelang.ir.build import BlockBuilder, Level, Tensor
from spacelang.ir.condition import Condition
from spacelang.ir.dim import Dim, Symbol, symbol_of
from spacelang.ir.graph import Graph
from spacelang.ir.known import Known
from spacelang.ir.levels import NodeContext
from spacelang.ir.node import Call, Node, TensorType, Value
from spacelang.ir.owned import Held, Owned
from spacelang.ir.retype import At, differs, names_of


class Around(Level):
    """What is added at a place; what stands before it is seen, too."""

    def __init__(
        self, guards: tuple[Condition, ...], outside: Callable[[Value], TensorType]
    ) -> None:
        super().__init__(None, guards)
        self.outside = outside

    def type_of(self, value: Value) -> TensorType:
        return super().type_of(value) if value.node in self.nodes else self.outside(value)


class Cursor(BlockBuilder):
    """Adds nodes to one level of a block, beside one of its nodes.

    owner    the block, whose scope regions share        where    the node, its level and guards
    after    whether they come after the node            graph    what the blocks are called from
    first    the id of its first node
    """

    def __init__(
        self, owner: BlockEdits, where: NodeContext, after: bool, graph: Callable[[], Graph]
    ) -> None:
        super().__init__(owner.old.name, owner.old.span)
        self.declared = Declared()
        self.sizes = ChainMap(self.declared.sizes, owner.sizes)
        self.decisions = ChainMap(self.declared.decisions, owner.decisions)
        self.params = ChainMap(self.declared.params, owner.params)
        self.claims = ChainMap[Owned, Held]({}, owner.taken)
        self._next = self.first = owner.next_id
        self.owner, self.after, self.graph = owner, after, graph

        def outside(value: Value) -> TensorType:
            return owner.type_of(value, where.level, where.node.id, after)

        self.level = self.base = Around(where.guards, outside)

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
        known = Known(self.graph())
        callee = known.graph.blocks.get(block)
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
        names = names_of(call, known.decisions(callee))
        for tensor, inside in zip(operands, callee.inputs, strict=True):
            wanted = inside.types[0].substitute(names)
            if found := differs(tensor.type, wanted, At(self.guards)):
                text = f"{inside.label or 'an operand'} of {block} is not of its type"
                raise SpaceError(error("SP303", text, span).note(found))
        types = tuple(callee.type_of(value).substitute(names) for value in callee.outputs)
        return self.call(call, operands, types, span)

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
        return list(self.base.nodes.values())


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
