"""What a failed proof says: the sizes as the text spells them, where they are from, and who breaks
it.

    = width is 192, 216 or 240; 64*heads is 192 or 256
    = first disagreement: width = 192, encoder[0].heads = 4

The counter-example is an assignment in the names of the whole space, completed by every decision
under which the place stands; of several it has the fewest decisions off their largest candidate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from spacelang.diagnostics import NOWHERE, Diagnostic, Span, error
from spacelang.ir.build import Tensor
from spacelang.ir.condition import Condition
from spacelang.ir.conflict import LONG, Conflict, bare, example_text, shown, values_of
from spacelang.ir.decision import plain
from spacelang.ir.dim import Dim, Symbol, symbol_of
from spacelang.ir.dim import Value as DecisionValue
from spacelang.ir.infer import NeedsValue
from spacelang.ir.node import join
from spacelang.ir.search import Wanted, domains, found, satisfied

if TYPE_CHECKING:
    from spacelang.syntax.frame import Frame

MANY = 6


def explained(
    frame: Frame, diagnostic: Diagnostic, conflict: Conflict, operands: Sequence[Tensor]
) -> Diagnostic:
    """The diagnostic with what a proof in a frame failed on."""
    sizes = [size for size in dict.fromkeys(conflict.sizes) if size.constant is None]
    if sizes:
        diagnostic = diagnostic.note("; ".join(_takes(frame, size) for size in sizes))
    primary = diagnostic.primary.span
    for size in dict.fromkeys(conflict.sizes):
        span = _origin(frame, size, operands)
        seen = (primary, *(label.span for label in diagnostic.secondary))
        if span is not None and not any(_within(span, other) for other in seen):
            diagnostic = diagnostic.also(span, f"{spelled(frame, size)} is from here")
    if conflict.example is None:
        return diagnostic
    if not conflict.example and not any(f.builder.decisions for f in frame.chain):
        return diagnostic
    return diagnostic.note(example_text(_example(frame, conflict.example)))


def not_known(need: NeedsValue, frame: Frame) -> Diagnostic:
    """SP308 for a decision whose value must be known outside of every block."""
    path = outward(frame, need.symbol.name)
    if indexes(need.symbol.name):
        found = error("SP308", "the index of a table is no one number", need.span)
        return found.note(f"the entry is one expression of {path} for all places")
    return (
        error("SP308", f"the value of {path} must be known here", need.span)
        .note("inside a block there would be one alternative of it for each value")
        .hint(f"put this into a block that takes {path} as an argument")
    )


def indexes(name: str) -> bool:
    """Whether a symbol is an index of a table, `%0i`: no size or decision is called so."""
    return name[:1] == "%" and name[1:2].isdigit()


# Sizes.


def spelled(frame: Frame, size: Dim) -> str:
    """A size as its normal form, or where that is long as the text that it was computed by."""
    text = bare(str(size))
    span = frame.origins.get(size)
    if len(text) <= LONG and len(size.terms) <= 3:
        return text
    written = text if span is None else " ".join(span.text.split())
    return written if len(written) < len(text) else shown(size)


def _takes(frame: Frame, size: Dim) -> str:
    """`64*heads is 192 or 256`."""
    text = spelled(frame, size)
    values = [_number(v) for v in values_of(size)]
    if not values:
        return f"{text} is open"
    if text == "|".join(values):
        text = "the size"
    if len(values) == 1:
        return f"{text} is {values[0]}"
    if len(values) > MANY:
        return f"{text} is {values[0]}, {values[1]}, .. or {values[-1]}"
    return f"{text} is {', '.join(values[:-1])} or {values[-1]}"


def _number(value: DecisionValue) -> str:
    """A number as people write it: 3.5, 8/3, 192."""
    number = plain(value)
    if isinstance(number, float) and len(repr(number)) > 8:
        return str(value)
    return str(number)


def _origin(frame: Frame, size: Dim, operands: Sequence[Tensor]) -> Span | None:
    """Where a size comes from: the decision itself, the text that computes it, or the op that makes
    it."""
    symbol = symbol_of(size)
    if symbol is not None and symbol.values:
        return _declared(frame, symbol.name)
    written = frame.origins.get(size)
    if written is not None:
        return written
    for tensor in operands:
        if size in tensor.shape:
            return _maker(tensor, size)
    return None


def _declared(frame: Frame, name: str) -> Span | None:
    """Where a decision is written that a frame knows by a name."""
    home, name = frame.origin(name)
    choice = home.builder.decisions.get(name)
    return None if choice is None else choice.span


def _maker(tensor: Tensor, size: Dim) -> Span | None:
    """The node that first has a size, going back from a tensor."""
    level, value = tensor.level, tensor.value
    for _ in range(1000):
        node = level.nodes.get(value.node)
        if node is None:
            return None
        before = next((v for v in node.operands if size in level.type_of(v).shape), None)
        if before is None:
            return node.span if node.span is not NOWHERE else None
        value = before
    return None


def _within(span: Span, other: Span) -> bool:
    return span.source == other.source and other.start <= span.start and span.end <= other.end


# Counter-examples.


def outward(frame: Frame, name: str) -> str:
    """A symbol's name as the whole space knows it."""
    here, name = frame.origin(name)
    while here.caller is not None and not name.startswith(("%", "/")):
        if here.place.startswith("/"):
            name = f"{here.place}.{name}"
            break
        here, name = here.caller.origin(join(here.place, name))
    return name.lstrip("%/0123456789")  # `%0i` is an index of a table


def _example(frame: Frame, example: Mapping[str, DecisionValue]) -> dict[str, object]:
    """An example in the names of the whole space, completed by what leads to the place."""
    known = {outward(frame, name): value for name, value in example.items()}
    conditions: list[Condition] = []
    for here in frame.chain:
        for name, value in here.fixed.items():
            origin = here if name.startswith(".") else here.caller or here
            known.setdefault(outward(origin, name.removeprefix(".")), value)
        conditions += [_renamed(here, guard) for guard in here.builder.guards]
    by_name = {s.name: s for c in conditions for s in c.symbols}
    open_symbols = {s for s in by_name.values() if s.name not in known and not s.free}
    wanted = [
        Wanted(
            frozenset(s for s in c.symbols if s in open_symbols),
            lambda point, c=c: satisfied(c, {**known, **point}),
        )
        for c in conditions
        if any(s in open_symbols for s in c.symbols)
    ]
    state, more = found(domains(open_symbols, ()), wanted)
    if state:
        known |= more
    return {name: _plain(value) for name, value in sorted(known.items())}


def _renamed(frame: Frame, condition: Condition) -> Condition:
    names = {s.name: Symbol(outward(frame, s.name), s.values) for s in condition.symbols}
    return condition.substitute(names)


def _plain(value: DecisionValue) -> object:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else plain(value)


def spans(tensors: Sequence[Tensor]) -> Iterator[Span]:
    """The places of the nodes that make these tensors."""
    for tensor in tensors:
        node = tensor.level.nodes.get(tensor.value.node)
        if node is not None and node.span is not NOWHERE:
            yield node.span
