"""The process of one contender: builds it, then answers questions in lines of JSON.

    python -m spacelang.backends.torch.bench '{"contender": "timm", "space": .., "batch": 1, ..}'

The parent is `spacelang/bench/process.py`. Whatever libraries print goes to stderr.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from spacelang.backends.torch.bench.contenders import build
from spacelang.backends.torch.bench.work import Missing, Work
from spacelang.diagnostics import SpaceError


def main() -> None:
    """Answer until there are no more questions."""
    request = json.loads(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    torch.set_num_threads(request["threads"])

    def answer(told: Mapping[str, Any]) -> None:
        answers.write(json.dumps(dict(told)) + "\n")

    try:
        work = build(request)
    except Missing as missing:
        answer({"missing": str(missing)})
        return
    except SpaceError as failed:
        answer({"missing": failed.diagnostics[0].headline})
        return
    except Exception as failed:  # whatever another library refuses is told, never a silent gap
        reason = str(failed).strip().partition("\n")[0]
        answer({"missing": f"{type(failed).__name__}: {reason}"})
        return
    resting = _reset_peak()
    answer({**work.about, "cycle": work.cycle})
    for line in sys.stdin:
        question = json.loads(line)
        if "run" in question:
            answer(_run(work, question["run"]))
        elif "results" in question:
            results = work.results().items()
            found: dict[str, Any] = {name: tensor.detach().numpy() for name, tensor in results}
            np.savez(question["results"], **found)
            answer({})
        else:
            peak = _peak()
            answer({"peak_mib": round(peak, 1), "added_mib": round(peak - resting, 1)})


def _run(work: Work, calls: int) -> dict[str, float]:
    more: dict[str, float] = {}
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(calls):
        for name, value in (work.call() or {}).items():
            more[name] = more.get(name, 0.0) + value
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    told = {name: value / _per(name, calls) for name, value in more.items()}
    return {"wall": wall, "cpu": cpu, **told}


def _per(name: str, calls: int) -> int:
    """What is counted is told a call, what is timed for all of them."""
    return 1 if name.endswith("_seconds") else calls


def _reset_peak() -> float:
    """MiB that the process holds; from here on its peak counts anew, where Linux lets it."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        pass
    return _status("VmRSS")


def _peak() -> float:
    return _status("VmHWM")


def _status(name: str) -> float:
    try:
        with open("/proc/self/status") as file:
            for line in file:
                if line.startswith(name):
                    return int(line.split()[1]) / 1024
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
