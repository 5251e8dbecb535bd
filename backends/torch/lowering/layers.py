"""Layers: calls of functions on whole weights of one label, printed as the modules of torch.nn.

F.linear(x, fc1.weight, fc1.bias)      self.fc1 = nn.Linear(width, hidden);  self.fc1(x)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import fx

from spacelang.backends.torch.lowering.functions import batch_norm
from spacelang.ir.dim import Dim


@dataclass(frozen=True)
class Weight:
    """A parameter or buffer of a printed class: its dotted path below it, and its sizes there."""

    path: str
    sizes: tuple[Dim, ...]
    buffer: bool
    dtype: torch.dtype

    @property
    def prefix(self) -> str:
        return self.path.rpartition(".")[0]


Text = Callable[[object], str]
Roles = Mapping[str, Weight]


@dataclass(frozen=True)
class Row:
    """A function that a module of torch.nn stands for: where its weights are, how it is made."""

    roles: Mapping[int, str]
    make: Callable[[fx.Node, Roles, Text], str]


def _linear(node: fx.Node, found: Roles, text: Text) -> str:
    out, inner = found["weight"].sizes
    return f"nn.Linear({text(inner)}, {text(out)}{_bias(found)})"


def _conv(node: fx.Node, found: Roles, text: Text) -> str:
    out, inner, kernel, _ = found["weight"].sizes
    usual = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
    given = {name: node.kwargs[name] for name in usual if node.kwargs[name] != usual[name]}
    options = "".join(f", {name}={text(value)}" for name, value in given.items())
    groups = text(node.kwargs["groups"])
    channels = (
        text(inner) if groups == "1" else groups if inner == 1 else f"{text(inner)} * {groups}"
    )
    return f"nn.Conv2d({channels}, {text(out)}, {text(kernel)}{options}{_bias(found)})"


def _bias(found: Roles) -> str:
    return "" if "bias" in found else ", bias=False"


def _layer_norm(node: fx.Node, found: Roles, text: Text) -> str:
    return f"nn.LayerNorm({text(found['weight'].sizes[0])}{_unless(1e-5, 'eps', node.args[4])})"


def _rms_norm(node: fx.Node, found: Roles, text: Text) -> str:
    return f"nn.RMSNorm({text(found['weight'].sizes[0])}, eps={text(node.args[3])})"


def _group_norm(node: fx.Node, found: Roles, text: Text) -> str:
    channels, eps = text(found["weight"].sizes[0]), _unless(1e-5, "eps", node.args[4])
    return f"nn.GroupNorm({text(node.args[1])}, {channels}{eps})"


BATCH_NORMS = {2: "1d", 3: "1d", 4: "2d", 5: "3d"}
"""Which module takes tensors of a rank."""


def _batch_norm(node: fx.Node, found: Roles, text: Text) -> str:
    kind = BATCH_NORMS[node.meta["rank"]]
    options = _unless(1e-5, "eps", node.args[7]) + _unless(0.1, "momentum", node.args[6])
    options += "" if "weight" in found else ", affine=False"
    return f"nn.BatchNorm{kind}({text(found['running_mean'].sizes[0])}{options})"


def _unless(usual: float, name: str, value: object) -> str:
    return "" if value == usual else f", {name}={value!r}"


ROWS: dict[object, Row] = {
    F.linear: Row({1: "weight", 2: "bias"}, _linear),
    F.conv2d: Row({1: "weight", 2: "bias"}, _conv),
    F.layer_norm: Row({2: "weight", 3: "bias"}, _layer_norm),
    F.rms_norm: Row({2: "weight"}, _rms_norm),
    F.group_norm: Row({2: "weight", 3: "bias"}, _group_norm),
    batch_norm: Row(
        {1: "running_mean", 2: "running_var", 3: "num_batches_tracked", 4: "weight", 5: "bias"},
        _batch_norm,
    ),
}


def layer(node: fx.Node, weights: Mapping[str, Weight], text: Text) -> tuple[str, str] | None:
    """The path and the making of the module that a call is, if it is all that reads its weights."""
    row = ROWS.get(node.target)
    if row is None:
        return None
    found: dict[str, Weight] = {}
    for position, role in row.roles.items():
        argument = node.args[position]
        if argument is None:
            continue
        if not isinstance(argument, fx.Node) or len(argument.users) > 1:
            return None
        path = argument.meta.get("weight")
        if path is None:
            return None
        found[role] = weights[path]
    prefixes = {weight.prefix for weight in found.values()}
    prefix = next(iter(prefixes), "")
    named = {f"{prefix}.{role}" for role in found}
    below = {path for path in weights if path.startswith(prefix + ".")}
    if (
        not prefix
        or len(prefixes) > 1
        or named != {w.path for w in found.values()}
        or below != named
    ):
        return None
    if row is ROWS[batch_norm] and node.meta["rank"] not in BATCH_NORMS:
        return None
    return prefix, row.make(node, found, text)
