"""Attention of tokens to each other without a copy of queries, keys and values.

    linear -> unstack -> softmax(q k / sqrt(d) + terms) v

It is taken where queries, keys and values are the whole of one linear layer and nothing else reads
them; terms are constants: biases, and masks of windows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

from spacelang.backends.onnx.emit import Emit, Work
from spacelang.backends.onnx.network import MICROSOFT, Tensor
from spacelang.backends.onnx.products import biased
from spacelang.ir.dim import Dim
from spacelang.ir.node import Node, Value
from spacelang.ops.patterns import letters


@dataclass(frozen=True)
class Attention:
    """The nodes that are one operator, and how it is made."""

    last: Node
    linear: Node
    parts: tuple[int, int, int]  # which result of unstack is q, k, v
    axis: int  # of the factor q, k, v in the linear layer's output, among its factors
    terms: tuple[Value, ...]
    scale: float
    inside: tuple[int, ...]

    def emitted(self, work: Work) -> Tensor:
        """The result of the last node: tokens, heads, channels.

        Rows are token by token, and of each token group by group: then queries, keys and values of
        a head are matrices as they lie, with a stride, which the products read.
        """
        net, emit = work.network, Emit(work, self.linear)
        x, shape = emit.x, work.shape(Value(self.last.id))
        *lead, tokens, _ = x.shape
        heads, channels = shape[-2:]
        factors, groups = emit.wholes("out"), prod(lead)
        weights, biases = (
            np.moveaxis(emit.known(role).reshape(*factors, -1), self.axis, 0)[list(self.parts)]
            .reshape(3, heads * channels, -1) for role in ("weight", "bias")
        )  # fmt: skip
        order = np.arange(groups * tokens).reshape(groups, tokens).T.reshape(-1)
        x = net.plain(net.rows(x, order))
        lacking = self._projected(work)
        parts: list[Tensor] = []
        for number, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            by = self.scale if number == 0 else 1.0
            inputs = [x, net.constant((weight * by).T), net.constant((bias * by).reshape(-1))]
            size = (groups * tokens, heads * channels)
            # A bias of the keys adds the same to all scores of a query, which softmax takes away;
            # one of the values is added to what is computed, as shares sum to 1.
            if number == 1 or (number == 2 and lacking):
                made = net.call("MatMul", inputs[:2], size)
            else:
                made = net.call("Gemm", inputs, size)
            parts.append(net.reshape(made, (tokens, groups * heads, channels)))
        if lacking:
            work.lacking[Value(self.last.id)] = biases[2].reshape(-1)
        queries, keys, values = parts
        many, square = groups * heads, (*lead, heads, tokens, tokens)
        scores = net.call(
            "FusedMatMul", [queries, keys], (many, tokens, tokens), MICROSOFT,
            transB=1, transBatchA=1, transBatchB=1,
        )  # fmt: skip
        if self.terms:
            found = net.reshape(scores, square)
            for term in self.terms:
                found = biased(net, found, work.values[term]) or \
                    net.both("Add", found, work.values[term])  # fmt: skip
            scores = net.reshape(found, scores.shape)
        shares = net.call("Softmax", [scores], scores.shape, axis=-1)
        made = net.call(
            "FusedMatMul", [shares, values], (many, tokens, channels), MICROSOFT, transBatchB=1
        )
        made = net.reshape(made, (groups, heads, tokens, channels))
        made = net.moved(made, (2, 0, 1, 3))
        made = net.reshape(made, (groups * tokens, heads * channels))
        return net.reshape(net.rows(made, np.argsort(order)), shape)

    def _projected(self, work: Work) -> bool:
        """Whether a linear layer with a bias is all that reads the result."""
        value = Value(self.last.id)
        (reader, *others) = work.root.readers.get(value, (self.last,))
        if others or reader.op != "linear" or not work.alone(value) or _given(reader):
            return False
        return reader.attributes["bias"] is True and reader.attributes["axes"] == Dim.of(2)


def groups(work: Work) -> Mapping[int, Attention]:
    """The groups of a network by the node that each ends with."""
    found = (_group(work, node) for node in work.root.nodes if node.op == "einsum")
    return {group.last.id: group for group in found if group is not None}


def _group(work: Work, last: Node) -> Attention | None:
    """The group that a product with values ends."""
    nodes = work.root.by_id
    if not _reads(work, last, "...hij", "...jhd", "...ihd"):
        return None
    softmax, values = nodes[last.operands[0].node], last.operands[1]
    if softmax.op != "softmax" or not work.alone(last.operands[0]):
        return None
    inside, terms = [softmax.id], list[Value]()
    value = softmax.operands[0]
    while nodes[value.node].op == "add" and len(nodes[value.node].operands) == 2:
        if not work.alone(value):
            return None
        inside.append(value.node)
        a, b = nodes[value.node].operands
        if nodes[a.node].op == "parameter":
            a, b = b, a
        if nodes[b.node].op != "parameter":
            return None
        terms.append(b)
        value = a
    scores = nodes[value.node]
    if not work.alone(value) or not _reads(work, scores, "...ihd", "...jhd", "...hij"):
        return None
    inside.append(scores.id)
    queries, keys = scores.operands
    scale = 1.0
    scaled = nodes[queries.node]
    if scaled.op == "mul" and len(scaled.operands) == 1 and work.alone(queries):
        number = scaled.attributes["number"]
        assert isinstance(number, Dim)
        scale, queries = float(work.number(number)), scaled.operands[0]
        inside.append(scaled.id)
    sources = {v.node for v in (queries, keys, values)}
    unstack = nodes[queries.node]
    if len(sources) > 1 or unstack.op != "unstack" or len(unstack.types) != 3:
        return None
    parts = (queries.index, keys.index, values.index)
    if {*parts} != {0, 1, 2} or not all(work.alone(v) for v in (queries, keys, values)):
        return None
    linear = nodes[unstack.operands[0].node]
    if linear.op != "linear" or not work.alone(unstack.operands[0]):
        return None
    out, axes = linear.attributes["out"], linear.attributes["axes"]
    if not isinstance(out, tuple) or len(out) != 3 or axes != Dim.of(1) or _given(linear):
        return None
    if linear.attributes["bias"] is not True:
        return None
    types = work.types[unstack.operands[0]]
    axis = Emit(work, unstack).whole("axis") % types.rank - (types.rank - 3)
    if axis not in (0, 1):
        return None
    return Attention(last, linear, parts, axis, tuple(terms), scale,
                 (*inside, unstack.id, linear.id))  # fmt: skip


def _given(node: Node) -> bool:
    return bool(node.attributes.get("given"))


def _reads(work: Work, node: Node, first: str, second: str, result: str) -> bool:
    """Whether a node is an einsum of this pattern, whatever its letters."""
    if node.op != "einsum" or len(node.operands) != 2:
        return False
    ranks = [work.types[v].rank for v in node.operands]
    have = letters(str(node.attributes["pattern"]), *ranks)
    want = letters(f"{first},{second}->{result}", *ranks)
    if [len(part) for part in have] != [len(part) for part in want]:
        return False
    names: dict[str, str] = {}
    pairs = ((a, b) for x, y in zip(have, want, strict=True) for a, b in zip(x, y, strict=True))
    return all(names.setdefault(a, b) == b for a, b in pairs) and len({*names.values()}) == len(
        names
    )
