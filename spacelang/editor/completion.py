"""What an editor may complete: files behind `use`, names, blocks, ops with their options, keywords.

The text need not parse: what is asked for stands where something is being written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from spacelang.diagnostics import SpaceError, Span
from spacelang.editor.symbols import tokens
from spacelang.grammars.loader import tables

if TYPE_CHECKING:
    from spacelang.editor.document import Document

USED = re.compile(r"^[ \t]*use[ \t]+([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)", re.MULTILINE)
MOST = 200  # completions of one request


@dataclass(frozen=True, slots=True)
class Item:
    """A completion: what is inserted, what it is (keyword, op, ..), and a line about it."""

    name: str
    kind: str
    detail: str = ""


def completions(document: Document, offset: int) -> list[Item]:
    """What may be written at an offset, of a text that need not parse."""
    text = document.source.text
    start = offset
    while start > 0 and (text[start - 1].isalnum() or text[start - 1] == "_"):
        start -= 1
    prefix = text[start:offset]
    line = text[text.rfind("\n", 0, start) + 1 : start]
    if "#" in line or line.count('"') % 2:
        return []
    if re.search(r"\buse\s+[\w.]*$", line):
        found = _files(document)
    elif line.rstrip().endswith("|>"):
        found = (i for i in (*_names(document, offset), *_ops()) if i.kind in ("op", "block"))
    else:
        found = (*_options(document, start), *_names(document, offset), *_ops(), *_words())
    kept: dict[str, Item] = {}
    for item in found:
        if item.name.startswith(prefix) and item.name != prefix:
            kept.setdefault(item.name, item)
    return list(kept.values())[:MOST]


def _files(document: Document) -> Iterator[Item]:
    from spacelang.syntax.scope import shipped_folder

    shipped = shipped_folder()
    for folder in (document.path.parent, shipped, shipped / "lib"):
        names = (path.stem for path in spaces_in(folder) if path != document.path)
        yield from (Item(name, "file", f"{folder.name}/{name}.space") for name in names)


def _names(document: Document, offset: int) -> Iterator[Item]:
    """Names of the text, and of files that it uses."""
    words = [
        t for t in tokens(document.source) if t.kind == "NAME" and not t.start <= offset <= t.end
    ]
    text = document.source.text
    blocks = set(re.findall(r"\b(?:block|cell)\s+([A-Za-z_]\w*)", text))
    for word in dict.fromkeys(t.text for t in words):
        yield Item(word, "block" if word in blocks else "name")
    yield from _used(document)


def _used(document: Document) -> Iterator[Item]:
    from spacelang.syntax.values import Closure

    library = document.library()
    for name in USED.findall(document.source.text):
        try:
            scope = library.read(
                library.find(name, document.path.parent, Span(document.source, 0, 0))
            )
        except SpaceError:
            continue
        for word, value in scope.names.items():
            if isinstance(value, Closure):
                yield Item(word, "block", f"of {name}")


def _options(document: Document, offset: int) -> Iterator[Item]:
    """Names of the arguments of the op whose brackets are open."""
    from spacelang.ir.op import ops

    text = document.source.text
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
        yield from (Item(f"{name}: ", "option", o.kind) for name, o in definition.options.items())


def spaces_in(folder: Path) -> list[Path]:
    """The files of the language in a folder; none where it cannot be read."""
    try:
        return sorted(folder.glob("*.space"))
    except OSError:
        return []


def signature(name: str) -> str:
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

    yield from (Item(name, "op", signature(name)) for name in sorted(ops()))
    yield from (Item(name, "function") for name in FUNCTIONS)


def _words() -> Iterator[Item]:
    yield from (Item(word, "keyword") for word in tables("space").literals if word[0].isalpha())
