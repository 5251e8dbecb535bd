"""From an address to a checked Graph: `load("spaces/autoformer.space:autoformer_t", classes=10)`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import cast

from spacelang.diagnostics import Source, SpaceError, error
from spacelang.ir.dim import Dim
from spacelang.ir.graph import Graph
from spacelang.syntax import tree
from spacelang.syntax.frame import Session
from spacelang.syntax.parse import parse
from spacelang.syntax.scope import Library, Scope, read_source, shipped_folder, unknown
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


def open_address(address: str | Path | Source) -> tuple[Source, str]:
    """The text and the name (empty: the last space) of an address."""
    if isinstance(address, Source):
        return address, ""
    text, _, name = str(address).partition(".space:")
    path = Path(text + ".space" if name else text)
    if not path.exists():
        shipped = shipped_folder() / path.name
        if shipped.exists() and path.parent in (Path("."), Path("spaces")):
            path = shipped
    return read_source(path), name


def from_scope(
    scope: Scope, name: str, source: Source, library: Library, parameters: Mapping[str, object]
) -> Graph:
    """The graph of a name in a file's scope."""
    spaces = {n: v for n, v in scope.names.items() if isinstance(v, SpaceValue)}
    own = [n for n in spaces if scope.spans[n].source.name == source.name]
    if not name:
        fit = [n for n in own if not isinstance(spaces[n].definition, tree.Subnet)]
        if not fit:
            raise SpaceError(error("SP201", f"{source.name} has no space"))
        name = fit[-1]
    if name not in spaces:
        raise unknown(name, error("SP201", "").primary.span, list(spaces))
    session = Session(library)
    values = {key: thing(value) for key, value in parameters.items()}
    space = spaces[name]
    if isinstance(space.definition, tree.Subnet):
        from spacelang.syntax.subnets import subnet

        return subnet(space, session, values)
    from spacelang.passes.entangle import lay_out

    return lay_out(elaborate(space, name, session, values))


def thing(value: object) -> Thing:
    """A Python value as the language holds it."""
    if isinstance(value, bool | str | None | Dim | Candidates | Numbers):
        return value
    if isinstance(value, int | float | Fraction):
        return Dim.of(value)
    if isinstance(value, list | tuple):
        return tuple(thing(v) for v in cast(Sequence[object], value))
    if isinstance(value, set | frozenset):
        items = cast(frozenset[float], value)
        return Candidates(tuple(thing(v) for v in sorted(items)))
    raise SpaceError(error("SP209", f"a parameter cannot be {type(value).__name__}"))
