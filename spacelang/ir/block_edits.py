"""Edits of a block, batched until it is next read.

edits = BlockEdits(block)
edits.put(node)                                   # in the place of the node of its id
edits.add(nodes, anchor=7, after=True)            # right after node 7
edits.replace_uses(old, new)                      # what reads a value reads another
edits.block()                                     # the block with all of that
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from spacelang.ir.block import Block
from spacelang.ir.decision import Choice
from spacelang.ir.dim import Symbol
from spacelang.ir.node import Node, TensorType, Value
from spacelang.ir.owned import DECISION, PARAMETER, Held, Owned
from spacelang.ir.param import Param


@dataclass
class Declared:
    """What a block declares, by name or path."""

    sizes: dict[str, Symbol] = field(default_factory=dict[str, Symbol])
    decisions: dict[str, Choice] = field(default_factory=dict[str, Choice])
    params: dict[str, Param] = field(default_factory=dict[str, Param])

    def claims(self) -> dict[Owned, Held]:
        """The paths that it takes, whatever the conditions."""
        return {
            **{(DECISION, c.path): (((), c.span),) for c in self.decisions.values()},
            **{(PARAMETER, p.path): (((), p.span),) for p in self.params.values()},
        }


class BlockEdits(Declared):
    """The edits of a block since it was last read; `old` is the block as it was then.

    nodes      those that are put in the place of others, and new ones, by id
    next_id    an id that no node has
    """

    def __init__(self, old: Block) -> None:
        self.old = old
        self.nodes: dict[int, Node] = {}
        self.outputs = old.outputs
        super().__init__(
            {size.name: size for size in old.sizes},
            {choice.path: choice for choice in old.decisions},
            dict(old.param),
        )
        self.next_id = old.next_id
        self._changed = False
        self._places: dict[int, tuple[int, bool]] = {}
        self._before: dict[int, list[int]] = {}
        self._after: dict[int, list[int]] = {}
        self._readers: dict[Value, set[int]] = {}

    @cached_property
    def taken(self) -> dict[Owned, Held]:
        """The paths that the block takes by now."""
        return self.claims()

    def is_new(self, id: int) -> bool:
        """Whether a node is not in the old block."""
        return id in self._places

    def put(self, node: Node) -> None:
        """Put a node in the place of the one of its id."""
        self._changed = True
        self.nodes[node.id] = node
        for value in node.operands:
            self._readers.setdefault(value, set()).add(node.id)

    def add(self, nodes: Sequence[Node], anchor: int, after: bool) -> None:
        """Add nodes right before or after one of the old block."""
        self._changed = True
        for node in nodes:
            self.put(node)
            self._places[node.id] = anchor, after
            inner = (n.id for region in node.regions for n in region.everywhere())
            self.next_id = max(self.next_id, 1 + node.id, *(1 + id for id in inner))
        ids = [node.id for node in nodes]
        if after:
            self._after[anchor] = [*ids, *self._after.get(anchor, ())]
        else:
            self._before.setdefault(anchor, []).extend(ids)

    def declare(self, new: Declared) -> None:
        """Take over what was declared where nodes were added."""
        self._changed = True
        self.sizes |= new.sizes
        self.decisions |= new.decisions
        self.params |= new.params
        self.taken |= new.claims()

    def replace_uses(self, old: Value, new: Value, but: Collection[int] = ()) -> None:
        """Let all nodes of the block itself, and its outputs, read another value than `old`."""
        self._changed = True
        readers = {node.id for node in self.old.readers.get(old, ())}
        for id in (readers | self._readers.get(old, set())).difference(but):
            node = self.nodes[id] if id in self.nodes else self.old.by_id[id]
            if old in node.operands:
                self.put(
                    replace(node, operands=tuple(new if v == old else v for v in node.operands))
                )
        self.outputs = tuple(new if value == old else value for value in self.outputs)

    def type_of(self, value: Value, level: Block, anchor: int, after: bool) -> TensorType:
        """The type of a value that is made before a place in a level. KeyError for another."""
        at, behind = self._places.get(value.node, (value.node, None))
        if at == anchor:
            seen = after if behind is None else not behind  # the latest stands closest
        else:
            seen = level.order[at] < level.order[anchor]
        if not seen:
            raise KeyError(value)
        node = self.nodes.get(value.node)
        return (level.by_id[value.node] if node is None else node).types[value.index]

    def block(self) -> Block:
        """The block with all changes; itself if there are none."""
        if not self._changed:
            return self.old
        return replace(
            self.old,
            nodes=tuple(self._level(self.old.nodes)),
            outputs=self.outputs,
            sizes=tuple(self.sizes.values()),
            decisions=tuple(self.decisions.values()),
            params=tuple(self.params.values()),
        )

    def _level(self, nodes: Sequence[Node]) -> Iterator[Node]:
        for old in nodes:
            node = self.nodes.get(old.id, old)
            yield from (self.nodes[id] for id in self._before.get(old.id, ()))
            if node.regions:
                regions = (replace(r, nodes=tuple(self._level(r.nodes))) for r in node.regions)
                node = replace(node, regions=tuple(regions))
            yield node
            yield from (self.nodes[id] for id in self._after.get(old.id, ()))
