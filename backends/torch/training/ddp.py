"""The module that a step runs where PyTorch's DistributedDataParallel adds the gradients.

    network = wrapped(model, recipe, ranks)      # the model itself where a recipe does not say so
    reduce(network, now=True)

It searches for parameters that no output hangs on; what a pass gives may hold any number of
tensors. Gradients are sums over the processes, as those are that it knows nothing of.
"""

from __future__ import annotations

from inspect import signature
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from spacelang.backends.torch.runs.ranks import Ranks
from spacelang.backends.torch.training.recipe import Recipe
from spacelang.diagnostics import SpaceError, error


def check_shards(recipe: Recipe, ranks: Ranks) -> None:
    """SP708 for several shards a process, where PyTorch adds their gradients."""
    if recipe.reduce != "ddp" or ranks.size == 1:
        return
    if (shards := len(ranks.shards(recipe.shards))) > 1:
        found = error("SP708", f"ddp has one shard a process, not {shards}")
        raise SpaceError(found.hint(f"--shards {ranks.size}, or --reduce explicit"))


def wrapped(model: nn.Module, recipe: Recipe, ranks: Ranks) -> nn.Module:
    """The model in PyTorch's wrapper, if it adds gradients (SP708 as `check_shards`)."""
    check_shards(recipe, ranks)
    if recipe.reduce != "ddp" or ranks.size == 1:
        return model
    known = signature(DistributedDataParallel).parameters  # it was renamed
    buffers = next(n for n in ("forward_sync_buffers", "broadcast_buffers") if n in known)
    options: dict[str, Any] = {buffers: False}
    found = DistributedDataParallel(model, find_unused_parameters=True, **options)
    found.register_comm_hook(None, lambda _, bucket: _sum(bucket))  # its own takes the mean
    return found


def reduce(network: nn.Module, now: bool) -> None:
    """Whether the next pass of a wrapper adds gradients among the processes, or keeps them here."""
    if isinstance(network, DistributedDataParallel):
        network.require_backward_grad_sync = now  # as `no_sync` does


def _sum(bucket: Any) -> Future[Tensor]:
    """The sum of a bucket of gradients over the processes."""
    sent: Any = dist.all_reduce(bucket.buffer(), async_op=True)
    return sent.get_future().then(lambda done: done.value()[0])
