"""From an address to a checked Graph: `load("spaces/autoformer.space:autoformer_t",
classes=10)`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from spacelang import plugins
from spacelang.collector import collector_paused
from spacelang.diagnostics import NOWHERE, Diagnostic, Source, SpaceError, Span, error
from spacelang.ir.dim import Dim
from spacelang.ir.graph import Graph
from spacelang.ir.node import Node
from spacelang.ir.program import Program
from spacelang.manifest import MAX_GRAPH
from spacelang.syntax import tree
from spacelang.syntax.parse import parse
from spacelang.syntax.scope import (
    Library,
    Scope,
    read_source,
    shipped_file,
    shipped_folder,
    unknown,
)
from spacelang.syntax.session import Session, Until
from spacelang.syntax.spaces import elaborate
from spacelang.syntax.values import Candidates, Numbers, ProgramValue, SpaceValue, Thing

if TYPE_CHECKING:
    from spacelang.passes.base import BlockSource
    from spacelang.passes.text import Blocks

TEXT, IR = ".space", ".spaceir"
"""How files of the language and of IR text are called."""
STEP = "rewrite."
"""What stands before the name of a step."""
BLOCK = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*){0,15}", re.ASCII)
"""Names of blocks: `mix`, `vit.mlp`."""


@collector_paused()
def load(address: str | Path | Source, /, **parameters: object) -> Graph:
    """The graph of `FILE.space` (its last space) or `FILE.space:NAME`, proved and storage laid out.

    NAME is a space, an instance, a derived space or a subnet; `parameters` set parameters of the
    space. A file that is not there is looked for among the shipped ones. `FILE.spaceir` is the
    graph of an IR text as it is. Raises SpaceError.
    """
    source, name = open_address(address)
    if is_ir(source):
        return read_graph(source, name, parameters)
    library, scope = _opened(source)
    return from_scope(scope, name, source, library, parameters)


def _opened(source: Source) -> tuple[Library, Scope]:
    """The names of a text, and the files that it uses: those beside it, where it is a file."""
    folder = None if source.name.startswith("<") else Path(source.name).parent
    library = Library(folder)
    return library, library.scope(parse(source), folder)


@collector_paused()
def load_hull(address: str | Path | Source, /, **parameters: object) -> Graph:
    """The graph of a space as `load` reads it, every decision over its whole hull (`within`).

    Raises SpaceError; SP701 for IR text, whose ranges are all that it holds.
    """
    source, name = open_address(address)
    if is_ir(source):
        found = error("SP701", f"{source.name} is a graph: what its ranges may become is not in it")
        raise SpaceError(found.hint("name the .space file that it was made from"))
    library, scope = _opened(source)
    return from_scope(scope, name, source, library, parameters, hulls=True)


@collector_paused()
def load_program(address: str | Path | Source, /) -> Program:
    """The program of `FILE.space` (its last) or `FILE.space:NAME`, its networks proved and laid
    out, what they share checked. Raises SpaceError."""
    source, name = open_address(address)
    if is_ir(source):
        raise SpaceError(error("SP209", f"{source.name} is one graph, no program"))
    library, scope = _opened(source)
    return program_of(scope, name, source, library)


def named_program(address: str | Path | Source, /) -> bool:
    """Whether an address names a program, rather than one network."""
    source, name = open_address(address)
    file = parse(source)
    return any(isinstance(item, tree.Program) and item.name == name for item in file.items)


def program_of(scope: Scope, name: str, source: Source, library: Library) -> Program:
    """The program of a name in a file's scope, or its own last one (SP201)."""
    from spacelang.syntax.programs import program

    known = {n: v for n, v in scope.names.items() if isinstance(v, ProgramValue)}
    if name and name not in known:
        raise unknown(name, NOWHERE, list(known))
    own = [n for n in known if scope.spans[n].source.name == source.name]
    if not name and not own:
        found = error("SP201", f"{source.name} has no program")
        raise SpaceError(found.hint("`program NAME { network .. }`, as in small_cells.space"))
    return program(known[name or own[-1]], library)


def compile(graph: Graph, backend: str = "torch", seed: int = 0) -> Any:
    """The graph as a model of a backend, `torch` a module; SP604 for a backend that is not there.

    First weights are drawn from the seed. SP605 for what the backend cannot lower.
    """
    make = cast("Callable[[], Backend]", plugins.load("spacelang.backends", backend))
    return make().lower(graph, seed)


