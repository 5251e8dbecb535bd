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

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from spacelang.analysis.parts import Chain, Parts, Terms
from spacelang.diagnostics import NOWHERE, Report, SpaceError, error
from spacelang.diagnostics import placed as at
from spacelang.ir.block import Block
from spacelang.ir.condition import Condition
from spacelang.ir.dim import Dim, Symbol
from spacelang.ir.dim import Value as DecisionValue
from spacelang.ir.gather import refused
from spacelang.ir.graph import Entered, Graph, Instance
from spacelang.ir.node import Node
from spacelang.ir.param import ZERO, Gather, Param, Slice, View
from spacelang.ir.prove import Proved, at_most, whole
from spacelang.ir.rule import StorageRule
from spacelang.ir.storage import Unstorable, bank_of, check_bank, largest
from spacelang.ir.tidy import without_dead
from spacelang.passes.sharing import Rules, placed, start_of, table_of

Change = tuple[tuple[StorageRule | None, ...], ...]
Joined = dict[tuple[int, str, int, int], Gather]
"""What reads a factor (node, role, axis, factor) along an axis that `concat` joined."""
Use = tuple[tuple[Condition, ...], tuple[tuple[Dim, ...], ...]]  # guards, and what is read


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
        self.uses: dict[str, list[Use]] = {}
        self.shared: set[str] = set()
        if any(rule.kind == "separate" for rule in self.graph.rules):
            for place in self.graph.places():
                for view in place.node.params.values():
                    path = place.instance.param(view.param)
                    absolute = place.instance.absolute
                    lengths = tuple(tuple(map(absolute, axis)) for axis in view.lengths)
                    self.uses.setdefault(path, []).append((place.guards, lengths))

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
        terms = Terms(self.parts, chain, instance)
        bound = {
            node: {
                symbol.name: size if (found := terms.size(size)) is None else found
                for symbol, size in asked.items()
            }
            for node in callees
            if (asked := self.asked.pop((*chain, node), None))
        }
        joined: Joined = {}
        changes: dict[str, Change] = {}
        asked_for: dict[str, Change] = {}  # by every use, also by those that need no other view
        for level, node in levels:
            here = level.instance
            for role, view in node.params.items():
                change = self._change(here, block.param[view.param], view)
                found = self._joined(terms, node, role, change)
                joined.update(found)
                before = asked_for.get(view.param, change)
                asked_for[view.param] = self._agreed(here, view.param, before, change)
                if found or _matters(change, view, block.param[view.param]):
                    before = changes.get(view.param, change)
                    changes[view.param] = _merged(before, change)
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
        name = block.name
        count = 2
        while name in self.blocks:
            name, count = f"{block.name}.{count}", count + 1
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

    def _change(self, instance: Instance, param: Param, view: View) -> Change:
        """The rule of each factor of a parameter, None where no decision sizes it."""
        path = instance.param(param.path)
        own = self.rules.of_tensor(path)
        stored = self.graph.storages[path].shape
        touched = False
        axes: list[tuple[StorageRule | None, ...]] = []
        for a, axis in enumerate(view.lengths):
            factors: list[StorageRule | None] = []
            for f, length in enumerate(axis):
                symbols = [s for s in instance.absolute(length).symbols if len(s.points) > 1]
                if symbols:
                    rule = self._rule(own, symbols, param, path)
                else:
                    rule = self._rule_of_case(own, instance, length, stored[a][f])
                    self._check_case(own, path, (a, f), param)
                touched = touched or bool(symbols) or rule is not None
                factors.append(rule)
            axes.append(tuple(factors))
        if own is not None and not touched:
            self.report.add(error("SP403", f"no decision sizes {path}", own.span))
        flat = next((r for a in axes for r in a if r is not None and r.argument == "flat"), None)
        if flat is not None and len(axes) > 1:
            headline = f"{path} has {len(axes)} axes; only a tensor of one axis is stored flat"
            self.report.add(error("SP403", headline, flat.span))
        return tuple(axes)

    def _rule_of_case(
        self, own: StorageRule | None, instance: Instance, length: Dim, stored: int
    ) -> StorageRule | None:
        """The rule of a factor that is a number here because its decision is taken.

        Where a number had to be known, every value has an alternative under its condition.
        """
        if length == stored:
            return None
        taken = {s.name for guard in instance.guards for s in guard.symbols}
        rules = (own,) if own is not None else map(self.rules.of_decision, sorted(taken))
        return next((r for r in rules if placed(r)), None) if taken else None

    def _check_case(
        self, own: StorageRule | None, path: str, factor: tuple[int, int], param: Param
    ) -> None:
        """SP403 where `separate` would have to give the alternatives for the values of a decision
        tensors of their own: they read one, by its label."""
        uses = self.uses.get(path, [])
        if len(uses) < 2 or path in self.shared:
            return
        taken = [_taken(guards) for guards, _ in uses]
        lengths = [lengths[factor[0]][factor[1]] for _, lengths in uses]
        for name in sorted(frozenset(taken[0]).intersection(*taken)):
            rule = own or self.rules.of_decision(name)
            by_value: dict[DecisionValue, set[Dim]] = {}
            for values, length in zip(taken, lengths, strict=True):
                by_value.setdefault(values[name], set()).add(length)
            sizes = not all(each == next(iter(by_value.values())) for each in by_value.values())
            if rule is not None and rule.kind == "separate" and sizes:
                self.shared.add(path)
                headline = f"{path} cannot be separate for the values of {name}"
                self.report.add(
                    error("SP403", headline, rule.span)
                    .also(param.span, "this parameter")
                    .note(f"there are alternatives for the values of {name}, which share {path}")
                    .hint(f"weights {{ {name}: entangle }}, or a label for each alternative")
                )  # fmt: skip

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
        if _differ(rules):
            headline = f"{' and '.join(sorted(found))} size one factor of {path} by different rules"
            self.report.add(error("SP404", headline, rules[-1].span).also(rules[0].span))
        return next((rule for rule in rules if rule.kind != "store"), rules[0])

    def _agreed(self, instance: Instance, name: str, before: Change, after: Change) -> Change:
        """What two uses of a parameter ask for together (SP404 where they differ on a factor)."""
        pairs = [
            pair for axes in zip(before, after, strict=True) for pair in zip(*axes, strict=True)
        ]
        for a, b in pairs:
            if a is not None and b is not None and _differ((a, b)):
                headline = f"uses of {instance.param(name)} ask for different rules of one factor"
                found = error("SP404", headline, b.span).also(a.span)
                param = instance.block.param[name]
                self.report.add(found.also(param.span, "this parameter"))
        return _merged(before, after)

    def _joined(self, terms: Terms, node: Node, role: str, change: Change) -> Joined:
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

    def _centres(self, instance: Instance, param: Param, change: Change) -> tuple[int, ...]:
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
        changes: Mapping[str, Change],
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

    def _view(self, instance: Instance, block: Block, old: View, change: Change) -> View:
        if _is(change, "flat"):
            return View(old.param, ((Slice(ZERO, _total(old.lengths)),),))
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

    def _param(self, instance: Instance, param: Param, change: Change) -> Param:
        if _is(change, "flat"):
            return replace(param, shape=((_total(param.shape),),))
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


