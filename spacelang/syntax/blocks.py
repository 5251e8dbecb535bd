"""Calls of blocks: elaborated once a static signature, called with sizes and places.

Where the body needs the value of a decision, the call becomes one alternative per value, their
parameters tied by label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from spacelang.diagnostics import Diagnostic, SpaceError, Span, counted, error
from spacelang.ir.build import BlockBuilder, Level, Tensor
from spacelang.ir.condition import Condition, conjunction, disjunction, is_value, negate
from spacelang.ir.conflict import SETTLE
from spacelang.ir.dim import Dim, Symbol, conditional
from spacelang.ir.dim import Value as DecisionValue
from spacelang.ir.infer import NeedsValue
from spacelang.ir.names import under
from spacelang.ir.node import Call, TensorType, join
from spacelang.ir.prove import Proved, equal, feasible
from spacelang.syntax import tree
from spacelang.syntax.bodies import Fixed, below, compiled
from spacelang.syntax.calls import Arguments
from spacelang.syntax.choices import pend, pending
from spacelang.syntax.frame import Frame
from spacelang.syntax.session import Compiled
from spacelang.syntax.values import Broken, Closure, Thing, flat, kind, shaped, tensors


def call_block(closure: Closure, given: Arguments, frame: Frame, label: str | None) -> Thing:
    """Call a block from a frame; `label` is None for a call without one, empty for `as _`."""
    params = {p.name: p for p in closure.definition.params}
    bound = bind_arguments(closure.definition.params, given, closure.name)
    if label is None and any(pending(value) for value in bound.values()):
        label = f"{closure.name}[{frame.count(closure.name)}]"
    bound = {name: pend(value, join(label or "", name), frame) for name, value in bound.items()}
    for name, value in bound.items():
        typed = params[name].type is not None
        if typed and not isinstance(value, Tensor) and tensors(value) is None:
            span = given.spans.get(name, given.span)
            wrong = f"{name} of {closure.name} must be a tensor, not {kind(value)}"
            raise SpaceError(error("SP209", wrong, span).also(params[name].span, "declared here"))
    return _called(closure, bound, given.span, frame, label, {})


def bind_arguments(params: tuple[tree.Param, ...], given: Arguments, name: str) -> dict[str, Thing]:
    """Arguments by the name of their parameter (SP204 for missing, unknown and repeated ones)."""
    names = [p.name for p in params]
    if len(given.positional) > len(names):
        raise SpaceError(
            error(
                "SP204",
                f"{name} takes {counted(len(names), 'argument')}, {len(given.positional)} given",
                given.span,
            ).note(f"its parameters: {', '.join(names) or 'none'}")
        )
    bound = dict(zip(names, given.positional, strict=False))
    for key, value in given.named.items():
        if key not in names:
            raise SpaceError(
                error("SP204", f"{name} has no parameter {key}", given.spans[key]).note(
                    f"its parameters: {', '.join(names) or 'none'}"
                )
            )
        if key in bound:
            raise SpaceError(error("SP204", f"{key} is given twice", given.spans[key]))
        bound[key] = value
    missing = [p for p in params if p.name not in bound and p.default is None]
    if missing:
        raise SpaceError(
            error("SP204", f"{name} needs {', '.join(p.name for p in missing)}", given.span).also(
                missing[0].span, "declared here"
            )
        )
    return bound


def _called(
    closure: Closure,
    bound: Mapping[str, Thing],
    span: Span,
    frame: Frame,
    label: str | None,
    fixed: Fixed,
    ways: int = 1,
) -> Thing:
    """The value of a call, one of `ways` alternatives of it that fix some decisions."""
    try:
        made = compiled(closure, bound, span, frame, label, fixed)
    except NeedsValue as need:
        return _split(closure, bound, span, frame, label, fixed, ways, need)
    frame.errors.extend(_with_caller(found, span) for found in made.errors)
    frame.unmet.extend(_with_caller(found, span) for found in made.unmet)
    if isinstance(made.result, Broken):
        raise SpaceError(())
    return _emit(made, made.result, closure, bound, span, frame, label)


def _with_caller(found: Diagnostic, call: Span) -> Diagnostic:
    """What is wrong inside of a block, also with its call where that is in another file."""
    shown = (found.primary, *found.secondary)
    if any(label.span.source == call.source for label in shown):
        return found
    return found.also(call, "called here")


# One alternative per value.


def _split(
    closure: Closure,
    bound: Mapping[str, Thing],
    span: Span,
    frame: Frame,
    label: str | None,
    fixed: Fixed,
    ways: int,
    need: NeedsValue,
) -> Thing:
    """One alternative of the call for each value of a decision that its body must know."""
    build, symbol = frame.builder, need.symbol
    key, outer = _outward(symbol, closure, frame, label)
    if key in fixed:
        raise SpaceError(error("SP308", f"{outer.name} is not settled here", span).hint(SETTLE))
    if label is None:
        label = f"{closure.name}[{frame.count(closure.name)}]"
    conditions: list[Condition] = []
    regions: list[Level] = []
    results: list[Thing] = []
    unmet: list[list[Diagnostic]] = []
    ways *= len(symbol.values)
    frame.session.split(closure.name, len(symbol.values), ways, span)
    each = [(value, is_value(outer, value)) for value in symbol.values]
    here = [(v, truth) for v, truth in each if feasible((*build.guards, truth)) is not False]

    def alternative(value: DecisionValue) -> Thing:
        before = len(frame.unmet)
        made = _called(closure, bound, span, frame, label, {**fixed, key: value}, ways)
        unmet.append(frame.unmet[before:])
        del frame.unmet[before:]
        return made

    if len(here) == 1:  # the guards say which: nothing is chosen here
        made = alternative(here[0][0])
        _refuse(unmet, frame, fixed)
        return made
    for value, truth in here:
        build.open(truth)
        results.append(alternative(value))
        regions.append(build.close())
        conditions.append(truth)
    _refuse(unmet, frame, fixed)
    if not regions:
        raise SpaceError(error("SP308", f"{outer.name} is not settled here", span).hint(SETTLE))
    ends = [flat(made) for made in results]
    if len({_form(made) for made in results}) > 1:
        raise SpaceError(
            error("SP205", f"{closure.name} returns lists of different lengths", span).note(
                f"{outer.name} takes {', '.join(map(str, outer.values))}"
            )
        )
    given = [d for thing in bound.values() for t in flat(thing) for d in t.type.shape]
    types = tuple(
        join_types(
            [(c, e[i].type) for c, e in zip(conditions, ends, strict=True)], build, span, given
        )
        for i in range(len(ends[0]))
    )
    return shaped(results[0], iter(build.choose(conditions, regions, ends, types, span)))


def _refuse(unmet: Sequence[Sequence[Diagnostic]], frame: Frame, fixed: Fixed) -> None:
    """SP502 for a limit that no alternative meets; the others leave out those that do not."""
    first, *others = unmet or ((),)
    places = [{found.primary.span for found in other} for other in others]
    never = [found for found in first if all(found.primary.span in other for other in places)]
    report = frame.unmet if fixed or frame.apart else frame.errors
    report.extend(never)


def _form(value: Thing) -> object:
    """The lists that a value is made of, without its tensors."""
    return tuple(_form(v) for v in value) if isinstance(value, tuple) else None


def _outward(
    symbol: Symbol, closure: Closure, frame: Frame, label: str | None
) -> tuple[str, Symbol]:
    """The key under which an alternative fixes a symbol of a block, and the symbol in the
    caller."""
    failed = frame.session.failed
    if failed is not None:
        for found in failed.imports.values():
            if found.size == symbol:
                outer = frame.symbol(found.frame or frame, found.symbol)
                assert isinstance(outer, Symbol)
                return outer.name, outer
    decide = "/" + closure.name if closure.definition.kind == "cell" else frame.path(label or "")
    return "." + symbol.name, Symbol(under(decide, symbol.name), symbol.values)


def join_types(
    cases: list[tuple[Condition, TensorType]],
    build: BlockBuilder,
    span: Span,
    given: Sequence[Dim] = (),
) -> TensorType:
    """One type for values that alternatives give: an expression that fits each, of theirs or of
    sizes that were given, else a conditional."""
    first = cases[0][1]
    if any(t.rank != first.rank or t.dtype != first.dtype for _, t in cases):
        raise SpaceError(error("SP205", "alternatives of different rank", span).note(str(first)))
    shape = (
        _join_dims([(c, t.shape[axis]) for c, t in cases], build.guards, given)
        for axis in range(first.rank)
    )
    return TensorType(tuple(shape), first.dtype)


def _join_dims(
    cases: list[tuple[Condition, Dim]], guards: tuple[Condition, ...], given: Sequence[Dim]
) -> Dim:
    for whole in dict.fromkeys((*(d for _, d in cases), *given)):
        if all(isinstance(equal(whole, d, (*guards, c)), Proved) for c, d in cases):
            return whole
    *rest, (_, last) = cases
    for truth, dim in reversed(rest):
        last = conditional(truth, dim, last)
    return last


# The node.


def _emit(
    made: Compiled,
    result: Thing,
    closure: Closure,
    bound: Mapping[str, Thing],
    span: Span,
    frame: Frame,
    label: str | None,
) -> Thing:
    """Call a block that was elaborated: its result in the sizes of the caller."""
    if label is None:
        label = f"{closure.name}[{frame.count(closure.name)}]" if made.named else ""
    path = frame.path(label)
    decide = "/" + closure.name if closure.definition.kind == "cell" else path
    sizes: dict[str, Dim | Symbol] = {
        found.size.name: frame.symbol(found.frame or frame, found.symbol) for found in made.imports
    }
    for name in made.late:
        rate = bound[name]
        assert isinstance(rate, Dim)
        sizes["%" + name] = rate

    def names(symbols: frozenset[Symbol]) -> dict[str, Dim | Symbol]:
        return {
            s.name: sizes[s.name] if s.name in sizes else Symbol(under(decide, s.name), s.values)
            for s in symbols
        }

    types = tuple(
        TensorType(tuple(d.substitute(names(d.symbols)) for d in t.type.shape), t.type.dtype)
        for t in flat(result)
    )
    for required in made.require:
        require(frame, required.substitute(names(required.symbols)))
    operands = [
        tensor
        for param in closure.definition.params
        if param.name in bound
        for tensor in flat(bound[param.name])
    ]
    call = Call(made.block.name, path, decide, path, sizes=sizes)
    frame.builder.claim(below(call, made.owned), span)
    frame.session.spend(1, span)
    return shaped(result, iter(frame.builder.call(call, operands, types, span)))


def require(frame: Frame, condition: Condition) -> None:
    """Add what a block requires of each of its uses; where it is absent nothing is required, nor
    where it is required anyway."""
    here = conjunction(*frame.builder.guards)
    implied = disjunction(negate(here), condition)
    if condition not in frame.require and implied not in frame.require:
        frame.require.append(implied)
