"""Expressions, paths and types as documents of the formatter.

Parentheses stand where the grammar needs them and nowhere else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from spacelang.diagnostics import NOWHERE
from spacelang.syntax import tree
from spacelang.syntax.layout import Align, Choice, Doc, Fill, Stack, concat

# How tightly a construct binds: the rules of the grammar from `expr` down to `atom`.
ANY, OR, AND, TEST, PIPE, RANGE, SUM, TERM, UNARY, LABEL, POSTFIX, ATOM = range(12)

# What an operator is, and what its two sides have to be at least.
BINARY: Mapping[str, tuple[int, int, int]] = {
    "or": (OR, OR, AND),
    "and": (AND, AND, TEST),
    **{sign: (TEST, PIPE, PIPE) for sign in ("<", "<=", ">", ">=", "==", "!=", "in", "not in")},
    **{sign: (SUM, SUM, TERM) for sign in "+-"},
    **{sign: (TERM, TERM, UNARY) for sign in ("*", "/", "//", "%")},
}


class Phrases(ABC):
    """Makes documents of expressions; `level` is the number of bodies around them."""

    @abstractmethod
    def body(self, body: tree.Body, level: int) -> Doc:
        """The braces of a region."""

    @abstractmethod
    def options(self, node: tree.ChoosePath, level: int) -> Doc:
        """The braces with alternatives."""

    def expr(self, node: Any, level: int, least: int = ANY, hang: bool = False) -> Doc:
        """An expression where only what binds at least as tightly as `least` may stand; `hang`
        lets the operators of a broken line stand left of their operands."""
        binds, make = ROWS[type(node)]
        own = binds(node)
        if own < least:
            return concat("(", Align(make(self, node, level, False)), ")")
        return make(self, node, level, hang)

    def chain(self, node: tree.Binary, level: int, hang: bool) -> Doc:
        """A left-leaning run of operators of one kind, with its operators in front."""
        own = BINARY[node.operator][0]
        parts: list[tuple[bool, Doc]] = []
        left: tree.Expr = node
        while isinstance(left, tree.Binary) and BINARY[left.operator][0] == own:
            right = self.expr(left.right, level, BINARY[left.operator][2])
            parts.append((_broken(left.left, left.right), concat(f"{left.operator} ", right)))
            left = left.left
        parts.append((False, self.expr(left, level, BINARY[node.operator][1])))
        shift = -1 - len(node.operator) if hang and own >= SUM else 0
        return Align(_run(parts[::-1]), shift)

    def binary(self, node: tree.Binary, level: int, hang: bool) -> Doc:
        own, left, right = BINARY[node.operator]
        if own != TEST:
            return self.chain(node, level, hang)
        before, after = self.expr(node.left, level, left), self.expr(node.right, level, right)
        return concat(before, f" {node.operator} ", after)

    def unary(self, node: tree.Unary, level: int, hang: bool) -> Doc:
        if node.operator == "not":
            return concat("not ", self.expr(node.operand, level, TEST))
        return concat("-", self.expr(node.operand, level, UNARY))

    def pipe(self, node: tree.Pipe, level: int, hang: bool) -> Doc:
        parts: list[tuple[bool, Doc]] = []
        left: tree.Expr = node
        while isinstance(left, tree.Pipe):
            call = concat("|> ", self.expr(left.call, level, RANGE))
            parts.append((_broken(left.value, left.call), call))
            left = left.value
        parts.append((False, self.expr(left, level, PIPE)))
        return Align(_run(parts[::-1]), -3 if hang else 0)

    def either(self, node: tree.Either, level: int, hang: bool) -> Doc:
        return Align(
            Fill(
                (
                    self.expr(node.value, level, OR),
                    concat("if ", self.expr(node.condition, level, OR)),
                    concat("else ", self.expr(node.other, level)),
                )
            )
        )

    def range(self, node: tree.Range, level: int, hang: bool) -> Doc:
        sign = "..<" if node.open else ".."
        start, stop = self.expr(node.start, level, SUM), self.expr(node.stop, level, SUM)
        if node.step is None:
            return concat(start, sign, stop)
        return concat(start, sign, stop, " by ", self.expr(node.step, level, SUM))

    def labelled(self, node: tree.Labelled, level: int, hang: bool) -> Doc:
        value = self.expr(node.value, level, POSTFIX)
        return concat(value, " as ", self.path(node.label, level))

    def item(self, node: tree.Item, level: int, hang: bool) -> Doc:
        value = self.expr(node.value, level, POSTFIX)
        return concat(value, "[", self.commas(self.index(i, level) for i in node.indices), "]")

    def index(self, node: tree.Index, level: int) -> Doc:
        if isinstance(node, tree.Rest):
            return concat(self.expr(node.start, level, SUM), "..")
        if isinstance(node, tree.Full | tree.Leading):
            return ":" if isinstance(node, tree.Full) else ".."
        return self.expr(node, level)

    def field(self, node: tree.Field, level: int, hang: bool) -> Doc:
        return concat(self.expr(node.value, level, POSTFIX), f".{node.name}")

    def call(self, node: tree.CallOf, level: int, hang: bool) -> Doc:
        head = concat(
            self.expr(node.callee, level, POSTFIX), "(", self.arguments(node.arguments, level), ")"
        )
        if node.region is None:
            return head
        names = ", ".join(node.region.names)
        return concat(head, f" |{names}| ", self.body(node.region.body, level))

    def choose_path(self, node: tree.ChoosePath, level: int, hang: bool) -> Doc:
        return concat("choose ", self.path(node.target, level), " ", self.options(node, level))

    def each(self, node: tree.Each, level: int, hang: bool) -> Doc:
        value, source = self.expr(node.value, level), self.expr(node.source, level)
        return concat(
            "[", Align(Fill((value, concat(f"for {', '.join(node.names)} in ", source)))), "]"
        )

    def arguments(self, arguments: Iterable[tree.Argument], level: int) -> Doc:
        return self.commas(
            concat(f"{argument.name}: " if argument.name else "", self.expr(argument.value, level))
            for argument in arguments
        )

    def commas(self, docs: Iterable[Doc]) -> Doc:
        """Docs with commas, new lines under the first."""
        *most, last = [*docs] or [""]
        return Align(Fill((*(concat(doc, ",") for doc in most), last)))

    def path(self, path: tree.Path, level: int) -> Doc:
        first, *more = (self.hop(hop, level) for hop in path.hops)
        return concat(first, *(concat(".", hop) for hop in more))

    def hop(self, hop: tree.Hop, level: int) -> Doc:
        return concat(
            hop.name, *(concat("[", self.expr(index, level), "]") for index in hop.indices)
        )

    def type(self, node: tree.TypeOf, level: int) -> Doc:
        axes = (self.index(axis, level) for axis in node.axes)
        return concat("[", self.commas(axes), "]")


def _broken(left: tree.Tree, right: tree.Tree) -> bool:
    """Whether the author began a new line between two operands."""
    if left.span.source is NOWHERE.source or right.span.source is NOWHERE.source:
        return False
    return "\n" in left.span.source.text[left.span.end : right.span.start]


def _run(parts: Sequence[tuple[bool, Doc]]) -> Doc:
    """Operands on one line if they fit; else on the lines that the author gave them, and on more
    where one of these is still too long."""
    lines: list[list[Doc]] = []
    for begins, doc in parts:
        if begins or not lines:
            lines.append([])
        lines[-1].append(doc)
    rows = tuple(Fill(tuple(line), hug=True) for line in lines)
    if len(rows) == 1:
        return rows[0]
    return Choice((Fill(tuple(doc for _, doc in parts)), Stack(rows)))


def spell(value: Fraction) -> str:
    """A number in the digits of the language; a fraction without an end as a quotient."""
    power = 0
    while value.denominator != 1 and power < 40:
        power += 1
        scaled = value * 10**power
        if scaled.denominator == 1:
            digits = str(abs(scaled.numerator)).rjust(power + 1, "0")
            return f"{'-' if value < 0 else ''}{digits[:-power]}.{digits[-power:]}"
    return str(value).replace("/", " / ")


def _number(node: tree.Number) -> int:
    text = node.text or spell(node.value)
    return TERM if "/" in text else UNARY if text.startswith("-") else ATOM


def _string(text: str) -> str:
    if '"' in text or "\n" in text:
        raise ValueError(f'a text of the language holds no `"` and no line end: {text!r}')
    return f'"{text}"'


def _always(level: int) -> Callable[[Any], int]:
    return lambda node: level


_Make = Callable[[Phrases, Any, int, bool], Doc]

ROWS: Mapping[type, tuple[Callable[[Any], int], _Make]] = {
    tree.Number: (_number, lambda p, n, level, hang: n.text or spell(n.value)),
    tree.String: (_always(ATOM), lambda p, n, level, hang: _string(n.value)),
    tree.Name: (_always(ATOM), lambda p, n, level, hang: n.name),
    tree.Path: (_always(POSTFIX), lambda p, n, level, hang: p.path(n, level)),
    tree.Unary: (lambda n: TEST if n.operator == "not" else UNARY, Phrases.unary),
    tree.Binary: (lambda n: BINARY[n.operator][0], Phrases.binary),
    tree.Either: (_always(ANY), Phrases.either),
    tree.Pipe: (_always(PIPE), Phrases.pipe),
    tree.Range: (_always(RANGE), Phrases.range),
    tree.Labelled: (_always(LABEL), Phrases.labelled),
    tree.Item: (_always(POSTFIX), Phrases.item),
    tree.Field: (_always(POSTFIX), Phrases.field),
    tree.CallOf: (_always(POSTFIX), Phrases.call),
    tree.List: (
        _always(ATOM),
        lambda p, n, level, hang: concat("[", p.commas(p.expr(i, level) for i in n.items), "]"),
    ),
    tree.Each: (_always(ATOM), Phrases.each),
    tree.Set: (
        _always(ATOM),
        lambda p, n, level, hang: concat("{", p.commas(p.expr(i, level) for i in n.items), "}"),
    ),
    tree.ChoosePath: (_always(ATOM), Phrases.choose_path),
    tree.ChooseHere: (
        _always(ATOM),
        lambda p, n, level, hang: concat(
            "choose {", p.commas(p.expr(i, level) for i in n.items), "}"
        ),
    ),
}
