"""An optimiser's state as named tensors and JSON, and back, bit for bit.

    exp_avg/encoder[0].attn.qkv.weight: f32[240, 192]        (a tensor a parameter and quantity)
    {"groups": [{"params": ["..."], "options": {"lr": 0.001, "betas": {"tuple": [0.9, 0.999]}}}],
     "numbers": {}}

Parameters go by their names in the model, so a new order of the model's parameters does no harm.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

# Quantities that have the shape of their parameter.
_SHAPED = frozenset({"exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer"})

# What some optimisers (LAMB of timm) keep in a group from their first step on.
_COUNTERS = frozenset({"step"})


def optimizer_tensors(
    optimizer: Optimizer, model: nn.Module
) -> tuple[dict[str, Tensor], dict[str, object]]:
    """The tensors of an optimiser's state, and its groups and plain numbers as JSON.

    ValueError for an optimiser whose state is more than tensors and numbers a parameter.
    """
    names = _names(model)
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if any(parameter not in names for parameter in (*held, *optimizer.state)):
        raise ValueError("the optimiser holds parameters that are not the model's")
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, object] = {}
    for parameter, quantities in optimizer.state.items():
        name = names[parameter]
        for quantity, value in quantities.items():
            key = f"{quantity}/{name}"
            if isinstance(value, Tensor):
                tensors[key] = value
            else:
                numbers[key] = _encode(value, key)
    groups = [
        {
            "params": [names[parameter] for parameter in group["params"]],
            "options": {
                option: _encode(value, option)
                for option, value in group.items()
                if option != "params"
            },
        }
        for group in optimizer.param_groups
    ]
    return tensors, {"groups": groups, "numbers": numbers}


def restore_optimizer(
    optimizer: Optimizer,
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    settings: Mapping[str, object],
) -> None:
    """Make an optimiser as it was; the model and the groups' parameters must be the same.

    Not by `load_state_dict`, which casts a state to the type of its parameter. ValueError, before
    anything is changed, names what does not fit.
    """
    names = _names(model)
    parameters = {name: parameter for parameter, name in names.items()}
    state: dict[Tensor, dict[str, object]] = {}
    for key, tensor in tensors.items():
        quantity, parameter = _owner(key, parameters)
        if quantity in _SHAPED and tensor.shape != parameter.shape:
            raise ValueError(f"{key} is {list(tensor.shape)}, not {list(parameter.shape)}")
        place = torch.device("cpu") if quantity == "step" else parameter.device
        state.setdefault(parameter, {})[quantity] = tensor.to(place, copy=True)
    for key, value in _mapping(settings, "numbers").items():
        quantity, parameter = _owner(key, parameters)
        state.setdefault(parameter, {})[quantity] = _decode(value)
    groups = settings.get("groups")
    present = [[names.get(p) for p in group["params"]] for group in optimizer.param_groups]
    if not isinstance(groups, list) or [_params(group) for group in groups] != present:
        raise ValueError("its groups hold other parameters")
    options = [
        {name: _decode(value) for name, value in _mapping(group, "options").items()}
        for group in groups
    ]
    for own, found in zip(optimizer.param_groups, options, strict=True):
        different = sorted(((own.keys() - {"params"}) ^ found.keys()) - _COUNTERS)
        if different:
            raise ValueError(f"another kind of optimiser or version: {', '.join(different)}")
    for own, found in zip(optimizer.param_groups, options, strict=True):
        own.update(found)
    on_device = any(own.get("capturable") or own.get("fused") for own in optimizer.param_groups)
    optimizer.state.clear()
    for parameter, quantities in state.items():
        step = quantities.get("step")
        if on_device and isinstance(step, Tensor):  # these variants count where the parameter is
            quantities["step"] = step.to(parameter.device)
        optimizer.state[parameter] = quantities


def _names(model: nn.Module) -> dict[Tensor, str]:
    return {parameter: name for name, parameter in model.named_parameters()}


def _owner(key: str, parameters: Mapping[str, Tensor]) -> tuple[str, Tensor]:
    quantity, _, name = key.partition("/")
    if name not in parameters:
        raise ValueError(f"{key} belongs to no parameter")
    return quantity, parameters[name]


def _params(group: object) -> object:
    return cast(dict[str, object], group).get("params") if isinstance(group, dict) else None


def _mapping(settings: object, key: str) -> dict[str, object]:
    found = cast(dict[str, object], settings).get(key) if isinstance(settings, Mapping) else None
    if not isinstance(found, dict):
        raise ValueError(f"its {key} are missing")
    return cast(dict[str, object], found)


def _encode(value: Any, name: str) -> object:
    """A setting as JSON that `_decode` reads back exactly, floats too."""
    match value:
        case None | bool() | int() | str():
            return value
        case float() if math.isfinite(value):
            return value
        case tuple():
            return {"tuple": [_encode(part, name) for part in value]}
        case list():
            return [_encode(part, name) for part in value]
        case torch.dtype():
            return {"dtype": str(value).removeprefix("torch.")}
        case Tensor() if value.dim() == 0 and value.dtype in (torch.float32, torch.float64):
            return {
                "tensor": [_encode(value.item(), name), str(value.dtype).removeprefix("torch.")]
            }
        case _:
            raise ValueError(f"{name} is a {type(value).__name__}, which no checkpoint holds")


def _decode(value: object) -> object:
    match value:
        case {"tuple": list(parts)}:
            return tuple(_decode(part) for part in parts)
        case {"tensor": [float(number), ("float32" | "float64") as dtype]}:
            return torch.tensor(number, dtype=getattr(torch, dtype))
        case {"dtype": ("bfloat16" | "float16" | "float32" | "float64") as name}:
            return getattr(torch, name)
        case dict():
            raise ValueError(f"{value} is no setting")
        case list():
            return [_decode(part) for part in value]
        case _:
            return value
