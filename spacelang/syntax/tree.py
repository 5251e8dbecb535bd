"""The syntax tree: one frozen class a construct, each with its span.

Rules of `space.lark` and classes here correspond by name (`choose_path` -> `ChoosePath`). Spans and
comments do not take part in comparison, so that two texts with the same meaning give equal trees.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

from spacelang.diagnostics import NOWHERE, Span


@dataclass(frozen=True)
class Tree:
    span: Span = field(default=NOWHERE, compare=False, repr=False, kw_only=True)

    def children(self) -> tuple[object, ...]:
        """The values of its fields: trees, tuples of trees, plain values."""
        return tuple(getattr(self, name) for name in self.__dataclass_fields__ if name != "span")


# Paths.
@dataclass(frozen=True)
class Hop(Tree):
    """A label with its indices: `blocks[i]`; `_` as a name matches any label."""

    name: str
    indices: tuple[Expr, ...] = ()


@dataclass(frozen=True)
class Path(Tree):
    hops: tuple[Hop, ...]


# Expressions.
@dataclass(frozen=True)
class Number(Tree):
    value: Fraction
    text: str = field(default="", compare=False)


@dataclass(frozen=True)
class String(Tree):
    value: str


@dataclass(frozen=True)
class Name(Tree):
    name: str


@dataclass(frozen=True)
class Unary(Tree):
    """`-x` (operator "-") or `not x` (operator "not")."""

    operator: str
    operand: Expr


@dataclass(frozen=True)
class Binary(Tree):
    """A chain is flat to the left: operators + - * / // % == != < <= > >= in `not in` and or."""

    operator: str
    left: Expr
    right: Expr


@dataclass(frozen=True)
class Either(Tree):
    """`value if condition else other`."""

    value: Expr
    condition: Expr
    other: Expr


@dataclass(frozen=True)
class Pipe(Tree):
    value: Expr
    call: Expr


@dataclass(frozen=True)
class Range(Tree):
    start: Expr
    stop: Expr
    step: Expr | None = None
    open: bool = False


@dataclass(frozen=True)
class Labelled(Tree):
    """`value as path`; the path `_` makes a call transparent."""

    value: Expr
    label: Path


@dataclass(frozen=True)
class Item(Tree):
    """`value[index, ..]`."""

    value: Expr
    indices: tuple[Index, ...]


@dataclass(frozen=True)
class Field(Tree):
    """`value.name`."""

    value: Expr
    name: str


@dataclass(frozen=True)
class Argument(Tree):
    name: str | None
    value: Expr


@dataclass(frozen=True)
class Region(Tree):
    """`|i, part| { .. }`."""

    names: tuple[str, ...]
    body: Body


@dataclass(frozen=True)
class CallOf(Tree):
    """`callee(arguments) |names| { body }`."""

    callee: Expr
    arguments: tuple[Argument, ...]
    region: Region | None = None


@dataclass(frozen=True)
class List(Tree):
    items: tuple[Expr, ...]


@dataclass(frozen=True)
class Each(Tree):
    """`[value for names in source]`."""

    value: Expr
    names: tuple[str, ...]
    source: Expr


@dataclass(frozen=True)
class Set(Tree):
    items: tuple[Expr, ...]


@dataclass(frozen=True)
class Option(Tree):
    name: str
    value: Expr


@dataclass(frozen=True)
class ChoosePath(Tree):
    """`choose op { k3: .. k5: .. }`."""

    target: Hop
    options: tuple[Option, ...]


@dataclass(frozen=True)
class ChooseHere(Tree):
    """`choose {3, 4}` as an argument, named after the parameter it is given for."""

    items: tuple[Expr, ...]


# What may stand between the brackets of an item.
@dataclass(frozen=True)
class Full(Tree):
    """`:`"""


@dataclass(frozen=True)
class Rest(Tree):
    """`start..`"""

    start: Expr


@dataclass(frozen=True)
class Leading(Tree):
    """`..` as an axis: any leading axes."""


# Statements.
@dataclass(frozen=True)
class Body(Tree):
    statements: tuple[Statement, ...]


