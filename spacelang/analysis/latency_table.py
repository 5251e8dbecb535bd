"""Latency tables: what operations took on a device, and how their sum fits whole networks.

    {"kind": "latency table", "format": 1, "facts": {"device": "cpu", "model": "..", "threads": 1,
     "batch": 1, "dtype": "float32", "form": "extracted", ..}, "entries": {signature: nanoseconds},
     "networks": [{"graph", "assignment", "sum", "measured", "fitted"}],
     "fits": {graph: {"fit": .., "error": ..}}}

Times are medians in nanoseconds, without what a call takes that does nothing. A table may serve
several spaces; `graph` is the hash of the one that a network is of. Fits and errors are made anew
from the networks whenever a table is read. `form` is how networks ran: `extracted` as `extract`
gives them, `deployed` as `deploy` makes them for inference; a table that does not say is of the
first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from spacelang.diagnostics import SpaceError, error
from spacelang.files import PathLike, atomic_write
from spacelang.ir.decision import Assignment

KIND, FORMAT = "latency table", 1
EXTRACTED, DEPLOYED = FORMS = ("extracted", "deployed")
MAX_BYTES = 1 << 26
TIMES = 1e-3, 1e18  # nanoseconds; what a fit squares and divides by stays finite
UNITS = (("s", 10**9), ("ms", 10**6), ("us", 10**3))


@dataclass(frozen=True)
class Facts:
    """Where and how a table was measured: `device` as PyTorch calls it, `model` as its maker."""

    device: str
    model: str
    threads: int
    batch: int
    dtype: str
    torch: str = ""
    spacelang: str = ""
    form: str = EXTRACTED

    def differs(self, other: Facts) -> tuple[str, ...]:
        """What makes times of two tables no times of one."""
        names = ("device", "model", "threads", "batch", "dtype", "torch", "form")
        pairs = ((n, getattr(self, n), getattr(other, n)) for n in names)
        return tuple(f"{name}: {a}, not {b}" for name, a, b in pairs if a != b)

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' if self.threads != 1 else ''}"
        form = "" if self.form == EXTRACTED else f", {self.form}"
        return f"{self.model} ({self.device}), {threads}, batch {self.batch}, {self.dtype}{form}"


@dataclass(frozen=True)
class Whole:
    """A network measured as a whole: its latency and the sum of its operations, in nanoseconds.

    One that is not `fitted` is what the error is found on. `graph` is the hash of its space.
    """

    assignment: Assignment
    sum: float
    measured: float
    fitted: bool
    graph: str = ""


@dataclass(frozen=True)
class Fit:
    """latency = scale * sum + offset."""

    scale: float = 1.0
    offset: float = 0.0

    def of(self, total: float) -> int:
        return max(0, round(self.scale * total + self.offset))


@dataclass(frozen=True)
class Error:
    """|predicted - measured| / measured over networks that the fit has not seen."""

    mean: float
    worst: float
    networks: int

    def __str__(self) -> str:
        many = f"{self.networks} network{'s' if self.networks != 1 else ''}"
        return f"error {self.mean:.1%} in the mean, {self.worst:.1%} at worst over {many}"


@dataclass(frozen=True)
class LatencyTable:
    """What was measured, and the model that it makes."""

    facts: Facts
    entries: Mapping[str, float]
    networks: tuple[Whole, ...] = field(default=())

    def of(self, graph: str) -> LatencyTable:
        """The same with the networks of one space alone, by its hash."""
        return replace(self, networks=tuple(n for n in self.networks if n.graph == graph))

    @cached_property
    def fit(self) -> Fit:
        return fitted([n for n in self.networks if n.fitted])

    @cached_property
    def error(self) -> Error | None:
        """None where no network was measured beside those of the fit."""
        rest = [n for n in self.networks if not n.fitted]
        off = [abs(self.fit.of(n.sum) - n.measured) / n.measured for n in rest]
        return Error(sum(off) / len(off), max(off), len(off)) if off else None

    @property
    def stated(self) -> str:
        """The error in words, for wherever a latency is shown."""
        return str(self.error) if self.error is not None else "error not measured"

    def as_json(self) -> dict[str, object]:
        graphs = dict.fromkeys(n.graph for n in self.networks)
        return {
            "kind": KIND,
            "format": FORMAT,
            "facts": asdict(self.facts),
            "entries": dict(sorted(self.entries.items())),
            "networks": [{**asdict(n), "assignment": dict(n.assignment)} for n in self.networks],
            "fits": {graph: self.of(graph).fitted() for graph in graphs},
        }

    def fitted(self) -> dict[str, object]:
        """Fit and error as they are written."""
        found = None if self.error is None else asdict(self.error)
        return {"fit": asdict(self.fit), "error": found}

    def write(self, path: PathLike) -> None:
        """The old file or the new one, whatever happens."""
        atomic_write(path, json.dumps(self.as_json(), indent=1, allow_nan=False) + "\n")


def fitted(networks: Sequence[Whole]) -> Fit:
    """Scale and offset with the least squares of relative errors.

    One network, or several with one sum, give the scale alone; so does a line that falls, or that
    begins below zero.
    """
    if not networks:
        return Fit()
    weights = [1 / n.measured**2 for n in networks]
    total = sum(weights)
    x = sum(w * n.sum for w, n in zip(weights, networks, strict=True)) / total
    y = sum(w * n.measured for w, n in zip(weights, networks, strict=True)) / total
    spread = sum(w * (n.sum - x) ** 2 for w, n in zip(weights, networks, strict=True))
    if len(networks) > 1 and spread > total * (1e-6 * x) ** 2:
        both = zip(weights, networks, strict=True)
        scale = sum(w * (n.sum - x) * (n.measured - y) for w, n in both) / spread
        if scale > 0 and y >= scale * x:
            return Fit(scale, y - scale * x)
    squares = sum(w * n.sum**2 for w, n in zip(weights, networks, strict=True))
    both = zip(weights, networks, strict=True)
    return Fit(sum(w * n.sum * n.measured for w, n in both) / squares) if squares else Fit()


def shown(nanoseconds: float) -> str:
    """4,730,000 -> 4.73 ms; three digits, in the largest unit that gives at least one."""
    for unit, size in UNITS:
        if abs(nanoseconds) >= size:
            value = nanoseconds / size
            return f"{value:,.{2 if value < 10 else 1 if value < 100 else 0}f} {unit}"
    return f"{nanoseconds:.0f} ns"


def read_table(path: PathLike) -> LatencyTable:
    """A table from its file (SP702 where it is none)."""
    place = Path(path)
    try:
        if place.stat().st_size > MAX_BYTES:
            raise ValueError("it is larger than 64 MiB")
        return _table(json.loads(place.read_bytes()))
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError) as failed:
        reason = failed.strerror if isinstance(failed, OSError) else str(failed)
        found = error("SP702", f"{place} is no latency table").note(str(reason)[:200])
        raise SpaceError(found.hint(f"`spacelang profile SPACE -o {place}` writes one")) from failed


def _table(data: object) -> LatencyTable:
    found = _object(data)
    if found.get("kind") != KIND or found.get("format") != FORMAT:
        raise ValueError(f"it is no {KIND} of format {FORMAT}")
    facts = {"form": EXTRACTED, **_object(found["facts"])}
    if facts["form"] not in FORMS:
        raise ValueError(f"its form is neither {' nor '.join(FORMS)}")
    kinds = {f.name: int if f.name in ("threads", "batch") else str for f in fields(Facts)}
    for name, kind in kinds.items():
        if type(facts.get(name)) is not kind:
            raise ValueError(f"its facts lack {name}")
        if kind is int and cast(int, facts[name]) < 1:
            raise ValueError(f"its {name} is below 1")
    entries = {name: _time(value, name) for name, value in _object(found["entries"]).items()}
    networks: list[Whole] = []
    for row in cast("list[object]", found["networks"]):
        one = _object(row)
        measured = _time(one["measured"], "a network")
        if not measured or not isinstance(one["fitted"], bool):
            raise ValueError("a network was measured in no time")
        assignment = cast(Assignment, _object(one["assignment"]))
        total = _time(one["sum"], "a network")
        graph = one.get("graph", "")
        if not isinstance(graph, str):
            raise ValueError("the graph of a network is no text")
        networks.append(Whole(assignment, total, measured, one["fitted"], graph))
    known: Any = {name: facts[name] for name in kinds}
    return LatencyTable(Facts(**known), entries, tuple(networks))


def _object(data: object) -> dict[str, object]:
    if not isinstance(data, dict):
        raise ValueError("it is no JSON object")
    return cast("dict[str, object]", data)


def _time(value: object, name: str) -> float:
    """Nanoseconds: none, or within `TIMES`."""
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else -1
    if number == 0 or TIMES[0] <= number <= TIMES[1]:
        return float(number)
    raise ValueError(f"the time of {name[:100]} is {json.dumps(value)[:40]}")
