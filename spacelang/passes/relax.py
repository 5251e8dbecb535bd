"""Relaxing: a choice becomes a weighted mixture with architecture parameters (DARTS, CDARTS).

    relax(op: "softmax", inputs: "softmax")       # by the label of the decision

    choose op { a: f(x)  b: g(x) }                 mixture(softmax(alphas.op), f(x), g(x))
    total(inputs) |s, i, e| { f(s) as n[e] }       mixture(softmax(alphas.inputs), f(a) as n[0], ..)
    for i in 0..<depth { x = f(x) as f[i] }        x = mixture(softmax(alphas.depth), x, f(x), ..)

A path runs all of its alternatives, a pick reads every source: then what stood for a position of
the draw stands for a source, with weights of its own. A presence (a depth) runs every layer: what
a layer gives, or what it was given, counts with the weights of the depths that have it, or do not.
The weights are parameters of the network,
found under `alphas.` and the path of the decision, handed down through calls: so instances of a
cell share them as they shared the decision. What is relaxed is no decision any more; with one-hot
weights the network computes what it computed for the choice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import ClassVar

from spacelang.diagnostics import Diagnostic, Report, Span, error, spelt
from spacelang.ir.block import Block
from spacelang.ir.condition import FALSE, TRUE, Condition, disjunction
from spacelang.ir.conflict import shown
from spacelang.ir.decision import Choice
from spacelang.ir.dim import Dim, Symbol
from spacelang.ir.dim import Value as DecisionValue
from spacelang.ir.graph import Graph, conditions
from spacelang.ir.mentions import mentions
from spacelang.ir.names import Names, Replacement
from spacelang.ir.node import Node, Value
from spacelang.ir.param import Param
from spacelang.ir.pattern import split
from spacelang.passes.base import Pass
from spacelang.passes.hand_down import hand_down
from spacelang.passes.picks import Sum, refuse, sources, sums
from spacelang.passes.remake import Body, without_stale_rules

WEIGHTINGS: Mapping[str, str | None] = {"softmax": "softmax", "sigmoid": "sigmoid", "plain": None}
"""How weights are made of the parameters: an op, or none."""

KINDS = ("path", "pick", "presence")

Known = Mapping[str, DecisionValue]
Rename = Callable[[str], str]


@dataclass(frozen=True)
class Relax(Pass):
    """`open` maps labels of decisions to weightings; parameters start normal with a `spread`."""

    name: ClassVar[str] = "relax"
    preserves: ClassVar[frozenset[str]] = frozenset()
    open: Mapping[str, str] = field(default_factory=dict[str, str])
    spread: float = 0.001

    def run(self, graph: Graph, report: Report) -> Graph:
        """The graph in which paths and picks are weighted sums of all of their alternatives."""
        report.extend(self._mistakes(graph))
        report.check()
        relaxed = {p: c for p, c in graph.decisions.items() if label_of(p) in self.open}
        for path, choice in relaxed.items():
            if choice.kind not in KINDS:
                why = f"{path} cannot become a mixture: it is no path, no pick and no presence"
                report.add(
                    error("SP601", why, choice.span).note(
                        f"it is one of {len(choice.values)} values"
                    )
                )
            if any(s.name == path for c in graph.require for s in c.symbols):
                why = f"{path} cannot become a mixture: `require` speaks of it"
                report.add(error("SP601", why, choice.span))
        report.check()
        blocks = {name: self._expanded(block) for name, block in graph.blocks.items()}
        weights = {
            label: (WEIGHTINGS[weighting], self.spread) for label, weighting in self.open.items()
        }
        made = hand_down(graph, self._expanded(graph.root), blocks, weights)
        _check_gone(made, relaxed)
        return without_stale_rules(graph, made)

    def _mistakes(self, graph: Graph) -> Iterator[Diagnostic]:
        if not _mapping(self.open) or not self.open:
            yield error("SP204", 'relax needs a decision: relax(op: "softmax")')
            return
        if not _number(self.spread):
            yield error("SP209", f"relax: spread is a number, not {spelt(self.spread)}")
        for label, weighting in self.open.items():
            if not any(weighting == known for known in WEIGHTINGS):
                found = error("SP204", f"no weighting is called {spelt(weighting)}")
                yield found.note(f"there are {', '.join(WEIGHTINGS)}")
            if not any(label_of(path) == label for path in graph.decisions):
                yield error("SP504", f"no decision is called {label}")

    def _expanded(self, block: Block) -> Block:
        chosen = {c.path: c for c in block.decisions if label_of(c.path) in self.open}
        return _Expander(block, chosen).block()


def _mapping(value: object) -> bool:
    return isinstance(value, Mapping)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


def label_of(path: str) -> str:
    """The last label of a path, without its index: `op` of `normal.dag[0][1].op`."""
    return split(path)[-1].name


def _check_gone(graph: Graph, relaxed: Mapping[str, Choice]) -> None:
    """SP601 where something but a choice still depends on what is no decision any more."""
    spoken = {id(b): _spoken(b) for b in (graph.root, *graph.blocks.values())}
    seen: set[tuple[int, int]] = set()
    for instance in graph.instances():
        use = id(instance.block), id(instance.binding)
        if use in seen:  # uses of one binding depend on the same
            continue
        seen.add(use)
        for symbol, (where, span) in spoken[id(instance.block)].items():
            found = instance.symbol(symbol)
            if isinstance(found, Symbol) and found.name in relaxed:
                raise refuse(relaxed[found.name], f"{where} depends on it", span)


def _spoken(block: Block) -> dict[Symbol, tuple[str, Span]]:
    """The symbols of a block, each with the first thing that speaks of it."""
    found: dict[Symbol, tuple[str, Span]] = {}
    for what, where, span in mentions(block):
        for symbol in _symbols(what):
            found.setdefault(symbol, (where, span))
    return found


class _Expander:
    """A block whose relaxed choices have become nodes `mixture` that name their decision.

    They lack their weights still: `hand_down` brings them.
    """

    def __init__(self, block: Block, chosen: Mapping[str, Choice]) -> None:
        self.old, self.chosen = block, chosen
        self.own = {c.path: c for c in block.decisions}
        self.ids = count(block.next_id)
        self.params: dict[str, Param] = {}
        self.used: dict[str, Choice] = {}

    def block(self) -> Block:
        if not self.chosen:
            return self.old
        body = Body(self.ids)
        seen: dict[Value, Value] = {}
        for node in self.old.inputs:
            seen[Value(node.id)] = body.put(node)[0]
        outputs = self.level(self.old, seen, {}, _itself, body)
        read = {view.param for node in self.old.everywhere() for view in node.params.values()}
        spoken = {symbol.name for symbol in _spoken(self.old)}
        decisions = {
            c.path: c
            for c in self.old.decisions
            if c.path not in self.chosen and (c.path in self.used or c.path not in spoken)
        }
        decisions |= self.used
        return replace(
            self.old,
            nodes=tuple(body.nodes),
            outputs=tuple(outputs),
            decisions=tuple(replace(c, live=self._live(c.live)) for c in decisions.values()),
            params=(*(p for p in self.old.params if p.path not in read), *self.params.values()),
        )

    def _live(self, live: Condition) -> Condition:
        """Where a decision is taken, once all alternatives of the relaxed ones are there."""
        for symbol in live.symbols:
            if symbol.name in self.chosen:
                live = disjunction(*(live.substitute({symbol.name: v}) for v in symbol.values))
        return live

    def level(
        self, level: Block, seen: dict[Value, Value], known: Known, rename: Rename, body: Body
    ) -> list[Value]:
        """Write a level whose inputs are bound, some decisions known; its results."""
        found = [s for c in self.chosen.values() if c.kind == "pick" and c.path not in known
                 for s in sums(level, c)]  # fmt: skip
        writer = _Level(self, level, {s.end.id: s for s in found}, body)
        writer.write(level.nodes, seen, known, rename, skipped(found))
        return [seen[v] for v in level.outputs]

    def names(self, known: Known, rename: Rename) -> Names:
        def symbol(symbol: Symbol) -> Replacement:
            if symbol.name in known:
                return known[symbol.name]
            choice = self.own.get(symbol.name)
            if choice is None:
                return symbol
            path = rename(symbol.name)
            if symbol.name not in self.chosen:
                self.used[path] = replace(choice, path=path)
            return replace(symbol, name=path)

        return Names(symbol, rename, rename, rename)

    def declare(self, node: Node, names: Names) -> None:
        for view in node.params.values():
            param = names.param(self.old.param[view.param])
            self.params[param.path] = param


def _itself(name: str) -> str:
    return name


def _symbols(what: Dim | Condition | Symbol) -> frozenset[Symbol]:
    return frozenset((what,)) if isinstance(what, Symbol) else what.symbols


def skipped(found: Sequence[Sum]) -> frozenset[int]:
    """The nodes that are written anew for every source, where their sum stands."""
    return frozenset(n.id for s in found for nodes in s.slices for n in nodes if n is not s.end)


@dataclass
class _Level:
    """One level while its choices are written out."""

    owner: _Expander
    level: Block
    sums: Mapping[int, Sum]
    body: Body

    def write(
        self,
        nodes: Sequence[Node],
        seen: dict[Value, Value],
        known: Known,
        rename: Rename,
        skip: frozenset[int] = frozenset(),
    ) -> None:
        names = self.owner.names(known, rename)
        for node in nodes:
            if node.op == "input" or node.id in skip:
                continue
            if node.id in self.sums and self.sums[node.id].choice.path not in known:
                made = self._sum(self.sums[node.id], seen, known, rename)
            elif node.regions:
                made = self._choice(node, seen, known, rename, names)
            else:
                self.owner.declare(node, names)
                made = self.body.copy(node, [seen[v] for v in node.operands], names)
            seen.update(zip(node.values, made, strict=True))

    def _sum(
        self, sum: Sum, seen: Mapping[Value, Value], known: Known, rename: Rename
    ) -> tuple[Value, ...]:
        """The mixture of what the first position makes of every source."""
        choice = sum.choice
        parts: list[Value] = []
        for source in range(sources(choice)):
            draw = next(v for v in choice.symbol.values if isinstance(v, tuple) and v[0] == source)
            again, inner = sum.renamed(source), dict(seen)

            def path(name: str, again: Rename = again) -> str:
                return rename(again(name))

            self.write(sum.slices[0], inner, {**known, choice.path: draw}, path)
            parts.append(inner[sum.results[0]])
        return (self._mixture(sum.end, 0, parts, choice, known, rename),)

    def _choice(
        self,
        node: Node,
        seen: Mapping[Value, Value],
        known: Known,
        rename: Rename,
        names: Names,
    ) -> Sequence[Value]:
        """A node with regions: a relaxed path, one that is settled here, or one to keep."""
        found = [names.condition(c) for c in conditions(node)]
        relaxed = {s.name for c in conditions(node) for s in c.symbols} & set(self.owner.chosen)
        relaxed -= set(known)
        operands = [seen[v] for v in node.operands]
        if TRUE in found:
            return self._region(node.regions[found.index(TRUE)], operands, known, rename)
        if not relaxed:
            regions = tuple(self._kept(r, known, rename, names) for r in node.regions)
            made = replace(names.node(node), id=next(self.body.ids), operands=tuple(operands))
            return self.body.put(replace(made, regions=regions))
        choice = self.owner.chosen[min(relaxed)]
        if choice.kind == "presence":
            return self._presence(node, operands, choice, known, rename)
        if node.op != "choose" or len(relaxed) > 1 or choice.kind != "path":
            raise refuse(choice, f"a {node.op} depends on it", node.span)
        parts: list[Sequence[Value]] = []
        for value in choice.values:
            taken = {**known, choice.path: value}
            here = self.owner.names(taken, rename)
            truths = [here.condition(c) for c in conditions(node)]
            if TRUE not in truths:
                raise refuse(choice, f"nothing is chosen for {value} alone", node.span)
            region = node.regions[truths.index(TRUE)]
            parts.append(self._region(region, operands, taken, rename))
        return [
            self._mixture(node, i, list(results), choice, known, rename)
            for i, results in enumerate(zip(*parts, strict=True))
        ]

    def _presence(
        self,
        node: Node,
        operands: Sequence[Value],
        choice: Choice,
        known: Known,
        rename: Rename,
    ) -> list[Value]:
        """Every region once; a value of the choice has its region's results, or the fallbacks."""
        made = [self._region(r, operands, known, rename) for r in node.regions]
        parts: list[Sequence[Value]] = []
        for value in choice.values:
            here = self.owner.names({**known, choice.path: value}, rename)
            truths = [here.condition(c) for c in conditions(node)]
            if not all(truth in (TRUE, FALSE) for truth in truths):
                raise refuse(choice, f"a {node.op} depends on more than it", node.span)
            parts.append(made[truths.index(TRUE)] if TRUE in truths else operands)
        return [
            self._mixture(node, i, [part[i] for part in parts], choice, known, rename)
            for i in range(len(node.types))
        ]

    def _region(
        self, region: Block, operands: Sequence[Value], known: Known, rename: Rename
    ) -> list[Value]:
        """The nodes of a region in this level."""
        seen = dict(zip((Value(n.id) for n in region.inputs), operands, strict=True))
        return self.owner.level(region, seen, known, rename, self.body)

    def _kept(self, region: Block, known: Known, rename: Rename, names: Names) -> Block:
        inner = Body(self.body.ids)
        inputs = [inner.input(names.type(n.types[0]), n.label) for n in region.inputs]
        seen = dict(zip((Value(n.id) for n in region.inputs), inputs, strict=True))
        outputs = self.owner.level(region, seen, known, rename, inner)
        return replace(region, nodes=tuple(inner.nodes), outputs=tuple(outputs))

    def _mixture(
        self,
        node: Node,
        index: int,
        parts: Sequence[Value],
        choice: Choice,
        known: Known,
        rename: Rename,
    ) -> Value:
        type = node.types[index]
        if any(s.name == choice.path for size in type.shape for s in size.symbols):
            raise refuse(choice, f"its alternatives differ in shape, {shown(type)}", node.span)
        type = self.owner.names(known, rename).type(type)
        label = rename(node.label) if index == 0 else ""
        attributes = {"decision": rename(choice.path)}
        made = Node(
            next(self.body.ids), "mixture", tuple(parts), dict(attributes), types=(type,),
            label=label, span=node.span,
        )  # fmt: skip
        return self.body.put(made)[0]


__all__ = ["WEIGHTINGS", "Relax"]
