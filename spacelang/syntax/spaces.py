"""Spaces, instances, derived spaces and subnets: from a declaration to a Graph.

The chain of a declaration (instance of a derived space of a space) is walked inwards with its
arguments; the innermost space is elaborated once, and the outer ones add their rules and rewrites.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from spacelang.diagnostics import SpaceError, Span, error
from spacelang.ir.block import Block
from spacelang.ir.build import Tensor
from spacelang.ir.condition import Condition
from spacelang.ir.dialect import Dialect, Rename
from spacelang.ir.dim import Dim, Symbol
from spacelang.ir.graph import Graph, Output
from spacelang.ir.node import TensorType
from spacelang.ir.rule import StorageRule
from spacelang.syntax import tree
from spacelang.syntax.blocks import bind_arguments
from spacelang.syntax.calls import arguments
from spacelang.syntax.choices import pend
from spacelang.syntax.expressions import evaluate
from spacelang.syntax.frame import Frame, Session
from spacelang.syntax.scope import Scope, unknown
from spacelang.syntax.selectors import renames, storage_rule
from spacelang.syntax.statements import run
from spacelang.syntax.values import Broken, SpaceValue, Thing, condition, kind, number

FIGURES = ("params", "macs", "activations")
MAX_CHAIN = 16


@dataclass
class Made:
    """A space in the making: its frame, and what its statements add beside nodes."""

    frame: Frame
    scope: Scope
    outputs: list[tuple[str, Tensor, bool]] = field(default_factory=list[tuple[str, Tensor, bool]])
    rules: list[StorageRule] = field(default_factory=list[StorageRule])
    require: list[Condition] = field(default_factory=list[Condition])
    dialects: dict[str, Dialect] = field(default_factory=dict[str, Dialect])
    search: dict[str, Mapping[str, object]] = field(default_factory=dict[str, Mapping[str, object]])
    steps: list[tuple[tree.Step, Scope]] = field(default_factory=list[tuple[tree.Step, Scope]])


def elaborate(
    space: SpaceValue, name: str, session: Session, overrides: Mapping[str, Thing]
) -> Graph:
    """The graph of a space, an instance or a derived space, before storage is laid out.

    `overrides` set parameters by name, wherever in the chain they are first declared (SP204).
    """
    frame = Frame(session, name, space.definition.span)
    left = dict(overrides)
    made = _make(space, {}, frame, left, 0)
    if left:
        first = next(iter(left))
        raise SpaceError(
            error("SP204", f"{name} has no parameter {first}", space.definition.span).note(
                f"its parameters: {', '.join(parameters(space)) or 'none'}"
            )
        )
    session.report.check()
    if not made.outputs:
        raise SpaceError(error("SP208", f"{name} has no output", space.definition.span))
    tensors = [t for _, t, _ in made.outputs]
    root: Block = frame.builder.finish(tensors)
    session.spend(len(tuple(root.everywhere())), space.definition.span)
    outputs = tuple(
        Output(label, value, training)
        for (label, _, training), value in zip(made.outputs, root.outputs, strict=True)
    )
    graph = Graph(
        name,
        root,
        dict(session.blocks),
        outputs,
        tuple(made.rules),
        require=tuple(made.require),
        dialects=made.dialects,
        search=made.search,
    )
    return _rewrite(graph, made)


def parameters(space: SpaceValue) -> list[str]:
    """The names that `overrides` may set, outermost first."""
    found: list[str] = []
    here: SpaceValue | None = space
    for _ in range(MAX_CHAIN):
        if here is None:
            break
        definition = here.definition
        if not isinstance(definition, tree.Subnet):
            found += [p.name for p in definition.params if p.name not in found]
        here = base_of(here)
    return found


def base_of(space: SpaceValue) -> SpaceValue | None:
    """The space that a declaration starts from."""
    base = space.definition.base
    if base is None:
        return None
    owner = space.scope.find(base.name)
    if owner is None:
        raise unknown(base.name, base.span, space.scope.known())
    value = owner.names[base.name]
    if not isinstance(value, SpaceValue):
        raise SpaceError(error("SP209", f"{base.name} is {kind(value)}, not a space", base.span))
    return value


def _make(
    space: SpaceValue,
    given: Mapping[str, Thing],
    frame: Frame,
    overrides: dict[str, Thing],
    depth: int,
) -> Made:
    definition = space.definition
    if depth > MAX_CHAIN:
        raise SpaceError(error("SP206", f"{definition.name} starts from itself", definition.span))
    if isinstance(definition, tree.Subnet):
        raise SpaceError(
            error("SP209", f"{definition.name} is a subnet, not a space", definition.span)
        )
    scope = Scope(space.scope)
    scope.frame = frame
    bound = dict(given)
    for param in definition.params:
        if param.name in overrides:
            bound[param.name] = overrides.pop(param.name)
    missing = [p for p in definition.params if p.name not in bound and p.default is None]
    if missing:
        raise SpaceError(
            error("SP204", f"{definition.name} needs {', '.join(p.name for p in missing)}", definition.span)
            .also(missing[0].span, "declared here")
            .hint("name an instance of it, or give its parameters with --set")
        )  # fmt: skip
    for param in definition.params:
        if param.name in bound:
            value = pend(bound[param.name], param.name, frame)
        else:
            assert param.default is not None
            value = evaluate(param.default, frame, scope)
        scope.bind(param.name, value, param.span)
    base = base_of(space)
    if base is not None:
        made = _make(base, _given(definition, base, frame, scope), frame, overrides, depth + 1)
    else:
        made = Made(frame, scope)
    if isinstance(definition, tree.SpaceOf):
        _body(definition, replace(made, scope=scope), made, base is not None)
    return made


def _given(
    definition: tree.SpaceOf | tree.Instance, base: SpaceValue, frame: Frame, scope: Scope
) -> Mapping[str, Thing]:
    source = definition.base
    assert source is not None
    if source.arguments is None:
        return {}
    evaluated = arguments(source.arguments, None, frame, scope, (), source.span)
    params = base.definition.params if not isinstance(base.definition, tree.Subnet) else ()
    given = list(params)
    relaxed = tuple(
        p if p.default is not None or p.name in evaluated.named or i < len(evaluated.positional)
        else replace(p, default=tree.Name("none"))
        for i, p in enumerate(given)
    )  # fmt: skip
    return bind_arguments(relaxed, evaluated, base.definition.name)


def _body(definition: tree.SpaceOf, here: Made, made: Made, derived: bool) -> None:
    """Run the statements of a space; errors of one are kept and the next go on."""
    report = made.frame.session.report
    for statement in definition.body.statements:
        try:
            if derived and not isinstance(statement, DERIVED):
                raise SpaceError(
                    error("SP208", "a derived space adds rules, it does not compute", statement.span).note(
                        "it may hold rewrite, weights, names, require, search, let and blocks"
                    )
                )  # fmt: skip
            _statement(statement, here, made)
        except SpaceError as failed:
            report.extend(failed.diagnostics)
            _break(statement, here.scope)


def _break(statement: tree.Statement, scope: Scope) -> None:
    names: tuple[str, ...] = ()
    match statement:
        case tree.Assign(names) | tree.Let(names):
            pass
        case tree.Choose(target):
            names = (target.name,)
        case tree.Input(name):
            names = (name,)
        case tree.For(body=body) | tree.When(body=body):
            for inner in body.statements:
                _break(inner, scope)
        case _:
            pass
    for name in names:
        scope.names[name] = Broken()


def _statement(statement: tree.Statement, here: Made, made: Made) -> None:
    frame, scope = here.frame, here.scope
    match statement:
        case tree.Input():
            _input(statement, frame, scope)
        case tree.Output(name, expr):
            value = evaluate(expr, frame, scope)
            if not isinstance(value, Tensor):
                raise SpaceError(error("SP209", f"the output is {kind(value)}", expr.span))
            label = name or "output"
            if any(n == label for n, _, _ in made.outputs):
                raise SpaceError(error("SP203", f"two outputs called {label}", statement.span))
            made.outputs.append((label, value, name is not None))
        case tree.Require(expr):
            _require(expr, here, made)
        case tree.Weights(rules):
            made.rules += [storage_rule(r, frame, scope) for r in rules]
        case tree.Names(dialect, rules):
            found: list[Rename] = [r for rule in rules for r in renames(rule, frame, scope)]
            made.dialects[dialect] = Dialect(dialect, tuple(found))
        case tree.Search(engine, settings):
            made.search[engine] = {s.name: _setting(s, frame, scope) for s in settings}
        case tree.Rewrite(steps):
            made.steps += [(step, scope) for step in steps]
        case tree.For() | tree.When() if _has_output(statement):
            _spread(statement, here, made)
        case _:
            run((statement,), frame, scope)


def _has_output(statement: tree.For | tree.When) -> bool:
    inner = list(statement.body.statements)
    if isinstance(statement, tree.When) and statement.otherwise is not None:
        inner += (
            [statement.otherwise]
            if isinstance(statement.otherwise, tree.When)
            else statement.otherwise.statements
        )
    return any(
        isinstance(s, tree.Output) or (isinstance(s, tree.For | tree.When) and _has_output(s))
        for s in inner
    )


def _spread(statement: tree.For | tree.When, here: Made, made: Made) -> None:
    """A loop or `when` that holds outputs is run statement by statement; it must be decided now."""
    from spacelang.syntax.expressions import bind, entries

    frame, scope = here.frame, here.scope
    if isinstance(statement, tree.When):
        truth = condition(evaluate(statement.condition, frame, scope), statement.condition.span)
        if not isinstance(truth, bool):
            raise SpaceError(error("SP208", "an output cannot hang on a decision", statement.span))
        chosen = statement.body.statements if truth else ()
        if not truth and statement.otherwise is not None:
            chosen = (
                (statement.otherwise,)
                if isinstance(statement.otherwise, tree.When)
                else statement.otherwise.statements
            )
        for inner in chosen:
            _statement(inner, here, made)
        return
    source = evaluate(statement.source, frame, scope)
    for item in entries(source, statement.source.span, "what `for` walks"):
        bind(statement.names, item, statement.span, scope)
        for inner in statement.body.statements:
            _statement(inner, here, made)


def _input(statement: tree.Input, frame: Frame, scope: Scope) -> None:
    """`input pixels: [B, 3, image, image]`; a capital not yet bound is any size."""
    shape: list[Dim] = []
    for axis in statement.type.axes:
        if isinstance(axis, tree.Leading):
            raise SpaceError(error("SP208", "an input has known axes", axis.span))
        if isinstance(axis, tree.Name) and axis.name[0].isupper() and scope.find(axis.name) is None:
            scope.bind(axis.name, Dim.of(Symbol(axis.name)), axis.span)
        size = number(evaluate(axis, frame, scope), "a size", axis.span)
        if size.constant is not None and (size.constant < 1 or size.constant.denominator != 1):
            raise SpaceError(error("SP302", f"a size of {size}", axis.span))
        shape.append(size)
    dtype = "f32" if statement.domain is None else "i64"
    tensor = frame.builder.input(TensorType(tuple(shape), dtype), statement.name, statement.span)
    scope.bind(statement.name, tensor, statement.span)


def _require(expr: tree.Expr, here: Made, made: Made) -> None:
    scope = Scope(here.scope)
    scope.frame = here.frame
    for figure in FIGURES:
        if here.scope.find(figure) is None:
            scope.bind(figure, Dim.of(Symbol(figure)))
    if isinstance(expr, tree.Binary) and expr.operator == "in":
        truth = _band(expr, here.frame, scope)
        if truth is not None:
            made.require += truth
            return
    truth = condition(evaluate(expr, here.frame, scope), expr.span)
    if truth is False:
        raise SpaceError(error("SP502", f"{expr.span.text} does not hold", expr.span))
    if not isinstance(truth, bool):
        made.require.append(truth)


def _band(expr: tree.Binary, frame: Frame, scope: Scope) -> list[Condition] | None:
    """`macs in 4G..5G`: both ends, rather than every number between."""
    from spacelang.ir.condition import compare

    left = evaluate(expr.left, frame, scope)
    if not isinstance(expr.right, tree.Range) or not isinstance(left, Dim):
        return None
    low = number(evaluate(expr.right.start, frame, scope), "the start", expr.right.span)
    high = number(evaluate(expr.right.stop, frame, scope), "the end", expr.right.span)
    if expr.right.step is not None or not any(s.free for s in left.symbols):
        return None
    return [compare("<=", low, left), compare("<" if expr.right.open else "<=", left, high)]


def _setting(setting: tree.Setting, frame: Frame, scope: Scope) -> object:
    """A setting of an engine: a plain number, string, boolean or list."""
    value = evaluate(setting.value, frame, scope)
    return plain_setting(value, setting.value.span)


def plain_setting(value: Thing, span: Span) -> object:
    if isinstance(value, bool | str | None):
        return value
    if isinstance(value, Dim) and value.constant is not None:
        whole = value.constant.denominator == 1
        return int(value.constant) if whole else float(value.constant)
    if isinstance(value, tuple):
        return tuple(plain_setting(v, span) for v in value)
    raise SpaceError(error("SP209", f"a setting cannot be {kind(value)}", span))


def _rewrite(graph: Graph, made: Made) -> Graph:
    if not made.steps:
        return graph
    from spacelang.syntax.steps import run_steps

    return run_steps(graph, made.steps, made.frame)


DERIVED = (
    tree.Rewrite, tree.Weights, tree.Names, tree.Require, tree.Search, tree.Let, tree.BlockOf,
    tree.Default,
)  # fmt: skip


