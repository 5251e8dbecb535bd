"""Cream's supernet in its published form: one path, each block a chain of modules.

    network = Cream(weights.save(model, names="published"), graph, path)
    logits = network(images)

Swish keeps its input alone and works the rest out again, by a function of its own; statistics of
norms are those of the batch, and the running ones move on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from spacelang.ir.decision import Assignment
from spacelang.ir.graph import Graph

CHOICES = ("k3e4", "k3e6", "k5e4", "k5e6", "k7e4", "k7e6")
STRIDES = (2, 2, 2, 1, 2)  # of the first block of stages 1 to 5


class Swish(torch.autograd.Function):
    """x sigmoid(x), of which only x is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        gate = torch.sigmoid(x)
        return grad_outputs[0] * (gate * (1 + x * (1 - gate)))


def swish(x: Tensor) -> Tensor:
    found = Swish.apply(x)
    assert isinstance(found, Tensor)
    return found


class Cream:
    """One path of the supernet's weights by their published names, in training."""

    def __init__(self, state: Mapping[str, Tensor], graph: Graph, assignment: Assignment) -> None:
        self.state = state
        chosen = {key: CHOICES.index(str(value)) for key, value in assignment.items()}
        depths = [len({key.split("]")[1] for key in chosen if key.startswith(f"blocks[{s}]")})
                  for s in range(1, 6)]  # fmt: skip
        self.blocks = [
            (f"blocks.{s}.{b}.{chosen[f'blocks[{s}][{b}].op']}", STRIDES[s - 1] if b == 0 else 1)
            for s, depth in enumerate(depths, start=1)
            for b in range(depth)
        ]

    def __call__(self, x: Tensor) -> Tensor:
        x = swish(self._norm(self._conv(x, "conv_stem", stride=2), "bn1"))
        x = x + self._first(x, "blocks.0.0")
        for name, stride in self.blocks:
            x = self._block(x, name, stride)
        x = swish(self._norm(self._conv(x, "blocks.6.0.conv"), "blocks.6.0.bn1"))
        x = swish(self._conv(F.adaptive_avg_pool2d(x, 1), "conv_head")).flatten(1)
        return F.linear(x, self.state["classifier.weight"], self.state["classifier.bias"])

    def _conv(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight, bias = self.state[f"{name}.weight"], self.state.get(f"{name}.bias")
        groups = x.shape[1] // weight.shape[1]
        return F.conv2d(x, weight, bias, stride, weight.shape[-1] // 2, 1, groups)

    def _norm(self, x: Tensor, name: str) -> Tensor:
        mean, variance = self.state[f"{name}.running_mean"], self.state[f"{name}.running_var"]
        weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        self.state[f"{name}.num_batches_tracked"].add_(1)
        return F.batch_norm(x, mean, variance, weight, bias, training=True)

    def _squeezed(self, x: Tensor, name: str) -> Tensor:
        small = F.relu(self._conv(F.adaptive_avg_pool2d(x, 1), f"{name}.conv_reduce"))
        return x * (F.relu6(self._conv(small, f"{name}.conv_expand") + 3) / 6)

    def _first(self, x: Tensor, name: str) -> Tensor:
        x = swish(self._norm(self._conv(x, f"{name}.conv_dw"), f"{name}.bn1"))
        x = self._squeezed(x, f"{name}.se")
        return self._norm(self._conv(x, f"{name}.conv_pw"), f"{name}.bn2")

    def _block(self, x: Tensor, name: str, stride: int) -> Tensor:
        y = swish(self._norm(self._conv(x, f"{name}.conv_pw"), f"{name}.bn1"))
        y = swish(self._norm(self._conv(y, f"{name}.conv_dw", stride), f"{name}.bn2"))
        y = self._squeezed(y, f"{name}.se")
        y = self._norm(self._conv(y, f"{name}.conv_pwl"), f"{name}.bn3")
        return x + y if y.shape == x.shape else y
