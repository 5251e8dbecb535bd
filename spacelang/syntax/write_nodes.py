"""Nodes of a block as statements of the language.

A value that one node reads is written where it is read, others get a name; a name whose value is
read no more is used again, so that a stream of values keeps the name `x`. A region of a guard is a
`when`, a choice a chain of `else when`; one by a path is `choose op { .. }`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from spacelang.ir.block import Block
from spacelang.ir.condition import Chosen, Condition, conjunction, negate
from spacelang.ir.graph import conditions
from spacelang.ir.node import Call, Node, Value
from spacelang.syntax.operations import LISTS
from spacelang.syntax.write_calls import Callee, Written
from spacelang.syntax.write_decisions import Decided
from spacelang.syntax.write_split import Split, alternatives, selected
from spacelang.syntax.write_values import INDENT, Names, Speller, cannot, misplaced, reserved

LONGEST = 90
"""Of an expression that stands where it is read."""
STREAM = ("x", "y", "z", "h", "u", "v", "w", "s", "t")


@dataclass(frozen=True)
class Context:
    """Where statements stand: the conditions around them, the prefix of labels there, and the
    names that may be bound anew."""

    guards: tuple[Condition, ...] = ()
    prefix: str = ""
    own: set[str] = field(default_factory=set[str])

    def inside(self, truth: Condition, own: set[str], prefix: str | None = None) -> Context:
        where = self.prefix if prefix is None else prefix
        return Context((*self.guards, truth), where, own)


class Body(Decided):
    """Writes the body of one block.

    `names` are free names, `speller` writes sizes in the names of the block, `rate` those that
    only scale, `callee` says how a call's block is called, `split` how several by a decision.
    """

    def __init__(
        self,
        block: Block,
        names: Names,
        speller: Speller,
        rate: Speller,
        callee: Callable[[Call], Callee],
        split: Callable[[Split], tuple[Callee, Call]],
        variables: dict[str, str],
    ) -> None:
        super().__init__(block, names, speller, rate, callee, variables)
        self.split = split
        self.holders: dict[str, list[Value]] = {}
        self.left: Counter[Value] = Counter()

    def name(self, value: Value, name: str) -> None:
        """Say what a value is called."""
        self.values[value] = Written(name, (value,), named=True)
        self.holders.setdefault(name, []).append(value)

    # Levels.

    def lines(self, level: Block, where: Context) -> Iterator[str]:
        """The statements of a block or region; its inputs have their names already."""
        live = conjunction(*where.guards)
        self.left.update(v for node in level.nodes for v in node.operands)
        self.left.update(level.outputs)
        once = self._read_once(level)
        for node in level.nodes:
            if node.op == "input":
                continue
            yield from self.decisions_now(live, where.prefix)
            yield from self.needed(node, live, where.prefix)
            yield from self._statement(node, level, where, once)
        yield from self.decisions_now(live, where.prefix)

    def result(self, level: Block) -> list[str]:
        """The texts of what a level yields."""
        found = [self.values[value] for value in level.outputs]
        for written in found:
            self._spend(written)
        return [written.text for written in found]

    def _spend(self, written: Written) -> None:
        """A text that reads values has been written."""
        self.left.subtract(written.leaves)

    def _read_once(self, level: Block) -> set[Value]:
        """Values that are read once, by an op or a call of this level or as its result."""
        uses = Counter(v for node in level.nodes for v in node.operands)
        uses.update(level.outputs)
        plain = (n for n in level.nodes if not n.regions and not _numbered(n))
        direct = {value for node in plain for value in node.operands}
        direct |= set(level.outputs)
        return {value for value in direct if uses[value] == 1}

    # Statements.

    def _statement(
        self, node: Node, level: Block, where: Context, once: set[Value]
    ) -> Iterator[str]:
        place = selected(node)
        if place is not None:
            yield from self._select(node, place, where, once)
            return
        if node.op == "guard" or (node.op == "choose" and node.id not in self.by_path):
            split = alternatives(node)
            if split is None:
                yield from self._when(node, where)
                return
            callee, call = self.split(split)
            made = replace(split.node, op="call", call=call, label=call.path)
            operands = [self.values[v] for v in split.operands]
            written = self.called(made, call, callee, operands, where.prefix)
            yield from self._bind(replace(made, id=node.id, types=node.types), written, where)
            return
        if node.op == "choose":
            yield from self._choose(node, where)
            return
        written = self.expression(node, where.prefix)
        many = len(node.types) > 1 or node.op in LISTS
        made = Value(node.id)
        last = made in level.outputs
        longest = (
            2 * LONGEST if last else 0 if _numbered(node) or node.op == "identity" else LONGEST
        )
        if not many and made in once and len(written.text) <= longest:
            self.values[made] = written
            return
        yield from self._bind(node, written, where)

    def _bind(self, node: Node, written: Written, where: Context) -> Iterator[str]:
        """`a, b = text`"""
        self._spend(written)
        if len(node.values) == 1:
            names = [self._again(written.leaves, where.own) or self._fresh(node, where.own)]
        else:
            names = [self._fresh(node, where.own) for _ in node.values]
        for value, name in zip(node.values, names, strict=True):
            self.name(value, name)
        text = written.text
        if len(names) == 1 and node.op in LISTS:
            text = f"({text})[0]" if "|>" in text else f"{text}[0]"
        yield f"{', '.join(names)} = {text}"

    def _again(self, leaves: Sequence[Value], own: set[str]) -> str | None:
        """The name of a value that nobody reads any more, to be bound anew."""
        for value in leaves:
            name = self.values[value].text
            if name in own and all(self.left[other] <= 0 for other in self.holders[name]):
                return name
        return None

    def _fresh(self, node: Node, own: set[str]) -> str:
        wish = node.label.rpartition(".")[2].partition("[")[0] if node.label else ""
        for short in STREAM if not wish.isidentifier() or node.call is not None else ():
            if short not in self.names.taken:
                wish = short
                break
        name = self.names.free(wish or f"v{node.id}")
        own.add(name)
        return name

    # Regions.

    def _when(self, node: Node, where: Context) -> Iterator[str]:
        truths = conditions(node)
        heads = [f"when {self.speller.condition(truth, node.span)}" for truth in truths]
        if len(heads) == 2 and truths[1] == negate(truths[0]):
            heads[1] = ""
        leaves = tuple(v for operand in node.operands for v in self.values[operand].leaves)
        self.left.subtract(leaves)
        old = [self.values[v].text for v in node.operands]
        names = self._results(node, where)
        if node.op == "guard":
            pairs = [(n, o) for n, o in zip(names, old, strict=False) if n != o]
            yield from _assigned(pairs)
        bodies: list[list[str]] = []
        for region, truth in zip(node.regions, truths, strict=True):
            bodies.append(list(self._region(node, region, names, where.inside(truth, set(names)))))
        for value, name in zip(node.values, names, strict=True):
            self.name(value, name)
        yield from _chain(heads, bodies)
        if node.label:
            (name,) = names
            yield f"{name} = ({name}) as {self.label(node, where.prefix)}"

    def _results(self, node: Node, where: Context) -> list[str]:
        """Names for what a `when` rebinds: those of operands that nobody reads after it."""
        names: list[str] = []
        for position in range(len(node.types)):
            wanted = node.operands[position : position + 1] if node.op == "guard" else node.operands
            again = self._again(wanted, where.own - set(names))
            names.append(again or self._fresh(node, where.own))
        return names

    def _region(
        self, node: Node, region: Block, names: Sequence[str], where: Context
    ) -> Iterator[str]:
        for outer, inner in zip(node.operands, region.inputs, strict=True):
            self.name(Value(inner.id), self.values[outer].text)
        yield from self.lines(region, where)
        made = self.result(region)
        pairs = [(n, m) for n, m in zip(names, made, strict=False) if n != m]
        if node.op == "choose" and not pairs and len(region.nodes) == len(region.inputs):
            pairs = list(zip(names, made, strict=False))[:1]  # a way must not be empty
        yield from _assigned(pairs)

    def _select(
        self, node: Node, places: Mapping[int, Value], where: Context, once: set[Value]
    ) -> Iterator[str]:
        """`[a, b, c][inputs[0]]`: the entry of a list where a pick says."""
        first = conditions(node)[0]
        assert isinstance(first, Chosen)
        filler = next(iter(places.values()))
        values = [places.get(index, filler) for index in range(1 + max(places))]
        leaves = tuple(leaf for v in node.operands for leaf in self.values[v].leaves)
        items = ", ".join(self.values[value].text for value in values)
        pick = f"{self.speller.name(first.symbol)}[{first.position}]"
        text = f"[{items}][{pick}]"
        if node.label:
            text = f"({text}) as {self.label(node, where.prefix)}"
        written = Written(text, leaves, closed=not node.label)
        if node.values[0] in once:
            self.values[node.values[0]] = written
        else:
            yield from self._bind(node, written, where)

    def _choose(self, node: Node, where: Context) -> Iterator[str]:
        """`choose op { k3: .. k5 { .. } }`, which declares its decision."""
        choice = next(c for c in self.block.decisions if c.path == node.label)
        if [first.path for first in self.waiting[:1]] != [choice.path]:
            raise misplaced(
                f"the decision {choice.path}", "it is taken in another order", node.span
            )
        self.waiting.pop(0)
        lines = [f"choose {self.target(choice, where.prefix)} {{"]
        leaves = tuple(v for operand in node.operands for v in self.values[operand].leaves)
        truths = conditions(node)
        for region, truth, value in zip(node.regions, truths, choice.values, strict=True):
            if not isinstance(value, str) or not value.isidentifier() or value in reserved():
                raise cannot(f"the alternative {value}", "it is no name", node.span)
            inside = where.inside(truth, set(), f"{choice.path}.{value}")
            for outer, inner in zip(node.operands, region.inputs, strict=True):
                self.name(Value(inner.id), self.values[outer].text)
            body = list(self.lines(region, inside))
            (made,) = self.result(region)
            if body:
                lines.append(f"{value} {{")
                lines += [INDENT + line for line in (*body, f"return {made}")]
                lines.append("}")
            else:
                lines.append(f"{value}: {made}")
        lines.append("}")
        yield from self._bind(node, Written("\n".join(lines), leaves), where)


def _numbered(node: Node) -> bool:
    """Whether a call may be one of a row that a loop makes: such stand by themselves."""
    return node.call is not None and node.label.endswith("]")


def _assigned(pairs: Sequence[tuple[str, str]]) -> Iterator[str]:
    """`a, b = c, d`: all at once, since one may be the other."""
    if pairs:
        yield f"{', '.join(name for name, _ in pairs)} = {', '.join(text for _, text in pairs)}"


def _chain(heads: Sequence[str], bodies: Sequence[Sequence[str]]) -> Iterator[str]:
    """`when a { .. } else when b { .. }`; short bodies stand on one line."""
    short = all(len(body) == 1 and "\n" not in body[0] for body in bodies)
    if short and sum(len(body[0]) + len(h) for body, h in zip(bodies, heads, strict=True)) < 90:
        yield " else ".join(
            f"{head} {{ {body[0]} }}".lstrip() for head, body in zip(heads, bodies, strict=True)
        )
        return
    for position, (head, body) in enumerate(zip(heads, bodies, strict=True)):
        start = "} else " if position else ""
        yield f"{start}{head} {{" if head else "} else {"
        yield from (INDENT + line for line in body)
    yield "}"
