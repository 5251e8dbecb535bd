"""From an address to a checked Graph: `load("spaces/autoformer.space:autoformer_t",
classes=10)`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol, cast

from spacelang import plugins
from spacelang.diagnostics import NOWHERE, Source, SpaceError, error
from spacelang.ir.dim import Dim
from spacelang.ir.graph import Graph
from spacelang.ir.node import Node
from spacelang.syntax import tree
from spacelang.syntax.parse import parse
from spacelang.syntax.scope import Library, Scope, read_source, shipped_folder, unknown
from spacelang.syntax.session import Session
from spacelang.syntax.spaces import elaborate
from spacelang.syntax.values import Candidates, Numbers, SpaceValue, Thing


def load(address: str | Path | Source, /, **parameters: object) -> Graph:
    """The graph of `FILE.space` (its last space) or `FILE.space:NAME`, proved and storage laid out.

    NAME is a space, an instance, a derived space or a subnet; `parameters` set parameters of the
    space. A file that is not there is looked for among the shipped ones. Raises SpaceError.
    """
    source, name = open_address(address)
    folder = None if source.name.startswith("<") else Path(source.name).parent
    library = Library(folder)
    scope = library.scope(parse(source), folder)
    return from_scope(scope, name, source, library, parameters)


def compile(graph: Graph, backend: str = "torch", seed: int = 0) -> Any:
    """The graph as a model of a backend, `torch` a module; SP604 for a backend that is not there.

    First weights are drawn from the seed. SP605 for what the backend cannot lower.
    """
    make = cast("Callable[[], Backend]", plugins.load("spacelang.backends", backend))
    return make().lower(graph, seed)


class Backend(Protocol):
    """What lowers graphs to models of a kind of its own."""

    @property
    def name(self) -> str: ...

    def supports(self, node: Node) -> bool: ...

    def lower(self, graph: Graph, seed: int = 0) -> Any: ...


def open_address(address: str | Path | Source) -> tuple[Source, str]:
    """The text and the name (empty: the last space) of an address."""
    if isinstance(address, Source):
        return address, ""
    text, colon, name = str(address).partition(".space:")
    path = Path(text + ".space" if colon else text)
    if not os.path.exists(path):  # False, where Path raises for names that no system takes
        shipped = shipped_folder() / path.name
        if os.path.exists(shipped) and path.parent in (Path("."), Path("spaces")):
            path = shipped
    return read_source(path), name


def from_scope(
    scope: Scope,
    name: str,
    source: Source,
    library: Library,
    parameters: Mapping[str, object],
    hulls: bool = False,
) -> Graph:
    """The graph of a name in a file's scope; with `hulls` every decision takes its whole hull."""
    space = _space(scope, name, source)
    session = Session(library, hulls)
    values = {key: thing(value) for key, value in parameters.items()}
    definition = space.definition
    try:
        if isinstance(definition, tree.Subnet):
            from spacelang.syntax.subnets import subnet

            return subnet(space, session, values)
        from spacelang.passes.entangle import lay_out

        return lay_out(elaborate(space, definition.name, session, values))
    except RecursionError:
        # Limits of depth are far below that of Python's stack; what passes all of them ends here.
        deep = error("SP507", f"{definition.name} is nested too deeply", definition.span)
        raise SpaceError(deep) from None


def _space(scope: Scope, name: str, source: Source) -> SpaceValue:
    """The space of a name, or the last of the file that is no subnet (SP201)."""
    spaces = {n: v for n, v in scope.names.items() if isinstance(v, SpaceValue)}
    if name:
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
