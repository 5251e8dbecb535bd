"""What an engine and a trainer say to each other: plans, metrics, scores and events, all data.

    engine = Evolution(population=50, where="params <= 6M")
    for event in engine.run(graph, trainer, seed=0): ...

An engine decides, a trainer works: an engine sees assignments, names and numbers, never a tensor,
so every engine runs on a toy trainer too. Engines yield events; progress, logs and files stand
outside them. What an engine draws is a function of its settings and its seed, and what it decides
also of the scores: run again over the scores of a journal (`record.py`) it comes to the same place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

from spacelang.engines.taps import Tap
from spacelang.ir.decision import Assignment, Kind
from spacelang.ir.figures import Between, Cost
from spacelang.ir.graph import Graph

Origin = Literal["random", "mutation", "crossover", "largest", "smallest", "derived"]
Objective = Literal["accuracy", "params", "macs", "activations"]
# Those of a trained supernet, none (each network is trained anew), of one it trains itself, or of
# the networks of a program, which it trains together.
Weights = Literal["shared", "scratch", "own", "program"]


@dataclass(frozen=True, slots=True)
class LossTerm:
    """One summand of a step's loss: a row of the backend's table of losses, and its weight.

    It reads the outputs of the `of`-th forward pass of the step and, where it compares two, those
    of the pass `against`. One that compares inner values says in `taps` which: pairs of one of this
    pass and one of that. One that reads another value than the pass's first output names it in
    `at`.
    """

    kind: str = "cross_entropy"
    weight: float = 1.0
    options: Mapping[str, float] = field(default_factory=dict[str, float])
    of: int = 0
    against: int | None = None
    taps: tuple[tuple[Tap, Tap], ...] = ()
    at: str = ""

    @property
    def name(self) -> str:
        """What a step's metrics call it."""
        return f"{self.kind}[{self.of}]" if self.of else self.kind


@dataclass(frozen=True, slots=True)
class Forward:
    """One pass of a step's batch through an architecture of a network.

    A pass that does not learn is run without gradients: a teacher, in training mode all the same
    where it is of the supernet.
    """

    assignment: Assignment
    network: str = "supernet"
    learns: bool = True


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step of training, completely: printed, it can be replayed.

    `step` counts from 0 over the whole run; `batch` within the epoch; `data` names the part of the
    data set, `groups` the parameters to update.
    """

    step: int
    epoch: int
    batch: int
    forwards: tuple[Forward, ...]
    losses: tuple[LossTerm, ...] = (LossTerm(),)
    data: str = "train"
    groups: tuple[str, ...] = ("weights",)

    @property
    def assignment(self) -> Assignment:
        """The architecture of the first pass."""
        return self.forwards[0].assignment


@dataclass(frozen=True, slots=True)
class Group:
    """What one optimiser moves, by the name that plans call it, and by what rule.

    It is the weights of a network of a program without its architecture parameters, or those
    alone, each without what lies below `omitted`; `ensemble` adds the weights of the ensemble.
    `momentum` is of sgd, `betas` of adam; the rate is constant.
    """

    name: str
    network: str
    what: Literal["weights", "alphas"]
    rule: Literal["sgd", "adam"]
    rate: float
    decay: float = 0.0
    momentum: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    omitted: tuple[str, ...] = ()
    ensemble: bool = False


@dataclass(frozen=True, slots=True)
class Slots:
    """Weights of a network of a program, or of its pool, by path."""

    network: str
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Metrics:
    """What a step measured: the loss and its terms, right answers of so many, the learning rate."""

    loss: float
    terms: Mapping[str, float]
    correct: int
    total: int
    rate: float


@dataclass(frozen=True, slots=True)
class Samples:
    """What a network is scored on: a part of the data set, or its first `count` samples."""

    part: str = "validation"
    count: int | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """Right answers of a network; `failure` says why it could not be scored (then 0 of 0)."""

    correct: int
    total: int
    failure: str = ""

    @property
    def accuracy(self) -> float:
        """The share of right answers, 0..1; -1 for a failure, which is below all others."""
        return self.correct / self.total if self.total else -1.0


class Prober(Protocol):
    """What a search needs: scores of architectures, forward only."""

    def probe(self, assignments: Iterable[Assignment], samples: Samples) -> Iterator[Score]:
        """A score for each assignment, in their order, as soon as it is there."""
        ...


class Trainer(Prober, Protocol):
    """What training needs besides: steps, and the sizes of an epoch and of the run."""

    @property
    def taken(self) -> int:
        """How many steps were taken before, in this process or in the one it resumes."""
        ...

    def steps(self, data: str) -> int:
        """How many batches an epoch of a part of the data set has."""
        ...

    def step(self, plan: StepPlan) -> Metrics:
        """Take one step: forward, backward, update."""
        ...


class Rebuilder(Trainer, Protocol):
    """What a search of spaces needs besides."""

    @property
    def inherited(self) -> int:
        """How many elements of weights the last `rebuild` took over."""
        ...

    def space(self, ranges: Mapping[str, Sequence[float]]) -> Graph:
        """The graph that `rebuild` of these ranges gives, and nothing else is done."""
        ...

    def rebuild(self, ranges: Mapping[str, Sequence[float]], inherit: bool) -> Graph:
        """Go on with the space whose decisions have these candidates, and give its graph.

        Names are those of `ranges.dimension_name`. Steps count from 0 again; with `inherit` the
        weights that both supernets keep begin as they are, the rest anew.
        """
        ...


class Matcher(Trainer, Protocol):
    """What the prioritized board needs besides: paths remembered by their outputs, and matched."""

    def remember(self, slot: int, plan: StepPlan, of: int, images: int) -> None:
        """Keep the first images of a step's batch and the softmax of its `of`-th pass on them."""
        ...

    def match(self, plan: StepPlan, slots: Sequence[int]) -> Sequence[float]:
        """How well each remembered path would teach the first pass of a plan; more is better."""
        ...


