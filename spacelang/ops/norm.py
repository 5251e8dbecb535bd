"""Normalisation: layer_norm, batch_norm, rms_norm, group_norm."""

from __future__ import annotations

from spacelang.diagnostics import counted
from spacelang.ir.dim import Dim
from spacelang.ir.infer import Infer
from spacelang.ir.node import TensorType
from spacelang.ir.op import COUNTED, POSITIVE, Interval, op, option
from spacelang.ir.param import Init

ONES, ZEROS = Init("ones"), Init("zeros")

layer_norm = op(
    "layer_norm", "x", axes=option("whole", 1), eps=option("number", Dim.of(1e-5), POSITIVE)
)


@layer_norm.shape
def _layer_norm(infer: Infer) -> TensorType:
    """Over the trailing axes, with a weight and a bias of their shape."""
    x, axes = infer.x, infer.whole("axes")
    if not 1 <= axes <= x.rank:
        infer.fail("SP301", f"layer_norm over {counted(axes, 'axis')} of a tensor of {x.rank}")
    infer.param("weight", [x.shape[x.rank - axes :]], ONES, decay=False)
    infer.param("bias", [x.shape[x.rank - axes :]], ZEROS, decay=False)
    return x


rms_norm = op("rms_norm", "x", eps=option("number", Dim.of(1e-6), POSITIVE))


@rms_norm.shape
def _rms_norm(infer: Infer) -> TensorType:
    """Over the last axis, with a weight (Zhang and Sennrich 2019)."""
    if not infer.x.rank:
        infer.fail("SP301", "rms_norm over the last axis of a number")
    infer.param("weight", [infer.x.shape[-1]], ONES, decay=False)
    return infer.x


batch_norm = op(
    "batch_norm",
    "x",
    gamma=option("number", Dim.of(1)),
    affine=option("bool", True),
    eps=option("number", Dim.of(1e-5), POSITIVE),
    momentum=option("number", Dim.of(0.1), Interval(0, 1)),
)


@batch_norm.shape
def _batch_norm(infer: Infer) -> TensorType:
    """Over axis 1 of [B, C, ..]; `gamma` is the first value of the weight."""
    x = infer.x
    if x.rank < 2:
        infer.fail("SP301", "batch_norm reads [B, C, ..]")
    channels = x.shape[1]
    if infer.flag("affine"):
        infer.param("weight", [channels], Init("constant", (infer.dim("gamma"),)), decay=False)
        infer.param("bias", [channels], ZEROS, decay=False)
    infer.param("running_mean", [channels], ZEROS, role="buffer", decay=False)
    infer.param("running_var", [channels], ONES, role="buffer", decay=False)
    infer.param("num_batches_tracked", [], ZEROS, role="buffer", dtype="i64", decay=False)
    return x


group_norm = op(
    "group_norm",
    "x",
    groups=option("size", within=COUNTED),
    eps=option("number", Dim.of(1e-5), POSITIVE),
)


@group_norm.shape
def _group_norm(infer: Infer) -> TensorType:
    """Over groups of axis 1 of [B, C, ..] (Wu and He 2018)."""
    x = infer.x
    if x.rank < 2:
        infer.fail("SP301", "group_norm reads [B, C, ..]")
    infer.need_whole(x.shape[1] / infer.dim("groups"), "channels in a group")
    infer.param("weight", [x.shape[1]], ONES, decay=False)
    infer.param("bias", [x.shape[1]], ZEROS, decay=False)
    return x
