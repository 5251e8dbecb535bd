"""Parts: axes that `concat` joins of elastic parts, and who else has such an axis.

    y = concat([up, skip], axis: 1) |> relu     # both axes: up, skip
    conv(y, 64, 3) as c                         # axis 1 of c.weight: up, skip

Entry for entry the axis of a result is that of an operand, or the rows of a weight: all such axes
are one, in blocks that are called too. What is read of a weight along it starts, part for part,
where the part starts in the largest network. `axes.py` says which axes an op leaves as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import TypeVar

from spacelang.analysis.axes import Step, row_of
from spacelang.diagnostics import Span
from spacelang.ir.block import Block
from spacelang.ir.dim import ZERO, Dim
from spacelang.ir.graph import Entered, Graph, Instance
from spacelang.ir.known import Known
from spacelang.ir.node import Node, Value

Chain = tuple[int, ...]
Sizes = tuple[Dim, ...]
Told = TypeVar("Told")


@dataclass(frozen=True)
class Read:
    """A factor of what a node reads of a parameter, in the use of a block that `chain` leads to."""

    chain: Chain
    instance: Instance
    node: Node
    role: str
    axis: int
    factor: int


@dataclass(frozen=True)
class Joined:
    """Why an axis has parts: where it is joined, and the first part that moves others."""

    span: Span
    part: Dim


def elastic(size: Dim) -> bool:
    """Whether decisions set a size."""
    return any(len(symbol.points) > 1 for symbol in size.symbols)


def parted(graph: Graph) -> bool:
    """Whether a part by decision stands in front of others anywhere: else no axis has parts."""
    return any(_moves(block) for block in (graph.root, *graph.blocks.values()))


def _moves(level: Block) -> bool:
    for node in level.nodes:
        if any(map(_moves, node.regions)):
            return True
        if node.op == "concat":
            axis = node.attributes["axis"]
            assert isinstance(axis, Dim)
            at = int(axis.at({})) % node.types[0].rank
            if any(elastic(level.type_of(v).shape[at]) for v in node.operands[:-1]):
                return True
    return False


def merged(sizes: Iterable[Dim]) -> Sizes:
    """Parts in the terms of the network, a known size and what follows it as one."""
    found: list[Dim] = []
    open_part = False
    for size in sizes:
        if size == ZERO:
            continue
        if open_part:
            found[-1] += size
        else:
            found.append(size)
        open_part = not elastic(size)
    return tuple(found)


class Parts:
    """The parts of every axis of a graph; one walk over all uses of its blocks."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.reads: dict[tuple[Chain, int, str, int, int], tuple[Read, int]] = {}
        self.named: dict[Chain, dict[Dim, Dim]] = {}
        """The sizes of a use, in the terms of the network, and how the block has them."""
        self._parent: list[int] = []
        self._size: list[Dim] = []
        self._lists: dict[int, list[tuple[int, ...]]] = {}
        self._made: list[int] = []  # the axes that have lists, as the network makes them
        self._joined: dict[int, Joined] = {}
        self._multiples: dict[int, list[tuple[int, Dim]]] = {}
        self._sections: dict[int, list[tuple[int, Dim, Dim]]] = {}
        self._dropped: list[tuple[int, int, Dim | None]] = []
        self._known: dict[int, Sizes | None] = {}
        self._lost: dict[int, Joined] = {}
        if parted(graph):
            self._level((), graph.entered, None)
            self._settle()

    @cached_property
    def cells(self) -> dict[str, Dim]:
        """The decisions of cells, whose paths in the root count from there, by those paths."""
        known = Known(self.graph).root().items()
        slashed = ((path, s) for path, s in known if path.startswith("/") and s.numeric)
        return {path[1:]: Dim.of(symbol) for path, symbol in slashed}

    def of(self, key: tuple[Chain, int, str, int, int]) -> Sizes:
        """The parts of a factor that is read, one where it has none or none that are known."""
        found = self.reads.get(key)
        if found is None:
            return ()
        read, axis = found
        root = self._find(axis)
        parts = merged(self._parts(root) or ())
        length = read.instance.absolute(read.node.params[read.role].lengths[read.axis][read.factor])
        whole = sum(parts, ZERO)
        return parts if root not in self._lost and whole == length else ()

    def joined(self) -> Iterator[tuple[Read, Joined]]:
        """Every factor that is read along an axis with parts, or with parts that got lost."""
        for read, axis in self.reads.values():
            root = self._find(axis)
            found = self._lost.get(root)
            if found is None and len(merged(self._parts(root) or ())) > 1:
                found = self._reason(root)
            if found is not None:
                yield read, found

    # What rows of ops say (`axes.py`).

    def same(self, a: int, b: int) -> None:
        """Two axes are one."""
        a, b = self._find(a), self._find(b)
        if a == b:
            return
        self._parent[b] = a
        _move(self._lists, b, a)
        _move(self._multiples, b, a)
        _move(self._sections, b, a)
        if b in self._joined:
            self._joined.setdefault(a, self._joined.pop(b))

    def join(self, axis: int, parts: tuple[int, ...], span: Span) -> None:
        """An axis is made of others, side by side."""
        root = self._find(axis)
        self._lists.setdefault(root, []).append(parts)
        self._made.append(root)
        first = next((self._size[p] for p in parts[:-1] if elastic(self._size[p])), None)
        if first is not None:
            self._joined.setdefault(root, Joined(span, first))

    def multiple(self, axis: int, of: int, times: Dim) -> None:
        """An axis has so many entries for each one of another."""
        self._multiples.setdefault(self._find(axis), []).append((of, times))

    def section(self, axis: int, of: int, start: Dim, stop: Dim) -> None:
        """An axis is a run of another."""
        self._sections.setdefault(self._find(axis), []).append((of, start, stop))

    def drop(self, axis: int, of: int, alike: Dim | None = None) -> None:
        """An axis reads another in a way in which no parts are followed, unless all are `alike`."""
        self._dropped.append((axis, of, alike))

    def read(self, step: Step, role: str, axis: int, factor: int, along: int) -> None:
        """A factor of a parameter lies along an axis."""
        if role in step.node.params:
            read = Read(step.chain, step.instance, step.node, role, axis, factor)
            self.reads[step.chain, step.node.id, role, axis, factor] = (read, along)

    def size(self, axis: int) -> Dim:
        return self._size[axis]

    def axis(self, size: Dim) -> int:
        """An axis of no tensor, by its size in the network."""
        self._parent.append(len(self._parent))
        self._size.append(size)
        return self._parent[-1]

    # The walk.

    def _axes(self, chain: Chain, instance: Instance, shape: Sizes) -> tuple[int, ...]:
        named = self.named.setdefault(chain, {})
        found: list[int] = []
        for size in shape:
            whole = instance.absolute(size)
            named.setdefault(whole, size)
            found.append(self.axis(whole))
        return tuple(found)

    def _level(
        self,
        chain: Chain,
        here: Entered,
        given: list[tuple[int, ...]] | None,
    ) -> list[tuple[int, ...]]:
        """The axes of the outputs of a block or region."""
        instance, level = here.instance, here.level
        values: dict[Value, tuple[int, ...]] = {}
        waiting = iter(given or ())
        for node in level.nodes:
            results = [self._axes(chain, instance, t.shape) for t in node.types]
            values.update(zip(node.values, results, strict=True))
            operands = [values[v] for v in node.operands]
            if node.op == "input":
                if given is not None:
                    self._all_same(next(waiting), results[0])
            elif node.call is not None:
                (inside,) = here.inside(node)
                made = self._level((*chain, node.id), inside, operands)
                for a, b in zip(made, results, strict=True):
                    self._all_same(a, b)
            elif node.regions:
                for inside in here.inside(node):
                    made = self._level(chain, inside, operands)
                    for a, b in zip(made, results, strict=True):
                        self._all_same(a, b)
                if node.op == "guard":
                    for a, b in zip(operands, results, strict=False):
                        self._all_same(a, b)
            else:
                row_of(node.op)(Step(self, chain, instance, node, operands, results))
        return [values[v] for v in level.outputs]

    def _all_same(self, a: tuple[int, ...], b: tuple[int, ...]) -> None:
        for m, n in zip(a, b, strict=True):
            self.same(m, n)

    # What follows of it.

    def _find(self, axis: int) -> int:
        parent = self._parent
        while parent[axis] != axis:
            parent[axis] = parent[parent[axis]]
            axis = parent[axis]
        return axis

    def _settle(self) -> None:
        """Lists of equal sizes for one axis have equal parts; what reads lost parts has lost
        them."""
        changed = True
        while changed:
            changed = False
            for root in list(self._lists):
                lists = self._lists.get(root, [])
                for other in lists[1:]:
                    if [self._size[p] for p in lists[0]] != [self._size[p] for p in other]:
                        continue
                    for a, b in zip(lists[0], other, strict=True):
                        changed = changed or self._find(a) != self._find(b)
                        self.same(a, b)
        for axis in self._made:  # before what is a run of them: that may be a part of them, too
            self._parts(self._find(axis))
        for root in dict.fromkeys(map(self._find, range(len(self._parent)))):
            reason = self._reason(root) if self._parts(root) is None else None
            if reason is not None:
                self._lost.setdefault(root, reason)
        changed = True
        while changed:
            changed = False
            for axis, of, alike in self._dropped:
                root, source = self._find(axis), self._find(of)
                reason, parts = self._lost.get(source), self._parts(source) or ()
                if reason is None and len(merged(parts)) > 1 and {*parts} != {alike}:
                    reason = self._reason(source)
                if reason is not None and root != source and root not in self._lost:
                    self._lost[root] = reason
                    changed = True

    def _reason(self, root: int) -> Joined | None:
        """Where the parts of an axis come from."""
        seen, waiting = {root}, [root]
        while waiting:
            axis = waiting.pop()
            if axis in self._joined:
                return self._joined[axis]
            sources = [
                *(p for parts in self._lists.get(axis, ()) for p in parts),
                *(of for of, _ in self._multiples.get(axis, ())),
                *(of for of, _, _ in self._sections.get(axis, ())),
            ]
            found = dict.fromkeys(map(self._find, reversed(sources)))
            waiting += [source for source in found if source not in seen]
            seen.update(found)
        return None

    def _parts(self, root: int) -> Sizes | None:
        """The parts of an axis that have none themselves; None where it is told in two ways."""
        if root not in self._known:
            self._known[root] = None  # an axis that is a part of itself has none that are known
            self._known[root] = self._found(root)
        return self._known[root]

    def _found(self, root: int) -> Sizes | None:
        ways: dict[Sizes, Sizes] = {}
        for parts in self._lists.get(root, ()):
            inner = [self._within(p) for p in parts]
            if None in inner:
                return None
            sizes = tuple(size for part in inner if part is not None for size in part)
            ways[merged(sizes)] = sizes
        for of, times in self._multiples.get(root, ()):
            sizes = tuple(size * times for size in self._within(of) or ())
            ways[merged(sizes)] = sizes
        for of, start, stop in self._sections.get(root, ()):
            sizes = _between(self._within(of) or (), start, stop)
            ways[merged(sizes)] = sizes
        found = [sizes for short, sizes in ways.items() if len(short) > 1]
        if len(found) > 1:
            return None
        return found[0] if found else (self._size[root],)

    def _within(self, axis: int) -> Sizes | None:
        """The parts of an axis inside of another: of its own size where it has none."""
        found = self._parts(self._find(axis))
        return (self._size[axis],) if found is not None and len(found) == 1 else found


def _move(told: dict[int, list[Told]], b: int, a: int) -> None:
    if b in told:
        told.setdefault(a, []).extend(told.pop(b))


def _between(parts: Sizes, start: Dim, stop: Dim) -> Sizes:
    """The parts from an entry to another; none where these are inside of parts."""
    borders = list(accumulate(parts, initial=ZERO))
    if start not in borders or stop not in borders:
        return ()
    return parts[borders.index(start) : borders.index(stop)]
