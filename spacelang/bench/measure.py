"""One row measured: every contender in a process of its own, timed in turns.

    record = measure(row, threads=1, repeats=7)

All are built and compared first: a rival whose outputs differ by more than the row allows, 1e-5 of
the largest, is an error, not a figure. Then each round calls every contender once, one after the
other, and the limits of the machine with them, so that what else runs there slows all alike. A
ratio is the median over rounds of the ratio within a round; its spread is the quartiles.
"""

from __future__ import annotations

import os
import platform
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

from spacelang.bench.process import Answer, Contender
from spacelang.bench.rows import Row
from spacelang.diagnostics import SpaceError, error

LEAST_REPEATS = 7
WARM_UP = 2  # rounds that are not counted
LONG = 1.0  # seconds of a repeat from which comparing and sizing have warmed it up enough
ROUNDING = 1e-3  # of the largest result of all: a gradient below it may be rounding alone
REPEAT_SECONDS = 0.25  # a repeat makes as many calls as take about so long
LIMITS = "limits"


def measure(row: Row, threads: int, repeats: int = LEAST_REPEATS) -> dict[str, Any]:
    """The record of a row: seconds a call of each contender, peak memory, what was missing.

    SpaceError where our own contender cannot be built, or a result is not the same (SP703).
    """
    with ExitStack() as stack:
        there: dict[str, Contender] = {}
        about: dict[str, Answer] = {}
        started: dict[str, Contender] = {}
        for name in (*row.contenders, LIMITS):  # they are built beside each other
            request = {"contender": name, "space": row.space, "network": row.network,
                       "batch": row.batch, "threads": threads, "double": row.double}  # fmt: skip
            started[name] = stack.enter_context(Contender(request))
        for name, process in started.items():
            about[name] = process.started()
            if "missing" not in about[name]:
                there[name] = process
            elif name == row.ours:
                raise SpaceError(error("SP703", f"{row.name}: {about[name]['missing']}"))
        errors = _compared(row, there)
        sized = {name: _sized(process, about[name]) for name, process in there.items()}
        calls = {name: count for name, (count, _) in sized.items()}
        warm = 0 if max(taken for _, taken in sized.values()) >= LONG else WARM_UP
        load = os.getloadavg()[0]
        rounds: list[dict[str, Answer]] = []
        for _ in range(warm + repeats):
            rounds.append({name: process.run(calls[name]) for name, process in there.items()})
        counted = rounds[warm:]
        peaks = {name: process.peak() for name, process in there.items()}
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
            "error": errors.get(name, 0.0),
            **peaks[name],
        }
    work = calls[LIMITS]
    return {
        "row": row.name,
        "threads": threads,
        "flops": about[row.ours].get("flops", 0),
        "contenders": contenders,
        "limits": {
            "flops": [_rate(found[LIMITS], "flops", work) for found in counted],
            "plain": [_rate(found[LIMITS], "plain", work) for found in counted],
            "bandwidth": [_rate(found[LIMITS], "bytes", work) for found in counted],
        },
        "machine": machine(load),
        "versions": about[row.ours].get("versions", {}),
        "compile_seconds": round(about[row.ours].get("compile_seconds", 0.0), 2),
    }


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


def _compared(row: Row, there: Mapping[str, Contender]) -> dict[str, float]:
    """The largest difference of each contender's results from ours, relative to the largest.

    Some gradients are nothing but rounding, as those of a shift before a norm: none is measured by
    less than `ROUNDING` of the largest.
    """
    import numpy as np

    errors: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        found: dict[str, dict[str, Any]] = {}
        for name, process in there.items():
            if name != row.ours and name not in row.compared:
                continue
            path = Path(folder) / f"{name}.npz"
            process.results(str(path))
            with np.load(path) as arrays:
                found[name] = {key: arrays[key] for key in arrays.files}
        own = found[row.ours]
        largest = {key: float(np.max(np.abs(array))) for key, array in own.items()}
        least = max(ROUNDING * max(largest.values()), 1e-30)
        sizes = {key: max(size, least) for key, size in largest.items()}
        for name, others in found.items():
            if own.keys() != others.keys():
                odd = sorted(own.keys() ^ others.keys())[0]
                raise SpaceError(error("SP703", f"{row.name}: {odd} is not computed by both"))
            for key in own:
                if own[key].shape != others[key].shape:
                    shapes = f"{list(others[key].shape)}, not {list(own[key].shape)}"
                    raise SpaceError(error("SP703", f"{row.name}: {key} of {name} is {shapes}"))
            # NaN is the largest of all to numpy, and is then no match; Python's max may lose it.
            off = [np.max(np.abs(own[key] - others[key])) / sizes[key] for key in own]
            worst = float(np.max(off))
            if not worst <= row.tolerance:
                told = f"{row.name}: {name} gives other results than {row.ours} ({worst:.1e})"
                raise SpaceError(error("SP703", told))
            errors[name] = worst
    return errors


def machine(load: float) -> dict[str, object]:
    """Facts of the machine; `load` is how many processes wanted a core before the rounds."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = (line.partition(":") for line in info.read_text(errors="replace").splitlines())
        names = (value.strip() for key, _, value in lines if key.strip() == "model name")
        model = next(names, model)
    return {"processor": model, "cores": os.cpu_count(), "load": round(load, 2),
            "system": platform.system(), "python": platform.python_version()}  # fmt: skip


# What a record says.


def seconds(record: Mapping[str, Any], name: str, clock: str = "wall") -> list[float] | None:
    """Seconds a call in each round; None where the contender is missing."""
    found = record["contenders"].get(name, {}).get(clock)
    return None if found is None else cast(list[float], found)


def best(record: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """The contender with the least median; None where all are missing."""
    there = {name: times for name in names if (times := seconds(record, name)) is not None}
    return min(there, key=lambda name: statistics.median(there[name])) if there else None


def ratio(
    record: Mapping[str, Any], ours: str, other: str, clock: str = "wall"
) -> tuple[float, float, float] | None:
    """How many times as long the other takes: median and quartiles over the rounds."""
    a, b = seconds(record, ours, clock), seconds(record, other, clock)
    if a is None or b is None:
        return None
    low, middle, high = statistics.quantiles([y / x for x, y in zip(a, b, strict=True)], n=4)
    return middle, low, high


def share_of_limit(record: Mapping[str, Any], name: str) -> float | None:
    """Which part of the matrix-product rate of the same rounds a contender reaches."""
    times = seconds(record, name)
    if times is None or not record["flops"]:
        return None
    rates = record["limits"]["flops"]
    return statistics.median(
        record["flops"] / t / rate for t, rate in zip(times, rates, strict=True)
    )


__all__ = ["LEAST_REPEATS", "best", "machine", "measure", "ratio", "seconds", "share_of_limit"]
