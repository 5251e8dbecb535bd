"""The expressions of the syntax tree, and the paths and types in them; `tree.py` has the rest.

Names of all classes are read from `tree`: `tree.Number`, `tree.Choose`.
"""

from __future__ import annotations

from dataclasses import field
from fractions import Fraction
from typing import TYPE_CHECKING

from spacelang.syntax.node import Tree

if TYPE_CHECKING:
    from spacelang.syntax.tree import Statement


class Hop(Tree):
    """A label with its indices: `blocks[i]`; `_` as a name matches any label."""

    name: str
    indices: tuple[Expr, ...] = ()


class Path(Tree):
    hops: tuple[Hop, ...]


class Number(Tree):
    value: Fraction
    text: str = field(default="", compare=False)


class String(Tree):
    value: str


class Name(Tree):
    name: str


class Unary(Tree):
    """`-x` (operator "-") or `not x` (operator "not")."""

    operator: str
    operand: Expr


class Binary(Tree):
    """A chain is flat to the left: operators + - * / // % == != < <= > >= in `not in` and or."""

    operator: str
    left: Expr
    right: Expr


class Either(Tree):
    """`value if condition else other`."""

    value: Expr
    condition: Expr
    other: Expr


class Pipe(Tree):
    value: Expr
    call: Expr


class Range(Tree):
    start: Expr
    stop: Expr
    step: Expr | None = None
    open: bool = False


class Labelled(Tree):
    """`value as path`; the path `_` makes a call transparent."""

    value: Expr
    label: Path


class Item(Tree):
    value: Expr
    indices: tuple[Index, ...]


class Field(Tree):
    value: Expr
    name: str


class Argument(Tree):
    name: str | None
    value: Expr


class Region(Tree):
    """`|i, part| { .. }`."""

    names: tuple[str, ...]
    body: Body


class CallOf(Tree):
    """`callee(arguments) |names| { body }`."""

    callee: Expr
    arguments: tuple[Argument, ...]
    region: Region | None = None


class List(Tree):
    items: tuple[Expr, ...]


class Each(Tree):
    """`[value for names in source]`."""

    value: Expr
    names: tuple[str, ...]
    source: Expr


class Set(Tree):
    items: tuple[Expr, ...]


class Option(Tree):
    """`name: value`, or `name { statements return value }`."""

    name: str
    value: Expr | Body


class ChoosePath(Tree):
    """`choose op { k3: .. k5 { .. } }`."""

    target: Path
    options: tuple[Option, ...]


class ChooseHere(Tree):
    """`choose {3, 4}` as an argument, named after the parameter it is given for."""

    items: tuple[Expr, ...]


class Full(Tree):
    """`:`"""


class Rest(Tree):
    """`start..`"""

    start: Expr


class Leading(Tree):
    """`..` as an axis: any leading axes."""


class Body(Tree):
    statements: tuple[Statement, ...]


class TypeOf(Tree):
    axes: tuple[Expr | Leading, ...]


Expr = (
    Number | String | Name | Path | Unary | Binary | Either | Pipe | Range | Labelled | Item | Field
    | CallOf | List | Each | Set | ChoosePath | ChooseHere
)  # fmt: skip
Index = Expr | Full | Rest | Leading
