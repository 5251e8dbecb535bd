"""The canonical layout of a tree, with the comments of its text.

Two spaces a level, 120 columns, one statement a line. The author decides three things: where an
empty line stands (one at most), which braces stay on one line as long as they fit, and which
entries of `subnet`, `weights`, `names` and the like share a line.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from spacelang.diagnostics import NOWHERE, Source, Span
from spacelang.syntax import tree
from spacelang.syntax.clauses import CLAUSES
from spacelang.syntax.layout import (
    At,
    Break,
    Choice,
    Concat,
    Doc,
    Line,
    Noted,
    Remark,
    concat,
    render,
)
from spacelang.syntax.parse import parse
from spacelang.syntax.phrase import Phrases

WIDTH = 120
STEP = 2
# Names of alternatives are padded to one length, unless that would move a value further than this.
PAD = 10
ROUNDS = 4
"""Layouts of one text at most; the second nearly always changes nothing."""

_Stretch = tuple[int, int]


def format(file: tree.File) -> str:
    """The canonical text of a file; to format it again changes nothing.

    A tree that was made without a text is laid out with every brace open.
    """
    text = _laid_out(file)
    for _ in range(ROUNDS if _real(file) else 0):
        again = _laid_out(parse(Source(file.span.source.name, text)))
        if again == text:
            break
        text = again
    return text


def _laid_out(file: tree.File) -> str:
    """The text of a tree in one round.

    A line that this round has to break counts as one that the author broke in the next.
    """
    layout = Statements(file)
    docs = [layout.statement(item, 0) for item in file.items]
    inside = (0, len(file.span.source.text)) if _real(file) else None
    lines = render(
        layout.stacked(layout.elements(file.items, docs, 0, inside, rows=False), 0), WIDTH
    )
    return "".join(f"{line}\n" for line in _with_remarks(lines)) if file.items or inside else ""


@dataclass(frozen=True, slots=True)
class _Element:
    """What has lines of its own, and the stretch of the text that it comes from."""

    doc: Doc
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class _Braces:
    """Braces on one line, if the author wrote them so, and open."""

    closed: Doc | None
    opened: Doc

    @property
    def doc(self) -> Doc:
        return self.opened if self.closed is None else Choice((self.closed, self.opened))


class Statements(Phrases):
    """The documents of statements. Each comment is used once, by the innermost that holds it."""

    def __init__(self, file: tree.File) -> None:
        self.text = file.span.source.text
        self.comments = file.comments
        self.starts = [comment.start for comment in file.comments]
        self.used = bytearray(len(file.comments))

    def statement(self, node: Any, level: int) -> Doc:
        return CLAUSES[type(node)](self, node, level)

    def body(self, body: tree.Body, level: int) -> Doc:
        return self.block(body, level).doc

    def block(self, body: tree.Body, level: int) -> _Braces:
        inside = (body.span.start + 1, body.span.end - 1) if _real(body) else None
        docs = [self.statement(statement, level + 1) for statement in body.statements]
        return self.braces(body.statements, docs, docs, level, inside, rows=False)

    def options(self, node: tree.ChoosePath, level: int) -> Doc:
        options = node.options
        longest = max(len(option.name) for option in options)
        if longest - min(len(option.name) for option in options) > PAD:
            longest = 0
        closed: list[Doc] = []
        opened: list[Doc] = []
        for option in options:
            if isinstance(option.value, tree.Body):
                braces = self.block(option.value, level + 1)
                name, value, head = option.name, braces.doc, option.name.ljust(longest + 1)
                closed.append(concat(f"{name} ", braces.closed or value))
            else:
                name, value = f"{option.name}:", self.expr(option.value, level + 1)
                head = name.ljust(longest + 1)
                closed.append(concat(f"{name} ", value))
            opened.append(concat(head, " ", value))
        return self.braces(options, closed, opened, level, self.inside(node, node.target)).doc

    def when(self, node: tree.When, level: int) -> Doc:
        """All on one line, or a line for each body, or every body open: as the author wrote it, or
        the next of these that fits."""
        heads: list[Doc] = []
        bodies: list[_Braces] = []
        rest: tree.Body | tree.When | None = node
        while isinstance(rest, tree.When):
            word = "else when " if heads else "when "
            heads.append(concat(word, self.expr(rest.condition, level), " "))
            bodies.append(self.block(rest.body, level))
            rest = rest.otherwise
        if rest is not None:
            heads.append("else ")
            bodies.append(self.block(rest, level))
        opened = _joined(map(concat, heads, (body.opened for body in bodies)), " ")
        closed = [body.closed for body in bodies if body.closed is not None]
        if len(closed) < len(bodies):
            return opened
        lines = list(map(concat, heads, closed))
        forms: list[Doc] = [_joined(lines, Break(level * STEP)), opened]
        if "\n" not in node.span.text:
            forms.insert(0, _joined(lines, " "))
        return Choice(tuple(forms))

    def entries(
        self,
        nodes: Sequence[tree.Tree],
        make: Callable[[Any], Doc],
        level: int,
        node: tree.Tree,
        after: tree.Tree | None = None,
    ) -> Doc:
        """The braces at the end of a node, past one of its parts, that hold no statements."""
        docs = [make(entry) for entry in nodes]
        return self.braces(nodes, docs, docs, level, self.inside(node, after)).doc

    # Braces, and the comments between them.
    def inside(self, node: tree.Tree, after: tree.Tree | None = None) -> _Stretch | None:
        """Where the content of the braces at the end of a node stands."""
        if not _real(node):
            return None
        start = self.text.index("{", after.span.end if after else node.span.start)
        while self.in_comment(start):
            start = self.text.index("{", start + 1)
        return start + 1, node.span.end - 1

    def braces(
        self,
        nodes: Sequence[tree.Tree],
        closed: Sequence[Doc],
        opened: Sequence[Doc],
        level: int,
        inside: _Stretch | None,
        rows: bool = True,
    ) -> _Braces:
        """Nodes in braces, by their documents on one line and open; `inside` is None for trees
        that come from no text."""
        remark = self.claim(*self.rest_of_line(inside[0])) if inside else []
        elements = self.elements(nodes, opened, level + 1, inside, rows)
        if not elements and not remark:
            return _Braces("{}", "{}")
        head = concat("{", *(Remark(comment.text.rstrip()) for comment in remark))
        column = level * STEP
        below = [Break(column + STEP), self.stacked(elements, column + STEP)] if elements else []
        lines = concat(head, *below, Break(column), "}")
        if inside is None or "\n" in self.text[slice(*inside)]:
            return _Braces(None, lines)
        return _Braces(concat("{ ", _joined(closed, "  "), " }"), lines)

    def elements(
        self,
        nodes: Sequence[tree.Tree],
        docs: Sequence[Doc],
        level: int,
        inside: _Stretch | None,
        rows: bool,
    ) -> list[_Element]:
        """Nodes and the comments around them in order; with `rows`, nodes that share a line of the
        text share one here."""
        if inside is None:
            return [_Element(At(level * STEP, doc), 0, 0) for doc in docs]
        found: list[_Element] = []
        position = inside[0]
        for row in self.rows(list(zip(nodes, docs, strict=True)), rows):
            first, last = row[0][0].span.start, row[-1][0].span.end
            found += self.own_lines(position, first)
            line = Break(level * STEP)
            parts = [doc for _, doc in row]
            doc = parts[0]
            if len(parts) > 1:
                doc = Choice((_joined(parts, "  "), _joined(parts, line)))
            # A comment inside a statement has no line of its own but one before the statement.
            before = [comment.text.rstrip() for comment in self.claim(first, last)]
            after = self.claim(*self.rest_of_line(last))
            if after:
                doc = Noted(doc, after[0].text.rstrip())
            position = after[0].end if after else last
            doc = _joined([*before, doc], line)
            found.append(_Element(At(level * STEP, doc), first, position))
        return found + self.own_lines(position, inside[1])

    def rows(
        self, pairs: Sequence[tuple[tree.Tree, Doc]], shared: bool
    ) -> Iterator[list[tuple[tree.Tree, Doc]]]:
        row: list[tuple[tree.Tree, Doc]] = []
        for pair in pairs:
            if row:
                between = self.text[row[-1][0].span.end : pair[0].span.start]
                if not shared or "\n" in between:
                    yield row
                    row = []
            row.append(pair)
        if row:
            yield row

    def stacked(self, elements: Sequence[_Element], column: int) -> Doc:
        """Elements below each other, with the empty lines of the text."""
        parts: list[Doc] = []
        for index, element in enumerate(elements):
            if index:
                gap = self.text[elements[index - 1].last : element.first]
                parts.append(Break(column, blank=gap.count("\n") > 1))
            parts.append(element.doc)
        return Concat(tuple(parts))

    def own_lines(self, start: int, end: int) -> list[_Element]:
        return [
            _Element(comment.text.rstrip(), comment.start, comment.end)
            for comment in self.claim(start, end)
        ]

    def claim(self, start: int, end: int) -> list[Span]:
        """The comments of a stretch that nobody has used yet."""
        found: list[Span] = []
        for index in range(bisect_left(self.starts, start), bisect_left(self.starts, end)):
            if not self.used[index]:
                self.used[index] = True
                found.append(self.comments[index])
        return found

    def rest_of_line(self, start: int) -> _Stretch:
        """A stretch with the comment that ends the line, where nothing stands before it."""
        index = bisect_left(self.starts, start)
        if index < len(self.starts):
            between = self.text[start : self.starts[index]]
            if "\n" not in between and not between.strip():
                return start, self.starts[index] + 1
        return start, start

    def in_comment(self, offset: int) -> bool:
        index = bisect_right(self.starts, offset) - 1
        return index >= 0 and offset < self.comments[index].end

    # Parts of statements.
    def params(self, params: Sequence[tree.Param], level: int) -> Doc:
        return concat("(", self.commas(self.param(param, level) for param in params), ")")

    def param(self, param: tree.Param, level: int) -> Doc:
        parts: list[Doc] = [param.name]
        if param.type is not None:
            parts += [": ", self.type(param.type, level)]
        if param.default is not None:
            parts += [" = ", self.expr(param.default, level)]
        return Concat(tuple(parts))

    def source(self, source: tree.SourceOf, level: int) -> Doc:
        if source.arguments is None:
            return source.name
        return concat(source.name, "(", self.arguments(source.arguments, level), ")")


def _real(node: tree.Tree) -> bool:
    """Whether a node comes from a text."""
    return node.span.source is not NOWHERE.source


def _joined(docs: Iterable[Doc], between: Doc) -> Doc:
    parts: list[Doc] = []
    for doc in docs:
        parts += [between, doc] if parts else [doc]
    return Concat(tuple(parts))


def _with_remarks(lines: Sequence[Line]) -> Iterator[str]:
    """Lines of text with their comments; those of neighbouring lines of one indent begin in one
    column, if there is room."""

    def run(line: Line) -> int:
        return len(line.text) - len(line.text.lstrip()) if line.remark else -1

    for indent, group in groupby(lines, run):
        if indent < 0:
            yield from (line.text for line in group)
            continue
        block = list(group)
        column = max(len(line.text) for line in block)
        if any(column + 2 + len(line.remark) > WIDTH for line in block):
            column = 0
        yield from (f"{line.text.ljust(column)}  {line.remark}" for line in block)
