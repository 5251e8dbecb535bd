"""einsum of two operands as one product of matrices, with as few transposes as the letters allow.

    einsum(network, "bcyx,bcvu->byxvu", (q, k))     # FusedMatMul of [b, c, yx] and [b, c, vu], q^T

A product of matrices reads either operand as it lies or with its last two axes changed about, so an
operand is moved only where its batch does not lead, or where letters of one kind do not stand
together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from spacelang.backends.onnx.network import MICROSOFT, Network, Tensor
from spacelang.ops.patterns import Letters, letters

LANES = 16  # channels that the runtime has side by side in the maps of convolutions
TO_ROWS, TO_MAPS = [0, 2, 3, 1], [0, 3, 1, 2]


def einsum(net: Network, pattern: str, operands: Sequence[Tensor]) -> Tensor:
    """The product; what is no product of two matrices as the runtime's own einsum."""
    found = letters(pattern, *(x.rank for x in operands))
    size = {c: n for part, x in zip(found[:-1], operands, strict=True)
            for c, n in zip(part, x.shape, strict=True)}  # fmt: skip
    *given, out = found
    for place, part in enumerate(given):  # axes of one entry that only one operand has
        others = {*out}.union(*(p for i, p in enumerate(given) if i != place))
        given[place] = tuple(c for c in part if size[c] > 1 or c in others)
    operands = [
        net.reshape(x, [size[c] for c in part]) for x, part in zip(operands, given, strict=True)
    ]
    if len(given) == 2:
        (x, y), (a, b) = operands, given
        batch = [c for c in out if c in a and c in b]
        summed = [c for c in a if c in b and c not in out]
        left, right = [c for c in out if c not in b], [c for c in out if c not in a]
        if not ({*a, *b} - {*out} - {*summed}) and summed and left and right:
            return _product(net, (x, y), (a, b), (batch, left, right, summed), out, size)
    written = f"{','.join(''.join(part) for part in given)}->{''.join(out)}"
    return net.call("Einsum", operands, [size[c] for c in out], equation=written)


def _product(
    net: Network,
    operands: tuple[Tensor, Tensor],
    given: tuple[Letters, Letters],
    kinds: tuple[list[str], list[str], list[str], list[str]],
    out: Letters,
    size: Mapping[str, int],
) -> Tensor:
    """A product of matrices: letters of the batch, of either operand alone, and those summed."""
    (x, y), (a, b), (batch, left, right, summed) = operands, given, kinds
    if out == (*batch, *right, *left):  # as the result lies
        x, y, a, b, left, right = y, x, b, a, right, left

    def matrix(x: Tensor, have: Sequence[str], own: Sequence[str]) -> tuple[Tensor, bool]:
        """[batch, own, summed], and whether it is [batch, summed, own]."""
        turned = list(have) == [*batch, *summed, *own]
        want = list(have) if turned else [*batch, *own, *summed]
        x = net.transpose(x, [have.index(c) for c in want])
        tail = (summed, own) if turned else (own, summed)
        return net.reshape(x, [*lead, *(prod(size[c] for c in part) for part in tail)]), turned

    lead = [size[c] for c in batch] if prod(size[c] for c in batch) > 1 else []
    x, first_turned = matrix(x, a, left)
    y, second_turned = matrix(y, b, right)
    rows, columns = prod(size[c] for c in left), prod(size[c] for c in right)
    made = net.call(
        "FusedMatMul", [x, y], [*lead, rows, columns], MICROSOFT,
        transA=int(first_turned), transB=int(not second_turned),
    )  # fmt: skip
    order = [*batch, *left, *right]
    made = net.reshape(made, [size[c] for c in order])
    return net.transpose(made, [order.index(c) for c in out])


def biased(net: Network, x: Tensor, y: Tensor) -> Tensor | None:
    """A product of two matrices and what is added to it as one operator; None for another sum."""
    for product, bias in ((x, y), (y, x)):
        if product.ordered is not None:
            continue
        inner = net.source(product)
        if inner.rank < 2:
            continue
        maker, (*lead, rows, columns) = net.maker(inner), inner.shape
        if maker is None or maker.op != "FusedMatMul" or prod(lead) != 1:
            continue
        if bias.entries is None or prod(bias.shape) != rows * columns:
            continue
        if prod(product.shape) != rows * columns:
            continue
        matrices = [net.reshape(z, z.shape[-2:]) for z in maker.inputs if z is not None]
        matrices.append(net.reshape(bias, (rows, columns)))
        made = net.call("Gemm", matrices, (rows, columns), **maker.attributes)
        return net.reshape(made, product.shape)
    return None


def on_maps(net: Network, x: Tensor, y: Tensor) -> Tensor | None:
    """A map and a linear layer added to it, as a convolution of one pixel; None for another sum.

    The runtime adds a map in the convolution that makes another.
    """
    for given, product in ((x, y), (y, x)):
        turned = net.maker(given) if given.ordered is None else None
        if turned is None or turned.op != "Transpose" or turned.attributes["perm"] != TO_ROWS:
            continue
        matrix, order = product.ordered or (net.source(product), None)
        layer = net.maker(matrix)
        if layer is None or layer.op != "Gemm" or product.shape != given.shape or layer.attributes:
            continue
        rows, weight, bias = layer.inputs
        assert rows is not None
        assert weight is not None
        if weight.entries is None or any(n % LANES for n in weight.shape):
            continue
        rows = rows if order is None else net.rows(rows, order)
        made = pointwise(net, net.transpose(net.reshape(rows, (*given.shape[:-1], rows.shape[-1])),
                                            TO_MAPS), weight, bias)  # fmt: skip
        (map, *_) = turned.inputs
        assert map is not None
        return net.transpose(net.both("Add", map, made), TO_ROWS)
    return None


def pointwise(net: Network, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Maps times a matrix [in, out] at each pixel."""
    kernel = net.reshape(net.transpose(weight, (1, 0)), (*weight.shape[::-1], 1, 1))
    size = (x.shape[0], kernel.shape[0], *x.shape[2:])
    return net.call("Conv", [x, kernel, bias], size, kernel_shape=[1, 1])
