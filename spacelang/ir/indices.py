"""Reading by index: every entry of an index lies in the axis that it reads, in every architecture.

    take(x, offset_index(2, 2))      entries 0 to 8, so the axis has 9 at least

Entries are followed from what makes them (`entries` of its op, the range of an input) through what
only moves them, into blocks and out of them, to what reads by them (`room` of its op). There the
least and the largest are proved inside, under the conditions of both places.

Symbols of a table (`%1i0`) speak of one place of a value, and ops on each element keep the place.
All other ops do not: what they give has symbols of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import NamedTuple

from spacelang.diagnostics import Diagnostic, Span, error
from spacelang.ir.block import Block
from spacelang.ir.condition import Condition, conjunction, negate
from spacelang.ir.conflict import LONG, bare, example_text, open_question, shown, values_of
from spacelang.ir.dim import LIMIT, Dim
from spacelang.ir.entries import MARK, Entries, IndexOf
from spacelang.ir.graph import Entered, Graph, Instance, conditions
from spacelang.ir.node import Attribute, Node, TensorType, join
from spacelang.ir.node import Value as Result
from spacelang.ir.op import OpDef, ops
from spacelang.ir.prove import Proved, Refuted, at_most, feasible
from spacelang.ir.table_proofs import TRIED, at_each

WHOLE = "i64"
WAYS = 64
"""How many combinations of sources an op on indices may have."""
NO_ROW = OpDef("", (), {})


@dataclass(frozen=True)
class Source:
    """Whole numbers that a value may hold: their bounds, where they are made, and under which
    conditions. `entries` is None where nothing is known of them, and `unknown` may say why."""

    entries: Entries | None
    span: Span
    guards: tuple[Condition, ...]
    unknown: str = ""

    def where(self, condition: Condition) -> Source:
        """The same, read where a further condition holds."""
        return replace(self, guards=(*self.guards, condition))


Sources = tuple[Source, ...]


def indices(graph: Graph) -> Iterator[Diagnostic]:
    """SP307 for an index that some architecture reads outside of its axis, SP308 for one of which
    that is not settled."""
    following = _Following(graph)
    if following.concerns(graph.root):
        following.level(_Here(graph.entered), ())
    yield from following.found.values()


class _Read(NamedTuple):
    """Entries at a node that reads by them; what is equal is proved once."""

    node: int
    source: Source
    room: Dim
    guards: tuple[Condition, ...]


@dataclass(frozen=True)
class _Here:
    """A block or region at one of its uses, and the sources of its values of whole numbers."""

    entered: Entered
    known: dict[Result, Sources] = field(default_factory=dict[Result, Sources])

    @property
    def instance(self) -> Instance:
        return self.entered.instance

    @property
    def level(self) -> Block:
        return self.entered.level

    def given(self, node: Node) -> list[Sources]:
        """The sources of each operand."""
        return [self.known.get(value, ()) for value in node.operands]

    def asked(self, node: Node, operands: tuple[Entries, ...], mark: str) -> IndexOf:
        """A node as rows see it, in the decisions of the whole space."""
        types = map(self.level.type_of, node.operands)
        return IndexOf(
            tuple(TensorType(tuple(map(self.instance.absolute, t.shape)), t.dtype) for t in types),
            {name: _absolute(self.instance, value) for name, value in node.attributes.items()},
            operands,
            mark,
            self.instance.guards,
        )


class _Following:
    def __init__(self, graph: Graph) -> None:
        self.graph, self.table = graph, ops()
        self.found: dict[tuple[int, Span], Diagnostic] = {}
        self._concerned: dict[str, bool] = {}
        self._proved: set[_Read] = set()
        self._marks = 0

    def concerns(self, block: Block) -> bool:
        """Whether there are whole numbers in a block, or in what it calls."""
        if block.name not in self._concerned:
            self._concerned[block.name] = any(
                any(type.dtype == WHOLE for type in node.types)
                or (node.call is not None and self.concerns(self.graph.blocks[node.call.block]))
                for node in block.everywhere()
            )
        return self._concerned[block.name]

    def level(self, here: _Here, fed: Sequence[Sources]) -> list[Sources]:
        """The sources of each output; what reads by sources is proved."""
        inputs = iter(fed)
        for node in here.level.nodes:
            if node.op == "input":
                found = [next(inputs, None) or self._input(here, node)]
            elif node.call is not None:
                found = self._called(here, node)
            elif node.regions:
                found = self._branched(here, node)
            else:
                found = [self._made(here, node) for _ in node.types]
                self._check(here, node)
            for value, sources, type in zip(node.values, found, node.types, strict=True):
                if type.dtype == WHOLE:
                    here.known[value] = tuple(dict.fromkeys(sources))
        return [here.known.get(value, ()) for value in here.level.outputs]

    def _input(self, here: _Here, node: Node) -> Sources:
        match node.attributes.get("within"):
            case (Dim() as low, Dim() as high):
                return (Source(Entries(low, high), node.span, here.instance.guards),)
            case _:
                return (Source(None, node.span, here.instance.guards),)

    def _called(self, here: _Here, node: Node) -> list[Sources]:
        assert node.call is not None
        if not self.concerns(self.graph.blocks[node.call.block]):
            return [()] * len(node.types)
        (inside,) = here.entered.inside(node)
        return self.level(_Here(inside), here.given(node))

    def _branched(self, here: _Here, node: Node) -> list[Sources]:
        """What each region yields where its condition holds, and a guard's fallback where not."""
        given = here.given(node)
        there = [here.instance.condition(condition) for condition in conditions(node)]
        ways: list[tuple[Condition, Sequence[Sources]]] = []
        for inside, condition in zip(here.entered.inside(node), there, strict=True):
            if feasible(inside.instance.guards) is not False:
                ways.append((condition, self.level(_Here(inside), given)))
        if node.op == "guard":
            ways.append((negate(conjunction(*there)), given[: len(node.types)]))
        return [
            tuple(source.where(condition) for condition, found in ways for source in found[number])
            for number in range(len(node.types))
        ]

    def _made(self, here: _Here, node: Node) -> Sources:
        """The entries that an op makes, of those of its operands."""
        if all(type.dtype != WHOLE for type in node.types):
            return ()
        row, given = self.table.get(node.op, NO_ROW), here.given(node)
        if node.op == "identity":
            return given[0]
        if "moves" in row.traits:
            return tuple(self._apart(source) for sources in given for source in sources)
        guards = here.instance.guards
        ways = [way for _, way in zip(range(WAYS + 1), product(*given), strict=False)]
        known = all(here.level.type_of(value).dtype == WHOLE for value in node.operands)
        if row.entries_row is None or not known or len(ways) > WAYS:
            return (Source(None, node.span, guards),)
        found: list[Source] = []
        for way in ways:
            kept = way if "elementwise" in row.traits else tuple(map(self._apart, way))
            operands = tuple(source.entries for source in kept if source.entries is not None)
            asked = here.asked(node, operands, self._mark())
            there = (*guards, *(g for s in way for g in s.guards))
            entries, unknown = None, next((s.unknown for s in way if s.entries is None), "")
            try:
                entries = row.entries_row(asked) if len(operands) == len(way) else None
            except ArithmeticError as failed:
                unknown = str(failed)
            found.append(Source(entries, node.span, there, unknown))
        return tuple(found)

    def _mark(self) -> str:
        self._marks += 1
        return f"%{self._marks}"

    def _apart(self, source: Source) -> Source:
        """The same entries at places that are no others' places."""
        if source.entries is None:
            return source
        return replace(source, entries=_marked(source.entries, lambda _: self._mark()))

    def _check(self, here: _Here, node: Node) -> None:
        row = self.table.get(node.op, NO_ROW)
        if row.room_row is None:
            return
        room = row.room_row(here.asked(node, (), ""))
        for source in here.known.get(node.operands[row.operands.index("index")], ()):
            guards = tuple(dict.fromkeys((*here.instance.guards, *source.guards)))
            read, place = _Read(id(node), source, room, guards), (id(node), source.span)
            if read in self._proved or place in self.found:
                continue
            self._proved.add(read)
            found = _outside(node, read)
            if found is not None:
                path = join(here.instance.path, node.label)
                self.found[place] = found.note(f"at {path}") if path else found


