"""Two linear layers with an activation between them, as convolutions of one pixel.

    linear -> gelu -> linear

A convolution of one pixel is the same product, which the runtime computes with its bias in maps of
16 channels at a time: 1 to 6 % faster than its product of matrices for few or many rows, and up to
a quarter where the matrices are large and the rows few (all with one thread of AVX-512).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from spacelang.backends.onnx.emit import Emit, Work
from spacelang.backends.onnx.network import Tensor
from spacelang.backends.onnx.products import LANES, TO_MAPS, TO_ROWS, pointwise
from spacelang.backends.onnx.rows import ACTIVATIONS
from spacelang.ir.dim import Dim
from spacelang.ir.node import Node, Value

MOST_AXES = 4


@dataclass(frozen=True)
class Perceptron:
    """The nodes that are one group."""

    first: Node
    activation: Node
    last: Node

    @property
    def inside(self) -> tuple[int, ...]:
        """The nodes that the group makes needless, all but the last."""
        return (self.first.id, self.activation.id)

    def emitted(self, work: Work) -> Tensor:
        """The result of the last layer."""
        net, emit = work.network, Emit(work, self.first)
        x = emit.x
        order = x.ordered
        if order is not None:  # rows are rows, in whatever order
            x = net.reshape(order[0], x.shape)
        shape = x.shape if x.rank == MOST_AXES else (1, x.shape[0], x.shape[1], x.shape[-1])
        x = net.transpose(net.reshape(x, shape), TO_MAPS)
        x = _layer(emit, x)
        x = net.pointwise(ACTIVATIONS[self.activation.op], x)
        x = net.transpose(_layer(Emit(work, self.last), x), TO_ROWS)
        end = work.shape(Value(self.last.id))
        found = net.reshape(x, end)
        return found if order is None else net.reshape(net.rows(found, order[1]), end)


def _layer(emit: Emit, x: Tensor) -> Tensor:
    """A linear layer on maps."""
    net = emit.network
    weight, bias = net.constant(emit.known("weight").T), net.constant(emit.known("bias"))
    return pointwise(net, x, weight, bias)


def perceptrons(work: Work) -> Mapping[int, Perceptron]:
    """The groups of a network by the node that each ends with."""
    found = (_perceptron(work, node) for node in work.root.nodes if node.op == "linear")
    return {group.last.id: group for group in found if group is not None}


def _perceptron(work: Work, last: Node) -> Perceptron | None:
    """The group that a linear layer ends."""
    nodes = work.root.by_id
    activation = nodes[last.operands[0].node]
    if activation.op not in ACTIVATIONS or not work.alone(last.operands[0]):
        return None
    first = nodes[activation.operands[0].node]
    if first.op != "linear" or not work.alone(activation.operands[0]):
        return None
    if not (_fits(work, first) and _fits(work, last)):
        return None
    rank = work.types[first.operands[0]].rank
    return Perceptron(first, activation, last) if 3 <= rank <= MOST_AXES else None


def _fits(work: Work, linear: Node) -> bool:
    """Whether it is from one axis of lanes to another, with weights and a bias of its own."""
    out, axes = linear.attributes["out"], linear.attributes["axes"]
    if isinstance(out, tuple) or axes != Dim.of(1) or linear.attributes["bias"] is not True:
        return False
    if linear.attributes.get("given"):
        return False
    wide = work.shape(linear.operands[0])[-1], work.shape(Value(linear.id))[-1]
    return all(n % LANES == 0 for n in wide)
