"""Rewritings of graphs; `run(graph, "multiplex{..}, irpe{..}")` runs them by name."""

from spacelang.passes.base import BlockSource, Insertion, Pass
from spacelang.passes.pipeline import run

__all__ = ["BlockSource", "Insertion", "Pass", "run"]
