"""Whether a run can compile its supernet, asked before anything of it is written.

check_compiling(recipe, ranks, device)     # SP708, SP605 with what would help
"""

from __future__ import annotations

import torch

from spacelang.backends.torch.runs.ranks import Ranks
from spacelang.backends.torch.training.recipe import Recipe
from spacelang.diagnostics import SpaceError, error


def check_compiling(recipe: Recipe, ranks: Ranks, device: str) -> None:
    """SP708 for settings that do not go with compiling; SP605 where it is for a CPU and there is
    no C++ compiler."""
    if not recipe.torchcompile:
        return
    if recipe.reduce != "explicit" and ranks.size > 1:
        found = error("SP708", f"--torchcompile does not go with --reduce {recipe.reduce}")
        raise SpaceError(found.hint("leave out one of them"))
    if torch.device(device).type == "cpu":
        find_compiler()


def refuse_compiling(recipe: Recipe, who: str) -> None:
    """SP708 where somebody trains who compiles nothing."""
    if recipe.torchcompile:
        found = error("SP708", f"{who} compiles nothing: --torchcompile is for train and distill")
        raise SpaceError(found.hint("leave out --torchcompile"))


def find_compiler() -> None:
    """SP605 unless the C++ compiler is there that PyTorch would call."""
    from torch._inductor.cpp_builder import get_cpp_compiler  # which takes a second
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except (InvalidCxxCompiler, OSError, RuntimeError) as failed:
        found = error("SP605", "--torchcompile finds no C++ compiler that runs")
        told = str(failed).partition("\n")[0]
        raise SpaceError(
            found.note(told).hint("install a C++ compiler (CXX names it), or leave it out")
        ) from failed
