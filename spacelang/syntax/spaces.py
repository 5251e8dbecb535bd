"""Spaces, instances and derived spaces: from a declaration to a Graph.

The chain of a declaration (instance of a derived space of a space) is walked inwards with its
arguments; the innermost space is elaborated once, and the outer ones add their rules and rewrites.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager

from spacelang.diagnostics import Diagnostic, SpaceError, Span, error
from spacelang.ir.block import Block
from spacelang.ir.condition import Condition
from spacelang.ir.dim import Symbol
from spacelang.ir.graph import Graph, Output
from spacelang.ir.indices import indices
from spacelang.ir.infer import NeedsValue
from spacelang.ir.node import join
from spacelang.ir.pattern import Pattern
from spacelang.ir.ranges import rates, starts
from spacelang.ir.rule import StorageRule
from spacelang.passes.storage_layout import lay_out
from spacelang.syntax import tree
from spacelang.syntax.blocks import bind_arguments
from spacelang.syntax.calls import arguments
from spacelang.syntax.choices import pend
from spacelang.syntax.conflicts import not_known
from spacelang.syntax.evaluate import evaluate
from spacelang.syntax.frame import Frame
from spacelang.syntax.precount import look_ahead
from spacelang.syntax.require import deferred
from spacelang.syntax.scope import Scope, unknown
from spacelang.syntax.sections import DERIVED, Host
from spacelang.syntax.session import Session
from spacelang.syntax.statements import protect, run
from spacelang.syntax.values import BROKEN, SpaceValue, Thing, kind

MAX_CHAIN = 16


def elaborate(
    space: SpaceValue, name: str, session: Session, overrides: Mapping[str, Thing]
) -> Graph:
    """The graph of a space, an instance or a derived space, with its storage laid out.

    `overrides` set parameters by name, wherever in the chain they are first declared (SP204). All
    that is wrong with the space is raised at once, with the places where its parameters are given.
    """
    with at_callers(space):
        return lay_out(_elaborated(space, name, session, overrides))


@contextmanager
def at_callers(space: SpaceValue) -> Generator[None]:
    """Errors that are raised here also show where arguments are given that a space is made by."""
    try:
        yield
    except SpaceError as failed:
        raise SpaceError(_with_callers(found, space) for found in failed.diagnostics) from None


def _with_callers(found: Diagnostic, space: SpaceValue) -> Diagnostic:
    here: SpaceValue | None = space
    for _ in range(MAX_CHAIN):
        source = None if here is None else here.definition.base
        if here is None or source is None:
            break
        seen = (found.primary.span, *(label.span for label in found.secondary))
        if source.arguments is not None and not any(_within(one, source.span) for one in seen):
            found = found.also(source.span, "made here")
        owner = here.scope.find(source.name)
        value = None if owner is None else owner.names[source.name]
        here = value if isinstance(value, SpaceValue) else None
    return found


def _within(inner: Span, outer: Span) -> bool:
    same = inner.source == outer.source
    return same and outer.start <= inner.start and inner.end <= outer.end


def _elaborated(
    space: SpaceValue, name: str, session: Session, overrides: Mapping[str, Thing]
) -> Graph:
    span = space.definition.span
    frame = Frame(session, name, span)
    frame.host = Host()
    left = dict(overrides)
    try:
        _make(space, {}, frame, left, 0)
    except NeedsValue as need:
        frame.errors.add(not_known(need, frame))
    except SpaceError as failed:
        frame.errors.extend(failed.diagnostics)
    for first in left:
        frame.errors.add(
            error("SP204", f"{name} has no parameter {first}", span).note(
                f"its parameters: {', '.join(parameters(space)) or 'none'}"
            )
        )
    return finished(frame, span)


def finished(frame: Frame, span: Span) -> Graph:
    """The graph of a space whose statements have been run; all that is wrong is raised at once."""
    frame.errors.check()
    host = frame.host
    assert host is not None, f"{frame.name} is a block"
    if not any(not training for _, _, training in host.outputs):
        found = error("SP208", f"{frame.name} has no output", span)
        raise SpaceError(found.hint("output linear(x, 10)"))
    graph = _graph(frame.name, frame, host)
    frame.errors.extend(rates(graph))
    frame.errors.extend(starts(graph))
    frame.errors.extend(indices(graph))
    stated = dict(deferred(frame, graph.decisions))
    frame.errors.check()
    limits = tuple(dict.fromkeys((*map(_in_decisions, frame.require), *stated)))
    remarks = tuple(dict.fromkeys(frame.session.remarks))
    graph = graph.restated(require=limits, stated=stated, remarks=remarks)
    return _rewritten(graph, frame, host)


def _in_decisions(limit: Condition) -> Condition:
    """A limit of blocks in the decisions of the graph: those of a cell count from the root."""
    rooted = (symbol for symbol in limit.symbols if symbol.name.startswith("/"))
    return limit.substitute({s.name: Symbol(join("", s.name), s.values) for s in rooted})


def _graph(name: str, frame: Frame, host: Host) -> Graph:
    root = frame.builder.finish([tensor for _, tensor, _ in host.outputs])
    outputs = tuple(
        Output(label, value, training)
        for (label, _, training), value in zip(host.outputs, root.outputs, strict=True)
    )
    frame.session.open(root)
    blocks = _called(root, frame.session.cache.blocks)
    return Graph(
        name,
        root,
        blocks,
        outputs,
        tuple(host.rules),
        dialects=host.dialects,
        search=host.search,
    )


def _called(root: Block, blocks: Mapping[str, Block]) -> dict[str, Block]:
    """The blocks that a network calls, in the order in which they were made."""
    found: set[str] = set()
    waiting = [root]
    while waiting:
        for node in waiting.pop().everywhere():
            if node.call is not None and node.call.block not in found:
                found.add(node.call.block)
                waiting.append(blocks[node.call.block])
    return {name: block for name, block in blocks.items() if name in found}


def _rewritten(graph: Graph, frame: Frame, host: Host) -> Graph:
    """The graph with its shared alternatives, its ties and rewritings, in this order."""
    graph = _with_shared_alternatives(graph)
    if host.ties:
        from spacelang.passes.tie import tied

        graph = tied(graph, host.ties)
    steps, until = host.steps, frame.session.until
    if until is not None:
        steps = steps[: until([step.name for step, _ in steps])]
    if steps:
        from spacelang.syntax.steps import run_steps

        graph = run_steps(graph, steps, frame)
    return _with_rules_that_fit(graph) if len(steps) < len(host.steps) else graph


def _with_shared_alternatives(graph: Graph) -> Graph:
    """The graph after its rules that name nothing but path decisions, without these rules."""
    kept: list[StorageRule] = []
    for rule in graph.rules:
        found = [p for p in graph.decisions if rule.pattern.match(p) is not None]
        paths = all(graph.decisions[p].kind == "path" for p in found)
        named = found and rule.pattern.hops and rule.kind == "entangle"
        if not (named and paths) or any(map(rule.pattern.match, graph.storages)):
            kept.append(rule)
            continue
        if rule.argument not in ("", "centre"):
            raise SpaceError(
                error("SP403", f"{rule} does not fit {found[0]}, which is a path", rule.span)
                .note("alternatives share leading or centred entries")
            )  # fmt: skip
        from spacelang.passes.alternatives import entangled

        graph = entangled(graph, found, rule.argument == "centre")
    return graph.restated(rules=tuple(kept)) if len(kept) < len(graph.rules) else graph


def _with_rules_that_fit(graph: Graph) -> Graph:
    """The graph without the rules for what only a later step makes."""
    paths = (*graph.decisions, *graph.storages)

    def fits(pattern: Pattern) -> bool:
        return any(pattern.match(path) is not None for path in paths)

    return graph.restated(rules=tuple(rule for rule in graph.rules if fits(rule.pattern)))


# The chain.


def parameters(space: SpaceValue) -> list[str]:
    """The names that `overrides` may set, outermost first."""
    found: list[str] = []
    for definition in chain(space):
        if not isinstance(definition, tree.Subnet):
            found += [p.name for p in definition.params if p.name not in found]
    return found


def base_of(space: SpaceValue) -> SpaceValue | None:
    """The space that a declaration starts from."""
    base = space.definition.base
    if base is None:
        return None
    owner = space.scope.find(base.name)
    if owner is None:
        names = space.scope.names
        known = [name for name, value in names.items() if isinstance(value, SpaceValue)]
        raise unknown(base.name, base.span, known)
    value = owner.names[base.name]
    if not isinstance(value, SpaceValue):
        raise SpaceError(error("SP209", f"{base.name} is {kind(value)}, not a space", base.span))
    return value


def chain(space: SpaceValue) -> Iterator[tree.SpaceOf | tree.Instance | tree.Subnet]:
    """The declarations that a space is made of, its own first."""
    here: SpaceValue | None = space
    for _ in range(MAX_CHAIN):
        if here is None:
            break
        yield here.definition
        here = base_of(here)


def _make(
    space: SpaceValue,
    given: Mapping[str, Thing],
    frame: Frame,
    overrides: dict[str, Thing],
    depth: int,
) -> None:
    """Bind the parameters of a declaration, make what it starts from, then run its body."""
    definition = space.definition
    if depth > MAX_CHAIN:
        raise SpaceError(error("SP206", f"{definition.name} starts from itself", definition.span))
    if isinstance(definition, tree.Subnet):
        raise SpaceError(
            error("SP209", f"{definition.name} is a subnet, not a space", definition.span).hint(
                "narrow a space with `require`, or take its decisions in another subnet"
            )
        )
    scope = space.scope.inside(frame)
    _bind(definition, given, overrides, frame, scope)
    base = base_of(space)
    if base is not None:
        _make(base, _given(definition, base, frame, scope), frame, overrides, depth + 1)
    if isinstance(definition, tree.SpaceOf):
        _run(definition.body.statements, base is not None, frame, scope)


def _bind(
    definition: tree.SpaceOf | tree.Instance,
    given: Mapping[str, Thing],
    overrides: dict[str, Thing],
    frame: Frame,
    scope: Scope,
) -> None:
    protect([p.name for p in definition.params], definition.span)
    bound = dict(given)
    for param in definition.params:
        if param.name in overrides:
            bound[param.name] = overrides.pop(param.name)
    missing = [p for p in definition.params if p.name not in bound and p.default is None]
    if missing:
        names = ", ".join(p.name for p in missing)
        raise SpaceError(
            error("SP204", f"{definition.name} needs {names}", definition.span)
            .also(missing[0].span, "declared here")
            .hint("name an instance of it, or give its parameters with --set")
        )
    for param in definition.params:
        scope.bind(param.name, BROKEN, param.span)
        scope.constant.add(param.name)
        try:
            if param.name in bound:
                value = pend(bound[param.name], param.name, frame)
            else:
                assert param.default is not None
                value = pend(evaluate(param.default, frame, scope), param.name, frame)
            scope.bind(param.name, value, param.span)
        except SpaceError as failed:
            frame.errors.extend(failed.diagnostics)


def _given(
    definition: tree.SpaceOf | tree.Instance, base: SpaceValue, frame: Frame, scope: Scope
) -> Mapping[str, Thing]:
    """The arguments for the base, by name; what is missing may yet be set from outside."""
    source = definition.base
    assert source is not None
    if source.arguments is None:
        return {}
    evaluated = arguments(source.arguments, None, frame, scope, (), source.span)
    params = base.definition.params if not isinstance(base.definition, tree.Subnet) else ()
    none = tree.Name("none")
    optional = tuple(tree.Param(p.name, p.type, p.default or none, span=p.span) for p in params)
    return bind_arguments(optional, evaluated, base.definition.name)


def _run(statements: Iterable[tree.Statement], derived: bool, frame: Frame, scope: Scope) -> None:
    """Run the statements of a space; errors of one are kept and the next go on."""
    look_ahead(tuple(statements), frame, scope)
    for statement in statements:
        if derived and not isinstance(statement, DERIVED):
            frame.errors.add(
                error("SP208", "a derived space adds rules, it does not compute", statement.span)
                .note("it may hold rewrite, weights, names, require, search, let and blocks")
            )  # fmt: skip
            continue
        if isinstance(statement, tree.Return):
            frame.errors.add(error("SP208", "a space has `output`, no `return`", statement.span))
            continue
        run((statement,), frame, scope)
