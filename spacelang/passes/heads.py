"""Attention out of one projection, taken apart into groups of heads on slices of the channels.

    q, k, v = linear(x, [3, heads, dim]) as qkv |> unstack(axis: 2)
    o = ..                                        # [.., heads, dim]
    linear(o, C, axes: 2) as proj

What lies between the projections and `o` must treat every head alike and by itself, which
`head_axis.py` tells. Then it is written once for each group, for fewer heads: the projection reads
the group's slice of x plus the result of the group before it, and what is not made of projections
but has heads (a table of biases) is sliced.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

from spacelang.diagnostics import NOWHERE, SpaceError, Span, error
from spacelang.ir.block import Block
from spacelang.ir.conflict import shown
from spacelang.ir.dim import Dim
from spacelang.ir.names import names_of
from spacelang.ir.node import Node, TensorType, Value
from spacelang.ir.prove import Proved, whole
from spacelang.ir.retype import At, differs
from spacelang.passes.head_axis import Blocked, head_axes, joins_heads, operand_axis
from spacelang.passes.remake import Body


def refuse(block: Block, why: str, span: Span, *notes: str) -> SpaceError:
    """SP601: the node that does not fit, and the reason."""
    found = error("SP601", f"cascade does not fit {block.name}: {why}", span)
    return SpaceError(found.note(*notes))


def grouped(block: Block, parts: int, blocks: Mapping[str, Block]) -> Block:
    """The block with its attention in `parts` cascaded groups of heads (0: one head each)."""
    opened = _opened(block, blocks)
    heads = _find(opened)
    total = heads.total
    if not parts:
        if total.constant is None:
            taken = ", ".join(str(n) for n in total.candidates()) if _listed(total) else "any"
            raise refuse(
                block, f"the number of heads, {shown(total)}, is a decision", heads.span,
                f"it takes {taken}: give `parts`, a divisor of each of them",
            )  # fmt: skip
        parts = int(total.constant)
    if parts == 1:
        return block
    return _Writer(opened, heads, parts).block()


def _listed(size: Dim) -> bool:
    return all(not s.free for s in size.symbols)


def _opened(block: Block, blocks: Mapping[str, Block]) -> Block:
    """The block with the nodes of helpers (`scores`, `weigh`), which own and name nothing."""
    while any(_plain(node, blocks) for node in block.nodes):
        body = Body(count(block.next_id))
        seen: dict[Value, Value] = {}
        for node in block.nodes:
            operands = [seen.get(v, v) for v in node.operands]
            if _plain(node, blocks) and node.call is not None:
                made = body.paste(blocks[node.call.block], operands, names_of(node.call))
                seen.update(zip(node.values, made, strict=True))
            else:
                body.put(replace(node, operands=tuple(operands)))
        outputs = tuple(seen.get(v, v) for v in block.outputs)
        block = replace(block, nodes=tuple(body.nodes), outputs=outputs)
    return block


def _plain(node: Node, blocks: Mapping[str, Block]) -> bool:
    if node.call is None or node.call.path:
        return False
    callee = blocks[node.call.block]
    return not callee.params and not callee.decisions


@dataclass(frozen=True)
class Heads:
    """Where heads are: the projections of x by the factor of their result, and the joined value."""

    x: Value
    projections: Mapping[int, int]
    joined: Value
    axes: Mapping[Value, int]
    total: Dim
    span: Span


@dataclass
class _Failure:
    """The reason of the attempt that came furthest."""

    place: int = -1
    why: str = "no linear gives its heads an axis, linear(x, [heads, dim])"
    span: Span = field(default=NOWHERE)


def _find(block: Block) -> Heads:
    """The attention of a block. SP601 where there is none that can be taken apart."""
    failure = _Failure(span=block.span)
    groups: dict[Value, list[Node]] = {}
    for node in block.nodes:
        out = node.attributes.get("out")
        if node.op == "linear" and "weight" in node.params and isinstance(out, tuple):
            groups.setdefault(node.operands[0], []).append(node)
    for x, projections in groups.items():
        for factors in _factors(projections):
            found = _followed(block, x, factors, failure)
            if found is not None:
                return found
    raise refuse(block, failure.why, failure.span)


def _factors(projections: Sequence[Node]) -> Iterator[dict[int, int]]:
    """Which factor of each projection's result may be the heads: one of equal size in all."""
    first = projections[0].attributes["out"]
    assert isinstance(first, tuple)
    for number, size in enumerate(first):
        found: dict[int, int] = {projections[0].id: number}
        for other in projections[1:]:
            out = other.attributes["out"]
            if isinstance(out, tuple) and size in out:
                found[other.id] = out.index(size)
        yield found


