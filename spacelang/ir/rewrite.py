"""Rewriting by patterns: a rule is a pattern over op names and a function that builds its place.

    @rule("linear(x) as fc1 |> gelu |> linear as fc2", where=single_use)
    def gated(at, x, fc1, fc2):
        hidden = fc1.attributes["out"]
        ...
        return at.one("linear", [y], {"out": x.shape[-1]}, label="fc2")

    graph = rewrite(graph, gated).graph

A pattern names ops, or blocks for their calls. `a |> b` is `b(a)`. The names in brackets are
values, `_` any of them, the same name twice the same value; `concat(..)` reads anything. `as` names
a node, which else is called after its op. The function takes any of these names, and `at`, the
cursor before the last node; it returns what takes the place of that node's values, or None.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from operator import is_
from typing import Any

from spacelang.diagnostics import SpaceError, Span, error
from spacelang.ir.block import Block
from spacelang.ir.edit import Draft, Made, Site, edit
from spacelang.ir.graph import Graph
from spacelang.ir.node import Node, Value
from spacelang.ir.words import base_name

LIMIT = 10_000
"""How many replacements a rewriting may make before it is taken to have no end."""


@dataclass(frozen=True)
class Shape:
    """A node of a pattern: its op or block, what it reads (a name is any value), its own name.

    Without `operands` it may read anything.
    """

    op: str
    operands: tuple[Shape | str, ...] | None
    name: str


@dataclass(frozen=True)
class Match:
    """Where a pattern was found: values and nodes by name, and the level they stand in."""

    level: Block
    root: Node
    values: Mapping[str, Value]
    nodes: Mapping[str, Node]

    @property
    def inner(self) -> tuple[Node, ...]:
        """The nodes of the match but the last."""
        return tuple(node for node in self.nodes.values() if node.id != self.root.id)


Where = Callable[[Match], bool]


def single_use(match: Match) -> bool:
    """Whether each inner node of a match is read once, within the match."""
    ids = {node.id for node in match.nodes.values()}
    for node in match.inner:
        readers = [r for v in node.values for r in match.level.readers.get(v, ())]
        if len(readers) != 1 or readers[0].id not in ids:
            return False
        if any(v in match.level.outputs for v in node.values):
            return False
    return True


def anywhere(match: Match) -> bool:
    """Every match."""
    return True


@dataclass(frozen=True)
class Rule:
    """A pattern, a condition on its matches and the function that builds what takes their place."""

    name: str
    pattern: Shape
    build: Callable[..., Made | None]
    where: Where = anywhere

    @cached_property
    def wanted(self) -> tuple[str, ...]:
        """The names that the function takes. ValueError for one that the pattern does not have."""
        taken = tuple(inspect.signature(self.build).parameters)
        known = {"at", "match", *_names(self.pattern)}
        odd = [name for name in taken if name not in known]
        if odd:
            raise ValueError(f"{self.name} takes {odd[0]}, which its pattern does not name")
        return taken


def rule(pattern: str, where: Where = anywhere) -> Callable[[Callable[..., Made | None]], Rule]:
    """A rule of the function below. ValueError for a pattern that cannot be read."""
    shape = parse_shape(pattern)

    def make(build: Callable[..., Made | None]) -> Rule:
        made = Rule(build.__name__, shape, build, where)
        assert made.wanted is not None
        return made

    return make


@dataclass(frozen=True)
class Step:
    """One replacement: by which rule, of what, and the ids of the nodes that it made there."""

    rule: str
    block: str
    node: int
    made: tuple[int, ...]
    span: Span


@dataclass(frozen=True)
class Rewritten:
    """A rewritten graph, and how it came about."""

    graph: Graph
    steps: tuple[Step, ...]

    def origin(self, block: str, node: int) -> str:
        """The rule that made a node of a block; empty for one that was there."""
        return next(
            (s.rule for s in reversed(self.steps) if s.block == block and node in s.made), ""
        )


def rewrite(graph: Graph, *rules: Rule, limit: int = LIMIT) -> Rewritten:
    """The graph with every match replaced, until there is none; earlier rules come first.

    Raises SpaceError: SP601 after `limit` replacements, SP602 where what they leave is no graph.
    """
    steps: list[Step] = []
    with edit(graph) as draft:
        for name in list(draft.blocks):
            for step in _replacements(draft, name, rules):
                steps.append(step)
                if len(steps) > limit:
                    names = ", ".join(rule.name for rule in rules)
                    text = f"{names}: more than {limit:,} replacements, they seem to have no end"
                    raise SpaceError(error("SP601", text, step.span))
    return Rewritten(draft.result, tuple(steps))


Declined = dict[tuple[int, int], tuple[Node, ...]]
"""Matches that nothing was made of, by the rule's place and the last node: what stood around."""


def _replacements(draft: Draft, name: str, rules: tuple[Rule, ...]) -> Iterator[Step]:
    """Make the replacements of a block, one after the other, until there is none.

    What a rule declined is tried anew where a node beside it has changed; at the end all of it is,
    as a rule may look further.
    """
    declined: Declined = {}
    changed = False
    while True:
        step = _first(draft, name, rules, declined)
        if step is not None:
            changed = True
            yield step
        elif changed:
            changed = False
            declined.clear()
        else:
            return


