"""A graph as a `.space` text that loads to the same network (the same `graph.hash`).

    text = write_space(graph)

Each block becomes a block of the text, its sizes named by the axes of what it reads (`x: [B, C]`)
or handed over as arguments; labels and storage rules are all written out. Where the language has no
form for a part of the graph, and where the text would be another network, the error is SP605.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import cast

from spacelang.diagnostics import Source, SpaceError
from spacelang.ir.block import Block
from spacelang.ir.canonical import merged
from spacelang.ir.condition import TRUE
from spacelang.ir.dialect import Dialect, Rename
from spacelang.ir.dim import Dim, Symbol
from spacelang.ir.dim import Value as Candidate
from spacelang.ir.graph import Graph, Output
from spacelang.ir.known import FIGURES
from spacelang.ir.names import under
from spacelang.ir.node import Call, Node, Value
from spacelang.ir.text import base_name
from spacelang.ir.uses import uses
from spacelang.passes.entangle import lay_out
from spacelang.syntax.format import format
from spacelang.syntax.parse import parse
from spacelang.syntax.scope import Library
from spacelang.syntax.session import Session
from spacelang.syntax.spaces import elaborate
from spacelang.syntax.values import SpaceValue
from spacelang.syntax.write_nodes import INDENT, Body, Callee
from spacelang.syntax.write_sizes import Sizes
from spacelang.syntax.write_split import Case, Split
from spacelang.syntax.write_values import (
    NAME,
    Names,
    Speller,
    candidate,
    cannot,
    reserved,
    text,
)


def write_space(graph: Graph) -> str:
    """The text of a graph. Raises SpaceError (SP605) that names what has no text."""
    name = f"{graph.name}.space"
    lines = "\n".join(_Writer(merged(graph)).lines())
    try:
        written = format(parse(Source(name, lines)))
        again = _loaded(Source(name, written), graph.name)
    except SpaceError as failed:
        found = cannot(graph.name, "its text does not load", graph.root.span)
        raise SpaceError((*found.diagnostics, *failed.diagnostics)) from failed
    if again.hash != graph.hash:
        raise cannot(graph.name, "its text would be another network", graph.root.span)
    return written


def _loaded(source: Source, name: str) -> Graph:
    library = Library(None)
    space = library.scope(parse(source), None).names[name]
    assert isinstance(space, SpaceValue)
    return lay_out(elaborate(space, name, Session(library), {}))


class _Writer:
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
        self.blocks: list[str] = []

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
        if len(set(found.values())) < len(found):
            raise cannot(self.graph.name, "one cell has several forms")
        self.names.taken |= set(found.values())
        return found

    def lines(self) -> Iterator[str]:
        graph = self.graph
        if not NAME.fullmatch(graph.name) or graph.name in reserved():
            raise cannot(f"the space {graph.name}", "its name is none")
        body = list(self._root())
        for block in self.blocks:
            yield block
            yield ""
        yield f"space {graph.name} {{"
        yield from (INDENT + line for line in (*body, *self._rest()))
        yield "}"

    # Blocks.

    def _callee(self, call: Call) -> Callee:
        """A block that is called, written before what calls it."""
        if call.block not in self.callees:
            block, name = self.graph.blocks[call.block], self.called[call.block]
            self.callees[call.block] = self._block(block, name, call.block in self.cells)
        return self.callees[call.block]

    def _block(self, block: Block, name: str, cell: bool) -> Callee:
        sizes = Sizes(block, Names(self.names.taken))
        body = self._body(block, sizes)
        inputs = [sizes.input(node, body) for node in block.inputs]
        lines = [*body.lines(block, (), ""), _result(block, body)]
        params = [*(sizes.typed(*given) for given in inputs), *sizes.taken.values()]
        early = [f"let {body.names.free('known')} = {sizes.taken[s]}" for s in sizes.early]
        self._define("cell" if cell else "block", name, params, [*early, *lines])
        rates = frozenset(s for s in sizes.taken if sizes.sizes[s].rate)
        return Callee(name, cell, dict(sizes.taken), rates)

    def _body(self, block: Block, sizes: Sizes) -> Body:
        return Body(
            block,
            sizes.names,
            sizes.speller,
            sizes.rates,
            self._callee,
            self._split,
            sizes.decisions,
        )

    def _define(self, word: str, name: str, params: list[str], lines: list[str]) -> None:
        head = f"{word} {name}({', '.join(params)}) {{"
        self.blocks.append("\n".join([head, *(INDENT + line for line in lines), "}"]))

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
        body = self._body(block, sizes)
        del body.waiting[:taken]
        for node, name in zip(block.inputs, params, strict=True):
            body.values[Value(node.id)] = name
        lines = list(body.lines(block, (), ""))
        yield from lines
        yield _result(block, body)
        for size, name in sizes.taken.items():
            bound.setdefault(call.sizes[size], name)

    def _root(self) -> Iterator[str]:
        block = self.graph.root
        sizes = Sizes(block, Names(self.names.taken))
        body = self._body(block, sizes)
        for node in block.inputs:
            yield self._input(node, body)
        yield from list(body.lines(block, (), ""))
        _decided(body)
        for output in self.graph.outputs:
            yield self._output(output, body)

    def _input(self, node: Node, body: Body) -> str:
        if not NAME.fullmatch(node.label) or node.label in reserved():
            raise cannot(f"the input {node.label}", "its name is none", node.span)
        body.names.taken.add(node.label)
        body.values[Value(node.id)] = node.label
        shape = ", ".join(body.speller.dim(size, node.span) for size in node.types[0].shape)
        written = f"input {node.label}: [{shape}]"
        match node.attributes.get("within"):
            case (Dim() as first, Dim() as last):
                return f"{written} in {first}..{last}"
            case _:
                return written

    def _output(self, output: Output, body: Body) -> str:
        value = body.values[output.value]
        if not output.training and output.name == "output":
            return f"output {value}"
        if not output.training or not NAME.fullmatch(output.name) or output.name in reserved():
            raise cannot(f"the output {output.name}", "one that has a name is for training")
        return f"output {output.name}: {value}"

    # What is not the network.

    def _rest(self) -> Iterator[str]:
        graph = self.graph
        rules = [*(str(rule) for rule in graph.rules), *self._ties()]
        if rules:
            yield "weights {"
            yield from (INDENT + rule for rule in rules)
            yield "}"
        for name, dialect in graph.dialects.items():
            yield from self._dialect(name, dialect)
        speller = Speller(self._path)
        for condition in graph.require:
            yield f"require {speller.condition(condition)}"
        for engine, settings in graph.search.items():
            pairs = "  ".join(f"{key} = {_setting(value)}" for key, value in settings.items())
            yield f"search {engine} {{ {pairs} }}"

    def _path(self, symbol: Symbol) -> str:
        if symbol.name not in FIGURES and symbol.name not in self.graph.decisions:
            raise cannot(f"a limit on {symbol.name}", "it is no decision")
        return symbol.name

    def _ties(self) -> Iterator[str]:
        """`path: tie(leader)` for each call whose parameters are another's."""
        for use in uses(self.graph):
            here = use.instance
            if use.chain and use.named and here.store != here.path:
                yield f"{here.path}: tie({here.store})"

    def _dialect(self, name: str, dialect: Dialect) -> Iterator[str]:
        yield f"names {name} {{"
        for rename in dialect.renames:
            yield INDENT + self._rename(rename)
        yield "}"

    def _rename(self, rename: Rename) -> str:
        hops = [hop.name + "".join(f"[{index}]" for index in hop.indices) for hop in rename.foreign]
        if rename.own.anywhere:
            hops.insert(0, "_")
        if not hops:
            raise cannot(f"the name of {rename.own}", "the foreign name is empty")
        written = f"{rename.own}: {'.'.join(hops)}"
        layout = rename.layout
        if layout is None:
            return written
        places = [*layout.order, *map(str, layout.shape)]
        return f"{written} in {layout.kind}({', '.join(places)})"


def _setting(value: object) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return "true" if value else "false"
        case str():
            return text(value)
        case tuple():
            return f"[{', '.join(map(_setting, cast(tuple[object, ...], value)))}]"
        case _:
            return repr(value)


def _result(block: Block, body: Body) -> str:
    _decided(body)
    results = [body.values[value] for value in block.outputs]
    return f"return {results[0] if len(results) == 1 else '[' + ', '.join(results) + ']'}"


def _decided(body: Body) -> None:
    """Every decision of a block stands somewhere in its text."""
    if body.waiting:
        choice = body.waiting[0]
        raise cannot(f"the decision {choice.path}", "nothing is there where it is", choice.span)


def _below(symbol: Symbol, call: Call, graph: Graph) -> bool:
    """Whether a decision of a caller is one that the block of a call takes."""
    paths = {choice.path for choice in graph.blocks[call.block].decisions}
    return any(under(call.decide, path) == symbol.name for path in paths)
