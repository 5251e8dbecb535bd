"""Nodes of a block as expressions of the language: ops, calls of blocks, values under a label."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from spacelang.ir.block import Block
from spacelang.ir.dim import Dim, Symbol
from spacelang.ir.node import Call, Node, TensorType, Value
from spacelang.ir.op import ops
from spacelang.syntax.write_ops import ARITHMETIC, OpWriter
from spacelang.syntax.write_values import Speller, cannot, misplaced
from spacelang.syntax.write_values import label as written_label

_HERE = "_here_"


@dataclass
class Callee:
    """How a block is called: its name in the text, the sizes that it takes as arguments, and other
    arguments as they stand."""

    name: str
    cell: bool
    sizes: Mapping[str, str] = field(default_factory=dict[str, str])
    rates: frozenset[str] = frozenset()
    given: tuple[str, ...] = ()


@dataclass(frozen=True)
class Written:
    """The text of a value, and the values under names that it reads; a name reads itself.

    `call` says that it is a call, which may begin a pipe or go on with one; `closed` that it needs
    no brackets anywhere, `form` that a label behind it would not be that of its value.
    """

    text: str
    leaves: tuple[Value, ...]
    named: bool = False
    call: bool = False
    closed: bool = False
    form: bool = False


class Expressions:
    """Writes the nodes of one block; `values` are the texts of what it has computed so far."""

    def __init__(
        self,
        block: Block,
        speller: Speller,
        rate: Speller,
        callee: Callable[[Call], Callee],
        free: Callable[[str], str],
    ) -> None:
        self.block, self.speller, self.rate, self.callee = block, speller, rate, callee
        self.ops = OpWriter(speller, rate, free)
        self.values: dict[Value, Written] = {}

    def expression(self, node: Node, prefix: str) -> Written:
        operands = [self.values[v] for v in node.operands]
        if node.call is not None:
            return self.called(node, node.call, self.callee(node.call), operands, prefix)
        leaves = tuple(leaf for operand in operands for leaf in operand.leaves)
        bare = node.op in ARITHMETIC or node.op in ("slice", "identity", "sum_of", "table")
        if bare:
            texts = _texts(operands)
            if node.op == "identity":
                found, form = texts[0], operands[0].form
            else:
                found, form = self.ops.op(node, texts, self._type(node)), node.op == "sum_of"
            if node.label:
                # A form opens no scope, so the label stands on an entry of a list.
                found = f"[{found}][0]" if form else found
                plain = node.op in ARITHMETIC or (node.op == "identity" and operands[0].named)
                found = found if plain or form else f"({found})"
                return Written(f"{found} as {self.label(node, prefix)}", leaves)
            closed = node.op not in ("identity", "table")
            return Written(found, leaves, closed=closed, form=form or _stored(node))
        fixed = node.op in ops() and not next(iter(ops()[node.op].operands), "*").endswith("*")
        texts, first = _piped(operands) if fixed else (_texts(operands), "")
        found = self.ops.op(node, texts, self._type(node))
        if first:
            found = found.replace(f"{node.op}({_HERE}, ", f"{node.op}(", 1)
            found = f"{first} |> {found.replace(f'{node.op}({_HERE})', f'{node.op}()', 1)}"
        if node.label or node.params:
            return Written(f"{found} as {self.label(node, prefix)}", leaves, call=True)
        return Written(found, leaves, call=True, closed=not first, form=_stored(node))

    def _type(self, node: Node) -> Callable[[], TensorType]:
        """The type of a node's first operand, when it is asked for."""

        def read() -> TensorType:
            waiting = [self.block]
            for level in waiting:
                if node.id in level.by_id:
                    return level.type_of(node.operands[0])
                waiting += [region for inner in level.nodes for region in inner.regions]
            raise KeyError(node.id)

        return read

    def label(self, node: Node, prefix: str) -> str:
        """The label of a node below the prefix of the alternative that it stands in."""
        path = node.label
        if prefix and path == prefix:
            return "_"
        if prefix:
            if not path.startswith(prefix + "."):
                raise misplaced(f"the label {path}", f"it stands inside of {prefix}", node.span)
            path = path[len(prefix) + 1 :]
        return written_label(path, node.span)

    def called(
        self, node: Node, call: Call, callee: Callee, operands: Sequence[Written], prefix: str
    ) -> Written:
        if call.path != node.label:
            raise cannot(f"the label {node.label}", f"its call stands at {call.path}", node.span)
        if call.decide != (f"/{callee.name}" if callee.cell else call.path):
            raise cannot(
                f"the call {call.path}", f"its decisions are kept at {call.decide}", node.span
            )
        arguments: list[str] = []
        for size, name in callee.sizes.items():
            value = call.sizes[size]
            speller = self.rate if size in callee.rates else self.speller
            if isinstance(value, Dim):
                written = speller.dim(value, node.span)
            else:
                written = speller.name(value)
            arguments.append(f"{name}: {written}")
        texts, first = _piped(operands)
        start = f"{first} |> " if first else ""
        given = ", ".join([*(texts[1:] if first else texts), *callee.given, *arguments])
        leaves = tuple(leaf for operand in operands for leaf in operand.leaves)
        text = f"{start}{callee.name}({given}) as {self.label(node, prefix)}"
        return Written(text, leaves, call=True)


def _stored(node: Node) -> bool:
    """Whether a label makes a buffer of what an op gives."""
    return node.op in ops() and "table" in ops()[node.op].traits


def _texts(operands: Sequence[Written]) -> list[str]:
    return [o.text if o.named or o.closed else f"({o.text})" for o in operands]


def _piped(operands: Sequence[Written]) -> tuple[list[str], str]:
    """The texts of operands, and that of the first where it goes before a pipe."""
    texts = _texts(operands)
    if not operands or operands[0].named:
        return texts, ""
    first = operands[0]
    return [_HERE, *texts[1:]], first.text if first.call or first.closed else f"({first.text})"


def by_name(symbol: Symbol, variables: Mapping[str, str]) -> str:
    """What a decision is called in the text, if it has a name there."""
    found = variables.get(symbol.name)
    if found is None:
        raise cannot(f"the decision {symbol.name}", "an expression cannot name it from here")
    return found
