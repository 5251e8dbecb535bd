"""What every architecture computes of a level, and what only some do.

    y = batch_norm(x);  z = choose op { a: x + y  b: x }      # `batch_norm` is there for one of two

What no output needs must not run in training: it would move running statistics, and draw. A plan
leaves out whole steps, so where such a node is needed by some architectures alone, nodes that are
not always needed have to be steps of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from spacelang.ir.block import Block
from spacelang.ir.graph import Graph
from spacelang.ir.node import Node

STATEFUL = frozenset({"batch_norm", "dropout", "drop_path"})
Numbers = frozenset[int]
NONE: Numbers = frozenset()


class AlwaysNeeded:
    """What the levels of a graph need, whatever is decided."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._needed: dict[tuple[int, int], Numbers] = {}
        self._nodes: dict[int, Numbers] = {}
        self._stateful: dict[str, bool] = {}

    @cached_property
    def matters(self) -> bool:
        """Whether a node that keeps statistics or draws is there for some architectures only."""
        blocks = (self.graph.root, *self.graph.blocks.values())
        levels = [b for block in blocks for b in _levels(block)]
        doubtful = (n for b in levels for n in b.nodes if n.id not in self.nodes(b))
        return any(self.stateful(node) for node in doubtful)

    def nodes(self, level: Block) -> Numbers:
        """The nodes that a level always runs, if any of its outputs is needed.

        Of the root, those of all outputs of one kind: of inference, or of training.
        """
        found = self._nodes.get(id(level))
        if found is None:
            found = self._nodes[id(level)] = self._surely(level)
        return found

    def whole(self, level: Block) -> bool:
        """Whether nothing in a level, nor of its inputs, is doubtful."""
        return self.nodes(level).issuperset(node.id for node in level.nodes)

    def _surely(self, level: Block) -> Numbers:
        each = [self.needed(level, number) for number in range(len(level.outputs))]
        if level is not self.graph.root:
            return frozenset[int].intersection(*each) if each else NONE
        training = [o.training for o in self.graph.outputs]
        main = _joined([n for n, t in zip(each, training, strict=True) if not t])
        late = _joined([n for n, t in zip(each, training, strict=True) if t])
        reached = _reached(level, [o.value.node for o in self.graph.outputs if not o.training])
        return main | (late - reached)

    def needed(self, level: Block, output: int) -> Numbers:
        """The nodes, inputs too, that an output of a level needs in every architecture."""
        key = id(level), output
        if key not in self._needed:
            values = {level.outputs[output]}
            found: set[int] = set()
            for node in reversed(level.nodes):
                results = [i for i, value in enumerate(node.values) if value in values]
                if results:
                    found.add(node.id)
                    reads = _joined([self.reads(node, result) for result in results])
                    values.update(node.operands[i] for i in reads)
            self._needed[key] = frozenset(found)
        return self._needed[key]

    def reads(self, node: Node, result: int) -> Numbers:
        """The operands that a result of a node needs in every architecture."""
        if node.call is not None:
            return self._inputs(self.graph.blocks[node.call.block], result)
        if not node.regions:
            return frozenset(range(len(node.operands)))
        ways = [self._inputs(region, result) for region in node.regions]
        if node.op == "guard":  # without its region a result is the operand of the same number
            ways.append(frozenset({result}))
        return frozenset[int].intersection(*ways)

    def _inputs(self, level: Block, output: int) -> Numbers:
        needed = self.needed(level, output)
        return frozenset(i for i, node in enumerate(level.inputs) if node.id in needed)

    def stateful(self, node: Node) -> bool:
        """Whether a node, or one inside of it, keeps statistics or draws."""
        inside = [n for region in node.regions for n in region.nodes]
        if node.call is None:
            return node.op in STATEFUL or any(map(self.stateful, inside))
        name = node.call.block
        if name not in self._stateful:
            self._stateful[name] = any(map(self.stateful, self.graph.blocks[name].nodes))
        return self._stateful[name]


def _levels(block: Block) -> Sequence[Block]:
    return [block, *(inner for n in block.nodes for r in n.regions for inner in _levels(r))]


def _joined(sets: Sequence[Numbers]) -> Numbers:
    return NONE.union(*sets)


def _reached(level: Block, wanted: Sequence[int]) -> Numbers:
    """The nodes that some depend on, in one architecture or another."""
    found = set(wanted)
    for node in reversed(level.nodes):
        if node.id in found:
            found.update(value.node for value in node.operands)
    return frozenset(found)
