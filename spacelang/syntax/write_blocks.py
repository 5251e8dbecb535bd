"""Blocks of a graph as blocks and cells of a text, each written before what calls it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from spacelang.ir.block import Block
from spacelang.ir.dim import Dim, Symbol
from spacelang.ir.graph import Graph
from spacelang.ir.names import under
from spacelang.ir.node import Call, Node, Value
from spacelang.ir.uses import uses
from spacelang.ir.words import base_name
from spacelang.syntax.write_calls import Callee
from spacelang.syntax.write_cases import Cases
from spacelang.syntax.write_loops import rolled
from spacelang.syntax.write_nodes import Body, Context
from spacelang.syntax.write_sizes import Sizes
from spacelang.syntax.write_split import Split
from spacelang.syntax.write_values import (
    INDENT,
    NAME,
    Misplaced,
    Names,
    cannot,
    misplaced,
    reserved,
)


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
        self.splits: dict[object, tuple[Callee, dict[str, Dim | Symbol]]] = {}
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
        def start() -> tuple[Sizes, Body]:
            sizes = Sizes(block, Names(self.names.taken))
            body = self.body(block, sizes)
            inputs[:] = [sizes.input(node, body) for node in block.inputs]
            return sizes, body

        inputs: list[tuple[str, Node]] = []
        sizes, body, lines = returning(block, start)
        params = [*(sizes.typed(*given) for given in inputs), *sizes.taken.values()]
        self.define("cell" if cell else "block", name, params, [*_early(sizes, body), *lines])
        rates = frozenset(s for s in sizes.taken if sizes.sizes[s].rate)
        return Callee(name, cell, dict(sizes.taken), rates)

    def define(self, word: str, name: str, params: list[str], lines: list[str]) -> None:
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

            def start(block: Block = block) -> tuple[Sizes, Body]:
                sizes = Sizes(block, Names(names.taken), capitals_allowed=False)
                body = self.body(block, sizes)
                for node, param in zip(block.inputs, params, strict=True):
                    body.name(Value(node.id), param)
                return sizes, body

            sizes, body, inner = returning(block, start, set(params))
            lines.append(f"{'} else ' if number > 1 else ''}when {form} == {number} {{")
            lines += (INDENT + line for line in (*_early(sizes, body), *inner))
            optional += (f"{size} = none" for size in sizes.taken.values())
            names.taken |= set(sizes.taken.values())
            rates = frozenset(s for s in sizes.taken if sizes.sizes[s].rate)
            found[name] = Callee(cell, True, dict(sizes.taken), rates, (f"{form}: {number}",))
        self.define("cell", cell, [*params, form, *optional], [*lines, "}"])
        return found

    # Splits.

    def _split(self, split: Split) -> tuple[Callee, Call]:
        """One block for several that are called by the value of decisions, and its call.

        It asks for each decision by a `let` that must know it; then `when` picks the body.
        """
        first = split.cases[0][1]
        known = dict.fromkeys(symbol for case, _ in split.cases for symbol, _ in case)
        own = {s: s.name[len(first.decide) + 1 :] for s in known if _below(s, first, self.graph)}
        key = tuple(
            (tuple((own.get(s, s), value) for s, value in case), call.block, *call.sizes.items())
            for case, call in split.cases
        )
        if key not in self.splits:
            made = Cases(self, first, [s for s in known if s not in own], own)
            self.define("block", made.name, *made.written(split.cases))
            rates = frozenset(to for value, to in made.bound.items() if isinstance(value, Dim))
            names = list(made.bound.values())
            callee = Callee(made.name, False, dict(zip(names, names, strict=True)), rates)
            self.splits[key] = callee, {to: value for value, to in made.bound.items()}
        callee, sizes = self.splits[key]
        return callee, replace(first, block=callee.name, sizes=sizes)


def returning(
    block: Block, start: Callable[[], tuple[Sizes, Body]], own: set[str] | None = None
) -> tuple[Sizes, Body, list[str]]:
    """The statements of a block to its `return`, and what wrote them; `own` names may be bound
    anew."""
    sizes, body, lines = stated(block, start, own)
    results = body.result(block)
    result = results[0] if len(results) == 1 else f"[{', '.join(results)}]"
    return sizes, body, [*lines, f"return {result}"]


def stated(
    block: Block, start: Callable[[], tuple[Sizes, Body]], own: set[str] | None = None
) -> tuple[Sizes, Body, list[str]]:
    """The statements of a block: each decision where it belongs, else all of them first."""
    try:
        sizes, body = start()
        return sizes, body, _statements(block, body, (), own)
    except Misplaced:
        sizes, body = start()
        return sizes, body, _statements(block, body, [*body.before(len(body.waiting))], own)


def _statements(block: Block, body: Body, first: Sequence[str], own: set[str] | None) -> list[str]:
    names = {body.values[Value(node.id)].text for node in block.inputs} if own is None else own
    lines = [*first, *body.lines(block, Context(own=set(names)))]
    if body.waiting:
        choice = body.waiting[0]
        raise misplaced(f"the decision {choice.path}", "nothing is there where it is", choice.span)
    return rolled(lines, body.names.free, body.present())


def _early(sizes: Sizes, body: Body) -> list[str]:
    """Statements that read sizes which only rates read: so they are sizes, and no rates."""
    return [f"let {body.names.free('known')} = {sizes.taken[size]}" for size in sizes.early]


def _below(symbol: Symbol, call: Call, graph: Graph) -> bool:
    """Whether a decision of a caller is one that the block of a call takes."""
    paths = {choice.path for choice in graph.blocks[call.block].decisions}
    return any(under(call.decide, path) == symbol.name for path in paths)
