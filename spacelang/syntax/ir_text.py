"""Reading `.spaceir` text: what `spacelang.ir.text` writes, and what people write like it.

    graph = read(Source("tiny.spaceir", text))

Everything that is wrong is SP603 at its place, but for sizes beyond the limits of all texts (SP103,
SP507); the graph is verified before it is returned (SP602).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from spacelang.collector import collector_paused
from spacelang.diagnostics import Report, Source, SpaceError
from spacelang.ir.block import Block
from spacelang.ir.dialect import Dialect, ForeignHop, Layout, Rename
from spacelang.ir.dim import Symbol
from spacelang.ir.graph import Graph, Output
from spacelang.ir.known import Known, Symbols
from spacelang.ir.pattern import Pattern, parse_pattern
from spacelang.ir.rule import StorageRule
from spacelang.ir.structure import recursion
from spacelang.ir.subject import Subject
from spacelang.ir.text import VERSION
from spacelang.ir.verify import WALKABLE, verify
from spacelang.syntax.ir_nodes import Blocks
from spacelang.syntax.ir_parse import parse
from spacelang.syntax.ir_sizes import Part, Piece, Values
from spacelang.syntax.tokens import Token


@collector_paused()
def read(source: Source) -> Graph:
    """The graph of a text. Raises SpaceError: SP603 what cannot be read, SP103 and
    SP507 what is beyond a limit, SP602 what is no graph."""
    graph = _Reader(source).graph(parse(source))
    report = Report()
    verify(graph, report)
    report.check()
    return graph


def _check_calls(outline: Graph) -> None:
    """Refuse calls that lead on without end, before anything walks along them."""
    report = Report()
    report.extend(recursion(Subject(outline)))
    report.check()


class _Reader:
    """One text. Blocks are outlined before they are filled, so that their order means nothing."""

    def __init__(self, source: Source) -> None:
        self.source, self.report = source, Report()
        self.plain = Blocks(source)

    def graph(self, start: Piece) -> Graph:
        plain = self.plain
        version, title, *items = start.children
        if plain.whole(version) != VERSION:
            plain.fail(f"a text of version {version.text}; {VERSION} can be read", version)
        groups: dict[str, list[Piece]] = {}
        for item in items:
            groups.setdefault(item.rule, []).append(item)
        roots = groups.get("root", [])
        if len(roots) != 1:
            plain.fail(f"a graph has one root, not {len(roots)}", roots[1] if roots else title)
        pieces = self._unique(groups.get("block", []))
        outline = Graph(
            plain.word(title),
            plain.outline(roots[0]),
            {name: plain.outline(piece) for name, piece in pieces.items()},
            (),
        )
        _check_calls(outline)
        known = Known(outline)
        blocks: dict[str, Block] = {}
        for name, piece in pieces.items():
            blocks[name] = self._block(
                piece, outline.blocks[name], known.block(outline.blocks[name])
            )
        free = {name: Symbol(name) for name in plain.free(roots[0])}
        symbols = {**free, **known.root()}
        root = self._block(roots[0], outline.root, symbols)
        graph = replace(outline, root=root, blocks=blocks)
        if not self.report.errors:
            verify(graph, self.report, WALKABLE)
        self.report.check()
        return self._with_rest(graph, groups)

    def _block(self, piece: Piece, outline: Block, symbols: Symbols) -> Block:
        """A block; where it cannot be read, its outline, and the report says why."""
        try:
            return Blocks(self.source, symbols).block(piece, outline)
        except SpaceError as failed:
            self.report.extend(failed.diagnostics)
            return outline

    def _unique(self, pieces: list[Piece]) -> dict[str, Piece]:
        """Pieces by the name that each begins with; a second one of a name is refused."""
        found: dict[str, Piece] = {}
        for piece in pieces:
            name = self.plain.word(piece.children[0])
            if name in found:
                self.plain.fail(f"a second {piece.rule} {name}", piece.children[0])
            found[name] = piece
        return found

    # What is not a block.

    def _with_rest(self, graph: Graph, groups: Mapping[str, list[Piece]]) -> Graph:
        plain = self.plain
        space = Values(self.source, Known(graph).space())
        require = [
            (space.condition(p.children[0]), plain.span(p)) for p in groups.get("require", ())
        ]
        return replace(
            graph,
            outputs=tuple(self._output(piece) for piece in groups.get("output", ())),
            rules=tuple(self._rule(piece) for piece in groups.get("rule", ())),
            stored={
                path: plain.whole(piece.children[1])
                for path, piece in self._unique(groups.get("stored", [])).items()
            },
            require=tuple(condition for condition, _ in require),
            stated=dict(require),
            dialects={
                name: Dialect(name, tuple(self._rename(p, space) for p in piece.children[1:]))
                for name, piece in self._unique(groups.get("names", [])).items()
            },
            search={
                engine: self._settings(piece)
                for engine, piece in self._unique(groups.get("search", [])).items()
            },
        )

    def _output(self, piece: Piece) -> Output:
        value, token, training = piece.children
        return Output(self.plain.word(token), self.plain.value(value), training is not None)

    def _rule(self, piece: Piece) -> StorageRule:
        where, kind, given = piece.children
        argument: str | int = ""
        if given is not None:
            plain = self.plain
            argument = plain.whole(given) if given.kind == "NUMBER" else plain.word(given)
        return StorageRule(
            self._pattern(where), self.plain.word(kind), argument, self.plain.span(piece)
        )

    def _pattern(self, token: Token) -> Pattern:
        text = self.plain.string(token)
        return self.plain.guarded(
            "a path pattern is wanted here", token, lambda: parse_pattern(text)
        )

    def _rename(self, piece: Piece, space: Values) -> Rename:
        """Indices of a foreign name are computed from the names that the own pattern binds."""
        where, *hops, layout = piece.children
        own = self._pattern(where)
        bound = (i for hop in own.hops for i in hop.indices if isinstance(i, str))
        names = {i: Symbol(i, rate=True) for i in bound}
        values = Values(self.source, {**space.symbols, **names})
        foreign = tuple(
            ForeignHop(values.string(hop.children[0]), tuple(map(values.dim, hop.children[1:])))
            for hop in hops
            if hop is not None
        )
        read = None if layout is None else self._layout(layout, values)
        return Rename(own, foreign, read, self.plain.span(piece))

    def _layout(self, piece: Piece, values: Values) -> Layout:
        kind, *places = piece.children
        given: list[Part] = [place for place in places if place is not None]
        texts = [p for p in given if isinstance(p, Piece) and p.rule == "string"]
        order = tuple(values.string(p) for p in texts)
        shape = tuple(values.dim(p) for p in given if p not in texts)
        return Layout(values.word(kind), order, shape)

    def _settings(self, piece: Piece) -> dict[str, object]:
        _, *given = piece.children
        pieces = self._unique([setting for setting in given if setting is not None])
        return {name: self._plain(setting.children[1]) for name, setting in pieces.items()}

    def _plain(self, piece: Piece) -> object:
        match piece.rule:
            case "string":
                return self.plain.string(piece)
            case "true" | "false":
                return piece.rule == "true"
            case "none":
                return None
            case "list":
                return tuple(self._plain(child) for child in piece.children if child is not None)
            case _:
                minus, number = piece.children
                whole = number.kind == "NUMBER"
                value = self.plain.whole(number) if whole else float(number.text)
                return value if minus is None else -value
