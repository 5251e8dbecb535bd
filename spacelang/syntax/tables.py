"""`table(shape) |i, j| { return number }`: a constant from its indices.

    mask = table([n, n]) |i, j| { return 0 if j <= i else -10000 }
    near = table([n, n], index: true) |i, j| { return abs(i - j) }

An entry is a number of the indices and of all that is known or decided around it. Inside, an index
is a size with a value for each place of its axis, so that entries are proved like sizes.
"""

from __future__ import annotations

from math import prod

from spacelang.diagnostics import SpaceError, Span, error
from spacelang.ir.build import BlockBuilder, Tensor
from spacelang.ir.condition import compare, conjunction
from spacelang.ir.conflict import SETTLE, Conflict, open_question
from spacelang.ir.dim import Dim, Symbol
from spacelang.ir.infer import NeedsValue
from spacelang.ir.prove import Answer, Proved, Refuted, at_most, whole
from spacelang.ops.formula import formula
from spacelang.ops.limits import MAX_ENTRIES, MAX_SIDE
from spacelang.syntax import tree
from spacelang.syntax.calls import Arguments
from spacelang.syntax.conflicts import not_known
from spacelang.syntax.frame import Frame
from spacelang.syntax.functions import most
from spacelang.syntax.scope import Scope
from spacelang.syntax.values import Thing, kind, number

WRITTEN = "table([n, m]) |i, j| { return number }"


def table(given: Arguments, frame: Frame, scope: Scope) -> Tensor:
    """The value of a `table(..)`; with `index: true` one of whole numbers, to read others by."""
    from spacelang.syntax.forms import run_region

    shape, index = _read(given)
    region, build = given.region, frame.builder
    if region is None:
        raise SpaceError(error("SP204", "a table needs a region", given.span).hint(WRITTEN))
    indices = _indices(shape, region)
    places = zip(indices, shape, strict=False)
    with build.trial(conjunction(*(compare("<", Dim.of(i), size) for i, size in places))) as inside:
        try:
            entry = run_region(region, tuple(map(Dim.of, indices)), frame, scope)
        except NeedsValue as need:
            if need.symbol not in indices:
                raise
            raise SpaceError(not_known(need, frame)) from None
        if not isinstance(entry, Dim) or inside.nodes:
            what = "a computation on tensors" if inside.nodes else kind(entry)
            raise SpaceError(error("SP209", f"an entry is a number, not {what}", region.span))
        if index:
            _need_index(entry, build, region.span)
    words, sizes = formula(entry, indices)
    options = {"shape": shape, "formula": words, "sizes": sizes, "index": index}
    frame.session.spend(1, given.span)
    return build.one("table", [], options, span=given.span)


def _read(given: Arguments) -> tuple[tuple[Dim, ...], bool]:
    """The shape, and whether it is a table of indices."""
    index = given.named.get("index", False)
    if len(given.positional) != 1 or set(given.named) - {"index"} or not isinstance(index, bool):
        raise SpaceError(error("SP204", "a table has a shape", given.span).hint(WRITTEN))
    shape = given.positional[0]
    sizes: tuple[Thing, ...] = shape if isinstance(shape, tuple) else (shape,)
    if not sizes:
        raise SpaceError(error("SP204", "a table has an axis at least", given.span).hint(WRITTEN))
    return tuple(number(size, "a size of a table", given.span) for size in sizes), index


def _indices(shape: tuple[Dim, ...], region: tree.Region) -> tuple[Symbol, ...]:
    """Symbols for the indices, of as many values as an axis ever has; no name of the text is so."""
    sides = [int(most(size, region.span)) for size in shape]
    if max(sides) > MAX_SIDE or prod(sides) > MAX_ENTRIES:
        largest = f"a table has at most {MAX_ENTRIES:,} entries, {MAX_SIDE:,} on an axis"
        raise SpaceError(error("SP507", largest, region.span))
    if len(region.names) != len(shape):
        many = f"{len(shape)} axes, {len(region.names)} names of indices"
        raise SpaceError(error("SP306", many, region.span).hint(WRITTEN))
    return tuple(
        Symbol(f"%{axis}{name}", tuple(range(max(1, side))))
        for axis, (name, side) in enumerate(zip(region.names, sides, strict=True))
    )


def _need_index(entry: Dim, build: BlockBuilder, span: Span) -> None:
    """Every entry is whole and at least 0 (SP302, SP307; SP308 where that is not settled)."""
    guards = build.guards
    rounds = "say how it rounds: floor(..), round(..), //"
    claims: tuple[tuple[Answer, str, str, str], ...] = (
        (whole(entry, guards), "SP302", "an index must be whole", rounds),
        (at_most(0, entry, guards), "SP307", "an index must be at least 0", ""),
    )
    for verdict, code, headline, hint in claims:
        if isinstance(verdict, Proved):
            continue
        if isinstance(verdict, Refuted):
            found = error(code, headline, span).hint(hint)
            raise SpaceError(build.explain(found, Conflict((entry,), verdict.example), ()))
        if code == "SP302":  # what is below 0 is refused where it is computed
            found = error("SP308", f"not settled for all places: {headline}", span)
            raise SpaceError(found.note(open_question(verdict)).hint(f"{rounds}; or {SETTLE}"))