def _merged(before: Change, after: Change) -> Change:
    """The rules that two uses of a parameter ask for, which agree on every factor: where one has
    none, or says how much is stored and not where, that of the other."""
    return tuple(tuple(map(_of_two, *axes)) for axes in zip(before, after, strict=True))


def _of_two(a: StorageRule | None, b: StorageRule | None) -> StorageRule | None:
    return a if b is None or (a is not None and b.kind == "store") else b


def _differ(rules: Sequence[StorageRule]) -> bool:
    """Whether rules of one factor read it differently."""
    slicing = [rule for rule in rules if rule.kind != "store"]
    kinds = {(rule.kind, rule.argument) for rule in slicing}
    return len(kinds) > 1 or (("separate", "") in kinds and len(slicing) < len(rules))


def _settled(block: Block) -> bool:
    """Whether all that a block reads is of one size and no bank's: there is nothing to lay out."""
    return not any(param.bank for param in block.params) and all(
        view.known is not None for node in block.everywhere() for view in node.params.values()
    )


def _taken(guards: tuple[Condition, ...]) -> dict[str, DecisionValue]:
    """The decisions of which guards leave one value."""
    found: dict[str, tuple[DecisionValue, ...]] = {}
    for guard in guards:
        if len(guard.symbols) == 1:
            (symbol,) = guard.symbols
            left = found.get(symbol.name, symbol.values)
            found[symbol.name] = tuple(v for v in left if guard.at({symbol.name: v}))
    return {name: left[0] for name, left in found.items() if len(left) == 1}


def _matters(change: Change, view: View, param: Param) -> bool:
    """Whether rules ask for anything else than a view and its parameter have."""
    if param.bank or _is(change, "flat") or _is(change, "separate"):
        return True
    return any(
        rule is not None and (placed(rule) or part != Slice(ZERO, part.length))
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


def _is(change: Change, word: str) -> bool:
    return any(r is not None and word in (r.kind, r.argument) for axis in change for r in axis)


def _total(shape: tuple[tuple[Dim, ...], ...]) -> Dim:
    return prod((n for axis in shape for n in axis), start=Dim.of(1))
