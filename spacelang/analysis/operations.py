"""Operations: what a network computes, op by op, as texts and as graphs of known sizes.

    linear{axes=1 bias=true out=[192]}(f32[1, 197, 192]; bias=[192] weight=[192, 192]) -> f32[..]

Two operations of one text are the same work, wherever they stand: the text is the *signature*.
Views travel with what reads them (a product of a transposed tensor is not that of a dense one), and
so do weights and index tables that are operands; by themselves they cost nothing. What passes its
operand on in evaluation is no operation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from spacelang.analysis.latency_table import DEPLOYED, EXTRACTED
from spacelang.analysis.traffic import Sizes, copies
from spacelang.ir.block import Block
from spacelang.ir.decision import plain
from spacelang.ir.dim import Dim, Symbol
from spacelang.ir.dim import Value as DecisionValue
from spacelang.ir.graph import Graph, Instance, Output
from spacelang.ir.mentions import of_node
from spacelang.ir.names import Names, Replacement
from spacelang.ir.node import STRUCTURAL, Attribute, Node, TensorType, Value
from spacelang.ir.op import ops
from spacelang.ir.param import Param, View, leading

FOLDED = frozenset({"batch_norm"})
"""What is in the weights of its neighbours once a network is deployed."""
PASSED = frozenset({*STRUCTURAL, "drop_path", "dropout"})
"""What gives its operand, in evaluation."""
VIEWS = frozenset({"rearrange", "slice", "split", "unstack", "expand"})
"""What gives the numbers it reads in another shape (but a rearrange that has to copy)."""
SOURCES = frozenset({"parameter", "buffer"})
INDEX = (Dim.of(0), Dim.of(0))
"""What whole numbers that come from elsewhere are within: every table has a first entry."""


@dataclass(frozen=True)
class Operation:
    """A node of a use of a block in one architecture, with the views before it.

    `values` are those of all decisions, and of the free sizes.
    """

    instance: Instance
    node: Node
    values: Mapping[str, DecisionValue]

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """The views, weights and tables that it reads, each after what it reads itself, and the
        node; all sizes are numbers."""
        owners = self.instance.block.all_by_id
        sizes = Sizes(self.instance, self.values, 4)
        found: dict[int, Node] = {}

        def add(node: Node) -> None:
            for value in node.operands:
                owner = owners[value.node]
                if owner.id not in found and carried(owner, sizes):
                    add(owner)
            found[node.id] = self.names.node(node)

        add(self.node)
        return tuple(found.values())

    @cached_property
    def names(self) -> Names:
        """What stands for the sizes of the block: numbers."""

        def symbol(symbol: Symbol) -> Replacement:
            bound = self.instance.symbol(symbol)
            value = bound.at(self.values) if isinstance(bound, Dim) else self.values[bound.name]
            return value if isinstance(value, str | bool | tuple) else Dim.of(value)

        return Names(symbol)

    @cached_property
    def operands(self) -> Mapping[Value, TensorType]:
        """What is given to it from outside, in the order in which it is read."""
        inside = {node.id for node in self.nodes}
        read = dict.fromkeys(v for n in self.nodes for v in n.operands if v.node not in inside)
        owners = self.instance.block.all_by_id
        return {value: self.names.type(owners[value.node].types[value.index]) for value in read}

    @cached_property
    def signature(self) -> str:
        """The op, its options, the views before it, and all shapes and element types."""
        texts: dict[Value, str] = {}
        for number, (value, type) in enumerate(self.operands.items()):
            texts[value] = f"{number}:{type}" if len(self.operands) > 1 else str(type)
        for node in self.nodes:
            text = self._text(node, texts)
            many = len(node.types) > 1
            texts |= {v: f"{text}.{v.index}" if many else text for v in node.values}
        last = self.nodes[-1]
        return f"{self._text(last, texts)} -> {', '.join(map(str, last.types))}"

    def _text(self, node: Node, texts: Mapping[Value, str]) -> str:
        options = " ".join(
            f"{name}={_option(value)}"
            for name, value in sorted(node.attributes.items())
            if not name.endswith("init")  # which changes no time
        )
        read = ", ".join(texts[value] for value in node.operands)
        weights = " ".join(
            f"{role or 'value'}={self._weight(view)}" for role, view in sorted(node.params.items())
        )
        inside = f"{read}; {weights}" if read and weights else read or weights
        return f"{node.op}{{{options}}}({inside})" if options else f"{node.op}({inside})"

    def _weight(self, view: View) -> str:
        kind = self.instance.block.param[view.param].dtype
        axes = ("*".join(map(str, axis)) for axis in view.lengths)
        return f"{'' if kind == 'f32' else kind}[{', '.join(axes)}]"

    @cached_property
    def bytes(self) -> int:
        """Of what it is given and of its weights, at four bytes a number."""
        given = [type.elements() for type in self.operands.values()]
        read = [view.numel() for node in self.nodes for view in node.params.values()]
        return 4 * sum(int(size.at({})) for size in (*given, *read))

    def graph(self) -> Graph:
        """The operation as a network of its own: what it reads is its input, its weights start as
        those of the block do, and nothing is left to decide."""
        first = max(node.id for node in self.nodes) + 1
        fed = {value: Value(first + i) for i, value in enumerate(self.operands)}
        inputs = [_input(fed[value].node, type) for value, type in self.operands.items()]
        params: list[Param] = []
        nodes: list[Node] = []
        for node in self.nodes:
            views: dict[str, View] = {}
            for role, view in node.params.items():
                owner = self.instance.block.param[view.param]
                path = f"n{node.id}.{role or 'value'}"
                init = self.names.init(owner.init)
                param = replace(owner, path=path, shape=view.lengths, init=init, bank=())
                params.append(param)
                views[role] = leading(param)
            operands = tuple(fed.get(value, value) for value in node.operands)
            nodes.append(replace(node, operands=operands, params=views, label=""))
        results = nodes[-1].values
        root = Block(nodes[-1].op, (*inputs, *nodes), results, params=tuple(params))
        outputs = tuple(Output(f"y{value.index}", value) for value in results)
        return Graph(nodes[-1].op, root, {}, outputs)


def operation(
    instance: Instance, node: Node, values: Mapping[str, DecisionValue], form: str = EXTRACTED
) -> Operation | None:
    """What a node computes in an architecture, None where that is nothing: deployed, neither a norm
    that is in the weights nor what follows from weights and tables alone, which is made once."""
    if node.op in PASSED or node.regions or carried(node, Sizes(instance, values, 4)):
        return None
    made = Operation(instance, node, values)
    away = form == DEPLOYED and (node.op in FOLDED or not made.operands)
    return None if away else made


def carried(node: Node, sizes: Sizes) -> bool:
    """Whether a node costs nothing by itself, and goes with what reads it."""
    if not _may_be_carried(node):
        return False
    return node.op != "rearrange" or not copies(node, sizes.instance.block, sizes)


def _may_be_carried(node: Node) -> bool:
    return node.op in SOURCES or node.op in VIEWS or is_table(node)


def is_table(node: Node) -> bool:
    """Whether a node gives an index table, which is made once."""
    definition = ops().get(node.op)
    return definition is not None and "table" in definition.traits


def decided_by(instance: Instance, node: Node) -> frozenset[Symbol]:
    """The decisions that the signature of a node depends on."""
    owners = instance.block.all_by_id
    found: set[Symbol] = set()

    def add(node: Node) -> None:
        for what in of_node(node):
            found.update(what.symbols)
        for value in node.operands:
            owner = owners[value.node]
            for size in owner.types[value.index].shape:
                found.update(size.symbols)
            if _may_be_carried(owner):
                add(owner)

    add(node)
    whole = frozenset[Symbol]().union(*(instance.symbol(symbol).symbols for symbol in found))
    return frozenset(symbol for symbol in whole if symbol.values)


def _input(number: int, type: TensorType) -> Node:
    attributes: dict[str, Attribute] = {} if type.dtype == "f32" else {"within": INDEX}
    return Node(number, "input", attributes=attributes, types=(type,), label=f"x{number}")


def _option(value: Attribute) -> str:
    match value:
        case Dim():
            return str(value)
        case tuple():
            return f"[{', '.join(map(_option, value))}]"
        case str() | bool() | None:
            return json.dumps(value)
        case Symbol():
            return json.dumps(plain(value.values[0]) if value.values else value.name)
        case _:
            return str(value)
