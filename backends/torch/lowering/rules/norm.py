"""Rules of the norms."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import fx

from spacelang.backends.torch.lowering.emit import Emit, lowers
from spacelang.backends.torch.lowering.functions import batch_norm, batch_norm_through


@lowers("layer_norm")
def _layer_norm(emit: Emit) -> fx.Node:
    axes, shape = emit.whole("axes"), emit.type().shape
    weight, bias = emit.param("weight"), emit.param("bias")
    sizes = tuple(emit.size(d) for d in shape[len(shape) - axes :])
    if axes > 1:  # stored as one axis
        assert weight is not None
        assert bias is not None
        weight, bias = (emit.method("unflatten", w, 0, sizes) for w in (weight, bias))
    return emit.call(F.layer_norm, emit.x, sizes, weight, bias, emit.number("eps"))


@lowers("rms_norm")
def _rms_norm(emit: Emit) -> fx.Node:
    sizes = (emit.size(emit.type().shape[-1]),)
    return emit.call(F.rms_norm, emit.x, sizes, emit.param("weight"), emit.number("eps"))


@lowers("group_norm")
def _group_norm(emit: Emit) -> fx.Node:
    groups = emit.size(emit.dim("groups"))
    weight, bias = emit.param("weight"), emit.param("bias")
    return emit.call(F.group_norm, emit.x, groups, weight, bias, emit.number("eps"))


@lowers("batch_norm")
def _batch_norm(emit: Emit) -> fx.Node:
    """The running statistics are slices of the stored ones, and are updated in place, or entries
    of them, and are written back."""
    statistics = [emit.param("running_mean"), emit.param("running_var")]
    others = [emit.param(role) for role in ("num_batches_tracked", "weight", "bias")]
    numbers = [emit.number("momentum"), emit.number("eps")]
    mean, variance = (read for read in statistics if read is not None)
    if mean.target is not torch.index_select:
        return emit.by_mode(batch_norm, emit.x, mean, variance, *others, *numbers)
    stored, entries = [mean.args[0], variance.args[0]], mean.args[2]
    for read in (variance, mean):
        emit.frame.graph.erase_node(read)
    return emit.by_mode(batch_norm_through, emit.x, *stored, *others, entries, *numbers)
