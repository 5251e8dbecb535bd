"""Entangling: candidates read slices of one storage (AutoFormer, section 3.2).

Every factor of a parameter whose size a decision sets needs a storage rule. The rule of a tensor
beats that of a decision; then more labels, then more fixed indices, then the later line.

    entangle           leading entries of the factor
    entangle(centre)   entries around its middle
    entangle(flat)     a tensor of one axis: one prefix of all its factors
    separate           a storage for each candidate
    store(256)         a decision: leading entries of a storage wider than any candidate
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar

from spacelang import plugins
from spacelang.diagnostics import Report, error
from spacelang.ir.block import Block
from spacelang.ir.dim import Dim, Symbol
from spacelang.ir.graph import Graph, Instance
from spacelang.ir.node import Node
from spacelang.ir.param import Param, Slice, View
from spacelang.ir.pattern import Pattern
from spacelang.ir.prove import Proved, at_most, whole
from spacelang.ir.rule import StorageRule
from spacelang.passes.base import Pass

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


EVERYTHING = Pattern((), anywhere=True)
Change = tuple[tuple[StorageRule | None, ...], ...]


@dataclass(frozen=True)
class Entangle(Pass):
    """Adds a storage rule: what `path` names reads slices of one storage.

    path    decisions or parameters; all of them if not given
    form    leading entries (""), entries around the middle ("centre"), one flat prefix ("flat")
    """

    name: ClassVar[str] = "entangle"
    preserves: ClassVar[frozenset[str]] = frozenset({"space"})

    path: Pattern = EVERYTHING
    form: str = ""

    def run(self, graph: Graph, report: Report) -> Graph:
        """The graph with the rule; storage is laid out anew after every pass."""
        if self.form not in FORMS:
            report.add(error("SP204", f"entangle has no form {self.form}").note(FORMS_NOTE))
            return graph
        rule = StorageRule(self.path, "entangle", self.form)
        return replace(graph, rules=(*graph.rules, rule))


FORMS = ("", "centre", "flat")
FORMS_NOTE = "there are centre and flat, or none for leading entries"


def lay_out(graph: Graph) -> Graph:
    """The graph with every view and the stored sizes as its rules say (SP401, SP403, SP404,
    SP504)."""
    report = Report()
    rules = _Rules(graph, report)
    stored = {path: n for path in graph.decisions if (n := rules.stored(path)) is not None}
    graph = replace(graph, stored=stored)
    writer = _Writer(graph, rules, report)
    name = writer.visit(graph.top)
    rules.check_used()
    report.check()
    if not writer.changed:
        return graph
    blocks = {n: b for n, b in writer.blocks.items() if n != name}
    return replace(graph, root=writer.blocks[name], blocks=blocks)


class _Rules:
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


@dataclass
class _Writer:
    """Rewrites blocks bottom up; uses of one block that need different views get a block each."""

    graph: Graph
    rules: _Rules
    report: Report

    def __post_init__(self) -> None:
        self.blocks: dict[str, Block] = {}
        self.made: dict[object, str] = {}
        self.changed = False

    def visit(self, instance: Instance) -> str:
        """The name of the block that this use calls after the rewriting."""
        block = instance.block
        callees = {
            node.id: self.visit(instance.enter(node.call, self.graph.blocks[node.call.block]))
            for node in block.everywhere()
            if node.call is not None
        }
        changes: dict[str, Change] = {}
        for node in block.everywhere():
            for view in node.params.values():
                change = self._change(instance, block.param[view.param], view)
                if any(
                    r is not None and (r.kind, r.argument) not in PREFIX for a in change for r in a
                ):
                    changes[view.param] = change
        centres = ((p, str(self._centres(instance, block.param[p], c))) for p, c in changes.items())
        key = (
            block.name,
            tuple(sorted(callees.items())),
            tuple(sorted((p, str(c)) for p, c in changes.items())),
            tuple(sorted(centres)),
        )
        if key in self.made:
            return self.made[key]
        name = block.name
        count = 2
        while name in self.blocks:
            name, count = f"{block.name}.{count}", count + 1
        self.made[key] = name
        if (
            changes
            or name != block.name
            or any(
                callees[node.id] != node.call.block
                for node in block.everywhere()
                if node.call is not None
            )
        ):
            self.changed = True
            block = self._rewritten(instance, block, name, callees, changes)
        self.blocks[name] = block
        return name

    def _change(self, instance: Instance, param: Param, view: View) -> Change:
        """The rule of each factor of a parameter, None where no decision sizes it."""
        path = instance.param(param.path)
        own = self.rules.of_tensor(path)
        touched = False
        axes: list[tuple[StorageRule | None, ...]] = []
        for axis in view.lengths:
            factors: list[StorageRule | None] = []
            for length in axis:
                symbols = [s for s in instance.absolute(length).symbols if len(s.points) > 1]
                touched = touched or bool(symbols)
                factors.append(self._rule(own, symbols, param, path))
            axes.append(tuple(factors))
        if own is not None and not touched:
            self.report.add(error("SP403", f"no decision sizes {path}", own.span))
        flat = next((r for a in axes for r in a if r is not None and r.argument == "flat"), None)
        if flat is not None and len(axes) > 1:
            headline = f"{path} has {len(axes)} axes; only a tensor of one axis is stored flat"
            self.report.add(error("SP403", headline, flat.span))
        return tuple(axes)

    def _rule(
        self, own: StorageRule | None, symbols: list[Symbol], param: Param, path: str
    ) -> StorageRule | None:
        if not symbols:
            return None
        if own is not None:
            return own
        found = {s.name: self.rules.of_decision(s.name) for s in symbols}
        missing = sorted(name for name, rule in found.items() if rule is None)
        if missing:
            hint = f"weights {{ {missing[0]}: entangle }} shares leading slices"
            self.report.add(
                error(
                    "SP401", f"no storage rule for {missing[0]}", param.span, f"it sizes {path}"
                ).hint(f"{hint}, `separate` shares nothing")
            )
            return None
        rules = [r for r in found.values() if r is not None]
        slicing = [r for r in rules if r.kind != "store"]
        kinds = {(r.kind, r.argument) for r in slicing}
        if len(kinds) > 1 or (("separate", "") in kinds and len(slicing) < len(rules)):
            headline = f"{' and '.join(sorted(found))} size one factor of {path} by different rules"
            self.report.add(error("SP404", headline, rules[-1].span).also(rules[0].span))
        return (slicing or rules)[0]

    def _centres(self, instance: Instance, param: Param, change: Change) -> tuple[int, ...]:
        """The stored sizes on which centred slices depend."""
        if not any(start_of(r) is not None for axis in change for r in axis):
            return ()
        return tuple(
            n for axis in self.graph.storages[instance.param(param.path)].shape for n in axis
        )

    def _rewritten(
        self,
        instance: Instance,
        block: Block,
        name: str,
        callees: Mapping[int, str],
        changes: Mapping[str, Change],
    ) -> Block:
        def view(old: View) -> View:
            change = changes.get(old.param)
            return old if change is None else self._view(instance, block, old, change)

        def rewrite(node: Node) -> Node:
            call = node.call
            if call is not None:
                call = replace(call, block=callees[node.id])
            return replace(
                node,
                call=call,
                params={role: view(old) for role, old in node.params.items()},
                regions=tuple(
                    replace(r, nodes=tuple(rewrite(n) for n in r.nodes)) for r in node.regions
                ),
            )

        params = tuple(
            p if p.path not in changes else self._param(instance, p, changes[p.path])
            for p in block.params
        )
        return replace(
            block, name=name, nodes=tuple(rewrite(n) for n in block.nodes), params=params
        )

    def _view(self, instance: Instance, block: Block, old: View, change: Change) -> View:
        if _is(change, "flat"):
            return View(old.param, ((Slice(Dim.of(0), _total(old.lengths)),),))
        stored = self.graph.storages[instance.param(old.param)].shape
        index = tuple(
            tuple(
                self._started(instance, block.param[old.param], part, stored[a][f], rule)
                if isinstance(part, Slice)
                else part
                for f, (part, rule) in enumerate(zip(parts, rules, strict=True))
            )
            for a, (parts, rules) in enumerate(zip(old.index, change, strict=True))
        )
        return View(old.param, index)

    def _started(
        self,
        instance: Instance,
        param: Param,
        part: Slice,
        stored: int,
        rule: StorageRule | None,
    ) -> Slice:
        """A slice from where its rule starts it: at a whole number, and inside of the storage."""
        start_at = start_of(rule)
        if rule is None or start_at is None:
            return part
        start = start_at(part.length, stored)
        here = instance.absolute(start)
        end = here + instance.absolute(part.length)
        inside = (whole(here), at_most(0, here), at_most(end, stored))
        if not all(isinstance(verdict, Proved) for verdict in inside):
            path = instance.param(param.path)
            self.report.add(
                error("SP302", f"{rule.kind} starts a slice of {path} at {here}", rule.span)
                .also(param.span, "this parameter")
                .note(f"it is stored with {stored} entries")
                .hint("a centred slice leaves as much on both sides: choose all odd, or all even")
            )
        return replace(part, start=start)

    def _param(self, instance: Instance, param: Param, change: Change) -> Param:
        if _is(change, "flat"):
            return replace(param, shape=((_total(param.shape),),))
        if _is(change, "separate"):
            symbols = {
                s.name: s
                for axis, rules in zip(param.shape, change, strict=True)
                for size, rule in zip(axis, rules, strict=True)
                if rule is not None and rule.kind == "separate"
                for s in size.symbols
                if len(s.points) > 1
            }
            return replace(param, bank=tuple(sorted(symbols)))
        return param


PREFIX = {("entangle", ""), ("store", "")}


def _is(change: Change, word: str) -> bool:
    return any(r is not None and word in (r.kind, r.argument) for axis in change for r in axis)


def _total(shape: tuple[tuple[Dim, ...], ...]) -> Dim:
    return prod((n for axis in shape for n in axis), start=Dim.of(1))
