"""Gradients kept within bounds, by timm's modes.

    norm     all together within a norm
    value    each entry within a value
    agc      those of each unit (a row of a matrix, a filter) within a share of its weights' norm,
             but for the layer that gives the classes (Brock and others, 2021)

A unit's weights are those that are stored: of a slice, the whole rows that it lies in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn

EPS = 1e-3  # of agc: the least norm that a unit's weights count with
Parameters = Mapping[str, nn.Parameter]


def _norm(parameters: Parameters, limit: float, norm: Tensor, last: frozenset[str]) -> None:
    nn.utils.clip_grads_with_norm_(parameters.values(), limit, norm)


def _value(parameters: Parameters, limit: float, norm: Tensor, last: frozenset[str]) -> None:
    nn.utils.clip_grad_value_(parameters.values(), limit)


def _agc(parameters: Parameters, limit: float, norm: Tensor, last: frozenset[str]) -> None:
    for name, parameter in parameters.items():
        gradient = parameter.grad
        if gradient is None or name in last:
            continue
        most = unit_norm(parameter.detach()).clamp_(min=EPS).mul_(limit)
        found = unit_norm(gradient)
        smaller = gradient * (most / found.clamp(min=1e-6))
        gradient.copy_(torch.where(found < most, gradient, smaller))


MODES: Mapping[str, Callable[[Parameters, float, Tensor, frozenset[str]], None]] = MappingProxyType(
    {"norm": _norm, "value": _value, "agc": _agc}
)


def unit_norm(tensor: Tensor) -> Tensor:
    """The norm of each entry of the first axis, as far as there is more than one axis."""
    if tensor.ndim <= 1:
        return torch.linalg.vector_norm(tensor)
    return torch.linalg.vector_norm(tensor, dim=tuple(range(1, tensor.ndim)), keepdim=True)
