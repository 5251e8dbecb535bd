"""Products on a processor by oneDNN with weights in its own order, and what follows them fused in.

    packed(network)        # linear and conv2d of constant weights, + relu or gelu

Small products stay as they are. On one core of an AMD EPYC with AVX-512, weights not in its cache:

    rows x in x out    multiply-adds    F.linear    packed
     16 x  48 x   80            61 K        3 us     11 us
     49 x  80 x  112           439 K       10        13
     49 x 128 x  128           803 K       18        16
     49 x 128 x  256           1.6 M       39        25
    196 x 128 x  256           6.4 M      118        59
    197 x 192 x  768            29 M      549       245

Where PyTorch's own products (of MKL) are as fast as oneDNN's, packing brings less, and relu or gelu
in the call. A sum is not put into the call, though oneDNN can: it takes longer there than `add_`
into the product does (256 to 64 channels of 3,136 rows: 385 us for the product, 529 with a sum in
it, 414 with `add_`). The operators are those that PyTorch's compiler uses for frozen networks;
`available` says whether they are there.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torch.fx import Node

from spacelang.backends.torch.inference.rewriter import Rewriter, attribute, has_shape, shape
from spacelang.backends.torch.lowering.fused.products import available

LEAST = 1 << 20  # multiply-adds from which packing pays
ACTIVATIONS = {torch.relu: ("relu", ""), torch.relu_: ("relu", ""), F.gelu: ("gelu", "none")}


def packed(network: fx.GraphModule) -> fx.GraphModule:
    """The network with its large products packed; as it is where the operators are not there."""
    if not available():
        return network
    work = _Packer(network)
    for rule in (work.linear, work.conv, work.activated):
        work.apply(rule)
    network.graph.lint()
    network.recompile()
    return network


def product(weight: Tensor, rows: int) -> Callable[[Tensor], Tensor]:
    """x times a constant matrix [in, out], for so many rows: the fastest product that there is."""
    if not available():
        return lambda x: x @ weight
    made = torch.ops.mkldnn._reorder_linear_weight(weight.t().contiguous(), rows)
    return lambda x: torch.ops.mkldnn._linear_pointwise(x, made, None, "none", [], "")


class _Packer(Rewriter):
    def __init__(self, network: fx.GraphModule) -> None:
        super().__init__(network)
        self.numbers = count()

    def constant(self, node: object) -> Tensor | None:
        """The tensor that a node reads, if it is a constant."""
        if not isinstance(node, Node) or node.op != "get_attr":
            return None
        return attribute(self.network, str(node.target))

    def stored(self, at: Node, name: str, tensor: Tensor) -> Node:
        """A constant of its own; packed ones are opaque, so they are no part of a state dict."""
        label = f"packed_{next(self.numbers)}_{name}"
        setattr(self.network, label, tensor)
        with self.graph.inserting_before(at):
            return self.graph.create_node("get_attr", label)

    def linear(self, node: Node) -> Node | None:
        if node.target is not F.linear:
            return None
        x, weight, bias = (*node.args, None)[:3]
        matrix = self.constant(weight)
        if matrix is None or not has_shape(x):
            return None
        assert isinstance(x, Node)
        rows = _count(shape(x)) // matrix.shape[1]
        if rows * matrix.numel() < LEAST or matrix.dtype != torch.float32:
            return None
        made = torch.ops.mkldnn._reorder_linear_weight(matrix.detach().contiguous(), rows)
        kept = self.stored(node, "linear", made)
        function = torch.ops.mkldnn._linear_pointwise.default
        return self.call(node, function, shape(node), x, kept, bias, "none", [], "")

    def conv(self, node: Node) -> Node | None:
        if node.target is not F.conv2d:
            return None
        x, weight, bias = node.args
        matrix = self.constant(weight)
        if matrix is None or not has_shape(x) or matrix.dtype != torch.float32:
            return None
        assert isinstance(x, Node)
        options: Any = node.kwargs
        pads, strides, dilations = (
            [options[name]] * 2 for name in ("padding", "stride", "dilation")
        )
        made = torch.ops.mkldnn._reorder_convolution_weight(
            matrix.detach(), pads, strides, dilations, options["groups"], list(shape(x))
        )
        kept = self.stored(node, "conv", made)
        function = torch.ops.mkldnn._convolution_pointwise.default
        places = (pads, strides, dilations, options["groups"])
        return self.call(node, function, shape(node), x, kept, bias, *places, "none", [], "")

    def activated(self, node: Node) -> Node | None:
        """The activation of the only use of a product, in the product."""
        product = node.args[0] if node.args else None
        if node.target not in ACTIVATIONS or not isinstance(product, Node):
            return None
        if product.target not in PRODUCTS or len(product.users) > 1 or product.args[-3] != "none":
            return None
        name, how = ACTIVATIONS[node.target]
        return self.call(node, product.target, shape(node), *product.args[:-3], name, [], how)


PRODUCTS: frozenset[Any] = frozenset(
    {
        torch.ops.mkldnn._linear_pointwise.default,
        torch.ops.mkldnn._convolution_pointwise.default,
    }
    if available()
    else ()
)


def _count(size: tuple[int, ...]) -> int:
    return torch.Size(size).numel()
