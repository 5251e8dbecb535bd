"""A deployed graph as a file for ONNX Runtime, and the network that runs it on tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from spacelang.backends.onnx import runner
from spacelang.backends.torch.inference.deployed import Deployed
from spacelang.backends.torch.lowering import tables
from spacelang.backends.torch.lowering.ports import known, table_of
from spacelang.ir.graph import Graph
from spacelang.ir.node import Node


def file_of(graph: Graph, weights: Mapping[str, Tensor], batch: int) -> bytes:
    """The file of a graph whose decisions are taken (SP605 for an op that it has no row for)."""
    from spacelang.backends.onnx.emit import written

    arrays = {path: tensor.detach().numpy() for path, tensor in weights.items()}
    return written(graph, arrays, lambda node: _table(node).numpy(), batch)


def _table(node: Node) -> Tensor:
    """The entries of an index table."""
    return tables.table(table_of(node).key(lambda size: known(size, {})))


class OnnxNetwork(Deployed):
    """A network that ONNX Runtime runs, with as many threads as PyTorch has when it is opened."""

    def __init__(self, graph: Graph, content: bytes, shape: Sequence[int]) -> None:
        super().__init__(graph, tuple(shape))
        self.runner = runner.Runner(content, torch.get_num_threads())

    def run(self, x: Tensor) -> Tensor:
        """The output, in memory of its own, its entries in order."""
        return torch.from_numpy(self.runner(x.numpy()))


check_installed = runner.check_installed
