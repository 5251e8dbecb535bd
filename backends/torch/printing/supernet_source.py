"""Printed supernets: a whole space as readable PyTorch, a function a block, that needs torch alone.

    text = print_supernet(graph)

A block is written once: its sizes and decisions are arguments, weights are read by slices, and what
is there or not is an `if`. The class `Network` owns the weights under the names of the supernet.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from spacelang.backends.torch.lowering.frame import Result, one_or_all
from spacelang.backends.torch.lowering.lower import Lowering
from spacelang.backends.torch.lowering.ports import identifier
from spacelang.backends.torch.lowering.program import main_nodes
from spacelang.backends.torch.lowering.tables import TABLES
from spacelang.backends.torch.printing import shared
from spacelang.backends.torch.printing.block_printer import MODE
from spacelang.backends.torch.printing.blocks import BlockWork, Need
from spacelang.backends.torch.printing.expressions import literal
from spacelang.backends.torch.printing.source import HELPERS, NETWORK, check_imports, helper_texts
from spacelang.backends.torch.printing.spell import free_name, indented, quoted
from spacelang.backends.torch.storage import dtype_of, labelled_tables, tensor_names
from spacelang.ir.block import Block
from spacelang.ir.dialect import dotted
from spacelang.ir.graph import Graph
from spacelang.ir.node import Value
from spacelang.ir.storage import merged

PARTS = (shared.below, shared.exact, shared.Weights, shared.SharedNetwork)

INPUTS = ("w", "d", "Callable", "Mapping", "Sequence", "Fraction", "math")  # names in use


@dataclass(frozen=True)
class FunctionText:
    """The function of a block: what it takes beside tensors, by the names of the arguments."""

    name: str
    needs: Mapping[Need, str]


def print_supernet(graph: Graph) -> str:
    """A Python module whose class `Network` is every network of a space (SP605 if none can be)."""
    return SupernetSource(graph).text()


class SupernetSource:
    """The functions of a space, callees first, and the functions that they call."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.lowering = graph, Lowering(graph)
        self.main = main_nodes(graph, graph.root)
        self.helpers: dict[str, Callable[..., object]] = {}
        self.functions: dict[str, FunctionText] = {}
        self.texts: list[str] = []
        self.extents = False
        helpers = {name for module in HELPERS for name in vars(module)}
        self.taken = {NETWORK, *(part.__name__ for part in PARTS), *helpers, *INPUTS}

    def function(self, block: Block) -> FunctionText:
        """The function of a block, printed at its first use."""
        if block.name not in self.functions:
            self.functions[block.name] = self._print(block, identifier(block.name))
        return self.functions[block.name]

    def results(self, block: Block, values: Mapping[Value, Result], every: bool) -> Any:
        """What the function of a block returns; of the network as the supernet does."""
        if block is not self.graph.root:
            return one_or_all(tuple(values[v] for v in block.outputs))
        found = {o.name: values[o.value] for o in self.graph.outputs if every or not o.training}
        return next(iter(found.values())) if len(found) == 1 and not every else found

    def _print(self, block: Block, name: str, every: bool = False) -> FunctionText:
        name = free_name(name, self.taken)
        self.taken.add(name)
        work = BlockWork(self, block, name, every)
        self.texts.append(work.text())
        return FunctionText(name, work.arguments)

    def text(self) -> str:
        """The whole module, proved to parse and to import nothing but torch."""
        graph = self.graph
        title = identifier(graph.name)
        main = self._print(graph.root, f"{title}_network")
        methods = [_method("forward", main.name, "What the active network gives.")]
        if any(o.training for o in graph.outputs):
            every = self._print(graph.root, f"{title}_outputs", every=True)
            methods.append(_method("all_outputs", every.name, "Every output, for training too."))
        network = self._network(methods)
        parts = [inspect.getsource(part) for part in PARTS]
        body = "\n\n".join([*helper_texts(self.helpers.values()), *parts, *self.texts, network])
        math = "import math\n" if "math." in body else ""
        text = HEAD.format(name=title, network=NETWORK, math=math) + body
        check_imports(text)
        return text

    def _network(self, methods: list[str]) -> str:
        """The class that owns the weights."""
        weights: dict[str, str] = {}
        buffers: dict[str, str] = {}
        factors: dict[str, str] = {}
        for path, storage in self.graph.storages.items():
            for position, name in enumerate(tensor_names(storage)):
                shape = repr(merged(storage.tensors[position]))
                if storage.param.role == "weight":
                    weights[name] = shape
                else:
                    buffers[name] = f"({dtype_of(storage.param)}, {shape})"
            factors[dotted(path)] = repr(storage.shape)
        tables = {
            dotted(path): f"({TABLES[key.op].__name__}, {dict(key.options)!r})"
            for path, key in labelled_tables(self.graph).items()
        }
        choices: dict[str, str] = {}
        for path, choice in self.graph.decisions.items():
            first = [choice.largest, *(v for v in choice.values if v != choice.largest)]
            values = ", ".join(literal(v) for v in first)
            choices[path] = f"({values}{',' * (len(first) == 1)})"
        listed = {
            "_shapes": weights,
            "_buffer_shapes": buffers,
            "_index_tables": tables,
            "_factors": factors if self.extents else {},
            "_choices": choices,
        }
        rows = [f"{name} = {_table(rows)}" for name, rows in listed.items() if rows]
        body = "\n".join(
            [f'"""Every network of {identifier(self.graph.name)}."""', "", *rows, "", *methods]
        )
        return f"class {NETWORK}({shared.SharedNetwork.__name__}):\n{indented(body)}\n"


def _method(name: str, function: str, says: str) -> str:
    call = f"return {function}(Weights(self), *inputs, self._decided, self.{MODE})"
    return f'def {name}(self, *inputs):\n    """{says}"""\n    {call}\n'


def _table(rows: Mapping[str, str]) -> str:
    entries = "".join(f"\n    {quoted(name)}: {text}," for name, text in rows.items())
    return f"{{{entries}\n}}"


HEAD = '''"""{name}: all networks of a space, which share their weights, in plain PyTorch.

    network = {network}()
    network.load_state_dict(state)              # that of the supernet: the same names
    y = network.activate({{..}})(image)           # {{decision: value}}; first the largest
"""

from __future__ import annotations

{math}from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor, nn


'''
