"""Calls of blocks: elaborated once a static signature, called with sizes and places.

Where the body needs the value of a decision, the call becomes one alternative per value, their
parameters tied by label.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from spacelang.diagnostics import SpaceError, Span, error
from spacelang.ir.build import Level, Tensor
from spacelang.ir.condition import Condition, conjunction, is_value
from spacelang.ir.dim import Dim, Symbol, conditional
from spacelang.ir.dim import Value as DecisionValue
from spacelang.ir.node import Call, TensorType, join
from spacelang.ir.op import NeedsValue
from spacelang.ir.prove import Proved, equal, feasible
from spacelang.syntax import tree
from spacelang.syntax.calls import Arguments
from spacelang.syntax.choices import pend
from spacelang.syntax.expressions import evaluate
from spacelang.syntax.frame import Compiled, Frame
from spacelang.syntax.late import late_params
from spacelang.syntax.scope import Scope
from spacelang.syntax.values import (
    CONDITIONS,
    Candidates,
    Closure,
    Numbers,
    Text,
    Thing,
    flat,
    has_tensor,
    kind,
    shaped,
)

Fixed = Mapping[str, DecisionValue]


def call_block(closure: Closure, given: Arguments, frame: Frame, label: str | None) -> Thing:
    """Call a block from a frame; `label` is None for a call without one, empty for `as _`."""
    place = frame.path(label if label is not None else closure.name)
    bound = {
        name: pend(value, join(place, name), frame)
        for name, value in bind_arguments(closure.definition.params, given, closure.name).items()
    }
    for name, value in bound.items():
        if isinstance(value, Tensor):
            continue
        param = next(p for p in closure.definition.params if p.name == name)
        if param.type is not None and not isinstance(value, tuple):
            raise SpaceError(
                error("SP209", f"{name} of {closure.name} must be a tensor, not {kind(value)}", given.span)
                .also(param.span, "declared here")
            )  # fmt: skip
    return _call(closure, bound, given.span, frame, label, {})


def bind_arguments(params: tuple[tree.Param, ...], given: Arguments, name: str) -> dict[str, Thing]:
    """Arguments by the name of their parameter (SP204 for missing, unknown and repeated ones)."""
    names = [p.name for p in params]
    if len(given.positional) > len(names):
        raise SpaceError(
            error(
                "SP204",
                f"{name} takes {len(names)} arguments, {len(given.positional)} given",
                given.span,
            )
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


def _call(
    closure: Closure,
    bound: Mapping[str, Thing],
    span: Span,
    frame: Frame,
    label: str | None,
    fixed: Fixed,
) -> Thing:
    try:
        compiled = _compile(closure, bound, span, frame, label, fixed)
    except NeedsValue as need:
        return _split(closure, bound, span, frame, label, fixed, need.symbol)
    return _emit(compiled, closure, bound, span, frame, label)


def _split(
    closure: Closure,
    bound: Mapping[str, Thing],
    span: Span,
    frame: Frame,
    label: str | None,
    fixed: Fixed,
    symbol: Symbol,
) -> Thing:
    """One alternative of the call for each value of a decision that its body must know."""
    build = frame.builder
    key, outer = _outward(symbol, closure, frame, label)
    if key in fixed:
        raise SpaceError(error("SP308", f"{symbol.name} cannot be settled here", span))
    if label is None:
        label = f"{closure.name}[{frame.count(closure.name)}]"
    conditions: list[Condition] = []
    regions: list[Level] = []
    results: list[list[Tensor]] = []
    shape: Thing = None
    for value in symbol.values:
        truth = is_value(outer, value)
        if feasible((*build.guards, truth)) is False:
            continue
        build.open(truth)
        made = _call(closure, bound, span, frame, label, {**fixed, key: value})
        regions.append(build.close())
        results.append(flat(made))
        conditions.append(truth)
        shape = made
    if len(regions) == 1 and conjunction(*conditions) in build.guards:
        raise SpaceError(error("SP308", f"{symbol.name} cannot be settled here", span))
    lengths = {len(r) for r in results}
    if len(lengths) > 1:
        raise SpaceError(
            error("SP205", f"{closure.name} returns lists of different lengths", span).note(
                f"{outer.name} takes {', '.join(map(str, outer.values))}"
            )
        )
    types = tuple(
        join_types([(c, r[i].type) for c, r in zip(conditions, results, strict=True)], build.guards)
        for i in range(lengths.pop())
    )
    joined = build.choose(conditions, regions, results, types, span)
    return shaped(shape, iter(joined))


def _outward(
    symbol: Symbol, closure: Closure, frame: Frame, label: str | None
) -> tuple[str, Symbol]:
    """The key under which an alternative fixes a symbol of a block, and the symbol in the caller."""
    failed = frame.session.failed
    if failed is not None:
        for found in failed.imports.values():
            if found.size == symbol:
                outer = frame.symbol(found.frame or frame, found.symbol)
                assert isinstance(outer, Symbol)
                return outer.name, outer
    decide = "/" + closure.name if closure.definition.kind == "cell" else frame.path(label or "")
    return "." + symbol.name, Symbol(join(decide, symbol.name), symbol.values)


def join_types(
    cases: list[tuple[Condition, TensorType]], guards: tuple[Condition, ...]
) -> TensorType:
    """One type for values that alternatives give: an expression that fits each, else a conditional."""
    first = cases[0][1]
    if any(t.rank != first.rank or t.dtype != first.dtype for _, t in cases):
        raise SpaceError(error("SP205", "alternatives of different rank").note(str(first)))
    return TensorType(
        tuple(
            _join_dims([(c, t.shape[axis]) for c, t in cases], guards) for axis in range(first.rank)
        ),
        first.dtype,
    )


def _join_dims(cases: list[tuple[Condition, Dim]], guards: tuple[Condition, ...]) -> Dim:
    for _, whole in cases:
        if all(isinstance(equal(whole, d, (*guards, c)), Proved) for c, d in cases):
            return whole
    *rest, (_, last) = cases
    for truth, dim in reversed(rest):
        last = conditional(truth, dim, last)
    return last


# Elaboration.


def _compile(
    closure: Closure,
    bound: Mapping[str, Thing],
    span: Span,
    frame: Frame,
    label: str | None,
    fixed: Fixed,
) -> Compiled:
    definition, session = closure.definition, frame.session
    for outer in frame.chain:
        if isinstance(outer, Frame) and outer.definition is definition:
            raise SpaceError(
                error("SP206", f"{closure.name} calls itself", span).also(
                    definition.span, "this block"
                )
            )
    late = tuple(n for n in late_params(closure) if isinstance(bound.get(n), Dim))
    guards = _relevant(frame.builder.guards, bound)
    captured = () if closure.frame is None else tuple(
        tuple(sorted(f.fixed.items(), key=str)) for f in frame.chain if isinstance(f, Frame)
    )  # fmt: skip
    key = (
        id(definition),
        id(closure.scope),
        tuple((n, "late" if n in late else _key(v)) for n, v in bound.items()),
        tuple(sorted(fixed.items(), key=str)),
        guards,
        captured,
    )
    found = session.compiled.get(key)
    if found is not None:
        return found
    callee = Frame(session, closure.name, definition.span, frame, fixed)
    callee.definition = definition
    callee.place = frame.path(label if label is not None else f"{closure.name}[0]")
    scope = Scope(closure.scope)
    scope.frame = callee
    callee.builder.level.guards = tuple(callee.condition(frame, g) for g in guards)
    try:
        result = _body(closure, bound, late, callee, frame, scope)
    except NeedsValue:
        session.failed = callee
        raise
    name = session.unique(closure.name)
    block = replace(callee.builder.finish(flat(result), name))
    session.spend(len(tuple(block.everywhere())), span)
    named = bool(block.params or block.decisions) or any(
        node.label or (node.call is not None and session.named[node.call.block])
        for node in block.everywhere()
        if node.op != "input"
    )
    session.blocks[name], session.named[name] = block, named
    compiled = Compiled(block, tuple(callee.imports.values()), late, result, named)
    session.compiled[key] = compiled
    session.kept.append(closure)
    return compiled


def _body(
    closure: Closure,
    bound: Mapping[str, Thing],
    late: tuple[str, ...],
    callee: Frame,
    caller: Frame,
    scope: Scope,
) -> Thing:
    """Bind the parameters, run the body and check what it returns."""
    from spacelang.syntax.statements import run_body

    definition = closure.definition
    typed: list[tuple[tree.Param, Thing]] = []
    for param in definition.params:
        if param.name not in bound:
            continue
        value = bound[param.name]
        if param.name in late:
            symbol = Symbol("%" + param.name, rate=True)
            callee.late.append(symbol.name)
            value = callee.builder.size(symbol)
        elif has_tensor(value):
            value = _inputs(value, param.name, callee, caller)
        else:
            value = callee.thing(caller, value)
        scope.bind(param.name, value, param.span)
        if param.type is not None:
            typed.append((param, value))
    for param in definition.params:
        if param.name not in bound and param.default is not None:
            scope.bind(param.name, evaluate(param.default, callee, scope), param.span)
    for param, value in typed:
        for tensor in flat(value):
            assert param.type is not None
            border(param.type, tensor.type, callee, scope, f"{param.name} of {closure.name}")
    result = run_body(definition.body, callee, scope, definition.span)
    if not has_tensor(result):
        raise SpaceError(
            error("SP209", f"{closure.name} returns {kind(result)}, not a tensor", definition.span)
        )
    if definition.result is not None:
        if not isinstance(result, Tensor):
            raise SpaceError(
                error("SP303", f"{closure.name} returns a list where its type says one tensor", definition.result.span)
            )  # fmt: skip
        border(definition.result, result.type, callee, scope, f"the result of {closure.name}")
    return result


def border(wanted: tree.TypeOf, actual: TensorType, frame: Frame, scope: Scope, what: str) -> None:
    """Check a type at a border; a capital that is not bound becomes the size that stands there."""
    axes = list(wanted.axes)
    shape = list(actual.shape)
    if axes and isinstance(axes[0], tree.Leading):
        axes = axes[1:]
        shape = shape[max(0, len(shape) - len(axes)) :]
    if len(axes) != len(shape):
        raise SpaceError(
            error("SP301", f"{what} has {actual.rank} axes", wanted.span, f"{len(axes)} are declared")
            .note(f"it is {actual}")
        )  # fmt: skip
    for axis, size in zip(axes, shape, strict=True):
        assert not isinstance(axis, tree.Leading)
        if isinstance(axis, tree.Name) and axis.name[0].isupper() and scope.find(axis.name) is None:
            scope.bind(axis.name, size, axis.span)
            continue
        declared = evaluate(axis, frame, scope)
        if not isinstance(declared, Dim):
            raise SpaceError(error("SP209", f"a size is wanted, not {kind(declared)}", axis.span))
        _same_size(declared, size, axis, actual, frame, what)


def _same_size(
    declared: Dim, size: Dim, axis: tree.Expr, actual: TensorType, frame: Frame, what: str
) -> None:
    from spacelang.ir.prove import Refuted

    verdict = equal(declared, size, frame.builder.guards)
    if isinstance(verdict, Proved):
        return
    code = "SP303" if isinstance(verdict, Refuted) else "SP308"
    found = error(
        code, f"{what} is not of its declared type", axis.span, f"{axis.span.text} declared"
    )
    found = found.note(f"it is {actual}", f"{size} against {axis.span.text}")
    if isinstance(verdict, Refuted):
        found = frame.explain(found, verdict.example)
    raise SpaceError(found)


def _inputs(value: Thing, label: str, callee: Frame, caller: Frame) -> Thing:
    if isinstance(value, Tensor):
        return callee.builder.input(callee.type(caller, value.type), label)
    if isinstance(value, tuple):
        return tuple(_inputs(v, f"{label}[{i}]", callee, caller) for i, v in enumerate(value))
    return callee.thing(caller, value)


def _relevant(guards: tuple[Condition, ...], bound: Mapping[str, Thing]) -> tuple[Condition, ...]:
    """The conditions that speak of decisions which the arguments hold."""
    seen = {s for value in bound.values() for s in _symbols(value) if s.values}
    return tuple(g for g in guards if g.symbols & seen)


def _symbols(value: Thing) -> Iterator[Symbol]:
    if isinstance(value, (Dim, *CONDITIONS)):
        yield from value.symbols
    elif isinstance(value, Tensor):
        for size in value.shape:
            yield from size.symbols
    elif isinstance(value, Text):
        yield value.symbol
    elif isinstance(value, tuple):
        for item in value:
            yield from _symbols(item)


def _key(value: Thing) -> object:
    """What makes two arguments the same for elaboration."""
    if isinstance(value, Tensor):
        return ("tensor", value.type)
    if isinstance(value, tuple):
        return tuple(_key(v) for v in value)
    if isinstance(value, Closure):
        return ("block", id(value.definition), id(value.scope))
    if isinstance(value, Candidates):
        return ("set", tuple(_key(v) for v in value.items))
    if isinstance(value, bool | str | None | Dim | Numbers):
        return (type(value).__name__, value)
    return value


def _emit(
    compiled: Compiled,
    closure: Closure,
    bound: Mapping[str, Thing],
    span: Span,
    frame: Frame,
    label: str | None,
) -> Thing:
    if label is None:
        label = f"{closure.name}[{frame.count(closure.name)}]" if compiled.named else ""
    path = frame.path(label)
    decide = "/" + closure.name if closure.definition.kind == "cell" else path
    sizes: dict[str, Dim | Symbol] = {
        found.size.name: frame.symbol(found.frame or frame, found.symbol)
        for found in compiled.imports
    }
    for name in compiled.late:
        rate = bound[name]
        assert isinstance(rate, Dim)
        sizes["%" + name] = rate

    def outside(dim: Dim) -> Dim:
        return dim.substitute(
            {
                s.name: sizes[s.name] if s.name in sizes else Symbol(join(decide, s.name), s.values)
                for s in dim.symbols
            }
        )

    types = tuple(
        TensorType(tuple(outside(d) for d in t.type.shape), t.type.dtype)
        for t in flat(compiled.result)
    )
    operands = [
        tensor
        for param in closure.definition.params
        if param.name in bound
        for tensor in flat(bound[param.name])
    ]
    call = Call(compiled.block.name, path, decide, path, sizes=sizes)
    made = frame.builder.call(call, operands, types, span)
    return shaped(compiled.result, iter(made))
