"""One text of an editor: its diagnostics, and what is under the cursor.

Everything here works on any text, also on one that does not parse, and knows nothing of protocols:
places are character offsets and spans.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from spacelang.checking import Checked, examine
from spacelang.diagnostics import Source, SpaceError, Span, counted
from spacelang.editor.symbols import Symbol, Symbols, tokens
from spacelang.grammars.loader import tables
from spacelang.ir.graph import Graph, Place
from spacelang.syntax import tree

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
USED = re.compile(r"^[ \t]*use[ \t]+([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)", re.MULTILINE)
MOST = 200  # completions of one request


@dataclass(frozen=True, slots=True)
class Item:
    """A completion: what is inserted, what it is (keyword, op, ..), and a line about it."""

    name: str
    kind: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Hover:
    """What is under the cursor, as Markdown, and its stretch of the text."""

    text: str
    span: Span


class Document:
    """A text and the file that it stands in. All is computed when it is first asked for."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self.source = Source(str(path), text)

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
        return examine(str(self.path), self.source, self.path.parent)

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
                return self._decision(symbol.name)
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
            one = examine(str(self.path), self.source, self.path.parent, name)
            graph = one.graphs.get(name)
            if graph is None and name in one.spaces:
                return f"the program `{name}`: {counted(one.spaces[name], 'decision')}"
        if graph is None:
            return f"`{name}`: has errors"
        return _figures(name, graph)

    def _decision(self, name: str) -> str:
        rows: dict[str, int] = {}
        for graph in self.checked.graphs.values():
            for path, choice in graph.decisions.items():
                if path.rpartition(".")[2].partition("[")[0] == name:
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
            return f"```space\n{_signature(name)}\n```" + (f"\n{cost}" if cost else "")
        return f"the function `{name}`" if name in FUNCTIONS else ""

    def _call_of(self, place: Span) -> Span:
        """The call that a name begins, or the name."""
        calls = self.symbols.calls if self.symbols is not None else ()
        return next((c.span for c in calls if c.span.start == place.start), place)

    def _owned(self, name: str) -> Span | None:
        """Where a name of a used file is declared."""
        from spacelang.syntax.parse import parse
        from spacelang.syntax.scope import Library

        folder = self.path.parent
        try:
            scope = Library(folder).scope(parse(self.source), folder)
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
        from spacelang.syntax.scope import Library, read_source

        assert isinstance(symbol.node, tree.Use)
        folder = self.path.parent
        try:
            path = Library(folder).find(".".join(symbol.node.names), folder, symbol.declared)
            return Span(read_source(path), 0, 0)
        except SpaceError:
            return None

    def renamed(self, offset: int) -> tuple[Symbol, Span] | None:
        """The symbol at an offset that may be renamed, and its place there."""
        symbol = self.symbols.at(offset) if self.symbols is not None else None
        if symbol is None or symbol.kind == "file":
            return None
        return symbol, next(p for p in symbol.places if p.start <= offset <= p.end)

    def rename(self, offset: int, name: str) -> list[Span]:
        """The places to change for a new name.

        ValueError where nothing can be renamed there, where the name is none, or where the text
        would mean something else with it.
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
        other = Document(self.path, replaced(self.source.text, places, name))
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
        text = self.source.text
        start = offset
        while start > 0 and (text[start - 1].isalnum() or text[start - 1] == "_"):
            start -= 1
        prefix = text[start:offset]
        line = text[text.rfind("\n", 0, start) + 1 : start]
        if "#" in line or line.count('"') % 2:
            return []
        if re.search(r"\buse\s+[\w.]*$", line):
            found = self._files()
        elif line.rstrip().endswith("|>"):
            found = (i for i in (*self._names(offset), *_ops()) if i.kind in ("op", "block"))
        else:
            found = (*self._options(start), *self._names(offset), *_ops(), *_words())
        kept: dict[str, Item] = {}
        for item in found:
            if item.name.startswith(prefix) and item.name != prefix:
                kept.setdefault(item.name, item)
        return list(kept.values())[:MOST]

    def _files(self) -> Iterator[Item]:
        from spacelang.syntax.scope import shipped_folder

        shipped = shipped_folder()
        for folder in (self.path.parent, shipped, shipped / "lib"):
            try:
                names = sorted(path.stem for path in folder.glob("*.space") if path != self.path)
            except OSError:
                continue
            yield from (Item(name, "file", f"{folder.name}/{name}.space") for name in names)

    def _names(self, offset: int) -> Iterator[Item]:
        """Names of the text, and of files that it uses."""
        words = [
            t for t in tokens(self.source) if t.kind == "NAME" and not t.start <= offset <= t.end
        ]
        text = self.source.text
        blocks = set(re.findall(r"\b(?:block|cell)\s+([A-Za-z_]\w*)", text))
        for word in dict.fromkeys(t.text for t in words):
            yield Item(word, "block" if word in blocks else "name")
        yield from self._used(text)

    def _used(self, text: str) -> Iterator[Item]:
        from spacelang.syntax.scope import Library
        from spacelang.syntax.values import Closure

        library = Library(self.path.parent)
        for name in USED.findall(text):
            try:
                scope = library.read(library.find(name, self.path.parent, Span(self.source, 0, 0)))
            except SpaceError:
                continue
            for word, value in scope.names.items():
                if isinstance(value, Closure):
                    yield Item(word, "block", f"of {name}")

    def _options(self, offset: int) -> Iterator[Item]:
        """Names of the arguments of the op whose brackets are open."""
        from spacelang.ir.op import ops

        text = self.source.text
        depth, at = 0, offset
        while at > 0 and offset - at < 2000:
            at -= 1
            if text[at] in ")]}":
                depth += 1
            elif text[at] in "([{":
                if depth == 0:
                    break
                depth -= 1
        callee = re.search(r"([A-Za-z_]\w*)\s*$", text[:at]) if text[at : at + 1] == "(" else None
        definition = ops().get(callee[1]) if callee is not None else None
        if definition is not None:
            yield from (
                Item(f"{name}: ", "option", o.kind) for name, o in definition.options.items()
            )

    # Layout.

    def formatted(self) -> str | None:
        """The text in the canonical layout; None where it does not parse."""
        from spacelang.syntax.format import format

        return format(self.symbols.file) if self.symbols is not None else None


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


def _signature(name: str) -> str:
    """The operands and options of an op."""
    from spacelang.ir.op import REQUIRED, ops

    definition = ops()[name]
    options = (
        option if o.default == REQUIRED else f"{option} = {o.default}"
        for option, o in definition.options.items()
    )
    return f"{name}({', '.join([*definition.operands, *options])})"


def _ops() -> Iterator[Item]:
    from spacelang.ir.op import ops
    from spacelang.syntax.functions import FUNCTIONS

    yield from (Item(name, "op", _signature(name)) for name in sorted(ops()))
    yield from (Item(name, "function") for name in FUNCTIONS)


def _words() -> Iterator[Item]:
    yield from (Item(word, "keyword") for word in tables("space").literals if word[0].isalpha())
