"""What is wrong with a file: parse, resolve, prove every space and every program, and lint them.

checked("spaces/autoformer.space", {}).report
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, is_dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from spacelang.collector import collector_paused
from spacelang.diagnostics import (
    Diagnostic,
    Label,
    Report,
    Source,
    SpaceError,
    Span,
    error,
    placed,
    warning,
)

if TYPE_CHECKING:
    from spacelang.ir.graph import Graph
    from spacelang.ir.program import Program
    from spacelang.syntax import tree
    from spacelang.syntax.scope import Library, Scope
    from spacelang.syntax.values import SpaceValue

Tell = Callable[[Iterable[Diagnostic], str, Mapping[str, object]], Iterable[Diagnostic]]


@dataclass
class Checked:
    """What was found in a file: its spaces with their decisions, and the diagnostics.

    A space whose parameters have no values is `open`: it is proved through its instances.
    """

    file: str
    spaces: dict[str, int] = field(default_factory=dict[str, int])
    open: dict[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    report: Report = field(default_factory=Report)
    graphs: dict[str, Graph] = field(default_factory=dict[str, "Graph"])


def as_found(
    diagnostics: Iterable[Diagnostic], address: str, settings: Mapping[str, object]
) -> Iterable[Diagnostic]:
    """Diagnostics as they are."""
    return diagnostics


def checked(address: str, settings: Mapping[str, object], tell: Tell = as_found) -> Checked:
    """All that is wrong with a file, or with the one space that the address names (`examine`)."""
    from spacelang.loader import is_ir, open_address

    try:
        source, wanted = open_address(address)
    except SpaceError as failed:
        found = Checked(address)
        found.report.extend(failed.diagnostics)
        return found
    if is_ir(source):
        return _examined(address, source, wanted, settings)
    return examine(address, source, Path(source.name).parent, wanted, settings, tell)


def _examined(address: str, source: Source, wanted: str, settings: Mapping[str, object]) -> Checked:
    """All that is wrong with an IR text."""
    from spacelang.analysis.space import lints
    from spacelang.loader import read_graph

    found = Checked(address)
    try:
        graph = read_graph(source, wanted, settings)
    except SpaceError as failed:
        found.report.extend(failed.diagnostics)
        return found
    found.graphs[graph.name] = graph
    found.spaces[graph.name] = len(graph.decisions)
    found.report.extend(lints(graph))
    return found


@collector_paused()
def examine(
    file: str,
    source: Source,
    folder: Path,
    wanted: str = "",
    settings: Mapping[str, object] = MappingProxyType({}),
    tell: Tell = as_found,
    library: Library | None = None,
) -> Checked:
    """All that is wrong with a text that stands in a folder, or with one space of it.

    `tell` may add to the diagnostics of a space, whose address it is given; `library` reads the
    files that the text uses, by default as they were saved.
    """
    from spacelang.analysis.dialects import idle
    from spacelang.analysis.space import lints
    from spacelang.loader import program_of
    from spacelang.syntax.parse import parse
    from spacelang.syntax.scope import Library
    from spacelang.syntax.values import ProgramValue

    found = Checked(file)
    try:
        library = library or Library(folder)
        scope = library.scope(parse(source), folder)
    except SpaceError as failed:
        found.report.extend(failed.diagnostics)
        return found
    graphs = found.graphs
    for name in [wanted] if wanted else _own(scope, source):
        if isinstance(scope.names.get(name), ProgramValue):
            try:
                _no_parameter(name, scope, settings)
                program = program_of(scope, name, source, library)
                found.spaces[name] = len(program.decisions)
                for graph in program.networks.values():
                    found.report.extend(lints(graph))
                found.report.extend(_searches(*program.networks.values(), program=program))
            except SpaceError as failed:
                found.report.extend(tell(failed.diagnostics, f"{source.name}:{name}", {}))
            continue
        missing = _missing(scope.names.get(name), settings)
        if missing:
            found.open[name] = missing
            continue
        try:
            graph = _proved(name, scope, source, library, settings, graphs)
            found.spaces[name] = len(graph.decisions) if graph is not None else 0
            if graph is not None:
                found.report.extend(lints(graph))
                found.report.extend(_stated(graph, scope.names[name]))
                if any(choice.hull is not None for choice in graph.decisions.values()):
                    _hulls(name, scope, source, library, settings, found.report)
        except SpaceError as failed:
            found.report.extend(tell(failed.diagnostics, f"{source.name}:{name}", settings))
    if not wanted and not found.report.errors:
        own = (d for d in idle(graphs.values()) if d.primary.span.source.name == source.name)
        found.report.extend(own)
    return found


def _searches(*graphs: Graph, program: Program | None = None) -> Iterator[Diagnostic]:
    """What is wrong with `search { }` of graphs, and of a program: settings, decisions that an
    engine cannot take."""
    from spacelang import plugins
    from spacelang.engines.protocol import weights_of
    from spacelang.engines.settings import GROUP, check, configure

    for graph, engine in ((asking, name) for asking in graphs for name in asking.search):
        if engine not in plugins.table(GROUP):
            continue  # of a package that is not here
        try:
            made: Any = configure(engine, graph.search[engine])
            if weights_of(made) != "program":
                check(made, graph, fixed=True)
            elif program is not None:
                made.derivation(program)
        except SpaceError as failed:
            yield from failed.diagnostics


def _proved(
    name: str,
    scope: Scope,
    source: Source,
    library: Library,
    settings: Mapping[str, object],
    graphs: dict[str, Graph],
) -> Graph | None:
    """The graph of a space; where that of its base is known, a subnet's decisions are looked at."""
    from spacelang.loader import from_scope
    from spacelang.syntax import tree
    from spacelang.syntax.values import SpaceValue

    space = scope.names.get(name)
    if isinstance(space, SpaceValue) and isinstance(space.definition, tree.Subnet):
        origin = space.definition.base
        base = graphs.get(origin.name)
        if base is not None and origin.arguments is None:
            _take(base, space)
            return None
    graphs[name] = from_scope(scope, name, source, library, settings)
    return graphs[name]


