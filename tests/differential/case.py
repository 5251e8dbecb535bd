"""A program with what several claims ask of it: its graph, its weights, and its networks tried."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import inf, prod
from types import ModuleType
from typing import Any, cast

import torch
from differential.program import NAME, loaded
from small_spaces import reference, tensors
from torch import Tensor, nn
from torch.fx import GraphModule

from spacelang.analysis.queries import counter
from spacelang.backends.torch.inputs import input_of
from spacelang.backends.torch.printing.source import print_network
from spacelang.backends.torch.reference import ROWS
from spacelang.backends.torch.reference.interpret import interpret
from spacelang.backends.torch.supernet import Supernet
from spacelang.diagnostics import Source
from spacelang.ir.decision import Assignment
from spacelang.ir.figures import Cost
from spacelang.ir.graph import Graph
from spacelang.passes.specialize import specialize
from spacelang.syntax import tree
from spacelang.syntax.parse import parse

POINTS = 400
"""Assignments that are still tried one by one."""
DRAWN = 3


class Skipped(Exception):
    """A claim that says nothing about this program, and why."""


@dataclass
class Case:
    """A program. With a number, claims take their turn: fewer networks and passes are tried.

    `made` is what a pass made of its graph, tried at `only` some networks.
    """

    text: str
    number: int | None = None
    made: Graph | None = None
    only: tuple[Assignment, ...] = ()

    @cached_property
    def file(self) -> tree.File:
        return parse(Source(NAME, self.text))

    @cached_property
    def graph(self) -> Graph:
        return self.made or loaded(self.text)

    @cached_property
    def all(self) -> list[Assignment]:
        """Every architecture, where they are few."""
        choices = self.graph.decisions
        if prod(len(c.values) for c in choices.values()) > POINTS:
            raise Skipped("too many assignments to try each")
        found: dict[tuple[object, ...], Assignment] = {}
        for values in product(*(c.values for c in choices.values())):
            complete = dict(zip(choices, values, strict=True))
            assignment = choices.assignment(complete)
            if meets(self.graph, assignment, self.graph):
                found[tuple(sorted((p, str(v)) for p, v in assignment.items()))] = assignment
        return list(found.values())

    @cached_property
    def trials(self) -> list[Trial]:
        """Networks of the space, whatever it requires: the largest, the smallest and drawn ones.

        A drawn one is first. With a number there is one: each kind has its turn.
        """
        if self.only:
            return [Trial(self, assignment) for assignment in self.only]
        choices, rng = self.graph.decisions, random.Random(self.text)
        found = [choices.extreme("largest"), choices.extreme("smallest")]
        for _ in range(DRAWN):
            drawn = {p: rng.choice(c.values) for p, c in choices.items()}
            found.append(choices.assignment(drawn))
        if not choices:
            found = found[:1]
        elif self.number is not None:
            found = found[self.number % 4 :][:1]
        return [Trial(self, assignment) for assignment in reversed(found)]

    @cached_property
    def first(self) -> Trial:
        return self.trials[0]

    @cached_property
    def supernet(self) -> Supernet:
        return moved(self.graph)

    @cached_property
    def images(self) -> list[Tensor]:
        return inputs(self.graph, batch=1 + len(self.text) % 3)


@dataclass
class Found:
    """What a network computes: its outputs by name, and the gradients of what it learns."""

    outputs: Mapping[str, Tensor]
    gradients: Mapping[str, Tensor]


NUDGE = 2.0**-48
"""Of the size of a number: some roundings."""
NUDGES = 8


@dataclass
class Trial:
    """One network of a program, computed in four ways."""

    case: Case
    assignment: Assignment

    @cached_property
    def cost(self) -> Cost:
        return self.case.graph.cost(self.assignment)

    @cached_property
    def elements(self) -> int:
        """The entries of all values that are computed, at batch 1."""
        values: dict[str, Any] = dict(self.case.graph.decisions.check(self.assignment))
        total = 0
        for place in self.case.graph.places(inference=True):
            if all(guard.at(values) for guard in place.guards):
                for type in place.node.types:
                    sizes = map(place.instance.absolute, type.shape)
                    total += prod(
                        int(n.at(values | {s.name: 1 for s in n.symbols if s.free})) for n in sizes
                    )
        return total

    @cached_property
    def special(self) -> Graph:
        return specialize(self.case.graph, self.assignment)

    @cached_property
    def small(self) -> GraphModule:
        return self.case.supernet.extract(self.assignment)

    @cached_property
    def supernet(self) -> Found:
        model = self.case.supernet
        model.zero_grad()
        outputs = by_name(self.case.graph, model.activate(self.assignment)(*self.case.images))
        return _learnt(outputs, tensors(model))

    @cached_property
    def interpreter(self) -> Found:
        """By the reference, with PyTorch's single precision in one gradient."""
        with hard_sigmoid_of_single_precision():
            every, weights, _ = reference(self.case.supernet, self.case.images, self.assignment)
            outputs = {o.name: every[o.name] for o in self.case.graph.outputs if not o.training}
            return _learnt(outputs, weights)

    @cached_property
    def noise(self) -> Mapping[str, float]:
        """How far each gradient of the interpreter moves where all that is read moves by some
        roundings, up or down by chance; the most of several such moves.

        At a tie (`relu` at 0, a maximum of equals) that is as much as the gradient jumps by.
        """
        generator = torch.Generator().manual_seed(17)

        def nudged(tensor: Tensor) -> Tensor:
            if not tensor.is_floating_point():
                return tensor
            signs = torch.randint(0, 2, tensor.shape, generator=generator).double() * 2 - 1
            return tensor.detach() * (1 + NUDGE * signs)

        own, here = tensors(self.case.supernet), self.interpreter.gradients
        most = dict.fromkeys(here, 0.0)
        for _ in range(NUDGES):
            weights = {n: nudged(t).requires_grad_(t.requires_grad) for n, t in own.items()}
            images = list(map(nudged, self.case.images))
            with hard_sigmoid_of_single_precision():
                every = interpret(self.case.graph, dict(weights), images, self.assignment)
                outputs = {o.name: every[o.name] for o in self.case.graph.outputs if not o.training}
                moved = _learnt(outputs, weights).gradients
            for name, gradient in here.items():
                far = furthest(moved[name], gradient) if name in moved else inf
                most[name] = max(most[name], far if far < inf else inf)
        return most

    @cached_property
    def subnet(self) -> Found:
        outputs = by_name(self.case.graph, self.small(*self.case.images))
        return _learnt(outputs, dict(self.small.named_parameters()))

    @cached_property
    def emitted(self) -> Found:
        """The printed source as a network of its own, with the weights of the subnet."""
        text = print_network(self.case.supernet, self.assignment)
        made = ModuleType("emitted")
        exec(compile(text, "emitted.py", "exec"), made.__dict__)
        network = cast(nn.Module, made.Network()).double().eval()
        network.load_state_dict(self.small.state_dict())
        outputs = by_name(self.case.graph, network(*self.case.images))
        return _learnt(outputs, dict(network.named_parameters()))


