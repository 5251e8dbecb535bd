"""The reference interpreter: a Graph run node by node in plain PyTorch, slowly and plainly.

    outputs = interpret(graph, {"encoder[0].attn.qkv.weight": tensor, ..}, [image], assignment)

It is what the tests hold the lowering rules against, so it shares nothing with them: parameters are
read entry by entry through index lists, calls and regions by recursion, and the type of every value
is compared with the one in the IR. Its rows are in `reference.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from math import prod
from typing import cast

import torch
from torch import Tensor

from spacelang import plugins
from spacelang.backends.torch.reference import ROWS, At, Row
from spacelang.diagnostics import SpaceError, error
from spacelang.ir.block import Block
from spacelang.ir.decision import Assignment
from spacelang.ir.dim import Dim
from spacelang.ir.dim import Value as DecisionValue
from spacelang.ir.graph import Graph, Instance, conditions
from spacelang.ir.node import Node, Value, join
from spacelang.ir.param import Slice, View
from spacelang.ir.storage import Storage


def interpret(
    graph: Graph,
    weights: MutableMapping[str, Tensor],
    inputs: Sequence[Tensor],
    assignment: Assignment | None = None,
    *,
    seed: int | None = None,
    taps: MutableMapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """The outputs of one architecture by name, those for training too.

    `weights` go by the path of their storage, those of a bank by `bank_name`. With a `seed` it runs
    as in training: paths and elements are dropped, batch statistics are used, and the running ones
    in `weights` are replaced. Labelled values are left in `taps` by path. Raises SpaceError.
    """
    run = _Run(graph, weights, inputs, assignment or {}, seed is not None, taps)
    with torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.manual_seed(seed)
            run.draw()
        found = run.level(graph.top, graph.root, inputs)
    return {output.name: found[output.value] for output in graph.outputs}


def bank_name(storage: Storage, values: Mapping[str, DecisionValue]) -> str:
    """The name of the tensor that these decisions read: `path`, or `path.2` in a bank."""
    position = 0
    for symbol in storage.bank:
        position = position * len(symbol.values) + symbol.values.index(values[symbol.name])
    return f"{storage.path}.{position}" if storage.bank else storage.path


class _Run:
    """One architecture on one batch."""

    def __init__(
        self,
        graph: Graph,
        weights: MutableMapping[str, Tensor],
        inputs: Sequence[Tensor],
        assignment: Assignment,
        training: bool,
        taps: MutableMapping[str, Tensor] | None,
    ) -> None:
        self.graph, self.weights, self.training, self.taps = graph, weights, training, taps
        self.masks: dict[tuple[str, int], Tensor] = {}
        self.values: dict[str, DecisionValue] = graph.decisions.check(assignment)
        for node, tensor in zip(graph.root.inputs, inputs, strict=True):
            for size, found in zip(node.types[0].shape, tensor.shape, strict=True):
                for symbol in size.symbols:
                    if symbol.free and size == Dim.of(symbol):
                        self.values[symbol.name] = found

    def draw(self) -> None:
        """The mask of every drop path that is there, in the order of the network."""
        for place in self.graph.places():
            node, instance = place.node, place.instance
            if node.op != "drop_path" or not all(c.at(self.values) for c in place.guards):
                continue
            at = At(node, instance, self.values, self.training)
            rate, samples = at.real("rate"), at.number(node.types[0].shape[0])
            if rate > 0:
                self.masks[instance.path, node.id] = (torch.rand(samples) >= rate) / (1 - rate)

    def level(
        self, instance: Instance, level: Block, inputs: Sequence[Tensor]
    ) -> dict[Value, Tensor]:
        """All values of a block or region."""
        found: dict[Value, Tensor] = {}
        given = iter(inputs)
        for node in level.nodes:
            operands = [found[value] for value in node.operands]
            results = [next(given)] if node.op == "input" else self.node(instance, node, operands)
            self.compare(instance, node, results)
            found.update(zip(node.values, results, strict=True))
            if self.taps is not None and node.label and results:
                self.taps[join(instance.path, node.label)] = results[0]
        return found

    def compare(self, instance: Instance, node: Node, results: Sequence[Tensor]) -> None:
        """The IR says which shape every value has: SP602 where it is another."""
        for type, result in zip(node.types, results, strict=True):
            expected = [int(instance.absolute(size).at(self.values)) for size in type.shape]
            if list(result.shape) != expected:
                headline = f"{node.op} gives {list(result.shape)}, its type is {expected}"
                raise SpaceError(error("SP602", headline, node.span))

    def node(self, instance: Instance, node: Node, operands: list[Tensor]) -> list[Tensor]:
        if node.call is not None:
            block = self.graph.blocks[node.call.block]
            found = self.level(instance.enter(node.call, block), block, operands)
            return [found[value] for value in block.outputs]
        for region, condition in zip(node.regions, conditions(node), strict=True):
            if instance.condition(condition).at(self.values):
                found = self.level(instance, region, operands)
                return [found[value] for value in region.outputs]
        if node.regions:
            return operands[: len(node.types)]
        params = {role: self.read(instance, view) for role, view in node.params.items()}
        mask = self.masks.get((instance.path, node.id))
        at = At(node, instance, self.values, self.training, params, mask)
        result = _row(node)(at, *operands)
        for role, value in at.updates.items():
            self.write(instance, node.params[role], value)
        return [result] if isinstance(result, Tensor) else list(result)

    def read(self, instance: Instance, view: View) -> Tensor:
        """What a view reads, the factors of each axis merged."""
        storage = self.graph.storages[instance.param(view.param)]
        tensor = self.weights[bank_name(storage, self.values)]
        tensor = tensor.reshape([n for axis in storage.shape for n in axis])
        entries = self.entries(instance, view)
        for axis, chosen in enumerate(part for parts in entries for part in parts):
            tensor = tensor.index_select(axis, torch.tensor(chosen, dtype=torch.int64))
        return tensor.reshape([prod(len(part) for part in parts) for parts in entries])

    def write(self, instance: Instance, view: View, value: Tensor) -> None:
        """The weights with other values where a view reads them."""
        storage = self.graph.storages[instance.param(view.param)]
        name = bank_name(storage, self.values)
        old = self.weights[name]
        axes = [torch.tensor(p) for parts in self.entries(instance, view) for p in parts]
        tensor = old.reshape([n for axis in storage.shape for n in axis]).clone()
        grid = torch.meshgrid(*axes, indexing="ij") if axes else ()
        tensor[grid] = value.reshape([len(axis) for axis in axes]).to(old.dtype)
        self.weights[name] = tensor.reshape(old.shape)

    def entries(self, instance: Instance, view: View) -> list[list[range]]:
        """The entries that a view reads, of every factor of every axis."""
        return [[self.part(instance, part) for part in axis] for axis in view.index]

    def part(self, instance: Instance, part: object) -> range:
        if not isinstance(part, Slice):
            raise SpaceError(error("SP605", f"the interpreter reads no {type(part).__name__}"))
        start = int(instance.absolute(part.start).at(self.values))
        length = int(instance.absolute(part.length).at(self.values))
        return range(start, start + length * part.step, part.step)


def _row(node: Node) -> Row:
    """The numerics of an op: a row of ours, or a plug-in's `reference.OP`."""
    found = ROWS.get(node.op)
    if found is not None:
        return found
    name = f"reference.{node.op}"
    if name not in plugins.table("spacelang.lowerings"):
        raise SpaceError(error("SP605", f"the interpreter has no row for {node.op}", node.span))
    return cast(Row, plugins.load("spacelang.lowerings", name))