class Cycler(Trainer, Protocol):
    """What training the networks of a program takes besides; scores are of the one that decides.

    A step may pass through several networks; the gradients of all its losses together are what
    the groups of its plan move.
    """

    def reset(self, groups: Sequence[Group]) -> None:
        """Begin the optimisers of these groups, without any state; all others are gone."""
        ...

    def alphas(self, network: str) -> Mapping[str, Sequence[float]]:
        """The architecture parameters of a network, by the path of the decision they stand for."""
        ...

    def weigh(self, network: str, values: Mapping[str, Sequence[float]]) -> None:
        """Set architecture parameters."""
        ...

    def renew(self, slots: Slots, number: int) -> None:
        """Draw what lies below some paths anew, the `number`-th time; statistics begin again."""
        ...

    def copy(self, source: Slots, target: Slots) -> None:
        """Copy weights, the first path of one to the first of the other and so on."""
        ...


@dataclass(frozen=True, slots=True)
class Candidate:
    """An architecture that a search evaluated, the `number`-th (from 0) of its run."""

    number: int
    generation: int
    origin: Origin
    assignment: Assignment
    cost: Cost
    score: Score


@dataclass(frozen=True, slots=True)
class Stepped:
    """A step of training was taken."""

    plan: StepPlan
    metrics: Metrics


@dataclass(frozen=True, slots=True)
class EpochEnded:
    """The last step of an epoch, counted from 0, was taken; `board` are paths that are remembered,
    the best first, each with its share of right answers on the batch it was trained on."""

    epoch: int
    epochs: int
    board: tuple[tuple[float, Assignment], ...] = ()


@dataclass(frozen=True, slots=True)
class Evaluated:
    """An architecture was evaluated, the `number`-th of at most `planned`."""

    candidate: Candidate
    planned: int


@dataclass(frozen=True, slots=True)
class GenerationEnded:
    """A generation was evaluated: how often each way of making children was tried and how it went.

    `tries` counts (made, tried) of "mutation" and "crossover"; the first generation has none.
    """

    generation: int
    best: Candidate
    tries: Mapping[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Found:
    """The end of a search.

    `front` holds the candidates that no other beats in all objectives; `best` is the most accurate
    of all, the cheapest and then the first of equals. `exhausted`: every architecture was tried.
    """

    best: Candidate
    front: tuple[Candidate, ...]
    evaluated: int
    exhausted: bool


@dataclass(frozen=True, slots=True)
class SpaceMoved:
    """The ranges of a space moved: their candidates before and after, by the name of a dimension.

    `slopes` are percentage points of error per candidate, what made them move; `networks` how many
    of the architectures drawn and scored have each candidate, one drawn twice counting twice, by
    the name of a dimension of several; `sizes` how many architectures the space had and has, and
    `shared` how many are in both, exactly or between exact bounds (None where tables do not fit
    into memory); `inherited` how many elements of weights went over.
    """

    iteration: int
    slopes: Mapping[str, float]
    networks: Mapping[str, Sequence[int]]
    before: Mapping[str, Sequence[float]]
    after: Mapping[str, Sequence[float]]
    sizes: tuple[int | Between, int | Between]
    shared: int | Between | None = None
    inherited: int = 0


@dataclass(frozen=True, slots=True)
class Derived:
    """An architecture was derived from the architecture parameters, after some cycles."""

    cycle: int
    assignment: Assignment
    alphas: Mapping[str, Sequence[float]]


Event = Stepped | EpochEnded | Evaluated | GenerationEnded | Found | SpaceMoved | Derived


class Able(Protocol):
    """What is known of an engine before it runs.

    An engine that does not search the weights of a trained supernet says in `weights` whose it
    does: a class attribute of type `Weights`, "shared" where there is none. A true one `moves` has
    one that moves ranges and is given the hull; `matched` are the epochs in which a `Matcher` is
    asked, whose images are not to be mixed.
    """

    name: ClassVar[str]
    kinds: ClassVar[frozenset[Kind]]  # of decisions that it can take; checked before the run


class Engine(Able, Protocol):
    """A way to spend work. Its dataclass fields are its settings (`settings.py`).

    One that needs more of a trainer (`Rebuilder`, `Matcher`, `Cycler`) says so in the type of its
    `run`; a `Cycler` is given with a program instead of a space.
    """

    def run(self, space: Graph, trainer: Trainer, seed: int) -> Iterator[Event]:
        """Search a space by a trainer: what happens, as events in order, that end in `Found`. The
        same seed gives the same events."""
        ...


def weights_of(engine: object) -> Weights:
    """Whose weights an engine searches."""
    return getattr(engine, "weights", "shared")


ALL_KINDS: frozenset[Kind] = frozenset(("dim", "presence", "path", "pick"))
