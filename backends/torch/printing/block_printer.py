"""The text of a printed block: its fx graph, with markers where a guard or choice begins and ends.

    if depth > 12:
        x = encoder(w.at("encoder.12"), x, width=width, heads=heads_12)

A value is named where another level reads it; a guard that nothing else follows keeps the name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import fx

from spacelang.backends.torch.printing.printer import Printer
from spacelang.backends.torch.printing.spell import called, indented

if TYPE_CHECKING:
    from spacelang.backends.torch.printing.blocks import BlockWork

MODE = "training"
USUAL: dict[object, dict[str, object]] = {
    F.conv2d: {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
}


@dataclass(frozen=True)
class Called:
    """A call of the function of a block; its weights and numbers are texts."""

    name: str
    weights: str
    numbers: tuple[str, ...]


@dataclass(frozen=True)
class Begin:
    """A guard or choice begins: the text of the condition of each case."""

    tests: tuple[str, ...]
    results: int


@dataclass(frozen=True)
class Case:
    """A case begins."""

    number: int


@dataclass(frozen=True)
class End:
    """A case ends with its results."""

    last: bool


@dataclass(frozen=True)
class Joined:
    """A result of a guard or choice."""

    index: int


Mark = Called | Begin | Case | End | Joined


def marked(*arguments: object) -> None:
    """What stands in the graph where `meta["mark"]` says what is printed; it never runs."""


def mark_of(node: fx.Node) -> Mark | None:
    return node.meta.get("mark")


class BlockPrinter(Printer):
    """The text of a function. Values that another level reads have names."""

    def __init__(self, work: BlockWork) -> None:
        super().__init__(work.graph, {}, {}, {})
        self.names |= {"w", "d", *work.callees, *work.needs.values(), MODE}
        for node in self.graph.nodes:
            if "text" in node.meta:
                text = node.meta["text"]
                self.texts[node] = (text, _closed(text))
        self.levels: dict[fx.Node, tuple[int, ...]] = {}
        self.order = {node: i for i, node in enumerate(self.graph.nodes)}
        self.ends: dict[fx.Node, int] = {}
        self.open: list[_Open] = []
        self.filled: set[fx.Node] = set()
        stack: list[int] = []
        for node in self.graph.nodes:
            if isinstance(mark_of(node), Case):
                stack.append(self.order[node])
            self.levels[node] = tuple(stack)
            if isinstance(mark_of(node), End):
                stack.pop()
                self.ends[node.args[0]] = self.order[node]

    def statements(self, node: fx.Node) -> list[str]:
        match mark_of(node):
            case Begin() as begin:
                return self._begin(node, begin)
            case Case(number):
                return self._case(self.open[-1], number)
            case End(last):
                return self._end(node, last)
            case Joined():
                return []
            case _:
                return [indented(line, len(self.open)) for line in super().statements(node)]

    def _begin(self, node: fx.Node, begin: Begin) -> list[str]:
        lines: list[str] = []
        joined = {u: m.index for u in node.users if isinstance(m := mark_of(u), Joined)}
        hints = {index: user.meta.get("label", "x") for user, index in joined.items()}
        names: list[str] = []
        texts = [self.text(a) for a in node.args]
        for index in range(begin.results):
            if node.args and self._dies(node, node.args[index]) and texts[index] not in names:
                names.append(texts[index])
                continue
            names.append(self.name(hints.get(index, "x")))
            if node.args:
                lines.append(indented(f"{names[index]} = {texts[index]}", len(self.open)))
        self.texts |= {user: (names[index], True) for user, index in joined.items()}
        self.open.append(_Open(begin, names, bool(node.args)))
        return lines

    def _dies(self, begin: fx.Node, value: object) -> bool:
        """Whether a guard's operand has a name that nothing reads after it."""
        if not isinstance(value, fx.Node) or not self.text(value).isidentifier():
            return False
        return all(
            user is begin or self.order[begin] < self.order[user] <= self.ends[begin]
            for user in value.users
        )

    def _case(self, opened: _Open, number: int) -> list[str]:
        tests = opened.begin.tests
        if number == 0:
            head = f"if {tests[0]}:"
        elif number == len(tests) - 1 and not opened.falls:
            head = "else:"
        else:
            head = f"elif {tests[number]}:"
        return [indented(head, len(self.open) - 1)]

    def _end(self, node: fx.Node, last: bool) -> list[str]:
        opened = self.open[-1]
        results = [self.text(a) for a in node.args[1:]]
        pairs = [(n, r) for n, r in zip(opened.names, results, strict=True) if n != r]
        left, right = (", ".join(pair[i] for pair in pairs) for i in (0, 1))
        text = f"{left} = {right}" if pairs else "pass"
        lines = [] if node in self.filled else [indented(text, len(self.open))]
        if last:
            self.open.pop()
        return lines

    def before(self, node: fx.Node) -> list[str]:
        """Nothing: levels are written in their order, and values in a level where they are read."""
        return []

    def named(self, node: fx.Node) -> str:
        """The name of the result of a case where the value is what the case ends with."""
        after = node.next
        mark = mark_of(after)
        if isinstance(mark, End) and list(node.users) == [after] and after.args[1:] == (node,):
            self.filled.add(after)
            return self.open[-1].names[0]
        return super().named(node)

    def _written_there(self, node: fx.Node, text: str) -> bool:
        if not super()._written_there(node, text) or "\n" in text:
            return False
        user = next(iter(node.users))
        return self.levels[user] == self.levels[node]

    def call(self, function: str, node: fx.Node) -> str:
        return called(function, [*map(self.text, node.args), *self._options(node)])

    def _options(self, node: fx.Node) -> list[str]:
        usual = USUAL.get(node.target, {})
        return [
            f"{name}={self.text(value)}"
            for name, value in node.kwargs.items()
            if isinstance(value, fx.Node) or usual.get(name) != value
        ]

    def expression(self, node: fx.Node) -> tuple[str, bool]:
        mark = mark_of(node)
        if isinstance(mark, Called):
            operands = [self.text(a) for a in node.args]
            return called(mark.name, [mark.weights, *operands, *mark.numbers]), True
        return super().expression(node)


@dataclass
class _Open:
    """A guard or choice that is being printed."""

    begin: Begin
    names: list[str]
    falls: bool


def _closed(text: str) -> bool:
    """Whether a leaf binds as tightly as a name."""
    depth = 0
    for character in text:
        depth += (character in "([") - (character in ")]")
        if character == " " and depth == 0:
            return False
    return True
