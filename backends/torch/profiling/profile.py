"""Profiles: what the operations of a network, and networks as a whole, take on a device.

    table = profile(graph, assignment, facts_of("cpu", 1, 1, "float32"), path="table.json")

An operation is a network of its own (`Operation.graph`), lowered as every network is, and run in
evaluation without gradients on random inputs. Operations take turns: a round calls each of many
once, in an order of its own, so that each finds the caches as others left them, as inside of a
network, and what else the machine does slows all alike. Medians over the rounds count, less what a
network takes that does nothing. What was measured is in a journal at once, and a killed run goes
on from there.

In the form `deployed` networks are those of `deploy`. So is an operation of one input and one
output, in the order of channels that it has inside of a network; others are as they are lowered.
"""

from __future__ import annotations

import platform
import shutil
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Self, cast

import torch
from torch import Tensor, fx

from spacelang import __version__
from spacelang.analysis.latency import LatencyModel, every_operation, operations
from spacelang.analysis.latency_table import (
    DEPLOYED,
    EXTRACTED,
    Facts,
    LatencyTable,
    Whole,
    read_table,
)
from spacelang.analysis.memory import weight_bytes
from spacelang.analysis.operations import Operation
from spacelang.analysis.queries import sample
from spacelang.analysis.traffic import at
from spacelang.backends.torch.heap import keep_freed_memory
from spacelang.backends.torch.inference.deploy import deploy, example_of
from spacelang.backends.torch.inference.deployed import Packed
from spacelang.backends.torch.inputs import example
from spacelang.backends.torch.runs.interrupt import Interrupt
from spacelang.backends.torch.runs.progress import Reporter, progress
from spacelang.backends.torch.searching.search import open_journal
from spacelang.backends.torch.supernet import Supernet
from spacelang.diagnostics import SpaceError, error
from spacelang.engines.pool import encoding
from spacelang.files import Lock, PathLike
from spacelang.ir.decision import Assignment
from spacelang.ir.graph import Graph
from spacelang.journal import Journal
from spacelang.passes.specialize import specialize

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
WARM = 3  # rounds that are not counted
TOGETHER = 64  # operations that take turns
NETWORKS = 8  # networks that do
MEMORY = 1 << 30  # bytes that those which take turns may hold, but for the first
PART = ".part"  # the folder beside a table in which it comes to be
JOURNAL = "measured.jsonl"


def facts_of(
    device: str, threads: int | None, batch: int, dtype: str, form: str = EXTRACTED
) -> Facts:
    """What a table of this machine says of it; as many threads as PyTorch takes by itself where
    None are given. SP605 for networks that are deployed, but on the processor in float32."""
    if form == DEPLOYED and (device, dtype) != ("cpu", "float32"):
        told = f"networks are deployed for the processor in float32, not for {device} in {dtype}"
        raise SpaceError(error("SP605", told).hint("--device cpu --dtype float32"))
    count = torch.get_num_threads() if threads is None else threads
    return Facts(device, _model(device), count, batch, dtype, torch.__version__, __version__, form)


