"""Blocks of a graph as blocks and cells of a text, each written before what calls it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from spacelang.ir.block import Block
from spacelang.ir.condition import TRUE
from spacelang.ir.dim import Dim, Symbol
from spacelang.ir.dim import Value as Candidate
from spacelang.ir.graph import Graph
from spacelang.ir.names import under
from spacelang.ir.node import Call, Node, Value
from spacelang.ir.uses import uses
from spacelang.ir.words import base_name
from spacelang.syntax.write_calls import Callee
from spacelang.syntax.write_loops import rolled
from spacelang.syntax.write_nodes import Body, Where
from spacelang.syntax.write_sizes import Sizes
from spacelang.syntax.write_split import Case, Split
from spacelang.syntax.write_values import INDENT, NAME, Names, candidate, cannot, reserved


class Blocks:
    """Writes the blocks of a graph on demand; `texts` are those written, in order."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.names = Names()
        self.cells = self._cells()
        called = (use.block for use in uses(graph) if use.chain)
        self.called = {
            name: self.cells.get(name) or self.names.free(base_name(name))
            for name in dict.fromkeys(called)
        }
        self.callees: dict[str, Callee] = {}
        self.texts: list[str] = []

    def _cells(self) -> Mapping[str, str]:
        """The name under which each block that is a cell takes its decisions."""
        found: dict[str, str] = {}
        for block in (self.graph.root, *self.graph.blocks.values()):
            for node in block.everywhere():
                call = node.call
                if call is None or not call.decide.startswith("/"):
                    continue
                name = call.decide[1:]
                if found.setdefault(call.block, name) != name:
                    raise cannot(f"the block {call.block}", "it is two cells", node.span)
                if not NAME.fullmatch(name) or name in reserved():
                    raise cannot(f"the cell {name}", "it has no name", node.span)
        self.names.taken |= set(found.values())
        return found

    def body(self, block: Block, sizes: Sizes) -> Body:
        """The writer of a block's body."""
        return Body(
            block,
            sizes.names,
            sizes.speller,
            sizes.rates,
            self._callee,
            self._split,
            sizes.decisions,
        )

    # Calls.

    def _callee(self, call: Call) -> Callee:
        """A block that is called, written before what calls it."""
        if call.block not in self.callees:
            cell = self.cells.get(call.block)
            forms = [name for name, other in self.cells.items() if other == cell]
            if cell is not None and len(forms) > 1:
                self.callees |= self._forms(cell, forms)
            else:
                block, name = self.graph.blocks[call.block], self.called[call.block]
                self.callees[call.block] = self._block(block, name, cell is not None)
        return self.callees[call.block]

    def _block(self, block: Block, name: str, cell: bool) -> Callee:
        sizes = Sizes(block, Names(self.names.taken))
        body = self.body(block, sizes)
        inputs = [sizes.input(node, body) for node in block.inputs]
        lines = _lines(block, body)
        params = [*(sizes.typed(*given) for given in inputs), *sizes.taken.values()]
        self._define("cell" if cell else "block", name, params, [*_early(sizes, body), *lines])
        rates = frozenset(s for s in sizes.taken if sizes.sizes[s].rate)
        return Callee(name, cell, dict(sizes.taken), rates)

    def _define(self, word: str, name: str, params: list[str], lines: list[str]) -> None:
        head = f"{word} {name}({', '.join(params)}) {{"
        self.texts.append("\n".join([head, *(INDENT + line for line in lines), "}"]))

    # Cells of several forms.

    def _forms(self, cell: str, forms: list[str]) -> dict[str, Callee]:
        """One cell for several blocks that take their decisions under one name.

        Its argument `form` says which of them a call is; the sizes of one are `none` for another.
        """
        names = Names(self.names.taken)
        first = self.graph.blocks[forms[0]].inputs
        params = [names.free(node.label or "x") for node in first]
        form = names.free("form")
        lines: list[str] = []
        optional: list[str] = []
        found: dict[str, Callee] = {}
        for number, name in enumerate(forms, 1):
            block = self.graph.blocks[name]
            if len(block.inputs) != len(first):
                raise cannot(f"the cell {cell}", "its forms read different numbers of tensors")
            sizes = Sizes(block, Names(names.taken), capitals_allowed=False)
            body = self.body(block, sizes)
            for node, param in zip(block.inputs, params, strict=True):
                body.name(Value(node.id), param)
            inner = _lines(block, body, set(params))
            lines.append(f"{'} else ' if number > 1 else ''}when {form} == {number} {{")
            lines += (INDENT + line for line in (*_early(sizes, body), *inner))
            optional += (f"{size} = none" for size in sizes.taken.values())
            names.taken |= set(sizes.taken.values())
            rates = frozenset(s for s in sizes.taken if sizes.sizes[s].rate)
            found[name] = Callee(cell, True, dict(sizes.taken), rates, (f"{form}: {number}",))
        self._define("cell", cell, [*params, form, *optional], [*lines, "}"])
        return found

    # Splits.

    def _split(self, split: Split) -> tuple[Callee, Call]:
        """One block for several that are called by the value of decisions, and its call.

        It asks for each decision by a `let` that must know it; then `when` picks the body.
        """
        first = split.cases[0][1]
        name = self.names.free(base_name(first.block))
        known = {symbol for case, _ in split.cases for symbol, _ in case}
        own = {s: s.name[len(first.decide) + 1 :] for s in known if _below(s, first, self.graph)}
        bound: dict[Dim | Symbol, str] = {}
        names = Names(self.names.taken)
        params = [names.free(node.label or "x") for node in self._inputs(first)]
        for symbol in sorted(known - set(own), key=str):
            bound[symbol] = names.free(symbol.name.lstrip("%"))
        lines = list(self._cases(split.cases, params, bound, own, names))
        self._define("block", name, [*params, *bound.values()], lines)
        call = replace(first, block=name, sizes={to: value for value, to in bound.items()})
        rates = frozenset(to for value, to in bound.items() if isinstance(value, Dim))
        return Callee(name, False, {to: to for to in bound.values()}, rates), call

    def _inputs(self, call: Call) -> tuple[Node, ...]:
        return self.graph.blocks[call.block].inputs

    def _cases(
        self,
        cases: tuple[Case, ...],
        params: list[str],
        bound: dict[Dim | Symbol, str],
        own: Mapping[Symbol, str],
        names: Names,
        taken: int = 0,
    ) -> Iterator[str]:
        """The bodies of a split, each where what is known of its decisions holds."""
        if not cases[0][0]:
            yield from self._variant(cases[0][1], params, bound, names, taken)
            return
        symbol = cases[0][0][0][0]
        name = own.get(symbol) or bound[symbol]
        block = self.graph.blocks[cases[0][1].block]
        if symbol in own:
            paths = [choice.path for choice in block.decisions]
            last = paths.index(own[symbol]) + 1 if own[symbol] in paths else 0
            for choice in block.decisions[taken:last]:
                if choice.live != TRUE or not NAME.fullmatch(choice.path):
                    raise cannot(
                        f"the decision {choice.path}", "its block hangs on it", choice.span
                    )
                yield f"choose {choice.path} in {{{', '.join(map(candidate, choice.values))}}}"
            taken = max(taken, last)
        value = cases[0][0][0][1]
        yield f'let {names.free("known")} = "yes" if {name} == {candidate(value)} else "no"'
        groups: dict[Candidate, list[Case]] = {}
        for (head, *rest), call in cases:
            groups.setdefault(head[1], []).append((tuple(rest), call))
        for position, (value, inner) in enumerate(groups.items()):
            yield ("} else " if position else "") + f"when {name} == {candidate(value)} {{"
            lines = self._cases(tuple(inner), params, bound, own, names, taken)
            yield from (INDENT + line for line in lines)
        yield "}"

    def _variant(
        self,
        call: Call,
        params: list[str],
        bound: dict[Dim | Symbol, str],
        names: Names,
        taken: int,
    ) -> Iterator[str]:
        """The body of one block of a split; its sizes are arguments, by what they are bound to."""
        block = self.graph.blocks[call.block]
        sizes = Sizes(block, names, capitals_allowed=False)
        sizes.taken = {size: bound[value] for size, value in call.sizes.items() if value in bound}
        body = self.body(block, sizes)
        del body.waiting[:taken]
        for node, name in zip(block.inputs, params, strict=True):
            body.name(Value(node.id), name)
        yield from _lines(block, body, set(params))
        for size, name in sizes.taken.items():
            bound.setdefault(call.sizes[size], name)


def _lines(block: Block, body: Body, own: set[str] | None = None) -> list[str]:
    """The statements of a block to its `return`; `own` names may be bound anew."""
    names = {body.values[Value(node.id)].text for node in block.inputs} if own is None else own
    lines = rolled(list(body.lines(block, Where(own=set(names)))), body.names.free, body.present())
    decided(body)
    results = body.result(block)
    result = results[0] if len(results) == 1 else f"[{', '.join(results)}]"
    return [*lines, f"return {result}"]


def _early(sizes: Sizes, body: Body) -> list[str]:
    """Statements that read sizes which only rates read: so they are sizes, and no rates."""
    return [f"let {body.names.free('known')} = {sizes.taken[size]}" for size in sizes.early]


def decided(body: Body) -> None:
    """SP605 unless every decision of a block stands somewhere in its text."""
    if body.waiting:
        choice = body.waiting[0]
        raise cannot(f"the decision {choice.path}", "nothing is there where it is", choice.span)


def _below(symbol: Symbol, call: Call, graph: Graph) -> bool:
    """Whether a decision of a caller is one that the block of a call takes."""
    paths = {choice.path for choice in graph.blocks[call.block].decisions}
    return any(under(call.decide, path) == symbol.name for path in paths)
