"""From architecture parameters to an architecture: DARTS's rule, as CDARTS has it.

    derivation = Derivation(program, never=("none",))     # SP701 where the networks do not fit
    derivation.assignment(trainer.alphas(derivation.search))

An edge scores w(source) * w(operation), each weighted as the mixture weights it; of every edge the
best operation counts, of every node the best edges are kept, the better first. An operation that is
never taken counts in the weighting all the same. Of equals the first in the text wins.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from spacelang.diagnostics import Diagnostic, Report, SpaceError, error
from spacelang.ir.decision import Assignment, Choice, drawn, sources
from spacelang.ir.dim import Value
from spacelang.ir.graph import Graph
from spacelang.ir.program import Program, below, slot_of

ALPHAS = "alphas."
"""What architecture parameters are found under, before the path of their decision."""


def decision_of(path: str) -> str:
    """The decision of which a tensor is the architecture parameters (`passes/hand_down.py`)."""
    return path.removeprefix(ALPHAS).removesuffix(".alphas")


Numbers = Sequence[float]
Alphas = Mapping[str, Numbers]


def softmax(values: Numbers) -> list[float]:
    """Shares that sum to 1."""
    top = max(values)
    powers = [math.exp(value - top) for value in values]
    return [power / math.fsum(powers) for power in powers]


def sigmoid(values: Numbers) -> list[float]:
    """Each by itself, in 0..1."""
    return [1 / (1 + math.exp(-value)) if value > -700 else 0.0 for value in values]


WEIGHTINGS: Mapping[str, Callable[[Numbers], Numbers]] = MappingProxyType(
    {"softmax": softmax, "sigmoid": sigmoid, "parameter": lambda values: values}
)
"""How a mixture weights its parameters, by the op that its weights come from."""


@dataclass(frozen=True, slots=True)
class Best:
    """An alternative of a decision, and its weight."""

    value: Value
    weight: float


class Derivation:
    """What is decided by which parameters. `search` is the mixed network, `evaluation` the other.

    `operations` has what the mixed network calls a decision between alternatives, at any source.
    SP701 for a program that is not one network whose decisions are all mixtures of the other.
    """

    def __init__(self, program: Program, never: Sequence[str] = ()) -> None:
        self.program, self.never = program, frozenset(never)
        self.search, self.evaluation = roles(program)
        mixed, self.space = program.networks[self.search], program.networks[self.evaluation]
        self.decisions = self.space.decisions
        self.sizes = {
            decision_of(path): storage.numel
            for path, storage in mixed.storages.items()
            if path.startswith(ALPHAS)
        }
        self.weightings = dict(_weightings(mixed))
        self._edges = [edge for edge in program.edges if edge.decision in self.decisions]
        self._places = {
            path: (edge.decision, edge.number)
            for path, choice in self.decisions.items()
            for edge in self._edges
            if choice.kind != "pick" and below(path, edge.path)
        }
        self.operations = {
            twin: choice
            for choice in self.decisions.values()
            if choice.kind != "pick"
            for twin in self._twins(choice.path)
        }
        report = Report()
        report.extend(self._mistakes())
        report.check()

    @property
    def sources(self) -> tuple[str, ...]:
        """The decisions of sources."""
        return tuple(path for path, choice in self.decisions.items() if choice.kind == "pick")

    def assignment(self, alphas: Alphas) -> Assignment:
        """The architecture that parameters stand for."""
        taken: dict[str, Value] = {}
        for choice in self.decisions.values():
            if choice.kind == "pick":
                taken |= self._pick(choice, alphas)
            elif choice.path not in self._places:
                taken[choice.path] = self._best(choice.path, choice, alphas).value
        return self.decisions.assignment(self.decisions.complete(taken))

    def _pick(self, pick: Choice, alphas: Alphas) -> dict[str, Value]:
        """The best sources of a node, and what is done with each."""
        scores = [
            weight * math.prod(best.weight for best in self._at(pick, 0, source, alphas).values())
            for source, weight in enumerate(self._weights(pick.path, alphas))
        ]
        order = sorted(range(len(scores)), key=lambda source: -scores[source])[: drawn(pick)]
        taken: dict[str, Value] = {pick.path: tuple(order)}
        for number, source in enumerate(order):
            found = self._at(pick, number, source, alphas)
            taken |= {path: best.value for path, best in found.items()}
        return taken

    def _at(self, pick: Choice, number: int, source: int, alphas: Alphas) -> dict[str, Best]:
        """The best of each decision at a position, where a source is drawn there."""
        return {
            path: self._best(self._twin(path, source), self.decisions[path], alphas)
            for path, place in self._places.items()
            if place == (pick.path, number)
        }

    def _best(self, path: str, choice: Choice, alphas: Alphas) -> Best:
        weights = zip(choice.values, self._weights(path, alphas), strict=True)
        allowed = [Best(value, weight) for value, weight in weights if value not in self.never]
        return max(allowed, key=lambda best: best.weight)

    def _weights(self, path: str, alphas: Alphas) -> Numbers:
        return WEIGHTINGS[self.weightings[path]](alphas[path])

    def _twin(self, path: str, source: int) -> str:
        """What the mixed network calls a decision at a position where a source is drawn."""
        edges = [e for e in self._edges if (e.decision, e.number) == self._places[path]]
        return slot_of(path, {edge.path: edge.sources[source] for edge in edges})

    def _twins(self, path: str) -> Iterator[str]:
        """What the mixed network calls a decision: one path, or one for each source."""
        if path not in self._places:
            yield path
        else:
            pick = self.decisions[self._places[path][0]]
            yield from (self._twin(path, source) for source in range(sources(pick)))

    def _mistakes(self) -> Iterator[Diagnostic]:
        sizes = {path: sources(self.decisions[path]) for path in self.sources}
        sizes |= {path: len(choice.values) for path, choice in self.operations.items()}
        for path, size in sizes.items():
            if self.sizes.get(path) != size:
                span = (self.operations.get(path) or self.decisions[path]).span
                found = error("SP701", f"{path} is no mixture of {self.search}", span)
                yield found.hint("the network that decides needs `rewrite { relax(..) }`")
        known = {str(value) for choice in self.operations.values() for value in choice.values}
        for name in sorted(self.never - known):
            yield error("SP701", f"no decision has an alternative {name}, which is never taken")
        for choice in dict.fromkeys(self.operations.values()):
            if self.never.issuperset(map(str, choice.values)):
                yield error("SP701", f"{choice.path} may take none of its values", choice.span)


def roles(program: Program) -> tuple[str, str]:
    """The network that decides, which is all mixtures, and the one that is decided (SP701)."""
    mixed = [
        name
        for name, graph in program.networks.items()
        if not graph.decisions and any(path.startswith(ALPHAS) for path in graph.storages)
    ]
    open = [name for name, graph in program.networks.items() if graph.decisions]
    if len(mixed) == len(open) == 1:
        return mixed[0], open[0]
    what = f"{program.name} is not a network of mixtures and one with decisions"
    found = error("SP701", what).note(
        f"of mixtures alone: {', '.join(mixed) or 'none'}", f"open: {', '.join(open) or 'none'}"
    )
    raise SpaceError(
        found.hint('relax(op: "softmax", inputs: "softmax") makes all decisions mixtures')
    )


def _weightings(mixed: Graph) -> Iterator[tuple[str, str]]:
    """The op that makes weights of the parameters of each decision."""
    values = {
        node.values[0]: decision_of(node.label)
        for node in mixed.root.nodes
        if node.op == "parameter" and node.label.startswith(ALPHAS)
    }
    for path in values.values():
        yield path, "parameter"
    for node in mixed.root.nodes:
        if node.op in WEIGHTINGS and node.operands and node.operands[0] in values:
            yield values[node.operands[0]], node.op
