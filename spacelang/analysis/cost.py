"""Costs as closed forms: parameters, multiply-accumulates and activations of every architecture.

    [depth > 12] * (3*width*64*encoder[12].heads + ..)

A cost is a sum of terms, each a size under conditions. Multiply-accumulates count convolutions,
linear layers and products of tensors of the graph as written, at batch 1; activations are the
elements that these ops give (Radosavovic et al. 2020); parameters are the elements read by what is
present, where several readers share a tensor the box of what they read together, factor by factor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import prod
from operator import methodcaller
from typing import TYPE_CHECKING

from spacelang.analysis.together import Part, together
from spacelang.ir.condition import FALSE, Condition, conjunction, disjunction, is_value
from spacelang.ir.dim import ZERO, Dim, Symbol
from spacelang.ir.dim import Value as DecisionValue
from spacelang.ir.dim import product as multiplied
from spacelang.ir.figures import FIGURES, Cost
from spacelang.ir.gather import joined, read
from spacelang.ir.infer import CostOf
from spacelang.ir.op import ops
from spacelang.ir.param import sized
from spacelang.ir.prove import Proved, feasible, holds
from spacelang.ir.storage import bank_of, bank_position

if TYPE_CHECKING:
    from spacelang.ir.graph import Graph, Instance, Place
    from spacelang.ir.node import Node


@dataclass(frozen=True)
class Term:
    """A size that counts where all its conditions hold."""

    guards: tuple[Condition, ...]
    size: Dim

    def at(self, values: Mapping[str, DecisionValue]) -> int:
        """What it adds to the figure of one architecture: its size where all conditions hold, else
        0."""
        return int(self.size.at(values)) if all(g.at(values) for g in self.guards) else 0


@dataclass(frozen=True)
class OpCost:
    """What one op of the network costs, by its path."""

    path: str
    op: str
    params: int
    macs: int
    activations: int


class CostModel:
    """The closed forms of a graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._macs: dict[tuple[str, int], tuple[Dim, Dim]] = {}

    @cached_property
    def terms(self) -> Mapping[str, tuple[Term, ...]]:
        """Figure -> its terms, those under equal conditions added up."""
        macs: dict[tuple[Condition, ...], Dim] = {}
        activations: dict[tuple[Condition, ...], Dim] = {}
        for place in self.graph.places(inference=True):
            work, made = self.of_node(place)
            if work != ZERO:
                macs[place.guards] = macs.get(place.guards, ZERO) + work
                activations[place.guards] = activations.get(place.guards, ZERO) + made
        return {
            "params": tuple(_merged(self._params())),
            "macs": tuple(Term(g, d) for g, d in macs.items()),
            "activations": tuple(Term(g, d) for g, d in activations.items()),
        }

    def of_node(self, place: Place) -> tuple[Dim, Dim]:
        """Multiply-accumulates and activations of a node, in the decisions of the space."""
        key = (place.instance.block.name, place.node.id)
        found = self._macs.get(key)
        if found is None:
            found = self._macs[key] = _work(place.instance, place.node)
        instance = place.instance
        return instance.absolute(found[0]), instance.absolute(found[1])

    def _params(self) -> Iterator[Term]:
        readers: dict[str, dict[Read, None]] = {}
        for place in self.graph.places(inference=True):
            for path, bank, box in _read(place):
                readers.setdefault(path, {})[bank, place.guards, box] = None
        for reads in readers.values():
            for uses in _tensors(list(reads)):
                yield from _charged(uses)

    def at(self, values: Mapping[str, DecisionValue]) -> Cost:
        """The figures of an architecture given by values of all decisions."""
        figures = {name: sum(t.at(values) for t in self.terms[name]) for name in FIGURES}
        return Cost(**figures)

    def per_op(
        self,
        values: Mapping[str, DecisionValue],
        only: Callable[[Place], bool] | None = None,
    ) -> list[OpCost]:
        """The figures of every op that is present and costs anything; shared parameters once.

        `only` leaves out ops as if they were not there.
        """
        rows: list[OpCost] = []
        present = [
            place
            for place in self.graph.places(inference=True)
            if (only is None or only(place)) and all(g.at(values) for g in place.guards)
        ]
        boxes: dict[tuple[str, int], tuple[Sequence[int], ...]] = {}
        for place in present:
            for path, bank, box in _read(place):
                tensor = path, bank_position(bank, values)
                here = tuple(read(part, methodcaller("at", values)) for part in box)
                boxes[tensor] = tuple(map(joined, here, boxes.get(tensor, here)))
        for place in present:
            work, made = self.of_node(place)
            tensors = [(path, bank_position(bank, values)) for path, bank, _ in _read(place)]
            params = sum(prod(map(len, boxes.pop(t))) for t in tensors if t in boxes)
            macs = int(work.at(values))
            if macs or params:
                path = place.path or place.node.op
                kept = int(made.at(values)) if macs else 0
                rows.append(OpCost(path, place.node.op, params, macs, kept))
        return rows