def furthest(one: Tensor, other: Tensor) -> float:
    """The largest difference of two tensors; NaN if one holds a NaN, 0 for empty ones."""
    return float((one - other).abs().max()) if one.numel() else 0.0


def _learnt(outputs: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> Found:
    score = scored(outputs)
    if score.requires_grad:
        score.backward()
    kept = {n: y.detach() for n, y in outputs.items()}
    return Found(kept, {n: w.grad.clone() for n, w in weights.items() if w.grad is not None})


def meets(graph: Graph, assignment: Assignment, costed: Graph | None = None) -> bool:
    """Whether an architecture is within what its space requires, by evaluating it.

    Its figures are those of its own graph, unless another is given.
    """
    values = graph.decisions.check(assignment)
    wanted = counter(graph).required
    if not all(c.at(values) for c in wanted.conditions):
        return False
    if not wanted.bands:
        return True
    cost = costed.cost(assignment) if costed else specialize(graph, assignment).cost()
    return all(
        (low is None or low <= getattr(cost, f)) and (high is None or getattr(cost, f) <= high)
        for f, (low, high) in wanted.bands.items()
    )


def moved(graph: Graph) -> Supernet:
    """A supernet in float64 whose every weight matters."""
    made = Supernet(graph, seed=0)
    generator = torch.Generator().manual_seed(100)
    with torch.no_grad():
        for tensor in (*made.parameters(), *made.buffers()):
            if tensor.is_floating_point():
                tensor.add_(0.1 * torch.rand(tensor.shape, generator=generator))
    return made.double().eval()


def inputs(graph: Graph, batch: int) -> list[Tensor]:
    """Whole numbers of the whole range that an input declares, its ends among them; others of
    magnitudes from 1/64 to 8, of either sign."""
    generator = torch.Generator().manual_seed(7)
    found: list[Tensor] = []
    for node in graph.root.inputs:
        read = input_of(node)
        drawn = read.draw(generator, batch)
        if read.within is not None:
            ends = torch.tensor(read.within)[: drawn.numel()]
            places = torch.randperm(drawn.numel(), generator=generator)[: len(ends)]
            drawn.view(-1)[places] = ends
        else:
            powers = torch.randint(-6, 4, drawn.shape, generator=generator)
            drawn = drawn.double() * torch.exp2(powers.double())
        found.append(drawn)
    return found


def by_name(graph: Graph, found: Tensor | Mapping[str, Tensor]) -> dict[str, Tensor]:
    if not isinstance(found, Tensor):
        return dict(found)
    (name,) = (o.name for o in graph.outputs if not o.training)
    return {name: found}


def scored(found: Mapping[str, Tensor]) -> Tensor:
    """A number whose gradient differs from output to output, and from entry to entry."""
    parts = [
        (y * torch.linspace(-1, 1, y.numel()).to(y.dtype).reshape(y.shape)).sum()
        for y in found.values()
    ]
    return cast(Tensor, sum(parts))


class _HardSigmoid(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return (x + 3).clamp(0, 6) / 6

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad_outputs[0] * (x.abs() < 3) * float(torch.tensor(1 / 6, dtype=torch.float32))


@contextmanager
def hard_sigmoid_of_single_precision() -> Iterator[None]:
    """The interpreter with PyTorch's backward of hard_sigmoid: its 1/6 is in single precision,
    also for float64."""
    before = ROWS["hard_sigmoid"]
    ROWS["hard_sigmoid"] = lambda at, x: _HardSigmoid.apply(x)
    try:
        yield
    finally:
        ROWS["hard_sigmoid"] = before
