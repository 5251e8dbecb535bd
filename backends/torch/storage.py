"""The module tree that owns the parameters: scopes named as the paths are.

    encoder[3].attn.qkv.weight    is    model.encoder.3.attn.qkv.weight

A storage is there once, whoever shares it; a bank has a tensor for each value of its decisions,
of that candidate's size: `weight.0`, `weight.1`. Running statistics are buffers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from keyword import iskeyword
from typing import Any

import torch
from torch import Tensor, nn

from spacelang.backends.torch.initialize import initial
from spacelang.backends.torch.lowering.ports import table_of
from spacelang.backends.torch.lowering.tables import TABLES, TableKey, table
from spacelang.diagnostics import SpaceError, error
from spacelang.ir.dialect import dotted
from spacelang.ir.graph import Graph
from spacelang.ir.param import Param
from spacelang.ir.storage import Storage, merged, picks

DTYPES = {"f32": torch.float32, "f64": torch.float64, "i64": torch.int64, "bool": torch.bool}
LABEL = re.compile(r"\w+", re.ASCII)
Reference = tuple[nn.Module, str]


class Scope(nn.Module):
    """A prefix of paths. What is called there runs through it, so that hooks on modules see it."""

    def forward(
        self,
        function: Callable[..., Any],
        tensors: Sequence[Tensor],
        weights: Sequence[Reference],
        others: Sequence[object],
        by_mode: bool,
    ) -> Tensor | tuple[Tensor, ...]:
        return apply(self, function, tensors, weights, others, by_mode)


def apply(
    scope: nn.Module,
    function: Callable[..., Any],
    tensors: Sequence[Tensor],
    weights: Sequence[Reference],
    others: Sequence[object],
    by_mode: bool,
) -> Tensor | tuple[Tensor, ...]:
    """A lowered function on tensors, on weights as they are now, and on its other ports."""
    stored = [getattr(module, name) for module, name in weights]
    mode = (scope.training,) if by_mode else ()
    return function(*tensors, *stored, *others, *mode)


def dtype_of(param: Param) -> torch.dtype:
    """The type of a parameter's tensors (SP605 for one that PyTorch has under no name of ours)."""
    found = DTYPES.get(param.dtype)
    if found is None:
        told = error("SP605", f"{param.path} is of {param.dtype}, no type of a tensor", param.span)
        raise SpaceError(told.hint(f"there are {', '.join(DTYPES)}"))
    return found


def tensor_names(storage: Storage) -> tuple[str, ...]:
    """The names in the state dict of the tensors behind a storage, in the order of the bank."""
    name = dotted(storage.path)
    if not storage.bank:
        return (name,)
    return tuple(f"{name}.{i}" for i in range(len(storage.tensors)))


def grow(root: nn.Module, graph: Graph, seed: int) -> dict[str, tuple[Reference, ...]]:
    """Give a root its scopes and parameters; where the tensors of each storage are, by its path.

    The first values are drawn from one generator in the order of the network.
    """
    generator = torch.Generator().manual_seed(seed)
    start = initial(graph)
    references: dict[str, tuple[Reference, ...]] = {}
    for path, storage in graph.storages.items():
        found: list[Reference] = []
        for position, name in enumerate(tensor_names(storage)):
            owner, last = _owner(root, name, path)
            sizes = merged(storage.tensors[position])
            tensor = torch.zeros(sizes, dtype=dtype_of(storage.param))
            start[path](tensor, generator, picks(storage.bank, position))
            _add(owner, last, tensor, storage, path)
            found.append((owner, last))
        references[path] = tuple(found)
    for path, key in labelled_tables(graph).items():
        owner, last = _owner(root, dotted(path), path)
        _check_free(owner, last, path)
        owner.register_buffer(last, table(key))
    return references


def _owner(root: nn.Module, name: str, path: str) -> tuple[nn.Module, str]:
    """The scope of a name, made where it is missing, and the last label."""
    check_labels(name)
    *prefix, last = name.split(".")
    for label in prefix:
        root = _child(root, label, path)
    return root, last


def labelled_tables(graph: Graph) -> dict[str, TableKey]:
    """Index tables with a label and known sizes: buffers of the state dict, by their path."""
    found: dict[str, TableKey] = {}
    for place in graph.places():
        node = place.node
        if node.op in TABLES and node.label:
            key = table_of(node).at(place.instance).known()
            if key is not None:
                found[place.path] = key
    return found


def _child(owner: nn.Module, label: str, path: str) -> nn.Module:
    found = owner._modules.get(label)
    if found is None:
        _check_free(owner, label, path)
        found = Scope()
        owner.add_module(label, found)
    return found


def _add(owner: nn.Module, name: str, tensor: Tensor, storage: Storage, path: str) -> None:
    _check_free(owner, name, path)
    if storage.param.role == "weight":
        owner.register_parameter(name, nn.Parameter(tensor))
    else:
        owner.register_buffer(name, tensor, persistent=storage.param.persistent)


def check_labels(path: str) -> None:
    """SP605 where a dotted path is none of modules: `torch.fx` writes it into source as it is."""
    if not all(map(LABEL.fullmatch, path.split("."))):
        raise SpaceError(error("SP605", f"{path!r} is no path of modules"))


def _check_free(owner: nn.Module, label: str, path: str) -> None:
    if label in owner._modules or label in owner._parameters or label in owner._buffers:
        found = error("SP605", f"{label} in {path} is there twice, one inside of the other")
        raise SpaceError(found.hint("a module has a tensor or a module under one name, not both"))
    if hasattr(owner, label) or iskeyword(label):
        whose = "Python" if iskeyword(label) else "PyTorch's modules"
        found = error("SP605", f"{label} in {path} is a word of {whose}")
        raise SpaceError(found.hint("give it another label: .. as NAME"))
