"""Ops with multiply-accumulates: linear, conv, conv_transpose, einsum; and the bare parameter.

`linear` and `conv` own a weight and a bias unless these are given as operands (`weight: w`): then
they own none, which is how tied embeddings and transformed weights are written.
"""

from __future__ import annotations

from spacelang.diagnostics import counted
from spacelang.ir.conflict import shown
from spacelang.ir.dim import ONE, Dim, product
from spacelang.ir.infer import CostOf, Infer, Settled
from spacelang.ir.node import TensorType
from spacelang.ir.op import COUNTED, Interval, op, option
from spacelang.ir.param import Init
from spacelang.ops.patterns import bind_einsum, parse_einsum

linear = op(
    "linear",
    "x weight? bias?",
    out=option("factors"),
    axes=option("whole", 1),
    bias=option("bool", True),
    init=option("init", None),
    bias_init=option("init", None),
)


def _given(infer: Infer, name: str, shape: tuple[Dim, ...]) -> None:
    """A weight or bias that is an operand must be of the shape that the op would own."""
    actual = infer.operand(name)
    label = f"it is {shown(actual)}, wanted is {shown(TensorType(shape))}"
    if actual.rank != len(shape):
        infer.fail("SP301", f"the {name} of {infer.name} has {counted(actual.rank, 'axis')}", label)
    for a, b in zip(actual.shape, shape, strict=True):
        infer.need_equal(a, b, "SP304", f"the {name} of {infer.name} does not fit", label)


@linear.shape
def _linear(infer: Infer) -> TensorType:
    """[.., in] -> [.., out], over the trailing `axes` axes; a list `out` gives an axis a factor."""
    x, out, axes = infer.x, infer.dims("out"), infer.whole("axes")
    if not 1 <= axes <= x.rank:
        infer.fail("SP301", f"linear over {counted(axes, 'axis')} of a tensor of {x.rank}")
    inner = x.shape[x.rank - axes :]
    for size in out:
        infer.need_whole(size, "the width of linear")
    if "weight" in infer.given:
        _given(infer, "weight", (product(out), product(inner)))
    else:
        infer.param("weight", [out, inner], infer.init("init") or Init("linear"))
    if "bias" in infer.given:
        _given(infer, "bias", (product(out),))
    elif infer.flag("bias"):
        start = infer.init("bias_init") or Init("linear_bias")
        infer.param("bias", [out], start, decay=False)
    return TensorType((*x.shape[: x.rank - axes], *out), x.dtype)


@linear.macs
def _linear_macs(cost: CostOf) -> Dim:
    axes = cost.whole("axes")
    return cost.y.elements() * product(cost.x.shape[cost.x.rank - axes :])


conv = op(
    "conv",
    "x weight? bias?",
    out=option("size"),
    kernel=option("size", 1, COUNTED),
    stride=option("whole", 1, COUNTED),
    pad=option("size", None, Interval(0)),
    groups=option("size", 1, COUNTED),
    dilation=option("whole", 1, COUNTED),
    bias=option("bool", False),
    init=option("init", None),
    bias_init=option("init", None),
)


