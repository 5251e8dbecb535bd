"""Programs: several networks that train together, what they store in common, and a pool of weights.

    program.networks["deep"]                 # a Graph
    program.shared["fc.weight"]              # the networks that read this one tensor
    program.pool.slots(assignment)           # a parameter of the pooled network -> its slot

The networks of a program are graphs of their own; decisions of one path are one decision.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from spacelang.ir.condition import Condition, chosen
from spacelang.ir.decision import Assignment
from spacelang.ir.dim import Value
from spacelang.ir.graph import Graph
from spacelang.ir.prove import feasible
from spacelang.ir.storage import Storage


@dataclass(frozen=True, slots=True)
class Position:
    """What a pick makes at one of its positions, by path, and how that is called for a source.

    `decision` is the pick, `number` the position; `sources` are the paths of the same parts in a
    network that has one for every source. Paths are those of weights, or those of decisions.
    """

    decision: str
    number: int
    path: str
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pool:
    """A network that never runs: its store keeps weights of another network between its uses.

    name, graph   the network that is the store      of   the network whose weights it keeps
    paths         what it keeps, by prefix           positions   picks, which have a slot a source
    """

    name: str
    graph: Graph
    of: str
    network: Graph
    paths: tuple[str, ...]
    positions: tuple[Position, ...]

    @property
    def stored(self) -> Mapping[str, Storage]:
        """What the pool keeps, by path: weights, without running statistics."""
        return {
            path: storage
            for path, storage in self.graph.storages.items()
            if storage.param.role == "weight" and self.keeps(path)
        }

    @property
    def numel(self) -> int:
        """The elements that the pool keeps."""
        return sum(storage.numel for storage in self.stored.values())

    def slots(self, assignment: Assignment) -> Mapping[str, str]:
        """Where the pool keeps each weight that an architecture of the network reads.

        A part that stands at a position of a pick has the slot of the source that is drawn there,
        so weights survive where another architecture draws it at another position.
        """
        values = self.network.decisions.check(assignment)
        drawn: dict[str, str] = {}
        for place in self.positions:
            taken = values.get(place.decision)
            if isinstance(taken, tuple):
                drawn[place.path] = place.sources[taken[place.number]]
        return {path: slot_of(path, drawn) for path in self._read(values)}

    @property
    def crossed(self) -> tuple[Position, Position] | None:
        """Two positions of different picks that have one weight, which then has two slots at once;
        None where there are none."""
        kept = [path for path in self.network.storages if self.keeps(path)]
        first: dict[str, Position] = {}
        for place in self.positions:
            before = first.setdefault(place.path, place)
            other = (before.decision, before.number) != (place.decision, place.number)
            if other and any(below(path, place.path) for path in kept):
                return before, place
        return None

    def wanted(self) -> Iterator[tuple[str, str, bool]]:
        """Each weight that the network reads and the pool keeps, with every slot that it has in
        some architecture, and whether one is known to have it or that is not known."""
        storages, choices = self.network.storages, self.network.decisions
        parts = {place.path: place for place in self.positions}
        drawn: dict[tuple[str, tuple[Condition, ...]], list[tuple[str, bool]]] = {}

        def named(part: str, guards: tuple[Condition, ...]) -> list[tuple[str, bool]]:
            """What a part may be called where some conditions hold, and whether it surely may."""
            place = parts[part]
            symbol = choices[place.decision].symbol
            asked = (chosen(symbol, place.number, source) for source in range(len(place.sources)))
            known = [feasible((*guards, truth)) for truth in asked]
            names = zip(place.sources, known, strict=True)
            return [(name, met is True) for name, met in names if met is not False]

        for instance, _, view in self.network.nodes_of(lambda _, node: node.params.values()):
            path = instance.param(view.param)
            if storages[path].param.role != "weight" or not self.keeps(path):
                continue
            part = longest(path, parts)
            if not part:
                yield path, path, True
                continue
            key = part, instance.guards
            if key not in drawn:
                drawn[key] = named(part, instance.guards)
            yield from ((path, name + path[len(part) :], sure) for name, sure in drawn[key])

    def keeps(self, path: str) -> bool:
        """Whether a path lies in what the pool keeps."""
        return any(below(path, prefix) for prefix in self.paths)

    def _read(self, values: Mapping[str, Value]) -> Iterator[str]:
        """The weights that an architecture of the network reads and the pool keeps, each once."""
        storages = self.network.storages
        seen: set[str] = set()
        for instance, _, view in self.network.nodes_of(lambda _, node: node.params.values()):
            if all(guard.at(values) for guard in instance.guards):
                path = instance.param(view.param)
                weight = storages[path].param.role == "weight"
                if weight and path not in seen and self.keeps(path):
                    seen.add(path)
                    yield path


@dataclass(frozen=True, slots=True)
class Program:
    """Networks by name, in the order of the text; the names of those that read a shared tensor.

    `edges` are the positions of picks that decisions are taken at, by paths of decisions.
    """

    name: str
    networks: Mapping[str, Graph]
    shared: Mapping[str, tuple[str, ...]]
    pool: Pool | None = None
    edges: tuple[Position, ...] = ()

    @property
    def decisions(self) -> Mapping[str, tuple[str, ...]]:
        """The networks that take each decision."""
        found: dict[str, tuple[str, ...]] = {}
        for name, graph in self.networks.items():
            for path in graph.decisions:
                found[path] = (*found.get(path, ()), name)
        return found


def below(path: str, prefix: str) -> bool:
    """Whether a path is another one, or inside of it."""
    return path == prefix or path.startswith((f"{prefix}.", f"{prefix}["))


def longest(path: str, parts: Collection[str]) -> str:
    """The longest of some paths that a path is, or lies in; empty if there is none."""
    end = len(path)
    while end > 0 and path[:end] not in parts:
        end = max(path.rfind(".", 0, end), path.rfind("[", 0, end))
    return path[: max(end, 0)]


def slot_of(path: str, drawn: Mapping[str, str]) -> str:
    """A path with what stands at a position named by its source; the longest such part."""
    part = longest(path, drawn)
    return path if not part else drawn[part] + path[len(part) :]