def _followed(
    block: Block, x: Value, factors: Mapping[int, int], failure: _Failure
) -> Heads | None:
    axes: dict[Value, int] = {}
    joined: set[Value] = set()
    total, span = Dim.of(1), NOWHERE
    for place, node in enumerate(block.nodes):
        types = [block.type_of(v) for v in node.operands]
        if node.id in factors:
            result = node.types[0]
            out = node.attributes["out"]
            assert isinstance(out, tuple)
            axis = result.rank - len(out) + factors[node.id]
            axes[Value(node.id)] = axis
            total, span = result.shape[axis], node.span
            continue
        have = [axes.get(v) for v in node.operands]
        if all(a is None for a in have):
            continue
        ends = [
            v for v, t, a in zip(node.operands, types, have, strict=True)
            if a is not None and joins_heads(node, t, a)
        ]  # fmt: skip
        if ends:
            joined.update(ends)
            continue
        try:
            axes.update(zip(node.values, head_axes(node, types, have), strict=True))
        except Blocked as blocked:
            if place > failure.place:
                name = node.label or node.op
                failure.place, failure.why, failure.span = place, f"at {name}, {blocked}", node.span
            return None
    if len(joined) != 1 or any(v in axes for v in block.outputs):
        if failure.place < 0:
            failure.why = "its heads are not joined in one place, linear(o, C, axes: 2)"
            failure.span = span
        return None
    return Heads(x, factors, joined.pop(), axes, total, span)


class _Writer:
    """Writes the block with its groups of heads one after the other."""

    def __init__(self, block: Block, heads: Heads, parts: int) -> None:
        self.old, self.heads, self.parts = block, heads, parts
        self.body = Body(count(block.next_id))
        self.inside = {v.node for v in heads.axes}
        self.group = heads.total / parts
        x, o = block.type_of(heads.x), block.type_of(heads.joined)
        self.slice = TensorType((*x.shape[:-1], x.shape[-1] / parts), x.dtype)
        for size, what in ((self.group, "heads"), (self.slice.shape[-1], "channels")):
            if not isinstance(whole(size), Proved):
                total = heads.total if what == "heads" else x.shape[-1]
                why = f"{shown(total)} {what} do not make {parts} equal groups"
                raise refuse(block, why, heads.span)
        given = TensorType((*o.shape[:-2], self.group * o.shape[-1]), o.dtype)
        found = differs(given, self.slice, At())
        if found:
            raise refuse(
                block, "what a group gives cannot be added to the next slice", heads.span,
                f"it is {shown(given)}, the slice is {shown(self.slice)}",
            )  # fmt: skip

    def block(self) -> Block:
        old, body, heads = self.old, self.body, self.heads
        after = self._after()
        for node in old.nodes:
            if node.id not in self.inside and node.id not in after:
                body.put(node)
        rank = old.type_of(heads.x).rank
        slices = body.apply("split", [heads.x], {"parts": self.parts, "axis": rank - 1})
        results: list[Value] = []
        for number, part in enumerate(slices):
            if results:
                before = body.one("rearrange", [results[-1]], {"pattern": "... h d -> ... (h d)"})
                part = body.one("add", [part, before])
            results.append(self._one(number, part))
        o = old.type_of(heads.joined)
        joined = body.one("concat", results, {"axis": o.rank - 2})
        body.nodes[-1] = replace(body.nodes[-1], types=(o,))
        for node in old.nodes:
            if node.id in after:
                operands = (joined if v == heads.joined else v for v in node.operands)
                body.put(replace(node, operands=tuple(operands)))
        read = {view.param for node in body.nodes for n in _all(node) for view in n.params.values()}
        were = {view.param for node in old.everywhere() for view in node.params.values()}
        kept = (p for p in old.params if p.path in read or p.path not in were)
        params = (*kept, *body.params.values())
        return replace(old, nodes=tuple(body.nodes), params=params)

    def _after(self) -> set[int]:
        """The nodes that read what the heads give."""
        found: set[int] = set()
        for node in self.old.nodes:
            if node.id in self.inside:
                continue
            if any(v == self.heads.joined or v.node in found for v in node.operands):
                found.add(node.id)
        return found

    def _one(self, number: int, part: Value) -> Value:
        """What one group of heads gives."""
        seen: dict[Value, Value] = {}
        for node in self.old.nodes:
            if node.id not in self.inside:
                continue
            label = f"{node.label}[{number}]" if node.label else ""
            options = {k: v for k, v in node.attributes.items() if k != "given"}
            if node.id in self.heads.projections:
                out = options["out"]
                assert isinstance(out, tuple)
                at = self.heads.projections[node.id]
                options["out"] = (*out[:at], self.group, *out[at + 1 :])
                operands = [part]
            else:
                operands = [
                    seen[v] if v in seen else self._outer(node, i, v, number)
                    for i, v in enumerate(node.operands)
                ]
            made = self.body.apply(node.op, operands, options, label, node.span)
            seen.update(zip(node.values, made, strict=True))
        return seen[self.heads.joined]

    def _outer(self, node: Node, position: int, value: Value, number: int) -> Value:
        """What a group reads of a value that is not made of projections."""
        types = [self.old.type_of(v) for v in node.operands]
        axis = operand_axis(node, position, types, self.heads.axes[Value(node.id)])
        if axis is None:
            return value
        if not self._constant(value):
            name = node.label or node.op
            why = f"at {name}, heads meet others that are not made of the same value"
            raise refuse(self.old, why, node.span)
        start = self.group * number
        index = (*(None for _ in range(axis)), (start, start + self.group))
        return self.body.one("slice", [value], {"index": index})

    def _constant(self, value: Value) -> bool:
        """Whether a value depends on no input of the block."""
        node = self.old.by_id[value.node]
        return node.op != "input" and all(self._constant(v) for v in node.operands)


def _all(node: Node) -> Iterator[Node]:
    yield node
    for region in node.regions:
        yield from region.everywhere()
