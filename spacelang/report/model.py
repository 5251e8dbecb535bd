"""What a report says: a tree of frozen dataclasses, all of plain numbers and strings.

In JSON a dataclass is an object with the same fields, a tuple an array, and `size` a number or a
decimal string. Fields with a default may be left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Value = str | int | float | bool | tuple[int, ...]  # of a decision
Method = Literal["evolution", "random", "other"]
Role = Literal["winner", "random", "largest", "other"]
MOST = 1 << 63  # costs and counts are below: charts compute with floats


@dataclass(frozen=True, slots=True)
class Score:
    """Right answers of a network on a number of images."""

    correct: int
    total: int

    def __post_init__(self) -> None:
        if not 0 <= self.correct <= self.total < MOST or self.total == 0:
            raise ValueError(f"{self.correct} of {self.total} is no score")

    @property
    def accuracy(self) -> float:
        return self.correct / self.total


@dataclass(frozen=True, slots=True)
class Decision:
    """A decision of the space: its path, its kind (dim, presence, path, pick), what it may be."""

    path: str
    kind: str
    candidates: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Data:
    """The images: `shape` is channels, height, width; `split` the digest of the division."""

    name: str
    classes: int
    shape: tuple[int, int, int]
    train: int
    validation: int
    test: int
    split: str = ""


@dataclass(frozen=True, slots=True)
class Epoch:
    """An epoch of training: mean loss, and validation accuracy (0..1) where it was measured."""

    number: int
    loss: float
    accuracy: float | None = None

    def __post_init__(self) -> None:
        _check_share(self.accuracy)


@dataclass(frozen=True, slots=True)
class Candidate:
    """An architecture that a search evaluated: its cost and its validation accuracy (0..1)."""

    method: Method
    cost: int
    accuracy: float

    def __post_init__(self) -> None:
        _check_share(self.accuracy)
        _check_count(self.cost)


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of a search, in the order of time: a generation, a move of the space, a cycle.

    `accuracies` (0..1) are those of its candidates, `changes` what it decided, in words.
    """

    name: str
    accuracies: tuple[float, ...] = ()
    changes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for accuracy in self.accuracies:
            _check_share(accuracy)


@dataclass(frozen=True, slots=True)
class Network:
    """A row of the table of results. Of every role but `other` there is at most one network."""

    name: str
    role: Role
    params: int
    macs: int
    validation: Score | None = None
    test: Score | None = None

    def __post_init__(self) -> None:
        _check_count(self.params)
        _check_count(self.macs)

    def cost(self, name: str) -> int | None:
        """Its cost on the axis of that name, if it is one that networks here have."""
        return {"params": self.params, "macs": self.macs}.get(name)


@dataclass(frozen=True, slots=True)
class Command:
    """A command that repeats a step, and what it does."""

    text: str
    comment: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """A whole run: the space, the data, training, search and what came out."""

    space: str  # as it is addressed: "quickstart.space:digits"
    size: int  # exact number of architectures
    decisions: tuple[Decision, ...]
    data: Data
    training: tuple[Epoch, ...]
    candidates: tuple[Candidate, ...]
    networks: tuple[Network, ...]
    chosen: Mapping[str, Value]  # the winner's assignment, by decision path
    commands: tuple[Command, ...]
    environment: Mapping[str, str]
    title: str = ""  # the name of the space where empty
    summary: str = ""  # a sentence or two below the title
    where: str = ""  # the requirement that the search was under: "params <= 100K"
    size_within: int | None = None  # exact number of architectures that meet it
    cost: str = "params"  # what the candidates' cost counts
    limit: tuple[int | None, int | None] = (None, None)  # of that cost, both inclusive
    stages: tuple[Stage, ...] = ()  # of the search that found the winner
    checks: Mapping[str, str] = field(default_factory=dict[str, str])  # what was proved -> outcome
    version: str = ""  # of spacelang

    def __post_init__(self) -> None:
        for bound in self.limit:
            _check_count(bound or 0)

    def network(self, role: Role) -> Network | None:
        """The first network of a role."""
        return next((network for network in self.networks if network.role == role), None)


def _check_share(share: float | None) -> None:
    if share is not None and not 0 <= share <= 1:
        raise ValueError(f"{share} is no accuracy: it is in 0..1, not in percent")


def _check_count(count: int) -> None:
    if not 0 <= count < MOST:
        raise ValueError("a count is out of range (0..2**63-1)")
