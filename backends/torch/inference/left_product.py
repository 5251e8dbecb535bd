"""A linear layer along an axis that others follow in memory, as a product from the left.

    linear(permute(x, "b i j h"), w)  ->  permute(bmm(w, x as [B, H, N M]), "b i j h")

Heads are mixed so: the layer would copy the whole map to bring few channels side by side, multiply
rows of a few numbers, and leave a layout that softmax reads with strides.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import cast

import torch
import torch.nn.functional as F
from torch.fx import Node

from spacelang.backends.torch.inference.rewriter import Rewriter

MOST = 64  # channels; with more of them the product of rows is the faster one
LEAST = 64  # entries that follow


def mixed(work: Rewriter, node: Node) -> Node | None:
    """The rule, for `Rewriter.apply`."""
    if node.target is not F.linear or node.kwargs:
        return None
    x, weight, *rest = cast(Sequence[Node | None], node.args)
    bias = rest[0] if rest else None
    if x is None or weight is None or x.target != "permute" or "shape" not in weight.meta:
        return None
    inner, order = cast(Node, x.args[0]), cast(Sequence[int], x.args[1:])
    axis, size = order[-1], cast(tuple[int, ...], inner.meta["shape"])
    others = [i for i in range(len(size)) if i != axis]
    outputs, channels = weight.meta["shape"]
    before, after = prod(size[:axis]), prod(size[axis + 1 :])
    if list(order) != [*others, axis] or axis == len(size) - 1:
        return None
    if max(outputs, channels) > MOST or after < LEAST:
        return None
    flat = work.reshaped(node, inner, (before, channels, after))
    spread = (before, outputs, channels)
    left = work.method(node, "expand", spread, weight, *spread)
    whole = (before, outputs, after)
    if bias is None:
        made = work.call(node, torch.bmm, whole, left, flat)
    else:
        column = work.method(node, "reshape", (outputs, 1), bias, (outputs, 1))
        made = work.call(node, torch.baddbmm, whole, column, left, flat)
    made = work.reshaped(node, made, (*size[:axis], outputs, *size[axis + 1 :]))
    return work.permuted(node, made, order)
