"""Genotypes as the DARTS family publishes them, and the assignments that they are.

    read(Source("cell.json", text))     # {"normal.inputs[0]": [0, 1], ..}
    write(assignment)                   # the text again

A file is a JSON object with an entry a layer, each the `repr` of a record that the published code
evaluates. Here it is parsed: names, numbers, strings, lists, tuples and `range`, nothing else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import NoReturn, TypeVar, cast

from spacelang.diagnostics import Source, SpaceError, Span, error
from spacelang.ir.decision import Assignment, Plain

OPERATIONS: Mapping[str, str] = {
    "max_pool_3x3": "max_pool",
    "avg_pool_3x3": "avg_pool",
    "skip_connect": "skip",
    "sep_conv_3x3": "sep_3",
    "sep_conv_5x5": "sep_5",
    "dil_conv_3x3": "dil_3",
    "dil_conv_5x5": "dil_5",
}
"""Published name -> key of the alternative; `none` takes part in a search and is never derived."""
CELLS: Mapping[str, str] = {"normal": "normal", "reduce": "reduction"}
NODES, EDGES, LAYERS = 4, 2, 3
MAX_LETTERS = 1 << 16
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*"')
_PIECE = re.compile(r"\\u[0-9a-fA-F]{4}|\\.|.", re.DOTALL)
_TOKEN = re.compile(r"([A-Za-z_]\w*|\d{1,6}|'[^'\\]*'|\"[^\"\\]*\"|[()\[\],=])", re.ASCII)

Edge = tuple[str, int, Span]
Item = TypeVar("Item")


def is_genotype(data: object) -> bool:
    """Whether JSON is a genotype and no assignment: entries that are the text of a record."""
    values = tuple(cast("dict[str, object]", data).values()) if isinstance(data, dict) else ()
    return bool(values) and all(
        isinstance(v, str) and v.lstrip().startswith("Genotype(") for v in values
    )


def read(source: Source) -> Assignment:
    """The decisions of a genotype (SP101 for another text, SP501 for an op or source that is none).

    All layers must have the same cells: in the space a cell is decided once.
    """
    if len(source.text) > MAX_LETTERS:
        raise SpaceError(error("SP102", f"{source.name} is longer than {MAX_LETTERS:,} letters"))
    try:
        data = json.loads(source.text)
    except (ValueError, RecursionError) as failed:
        raise SpaceError(error("SP101", f"{source.name} is no JSON: {failed}")) from failed
    if not is_genotype(data):
        found = error("SP101", f"{source.name} is no genotype")
        raise SpaceError(found.hint("""{"0": "Genotype(normal=[[('sep_conv_3x3', 0), .."}"""))
    records = [_Record(source, span).read() for span in _records(source)]
    first, *others = records
    for other in others:
        for cell, nodes in other.items():
            if [[e[:2] for e in n] for n in nodes] != [[e[:2] for e in n] for n in first[cell]]:
                found = error("SP501", "the layers have other cells", nodes[0][0][2])
                raise SpaceError(found.note("a cell of the space is one for all its instances"))
    return dict(_decisions(first))


def write(assignment: Assignment) -> str:
    """A genotype as JSON (SP506 for decisions that lack, SP501 for an op that has no such name)."""
    names = {key: name for name, key in OPERATIONS.items()}
    fields: list[str] = []
    for published, cell in CELLS.items():
        nodes: list[str] = []
        for n in range(NODES):
            edges: list[str] = []
            drawn = _taken(assignment, f"{cell}.inputs[{n}]")
            if not isinstance(drawn, list | tuple) or len(cast("list[object]", drawn)) != EDGES:
                raise SpaceError(error("SP501", f"{cell}.inputs[{n}] draws {EDGES} states"))
            for e, state in enumerate(cast("list[int]", drawn)):
                key = str(_taken(assignment, f"{cell}.dag[{n}][{e}].op"))
                if key not in names:
                    found = error("SP501", f"no genotype has the operation {key}")
                    raise SpaceError(found.note(f"there are {', '.join(names)}"))
                edges.append(f"('{names[key]}', {state})")
            nodes.append(f"[{', '.join(edges)}]")
        fields.append(f"{published}=[{', '.join(nodes)}]")
        fields.append(f"{published}_concat=range(2, {2 + NODES})")
    record = f"Genotype({', '.join(fields)})"
    return json.dumps({str(layer): record for layer in range(LAYERS)}, indent=2) + "\n"


def _taken(assignment: Assignment, path: str) -> object:
    if path not in assignment:
        raise SpaceError(error("SP506", f"{path} is not taken"))
    return assignment[path]


def _decisions(cells: Mapping[str, list[list[Edge]]]) -> Iterator[tuple[str, Plain]]:
    for published, nodes in cells.items():
        cell = CELLS[published]
        for n, edges in enumerate(nodes):
            yield f"{cell}.inputs[{n}]", [state for _, state, _ in edges]
            for e, (name, _, _) in enumerate(edges):
                yield f"{cell}.dag[{n}][{e}].op", OPERATIONS[name]


def _records(source: Source) -> Iterator[Span]:
    """The strings of a JSON object that are records, without their quotes."""
    for match in _STRING.finditer(source.text):
        if json.loads(match[0]).lstrip().startswith("Genotype("):
            yield Span(source, match.start() + 1, match.end() - 1)


class _Record:
    """Reads one record, word by word; every word knows where it stands in the file."""

    def __init__(self, source: Source, span: Span) -> None:
        self.source, self.span = source, span
        self.words = list(self._scan())
        self.at = 0

    def read(self) -> dict[str, list[list[Edge]]]:
        self.take("Genotype")
        self.take("(")
        cells: dict[str, list[list[Edge]]] = {}
        seen: set[str] = set()
        while not self.next(")"):
            word, span = self.word()
            if word in seen or word.removesuffix("_concat") not in CELLS:
                self.fail(f"a field {word}", span)
            seen.add(word)
            self.take("=")
            if word in CELLS:
                cells[word] = self.nodes(span)
            else:
                self.joined()
            self.next(",")
        if self.at < len(self.words):
            self.fail("the end of the record", self.words[self.at][1])
        for published in CELLS:
            if published not in cells:
                self.fail(f"no field {published}", self.span)
        return cells

    def nodes(self, span: Span) -> list[list[Edge]]:
        nodes = self.listed(lambda: self.listed(self.edge))
        if len(nodes) != NODES:
            self.wrong(f"a cell has {NODES} nodes, not {len(nodes)}", span)
        for n, edges in enumerate(nodes):
            if len(edges) != EDGES:
                self.wrong(f"node {n} has {EDGES} edges, not {len(edges)}", span)
            for _, state, place in edges:
                if state >= 2 + n:
                    self.wrong(f"node {n} has {2 + n} states before it: no {state}", place)
            if edges[0][1] == edges[1][1]:
                self.wrong(f"node {n} reads state {edges[0][1]} twice", edges[1][2])
        return nodes

    def edge(self) -> Edge:
        self.take("(")
        name, span = self.word()
        plain = name.strip("'\"")
        if plain == name:
            self.fail("the name of an operation", span)
        if plain not in OPERATIONS:
            found = error("SP501", f"no operation is called {plain}", span)
            raise SpaceError(found.note(f"there are {', '.join(OPERATIONS)}"))
        self.take(",")
        state, place = self.word()
        if not state.isdecimal():
            self.fail("the number of a state", place)
        self.take(")")
        return plain, int(state), span.to(place)

    def joined(self) -> None:
        """`range(2, 6)` or `[2, 3, 4, 5]`: all nodes, which is what the space joins."""
        word, span = self.word()
        self.at -= 1
        if word == "range":
            self.take("range")
            self.take("(")
            start, _ = self.word()
            self.take(",")
            stop, _ = self.word()
            self.take(")")
            ends = (start, stop) == ("2", str(2 + NODES))
            states = list(range(2, 2 + NODES)) if ends else []
        else:
            states = self.listed(lambda: int(w) if (w := self.word()[0]).isdecimal() else -1)
        if states != list(range(2, 2 + NODES)):
            self.wrong("a cell joins all its nodes", span)

    def listed(self, item: Callable[[], Item]) -> list[Item]:
        """A list of items, with or without a comma at its end."""
        self.take("[")
        items: list[Item] = []
        while not self.next("]"):
            items.append(item())
            if not self.next(","):
                self.take("]")
                return items
        return items

    # Words.

    def _scan(self) -> Iterator[tuple[str, Span]]:
        letters = [
            (json.loads(f'"{piece[0]}"') if len(piece[0]) > 1 else piece[0], piece.start())
            for piece in _PIECE.finditer(self.span.text)
        ]
        text = "".join(letter for letter, _ in letters)
        starts = [self.span.start + start for _, start in letters]
        at = 0
        while rest := text[at:].lstrip():
            at = len(text) - len(rest)
            match = _TOKEN.match(text, at)
            if match is None:
                self.fail("a word of a record", Span(self.source, starts[at], starts[at] + 1))
            end = starts[match.end() - 1] + 1
            yield match[1], Span(self.source, starts[match.start(1)], end)
            at = match.end()

    def word(self) -> tuple[str, Span]:
        if self.at >= len(self.words):
            self.fail("more of the record", Span(self.source, self.span.end, self.span.end))
        self.at += 1
        return self.words[self.at - 1]

    def take(self, wanted: str) -> None:
        word, span = self.word()
        if word != wanted:
            self.fail(f"`{wanted}`", span)

    def next(self, wanted: str) -> bool:
        """Whether the next word is this one; then it is taken."""
        if self.at < len(self.words) and self.words[self.at][0] == wanted:
            self.at += 1
            return True
        return False

    def fail(self, wanted: str, span: Span) -> NoReturn:
        raise SpaceError(error("SP101", f"{wanted} is wanted in a genotype", span))

    def wrong(self, headline: str, span: Span) -> NoReturn:
        raise SpaceError(error("SP501", headline, span))
