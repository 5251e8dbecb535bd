"""Emit: what a lowering rule sees of a node, and the table of rules.

    @lowers("layer_norm")
    def _(emit: Emit) -> fx.Node:
        return emit.call(F.layer_norm, emit.x, ..)

A rule returns one fx node, or a tuple of one for each result. Plug-ins give rules as `torch.OP` of
the entry point `spacelang.lowerings`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, fx

from spacelang import plugins
from spacelang.backends.torch.lowering.frame import Entries, Frame, Number, Result, Size
from spacelang.diagnostics import SpaceError, error
from spacelang.ir.dim import Dim
from spacelang.ir.node import Node, TensorType

Rule = Callable[["Emit"], "Result | tuple[Result, ...]"]
RULES: dict[str, Rule] = {}


def lowers(*ops: str) -> Callable[[Rule], Rule]:
    """Register the rule of some ops."""

    def add(rule: Rule) -> Rule:
        for op in ops:
            if op in RULES:
                raise ValueError(f"the op {op} has two lowering rules")
            RULES[op] = rule
        return rule

    return add


def rule_of(op: str) -> Rule | None:
    """The rule of an op, ours or a plug-in's."""
    import spacelang.backends.torch.lowering.rules  # noqa: F401  # the rows register themselves

    if op not in RULES and f"torch.{op}" in plugins.table("spacelang.lowerings"):
        RULES[op] = cast(Rule, plugins.load("spacelang.lowerings", f"torch.{op}"))
    return RULES.get(op)


def lower_node(frame: Frame, node: Node) -> None:
    """Lower a node that is no call and has no regions; its results are bound in the frame."""
    rule = rule_of(node.op)
    if rule is None:
        raise SpaceError(error("SP605", f"the torch backend has no rule for {node.op}", node.span))
    results = rule(Emit(frame, node))
    frame.bind(node, results if isinstance(results, tuple) else (results,))


@dataclass(frozen=True)
class Emit:
    """One node and the frame that it is lowered to."""

    frame: Frame
    node: Node

    # Operands.

    def result(self, index: int) -> Result:
        """What an operand was lowered to: a node of torch.fx, or the entries of a list."""
        return self.frame.values[self.node.operands[index]]

    def operand(self, index: int) -> fx.Node:
        """The torch.fx node of an operand."""
        found = self.result(index)
        assert not isinstance(found, Entries), "only unstack reads entries"
        return found

    @property
    def x(self) -> fx.Node:
        """The torch.fx node of the first operand."""
        return self.operand(0)

    @property
    def operands(self) -> tuple[fx.Node, ...]:
        """The torch.fx nodes of all operands."""
        return tuple(self.operand(i) for i in range(len(self.node.operands)))

    def type(self, index: int = 0) -> TensorType:
        """The type of an operand, in the sizes of its block."""
        return self.frame.types[self.node.operands[index]]

    @property
    def rank(self) -> int:
        """How many axes the first operand has."""
        return self.type().rank

    # Options.

    def dim(self, name: str) -> Dim:
        """An option that is one size, known or symbolic."""
        value = self.node.attributes[name]
        assert isinstance(value, Dim), f"{self.node.op}: {name}"
        return value

    def dims(self, name: str) -> tuple[Dim, ...]:
        """A size, or a list of sizes, as a tuple."""
        value = self.node.attributes[name]
        return tuple(
            d for d in (value if isinstance(value, tuple) else (value,)) if isinstance(d, Dim)
        )

    def whole(self, name: str) -> int:
        """An option that is a known whole number."""
        return int(self.dim(name).at({}))

    def wholes(self, name: str) -> tuple[int, ...]:
        """An option that is a list of known whole numbers, or one."""
        return tuple(int(d.at({})) for d in self.dims(name))

    def axis(self, name: str = "axis") -> int:
        """An option that names an axis of the first operand, counted from 0."""
        return self.whole(name) % self.rank

    def flag(self, name: str) -> bool:
        """Whether an option is true."""
        return self.node.attributes[name] is True

    def text(self, name: str) -> str:
        """An option that is a word."""
        return str(self.node.attributes[name])

    def size(self, dim: Dim) -> Size:
        """A size as the lowered code has it: a number, or a node that computes it from the
        decisions."""
        return self.frame.size(dim)

    def number(self, name: str) -> Number:
        """An option that is a number, as the lowered code has it."""
        return self.frame.number(self.dim(name))

    def sizes(self, dims: Sequence[Dim]) -> tuple[Size, ...]:
        """Sizes of a new shape; the only one with a batch axis in it is left to PyTorch as -1."""
        free = [any(s.free for s in d.symbols) for d in dims]
        if sum(free) != 1:
            return tuple(self.size(d) for d in dims)
        return tuple(-1 if f else self.size(d) for f, d in zip(free, dims, strict=True))

    # Weights.

    def param(self, role: str, entry: tuple[int, int] | None = None) -> fx.Node | None:
        """A parameter as the node reads it, or the operand given for it; None if it has neither."""
        given = self.node.attributes.get("given", ())
        assert isinstance(given, tuple)
        if role in given:
            return self.operand(len(self.node.operands) - len(given) + given.index(role))
        return self.frame.read(self.node, role, entry) if role in self.node.params else None

    # Making nodes.

    def call(self, function: Callable[..., object], *arguments: Any, **options: Any) -> fx.Node:
        """A call of a function in the lowered code."""
        return self.frame.graph.call_function(function, arguments, options)

    def method(self, name: str, *arguments: Any, **options: Any) -> fx.Node:
        """A call of a tensor's method in the lowered code."""
        return self.frame.graph.call_method(name, arguments, options)

    def by_mode(self, function: Callable[..., Tensor], *arguments: Any) -> fx.Node:
        """A call of a function whose last argument is whether the network trains."""
        return self.frame.by_mode(function, arguments)
