"""One row measured: every contender in a process of its own, timed in turns.

    record = measure(row, threads=1, repeats=7)

Ours is built alone, so that the time of making it is its own. All are compared first: a rival
whose outputs differ by more than the row allows, 1e-5 of the largest, is an error, not a figure.
Then each round calls every contender once, in an order of its own, and the limits of the machine
with them, so that what else runs there slows all alike. A ratio is the median over rounds of the
ratio within a round; its spread is the quartiles.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from random import Random
from typing import Any, cast

from spacelang.bench.machine import Idle, code, machine
from spacelang.bench.process import Answer, Contender
from spacelang.bench.rows import COMPILED, ONNX, Row
from spacelang.diagnostics import SpaceError, error

LEAST_REPEATS = 7
WARM_UP = 2  # rounds that are not counted
LONG = 1.0  # seconds of a repeat from which comparing and sizing have warmed it up enough
DOUBLE = 1e-7  # what results in float64 may differ by
ROUNDING = 1e-3  # of the largest gradient of all: one below it may be rounding alone
REPEAT_SECONDS = 0.25  # a repeat makes as many calls as take about so long
LIMITS = "limits"


def measure(row: Row, threads: int, repeats: int = LEAST_REPEATS) -> dict[str, Any]:
    """The record of a row: seconds a call of each contender, peak memory, what was missing.

    SpaceError where our own contender cannot be built, or a result is not the same (SP703).
    """
    made_by = code()
    work = {"space": row.space, "network": row.network, "batch": row.batch, "threads": threads,
            "double": row.double}  # fmt: skip
    with ExitStack() as stack:
        there: dict[str, Contender] = {}
        about: dict[str, Answer] = {}
        for group in _together(row):
            started: dict[str, Contender] = {}
            for name in group:
                request = {"contender": name, **work}
                started[name] = stack.enter_context(Contender(request))
            for name, process in started.items():
                about[name] = process.started()
                if "missing" not in about[name]:
                    there[name] = process
                elif name == row.ours:
                    raise SpaceError(error("SP703", f"{row.name}: {about[name]['missing']}"))
        sized = {name: _sized(process, about[name]) for name, process in there.items()}
        # Comparing takes memory of its own, above all in float64.
        peaks = {name: process.peak() for name, process in there.items()}
        errors = compared(row, _results(row, there))
        calls = {name: count for name, (count, _) in sized.items()}
        warm = 0 if max(taken for _, taken in sized.values()) >= LONG else WARM_UP
        for number in range(warm):
            _round(there, calls, number)
        idle = Idle()
        counted = [_round(there, calls, number) for number in range(repeats)]
        others = idle.others(sum(t["cpu"] for found in counted for t in found.values()))
    contenders: dict[str, Any] = {}
    for name in row.contenders:
        if name not in there:
            contenders[name] = {"missing": about[name]["missing"]}
            continue
        times = [found[name] for found in counted]
        contenders[name] = {
            "wall": [round(t["wall"] / calls[name], 7) for t in times],
            "cpu": [round(t["cpu"] / calls[name], 7) for t in times],
            "calls": calls[name],
            "error": errors.get(name),
            "compile_seconds": round(about[name].get("compile_seconds", 0.0), 2),
            "setting": about[name].get("setting", ""),
            **peaks[name],
        }
    done = calls[LIMITS]
    return {
        "row": row.name,
        "threads": threads,
        "date": date.today().isoformat(),
        "code": made_by,
        "flops": about[row.ours].get("flops", 0),
        "narrow": about[row.ours].get("narrow", False),
        "contenders": contenders,
        "limits": {
            "flops": [_rate(found[LIMITS], "flops", done) for found in counted],
            "plain": [_rate(found[LIMITS], "plain", done) for found in counted],
            "narrow": [_rate(found[LIMITS], "narrow", done) for found in counted],
            "bandwidth": [_rate(found[LIMITS], "bytes", done) for found in counted],
        },
        "machine": machine(others),
        "versions": about[row.ours].get("versions", {}),
    }


def _together(row: Row) -> list[list[str]]:
    """Which contenders are built beside each other: ours alone and first; what is compiled, and
    ONNX Runtime, which times settings to choose one, alone too."""
    names = [*row.contenders, LIMITS]
    alone = names if row.runtime == COMPILED else [n for n in names if n in (row.ours, ONNX)]
    rest = [name for name in names if name not in alone]
    return [alone[:1], rest, *([name] for name in alone[1:])]


def _round(
    there: Mapping[str, Contender], calls: Mapping[str, int], number: int
) -> dict[str, Answer]:
    """Every contender once, one after the other, in an order of the round: what one leaves behind
    (a clock that wide products have lowered, caches) is not always met by the same other."""
    order = [*there]
    Random(number).shuffle(order)
    return {name: there[name].run(calls[name]) for name in order}


def _rate(answer: Answer, what: str, calls: int) -> float:
    """A second's worth of what a repeat of the limits did in its part of the time."""
    return round(calls * answer[what] / answer[f"{what}_seconds"])


