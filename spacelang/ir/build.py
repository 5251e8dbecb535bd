"""Building blocks node by node: the only way in which the front end and passes make nodes.

    b = BlockBuilder("mlp")
    x = b.input(TensorType((batch, tokens, width)), "x")
    h = b.one("linear", [x], {"out": 4 * width}, label="fc1")
    block = b.finish([h])

Every op is checked as it is applied: shapes for every architecture, under the conditions that hold
where it stands. Conditional parts are levels that are opened, filled and closed.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from spacelang.diagnostics import NOWHERE, Diagnostic, SpaceError, Span, error, warning
from spacelang.ir.agreement import Explain, same_type
from spacelang.ir.block import Block
from spacelang.ir.condition import Condition, disjunction
from spacelang.ir.conflict import plainly
from spacelang.ir.decision import Choice
from spacelang.ir.dim import Dim, Symbol
from spacelang.ir.infer import Infer
from spacelang.ir.level_builder import Level, Tensor
from spacelang.ir.node import Call, Node, TensorType, Value, join
from spacelang.ir.op import lookup
from spacelang.ir.options import complete
from spacelang.ir.owned import DECISION, PARAMETER, Held, Owned, apart, take
from spacelang.ir.param import Param, View, larger
from spacelang.ir.row import inferred


class BlockBuilder:
    """One block in the making. `guards` are conditions known to hold wherever it is called."""

    def __init__(
        self,
        name: str,
        span: Span = NOWHERE,
        guards: tuple[Condition, ...] = (),
        explain: Explain | None = None,
    ) -> None:
        self.name, self.span = name, span
        self.level = Level(None, guards)
        self.explain: Explain = explain or (lambda found, conflict, _: plainly(found, conflict))
        self.sizes: MutableMapping[str, Symbol] = {}
        self.decisions: MutableMapping[str, Choice] = {}
        self.params: MutableMapping[str, Param] = {}
        self.claims: MutableMapping[Owned, Held] = {}
        self.unlabelled: dict[str, int] = {}
        self.remarks: list[Diagnostic] = []
        self._next = 0

    # Declarations.

    def size(self, symbol: Symbol) -> Symbol:
        """A size that every call binds."""
        return self.sizes.setdefault(symbol.name, symbol)

    def decide(self, choice: Choice) -> None:
        """A decision that every call takes anew; two of one path must exclude each other and have
        the same candidates (SP203)."""
        self.claim([(DECISION, choice.path)], choice.span)
        before = self.decisions.get(choice.path)
        if before is not None:
            if (before.kind, before.values, before.hull) != (
                choice.kind,
                choice.values,
                choice.hull,
            ):
                kind, hint = DECISION
                raise SpaceError(
                    error("SP203", f"{kind} {choice.path}", choice.span, "of other candidates here")
                    .also(before.span, "first here")
                    .hint(hint)
                )
            choice = replace(before, live=disjunction(before.live, choice.live))
        self.decisions[choice.path] = choice

    def input(
        self,
        type: TensorType,
        label: str = "",
        span: Span = NOWHERE,
        within: tuple[Dim, Dim] | None = None,
    ) -> Tensor:
        """An operand of the block; `within` is the least and the largest value of whole numbers."""
        attributes = {} if within is None else {"within": within}
        node = Node(self._id(), "input", (), attributes, types=(type,), label=label, span=span)
        return self._add(node)[0]

    @property
    def guards(self) -> tuple[Condition, ...]:
        """What is known to hold where the next node stands."""
        return self.level.guards

    @contextmanager
    def trial(self, condition: Condition) -> Generator[Level]:
        """A region whose nodes and declarations are taken back at the end.

        Sizes, remarks and what it reads from around stay: whoever tries makes the same again.
        """
        params, decisions, unlabelled = (
            dict(self.params),
            dict(self.decisions),
            dict(self.unlabelled),
        )
        claims, level = dict(self.claims), self.level
        try:
            yield self.open(condition)
        finally:
            self.params, self.decisions, self.unlabelled = params, decisions, unlabelled
            self.claims, self.level = claims, level

    @contextmanager
    def under(self, condition: Condition) -> Generator[None]:
        """Sizes and conditions that are read where one holds; no node is made there."""
        level = self.level
        self.open(condition)
        try:
            yield
        finally:
            self.level = level

    # Nodes.

    def one(
        self,
        op: str,
        operands: Sequence[Tensor] = (),
        options: Mapping[str, object] | None = None,
        *,
        label: str | None = None,
        span: Span = NOWHERE,
    ) -> Tensor:
        """Apply an op that has one result."""
        return self.apply(op, operands, options, label=label, span=span)[0]

    def apply(
        self,
        op: str,
        operands: Sequence[Tensor] = (),
        options: Mapping[str, object] | None = None,
        *,
        given: tuple[str, ...] = (),
        label: str | None = None,
        prefix: str = "",
        span: Span = NOWHERE,
    ) -> tuple[Tensor, ...]:
        """Apply an op: its results.

        `given` names the optional operands that stand last among `operands`. A parameter is called
        after `prefix`, `label` (without one the op's name, `linear[1]` from the second on) and
        role.
        """
        definition = lookup(op)
        attributes = complete(definition, options or {}, span)
        infer = Infer(
            op,
            tuple(t.type for t in operands),
            attributes,
            given,
            self.guards,
            span,
            explain=lambda found, conflict: self.explain(found, conflict, operands),
        )
        found = inferred(definition, infer)
        types = found.types
        known = {size for tensor in operands for size in tensor.shape}
        for size in dict.fromkeys(n for type in types for n in type.shape if n not in known):
            infer.need_some(size, f"a size of {op}")
        if found.params:
            if label is None:
                label = self._unlabelled(prefix, op, span, itself="" in found.params)
            prefix = join(prefix, label)
        else:
            prefix = join(prefix, label) if label else ""
        views: dict[str, View] = {}
        for role, param in found.params.items():
            path = join(prefix, role)
            self._declare(param.at(path, span))
            views[role] = View(path, found.views[role].index)
        if given:
            attributes = {**attributes, "given": given}
        inner = tuple(self.use(t) for t in operands)
        return self._add(
            Node(self._id(), op, inner, attributes, views, types=types, label=prefix, span=span)
        )

    def call(
        self,
        call: Call,
        operands: Sequence[Tensor],
        types: tuple[TensorType, ...],
        span: Span = NOWHERE,
    ) -> tuple[Tensor, ...]:
        """Call a block; the caller has checked operands and found the result types."""
        inner = tuple(self.use(t) for t in operands)
        return self._add(
            Node(self._id(), "call", inner, call=call, types=types, label=call.path, span=span)
        )

    def tag(self, tensor: Tensor, label: str) -> Tensor:
        """Give a value a path of its own, under which taps and passes find it.

        What a region only reads gets its name there, and not where it is made.
        """
        nodes = self.level.nodes
        node = nodes.get(tensor.value.node) if tensor.level is self.level else None
        if node is not None and node.op != "input" and len(node.types) == 1 and not node.label:
            nodes[node.id] = replace(node, label=label)
            return tensor
        return self._add(
            Node(self._id(), "identity", (self.use(tensor),), types=(tensor.type,), label=label)
        )[0]

    def use(self, tensor: Tensor) -> Value:
        """The value as the present level sees it: regions take what they read as operands."""
        return self._seen(tensor, self.level)

    def _seen(self, tensor: Tensor, level: Level) -> Value:
        if tensor.level is level:
            return tensor.value
        if level.parent is None:
            raise SpaceError(error("SP201", "a value is used outside the part that makes it"))
        outer = self._seen(tensor, level.parent)
        if outer not in level.imports:
            node = Node(self._id(), "input", types=(tensor.type,))
            level.nodes[node.id] = node
            level.imports[outer] = Value(node.id)
        return level.imports[outer]

    def _add(self, node: Node) -> tuple[Tensor, ...]:
        self.level.nodes[node.id] = node
        return tuple(
            Tensor(self.level, Value(node.id, i), type) for i, type in enumerate(node.types)
        )

    def _id(self) -> int:
        self._next += 1
        return self._next - 1

    def _unlabelled(self, prefix: str, op: str, span: Span, itself: bool) -> str:
        """The name of an op without a label among those of its scope; a second one is remarked.

        An op that is a tensor `itself`, and holds none, has no list of others in it.
        """
        path = join(prefix, op)
        count = self.unlabelled[path] = self.unlabelled.get(path, -1) + 1
        if not count:
            return op
        name = f"{op}_{count}" if itself else f"{op}[{count}]"
        called = f"called {join(prefix, name)}"
        remark = warning("SP212", f"a second {op} without a label", span, called)
        self.remarks.append(remark.hint(f"{op}(..) as name"))
        return name

    def _declare(self, param: Param) -> None:
        self.claim([(PARAMETER, param.path)], param.span)
        before = self.params.get(param.path)
        self.params[param.path] = param if before is None else larger(before, param)

    def claim(self, owned: Iterable[Owned], span: Span) -> None:
        """Take paths for parameters and decisions, here or in a call (SP203)."""
        take(owned, self.claims, self.guards, span)

    # Regions.

    def open(self, condition: Condition) -> Level:
        """Start a region that is there only where the condition holds."""
        self.level = Level(self.level, (*self.level.guards, condition))
        return self.level

    def close(self) -> Level:
        """End the present region; hand it to `guard` or `choose`."""
        closed, parent = self.level, self.level.parent
        assert parent is not None
        self.level = parent
        return closed

    def guard(
        self,
        condition: Condition,
        region: Level,
        fallbacks: Sequence[Tensor],
        results: Sequence[Tensor],
        span: Span = NOWHERE,
    ) -> tuple[Tensor, ...]:
        """The region's results where the condition holds, else the fallbacks, of the same types."""
        for old, new in zip(fallbacks, results, strict=True):
            same_type(new, old, region.guards, self.explain, span)
        outer = [self.use(t) for t in fallbacks]
        outputs = self._outputs(region, results)
        operands = [*outer, *(v for v in region.imports if v not in outer)]
        types = [self.level.type_of(v) for v in operands]
        body = region.block(f"{self.name}.guard", operands, types, outputs, self._id)
        node = Node(
            self._id(),
            "guard",
            tuple(operands),
            {"conditions": (condition,)},
            regions=(body,),
            types=tuple(t.type for t in fallbacks),
            span=span,
        )
        return self._add(node)

    def choose(
        self,
        conditions: Sequence[Condition],
        regions: Sequence[Level],
        results: Sequence[Sequence[Tensor]],
        types: tuple[TensorType, ...],
        span: Span = NOWHERE,
        label: str = "",
    ) -> tuple[Tensor, ...]:
        """The results of the region whose condition holds; exactly one does."""
        ends = [self._outputs(r, values) for r, values in zip(regions, results, strict=True)]
        operands = list(dict.fromkeys(v for region in regions for v in region.imports))
        seen = [self.level.type_of(v) for v in operands]
        bodies = tuple(
            region.block(f"{self.name}.choose", operands, seen, outputs, self._id)
            for region, outputs in zip(regions, ends, strict=True)
        )
        node = Node(
            self._id(),
            "choose",
            tuple(operands),
            {"conditions": tuple(conditions)},
            regions=bodies,
            types=types,
            label=label,
            span=span,
        )
        return self._add(node)

    def _outputs(self, level: Level, results: Sequence[Tensor]) -> tuple[Value, ...]:
        """The results of a region as it sees them; one made outside becomes an operand."""
        here, self.level = self.level, level
        outputs = tuple(self.use(t) for t in results)
        self.level = here
        return outputs

    def finish(self, outputs: Sequence[Tensor], name: str | None = None) -> Block:
        """The block; every region has been closed. SP203 for a parameter named like a layer."""
        assert self.level.parent is None, "a region is still open"
        apart(self.claims)
        return Block(
            name or self.name,
            tuple(self.level.nodes.values()),
            tuple(self.use(t) for t in outputs),
            tuple(self.sizes.values()),
            tuple(self.decisions.values()),
            tuple(self.params.values()),
            self.span,
        )
