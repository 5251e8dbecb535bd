"""Products of a fixed network made fewer and better laid out, for evaluation.

    conv(x) * s                ->    conv with weights w * s, b * s
    x + depthwise(x)           ->    depthwise with one more at the centre of each kernel
    pointwise convolution      ->    linear on channels that lie side by side
    depthwise on a tiny map    ->    one matrix [pixels, pixels] a channel

Weights become values computed from weights, which `fold.materialised` stores. Nothing that another
node reads, or that is an output, is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import count

from spacelang.ir.block import Block
from spacelang.ir.dim import ONE, Dim
from spacelang.ir.graph import Graph
from spacelang.ir.node import Node, Value
from spacelang.passes.fold import PRODUCTS, read
from spacelang.passes.remake import Body, with_root
from spacelang.passes.scaling import factor_of

TINY = 1 << 14  # multiply-adds up to which a dense product is over before a convolution has begun
Change = Callable[["_Products", Node], Value | None]
"""What a node becomes; None where it stays."""


def scales_folded(graph: Graph) -> Graph:
    """Numbers that multiply a product alone become part of its weights."""
    return _changed(graph, _scaled)


def residuals_folded(graph: Graph) -> Graph:
    """A depthwise convolution added to what it reads becomes one that keeps it."""
    return _changed(graph, _with_residual)


def pointwise_linear(graph: Graph) -> Graph:
    """Convolutions of one pixel as linear layers, between two views of the map."""
    return _changed(graph, _pointwise)


def tiny_depthwise(graph: Graph, batch: int) -> Graph:
    """Depthwise convolutions of few pixels, for so many images, as products of matrices."""
    return _changed(graph, lambda work, node: _dense(work, node, batch))


def _changed(graph: Graph, change: Change) -> Graph:
    """A flat graph with some nodes made anew; itself where none is."""
    work = _Products(graph.root)
    seen: dict[Value, Value] = {}
    for node in graph.root.nodes:
        operands = tuple(seen.get(v, v) for v in node.operands)
        made = change(work, replace(node, operands=operands))
        if made is None:
            work.body.put(replace(node, operands=operands))
        else:
            seen[Value(node.id)] = made
    if not seen:
        return graph
    outputs = tuple(seen.get(v, v) for v in graph.root.outputs)
    needed = {v.node for v in outputs}
    for node in reversed(work.body.nodes):
        if node.id in needed:
            needed.update(v.node for v in node.operands)
    nodes = tuple(n for n in work.body.nodes if n.id in needed or n.op == "input")
    return with_root(graph, replace(graph.root, nodes=nodes, outputs=outputs), {})


class _Products:
    """A flat network being remade; `makers` are its nodes as they now are."""

    def __init__(self, root: Block) -> None:
        self.root = root
        self.body = Body(count(root.next_id))
        self._makers: dict[int, Node] = {}

    def maker(self, value: Value) -> Node:
        for node in self.body.nodes[len(self._makers) :]:
            self._makers[node.id] = node
        return self._makers[value.node]

    def alone(self, value: Value) -> bool:
        """Whether one node reads a value that was there before."""
        readers = self.root.readers.get(value, ())
        return len(readers) == 1 and value not in self.root.outputs

    def weights(self, node: Node) -> tuple[Value, Value | None]:
        """Weight and bias of a product as values, whether it owns or is given them."""
        given = node.attributes.get("given", ())
        assert isinstance(given, tuple)
        values = dict(zip(given, node.operands[len(node.operands) - len(given) :], strict=True))
        found = [
            values.get(role) or read(self.body, self.root, node, role)
            for role in ("weight", "bias")
        ]
        assert found[0] is not None
        return found[0], found[1]

    def product(
        self, op: str, x: Value, options: Mapping[str, object], weight: Value, bias: Value | None
    ) -> Value:
        """A product whose weights are given."""
        rest = {k: v for k, v in options.items() if k != "given"} | {"bias": bias is not None}
        given = ("weight",) if bias is None else ("weight", "bias")
        operands = [x, weight] if bias is None else [x, weight, bias]
        return self.body.one(op, operands, rest, given=given)


def _scaled(work: _Products, node: Node) -> Value | None:
    factor = factor_of(node)
    if factor is None:
        return None
    (value,) = node.operands
    maker = work.maker(value)
    if maker.op not in PRODUCTS or not work.alone(value) or maker.label:
        return None
    weight, bias = work.weights(maker)
    by = {"number": factor}
    weight = work.body.one("mul", [weight], by)
    bias = None if bias is None else work.body.one("mul", [bias], by)
    return work.product(maker.op, maker.operands[0], maker.attributes, weight, bias)


def _with_residual(work: _Products, node: Node) -> Value | None:
    if node.op != "add" or len(node.operands) != 2:
        return None
    for x, value in (node.operands, node.operands[::-1]):
        maker = work.maker(value)
        if maker.op == "conv" and maker.operands[0] == x and work.alone(value):
            kernel = _kept_kernel(work, maker)
            if kernel is not None:
                weight, bias = work.weights(maker)
                middle = {"formula": f"1 0 i2 {kernel // 2} == i3 {kernel // 2} == and if"}
                shape = (ONE, ONE, Dim.of(kernel), Dim.of(kernel))
                one = work.body.one("table", [], {**middle, "shape": shape})
                weight = work.body.one("add", [weight, one])
                return work.product("conv", x, maker.attributes, weight, bias)
    return None


def _kept_kernel(work: _Products, conv: Node) -> int | None:
    """The kernel of a depthwise convolution whose pixel (i, j) has pixel (i, j) at its centre."""
    x, y = work.body.types[conv.operands[0]], conv.types[0]
    kernel, pad = conv.attributes["kernel"], conv.attributes["pad"]
    assert isinstance(kernel, Dim)
    side = int(kernel.at({}))
    same = conv.attributes["groups"] == x.shape[1] and x == y and side % 2 == 1
    plain = conv.attributes["dilation"] == 1 and conv.attributes["stride"] == 1
    padded = pad is None or pad == side // 2
    return side if same and plain and padded else None


def _pointwise(work: _Products, node: Node) -> Value | None:
    if (
        node.op != "conv"
        or any(node.attributes[name] != 1 for name in ("kernel", "stride", "groups"))
        or node.attributes["pad"] not in (None, 0)
    ):
        return None
    weight, bias = work.weights(node)
    body = work.body
    weight = body.one("rearrange", [weight], {"pattern": "o i 1 1 -> o i"})
    x = body.one("rearrange", [node.operands[0]], {"pattern": "b c h w -> b h w c"})
    y = work.product("linear", x, {"out": (node.types[0].shape[1],)}, weight, bias)
    return body.one("rearrange", [y], {"pattern": "b h w c -> b c h w"})


def _dense(work: _Products, node: Node, batch: int) -> Value | None:
    kernel = _kept_kernel(work, node) if node.op == "conv" else None
    if kernel is None:
        return None
    lead, channels, rows, columns = node.types[0].shape
    images = int(lead.at({s.name: batch for s in lead.symbols}))
    pixels = int((rows * columns).at({}))
    if images * int(channels.at({})) * pixels**2 > TINY:
        return None
    body = work.body
    weight, bias = work.weights(node)
    weight = body.one("rearrange", [weight], {"pattern": "c 1 k l -> c (k l)"})
    weight = body.one("pad", [weight], {"by": (ONE,), "axes": (ONE,)})
    side = int(columns.at({}))
    # Where a pixel i1 lies in the window around a pixel i0; the last entry is 0, for outside.
    y = f"i1 {side} // i0 {side} // - {kernel // 2} +"
    x = f"i1 i1 {side} // {side} * - i0 - i0 {side} // {side} * + {kernel // 2} +"
    inside = f"0 {y} <= {y} {kernel} < and 0 {x} <= and {x} {kernel} < and"
    formula = f"{y} {kernel} * {x} + {kernel**2} {inside} if"
    shape = (Dim.of(pixels), Dim.of(pixels))
    index = body.one("table", [], {"shape": shape, "formula": formula, "index": True})
    dense = body.one("take", [weight, index], {"axis": ONE})
    found = body.one("rearrange", [node.operands[0]], {"pattern": "b c h w -> c (h w) b"})
    found = body.one("einsum", [dense, found], {"pattern": "cpq,cqb->cpb"})
    if bias is not None:
        bias = body.one("rearrange", [bias], {"pattern": "c -> c 1 1"})
        found = body.one("add", [found, bias])
    back = {"pattern": "c (h w) b -> b c h w", "sizes": (("h", rows),)}
    return body.one("rearrange", [found], back)
