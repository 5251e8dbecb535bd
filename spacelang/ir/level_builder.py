"""Values and levels under construction: what `BlockBuilder` fills, in the order of the text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from spacelang.ir.block import Block
from spacelang.ir.condition import Condition
from spacelang.ir.dim import Dim
from spacelang.ir.node import Node, TensorType, Value


class Level:
    """The nodes of a block's body, or of one of its regions, while they are made.

    `nodes` are by id, in the order of the text; `imports` are the values of the level around it
    that it reads, with what they are inside.
    """

    def __init__(self, parent: Level | None, guards: tuple[Condition, ...]) -> None:
        self.parent = parent
        self.guards = guards
        self.nodes: dict[int, Node] = {}
        self.imports: dict[Value, Value] = {}

    def type_of(self, value: Value) -> TensorType:
        """The type of a value of this level. KeyError if it has none such."""
        return self.nodes[value.node].types[value.index]

    def block(
        self,
        name: str,
        operands: Sequence[Value],
        types: Sequence[TensorType],
        outputs: tuple[Value, ...],
        number: Callable[[], int],
    ) -> Block:
        """The region whose inputs are these values of the level around it; `number` gives ids."""
        body = [n for n in self.nodes.values() if n.op != "input"]
        inputs: list[Node] = []
        open_ = dict(self.imports)  # a value that is an operand twice has two inputs
        for value, type in zip(operands, types, strict=True):
            inner = open_.pop(value, None)
            inputs.append(
                Node(number(), "input", types=(type,)) if inner is None else self.nodes[inner.node]
            )
        return Block(name, (*inputs, *body), outputs)


@dataclass(frozen=True, eq=False)
class Tensor:
    """A value under construction: where it was made, and its type."""

    level: Level = field(repr=False)
    value: Value
    type: TensorType

    @property
    def shape(self) -> tuple[Dim, ...]:
        """The sizes of its axes, in the sizes of the block in the making."""
        return self.type.shape
