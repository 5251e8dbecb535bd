"""One compilation for a whole space: random paths of a supernet, eager and compiled in turns.

    python benchmarks/compiled.py [--space SPACE] [--paths 200] [--batch 8] [--backend fused]

A step is forward and backward of one path, first by one model and then by the other. Graphs are
counted by the compiler's own counters. The record is benchmarks/results/compiled.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from torch._dynamo.utils import counters

from spacelang import compile as build
from spacelang import load
from spacelang.backends.torch.bench.work import filled, images
from spacelang.backends.torch.supernet import Supernet
from spacelang.bench.machine import Idle, code
from spacelang.files import atomic_write
from spacelang.ir.decision import Assignment

RESULT = Path(__file__).resolve().parent / "results" / "compiled.json"
SETTLED = 50  # paths before those whose times count


def paired_ratio(times: dict[str, list[float]]) -> float:
    """How many times as long eager steps take: the median of pairs, from `SETTLED` on."""
    pairs = zip(times["eager"][SETTLED:], times["compiled"][SETTLED:], strict=True)
    return round(statistics.median(eager / compiled for eager, compiled in pairs), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--space", default="autoformer.space:autoformer_t")
    parser.add_argument("--paths", type=int, default=200)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--backend", default="fused")
    parser.add_argument("--threads", type=int, default=1)
    given, made_by = parser.parse_args(), code()
    torch.set_num_threads(given.threads)
    graph = load(given.space)
    models = {name: filled(build(graph, given.backend)).train() for name in ("eager", "compiled")}
    models["compiled"].compile()
    x = images(graph, given.batch)
    wall: dict[str, list[float]] = {name: [] for name in models}
    cpu: dict[str, list[float]] = {name: [] for name in models}
    made: list[int] = []
    idle, begun = Idle(), 0.0
    for number, path in enumerate(graph.sample(given.paths, seed=0)):
        if number == 1:  # the first step starts compilers of its own
            idle, begun = Idle(), time.process_time()
        for name, model in models.items():
            before = time.perf_counter(), time.process_time()
            step(model, path, x)
            wall[name].append(time.perf_counter() - before[0])
            cpu[name].append(time.process_time() - before[1])
        made.append(counters["stats"]["unique_graphs"])
    last = max(
        (n for n, (a, b) in enumerate(zip([0, *made], made, strict=False)) if b > a), default=0
    )
    record = {
        **vars(given),
        "graphs": made[-1],
        "functions": len({run.step.function.module for run in models["compiled"]._plan.runs}),
        "last_compiled_at_path": last + 1,
        "first_step_seconds": round(wall["compiled"][0], 1),
        "wall": {n: round(statistics.median(t[SETTLED:]), 4) for n, t in wall.items()},
        "cpu": {n: round(statistics.median(t[SETTLED:]), 4) for n, t in cpu.items()},
        "ratio": {"wall": paired_ratio(wall), "cpu": paired_ratio(cpu)},
        "code": made_by,
        "others": idle.others(time.process_time() - begun),
        "torch": torch.__version__,
    }  # fmt: skip
    kept = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    kept[f"{given.space}@{given.batch}"] = record
    atomic_write(RESULT, json.dumps(kept, indent=1) + "\n")
    print(json.dumps(record, indent=1))


def step(model: Supernet, path: Assignment, x: torch.Tensor) -> None:
    model.zero_grad(set_to_none=True)
    loss = torch.nn.functional.cross_entropy(model.activate(path)(x), torch.arange(len(x)))
    loss.backward()


if __name__ == "__main__":
    main()