def _sized(process: Contender, about: Answer) -> tuple[int, float]:
    """How many calls make a repeat of about a quarter second, whole cycles of its inputs; and the
    seconds of a cycle."""
    cycle = int(about.get("cycle", 1))
    taken = process.run(cycle)["wall"]
    if taken < LONG:  # the first one may be slower
        taken = process.run(cycle)["wall"]
    return cycle * max(1, round(REPEAT_SECONDS / taken)), taken


def _results(row: Row, there: Mapping[str, Contender]) -> dict[str, dict[str, Any]]:
    """What the processes compute whose results are compared, as arrays by name."""
    import numpy as np

    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, process in there.items():
            if name != row.ours and name not in row.compared:
                continue
            path = Path(folder) / f"{name}.npz"
            process.results(str(path))
            with np.load(path) as arrays:
                found[name] = {key: arrays[key] for key in arrays.files}
    return found


def compared(row: Row, found: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """The largest difference of each contender's arrays from ours, relative to the largest; SP703
    where they differ: in float64 by more than `DOUBLE`, else than the tolerance of the row.

    Some gradients are nothing but rounding, as those of a shift before a norm: none is measured by
    less than `ROUNDING` of the largest, losses apart.
    """
    import numpy as np

    own = found[row.ours]
    largest = {key: float(np.max(np.abs(array))) for key, array in own.items()}
    floor = ROUNDING * max((largest[key] for key in own if own[key].ndim), default=0.0)
    sizes = {k: max(largest[k], floor if own[k].ndim else 0.0, 1e-30) for k in own}
    errors: dict[str, float] = {}
    for name, others in found.items():
        if name == row.ours:
            continue
        if own.keys() != others.keys():
            odd = sorted(own.keys() ^ others.keys())[0]
            raise SpaceError(error("SP703", f"{row.name}: {odd} is not computed by both"))
        for key in own:
            if own[key].shape != others[key].shape:
                shapes = f"{list(others[key].shape)}, not {list(own[key].shape)}"
                raise SpaceError(error("SP703", f"{row.name}: {key} of {name} is {shapes}"))
        off = {k: float(np.max(np.abs(own[k] - others[k])) / sizes[k]) for k in own}
        for key, apart in off.items():
            allowed = DOUBLE if own[key].dtype == np.float64 else row.tolerance
            if not apart <= allowed:  # also where it is no number
                told = f"{row.name}: {name} gives other results than {row.ours}"
                raise SpaceError(error("SP703", f"{told} ({key}: {apart:.1e})"))
        errors[name] = max(off.values())
    return errors


# What a record says.


def seconds(record: Mapping[str, Any], name: str, clock: str = "wall") -> list[float] | None:
    """Seconds a call in each round; None where the contender is missing."""
    found = record["contenders"].get(name, {}).get(clock)
    return None if found is None else cast(list[float], found)


def best(record: Mapping[str, Any], ours: str, names: Sequence[str]) -> str | None:
    """The contender with the least ratio to ours; None where all are missing."""
    there = {name: found[0] for name in names if (found := ratio(record, ours, name)) is not None}
    return min(there, key=lambda name: there[name]) if there else None


def ratio(
    record: Mapping[str, Any], ours: str, other: str, clock: str = "wall"
) -> tuple[float, float, float] | None:
    """How many times as long the other takes: median and quartiles over the rounds."""
    a, b = seconds(record, ours, clock), seconds(record, other, clock)
    if a is None or b is None:
        return None
    low, middle, high = statistics.quantiles([y / x for x, y in zip(a, b, strict=True)], n=4)
    return middle, low, high


def rates(record: Mapping[str, Any]) -> list[float]:
    """The matrix-product rate in each round, in the type of numbers that ours has."""
    return cast(list[float], record["limits"]["narrow" if record["narrow"] else "flops"])


def share_of_limit(record: Mapping[str, Any], name: str) -> float | None:
    """Which part of the matrix-product rate of the same rounds, in the type of numbers that ours
    has, a contender reaches."""
    times = seconds(record, name)
    if times is None or not record["flops"]:
        return None
    return statistics.median(
        record["flops"] / t / rate for t, rate in zip(times, rates(record), strict=True)
    )


__all__ = [
    "LEAST_REPEATS",
    "best",
    "compared",
    "measure",
    "rates",
    "ratio",
    "seconds",
    "share_of_limit",
]
