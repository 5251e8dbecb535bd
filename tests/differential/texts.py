"""Claims about texts: that a program loads, and what its texts read back as."""

from __future__ import annotations

from differential.case import Case, Skipped
from differential.program import NAME, spelled

from spacelang.analysis.space import lints
from spacelang.diagnostics import Report, Source, SpaceError
from spacelang.ir.text import write
from spacelang.ir.verify import verify
from spacelang.loader import from_scope, load, load_program
from spacelang.syntax import tree
from spacelang.syntax.format import format
from spacelang.syntax.ir_text import read
from spacelang.syntax.parse import parse
from spacelang.syntax.scope import Library
from spacelang.syntax.values import SpaceValue
from spacelang.syntax.write import write_space


def loads(case: Case) -> None:
    """The program loads, keeps every invariant, and its lints are warnings."""
    report = Report()
    verify(case.graph, report)
    assert not report.errors, [str(e) for e in report.errors]
    for found in lints(case.graph):
        assert found.severity == "warning" or found.code == "SP502", found


def subnets_load(case: Case) -> None:
    """Every other space and subnet of the file loads, too."""
    source = Source(NAME, case.text)
    library = Library(None)
    scope = library.scope(case.file, None)
    own = case.file.span.source
    for name, value in scope.names.items():
        if isinstance(value, SpaceValue) and value.definition.span.source is own:
            from_scope(scope, name, source, library, {})


def programs(case: Case) -> None:
    """A program of networks shares what it says: tensors of one shape, under one path."""
    if not any(isinstance(item, tree.Program) for item in case.file.items):
        raise Skipped("no program")
    made = load_program(Source(NAME, case.text))
    assert made.shared
    for path, readers in made.shared.items():
        stored = [made.networks[name].storages[path] for name in readers]
        assert len(stored) == 2
        assert stored[0].tensors == stored[1].tensors, path
    assert made.decisions.keys() == set().union(*(g.decisions for g in made.networks.values()))


def formats(case: Case) -> None:
    """Formatting is idempotent, keeps the tree and the network."""
    once = format(case.file)
    again = parse(Source(NAME, once))
    assert again == case.file
    assert format(again) == once
    library = Library(None)
    loaded = from_scope(library.scope(again, None), "", Source(NAME, once), library, {})
    assert loaded.hash == case.graph.hash


def ir_text(case: Case) -> None:
    """The IR as text reads back as the same graph."""
    text = write(case.graph)
    again = read(Source("program.spaceir", text))
    assert again == case.graph
    assert again.hash == case.graph.hash
    assert write(again) == text


def space_text(case: Case) -> None:
    """The graph as a `.space` loads as the same network."""
    try:
        text = write_space(case.graph)
    except SpaceError as refused:
        headlines = [d.headline for d in refused.diagnostics]
        if any("load" in h or "another network" in h for h in headlines):
            raise AssertionError("\n".join(headlines)) from refused
        raise Skipped("cannot be written") from refused
    assert load(Source("again.space", text)).hash == case.graph.hash


def derived_subnet(case: Case) -> None:
    """A subnet of the text is the architecture that it names."""
    graph, trial = case.graph, case.first
    if not graph.decisions:
        raise Skipped("nothing to decide")
    lines = "  ".join(f"{path} = {spelled(value)}" for path, value in trial.assignment.items())
    text = f"{case.text}\nsubnet taken of {graph.name} {{ {lines} }}\n"
    source, library = Source(NAME, text), Library(None)
    found = from_scope(library.scope(parse(source), None), "taken", source, library, {})
    assert not found.decisions
    assert found.cost() == trial.cost