@conv.shape
def _conv(infer: Infer) -> TensorType:
    """[B, C, H, W] -> [B, out, (H + 2p - d(k-1) - 1)//s + 1, ..]; pad defaults to d(k-1)//2."""
    x = infer.x
    if x.rank != 4:
        infer.fail("SP301", f"conv reads [B, C, H, W], not a tensor of {counted(x.rank, 'axis')}")
    batch, channels, height, width = x.shape
    out, kernel, groups = infer.dim("out"), infer.dim("kernel"), infer.dim("groups")
    stride, dilation = infer.whole("stride"), infer.whole("dilation")
    infer.need_whole(out, "the channels of conv")
    infer.need_whole(channels / groups, "channels in a group of conv")
    infer.need_whole(out / groups, "channels out of a group of conv")
    pad = infer.padding(dilation * (kernel - 1) // 2)
    shape = [out, channels / groups, kernel, kernel]
    if "weight" in infer.given:
        _given(infer, "weight", tuple(shape))
    else:
        infer.param("weight", shape, infer.init("init") or Init("conv"))
    if "bias" in infer.given:
        _given(infer, "bias", (out,))
    elif infer.flag("bias"):
        infer.param("bias", [out], infer.init("bias_init") or Init("conv_bias"), decay=False)
    reach = 2 * pad - dilation * (kernel - 1) - 1
    sizes = tuple((side + reach) // stride + 1 for side in (height, width))
    for size in sizes:
        infer.need_at_most(ONE, size, "SP307", "the kernel of conv is larger than the padded map")
    return TensorType((batch, out, *sizes), x.dtype)


@conv.macs
def _conv_macs(cost: CostOf) -> Dim:
    kernel = cost.dim("kernel")
    return cost.y.elements() * (cost.x.shape[1] / cost.dim("groups")) * kernel * kernel


conv_transpose = op(
    "conv_transpose",
    "x",
    out=option("size"),
    kernel=option("size", 2, COUNTED),
    stride=option("whole", 2, COUNTED),
    pad=option("size", None, Interval(0)),
    extra=option("size", None, Interval(0)),
    groups=option("size", 1, COUNTED),
    bias=option("bool", False),
    init=option("init", None),
    bias_init=option("init", None),
)


@conv_transpose.shape
def _conv_transpose(infer: Infer) -> TensorType:
    """[B, C, H, W] -> [B, out, (H - 1)s - 2p + k + e, ..]: the gradient of conv with respect to x.

    `pad` and `extra` (rows that only the end has) default to what makes the map s times as large:
    p = (k - s + 1)//2, e = (k - s) % 2, but 0 at stride 1, where an even kernel loses a row as in
    conv. The weight is [C, out / groups, k, k].
    """
    x = infer.x
    if x.rank != 4:
        infer.fail("SP301", f"conv_transpose reads [B, C, H, W], not {counted(x.rank, 'axis')}")
    batch, channels, height, width = x.shape
    out, kernel, groups = infer.dim("out"), infer.dim("kernel"), infer.dim("groups")
    stride = infer.whole("stride")
    infer.need_whole(channels / groups, "channels in a group of conv_transpose")
    infer.need_whole(out / groups, "channels out of a group of conv_transpose")
    pad = infer.padding((kernel - stride + 1) // 2)
    given = infer.options["extra"]
    extra = given if isinstance(given, Dim) else (kernel - stride) % 2 * min(stride - 1, 1)
    infer.need_at_most(Dim.of(0), pad, "SP307", "pad by less than nothing")
    infer.need_at_most(extra + 1, Dim.of(stride), "SP307", "extra rows are fewer than the stride")
    infer.param(
        "weight", [channels, out / groups, kernel, kernel], infer.init("init") or Init("conv")
    )
    if infer.flag("bias"):
        infer.param("bias", [out], infer.init("bias_init") or Init("conv_bias"), decay=False)
    sizes = ((side - 1) * stride - 2 * pad + kernel + extra for side in (height, width))
    return TensorType((batch, out, *sizes), x.dtype)


@conv_transpose.macs
def _conv_transpose_macs(cost: CostOf) -> Dim:
    kernel = cost.dim("kernel")
    return cost.x.elements() * (cost.y.shape[1] / cost.dim("groups")) * kernel * kernel


einsum = op("einsum", "xs*", pattern=option("string"))


@einsum.shape
def _einsum(infer: Infer) -> TensorType:
    """Products and sums by a pattern of single letters; `...` stands for any leading axes."""
    pattern = parse_einsum(infer)
    sizes, leading = bind_einsum(infer, pattern)
    shape: list[Dim] = []
    for letter in pattern.result:
        shape += leading if letter == "..." else [sizes[letter]]
    return TensorType(tuple(shape), infer.x.dtype)


@einsum.macs
def _einsum_macs(cost: CostOf) -> Dim:
    """The whole index space, for two operands or more."""
    if len(cost.types) < 2:
        return Dim.of(0)
    infer = Settled("einsum", cost.types, cost.options)
    pattern = parse_einsum(infer)
    sizes: dict[str, Dim] = {}
    leading: list[Dim] = []
    for letters, shape in zip(pattern.operands, cost.types, strict=True):
        spread = shape.rank - (len(letters) - 1) if "..." in letters else 0
        axis = 0
        for letter in letters:
            if letter == "...":
                leading = list(shape.shape[axis : axis + spread])
                axis += spread
            else:
                sizes[letter] = shape.shape[axis]
                axis += 1
    return product((*leading, *sizes.values()))


parameter = op("parameter", "", shape=option("shape"), init=option("init", None))


@parameter.shape
def _parameter(infer: Infer) -> TensorType:
    """A learned tensor; an entry of the shape that is a list is one axis with factors."""
    given = infer.options["shape"]
    entries = given if isinstance(given, tuple) else (given,)
    axes: list[tuple[Dim, ...]] = []
    for entry in entries:
        axes.append(
            tuple(d for d in entry if isinstance(d, Dim)) if isinstance(entry, tuple)
            else tuple(d for d in (entry,) if isinstance(d, Dim))
        )  # fmt: skip
    start = infer.init("init") or Init("normal", (Dim.of(0.02),))
    infer.param("", axes, start, decay=len(axes) > 1)
    return TensorType(tuple(product(axis) for axis in axes))
