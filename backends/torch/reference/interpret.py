"""The reference interpreter: a Graph run node by node in plain PyTorch, slowly and plainly.

    outputs = interpret(graph, {"encoder[0].attn.qkv.weight": tensor, ..}, [image], assignment)

It is what the tests hold the lowering rules against, so it shares nothing with them: parameters are
read entry by entry through index lists, calls and regions by recursion, and the type of every value
is compared with the one in the IR. Its rows are in the other files here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, MutableMapping, Sequence, Set
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
from spacelang.ir.gather import entries
from spacelang.ir.graph import Graph, Instance, conditions
from spacelang.ir.node import Node, Value, join
from spacelang.ir.param import Gather, Slice, View
from spacelang.ir.storage import Shape, bank_of

UNUSED = torch.empty(0)
"""In the place of a value that nobody needs."""


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

    `weights` go by the path of their storage, those of a bank by `path.0`, `path.1` and so on. With
    a `seed` it runs as in training: paths and elements are dropped, batch statistics are used, and
    the running ones in `weights` are replaced; then what no output needs does not run, unless its
    labelled values are left in `taps`, by path. Raises SpaceError.
    """
    run = _Run(graph, weights, inputs, assignment or {}, seed is not None, taps)
    wanted = set(range(len(graph.root.outputs)))
    with torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.manual_seed(seed)
            run.draw(graph.top, graph.root, wanted)
        found = run.level(graph.top, graph.root, inputs, wanted)
    return {output.name: found[output.value] for output in graph.outputs}


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
        self.masks: deque[Tensor | None] = deque()  # of the drop paths that are still to run
        self.values: dict[str, DecisionValue] = graph.decisions.check(assignment)
        for node, tensor in zip(graph.root.inputs, inputs, strict=True):
            for size, found in zip(node.types[0].shape, tensor.shape, strict=True):
                for symbol in size.symbols:
                    if symbol.free and size == Dim.of(symbol):
                        self.values[symbol.name] = found

    # What runs.

    def needs(self, instance: Instance, level: Block, wanted: Set[int]) -> Mapping[int, Set[int]]:
        """The nodes of a block or region that run for some of its outputs, and for which results.

        In training what is not needed may not run: it would draw, and move running statistics.
        """
        if not self.training or self.taps is not None:
            return {node.id: set(range(len(node.values))) for node in level.nodes}
        values = {level.outputs[number] for number in wanted}
        found: dict[int, Set[int]] = {}
        for node in reversed(level.nodes):
            results = {number for number, value in enumerate(node.values) if value in values}
            if results:
                found[node.id] = results
                values.update(node.operands[i] for i in self.reads(instance, node, results))
        return found

    def reads(self, instance: Instance, node: Node, results: Set[int]) -> Set[int]:
        """The operands that a node needs for some of its results."""
        inside = self.inside(instance, node)
        if inside is None:
            return results if node.regions else set(range(len(node.operands)))
        needed = self.needs(*inside, results)
        return {number for number, own in enumerate(inside[1].inputs) if own.id in needed}

    def inside(self, instance: Instance, node: Node) -> tuple[Instance, Block] | None:
        """The level that a node runs: a block, or the region that is there."""
        if node.call is not None:
            block = self.graph.blocks[node.call.block]
            return instance.enter(node.call, block), block
        for region, condition in zip(node.regions, conditions(node), strict=True):
            if instance.condition(condition).at(self.values):
                return instance, region
        return None

    def draw(self, instance: Instance, level: Block, wanted: Set[int]) -> None:
        """The masks of all drop paths that run, in the order of the network."""
        needed = self.needs(instance, level, wanted)
        for node in level.nodes:
            inside = self.inside(instance, node) if node.id in needed else None
            if inside is not None:
                self.draw(*inside, needed[node.id])
            elif node.id in needed and node.op == "drop_path":
                at = At(node, instance, self.values, self.training)
                rate, samples = at.real("rate"), at.number(node.types[0].shape[0])
                mask = (torch.rand(samples) >= rate) / (1 - rate) if rate > 0 else None
                self.masks.append(mask)

    def level(
        self, instance: Instance, level: Block, inputs: Sequence[Tensor], wanted: Set[int]
    ) -> dict[Value, Tensor]:
        """The values of a block or region that some of its outputs need."""
        needed = self.needs(instance, level, wanted)
        given = dict(zip((node.id for node in level.inputs), inputs, strict=True))
        found: dict[Value, Tensor] = {}
        for node in level.nodes:
            if node.id not in needed:
                continue
            if node.op == "input":
                results = [given[node.id]]
            else:
                operands = [found.get(value, UNUSED) for value in node.operands]
                results = self.node(instance, node, operands, needed[node.id])
            self.compare(instance, node, results, needed[node.id])
            found.update(zip(node.values, results, strict=True))
            if self.taps is not None and node.label and results:
                self.taps[join(instance.path, node.label)] = results[0]
        return found

    def compare(
        self, instance: Instance, node: Node, results: Sequence[Tensor], wanted: Set[int]
    ) -> None:
        """The IR says which shape every value has: SP602 where it is another."""
        for number in wanted:
            shape, type = list(results[number].shape), node.types[number]
            expected = [int(instance.absolute(size).at(self.values)) for size in type.shape]
            if shape != expected:
                headline = f"{node.op} gives {shape}, its type is {expected}"
                raise SpaceError(error("SP602", headline, node.span))

    def node(
        self, instance: Instance, node: Node, operands: list[Tensor], wanted: Set[int]
    ) -> list[Tensor]:
        """The results of a node, those that are not wanted perhaps `UNUSED`."""
        inside = self.inside(instance, node)
        if inside is not None:
            found = self.level(*inside, operands, wanted)
            return [found.get(value, UNUSED) for value in inside[1].outputs]
        if node.regions:
            return operands[: len(node.types)]
        params = {role: self.read(instance, view) for role, view in node.params.items()}
        drops = self.training and node.op == "drop_path"
        mask = self.masks.popleft() if drops else None
        at = At(node, instance, self.values, self.training, params, mask)
        result = _row(node)(at, *operands)
        for role, value in at.updates.items():
            self.write(instance, node.params[role], value)
        return [result] if isinstance(result, Tensor) else list(result)

    def read(self, instance: Instance, view: View) -> Tensor:
        """What a view reads, the factors of each axis merged."""
        name, shape = self.picked(instance, view)
        tensor = self.weights[name].reshape([n for axis in shape for n in axis])
        reads = self.entries(instance, view)
        for axis, chosen in enumerate(part for parts in reads for part in parts):
            tensor = tensor.index_select(axis, torch.tensor(chosen, dtype=torch.int64))
        return tensor.reshape([prod(len(part) for part in parts) for parts in reads])

    def picked(self, instance: Instance, view: View) -> tuple[str, Shape]:
        """The name and shape of the tensor that a view reads: `path`, or `path.2` in a bank."""
        storage = self.graph.storages[instance.param(view.param)]
        position = 0
        for symbol in bank_of(instance, instance.block.param[view.param]):
            position = position * len(symbol.values) + symbol.values.index(self.values[symbol.name])
        name = f"{storage.path}.{position}" if storage.bank else storage.path
        return name, storage.tensors[position]

    def write(self, instance: Instance, view: View, value: Tensor) -> None:
        """The weights with other values where a view reads them."""
        name, shape = self.picked(instance, view)
        old = self.weights[name]
        axes = [torch.tensor(p) for parts in self.entries(instance, view) for p in parts]
        tensor = old.reshape([n for axis in shape for n in axis]).clone()
        grid = torch.meshgrid(*axes, indexing="ij") if axes else ()
        tensor[grid] = value.reshape([len(axis) for axis in axes]).to(old.dtype)
        self.weights[name] = tensor.reshape(old.shape)

    def entries(self, instance: Instance, view: View) -> list[list[Sequence[int]]]:
        """The entries that a view reads, of every factor of every axis."""
        return [[self.part(instance, part) for part in axis] for axis in view.index]

    def part(self, instance: Instance, part: Slice | Gather) -> Sequence[int]:
        def number(size: Dim) -> int:
            return int(instance.absolute(size).at(self.values))

        if isinstance(part, Gather):
            return entries(part.table, number(part.length), tuple(map(number, part.arguments)))
        start, length = number(part.start), number(part.length)
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
