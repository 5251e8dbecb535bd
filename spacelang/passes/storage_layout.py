"""Laying out storage: views and stored sizes as the rules of `weights { }` and of passes say.

Every factor of a parameter whose size a decision sets needs a storage rule. The rule of a tensor
beats that of a decision; then more labels, then more fixed indices, then the later line.

    entangle           leading entries of the factor
    entangle(centre)   entries around its middle
    entangle(corner)   entries through an index table: square, corner, band, or a plug-in's
    entangle(flat)     a tensor of one axis: one prefix of all its factors
    separate           a storage for each candidate
    store(256)         a decision: leading entries of a storage wider than any candidate

A read along an axis that `concat` joined goes to the places of its parts (`analysis/parts.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from spacelang.analysis.part_terms import PartTerms
from spacelang.analysis.parts import Chain, Parts
from spacelang.diagnostics import NOWHERE, Report, SpaceError, error
from spacelang.diagnostics import placed as at
from spacelang.ir.block import Block
from spacelang.ir.dim import ZERO, Dim, Symbol, product
from spacelang.ir.gather import refused
from spacelang.ir.graph import Entered, Graph, Instance
from spacelang.ir.names import fresh
from spacelang.ir.node import Node
from spacelang.ir.param import Gather, Param, Slice, View
from spacelang.ir.prove import Proved, at_most, whole
from spacelang.ir.rule import StorageRule
from spacelang.ir.storage import Unstorable, bank_of, check_bank, largest
from spacelang.ir.tidy import without_dead
from spacelang.passes.factor_rules import ByFactor, FactorRules, merged
from spacelang.passes.sharing import Rules, placed, start_of, table_of

Joined = dict[tuple[int, str, int, int], Gather]
"""What reads a factor (node, role, axis, factor) along an axis that `concat` joined."""


def lay_out(graph: Graph) -> Graph:
    """The graph with every view and the stored sizes as its rules say (SP401 to SP404,
    SP504)."""
    graph = without_dead(graph)
    report = Report()
    rules = Rules(graph, report)
    stored = {path: n for path in graph.decisions if (n := rules.stored(path)) is not None}
    if [*stored.items()] != [*graph.stored.items()]:
        graph = graph.restated(("entered", "decisions"), stored=stored)
    _stored(graph, rules)
    if not graph.rules and all(map(_settled, (graph.root, *graph.blocks.values()))):
        report.check()
        return graph
    writer = _Writer(graph, rules, report)
    name = writer.visit(graph.entered)
    rules.check_used()
    report.check()
    if not writer.changed:
        return graph
    blocks = {n: b for n, b in writer.blocks.items() if n != name}
    keep = ("decisions",) if _stored_anew(graph) else ("decisions", "storages")
    made = graph.restated(keep, root=writer.blocks[name], blocks=blocks)
    _ = made.storages  # SP402 where tied uses have banks of different decisions
    return made


def _stored(graph: Graph, rules: Rules) -> None:
    """SP402 and SP507 of the storages; what a stored decision makes of a size, at its rule."""
    try:
        _ = graph.storages
    except Unstorable as failed:
        rule = rules.of_decision(failed.decision)
        span = rule.span if rule is not None else NOWHERE
        raise SpaceError(at(found, span) for found in failed.diagnostics) from failed


def _stored_anew(graph: Graph) -> bool:
    """Whether tensors get other axes or banks; other rules say where in them a use reads."""
    rules = any(rule.kind == "separate" or rule.argument == "flat" for rule in graph.rules)
    return rules or any(p.bank for b in (graph.root, *graph.blocks.values()) for p in b.params)


@dataclass
class _Writer:
    """Rewrites blocks bottom up; uses of one block that need different views get a block each."""

    graph: Graph
    rules: Rules
    report: Report

    def __post_init__(self) -> None:
        self.blocks: dict[str, Block] = {}
        self.made: dict[object, str] = {}
        self.changed = False
        self.parts = Parts(self.graph)
        self.asked: dict[Chain, dict[Symbol, Dim]] = {}
        self.factors = FactorRules(self.graph, self.rules, self.report)

    def visit(self, entered: Entered, chain: Chain = ()) -> str:
        """The name of the block that this use calls after the rewriting."""
        instance, block = entered.instance, entered.level
        levels = list(_everywhere(entered))
        callees = {
            node.id: self.visit(inside, (*chain, node.id))
            for here, node in levels
            if node.call is not None
            for inside in here.inside(node)
        }
        terms = PartTerms(self.parts, chain, instance)
        bound = {
            node: {
                symbol.name: size if (found := terms.size(size)) is None else found
                for symbol, size in asked.items()
            }
            for node in callees
            if (asked := self.asked.pop((*chain, node), None))
        }
        joined: Joined = {}
        changes: dict[str, ByFactor] = {}
        asked_for: dict[str, ByFactor] = {}  # by every use, also by those that need no other view
        for level, node in levels:
            here = level.instance
            for role, view in node.params.items():
                change = self.factors.of(here, block.param[view.param], view)
                found = self._joined(terms, node, role, change)
                joined.update(found)
                before = asked_for.get(view.param, change)
                asked_for[view.param] = self.factors.agreed(here, view.param, before, change)
                if found or _matters(change, view, block.param[view.param]):
                    before = changes.get(view.param, change)
                    changes[view.param] = merged(before, change)
        centres = ((p, str(self._centres(instance, block.param[p], c))) for p, c in changes.items())
        key = (
            block.name,
            tuple(sorted(callees.items())),
            tuple(sorted((p, str(c)) for p, c in changes.items())),
            tuple(sorted(centres)),
            tuple(joined.items()),
            tuple((node, tuple(sizes.items())) for node, sizes in bound.items()),
            tuple(terms.asked),
        )
        if terms.asked:
            self.asked[chain] = terms.asked
        if key in self.made:
            return self.made[key]
        name = fresh(block.name, self.blocks)
        self.made[key] = name
        if (
            changes
            or bound
            or name != block.name
            or any(
                callees[node.id] != node.call.block
                for node in block.everywhere()
                if node.call is not None
            )
        ):
            self.changed = True
            block = replace(block, sizes=(*block.sizes, *terms.asked))
            block = self._rewritten(instance, block, name, callees, bound, changes, joined)
        self.blocks[name] = block
        return name

    def _joined(self, terms: PartTerms, node: Node, role: str, change: ByFactor) -> Joined:
        """Gathers for the factors of leading entries that lie along a joined axis."""
        if not self.parts.reads:
            return {}
        stored = self.graph.storages[terms.instance.param(node.params[role].param)].shape
        joined: Joined = {}
        for a, rules in enumerate(change):
            for f, rule in enumerate(rules):
                if rule is None or not _leading(rule) or _is(change, "flat"):
                    continue
                parts = self.parts.of((terms.chain, node.id, role, a, f))
                if sum(largest(part, self.graph.stored) for part in parts) <= stored[a][f]:
                    found = terms.view(parts, self.graph.stored)
                    if found is not None:
                        joined[node.id, role, a, f] = found
        return joined

    def _centres(self, instance: Instance, param: Param, change: ByFactor) -> tuple[int, ...]:
        """The stored sizes on which what is read depends."""
        if not any(placed(r) for axis in change for r in axis):
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
        bound: Mapping[int, Mapping[str, Dim]],
        changes: Mapping[str, ByFactor],
        joined: Joined,
    ) -> Block:
        def view(node: Node, role: str, old: View) -> View:
            change = changes.get(old.param)
            if change is None:
                return old
            made = self._view(instance, block, old, change)
            index = tuple(
                tuple(joined.get((node.id, role, a, f), part) for f, part in enumerate(axis))
                for a, axis in enumerate(made.index)
            )
            return View(old.param, index)

        def rewrite(node: Node) -> Node:
            call = node.call
            if call is not None:
                sizes = {**call.sizes, **bound.get(node.id, {})}
                call = replace(call, block=callees[node.id], sizes=sizes)
            return replace(
                node,
                call=call,
                params={role: view(node, role, old) for role, old in node.params.items()},
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

    def _view(self, instance: Instance, block: Block, old: View, change: ByFactor) -> View:
        if _is(change, "flat"):
            return View(old.param, ((Slice(ZERO, old.numel()),),))
        stored = self.graph.storages[instance.param(old.param)].shape
        index = tuple(
            tuple(
                part
                if rule is None
                else self._part(instance, block.param[old.param], part.length, stored[a][f], rule)
                for f, (part, rule) in enumerate(zip(parts, rules, strict=True))
            )
            for a, (parts, rules) in enumerate(zip(old.index, change, strict=True))
        )
        return View(old.param, index)

    def _part(
        self, instance: Instance, param: Param, length: Dim, stored: int, rule: StorageRule
    ) -> Slice | Gather:
        """What a rule reads of a factor: at whole numbers, and inside of the storage (SP302)."""
        table, start_at = table_of(rule), start_of(rule)
        path = instance.param(param.path)
        if table:
            part = Gather(table, (Dim.of(stored),), length)
            wrong = refused(replace(part, length=instance.absolute(length)), (), stored)
            if wrong:
                found = error("SP302", f"{table} does not fit {path}: {wrong}", rule.span)
                self.report.add(found.also(param.span, "this parameter"))
            return part
        if start_at is None:
            return Slice(ZERO, length)
        start = start_at(length, stored)
        here = instance.absolute(start)
        end = here + instance.absolute(length)
        inside = (whole(here), at_most(0, here), at_most(end, stored))
        if not all(isinstance(verdict, Proved) for verdict in inside):
            self.report.add(
                error("SP302", f"{rule.kind} starts a slice of {path} at {here}", rule.span)
                .also(param.span, "this parameter")
                .note(f"it is stored with {stored} entries")
                .hint("a centred slice leaves as much on both sides: choose all odd, or all even")
            )
        return Slice(start, length)

    def _param(self, instance: Instance, param: Param, change: ByFactor) -> Param:
        if _is(change, "flat"):
            return replace(param, shape=((product(n for axis in param.shape for n in axis),),))
        bank = {
            s.name
            for axis, rules in zip(param.shape, change, strict=True)
            for size, rule in zip(axis, rules, strict=True)
            if rule is not None and rule.kind == "separate"
            for s in size.symbols
            if len(s.points) > 1
        }
        kept = [name for name in param.bank if name in bank]  # stored weights go by this order
        order = {path: turn for turn, path in enumerate(self.graph.decisions)}

        def turn(name: str) -> list[int]:
            """Where the decisions that a name stands for come in the order of the network."""
            one = replace(param, bank=(name,))
            return sorted(order[symbol.name] for symbol in bank_of(instance, one))

        made = replace(param, bank=(*kept, *sorted(bank.difference(kept), key=turn)))
        check_bank(instance.param(param.path), made, bank_of(instance, made))
        return made


def _settled(block: Block) -> bool:
    """Whether all that a block reads is of one size and no bank's: there is nothing to lay out."""
    return not any(param.bank for param in block.params) and all(
        view.known is not None for node in block.everywhere() for view in node.params.values()
    )


def _matters(change: ByFactor, view: View, param: Param) -> bool:
    """Whether rules ask for anything else than a view and its parameter have."""
    if param.bank or _is(change, "flat") or _is(change, "separate"):
        return True
    return any(
        rule is not None and (placed(rule) or not part.leading)
        for parts, rules in zip(view.index, change, strict=True)
        for part, rule in zip(parts, rules, strict=True)
    )


def _leading(rule: StorageRule) -> bool:
    """Whether a rule reads the first entries."""
    return not placed(rule) and rule.kind != "separate"


def _everywhere(here: Entered) -> Iterator[tuple[Entered, Node]]:
    """The nodes of a level and of its regions, each with the level that it stands in."""
    for node in here.level.nodes:
        yield here, node
        if node.regions:
            for inside in here.inside(node):
                yield from _everywhere(inside)


def _is(change: ByFactor, word: str) -> bool:
    return any(r is not None and word in (r.kind, r.argument) for axis in change for r in axis)