def load_after(address: str | Path | Source, step: str, /, **parameters: object) -> Graph:
    """The graph of a space as the first steps of its `rewrite { }` leave it.

    `step` is how many, or the last of them: `rewrite.irpe`, `rewrite.insert[1]` where there are
    several of a name. SP604 lists the steps where there is none such.
    """
    source, name = open_address(address)

    def until(names: Sequence[str]) -> int:
        return _steps(step, names, source.name)

    if is_ir(source):
        until(())
        return read_graph(source, name, parameters)
    library, scope = _opened(source)
    return from_scope(scope, name, source, library, parameters, until=until)


def load_block(address: str | Path, /) -> BlockSource:
    """The block of `FILE.space:NAME`, for passes that take one (`Insert`). Raises SpaceError."""
    source, name = open_address(address)
    return _block(source, name, str(address), NOWHERE)


def blocks(address: str | Path | Source) -> Blocks:
    """What a name of a block means in a pipeline on the graph of an address: one that its file
    declares or uses, or `FILE.space:NAME`, one of any file."""

    def named(text: str, span: Span) -> BlockSource:
        apart = ":" in text
        if not (apart or isinstance(address, Source)) and os.path.isdir(address):
            raise SpaceError(_no_text(f"{address} is compiled", span))
        source, name = open_address(text if apart else address)
        return _block(source, name if apart else text, text, span)

    return named


def _block(source: Source, name: str, text: str, span: Span) -> BlockSource:
    from spacelang.syntax.steps import named_block

    if is_ir(source):
        raise SpaceError(_no_text(f"{source.name} is a graph", span))
    if not BLOCK.fullmatch(name) or name.endswith(TEXT):
        found = error("SP209", f"{text} is no name of a block", span)
        raise SpaceError(found.hint("a block in scope, as mix, or FILE.space:mix"))
    library, scope = _opened(source)
    inner = [n for n, v in scope.names.items() if name in _blocks_of(v)]
    if inner and scope.find(name) is None:
        found = error("SP201", f"no block of the file is called {name}", span)
        raise SpaceError(
            found.hint(f"it stands in {inner[0]}, whose own rewrite sees it: move it out")
        )
    try:
        return named_block(name, span, library, scope)
    except RecursionError:
        raise SpaceError(error("SP507", f"{name} is nested too deeply", span)) from None


def _blocks_of(entry: object) -> list[str]:
    """The blocks that are declared in a space."""
    if not isinstance(entry, SpaceValue) or not isinstance(entry.definition, tree.SpaceOf):
        return []
    return [s.name for s in entry.definition.body.statements if isinstance(s, tree.BlockOf)]


def _no_text(what: str, span: Span) -> Diagnostic:
    """SP209 for a block of what has no text."""
    found = error("SP209", f"{what}: it has no blocks to insert", span)
    return found.hint("name the file too: block=FILE.space:NAME")


def _steps(wanted: str, names: Sequence[str], file: str) -> int:
    """How many steps there are up to one by its number or name."""
    if wanted.isdecimal() and len(wanted) < 9 and int(wanted) <= len(names):
        return int(wanted)
    labels = [
        f"{STEP}{name}[{names[:i].count(name)}]" if names.count(name) > 1 else f"{STEP}{name}"
        for i, name in enumerate(names)
    ]
    if wanted in labels:
        return labels.index(wanted) + 1
    found = error("SP604", f"{file} has no step {wanted}")
    listed = ", ".join(f"{i} {label}" for i, label in enumerate(labels, 1))
    known = f"its steps: 0 (none), {listed}" if labels else "its `rewrite { }` has no steps"
    raise SpaceError(found.note(known))


def is_ir(source: Source) -> bool:
    """Whether a text is IR text, by its name."""
    return source.name.endswith(IR)


def read_graph(source: Source, name: str, parameters: Mapping[str, object]) -> Graph:
    """The graph of an IR text (SP201 for another name than its own, SP204 for parameters)."""
    from spacelang.syntax.ir_text import read

    graph = read(source)
    if name not in ("", graph.name):
        raise unknown(name, NOWHERE, [graph.name])
    for first in parameters:
        found = error("SP204", f"{graph.name} has no parameter {first}")
        raise SpaceError(found.note(f"{source.name} is a graph: its parameters have their values"))
    return graph


class Backend(Protocol):
    """What lowers graphs to models of a kind of its own."""

    @property
    def name(self) -> str:
        """What the backend is called where one is named."""
        ...

    def supports(self, node: Node) -> bool:
        """Whether it has a rule for a node."""
        ...

    def lower(self, graph: Graph, seed: int = 0) -> Any:
        """A model of the graph, its weights drawn by the seed (SP605 where it cannot be)."""
        ...


