"""The syntax tree: one frozen class a construct, each with its span.

Rules of `space.lark` and classes here correspond by name (`choose_path` -> `ChoosePath`). Spans and
comments do not take part in comparison, so that two texts with the same meaning give equal trees.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import field
from typing import cast

from spacelang.diagnostics import Span
from spacelang.syntax.node import Tree
from spacelang.syntax.tree_expressions import (
    Argument,
    Binary,
    Body,
    CallOf,
    ChooseHere,
    ChoosePath,
    Each,
    Either,
    Expr,
    Field,
    Full,
    Hop,
    Index,
    Item,
    Labelled,
    Leading,
    List,
    Name,
    Number,
    Option,
    Path,
    Pipe,
    Range,
    Region,
    Rest,
    Set,
    String,
    TypeOf,
    Unary,
)

__all__ = [
    "Argument", "Assign", "Binary", "BlockOf", "Body", "CallOf", "Choose", "ChooseHere",
    "ChoosePath", "DecisionOf", "Declaration", "Default", "Draw", "Each", "Either", "Expr",
    "Field", "File", "For", "Full", "Hop", "Index", "Input", "Instance", "Item", "Labelled",
    "Leading", "Let", "List", "Name", "Names", "Network", "Number", "Option", "Output", "Param",
    "Path", "Pipe", "Program", "Range", "Region", "Rename", "Require", "Rest", "Return",
    "Rewrite", "Rule", "Search", "Set", "Setting", "Share", "SourceOf", "SpaceOf", "Statement",
    "Step", "String", "Subnet", "Tree", "TypeOf", "Unary", "Use", "Weights", "When", "below",
]  # fmt: skip


class Param(Tree):
    name: str
    type: TypeOf | None = None
    default: Expr | None = None


class Use(Tree):
    names: tuple[str, ...]


class Default(Tree):
    op: str
    arguments: tuple[Argument, ...]


class SourceOf(Tree):
    """A space by name, with arguments or without."""

    name: str
    arguments: tuple[Argument, ...] | None = None


class SpaceOf(Tree):
    """`space name(params) [from base] { .. }`."""

    name: str
    params: tuple[Param, ...]
    base: SourceOf | None
    body: Body


class Instance(Tree):
    """`space name[(params)] = base(..)`."""

    name: str
    params: tuple[Param, ...]
    base: SourceOf


class DecisionOf(Tree):
    path: Path
    value: Expr


class Subnet(Tree):
    name: str
    base: SourceOf
    like: str | None
    decisions: tuple[DecisionOf, ...]


class Network(Tree):
    """`word name = source [of network: path, ..]` of `program`."""

    word: str
    name: str
    base: SourceOf
    of: str | None
    paths: tuple[Path, ...]


class Share(Tree):
    """`word path, path` of `program`."""

    word: str
    paths: tuple[Path, ...]


class Program(Tree):
    """`program name { network a = .. network b = .. share p  pool c = .. of b: p }`."""

    name: str
    members: tuple[Network | Share, ...]


class BlockOf(Tree):
    """`block name(params) -> type { .. }`, or `cell`."""

    kind: str
    name: str
    params: tuple[Param, ...]
    result: TypeOf | None
    body: Body


class Input(Tree):
    name: str
    type: TypeOf
    domain: Expr | None = None


class Output(Tree):
    name: str | None
    value: Expr


class Let(Tree):
    names: tuple[str, ...]
    value: Expr


class Assign(Tree):
    names: tuple[str, ...]
    values: tuple[Expr, ...]


class Draw(Tree):
    count: Expr
    source: Expr


class Choose(Tree):
    """`[let given =] choose target in domain [within hull]`; it binds the given name, else the last
    of the target."""

    target: Path
    domain: Expr | Draw
    hull: Expr | None = None
    given: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.given[0] if self.given else self.target.hops[-1].name

    @property
    def plain(self) -> bool:
        """Whether its name keeps its value: one that is given, or all of a target without index."""
        only = len(self.target.hops) == 1 and not self.target.hops[0].indices
        return only or bool(self.given)


class For(Tree):
    names: tuple[str, ...]
    source: Expr
    body: Body


class When(Tree):
    condition: Expr
    body: Body
    otherwise: Body | When | None = None

    @property
    def others(self) -> tuple[Statement, ...]:
        """The statements of `else`."""
        if isinstance(self.otherwise, Body):
            return self.otherwise.statements
        return () if self.otherwise is None else (self.otherwise,)


class Return(Tree):
    value: Expr


class Require(Tree):
    condition: Expr


class Rule(Tree):
    """`path: rule` of `weights`."""

    path: Path
    rule: Expr


class Weights(Tree):
    rules: tuple[Rule, ...]


class Step(Tree):
    """`pass(options)` of `rewrite`."""

    name: str
    arguments: tuple[Argument, ...]


class Rewrite(Tree):
    steps: tuple[Step, ...]


class Rename(Tree):
    own: Path
    foreign: Path
    layout: Expr | None = None


class Names(Tree):
    dialect: str
    renames: tuple[Rename, ...]


class Setting(Tree):
    name: str
    value: Expr


class Search(Tree):
    engine: str
    settings: tuple[Setting, ...]


class File(Tree):
    """A whole text: its declarations in order, and its comments by offset for the formatter."""

    items: tuple[Declaration, ...]
    comments: tuple[Span, ...] = field(default=(), compare=False, repr=False)


Declaration = Use | Let | Default | SpaceOf | Instance | Subnet | Program | BlockOf
Statement = (
    Declaration | Input | Output | Choose | Assign | For | When | Return | Require | Weights
    | Rewrite | Names | Search
)  # fmt: skip


def below(node: object) -> Iterator[Tree]:
    """A tree and all trees below it."""
    waiting = [node]
    while waiting:
        here = waiting.pop()
        if isinstance(here, Tree):
            yield here
            waiting += here.children()
        elif isinstance(here, tuple):
            waiting += cast("tuple[object, ...]", here)
