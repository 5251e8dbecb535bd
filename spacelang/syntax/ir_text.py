"""Reading `.spaceir` text: what `spacelang.ir.text` writes, and what people write like it.

    graph = read(Source("tiny.spaceir", text))

Everything that is wrong is SP603 at its place; the graph is verified before it is returned (SP602).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Literal, get_args

from spacelang.diagnostics import Report, Source, SpaceError
from spacelang.ir.block import Block
from spacelang.ir.decision import Choice, Kind
from spacelang.ir.dialect import Dialect, ForeignHop, Layout, Rename
from spacelang.ir.dim import Symbol
from spacelang.ir.graph import Graph, Output
from spacelang.ir.known import Known
from spacelang.ir.node import Call, Node
from spacelang.ir.node import Value as NodeValue
from spacelang.ir.pattern import Pattern, parse_pattern
from spacelang.ir.rule import StorageRule
from spacelang.ir.text import VERSION
from spacelang.ir.verify import verify
from spacelang.syntax.ir_nodes import Nodes
from spacelang.syntax.ir_parse import parse
from spacelang.syntax.ir_sizes import Piece, Values
from spacelang.syntax.tokens import Token

KINDS: tuple[str, ...] = get_args(Kind)


def read(source: Source) -> Graph:
    """The graph of a text. Raises SpaceError: SP603 what cannot be read, SP602 what is no graph."""
    graph = _Reader(source).graph(parse(source))
    report = Report()
    verify(graph, report)
    report.check()
    return graph


class _Reader:
    """One text. Blocks are declared before they are filled, so that their order means nothing."""

    def __init__(self, source: Source) -> None:
        self.source, self.report = source, Report()
        self.plain = Values(source)

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
            self._outline(roots[0]),
            {name: self._outline(piece) for name, piece in pieces.items()},
            (),
        )
        known = Known(outline)
        blocks: dict[str, Block] = {}
        for name, piece in pieces.items():
            try:
                blocks[name] = self._block(piece, known.block(outline.blocks[name]))
            except SpaceError as failed:
                self.report.extend(failed.diagnostics)
        self.report.check()
        symbols = known.root()
        free = {name: Symbol(name) for name in self._free(roots[0]) if name not in symbols}
        graph = replace(outline, root=self._block(roots[0], {**free, **symbols}), blocks=blocks)
        return self._with_rest(graph, groups, known)

    def _unique(self, pieces: list[Piece]) -> dict[str, Piece]:
        """Pieces by the name that each begins with; a second one of a name is refused."""
        found: dict[str, Piece] = {}
        for piece in pieces:
            name = self.plain.word(piece.children[0])
            if name in found:
                self.plain.fail(f"a second {piece.rule} {name}", piece.children[0])
            found[name] = piece
        return found

    # Blocks.

    def _outline(self, piece: Piece) -> Block:
        """A block with what others must know of it: its sizes, decisions and calls."""
        plain = self.plain
        sizes: list[Symbol] = []
        choices: list[Choice] = []
        calls: list[Node] = []
        for child in piece.children[1:]:
            if child.rule == "size":
                token, values = child.children
                sizes.append(self._symbol(token, values))
            elif child.rule == "decision":
                choices.append(self._choice(child))
        for node in _nodes(piece):
            made = node.children[-1 - _after(node)]
            del made
        return Block(plain.word(piece.children[0]), tuple(calls), (), tuple(sizes), tuple(choices))
