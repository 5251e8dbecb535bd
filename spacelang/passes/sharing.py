"""Which storage rule a decision or parameter has, and what each rule reads of a factor.

a.width: entangle    _: separate      # `a.width` has the first: it names more labels
"""

from __future__ import annotations

from collections.abc import Callable

from spacelang import plugins
from spacelang.diagnostics import Report, error
from spacelang.ir.dim import Dim
from spacelang.ir.gather import forms
from spacelang.ir.graph import Graph
from spacelang.ir.pattern import Pattern
from spacelang.ir.rule import StorageRule

Start = Callable[[Dim, int], Dim]
"""Where a slice of `length` starts in a factor stored with so many entries."""


def centre(length: Dim, stored: int) -> Dim:
    """Around the middle: a 3x3 kernel in a 7x7 one."""
    return (stored - length) / 2


def start_of(rule: StorageRule | None) -> Start | None:
    """The start of a rule's slices, None for leading ones; plug-ins give theirs by name."""
    if rule is None or rule.kind in ("store", "separate"):
        return None
    if rule.kind == "entangle":
        return centre if rule.argument == "centre" else None
    return plugins.load("spacelang.sharing", rule.kind)


def table_of(rule: StorageRule | None) -> str:
    """The index table of a rule; empty for one that slices."""
    gathers = rule is not None and rule.kind == "entangle" and rule.argument in forms()
    return str(rule.argument) if rule is not None and gathers else ""


def placed(rule: StorageRule | None) -> bool:
    """Whether what a rule reads depends on how much is stored."""
    return start_of(rule) is not None or bool(table_of(rule))


EVERYTHING = Pattern((), anywhere=True)


class Rules:
    """The rules of a graph, and which of them were used."""

    def __init__(self, graph: Graph, report: Report) -> None:
        self.rules, self.report = graph.rules, report
        self.decisions = graph.decisions
        self.used: set[int] = set()
        self.known: set[str] = set()
        self._of_decision: dict[str, StorageRule | None] = {}
        self._of_tensor: dict[str, StorageRule | None] = {}

    def stored(self, path: str) -> int | None:
        rule = self.of_decision(path)
        if rule is None or rule.kind != "store":
            return None
        assert isinstance(rule.argument, int)
        if self.decisions[path].kind != "dim" or not self.decisions[path].symbol.numeric:
            self.report.add(error("SP403", f"{path} is no size that could be stored", rule.span))
            return None
        numbers = (v for v in self.decisions[path].values if not isinstance(v, str | bool | tuple))
        largest = max(numbers, default=0)
        if rule.argument < largest:
            found = f"{path} is stored at {rule.argument}, less than its candidate {largest}"
            self.report.add(error("SP403", found, rule.span))
        return rule.argument

    def of_decision(self, path: str) -> StorageRule | None:
        if path not in self._of_decision:
            self._of_decision[path] = self._best(path, universal=True)
        return self._of_decision[path]

    def of_tensor(self, path: str) -> StorageRule | None:
        self.known.add(path)
        if path not in self._of_tensor:
            self._of_tensor[path] = self._best(path, universal=False)
        return self._of_tensor[path]

    def _best(self, path: str, universal: bool) -> StorageRule | None:
        fit = [
            (rule.pattern.weight, line, rule)
            for line, rule in enumerate(self.rules)
            if rule.kind != "tie"
            and (universal or rule.pattern != EVERYTHING)
            and rule.pattern.match(path) is not None
        ]
        if not fit:
            return None
        _, line, rule = max(fit, key=lambda f: f[:2])
        self.used.add(line)
        return rule

    def check_used(self) -> None:
        """A rule that matches no decision and no parameter is SP504."""
        for rule in self.rules:
            if rule.kind == "tie" or rule.pattern == EVERYTHING:
                continue
            if not any(rule.pattern.match(p) is not None for p in (*self.decisions, *self.known)):
                self.report.add(error("SP504", f"nothing has the path {rule.pattern}", rule.span))
