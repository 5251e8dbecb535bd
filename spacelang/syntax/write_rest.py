"""What is not the network: storage, names, limits and searches, as sections of a space."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import cast

from spacelang.ir.dialect import Dialect, Rename
from spacelang.ir.dim import Symbol
from spacelang.ir.figures import FIGURES
from spacelang.ir.graph import Graph
from spacelang.ir.node import join
from spacelang.ir.param import Slice
from spacelang.ir.storage import Sizer
from spacelang.ir.uses import Use, uses
from spacelang.syntax.write_values import INDENT, Speller, cannot, text


def sections(graph: Graph) -> Iterator[str]:
    """The lines of `weights`, `names`, `require` and `search`."""
    rules = [*(str(rule) for rule in graph.rules), *_ties(graph)]
    if rules:
        yield "weights {"
        yield from (INDENT + rule for rule in rules)
        yield "}"
    for name, dialect in graph.dialects.items():
        yield from _dialect(name, dialect)
    speller = Speller(lambda symbol: _path(symbol, graph))
    for condition in graph.require:
        yield f"require {speller.condition(condition)}"
    for engine, settings in graph.search.items():
        pairs = "  ".join(f"{key} = {_setting(value)}" for key, value in settings.items())
        yield f"search {engine} {{ {pairs} }}"


def _path(symbol: Symbol, graph: Graph) -> str:
    if symbol.name not in FIGURES and symbol.name not in graph.decisions:
        raise cannot(f"a limit on {symbol.name}", "it is no decision")
    return symbol.name


# Ties.

Need = tuple[tuple[int, ...], ...]
"""How much a use reads of each factor of a storage, at most."""
SLICES = ("", "leading", "centre")
"""The slices that a tie may read; none where all that is tied has one size."""


def _ties(graph: Graph) -> Iterator[str]:
    """`path: tie(leader)` for each call and op whose parameters are kept in another place."""
    ties: dict[str, tuple[str, Iterable[str]]] = {}
    for use in uses(graph):
        for path, leader, own in _tied(use):
            ties.setdefault(path, (leader, own))
    if not ties:
        return
    forms = _forms(graph)
    for path, (leader, own) in ties.items():
        parts = [leader]
        if own:
            parts.append(f"own: [{', '.join(own)}]")
        form = max((f for p, f in forms.items() if f"{p}.".startswith(f"{leader}.")), default=0)
        if form:
            parts.append(f"slices: {SLICES[form]}")
        yield f"{path}: tie({', '.join(parts)})"


def _forms(graph: Graph) -> dict[str, int]:
    """Of each storage that needs it, which slices its uses read, by `SLICES`.

    Such are those of which uses need different sizes, and those that no use of their own reads.
    """
    needs: dict[str, set[Need]] = {}
    centred: set[str] = set()
    owned: set[str] = set()
    sizer = Sizer(graph.stored)
    for place in graph.places():
        for role, view in place.node.params.items():
            path = place.instance.param(view.param)
            if path == join(place.instance.path, join(place.node.label, role)):
                owned.add(path)
            axes = tuple(tuple(map(place.instance.absolute, axis)) for axis in view.lengths)
            needs.setdefault(path, set()).add(
                tuple(tuple(max(sizer.extents(n, ())) for n in axis) for axis in axes)
            )
            parts = [part for axis in view.index for part in axis if isinstance(part, Slice)]
            if any(part.start.constant for part in parts):
                centred.add(path)
    return {
        path: 2 if path in centred else 1
        for path, sizes in needs.items()
        if len(sizes) > 1 or path not in owned
    }


def _tied(use: Use) -> Iterator[tuple[str, str, Iterable[str]]]:
    """What is tied in a use of a block: its path, that of what it reads, and what it keeps."""
    here = use.instance
    for node in here.block.everywhere():
        place = join(here.path, node.label)
        call = node.call
        if call is not None and (call.store != call.path or call.own):
            yield join(here.path, call.path), join(here.store, call.store), call.own
        moved = {r: v.param for r, v in node.params.items() if v.param != join(node.label, r)}
        paths = {role: here.param(param) for role, param in moved.items()}
        alike = all(p.endswith(f".{role}") for role, p in paths.items() if role)
        leaders = {p.removesuffix(f".{role}") if role else p for role, p in paths.items()}
        if alike and len(leaders) == 1 and len(paths) == len(node.params):
            yield place, leaders.pop(), ()
        else:
            for role, path in paths.items():
                yield join(place, role), path, ()


# Names and settings.


def _dialect(name: str, dialect: Dialect) -> Iterator[str]:
    yield f"names {name} {{"
    for rename in dialect.renames:
        yield INDENT + _rename(rename)
    yield "}"


def _rename(rename: Rename) -> str:
    hops = [hop.name + "".join(f"[{index}]" for index in hop.indices) for hop in rename.foreign]
    if rename.own.anywhere:
        hops.insert(0, "_")
    if not hops:
        raise cannot(f"the name of {rename.own}", "the foreign name is empty")
    written = f"{rename.own}: {'.'.join(hops)}"
    layout = rename.layout
    if layout is None:
        return written
    places = [*layout.order, *map(str, layout.shape)]
    return f"{written} in {layout.kind}({', '.join(places)})"


def _setting(value: object) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return "true" if value else "false"
        case str():
            return text(value)
        case tuple():
            return f"[{', '.join(map(_setting, cast(tuple[object, ...], value)))}]"
        case _:
            return repr(value)
