"""One text of an editor: its diagnostics, and what is under the cursor.

Everything here works on any text, also on one that does not parse, and knows nothing of protocols:
places are character offsets and spans.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from spacelang.checking import Checked, examine
from spacelang.diagnostics import NOWHERE, Source, SpaceError, Span, counted
from spacelang.editor.completion import USED, Item, completions, signature, spaces_in
from spacelang.editor.symbols import Symbol, Symbols
from spacelang.grammars.loader import tables
from spacelang.ir.graph import Graph, Place
from spacelang.syntax import tree

if TYPE_CHECKING:
    from spacelang.syntax.scope import Library

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
NO_TEXTS: Mapping[Path, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Hover:
    """What is under the cursor, as Markdown, and its stretch of the text."""

    text: str
    span: Span


class Document:
    """A text and the file that it stands in. All is computed when it is first asked for.

    `texts` are those of open files by their resolved paths, which are read in place of the files;
    `used` are the files that were read so far because this one uses them.
    """

    def __init__(self, path: Path, text: str, texts: Mapping[Path, str] = NO_TEXTS) -> None:
        self.path = path
        self.source = Source(str(path), text)
        self.texts = texts
        self.used: set[Path] = set()

    @cached_property
    def place(self) -> Path:
        """The file, with links followed where they lead somewhere."""
        try:
            return self.path.resolve()
        except (OSError, RuntimeError, ValueError):  # a circle, a name that no system takes
            return self.path

    @cached_property
    def symbols(self) -> Symbols | None:
        """The names of the text; None where it does not parse."""
        try:
            return Symbols(self.source)
        except SpaceError:
            return None

    @cached_property
    def checked(self) -> Checked:
        """What `spacelang check` says of the text, with the graphs of its spaces."""
        return self._examined()

    def _examined(self, wanted: str = "") -> Checked:
        folder = self.path.parent
        return examine(str(self.path), self.source, folder, wanted, library=self.library())

    def library(self) -> Library:
        """What reads the files that are used, as they stand in the editor."""
        from spacelang.syntax.scope import Library

        return Library(self.path.parent, self._read)

    def _read(self, path: Path, span: Span = NOWHERE) -> Source:
        """A file that is used."""
        self.used.add(path)
        return _opened(self.texts, path, span)

    # What is here.

    def hover(self, offset: int) -> Hover | None:
        """What stands at an offset: counts and costs of spaces, calls and blocks, candidates of
        decisions, operands of ops."""
        symbols = self.symbols
        if symbols is None:
            return None
        symbol = symbols.at(offset)
        if symbol is not None:
            place = next(p for p in symbol.places if p.start <= offset <= p.end)
            return Hover(self._about(symbol), place)
        free = symbols.unknown_at(offset)
        if free is not None and (text := self._foreign(*free)):
            return Hover(text, free[1])
        call = next((c for c in symbols.calls if c.span.start <= offset <= c.span.end), None)
        text = self._cost(call.span) if call is not None else ""
        return Hover(text, call.span) if call is not None and text else None

    def _about(self, symbol: Symbol) -> str:
        match symbol.kind:
            case "space":
                return self._space(symbol.name)
            case "decision":
                return self._decision(symbol)
            case "block":
                cost = self._cost(symbol.node.span)
                return f"```space\n{_heading(symbol.node)}\n```" + (f"\n{cost}" if cost else "")
            case "file":
                return f"the file `{symbol.name}.space`"
            case _:
                return f"```space\n{_line(symbol.declared)}\n```"

    def _space(self, name: str) -> str:
        missing = self.checked.open.get(name)
        if missing is not None:
            return f"`{name}`: open, {', '.join(missing)} have no values"
        graph = self.checked.graphs.get(name)
        if graph is None:
            one = self._examined(name)
            graph = one.graphs.get(name)
            if graph is None and name in one.spaces:
                return f"the program `{name}`: {counted(one.spaces[name], 'decision')}"
        if graph is None:
            return f"`{name}`: has errors"
        return _figures(name, graph)

    def _decision(self, symbol: Symbol) -> str:
        name = symbol.name

        def declared(span: Span) -> bool:
            """Whether a statement declares this one, and not another of its name."""
            return span.source.name == self.source.name and any(
                span.start <= place.start and place.end <= span.end for place in symbol.places
            )

        rows: dict[str, int] = {}
        for graph in self.checked.graphs.values():
            for path, choice in graph.decisions.items():
                last = path.rpartition(".")[2].partition("[")[0]
                if last == name and declared(choice.span):
                    row = ", ".join(map(str, choice.values[:12]))
                    row += ", .." if len(choice.values) > 12 else ""
                    rows[f"{graph.name}: {row}"] = rows.get(f"{graph.name}: {row}", 0) + 1
        if not rows:
            return f"`{name}`: a decision"
        lines = (
            f"- {row} ({many} places)" if many > 1 else f"- {row}" for row, many in rows.items()
        )
        return f"decision `{name}`\n" + "\n".join(lines)

    def _cost(self, span: Span) -> str:
        """What the ops of a stretch cost in the largest network of a space that has them."""
        from spacelang.analysis.queries import model

        def inside(place: Place) -> bool:
            here = place.node.span
            return (
                here.source.name == span.source.name
                and span.start <= here.start
                and here.end <= span.end
            )

        for graph in self.checked.graphs.values():
            if not any(inside(place) for place in graph.places()):
                continue
            largest = graph.decisions.extreme("largest")  # of a fixed network the only one
            rows = model(graph).per_op(graph.decisions.check(largest), inside)
            if not rows:
                return ""
            params, macs = sum(r.params for r in rows), sum(r.macs for r in rows)
            return (
                f"{params:,} parameters, {macs:,} multiply-accumulates in the largest network of "
                f"`{graph.name}` ({len(rows)} ops)"
            )
        return ""

    def _foreign(self, name: str, place: Span) -> str:
        """What a name is that the text does not declare: an op, a function, or of a used file."""
        from spacelang.ir.op import ops
        from spacelang.syntax.functions import FUNCTIONS

        owned = self._owned(name)
        if owned is not None:
            return f"```space\n{_line(owned)}\n```\nof `{Path(owned.source.name).name}`"
        if name in ops():
            cost = self._cost(self._call_of(place))
            return f"```space\n{signature(name)}\n```" + (f"\n{cost}" if cost else "")
        return f"the function `{name}`" if name in FUNCTIONS else ""

    def _call_of(self, place: Span) -> Span:
        """The call that a name begins, or the name."""
        calls = self.symbols.calls if self.symbols is not None else ()
        return next((c.span for c in calls if c.span.start == place.start), place)

    def _owned(self, name: str) -> Span | None:
        """Where a name of a used file is declared."""
        from spacelang.syntax.parse import parse

        try:
            scope = self.library().scope(parse(self.source), self.path.parent)
        except SpaceError:
            return None
        return scope.spans.get(name)

    # Where it is from.

    def definition(self, offset: int) -> Span | None:
        """Where the name at an offset is declared, in this text or in a file that it uses."""
        symbols = self.symbols
        if symbols is None:
            return None
        symbol = symbols.at(offset)
        if symbol is None:
            free = symbols.unknown_at(offset)
            return None if free is None else self._owned(free[0])
        return self._file(symbol) if symbol.kind == "file" else symbol.declared

    def _file(self, symbol: Symbol) -> Span | None:
        assert isinstance(symbol.node, tree.Use)
        name = ".".join(symbol.node.names)
        try:
            path = self.library().find(name, self.path.parent, symbol.declared)
            return Span(self._read(path), 0, 0)
        except SpaceError:
            return None

    def users(self) -> Iterator[Path]:
        """The files that use this one: of those open, and of those in its folder and above."""
        beside = (file for folder in self.place.parents for file in spaces_in(folder))
        for path in dict.fromkeys((*self.texts, *beside)):
            try:
                other = Document(path, _opened(self.texts, path).text, self.texts)
            except SpaceError:
                continue
            if path != self.place and self.place in other.files():
                yield path

    def files(self) -> Iterator[Path]:
        """The files that this one names in `use`, of a text that need not parse."""
        library = self.library()
        for name in USED.findall(self.source.text):
            try:
                yield library.find(name, self.path.parent, Span(self.source, 0, 0))
            except SpaceError:
                continue

    def renamed(self, offset: int) -> tuple[Symbol, Span] | None:
        """The symbol at an offset that may be renamed, and its place there."""
        symbol = self.symbols.at(offset) if self.symbols is not None else None
        if symbol is None or symbol.kind == "file":
            return None
        return symbol, next(p for p in symbol.places if p.start <= offset <= p.end)

    def rename(self, offset: int, name: str) -> list[Span]:
        """The places to change for a new name.

        ValueError where nothing can be renamed there, where the name is none, where the text
        would mean something else with it, or where another file may say it.
        """
        found = self.renamed(offset)
        symbols = self.symbols
        if found is None or symbols is None:
            raise ValueError("nothing here can be renamed")
        symbol = found[0]
        if not NAME.fullmatch(name) or name in tables("space").literals or name == "_":
            raise ValueError(f"{name!r} is no name")
        places = sorted(symbol.places, key=lambda p: p.start)
        shared = [o for o in symbols.all if o is not symbol and set(o.places) & set(places)]
        if shared:
            raise ValueError(f"several decisions are called {symbol.name}")
        if symbols.seen_outside(symbol) and (user := next(self.users(), None)) is not None:
            raise ValueError(f"{user.name} uses this file, and would not follow")
        other = Document(self.path, replaced(self.source.text, places, name), self.texts)
        if other.symbols is None or _shape(other.symbols) != _shape(symbols):
            raise ValueError(f"{name} means something here already")
        before = {d.headline for d in self.checked.report.errors}
        told = (d.headline for d in other.checked.report.errors)
        new = [headline for headline in told if headline.replace(name, symbol.name) not in before]
        if new:
            raise ValueError(f"with this name: {new[0]}")
        return places

    # What may stand here.

    def complete(self, offset: int) -> list[Item]:
        """What may be written at an offset, of a text that need not parse."""
        return completions(self, offset)

    # Layout.

    def formatted(self) -> str | None:
        """The text in the canonical layout, with its own ends of lines; None where it does not
        parse."""
        from spacelang.syntax.format import format

        if self.symbols is None:
            return None
        made = format(self.symbols.file)
        return made.replace("\n", "\r\n") if "\r\n" in self.source.text else made


def _opened(texts: Mapping[Path, str], path: Path, span: Span = NOWHERE) -> Source:
    """A file as it stands in an editor, else as it was saved (SpaceError)."""
    from spacelang.syntax.scope import read_source

    return Source(str(path), texts[path]) if path in texts else read_source(path, span)


def replaced(text: str, places: list[Span], name: str) -> str:
    """A text with something else at some places, which are in order."""
    parts: list[str] = []
    at = 0
    for place in places:
        parts += [text[at : place.start], name]
        at = place.end
    return "".join([*parts, text[at:]])


def _shape(symbols: Symbols) -> tuple[object, ...]:
    """Which places mean the same, whatever they are called."""
    return len(symbols.free), [(symbol.kind, len(symbol.places)) for symbol in symbols.all]


def _figures(name: str, graph: Graph) -> str:
    """Count and cost of a space."""
    from spacelang.analysis.extent import extent

    reach = extent(graph)
    many = "too many architectures to count exactly"
    size = counted(reach.size, "architecture") if isinstance(reach.size, int) else many
    rows = [f"**{name}**: {size}, {counted(len(graph.decisions), 'decision')}"]
    for figure, (low, high) in (("params", reach.params), ("macs", reach.macs)):
        rows.append(f"- {figure} {low:,}" + (f" to {high:,}" if low != high else ""))
    return "\n".join(rows)


def _line(span: Span) -> str:
    number, _ = span.position
    return span.source.line(number).strip()


def _heading(node: tree.Tree) -> str:
    return node.span.text.partition("{")[0].strip()