def _marked(entries: Entries, mark: Callable[[int], str]) -> Entries:
    """The same entries with other marks of their own symbols, in their order."""
    own = [symbol for symbol in entries.symbols if MARK.match(symbol.name)]
    own.sort(key=lambda symbol: (len(symbol.name), symbol.name))
    names = {
        symbol.name: replace(symbol, name=MARK.sub(mark(number), symbol.name, count=1))
        for number, symbol in enumerate(own)
    }
    return entries.substitute(names) if names else entries


def _absolute(instance: Instance, value: Attribute) -> Attribute:
    match value:
        case Dim():
            return instance.absolute(value)
        case tuple():
            return tuple(_absolute(instance, entry) for entry in value)
        case _:
            return value


def _outside(node: Node, read: _Read) -> Diagnostic | None:
    """What is wrong with a read: SP307 with an architecture, SP308 where nothing settles it."""
    source, room = read.source, read.room
    label = f"an axis of {shown(room)}"
    if source.entries is None:
        found = error("SP308", f"nothing says which entries {node.op} reads", node.span)
        found = found.also(source.span, "the index is from here")
        found = found.note(MARK.sub("", source.unknown)) if source.unknown else found
        return found.hint("index by an input with a range, or by a table")
    entries = _marked(source.entries, "%{}".format)  # what is equal but for marks is proved once
    low, high, where = entries.low, entries.high, entries.where
    guards = (*read.guards, *where)
    sides = (
        (Dim.of(0), low, _made_of(low, "from", 0)),
        (high, room - 1, _made_of(high, "up to", -1)),
    )
    for small, large, reach in sides:
        verdict = at_most(small, large, guards)
        if not isinstance(verdict, Proved | Refuted):
            verdict = at_each("<=", small - large, guards) or verdict
        if isinstance(verdict, Proved):
            continue
        if isinstance(verdict, Refuted):
            example: dict[str, object] = {}
            for name, value in verdict.example.items():
                name = bare(name)
                while name in example:  # places of one table that are apart: i0, i0'
                    name += "'"
                example[name] = value
            found = error("SP307", f"{node.op} reads outside of its axis", node.span, label)
            return found.also(source.span, reach).note(example_text(example))
        headline = f"not settled for the whole space: {node.op} reads inside of its axis"
        found = error("SP308", headline, node.span, label).also(source.span, reach)
        tried = LIMIT if verdict.points <= TRIED else TRIED
        return found.note(open_question(verdict, tried)).hint(
            "keep the entries inside: min(.., n - 1)"
        )
    return None


def _made_of(number: Dim, what: str, end: int) -> str:
    """What is told of the place of an index: its bound, if that has a short text; of a table the
    least or the largest of its entries."""
    entries = values_of(number) if any(MARK.match(s.name) for s in number.symbols) else ()
    text = str(entries[end]) if entries else shown(number)
    return f"entries {what} {text}" if len(text) <= LONG else "its entries are from here"
