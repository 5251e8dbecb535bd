"""Rasters: which grid the tokens of an axis come from, and how many stand before it.

    a map of 14 x 14 as b (h w) c, behind a class token     ->  Raster(14, 14, skip=1)

The axis is followed back to where two axes of a map became one. Where nothing is found there, or
sizes hang on decisions, a number of tokens that is a square, or one more, is read as a square
grid.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from spacelang.ir.dim import ONE, Dim, sqrt
from spacelang.ir.infer import Infer, Settled
from spacelang.ir.node import Node, TensorType
from spacelang.ir.prove import Proved, equal, whole
from spacelang.ops.patterns import bind_rearrange, parse_einsum, parse_rearrange
from spacelang.passes.flow import At, Flow

MOST = 64
"""More tokens than this before a grid are not looked for: a block may add one at every use."""


@dataclass(frozen=True)
class Raster:
    """Rows and columns of a grid in raster order, and tokens without a place before them."""

    height: Dim
    width: Dim
    skip: int = 0

    @property
    def tokens(self) -> Dim:
        return self.height * self.width + self.skip

    def __str__(self) -> str:
        behind = f" behind {self.skip}" if self.skip else ""
        return f"{self.height} x {self.width}{behind}"


def traced(flow: Flow, at: At, axis: int) -> set[Raster]:
    """Every grid of known size that an axis of a value may come from."""
    found: set[Raster] = set()
    waiting = [(at, axis, 0)]
    seen: set[tuple[At, int, int]] = set()
    while waiting:
        step = waiting.pop()
        if step in seen or abs(step[2]) > MOST:
            continue
        seen.add(step)
        here, axis, skip = step
        node = flow.node(here)
        sources = flow.sources(here)
        if sources is not None:
            waiting += [(s, axis, skip) for s in sources]
            continue
        types = tuple(flow.type((here[0], v)) for v in node.operands)
        grid = _merged(node, types, axis)
        if grid is not None:
            height, width = grid
            if skip >= 0 and height.constant is not None and width.constant is not None:
                found.add(Raster(height, width, skip))
            continue
        for operand, before, more in _axes(node, types, here[1].index, axis):
            waiting.append(((here[0], node.operands[operand]), before, skip + more))
    return found


def squares(tokens: Dim, skips: tuple[int, ...]) -> Iterator[Raster]:
    """Square grids of a number of tokens, sizes by decision included."""
    for skip in skips:
        side = _root(tokens - skip)
        if side is not None:
            yield Raster(side, side, skip)


def _root(size: Dim) -> Dim | None:
    """The square root where it is a whole number of at least one for every architecture."""
    if size.constant is not None and size.constant < 1:
        return None
    if len(size.terms) == 1:
        ((monomial, number),) = size.terms
        root = sqrt(number)
        if root.constant is not None and all(exponent % 2 == 0 for _, exponent in monomial):
            half = tuple((atom, exponent // 2) for atom, exponent in monomial)
            return Dim(((half, root.constant),))
    if any(s.free for s in size.symbols):
        return None
    root = sqrt(size)
    exact = isinstance(equal(root * root, size), Proved) and isinstance(whole(root), Proved)
    return root if exact else None


def _merged(node: Node, types: tuple[TensorType, ...], axis: int) -> tuple[Dim, Dim] | None:
    """The two sizes that a rearrangement makes one axis of: `b h w c -> b (h w) c`."""
    if node.op != "rearrange":
        return None
    infer = Settled("rearrange", types, node.attributes)
    sides = parse_rearrange(infer)
    group = _group(sides.right, types[0].rank, axis)
    if group is None or len(group) != 2 or group in sides.left:
        return None
    sizes, _ = bind_rearrange(infer, sides)
    height, width = (sizes.get(name, ONE) for name in group)
    return height, width


def _group(groups: tuple[tuple[str, ...], ...], rank: int, axis: int) -> tuple[str, ...] | None:
    """The group of a pattern that stands on an axis; None inside `...`."""
    if ("...",) not in groups:
        return groups[axis]
    dots = groups.index(("...",))
    spread = rank - len(groups) + 1
    if axis < dots:
        return groups[axis]
    return groups[axis - spread + 1] if axis >= dots + spread else None


def _axes(
    node: Node, types: tuple[TensorType, ...], index: int, axis: int
) -> Iterator[tuple[int, int, int]]:
    """Operands and their axes that an axis of a result is, and tokens that it has more than it."""
    made = node.types[index]
    match node.op:
        case "rearrange":
            yield from _rearranged(node, types, axis)
        case "einsum":
            yield from _summed(node, types, axis)
        case "unstack":
            at = _whole(node, "axis") % types[0].rank
            yield 0, axis + (axis >= at), 0
        case "concat":
            yield from _joined(node, types, axis)
        case "slice":
            yield from _sliced(node, types[0], axis)
        case "linear":
            if axis < types[0].rank - _whole(node, "axes"):
                yield 0, axis, 0
        case "conv" | "take" | "gather" | "parameter" | "mean":
            return
        case _:
            for operand, type in enumerate(types):
                before = axis - (made.rank - type.rank)
                if before >= 0 and type.shape[before] == made.shape[axis]:
                    yield operand, before, 0


def _whole(node: Node, name: str) -> int:
    value = node.attributes[name]
    assert isinstance(value, Dim)
    return int(value.at({}))


def _rearranged(
    node: Node, types: tuple[TensorType, ...], axis: int
) -> Iterator[tuple[int, int, int]]:
    sides = parse_rearrange(Infer("rearrange", types, node.attributes))
    rank = types[0].rank
    group = _group(sides.right, node.types[0].rank, axis)
    for before in range(rank):
        if group is not None and _group(sides.left, rank, before) == group:
            yield 0, before, 0


def _summed(node: Node, types: tuple[TensorType, ...], axis: int) -> Iterator[tuple[int, int, int]]:
    pattern = parse_einsum(Infer("einsum", types, node.attributes))
    result = tuple((c,) for c in pattern.result)
    group = _group(result, node.types[0].rank, axis)
    for operand, (letters, type) in enumerate(zip(pattern.operands, types, strict=True)):
        for before in range(type.rank):
            if (
                group is not None
                and _group(tuple((c,) for c in letters), type.rank, before) == group
            ):
                yield operand, before, 0


def _joined(node: Node, types: tuple[TensorType, ...], axis: int) -> Iterator[tuple[int, int, int]]:
    """Along its axis the parts before the last are tokens without a place."""
    along = _whole(node, "axis") % types[0].rank
    if axis != along:
        yield from ((operand, axis, 0) for operand in range(len(types)))
        return
    first = sum((t.shape[axis] for t in types[:-1]), Dim.of(0))
    if first.constant is not None:
        yield len(types) - 1, axis, int(first.constant)


def _sliced(node: Node, type: TensorType, axis: int) -> Iterator[tuple[int, int, int]]:
    """An axis from some token on has as many fewer before the grid."""
    given = node.attributes["index"]
    entries = given if isinstance(given, tuple) else (given,)
    left = axis
    for before in range(type.rank):
        entry = entries[before] if before < len(entries) else None
        if isinstance(entry, Dim):
            continue
        if left == 0:
            break
        left -= 1
    else:
        return
    if entry is None:
        yield 0, before, 0
    elif isinstance(entry, tuple):
        start, stop = (d for d in entry if isinstance(d, Dim))
        if start.constant is not None and stop == type.shape[before]:
            yield 0, before, -int(start.constant)
