"""A head map: how the classifier of other classes becomes one of ours, row by row.

    rows = read_head_map("imagenet_1kto22k.txt")      # a line a class: its row there, -1 for none
    load(model, found, names="published", head_map=rows)

A class that the other classifier has not gets the mean of the rows of all that it has, as TinyViT's
code does it for ImageNet-1k out of 21,841 classes. Whose rows are whose is the user's to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from spacelang.backends.torch.storage import tensor_names
from spacelang.diagnostics import SpaceError, error
from spacelang.ir.graph import Graph

NONE = -1  # the row of a class that is not there
MAX_BYTES = 1 << 24


def read_head_map(path: str | Path) -> tuple[int, ...]:
    """The rows of a file, a whole number a line (SP702 for another file)."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ValueError("it is larger than 16 MiB")
        rows = tuple(map(int, content.decode("ascii").split()))
    except (OSError, ValueError) as failed:
        reason = failed.strerror if isinstance(failed, OSError) else str(failed)
        found = error("SP702", f"the head map {path} cannot be read").note(str(reason))
        raise SpaceError(found.hint(f"a line a class: its row, or {NONE}")) from failed
    return rows


def mapped(name: str, tensor: Tensor, rows: Sequence[int]) -> Tensor:
    """A weight or bias of a classifier with the rows of a map (SP606 for rows that it lacks)."""
    if not tensor.is_floating_point() or not tensor.dim():
        return tensor  # no classifier, as who loads it will say
    count, low, high = len(tensor), min(rows, default=NONE), max(rows, default=NONE)
    if low < NONE or not 0 <= high < count:
        found = error("SP606", f"the head map has rows {low} to {high}, {name} has {count}")
        raise SpaceError(found.hint(f"a line a class: its row from 0 on, or {NONE} for none"))
    index = torch.tensor(rows)
    mean = tensor[index[index != NONE]].mean(0, keepdim=True)
    return torch.cat([tensor, mean])[index]  # -1 is the last of them


__all__ = ["mapped", "read_head_map"]


def last_layer(graph: Graph) -> frozenset[str]:
    """The tensors of the layer that gives the first output, by their names in the state dict."""
    (output, *_) = (o for o in graph.outputs if not o.training)
    node = next(n for n in graph.root.nodes if n.id == output.value.node)
    paths: Sequence[str] = [graph.top.param(view.param) for view in node.params.values()]
    return frozenset(name for path in paths for name in tensor_names(graph.storages[path]))
