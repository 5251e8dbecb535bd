"""The reference interpreter: a Graph run node by node in plain PyTorch, slowly and plainly.

    outputs = interpret(graph, {"encoder[0].attn.qkv.weight": tensor, ..}, [image], assignment)

It is what the tests hold the lowering rules against, so it shares nothing with them: parameters are
read entry by entry through index lists, calls and regions by recursion, index tables by counting.
Weights go by the path of their storage; those with a tensor per value of a decision by `bank_name`.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from spacelang.backends.torch.reference import ROWS, At
from spacelang.diagnostics import SpaceError, error
from spacelang.ir.decision import Assignment
from spacelang.ir.dim import Value as DecisionValue
from spacelang.ir.graph import Graph, Instance, conditions
from spacelang.ir.block import Block
from spacelang.ir.node import Attribute, Node, Value
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
    """The outputs by name, those for training too, of one architecture.

    With a `seed` as in training: paths and elements are dropped, batch statistics are used and the
    running ones in `weights` are updated; without, as in evaluation. Labelled values are left in
    `taps` by their path. Raises SpaceError for an assignment that does not fit.
    """
    run = _Run(graph, weights, graph.decisions.check(assignment or {}), seed is not None, taps)
    with torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.manual_seed(seed)
            run.draw(inputs)
        found = run.level(graph.top, graph.root, inputs)
    return {output.name: found[output.value] for output in graph.outputs}


@dataclass
class _Run:
    graph: Graph
    weights: MutableMapping[str, Tensor]
    values: Mapping[str, DecisionValue]
    training: bool
    taps: MutableMapping[str, Tensor] | None
    masks: dict[tuple[str, int], Tensor] = field(default_factory=dict[tuple[str, int], Tensor])

    def draw(self, inputs: Sequence[Tensor]) -> None:
        """A mask for every drop path that is there, in the order of the network, before anything runs."""
        free = {
            symbol.name: tensor.shape[axis]
            for node, tensor in zip(self.graph.root.inputs, inputs, strict=True)
            for axis, size in enumerate(node.types[0].shape)
            for symbol in size.symbols
            if symbol.free
        }
        for place in self.graph.places():
            node, instance = place.node, place.instance
            if node.op != "drop_path" or not all(c.at(self.values) for c in place.guards):
                continue
            rate = At(node, instance, self.values, self.training).real("rate")
            if rate > 0:
                samples = int(instance.absolute(node.types[0].shape[0]).at({**self.values, **free}))
                kept = torch.rand(samples, dtype=torch.float32) >= rate
                self.masks[instance.path, node.id] = kept / (1 - rate)

    def level(self, instance: Instance, level: Block, inputs: Sequence[Tensor]) -> dict[Value, Tensor]:
        """All values of a block or region."""
        found: dict[Value, Tensor] = {}
        given = iter(inputs)
        for node in level.nodes:
            operands = [found[value] for value in node.operands]
            results = [next(given)] if node.op == "input" else self.node(instance, node, operands)
            found.update(zip(node.values, results, strict=True))
            if self.taps is not None and node.label:
                self.taps[".".join(p for p in (instance.path, node.label) if p)] = results[0]
        return found

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
        row = ROWS.get(node.op)
        if row is None:
            raise SpaceError(error("SP605", f"the interpreter has no row for {node.op}", node.span))
        params = {role: self.read(instance, view) for role, view in node.params.items()}
        at = At(node, instance, self.values, self.training, params, self.masks.get((instance.path, node.id)))
        result = row(at, *operands)
        if self.training:
            for role, view in node.params.items():
                if role in at.updates:
                    self.write(instance, view, at.updates[role])
        return [result] if isinstance(result, Tensor) else list(result)

    def read(self, instance: Instance, view: View) -> Tensor:
        """What a view reads, its factors merged."""
        name, storage = self.storage(instance, view)
        tensor = self.weights[name].reshape([n for axis in storage.shape for n in axis])
        for axis, entries in enumerate(self.entries(instance, view)):
            tensor = tensor.index_select(axis, torch.tensor(entries, dtype=torch.int64))
        merged = [int(_product(instance, axis).at(self.values)) for axis in view.lengths]
        return tensor.reshape(merged)

    def write(self, instance: Instance, view: View, value: Tensor) -> None:
        """Put values back where a view reads them."""
        name, storage = self.storage(instance, view)
        factors = [n for axis in storage.shape for n in axis]
        entries = [torch.tensor(e, dtype=torch.int64) for e in self.entries(instance, view)]
        tensor = self.weights[name].reshape(factors).clone()
        shape = [len(e) for e in entries]
        if entries:
            tensor[torch.meshgrid(*entries, indexing="ij")] = value.reshape(shape).to(tensor.dtype)
        else:
            tensor = value.to(tensor.dtype)
        self.weights[name] = tensor.reshape(self.weights[name].shape)

    def storage(self, instance: Instance, view: View) -> tuple[str, Storage]:
        storage = self.graph.storages[instance.param(view.param)]
        return bank_name(storage, self.values), storage

    def entries(self, instance: Instance, view: View) -> list[range]:
        """The entries of every factor that a view reads."""
        found: list[range] = []
        for part in (part for axis in view.index for part in axis):
            if not isinstance(part, Slice):
                raise SpaceError(error("SP605", f"no index table is called {part.table}"))
            start, length = (int(instance.absolute(d).at(self.values)) for d in (part.start, part.length))
            found.append(range(start, start + length * part.step, part.step))
        return found


def bank_name(storage: Storage, values: Mapping[str, DecisionValue]) -> str:
    """The name of the tensor that a storage reads for these decisions: `path`, or `path.2` in a bank."""
    position = 0
    for symbol in storage.bank:
        position = position * len(symbol.values) + symbol.values.index(values[symbol.name])
    return f"{storage.path}.{position}" if storage.bank else storage.path


def _product(instance: Instance, sizes: tuple[Dim, ...]) -> Dim:
    total = Dim.of(1)
    for size in sizes:
        total = total * instance.absolute(size)
    return total