def open_address(address: str | Path | Source) -> tuple[Source, str]:
    """The text and the name (empty: the last space) of an address."""
    if isinstance(address, Source):
        return address, ""
    text, name = str(address), ""
    if not text:
        raise SpaceError(error("SP104", "the address of a space is empty"))
    for ending in (TEXT, IR):
        file, colon, rest = text.partition(f"{ending}:")
        if colon:
            text, name = file + ending, rest
            break
    path = Path(text)
    if not os.path.exists(path):  # False, where Path raises for names that no system takes
        if (shipped := shipped_file(path)) is not None:
            path = shipped
        elif hint := _near(path):
            raise SpaceError(error("SP104", f"{path} is no file").hint(hint))
    return read_source(path, mebibytes=MAX_GRAPH >> 20 if path.name.endswith(IR) else 1), name


def _near(path: Path) -> str:
    """A file beside one that is not there, or a shipped one, that was probably meant."""
    beside = path.parent if os.path.isdir(path.parent) else shipped_folder()
    known = {p.name: p for p in (*shipped_folder().glob(f"*{TEXT}"), *beside.glob(f"*{TEXT}"))}
    whole = [name for name in (f"{path.name}{TEXT}",) if name in known]
    others = [name for name in known if name != path.name]  # it may be a link to nothing
    near = whole or get_close_matches(path.name, others, 1, 0.75)
    return f"did you mean {near[0]}?" if near else ""


def from_scope(
    scope: Scope,
    name: str,
    source: Source,
    library: Library,
    parameters: Mapping[str, object],
    hulls: bool = False,
    until: Until | None = None,
) -> Graph:
    """The graph of a name in a file's scope; with `hulls` every decision takes its whole hull,
    `until` says how many steps of `rewrite { }` are run."""
    space = _space(scope, name, source)
    session = Session(library, hulls, library.caches[hulls], until=until)
    values = {key: thing(value) for key, value in parameters.items()}
    definition = space.definition
    try:
        if isinstance(definition, tree.Subnet):
            from spacelang.syntax.subnets import subnet

            return subnet(space, session, values)
        graph = elaborate(space, definition.name, session, values)
        if not values and not hulls and until is None:
            library.graphs[id(definition)] = space, graph
        return graph
    except RecursionError:
        # Limits of depth are far below that of Python's stack; what passes all of them ends here.
        deep = error("SP507", f"{definition.name} is nested too deeply", definition.span)
        raise SpaceError(deep) from None


def _space(scope: Scope, name: str, source: Source) -> SpaceValue:
    """The space of a name, or the last of the file that is no subnet (SP201)."""
    spaces = {n: v for n, v in scope.names.items() if isinstance(v, SpaceValue)}
    if name:
        if isinstance(scope.names.get(name), ProgramValue):
            found = error("SP209", f"{name} is a program, not one network", scope.spans[name])
            raise SpaceError(found.hint("spacelang.load_program, or one of its networks"))
        if name not in spaces:
            raise unknown(name, NOWHERE, list(spaces))
        return spaces[name]
    own = [v for n, v in spaces.items() if scope.spans[n].source.name == source.name]
    fit = [v for v in own if not isinstance(v.definition, tree.Subnet)]
    if not fit:
        raise SpaceError(error("SP201", f"{source.name} has no space"))
    return fit[-1]


def thing(value: object) -> Thing:
    """A Python value as the language holds it (SP209, SP103 for what it does not hold)."""
    if isinstance(value, bool | str | None | Dim | Candidates | Numbers):
        return value
    if isinstance(value, int | float | Fraction):
        if not abs(value) < 1 << 63:
            raise SpaceError(error("SP103", f"{value} is no number of 63 bits"))
        return Dim.of(value)
    if isinstance(value, list | tuple):
        return tuple(thing(v) for v in cast(Sequence[object], value))
    if isinstance(value, set | frozenset):
        items = sorted(cast(frozenset[object], value), key=_rank)
        return Candidates(tuple(thing(v) for v in items))
    raise SpaceError(error("SP209", f"a parameter cannot be {type(value).__name__}"))


def _rank(value: object) -> tuple[bool, float, str]:
    """Numbers by size, then all else by its text: a set of Python has no order of its own."""
    if isinstance(value, int | float | Fraction):
        return False, float(value), ""
    return True, 0.0, str(value)