Bank = tuple[Symbol, ...]
"""The decisions by which a use picks its tensor; none where there is one for all."""
Box = tuple[Part, ...]
"""What is read of each factor of all axes, in the decisions of the whole space."""
Use = tuple[tuple[Condition, ...], Box]
Read = tuple[Bank, tuple[Condition, ...], Box]


def _read(place: Place) -> Iterator[tuple[str, Bank, Box]]:
    """Path, bank and box of every weight that a node reads."""
    instance = place.instance
    for view in place.node.params.values():
        param = instance.block.param[view.param]
        if param.role == "weight":
            box = (sized(part, instance.absolute) for axis in view.index for part in axis)
            yield instance.param(view.param), bank_of(instance, param), tuple(box)


def _tensors(reads: list[Read]) -> Iterator[list[Use]]:
    """The uses of each tensor of a storage that may be read.

    Where all uses pick by the same decisions, there is one; else each is asked for by itself.
    """
    if len({bank for bank, _, _ in reads}) == 1:
        yield [(guards, box) for _, guards, box in reads]
        return
    for values in product(*(symbol.values for symbol in reads[0][0])):
        uses: list[Use] = []
        for bank, guards, box in reads:
            picked = tuple(is_value(s, v) for s, v in zip(bank, values, strict=True))
            names = {s.name: v for s, v in zip(bank, values, strict=True)}
            known = methodcaller("substitute", names)
            uses.append(((*guards, *picked), tuple(sized(part, known) for part in box)))
        yield uses


def _work(instance: Instance, node: Node) -> tuple[Dim, Dim]:
    definition = ops().get(node.op)
    if definition is None or definition.macs_row is None:
        return ZERO, ZERO
    nodes = instance.block.all_by_id
    types = tuple(nodes[v.node].types[v.index] for v in node.operands)
    work = definition.macs_row(CostOf(types, node.types, node.attributes, node.params))
    made = node.types[0].elements()
    return _one(work), _one(made) if work != ZERO else ZERO


def _one(size: Dim) -> Dim:
    """A size at batch 1: every free size is one."""
    free = {s.name: 1 for s in size.symbols if s.free and not s.rate}
    return size.substitute(free) if free else size


def _merged(terms: Iterator[Term]) -> Iterator[Term]:
    sums: dict[tuple[Condition, ...], Dim] = {}
    for term in terms:
        sums[term.guards] = sums.get(term.guards, ZERO) + term.size
    return (Term(g, d) for g, d in sums.items())


def _charged(uses: list[Use]) -> Iterator[Term]:
    """The terms of one tensor: per use where uses exclude each other, else their common box."""
    if len(uses) == 1 or _exclusive(uses):
        for guards, box in uses:
            yield Term(guards, multiplied(part.length for part in box))
        return
    present = [conjunction(*guards) for guards, _ in uses]
    anywhere = disjunction(*present)
    if isinstance(holds(anywhere), Proved):
        guards: tuple[Condition, ...] = ()
    else:
        guards = (anywhere,)
    factors = zip(*(box for _, box in uses), strict=True)
    lengths = (together([*zip(present, parts, strict=True)]) for parts in factors)
    yield Term(guards, multiplied(lengths))


def _exclusive(uses: list[Use]) -> bool:
    return all(
        conjunction(*a, *b) == FALSE or feasible((*a, *b)) is False
        for i, (a, _) in enumerate(uses)
        for b, _ in uses[:i]
    )
