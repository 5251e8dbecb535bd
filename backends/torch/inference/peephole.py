"""Rewriting of a flat network whose sizes are known: fewer and faster calls, the same values.

    network = lean(network, example)

    softmax(q k + bias) v      scaled_dot_product_attention, where q and v are equally wide
    einsum of two tensors      one product, batched or by a constant matrix; a sum in it
    views of views, padding    one, or none
    linear along the heads     one product from the left (`left_product.py`)
    permute, then pointwise    pointwise, then permute, so that permutes meet and cancel
    relu, sum                  into what nobody else reads

Every node knows its shape from one run of the example; the network takes inputs of its shape alone.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import partial
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torch.fx import Node

from spacelang.backends.torch.inference.left_product import mixed
from spacelang.backends.torch.inference.rewriter import Rewriter, has_shape, shape
from spacelang.ops.patterns import letters

UNARY = frozenset(
    {torch.relu, F.gelu, F.silu, torch.sigmoid, F.hardsigmoid, F.hardswish, torch.tanh}
)
BINARY = frozenset({operator.add, operator.mul, operator.sub})
RESHAPES = frozenset({"flatten", "unflatten", "squeeze", "unsqueeze", "reshape"})
MOST_MASK = 1 << 24  # elements of a mask that is spread over a batch
NEW = UNARY | BINARY | {F.linear, F.conv2d, torch.bmm, torch.baddbmm, torch.mm, torch.gather}
"""What gives its result in memory of its own, side by side, whatever it reads."""


class _Recorder(fx.Interpreter):
    """Runs a network once and writes down the shape of every value."""

    def run_node(self, n: Node) -> Any:
        found = super().run_node(n)
        if isinstance(found, Tensor):
            n.meta["shape"] = tuple(found.shape)
        return found


def lean(network: fx.GraphModule, *example: Tensor) -> fx.GraphModule:
    """The network rewritten for inputs of the shapes of an example."""
    with torch.inference_mode():
        _Recorder(network).run(*example)
    work = _Lean(network)
    heads = partial(mixed, work)
    views = (work.sunk, work.joined, work.biased, work.in_place)
    for rule in (work.idle, heads, work.attention, work.product, *views):
        work.apply(rule)
    work.computed()
    network.graph.lint()
    network.recompile()
    return network


class _Lean(Rewriter):
    """The rules of the table above."""

    # Products.

    def product(self, node: Node) -> Node | None:
        """An einsum of two operands as one product of matrices, batched where it has a batch."""
        if node.target is not torch.einsum or len(node.args) != 3:
            return None
        pattern, x, y = node.args
        assert isinstance(x, Node)
        assert isinstance(y, Node)
        a, b, out = letters(str(pattern), len(shape(x)), len(shape(y)))
        alone = [
            c for c, count in zip(b, shape(y), strict=True) if count == 1 and c not in {*a, *out}
        ]
        if alone:  # a table of one row for all heads, say
            kept = [i for i, c in enumerate(b) if c not in alone]
            y = self.reshaped(node, y, [shape(y)[i] for i in kept])
            b = tuple(b[i] for i in kept)
        if len({*a}) != len(a) or len({*b}) != len(b) or {*out} - {*a} - {*b}:
            return None
        size = dict(zip(a, shape(x), strict=True)) | dict(zip(b, shape(y), strict=True))
        batch = [c for c in out if c in a and c in b]
        summed = [c for c in a if c in b and c not in out]
        if {*a} - {*out} - {*summed} or {*b} - {*out} - {*summed} or not summed:
            return None
        left = [c for c in (out if batch else a) if c in a and c not in b]
        right = [c for c in (out if batch else b) if c in b and c not in a]

        def count(part: Sequence[str]) -> int:
            return prod(size[c] for c in part)

        lead = [count(batch)] if batch else []
        x = self.permuted(node, x, [a.index(c) for c in (*batch, *left, *summed)])
        x = self.reshaped(node, x, [*lead, count(left), count(summed)])
        made_shape = [*lead, count(left), count(right)]
        if not batch and _fixed(y):  # a layer, which may be packed
            y = self.permuted(node, y, [b.index(c) for c in (*right, *summed)])
            y = self.reshaped(node, y, [count(right), count(summed)])
            made = self.call(node, F.linear, made_shape, x, y)
        else:
            y = self.permuted(node, y, [b.index(c) for c in (*batch, *summed, *right)])
            y = self.reshaped(node, y, [*lead, count(summed), count(right)])
            made = self.call(node, torch.bmm if batch else torch.mm, made_shape, x, y)
        order = [*batch, *left, *right]
        made = self.reshaped(node, made, [size[c] for c in order])
        return self.permuted(node, made, [order.index(c) for c in out])

    def biased(self, node: Node) -> Node | None:
        """bmm(x, y) + bias in one call; into what was gathered, where nothing else reads that."""
        if node.target is not operator.add or not all(has_shape(a) for a in node.args):
            return None
        for product, bias in (node.args, node.args[::-1]):
            assert isinstance(product, Node)
            assert isinstance(bias, Node)
            inner = product.args[0] if product.target == "reshape" else product
            if not isinstance(inner, Node) or inner.target is not torch.bmm:
                continue
            if len(inner.users) > 1 or len(product.users) > 1 or shape(product) != shape(node):
                continue  # the last: it is the product that would be spread
            if inner is product and len(shape(bias)) <= 3 and bias.op == "get_attr":
                return self.call(node, torch.baddbmm, shape(node), bias, *inner.args)
            alone = bias.target is torch.gather and len(bias.users) == 1 and not _fixed(bias)
            if alone and shape(bias) == shape(node):
                bias = self.reshaped(node, bias, shape(inner))
                made = self.method(node, "baddbmm_", shape(inner), bias, *inner.args)
                return self.reshaped(node, made, shape(node))
        return None

    # Attention.

    def attention(self, node: Node) -> Node | None:
        """einsum(softmax(einsum(q, k) + ..), v) with heads on an axis of their own."""
        values = _einsum(node)
        if values is None:
            return None
        (p_letters, v_letters, out), p, v = values
        if p.target != "softmax" or len(p.users) > 1:
            return None
        logits, terms = p.args[0], list[Node]()
        while isinstance(logits, Node) and logits.target is operator.add and len(logits.users) == 1:
            inner = next((a for a in logits.args if isinstance(a, Node) and _sum(a)), None)
            if inner is None:
                return None
            other = logits.args[1] if logits.args[0] is inner else logits.args[0]
            if not has_shape(other):
                return None
            terms.append(other)  # pyright: ignore[reportArgumentType]
            logits = inner
        scores = _einsum(logits) if isinstance(logits, Node) and len(logits.users) == 1 else None
        if scores is None:
            return None
        (q_letters, k_letters, s_letters), q, k = scores
        *lead, h, i, j = s_letters
        lead, d = tuple(lead), next((c for c in q_letters if c not in s_letters), "")
        if (q_letters, k_letters) != ((*lead, i, h, d), (*lead, j, h, d)):
            return None
        *lead, h, i, j = p_letters
        lead, w = tuple(lead), out[-1]
        if (v_letters, out) != ((*lead, j, h, w), (*lead, i, h, w)) or shape(v)[-1] != shape(q)[-1]:
            return None
        scale = 1.0
        if q.target is operator.mul and len(q.users) == 1 and isinstance(q.args[1], float | int):
            q, scale = q.args[0], float(q.args[1])  # pyright: ignore[reportAssignmentType]
        assert isinstance(q, Node)
        # Products with softmax between take as long as the one call, or longer (us on one core,
        # by groups x heads x tokens x width): 349 and 349 for 1x3x197x64, 349 and 354 for
        # 1x5x196x32, 143 and 151 for 1x24x49x32, 1370 and 1251 for 64x3x49x32. But of one group the
        # first product goes into a term that was computed: 340 and 390 for 1x3x197x64.
        if prod(shape(q)[:-3]) == 1 and not all(_fixed(term) for term in terms):
            return None
        return self._attended(node, (q, k, v), terms, scale)

    def _attended(
        self, node: Node, qkv: tuple[Node, Node, Node], terms: Sequence[Node], scale: float
    ) -> Node | None:
        *lead, _, heads, _ = shape(qkv[0])
        groups = prod(lead)
        queries, keys = shape(qkv[0])[-3], shape(qkv[1])[-3]
        mask: Node | None = None
        for term in terms:
            size = torch.broadcast_shapes(shape(term), () if mask is None else shape(mask))
            mask = term if mask is None else self.call(node, operator.add, size, mask, term)
        if mask is not None:
            size = (*((1,) * (len(lead) + 3 - len(shape(mask)))), *shape(mask))
            if prod(size[: len(lead)]) > 1 or len(size) > len(lead) + 3:
                whole = (*lead, *size[-3:])
                if prod(whole) > MOST_MASK:
                    return None
                mask = self.method(node, "expand", whole, mask, *whole)
                mask = self.reshaped(node, mask, (groups, *size[-3:]))
            else:
                mask = self.reshaped(node, mask, (1, *size[-3:]))
            mask = self.method(
                node, "expand", (groups, heads, queries, keys), mask, groups, heads, queries, keys
            )
        parts: list[Node] = []
        for x in qkv:
            x = self.reshaped(node, x, (groups, *shape(x)[-3:]))
            parts.append(self.permuted(node, x, (0, 2, 1, 3)))
        made = self.call(
            node, F.scaled_dot_product_attention, shape(parts[0]), *parts, attn_mask=mask,
            scale=scale,
        )  # fmt: skip
        return self.reshaped(node, self.permuted(node, made, (0, 2, 1, 3)), shape(node))

    # Views.

    def sunk(self, node: Node) -> Node | None:
        """A pointwise function before the permute that it reads; permutes of permutes are one."""
        if node.target == "permute":
            inner = node.args[0]
            if isinstance(inner, Node) and inner.target == "permute":
                order = [inner.args[1:][i] for i in node.args[1:]]  # pyright: ignore
                return self.permuted(node, inner.args[0], order)  # pyright: ignore
            return None
        if node.target in UNARY:
            x = node.args[0]
            if not (isinstance(x, Node) and x.target == "permute" and len(x.users) == 1):
                return None
            inner = x.args[0]
            assert isinstance(inner, Node)
            made = self.call(node, node.target, shape(inner), inner, *node.args[1:], **node.kwargs)
            return self.permuted(node, made, x.args[1:])  # pyright: ignore[reportArgumentType]
        if node.target in BINARY and all(has_shape(a) for a in node.args):
            a, b = node.args
            assert isinstance(a, Node)
            assert isinstance(b, Node)
            if shape(a) != shape(b):
                return None
            first = next((x for x in (a, b) if _movable(x)), None)
            if first is None:
                return None
            order: Any = first.args[1:]
            back = [order.index(i) for i in range(len(order))]
            a, b = (self.permuted(node, x, back) for x in (a, b))
            for x in (a, b):
                x.meta["made"] = True  # else it would be moved back behind the sum, without end
            made = self.call(node, node.target, shape(a), a, b)
            return self.permuted(node, made, order)
        return None

    def joined(self, node: Node) -> Node | None:
        """Reshapes in a row as one; none where the shape is that of the first."""
        if node.target not in RESHAPES:
            return None
        root = node.args[0]
        while isinstance(root, Node) and root.target in RESHAPES:
            root = root.args[0]
        assert isinstance(root, Node)
        if shape(root) == shape(node):
            return root
        if root is node.args[0] and node.target == "reshape":
            return None
        return self.reshaped(node, root, shape(node))

    def idle(self, node: Node) -> Node | None:
        """Padding by nothing, and slices of everything, are what they read."""
        if node.target is F.pad and not any(node.args[1]):  # pyright: ignore[reportArgumentType]
            return node.args[0]  # pyright: ignore[reportReturnType]
        places = node.args[1] if node.target is operator.getitem else ()
        if places and isinstance(places, tuple) and all(p == slice(None) for p in places):
            return node.args[0]  # pyright: ignore[reportReturnType]
        return None

    def in_place(self, node: Node) -> Node | None:
        """relu, and sums, into a new tensor of the same size that nothing else reads."""
        if node.target is torch.relu and _spare(node.args[0]):
            return self.call(node, torch.relu_, shape(node), node.args[0])
        if node.target is operator.add and all(has_shape(a) for a in node.args):
            for x, other in (node.args, node.args[::-1]):
                if _spare(x) and shape(x) == shape(node):  # pyright: ignore[reportArgumentType]
                    return self.method(node, "add_", shape(node), x, other)
        return None


def _einsum(node: Node) -> tuple[tuple[tuple[str, ...], ...], Node, Node] | None:
    if node.target is not torch.einsum or len(node.args) != 3:
        return None
    pattern, x, y = node.args
    assert isinstance(x, Node)
    assert isinstance(y, Node)
    return letters(str(pattern), len(shape(x)), len(shape(y))), x, y


def _movable(node: Node) -> bool:
    return node.target == "permute" and len(node.users) == 1 and "made" not in node.meta


def _sum(node: Node) -> bool:
    """Whether a value is a product, or a sum that one may be in."""
    return node.target is torch.einsum or node.target is operator.add


def _spare(node: object) -> bool:
    """Whether a value, or what it is a view of, has memory of its own, and a single reader."""
    while isinstance(node, Node) and len(node.users) == 1:
        if node.target in NEW or node.target in ("add_", "baddbmm_"):
            return not _fixed(node)  # what is constant is computed once, and read by every call
        if node.target not in ("permute", "reshape"):
            return False
        node = node.args[0]
    return False


def _fixed(node: Node) -> bool:
    """Whether a value depends on constants alone."""
    values = [v for v in node.all_input_nodes if has_shape(v)]
    return node.op == "get_attr" or (bool(values) and all(_fixed(v) for v in values))
