"""Whether the weights of a training are cut among its processes, and what does not go with that.

    pieces = pieces_of(model, recipe, ranks)     # None where every process has all weights

The work is that of `fsdp.py`, which is imported where it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from spacelang.backends.torch.networks import Networks
from spacelang.backends.torch.runs.ranks import Ranks
from spacelang.backends.torch.supernet import Supernet
from spacelang.backends.torch.training.ddp import check_shards
from spacelang.backends.torch.training.recipe import Recipe
from spacelang.diagnostics import SpaceError, error

if TYPE_CHECKING:
    from spacelang.backends.torch.training.fsdp import Pieces


def check_pieces(recipe: Recipe, ranks: Ranks, several: bool = False) -> None:
    """SP708 for settings that do not go with weights in pieces, or with gradients that PyTorch
    adds. `several` says that a step may run a part of the network more than once, whatever the law
    of the recipe is."""
    check_shards(recipe, ranks)
    if recipe.reduce != "fsdp" or ranks.size == 1:
        return
    # A process adds the passes of all its shards one by one: for two of one pass each, and for one
    # of several, that is the order of the tree.
    most = 1 if several or recipe.law == "sandwich" else 2
    count = len(ranks.shards(recipe.shards))
    fewer = f"takes at most {most} shards a process here, not {count}"
    reasons = (
        (recipe.clip_mode == "agc", "limits no units of weights: --clip-mode norm or value"),
        (recipe.unsampled == "freeze", "freezes no part of a weight: --unsampled mixed or decay"),
        (count > most, f"{fewer}: --shards {most * ranks.size}"),
    )
    for wrong, reason in reasons:
        if wrong:
            found = error("SP708", f"fsdp {reason}")
            raise SpaceError(found.hint("or --reduce explicit, where each process has all weights"))


def pieces_of(model: nn.Module, recipe: Recipe, ranks: Ranks) -> Pieces | None:
    """Cut a supernet, or the networks of a program, in place, where a recipe says so and there are
    several processes (SP708)."""
    check_pieces(recipe, ranks)
    if recipe.reduce != "fsdp" or ranks.size == 1:
        return None
    from spacelang.backends.torch.training import fsdp  # which takes half a second

    if isinstance(model, Networks):
        return fsdp.of_networks(model, ranks)
    if not isinstance(model, Supernet):
        raise SpaceError(error("SP708", "fsdp cuts the weights of a supernet alone"))
    return fsdp.of_supernet(model, ranks)
