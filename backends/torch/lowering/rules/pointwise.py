"""Rules of arithmetic, activations, dropout and drop path."""

from __future__ import annotations

import operator

import torch
import torch.nn.functional as F
from torch import fx

from spacelang.backends.torch.lowering.emit import Emit, lowers
from spacelang.backends.torch.lowering.frame import Result
from spacelang.backends.torch.lowering.functions import dropout

ARITHMETIC = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
}
ACTIVATIONS = {
    "relu": torch.relu,
    "gelu": F.gelu,
    "swish": F.silu,
    "sigmoid": torch.sigmoid,
    "hard_sigmoid": F.hardsigmoid,
    "hard_swish": F.hardswish,
    "tanh": torch.tanh,
    "exp": torch.exp,
    "sqrt": torch.sqrt,
    "abs": torch.abs,
}


@lowers(*ARITHMETIC)
def _arithmetic(emit: Emit) -> fx.Node:
    function = ARITHMETIC[emit.node.op]
    if len(emit.node.operands) == 2:
        return emit.call(function, *emit.operands)
    number = emit.number("number")
    return (
        emit.call(function, number, emit.x)
        if emit.flag("flipped")
        else emit.call(function, emit.x, number)
    )


@lowers(*ACTIVATIONS)
def _activation(emit: Emit) -> fx.Node:
    return emit.call(ACTIVATIONS[emit.node.op], emit.x)


@lowers("softmax")
def _softmax(emit: Emit) -> fx.Node:
    return emit.method("softmax", emit.x, -1)


@lowers("sum_of")
def _sum_of(emit: Emit) -> fx.Node:
    total, *others = emit.operands
    for other in others:
        total = emit.call(operator.add, total, other)
    return total


@lowers("mixture")
def _mixture(emit: Emit) -> fx.Node:
    """The first operand has a weight for each of the others."""
    total: fx.Node | None = None
    for number, x in enumerate(emit.operands[1:]):
        weight = emit.call(operator.getitem, emit.x, number)
        part = emit.call(operator.mul, weight, x)
        total = part if total is None else emit.call(operator.add, total, part)
    assert total is not None
    return total


@lowers("identity")
def _identity(emit: Emit) -> Result:
    return emit.x


@lowers("dropout")
def _dropout(emit: Emit) -> fx.Node:
    rate = emit.number("rate")
    return emit.x if rate == 0 else emit.by_mode(dropout, emit.x, rate)


@lowers("drop_path")
def _drop_path(emit: Emit) -> fx.Node:
    return emit.frame.drop_path(emit.node, emit.x, emit.dim("rate"))
