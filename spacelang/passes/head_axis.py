"""The axis of the heads, followed through ops that treat every head alike and by itself.

linear [.., 3, heads, dim]    unstack    einsum "...ihd,...jhd->...hij"    softmax    ..
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from spacelang.ir.dim import ONE, Dim
from spacelang.ir.infer import Infer
from spacelang.ir.node import Node, TensorType
from spacelang.ir.op import ops
from spacelang.ops.patterns import parse_rearrange

Axis = int | None
Axes = Sequence[Axis]
Types = Sequence[TensorType]
Rule = Callable[[Node, Types, Axes], list[int]]


class Blocked(Exception):
    """Why heads do not stay apart at a node."""


def _option(node: Node, name: str) -> int:
    value = node.attributes[name]
    assert isinstance(value, Dim)
    return int(value.at({}))


def _aligned(node: Node, types: Types, axes: Axes) -> list[int]:
    """Broadcast from the right."""
    rank = node.types[0].rank
    found = {a + rank - t.rank for a, t in zip(axes, types, strict=True) if a is not None}
    if len(found) > 1:
        raise Blocked("it meets heads on two axes")
    return [found.pop()]


def _along(node: Node, types: Types, axes: Axes) -> list[int]:
    """Softmax works along the last axis."""
    if axes[0] is None or axes[0] == types[0].rank - 1:
        raise Blocked("it works along the heads")
    return [axes[0]]


def _unstacked(node: Node, types: Types, axes: Axes) -> list[int]:
    gone, axis = _option(node, "axis") % types[0].rank, axes[0]
    assert axis is not None
    if gone == axis:
        raise Blocked("it takes the heads apart")
    return [axis - (gone < axis)] * len(node.types)


def _split(node: Node, types: Types, axes: Axes) -> list[int]:
    axis = axes[0]
    if axis is None or set(axes) != {axis}:
        raise Blocked("some of its parts have heads and some do not")
    if _option(node, "axis") % types[0].rank == axis:
        raise Blocked("it works along the heads")
    return [axis] * len(node.types)


def _sliced(node: Node, types: Types, axes: Axes) -> list[int]:
    index, axis = node.attributes["index"], axes[0]
    entries = index if isinstance(index, tuple) else (index,)
    assert axis is not None
    if axis < len(entries) and entries[axis] is not None:
        raise Blocked("it reads some heads only")
    return [axis - sum(isinstance(e, Dim) for e in entries[:axis])]


def _einsum(node: Node, types: Types, axes: Axes) -> list[int]:
    left, _, right = str(node.attributes["pattern"]).replace(" ", "").partition("->")
    spread = [_spelt(text, type.rank) for text, type in zip(left.split(","), types, strict=True)]
    letters = {s[a] for s, a in zip(spread, axes, strict=True) if a is not None}
    if len(letters) > 1:
        raise Blocked("it meets heads on two axes")
    (letter,) = letters
    result = _spelt(right, node.types[0].rank)
    if letter not in result:
        raise Blocked("it mixes the heads")
    return [result.index(letter)]


def _spelt(text: str, rank: int) -> list[str]:
    """The letters of an operand, those of `...` by their place from its end."""
    before, dots, after = text.partition("...")
    if not dots:
        return list(text)
    gap = rank - len(before) - len(after)
    return [*before, *(f"...{gap - i}" for i in range(gap)), *after]


def _rearranged(node: Node, types: Types, axes: Axes) -> list[int]:
    sides = parse_rearrange(Infer("rearrange", tuple(types), node.attributes))
    axis = axes[0]
    assert axis is not None
    if ("...",) in sides.left:
        place = sides.left.index(("...",))
        back = axis - types[0].rank
        if axis >= place and -back > len(sides.left) - place - 1:
            raise Blocked("it does not name the axis of the heads")
        group = sides.left[axis] if axis < place else sides.left[back]
    else:
        group = sides.left[axis]
    if len(group) != 1 or group not in sides.right:
        raise Blocked("it merges the heads with other axes")
    place = sides.right.index(group)
    if ("...",) in sides.right[:place]:
        place += node.types[0].rank - len(sides.right)
    return [place]


def _gathered(node: Node, types: Types, axes: Axes) -> list[int]:
    axis = axes[0]
    if axis is None or axis >= types[0].rank - 2:
        raise Blocked("it works along the heads")
    return [axis]


HEAD_AXIS: Mapping[str, Rule] = {
    "unstack": _unstacked, "split": _split, "concat": _split, "slice": _sliced, "einsum": _einsum,
    "rearrange": _rearranged, "gather": _gathered, "bucket_sum": _gathered, "softmax": _along,
    "identity": _aligned,
}  # fmt: skip
"""What is not here is blocked, but for ops on each element without parameters."""


def head_axes(node: Node, types: Types, axes: Axes) -> list[int]:
    """The axes of the heads in a node's results. Blocked where heads do not stay apart."""
    rule, definition = HEAD_AXIS.get(node.op), ops().get(node.op)
    if rule is None and definition is not None and "elementwise" in definition.traits:
        rule = _aligned
    if rule is None or node.params:
        raise Blocked(f"heads are not followed through {node.op}")
    return rule(node, types, axes)


def operand_axis(node: Node, number: int, types: Types, result: int) -> Axis:
    """The axis that stands for the heads in an operand that is not made of projections."""
    type = types[number]
    if node.op == "einsum":
        left, _, right = str(node.attributes["pattern"]).replace(" ", "").partition("->")
        letter = _spelt(right, node.types[0].rank)[result]
        here = _spelt(left.split(",")[number], type.rank)
        axis = here.index(letter) if letter in here else None
    elif node.op in ("gather", "bucket_sum"):
        axis = None
    else:
        axis = result + type.rank - node.types[0].rank
    return None if axis is None or axis < 0 or type.shape[axis] == ONE else axis


def joins_heads(node: Node, type: TensorType, axis: int) -> bool:
    """Whether a node makes heads and their width one: `linear(axes: 2)`, `.. h d -> .. (h d)`."""
    if axis != type.rank - 2:
        return False
    if node.op == "linear":
        return _option(node, "axes") == 2 and "given" not in node.attributes
    if node.op != "rearrange":
        return False
    sides = parse_rearrange(Infer("rearrange", (type,), node.attributes))
    last = sides.left[-2:]
    return all(len(group) == 1 for group in last) and (last[0] + last[1]) in sides.right