@dataclass(frozen=True)
class TypeOf(Tree):
    axes: tuple[Expr | Leading, ...]


@dataclass(frozen=True)
class Param(Tree):
    name: str
    type: TypeOf | None = None
    default: Expr | None = None


@dataclass(frozen=True)
class Use(Tree):
    """`use a.b`."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class Default(Tree):
    op: str
    arguments: tuple[Argument, ...]


@dataclass(frozen=True)
class SourceOf(Tree):
    """A space by name, with arguments or without."""

    name: str
    arguments: tuple[Argument, ...] | None = None


@dataclass(frozen=True)
class SpaceOf(Tree):
    """`space name(params) [from base] { .. }`."""

    name: str
    params: tuple[Param, ...]
    base: SourceOf | None
    body: Body


@dataclass(frozen=True)
class Instance(Tree):
    """`space name[(params)] = base(..)`."""

    name: str
    params: tuple[Param, ...]
    base: SourceOf


@dataclass(frozen=True)
class DecisionOf(Tree):
    path: Path
    value: Expr


@dataclass(frozen=True)
class Subnet(Tree):
    name: str
    base: SourceOf
    like: str | None
    decisions: tuple[DecisionOf, ...]


@dataclass(frozen=True)
class BlockOf(Tree):
    """`block name(params) -> type { .. }`, or `cell`."""

    kind: str
    name: str
    params: tuple[Param, ...]
    result: TypeOf | None
    body: Body


@dataclass(frozen=True)
class Input(Tree):
    name: str
    type: TypeOf
    domain: Expr | None = None


@dataclass(frozen=True)
class Output(Tree):
    name: str | None
    value: Expr


@dataclass(frozen=True)
class Let(Tree):
    names: tuple[str, ...]
    value: Expr


@dataclass(frozen=True)
class Assign(Tree):
    names: tuple[str, ...]
    values: tuple[Expr, ...]


@dataclass(frozen=True)
class Draw(Tree):
    """`count of source`: the domain of a pick."""

    count: Expr
    source: Expr


@dataclass(frozen=True)
class Choose(Tree):
    """`choose target in domain [within hull]`."""

    target: Hop
    domain: Expr | Draw
    hull: Expr | None = None


@dataclass(frozen=True)
class For(Tree):
    names: tuple[str, ...]
    source: Expr
    body: Body


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class Return(Tree):
    value: Expr


@dataclass(frozen=True)
class Require(Tree):
    condition: Expr


@dataclass(frozen=True)
class Rule(Tree):
    """`path: rule` of `weights`."""

    path: Path
    rule: Expr


@dataclass(frozen=True)
class Weights(Tree):
    rules: tuple[Rule, ...]


@dataclass(frozen=True)
class Step(Tree):
    """`pass(options)` of `rewrite`."""

    name: str
    arguments: tuple[Argument, ...]


@dataclass(frozen=True)
class Rewrite(Tree):
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Rename(Tree):
    """`path: path [in layout]` of `names`."""

    own: Path
    foreign: Path
    layout: Expr | None = None


@dataclass(frozen=True)
class Names(Tree):
    dialect: str
    renames: tuple[Rename, ...]


@dataclass(frozen=True)
class Setting(Tree):
    name: str
    value: Expr


@dataclass(frozen=True)
class Search(Tree):
    engine: str
    settings: tuple[Setting, ...]


@dataclass(frozen=True)
class File(Tree):
    """A whole text: its declarations in order, and its comments by offset for the formatter."""

    items: tuple[Declaration, ...]
    comments: tuple[Span, ...] = field(default=(), compare=False, repr=False)


Expr = (
    Number | String | Name | Path | Unary | Binary | Either | Pipe | Range | Labelled | Item | Field
    | CallOf | List | Each | Set | ChoosePath | ChooseHere
)  # fmt: skip
Index = Expr | Full | Rest | Leading
Declaration = Use | Let | Default | SpaceOf | Instance | Subnet | BlockOf
Statement = (
    Declaration | Input | Output | Choose | Assign | For | When | Return | Require | Weights
    | Rewrite | Names | Search
)  # fmt: skip
