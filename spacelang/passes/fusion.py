"""What is fused into one kernel: groups of nodes, and why other nodes are none.

    find = GROUPS["mlp"]           # of `fuse`
    found = find(level, node)      # a Group that ends in this node, an Unfit with why, or None

A group is found in one level. The block that it becomes is called `triton.KERNEL`; a backend finds
the group in there again, so nothing but the body says what a kernel has to compute, and the body is
its reference. Nodes inside a group are read by the group alone, but for constants.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from spacelang.ir.block import Block
from spacelang.ir.dim import Dim
from spacelang.ir.infer import Infer
from spacelang.ir.node import Node, TensorType, Value
from spacelang.ir.op import ops
from spacelang.ir.param import Gather
from spacelang.ir.words import base_name
from spacelang.ops.patterns import parse_einsum

PREFIX = "triton."
STORED = frozenset({"parameter", "buffer"})
SHAPELESS = frozenset({"take", "slice", "rearrange", "identity", "mul", "div", "add"})
Axis = tuple[str, ...]
"""The letters that an axis is made of."""
Layout = tuple[Axis, ...]
"""The letters of the axes of a value."""


@dataclass(frozen=True)
class Group:
    """Nodes that one kernel computes; the last is the only one whose value others read."""

    kernel: str
    nodes: frozenset[int]
    root: int


@dataclass(frozen=True)
class Unfit:
    """Why nodes that look like a group are none; `node` is where."""

    kernel: str
    node: Node
    why: str


Find = Callable[[Block, Node], "Group | Unfit | None"]


class Misfit(Exception):
    """Raised where a pattern that has begun to fit does not, with the node and the reason."""

    def __init__(self, node: Node, why: str) -> None:
        super().__init__(why)
        self.node, self.why = node, why


def kernel_of(name: str) -> str:
    """The kernel that a block is made for; empty for any other block."""
    base = base_name(name)
    return base.removeprefix(PREFIX) if base.startswith(PREFIX) else ""


def alone(level: Block, nodes: Iterable[int], root: int) -> Node | None:
    """A node of a group, no constant, whose value something outside reads; None if all is well."""
    inside = set(nodes)
    for number in inside - {root}:
        node = level.by_id[number]
        if constant(level, Value(number)):
            continue
        for value in node.values:
            readers = level.readers.get(value, ())
            if value in level.outputs or any(r.id not in inside for r in readers):
                return node
    return None


def constant(level: Block, value: Value) -> bool:
    """Whether a value is made of parameters and tables alone."""
    return all(
        node.op in STORED or is_table(node) or (node.op in SHAPELESS and bool(node.operands))
        for node in _origins(level, value)
    )


def making(level: Block, value: Value) -> set[int]:
    """The nodes that a constant is made of."""
    return {node.id for node in _origins(level, value)}


def _origins(level: Block, value: Value) -> Iterator[Node]:
    """The node of a value and all that it is made of, each once."""
    seen, waiting = set[int](), [value.node]
    while waiting:
        node = level.by_id[waiting.pop()]
        if node.id not in seen:
            seen.add(node.id)
            yield node
            waiting += (v.node for v in node.operands)


def is_table(node: Node) -> bool:
    definition = ops().get(node.op)
    return definition is not None and "table" in definition.traits


def maker(level: Block, value: Value, *wanted: str) -> Node | None:
    """The node of a value, if its op is one of these."""
    node = level.by_id[value.node]
    return node if node.op in wanted else None


def only_reader(level: Block, node: Node) -> Node | None:
    """The node that alone reads a node's only value."""
    (value,) = node.values
    readers = level.readers.get(value, ())
    return readers[0] if len(readers) == 1 and value not in level.outputs else None


def whole(node: Node, option: str, default: int = 1) -> int | None:
    """A known whole option of a node."""
    value = node.attributes.get(option)
    if value is None:
        return default
    found = value.constant if isinstance(value, Dim) else None
    return None if found is None or found.denominator != 1 else int(found)


def gathered(node: Node) -> bool:
    """Whether a parameter of a node is read through an index table."""
    return any(
        isinstance(p, Gather) for v in node.params.values() for axis in v.index for p in axis
    )


def spelt(node: Node, types: tuple[TensorType, ...]) -> tuple[tuple[str, ...], ...]:
    """The letters of an einsum's operands and of its result; axes of `...` are `0`, `1`, .."""
    pattern = parse_einsum(Infer("einsum", types, node.attributes))
    spread = max(
        (t.rank - len(p) + 1 for p, t in zip(pattern.operands, types, strict=True) if "..." in p),
        default=0,
    )
    leading = tuple(str(axis) for axis in range(spread))

    def letters(part: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(c for letter in part for c in (leading if letter == "..." else (letter,)))

    return (*map(letters, pattern.operands), letters(pattern.result))