def _stated(graph: Graph, space: object) -> Iterator[Diagnostic]:
    """What is wrong with the `search { }` of a space: its engine, settings and budgets."""
    from spacelang.syntax import tree
    from spacelang.syntax.spaces import chain
    from spacelang.syntax.values import SpaceValue

    told: set[str] = set()
    for definition in chain(space) if graph.search and isinstance(space, SpaceValue) else ():
        if not isinstance(definition, tree.SpaceOf):
            continue
        for statement in definition.body.statements:
            if isinstance(statement, tree.Search) and statement.engine not in told:
                told.add(statement.engine)
                yield from _search(graph, statement)


def _search(graph: Graph, statement: tree.Search) -> Iterator[Diagnostic]:
    from spacelang.engines.protocol import weights_of
    from spacelang.engines.settings import BUDGETS, GROUP, check, configure, read_fields
    from spacelang.plugins import load, table

    name, settings = statement.engine, graph.search[statement.engine]
    if name not in table(GROUP):
        known = ", ".join(sorted(table(GROUP)))
        found = warning("SP604", f"no engine is called {name}", statement.span)
        yield found.note(f"installed: {known}")
        return
    spans = {setting.name: setting.span for setting in statement.settings}
    wrong: list[Diagnostic] = []
    engine = load(GROUP, name)
    for setting, value in settings.items() if is_dataclass(engine) else ():
        with collecting(wrong, spans[setting]):
            read_fields(engine, name, {setting: value})
    if not wrong:
        with collecting(wrong, statement.span):
            made: Any = configure(name, settings)
            if weights_of(made) != "program":
                check(made, graph, fixed=True)
    yield from wrong
    for setting in BUDGETS & settings.keys():
        value = settings[setting]
        for text in cast("tuple[object, ...]", value) if isinstance(value, tuple) else (value,):
            if isinstance(text, str) and text.strip():
                yield from _budget(graph, text, spans[setting])


@contextmanager
def collecting(wrong: list[Diagnostic], span: Span) -> Generator[None]:
    """Keep what is raised inside, at a place."""
    try:
        yield
    except SpaceError as failed:
        wrong.extend(placed(found, span) for found in failed.diagnostics)


def _budget(graph: Graph, text: str, span: Span) -> Iterator[Diagnostic]:
    """What is wrong with a budget that is written in a string; it is told as of `require`."""
    from spacelang.analysis.budget import Budget
    from spacelang.analysis.claims import claims
    from spacelang.ir.figures import TIMED
    from spacelang.syntax.budget import budget

    try:
        conditions = tuple(budget(Source("<where>", text), graph.decisions))
        Budget.of(conditions)
    except SpaceError as failed:
        for found in failed.diagnostics:
            yield replace(found, primary=Label(span, ""), secondary=()).note(f"in {text!r}")
        return
    if not conditions:
        yield warning("SP511", f"{text} excludes nothing", span)
        return
    # What a latency or a throughput may be, no graph says.
    conditions = tuple(
        c for c in conditions if not any(s.name in TIMED and s.free for s in c.symbols)
    )
    kept = (*conditions, *(c for c in graph.require if c not in conditions))
    stated = {**graph.stated, **dict.fromkeys(conditions, span)}
    for found in claims(graph.restated(require=kept, stated=stated)):
        if found.primary.span is span:
            yield found


def _hulls(
    name: str,
    scope: Scope,
    source: Source,
    library: Library,
    settings: Mapping[str, object],
    report: Report,
) -> None:
    """Prove a space for everything that a range search may move its candidates to."""
    from spacelang.loader import from_scope

    try:
        from_scope(scope, name, source, library, settings, hulls=True)
    except SpaceError as failed:
        report.extend(d.note("so it is within a hull") for d in failed.diagnostics)


def _take(graph: Graph, subnet: SpaceValue) -> None:
    """Take the decisions of a subnet, for what is wrong with them."""
    from spacelang.syntax.frame import Frame
    from spacelang.syntax.scope import Library, Scope
    from spacelang.syntax.session import Session
    from spacelang.syntax.subnets import lines, take

    frame = Frame(Session(Library(None)), subnet.definition.name, subnet.definition.span)
    scope = Scope(subnet.scope)
    scope.frame = frame
    take(graph, lines(subnet, ()), frame, scope)


def _own(scope: Scope, source: Source) -> list[str]:
    """The names of the spaces that a file declares itself, then those of its programs."""
    from spacelang.syntax.values import ProgramValue, SpaceValue

    own = [n for n in scope.names if scope.spans[n].source.name == source.name]
    return [n for kind in (SpaceValue, ProgramValue) for n in own if type(scope.names[n]) is kind]


def _no_parameter(name: str, scope: Scope, settings: Mapping[str, object]) -> None:
    """SP204 for a parameter of a program, which has none."""
    if settings:
        note = "a program has none: its networks are written in it"
        raise SpaceError(
            error("SP204", f"{name} has no parameter {setting}", scope.spans[name]).note(note)
            for setting in settings
        )


def _missing(space: object, settings: Mapping[str, object]) -> tuple[str, ...]:
    """The parameters of a space that nothing gives a value."""
    from spacelang.syntax import tree
    from spacelang.syntax.values import SpaceValue

    if not isinstance(space, SpaceValue) or isinstance(space.definition, tree.Subnet):
        return ()
    needed = (p.name for p in space.definition.params if p.default is None)
    return tuple(name for name in needed if name not in settings)
