"""Names and files: which value a word stands for, and where `use vit` looks.

A file sees its own declarations and those of the files it uses; a block sees besides what stands
before it where it is written. The same name from two files is an error that names both (SP202).
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from spacelang.diagnostics import NOWHERE, Diagnostic, Report, Source, SpaceError, Span, error
from spacelang.syntax import tree
from spacelang.syntax.parse import parse
from spacelang.syntax.session import BlockCache
from spacelang.syntax.torch_words import said_here
from spacelang.syntax.values import (
    Clash,
    Closure,
    Entry,
    Later,
    Module,
    ProgramValue,
    SpaceValue,
)

if TYPE_CHECKING:
    from spacelang.ir.graph import Graph
    from spacelang.syntax.frame import Frame

MAX_DEPTH, MAX_BYTES = 16, 4 << 20


class Scope:
    """Names, with the scope around them.

    `constant` are the names that `let` and parameters bind: they keep their value. `defaults` are
    the options written for ops hereabouts.
    """

    def __init__(self, parent: Scope | None = None) -> None:
        self.parent = parent
        self.names: dict[str, Entry] = {}
        self.spans: dict[str, Span] = {}
        self.constant: set[str] = set()
        self.defaults: dict[str, tuple[tree.Argument, ...]] = {}
        self.frame: Frame | None = parent.frame if parent is not None else None

    def find(self, name: str) -> Scope | None:
        here: Scope | None = self
        while here is not None:
            if name in here.names:
                return here
            here = here.parent
        return None

    def default(self, op: str) -> list[tuple[tree.Argument, ...]]:
        """Options written for an op, outermost first."""
        outer = self.parent.default(op) if self.parent is not None else []
        return [*outer, self.defaults[op]] if op in self.defaults else outer

    def bind(self, name: str, value: Entry, span: Span = NOWHERE) -> None:
        self.names[name] = value
        self.spans[name] = span

    def snapshot(self) -> Scope:
        """The same names; later bindings here do not show there."""
        copy = Scope(self.parent)
        copy.names, copy.spans = dict(self.names), dict(self.spans)
        copy.constant = set(self.constant)
        copy.defaults, copy.frame = dict(self.defaults), self.frame
        return copy

    def restore(self, before: Scope) -> None:
        """Take the bindings of a snapshot back."""
        self.names, self.spans = dict(before.names), dict(before.spans)
        self.constant = set(before.constant)

    def inside(self, frame: Frame) -> Scope:
        """A new scope within this one, of a frame."""
        inner = Scope(self)
        inner.frame = frame
        return inner

    def known(self) -> list[str]:
        """All names that may be read here."""
        outer = self.parent.known() if self.parent is not None else []
        return [n for n in self.names if n[0] not in ". "] + outer


def unknown(name: str, span: Span, known: list[str]) -> SpaceError:
    found = error("SP201", f"nothing is called {name} here", span)
    same = [n for n in known if n.lower() == name.lower()]
    if not same and (said := said_here(name)):
        return SpaceError(found.hint(f"write: {said}"))
    near = same or get_close_matches(name, known, 1, 0.7)
    return SpaceError(found.hint(f"did you mean {near[0]}?") if near else found)


class Library:
    """Reads files and those they use, each once; `text` reads one in place of `read_source`."""

    def __init__(
        self, root: Path | None, text: Callable[[Path, Span], Source] | None = None
    ) -> None:
        self.root = root.resolve() if root is not None else None
        self.text = text or read_source
        self.files: dict[Path, Scope] = {}
        self.open: list[Path] = []
        self.bytes = 0
        self.caches: dict[bool, BlockCache] = defaultdict(BlockCache)
        """The blocks that elaborations made so far, without and with hulls."""
        self.graphs: dict[int, tuple[SpaceValue, Graph]] = {}
        """What spaces without parameters were found to be, by the id of their declaration."""

    def scope(self, file: tree.File, folder: Path | None) -> Scope:
        """The names that a parsed file declares and uses."""
        scope = Scope()
        report = Report()
        owners: dict[str, str] = {}
        for item in file.items:
            try:
                self._declare(item, scope, owners, folder)
            except SpaceError as failed:
                report.extend(failed.diagnostics)
        report.check()
        return scope

    def _declare(
        self, item: tree.Declaration, scope: Scope, owners: dict[str, str], folder: Path | None
    ) -> None:
        match item:
            case tree.Use(names):
                self._use(".".join(names), item.span, scope, owners, folder)
            case tree.Default(name, arguments):
                check_default(item)
                scope.defaults[name] = (*scope.defaults.get(name, ()), *arguments)
            case tree.BlockOf(name=name):
                self._own(name, Closure(item, scope, None), item.span, scope, owners)
            case tree.SpaceOf(name=name) | tree.Instance(name=name) | tree.Subnet(name=name):
                self._own(name, SpaceValue(item, scope), item.span, scope, owners)
            case tree.Program(name=name):
                self._own(name, ProgramValue(item, scope), item.span, scope, owners)
            case tree.Let(names):
                later = Later(item, scope)
                for name in names:
                    self._own(name, later, item.span, scope, owners)

    def _own(
        self, name: str, value: Entry, span: Span, scope: Scope, owners: dict[str, str]
    ) -> None:
        if owners.get(name) == "":
            raise SpaceError(
                error("SP202", f"{name} is defined twice", span, "again here").also(
                    scope.spans[name], "first here"
                )
            )
        owners[name] = ""
        scope.bind(name, value, span)

    def _use(
        self, name: str, span: Span, scope: Scope, owners: dict[str, str], folder: Path | None
    ) -> None:
        used = self.read(self.find(name, folder, span), span)
        module = Scope()
        for word, value in used.names.items():
            if isinstance(value, Module):
                continue
            module.bind(word, value, used.spans[word])
            owner = owners.get(word)
            if owner == "":
                continue
            if owner is not None and scope.names[word] is not value:
                scope.bind(word, Clash(word, (owner, name)), span)
                continue
            owners[word] = name
            scope.bind(word, value, used.spans[word])
        if owners.get(name) != "":
            scope.bind("." + name, Module(name, module), span)

    def find(self, name: str, folder: Path | None, span: Span) -> Path:
        """The file of `use name`: beside the using file, then the shipped spaces and libraries."""
        relative = Path(*name.split(".")).with_suffix(".space")
        shipped = shipped_folder()
        places = [shipped / relative, shipped / "lib" / relative]
        for path in ([folder / relative] if folder is not None else []) + places:
            if os.path.isfile(path):  # False, where Path raises: a name too long, a closed folder
                real = path.resolve()
                roots = [r for r in (self.root, shipped.resolve()) if r is not None]
                if not any(real.is_relative_to(root) for root in roots):
                    raise SpaceError(
                        error("SP211", f"{name} lies outside the folder of the file", span)
                    )
                return real
        folders = [place.parent for place in places if os.path.isdir(place.parent)]
        known = sorted({p.stem for beside in folders for p in beside.glob("*.space")})
        near = get_close_matches(name, known, 1, 0.7)
        found = error("SP201", f"no file {relative} is beside this one or shipped", span)
        raise SpaceError(found.hint(f"did you mean {near[0]}?") if near else found)

    def read(self, path: Path, span: Span = NOWHERE) -> Scope:
        """The scope of a file, read once; a file that uses itself is SP211."""
        if path in self.files:
            return self.files[path]
        if path in self.open or len(self.open) >= MAX_DEPTH:
            chain = " uses ".join(p.name for p in (*self.open[self.open.index(path) :], path)) if (
                path in self.open
            ) else f"{len(self.open)} files deep"  # fmt: skip
            raise SpaceError(
                error("SP211", "files that use each other without end", span).note(chain)
            )
        source = self.text(path, span)
        self.bytes += len(source.text)
        if self.bytes > MAX_BYTES:
            raise SpaceError(error("SP102", "the files used are larger than 4 MiB together", span))
        self.open.append(path)
        try:
            self.files[path] = self.scope(parse(source), path.parent)
        finally:
            self.open.pop()
        return self.files[path]


def shipped_folder() -> Path:
    """Where the shipped spaces and libraries lie."""
    from importlib.resources import files

    return Path(str(files("spacelang.spaces")))


def shipped_file(name: str | Path) -> Path | None:
    """The shipped space of a name, `autoformer.space` or `combinations/autoformer_pairs.space`,
    with `spaces/` in front or not; None where there is none."""
    parts = Path(name).parts
    inside = Path(*(parts[1:] if parts[:1] == ("spaces",) else parts))
    found = shipped_folder() / inside
    within = not inside.is_absolute() and ".." not in inside.parts
    return found if within and os.path.isfile(found) else None


def _no_file(path: Path, span: Span) -> Diagnostic:
    if not path.exists():
        return error("SP104", f"{path} is no file", span)
    if not path.is_dir():
        return error("SP104", f"{path} is no regular file", span)
    found = error("SP104", f"{path} is a folder, no file", span)
    return found.hint("`spacelang doctor` verifies the folder of an artifact or a run")


def read_source(path: Path, span: Span = NOWHERE, mebibytes: int = 1) -> Source:
    """The text of a regular file of at most 1 MiB, or as many as are given (SP104, SP102)."""
    try:
        if not path.is_file():
            raise SpaceError(_no_file(path, span))
        if path.stat().st_size > mebibytes << 20:
            raise SpaceError(error("SP102", f"{path} is larger than {mebibytes} MiB", span))
        return Source(str(path), path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as failed:
        raise SpaceError(error("SP104", f"{path} cannot be read: {failed}", span)) from failed


def check_default(statement: tree.Default) -> None:
    """SP201 for defaults of what is no op, SP204 for an option that the op does not have."""
    from spacelang.ir.op import ops

    definition = ops().get(statement.op)
    if definition is None or "written" in definition.traits:
        named = [name for name, known in ops().items() if "written" not in known.traits]
        raise unknown(statement.op, statement.span, named)
    for argument in statement.arguments:
        if argument.name not in definition.options:
            what = f"{statement.op} has no option {argument.name}"
            if argument.name is None:
                what = f"defaults of {statement.op} are given by name"
            known = ", ".join(definition.options) or "none"
            raise SpaceError(error("SP204", what, argument.span).note(f"its options: {known}"))
