"""The module that a step runs where PyTorch's DistributedDataParallel adds the gradients.

    network = wrapped(model, recipe, ranks)      # the model itself where a recipe does not say so

It searches for parameters that no output hangs on; what a pass of it gives may hold any number of
tensors.
"""

from __future__ import annotations

from inspect import signature
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from spacelang.backends.torch.runs.ranks import Ranks
from spacelang.backends.torch.training.recipe import Recipe
from spacelang.diagnostics import SpaceError, error


def wrapped(model: nn.Module, recipe: Recipe, ranks: Ranks) -> nn.Module:
    """The model in PyTorch's wrapper, if it adds gradients (SP708 for several shards a process)."""
    if recipe.reduce != "ddp" or ranks.size == 1:
        return model
    if (shards := len(ranks.shards(recipe.shards))) > 1:
        found = error("SP708", f"ddp has one shard a process, not {shards}")
        raise SpaceError(found.hint(f"--shards {ranks.size}, or --reduce explicit"))
    known = signature(DistributedDataParallel).parameters  # it was renamed
    buffers = next(n for n in ("forward_sync_buffers", "broadcast_buffers") if n in known)
    options: dict[str, Any] = {buffers: False}
    return DistributedDataParallel(model, find_unused_parameters=True, **options)
