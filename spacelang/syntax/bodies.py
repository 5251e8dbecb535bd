"""Bodies of blocks: elaborated once for each static signature, their borders checked.

A block whose body fails still gives a value of its declared type, so that what comes after it is
checked too; one that declares none gives nothing, in silence.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from spacelang.diagnostics import SpaceError, Span, counted, error
from spacelang.ir.block import Block
from spacelang.ir.build import Tensor
from spacelang.ir.condition import CONDITIONS, Condition
from spacelang.ir.conflict import SETTLE, Conflict, open_question, shown
from spacelang.ir.dim import Dim, Symbol
from spacelang.ir.dim import Value as DecisionValue
from spacelang.ir.infer import NeedsValue
from spacelang.ir.node import Call, TensorType
from spacelang.ir.owned import DECISION, PARAMETER, Owned
from spacelang.ir.param import Init
from spacelang.ir.prove import Proved, Refuted, equal
from spacelang.syntax import tree
from spacelang.syntax.evaluate import evaluate
from spacelang.syntax.frame import Frame
from spacelang.syntax.late import late_params
from spacelang.syntax.scope import Scope
from spacelang.syntax.session import MAX_CALLS, Compiled, Exhausted, Session, Usage
from spacelang.syntax.values import (
    BROKEN,
    Broken,
    Candidates,
    Closure,
    Numbers,
    Place,
    Text,
    Thing,
    flat,
    has_tensor,
    kind,
)

Fixed = Mapping[str, DecisionValue]


def compiled(
    closure: Closure,
    bound: Mapping[str, Thing],
    span: Span,
    frame: Frame,
    label: str | None,
    fixed: Fixed,
) -> Compiled:
    """A block elaborated for these arguments; NeedsValue where it asks for a split."""
    definition, session = closure.definition, frame.session
    _not_too_deep(closure, span, frame)
    late = tuple(n for n in late_params(closure, session.late) if isinstance(bound.get(n), Dim))
    guards = _relevant(frame.builder.guards, bound)
    captured = () if closure.frame is None else tuple(
        tuple(sorted(f.fixed.items(), key=str)) for f in frame.chain
    )  # fmt: skip
    key: tuple[object, ...] = (
        id(definition),
        id(closure.scope),
        tuple((n, "late" if n in late else _key(v)) for n, v in bound.items()),
        captured,
    )
    anchored = closure.frame is not None or any(map(_sees, bound.values()))
    if anchored:
        symbols = {s for value in bound.values() for s in _symbols(value)}
        homes = ((s.name, id(home), at.name) for s in symbols for home, at in (frame.home(s),))
        key = (*key, tuple(sorted(homes)))
    table = session.anchored if anchored else session.cache.compiled
    every = (session if anchored else session.cache).alike
    of_all, key = key, (key, tuple(sorted(fixed.items(), key=str)), guards)
    refused = (key, bool(fixed) or frame.apart)  # what a limit says hangs on whether it is apart
    made = table.get(key, table.get(refused))
    if made is None:
        place = frame.path(label) if label is not None else frame.next(closure.name)
        if definition.kind == "cell":
            place = "/" + closure.name
        session.cache.kept.append(closure)  # its ids are its own as long as it lives
        callee = Frame(
            session,
            closure.name,
            definition.span,
            frame,
            fixed,
            definition,
            place,
            anchored,
            every.setdefault(of_all, object()),
        )
        callee.builder.level.guards = tuple(callee.condition(frame, g) for g in guards)
        with session.block() as usage:
            made = _made(closure, bound, late, callee, frame, span, usage)
        table[refused if made.errors or made.unmet else key] = made
        session.total.uses[id(made)] = made
    else:
        session.remarks.extend(made.remarks)
    session.use(made, span)
    return made


def _made(
    closure: Closure,
    bound: Mapping[str, Thing],
    late: tuple[str, ...],
    callee: Frame,
    caller: Frame,
    span: Span,
    usage: Usage,
) -> Compiled:
    """The block of a frame, elaborated."""
    session, top = callee.session, callee.builder.level
    remarked = len(session.remarks)
    scope = closure.scope.inside(callee)
    try:
        result = _body(closure, bound, late, callee, caller, scope, span)
    except NeedsValue:
        session.failed = callee
        raise
    except Exhausted as spending:
        raise Exhausted((*callee.errors, *spending.diagnostics)) from spending
    except SpaceError as failed:
        callee.errors.extend(failed.diagnostics)
        callee.builder.level, callee.prefix = top, ""
        result = _declared(closure.definition, callee, scope)
    name = session.unique(closure.name)
    outputs = [] if isinstance(result, Broken) else flat(result)
    block = callee.builder.finish(outputs, name)
    named = bool(block.params or block.decisions) or any(
        node.label or (node.call is not None and session.cache.named[node.call.block])
        for node in block.everywhere()
        if node.op != "input"
    )
    kept = session.cache
    kept.opened[name] = session.open(block)
    kept.blocks[name], kept.named[name] = block, named
    owned = kept.owned[name] = tuple(dict.fromkeys(_owned(block, session)))
    imports, errors = tuple(callee.imports.values()), tuple(callee.errors)
    return Compiled(
        block, imports, late, result, named, tuple(callee.require), owned, errors,
        tuple(callee.unmet), tuple(dict.fromkeys(session.remarks[remarked:])), usage,
    )  # fmt: skip


def _owned(block: Block, session: Session) -> Iterator[Owned]:
    """The paths that a use of a block takes for parameters and decisions."""
    yield from ((PARAMETER, param.path) for param in block.params)
    yield from ((DECISION, choice.path) for choice in block.decisions)
    for node in block.everywhere():
        if node.call is not None:
            yield from below(node.call, session.cache.owned[node.call.block])


def below(call: Call, owned: Iterable[Owned]) -> list[Owned]:
    """What a call owns, by the paths of its caller; what a cell decides belongs to nobody."""
    store = f"{call.path}." if call.path else ""
    decide = f"{call.decide}." if call.decide else ""
    shared = decide.startswith("/")
    return [
        (kind, (store if kind is PARAMETER else decide) + path)
        for kind, path in owned
        if kind is PARAMETER or not shared
    ]


def _not_too_deep(closure: Closure, span: Span, frame: Frame) -> None:
    """SP206 for a block that calls itself, SP507 for calls that stand too deep in each other."""
    definition = closure.definition
    if any(outer.definition is definition for outer in frame.chain):
        raise SpaceError(
            error("SP206", f"{closure.name} calls itself", span).also(definition.span, "this block")
        )
    if len(frame.chain) > MAX_CALLS:
        names = [outer.name for outer in frame.chain[1:4]]
        raise SpaceError(
            error("SP507", f"calls of blocks more than {MAX_CALLS} deep", span).note(
                f"{' calls '.join(names)} calls .. calls {closure.name}"
            )
        )


def _body(
    closure: Closure,
    bound: Mapping[str, Thing],
    late: tuple[str, ...],
    callee: Frame,
    caller: Frame,
    scope: Scope,
    span: Span,
) -> Thing:
    """Bind the parameters, run the body and check what it returns."""
    from spacelang.syntax.statements import protect, returned

    definition = closure.definition
    typed: list[tuple[tree.Param, Thing]] = []
    protect([p.name for p in definition.params], definition.span)
    for param in definition.params:
        if param.name not in bound:
            continue
        value = bound[param.name]
        if param.name in late:
            symbol = Symbol("%" + param.name, rate=True)
            callee.late.append(symbol.name)
            value = Dim.of(callee.builder.size(symbol))
        elif has_tensor(value):
            value = _inputs(value, param.name, callee, caller)
        else:
            value = callee.thing(caller, value)
            scope.constant.add(param.name)
        scope.bind(param.name, value, param.span)
        if param.type is not None:
            typed.append((param, value))
    for param in definition.params:
        if param.name not in bound and param.default is not None:
            scope.bind(param.name, evaluate(param.default, callee, scope), param.span)
            scope.constant.add(param.name)
    for param, value in typed:
        for tensor in flat(value):
            assert param.type is not None
            border(param.type, tensor, callee, scope, f"{param.name} of {closure.name}", span)
    ended = returned(definition.body, callee, scope, definition.span)
    if isinstance(ended.value, Broken):
        raise SpaceError(())
    if not has_tensor(ended.value):
        raise SpaceError(
            error("SP209", f"{closure.name} returns {kind(ended.value)}, not a tensor", ended.span)
        )
    if definition.result is not None:
        if not isinstance(ended.value, Tensor):
            raise SpaceError(
                error(
                    "SP303", f"{closure.name} returns a list, its type says one tensor", ended.span
                ).also(definition.result.span, "declared here")
            )
        what = f"the result of {closure.name}"
        border(definition.result, ended.value, callee, scope, what, ended.span)
    return ended.value


def _declared(definition: tree.BlockOf, callee: Frame, scope: Scope) -> Thing | Broken:
    """A tensor of the declared type of a block whose body failed, if that is known."""
    if definition.result is None:
        return BROKEN
    shape: list[Dim] = []
    for axis in definition.result.axes:
        if isinstance(axis, tree.Leading):
            return BROKEN
        try:
            size = evaluate(axis, callee, scope)
        except (SpaceError, NeedsValue):
            return BROKEN
        if not isinstance(size, Dim):
            return BROKEN
        shape.append(size)
    return callee.builder.input(TensorType(tuple(shape)))


# Borders.


def border(
    wanted: tree.TypeOf, tensor: Tensor, frame: Frame, scope: Scope, what: str, span: Span
) -> None:
    """Check a type at a border; a capital that is not bound becomes the size that stands there."""
    axes = list(wanted.axes)
    shape = list(tensor.shape)
    if axes and isinstance(axes[0], tree.Leading):
        axes = axes[1:]
        shape = shape[max(0, len(shape) - len(axes)) :]
    misplaced = next((axis for axis in axes if isinstance(axis, tree.Leading)), None)
    if misplaced is not None:
        raise SpaceError(error("SP208", "`..` stands in front of a type only", misplaced.span))
    if len(axes) != len(shape):
        raise SpaceError(
            error(
                "SP301",
                f"{what} has {counted(tensor.type.rank, 'axis')}",
                span,
                f"it is {shown(tensor.type)}",
            ).also(wanted.span, f"{len(wanted.axes)} are declared")
        )
    for axis, size in zip(axes, shape, strict=True):
        assert not isinstance(axis, tree.Leading)
        if isinstance(axis, tree.Name) and axis.name[0].isupper() and scope.find(axis.name) is None:
            scope.bind(axis.name, size, axis.span)
            scope.constant.add(axis.name)
            continue
        declared = evaluate(axis, frame, scope)
        if not isinstance(declared, Dim):
            raise SpaceError(error("SP209", f"a size is wanted, not {kind(declared)}", axis.span))
        _same_size(declared, size, axis, tensor, frame, what, span)


def _same_size(
    declared: Dim, size: Dim, axis: tree.Expr, tensor: Tensor, frame: Frame, what: str, span: Span
) -> None:
    verdict = equal(declared, size, frame.builder.guards)
    if isinstance(verdict, Proved):
        return
    found = error("SP303", f"{what} is not of its declared type", span)
    found = replace(found, primary=replace(found.primary, text=f"it is {shown(tensor.type)}"))
    found = found.also(axis.span, f"{axis.span.text} is declared")
    if isinstance(verdict, Refuted):
        conflict = Conflict((size, declared), verdict.example)
        raise SpaceError(frame.builder.explain(found, conflict, (tensor,)))
    found = frame.builder.explain(found, Conflict((size, declared)), (tensor,))
    raise SpaceError(replace(found, code="SP308").note(open_question(verdict)).hint(SETTLE))


def _inputs(value: Thing, label: str, callee: Frame, caller: Frame) -> Thing:
    if isinstance(value, Tensor):
        return callee.builder.input(callee.type(caller, value.type), label)
    if isinstance(value, tuple):
        return tuple(_inputs(v, f"{label}[{i}]", callee, caller) for i, v in enumerate(value))
    return callee.thing(caller, value)


# Signatures.


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
    elif isinstance(value, Text | Place):
        yield value.symbol
    elif isinstance(value, Numbers):
        yield from value.stop.symbols
    elif isinstance(value, Init):
        for size in value.arguments:
            yield from size.symbols
    elif isinstance(value, tuple | Candidates):
        for item in value if isinstance(value, tuple) else value.items:
            yield from _symbols(item)


def _sees(value: Thing) -> bool:
    """Whether a block that sees names of a frame is handed over."""
    if isinstance(value, tuple):
        return any(map(_sees, value))
    return isinstance(value, Closure) and value.frame is not None


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