def _first(draft: Draft, name: str, rules: tuple[Rule, ...], declined: Declined) -> Step | None:
    """Make the first replacement that is to be made in a block."""
    for level in _levels(draft.blocks[name]):
        for node in level.nodes:
            for place, rule in enumerate(rules):
                match = find(level, node, rule.pattern)
                if match is None:
                    continue
                around = _around(match)
                if _same(around, declined.get((place, node.id), ())):
                    continue
                if rule.where(match):
                    made = _apply(draft, Site(draft, name, node.id), rule, match)
                    if made is not None:
                        return Step(rule.name, name, node.id, made, node.span)
                declined[place, node.id] = around
    return None


def _around(match: Match) -> tuple[Node, ...]:
    """The nodes of a match, those that make what it reads and those that read what it makes."""
    level, inside = match.level, tuple(match.nodes.values())
    makers = (level.by_id[v.node] for node in inside for v in node.operands)
    readers = (r for node in inside for v in node.values for r in level.readers.get(v, ()))
    return (*inside, *makers, *readers)


def _same(a: tuple[Node, ...], b: tuple[Node, ...]) -> bool:
    return len(a) == len(b) and all(map(is_, a, b))


def _apply(draft: Draft, site: Site, rule: Rule, match: Match) -> tuple[int, ...] | None:
    done = False

    def make(at: Any, *_: object) -> Made | None:
        nonlocal done
        given = {"at": at, "match": match, **match.nodes}
        given |= {name: at.value(value) for name, value in match.values.items()}
        result = rule.build(**{name: given[name] for name in rule.wanted})
        done = result is not None
        return result

    made = draft.substitute(site, make, [node.id for node in match.inner])
    return made if done else None


def _levels(block: Block) -> Iterator[Block]:
    yield block
    for node in block.nodes:
        for region in node.regions:
            yield from _levels(region)


# Matching.


def find(level: Block, node: Node, shape: Shape) -> Match | None:
    """The match of a pattern whose last node is this one, if it fits."""
    values: dict[str, Value] = {}
    nodes: dict[str, Node] = {}
    return Match(level, node, values, nodes) if _fits(level, node, shape, values, nodes) else None


def _fits(
    level: Block, node: Node, shape: Shape, values: dict[str, Value], nodes: dict[str, Node]
) -> bool:
    names = (node.op,) if node.call is None else (node.call.block, base_name(node.call.block))
    if shape.op not in names or nodes.setdefault(shape.name, node) is not node:
        return False
    if shape.operands is None:
        return True
    if len(shape.operands) != len(node.operands):
        return False
    for wanted, value in zip(shape.operands, node.operands, strict=True):
        if isinstance(wanted, str):
            if wanted != "_" and values.setdefault(wanted, value) != value:
                return False
        elif value.index or not _fits(level, level.by_id[value.node], wanted, values, nodes):
            return False
    return True


def _names(shape: Shape) -> Iterator[str]:
    yield shape.name
    for operand in shape.operands or ():
        if isinstance(operand, str):
            yield operand
        else:
            yield from _names(operand)


# Reading patterns.

_TOKEN = re.compile(r"\s*(\|>|\.\.|[(),]|[A-Za-z_]\w*(?:\.\w+)*)")


def parse_shape(text: str) -> Shape:
    """The pattern of a text. ValueError where it is none."""
    tokens: list[str] = []
    position = 0
    text = text.rstrip()
    while position < len(text):
        found = _TOKEN.match(text, position)
        if found is None:
            raise ValueError(f"{text[position:]!r} is no part of a pattern")
        tokens.append(found[1])
        position = found.end()
    reader = _Reader(text, tokens)
    shape = reader.pipe()
    if isinstance(shape, str) or reader.peek():
        raise ValueError(f"{text!r} is no pattern: it ends in an op, such as conv(x) |> relu")
    seen = list(_nodes(shape))
    twice = next((name for name in seen if seen.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{text!r} has two nodes called {twice}: name one by `as`")
    return shape


def _nodes(shape: Shape) -> Iterator[str]:
    yield shape.name
    for operand in shape.operands or ():
        if isinstance(operand, Shape):
            yield from _nodes(operand)


@dataclass
class _Reader:
    text: str
    tokens: list[str]
    position: int = 0

    def peek(self) -> str:
        return self.tokens[self.position] if self.position < len(self.tokens) else ""

    def take(self, wanted: str = "") -> str:
        found = self.peek()
        if (
            not found
            or (wanted and found != wanted)
            or (not wanted and not found[0].isidentifier())
        ):
            raise ValueError(f"{self.text!r} is no pattern: {wanted or 'a name'} is wanted")
        self.position += 1
        return found

    def pipe(self) -> Shape | str:
        """A step, and those that it is piped into."""
        left = self.step(None)
        while self.peek() == "|>":
            self.take("|>")
            left = self.step(left)
        return left

    def step(self, piped: Shape | str | None) -> Shape | str:
        """`op(a, b) as name`; a name by itself that nothing is piped into is a value."""
        op = self.take()
        operands: list[Shape | str] = [] if piped is None else [piped]
        called, anything = self.peek() == "(", False
        if called:
            self.take("(")
            anything = self.peek() == ".."
            if anything:
                self.take("..")
            while not anything and self.peek() != ")":
                operands.append(self.pipe())
                if self.peek() != ")":
                    self.take(",")
            self.take(")")
        if piped is None and not called:
            return op
        name = op.replace(".", "_")
        if self.peek() == "as":
            self.take("as")
            name = self.take()
        return Shape(op, None if anything else tuple(operands), name)