def _model(device: str) -> str:
    """What its maker calls a device."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    found = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return found
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, found)


@dataclass(frozen=True)
class Job:
    """A network and what it is called with."""

    module: Callable[..., object]
    inputs: tuple[Tensor, ...]

    @staticmethod
    def idle(device: str) -> Job:
        """One that does nothing."""
        graph = fx.Graph()
        graph.output(graph.placeholder("x"))
        return Job(fx.GraphModule({}, graph), (torch.zeros(1, device=device),))


@dataclass
class Clock:
    """Times networks on the device of some facts; within it PyTorch has their threads, and from
    then on the process keeps the memory that it frees."""

    facts: Facts
    repeats: int = 20
    _stack: ExitStack = field(default_factory=ExitStack, init=False, repr=False)

    def __enter__(self) -> Self:
        self._stack.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(self.facts.threads)
        keep_freed_memory()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        failed: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    @property
    def alone(self) -> bool:
        """Whether one thread does all the work: then its processor time is taken, which is what
        passes on an idle machine, whatever else runs on this one."""
        return self.facts.device == "cpu" and self.facts.threads == 1

    def job(self, graph: Graph, part: bool = False) -> Job:
        """A network without decisions, ready to be called at the batch of the facts; `part` where
        it is an operation of a larger one."""
        if self.facts.form == DEPLOYED and not (part and _several(graph)):
            return self._deployed(graph, part)
        device, kind = self.facts.device, DTYPES[self.facts.dtype]
        module = Supernet(graph).eval().extract().to(device, kind)
        inputs = example(graph, self.facts.batch)
        return Job(
            module,
            tuple(x.to(device, kind) if x.is_floating_point() else x.to(device) for x in inputs),
        )

    def _deployed(self, graph: Graph, part: bool) -> Job:
        lead = int(graph.root.inputs[0].types[0].shape[0].at({})) if part else self.facts.batch
        network = deploy(Supernet(graph).eval(), batch=lead)
        x = example_of(network.shape)
        return Job(network.left if part and isinstance(network, Packed) else network, (x,))

    def turns(self, jobs: Sequence[Job]) -> list[float]:
        """The median of the nanoseconds of each, called in turns."""
        found: list[list[int]] = [[] for _ in jobs]
        order = list(range(len(jobs)))
        with torch.no_grad():
            for number in range(WARM + self.repeats):
                Random(number).shuffle(order)
                for which in order:
                    took = self._timed(jobs[which])
                    if number >= WARM:
                        found[which].append(took)
        return [statistics.median(times) for times in found]

    def _timed(self, job: Job) -> int:
        now = time.thread_time_ns if self.alone else time.perf_counter_ns
        self._wait()
        began = now()
        job.module(*job.inputs)
        self._wait()
        return now() - began

    def _wait(self) -> None:
        """Until the device has done what it was given."""
        kind = self.facts.device.partition(":")[0]
        if kind == "cuda":
            torch.cuda.synchronize(self.facts.device)
        elif kind == "mps":
            torch.mps.synchronize()


def measured(
    graph: Graph,
    wanted: Mapping[str, Operation],
    networks: Sequence[tuple[Assignment, bool]],
    clock: Clock,
    known: LatencyTable | None = None,
    journal: Journal | None = None,
    check: Callable[[], None] = lambda: None,
    reporter: Reporter | None = None,
) -> LatencyTable:
    """A table with these operations and these networks, each with whether the fit may see it.

    What is `known` or stands in the journal is not measured again. `check` is called between
    measurements, to raise where the run is to stop.
    """
    told = reporter or progress("quiet")
    notes = _Notes(clock.facts, journal)
    entries = dict(known.entries) if known is not None else {}
    entries |= {name: ns for name, ns in notes.all("operation").items() if name in wanted}
    lacking = [signature for signature in wanted if signature not in entries]
    others = [signature for signature in wanted if signature in entries]
    told.begin("operations", len(lacking), "operations")
    for chunk in _together(lacking, lambda name: wanted[name].bytes, TOGETHER):
        # A few alone would find the caches warmer than many do.
        beside = others[: max(0, TOGETHER // 2 - len(chunk))]
        jobs = [clock.job(wanted[signature].graph(), part=True) for signature in (*chunk, *beside)]
        *times, idle = clock.turns([*jobs, Job.idle(clock.facts.device)])
        found = {s: max(0.0, round(ns - idle, 1)) for s, ns in zip(chunk, times, strict=False)}
        notes.add("operation", found)
        entries |= found
        told.advance(len(chunk))
        check()
    told.done()
    model = LatencyModel(graph, LatencyTable(clock.facts, entries))
    known_networks = known.networks if known is not None else ()
    wholes = {_key(n.graph, n.assignment): n for n in known_networks}
    named = {_key(graph.hash, a): (a, fitted) for a, fitted in networks}
    asked = {name: one for name, one in named.items() if name not in wholes}
    took = notes.all("network")
    new = [name for name in asked if name not in took]
    told.begin("networks", len(new), "networks")
    whole = weight_bytes(graph)
    for chunk in _together(new, lambda _: whole, NETWORKS):
        times = clock.turns([clock.job(specialize(graph, asked[name][0])) for name in chunk])
        found = dict(zip(chunk, times, strict=True))
        notes.add("network", found)
        took |= found
        told.advance(len(chunk))
        check()
    told.done()
    for name, (assignment, fitted) in asked.items():
        total = model.sum(graph.decisions.check(assignment))
        whole_ns = round(took[name], 1)
        wholes[name] = Whole(dict(assignment), round(total, 1), whole_ns, fitted, graph.hash)
    return LatencyTable(clock.facts, entries, tuple(wholes.values()))


def _key(graph: str, assignment: Assignment) -> str:
    """One text for a network of a space, which is given by its hash."""
    return f"{graph} {encoding(assignment)}"


def _together(names: Sequence[str], held: Callable[[str], int], most: int) -> Iterator[list[str]]:
    """Names that take turns: at most so many, and no more than `MEMORY` bytes that they hold."""
    chunk: list[str] = []
    total = 0
    for name in names:
        size = held(name)
        if chunk and (len(chunk) == most or total + size > MEMORY):
            yield chunk
            chunk, total = [], 0
        chunk.append(name)
        total += size
    if chunk:
        yield chunk


def _several(graph: Graph) -> bool:
    """Whether a network has several inputs or outputs, or one that holds no numbers of float32."""
    types = [type for node in graph.root.inputs for type in node.types]
    return len(types) != 1 or len(graph.outputs) != 1 or types[0].dtype != "f32"


def profile(
    graph: Graph,
    given: Assignment,
    facts: Facts,
    *,
    repeats: int = 20,
    path: PathLike | None = None,
    drawn: int | None = None,
    networks: int = 8,
    seed: int = 0,
    reporter: Reporter | None = None,
) -> LatencyTable:
    """What an architecture's operations take, and it as a whole; with a file a table for searches.

    A table holds every operation of the space, or those of `drawn` random architectures, and whole
    networks: this one, the smallest, the largest and `networks` random ones. A file that is there
    is gone on with. SP702 where it is no table, or of another device, threads, batch or type; SP507
    for a space with too many operations to list; Locked where another process writes it.
    """
    if path is None:
        wanted = operations_of(graph, (given,), facts)
        with Clock(facts, repeats) as clock:
            return measured(graph, wanted, [(given, True)], clock, reporter=reporter)
    place = Path(path)
    known = known_table(place, facts)
    wholes = networks_of(graph, given, networks, seed)
    if drawn is None:
        wanted = every_operation(graph, facts.batch, facts.form)
    else:
        others = sample(graph, drawn, seed)
        wanted = operations_of(graph, (*(a for a, _ in wholes), *others), facts)
    part = place.with_name(place.name + PART)
    part.mkdir(exist_ok=True)
    lock = Lock(part)
    lock.acquire()
    with ExitStack() as stack:
        stack.callback(lock.release)
        journal = stack.enter_context(open_journal(part / JOURNAL))
        interrupt = stack.enter_context(Interrupt())
        clock = stack.enter_context(Clock(facts, repeats))
        table = measured(graph, wanted, wholes, clock, known, journal, interrupt.check, reporter)
        table.write(place)
        shutil.rmtree(part)
    return table


def known_table(place: Path, facts: Facts) -> LatencyTable | None:
    """The table that a file holds, to be added to (SP702 where it is of another device)."""
    if not place.exists():
        return None
    found = read_table(place)
    other = found.facts.differs(facts)
    if other:
        told = error("SP702", f"{place} was measured otherwise: {'; '.join(other)}")
        raise SpaceError(told.hint("write another file, or remove this one"))
    return found


def networks_of(
    graph: Graph, given: Assignment, count: int, seed: int
) -> list[tuple[Assignment, bool]]:
    """The networks to measure: the given one, the smallest, the largest and half of `count` random
    ones for the fit, the other half for its error; each once."""
    found: dict[str, tuple[Assignment, bool]] = {encoding(given): (given, True)}
    for which in ("smallest", "largest"):
        extreme = graph.decisions.extreme(which)
        found.setdefault(encoding(extreme), (extreme, True))
    for number, drawn in enumerate(sample(graph, count, seed)):
        found.setdefault(encoding(drawn), (drawn, number % 2 == 0))
    return list(found.values())


def operations_of(
    graph: Graph, networks: Iterable[Assignment], facts: Facts
) -> dict[str, Operation]:
    """What some networks compute, by signature."""
    found: dict[str, Operation] = {}
    for assignment in networks:
        for made in operations(graph, at(graph, assignment, facts.batch), facts.form):
            found.setdefault(made.signature, made)
    return found


class _Notes:
    """What a journal holds of measurements under the same facts, and adds."""

    def __init__(self, facts: Facts, journal: Journal | None) -> None:
        self._facts, self._journal = asdict(facts), journal

    def all(self, what: str) -> dict[str, float]:
        """Nanoseconds by name, of operations or of networks."""
        found: dict[str, float] = {}
        for entry in self._journal.entries if self._journal is not None else ():
            if entry.get("facts") == self._facts and entry.get("what") == what:
                found |= cast("dict[str, float]", entry["ns"])
        return found

    def add(self, what: str, found: Mapping[str, float]) -> None:
        if self._journal is not None:
            self._journal.append({"facts": self._facts, "what": what, "ns": dict(found)})
