"""The PyTorch backend, as the plug-in table knows it."""

from __future__ import annotations

from dataclasses import dataclass

from spacelang.backends.torch.lowering.emit import rule_of
from spacelang.backends.torch.lowering.kernels import with_fused, with_kernels
from spacelang.backends.torch.supernet import Supernet
from spacelang.diagnostics import Report, error
from spacelang.ir.graph import Graph
from spacelang.ir.node import STRUCTURAL, Node


@dataclass(frozen=True)
class TorchBackend:
    """Lowers a graph to a supernet; without decisions that is the network."""

    name: str = "torch"

    def supports(self, node: Node) -> bool:
        """Whether a node can be lowered."""
        return node.op in STRUCTURAL or rule_of(node.op) is not None

    def lower(self, graph: Graph, seed: int = 0) -> Supernet:
        """The supernet, its first weights drawn from a seed (SP605 for each op without a rule)."""
        report = Report()
        for block in (graph.root, *graph.blocks.values()):
            for node in block.everywhere():
                if not self.supports(node):
                    found = error(
                        "SP605", f"the torch backend has no rule for {node.op}", node.span
                    )
                    report.add(found)
        report.check()
        return self.build(graph, seed)

    def build(self, graph: Graph, seed: int) -> Supernet:
        """The supernet of a graph whose ops have rules."""
        return Supernet(graph, seed)


@dataclass(frozen=True)
class TritonBackend(TorchBackend):
    """The same with fused kernels where they fit."""

    name: str = "triton"

    def build(self, graph: Graph, seed: int) -> Supernet:
        """The supernet, its groups computed by kernels."""
        with with_kernels():
            return Supernet(graph, seed)


@dataclass(frozen=True)
class FusedBackend(TorchBackend):
    """The same with attention and MLPs that keep little for the backward pass."""

    name: str = "fused"

    def build(self, graph: Graph, seed: int) -> Supernet:
        """The supernet, attention and MLPs as one function each."""
        with with_fused():
            return Supernet(graph, seed)
