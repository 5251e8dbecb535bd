"""How the compiler's work grows: one space of 10 to 10,000 nodes, one of 10 to 10,000 decisions.

    python benchmarks/growth.py [--sizes 10,100,1000,10000] [--only nodes|decisions]

Of each part of the compiler alone: calls of functions, which no other work on the machine changes
but which see nothing of what one call does, and the processor's seconds, the least of three runs.
`growth` are the exponents of both between the last two sizes: 1 is linear, 2 quadratic. Prints a
table and writes benchmarks/results/growth.json; `curves.py` draws it.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import json
import math
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spacelang.backends.torch.supernet import Supernet
from spacelang.checking import checked
from spacelang.diagnostics import Report, Source
from spacelang.ir.graph import Graph
from spacelang.ir.text import digest, write
from spacelang.ir.verify import verify
from spacelang.loader import load
from spacelang.passes.specialize import specialize
from spacelang.syntax.ir_text import read
from spacelang.syntax.parse import parse

ROOT = Path(__file__).resolve().parent.parent
SIZES = (10, 100, 1000, 10_000)
RUNS = 3


def of_nodes(count: int) -> str:
    """A space of about so many nodes, each of which is written."""
    lines = ["space grown(width = 16) {", "  input x: [B, width]", "  choose wide in {16, 32}"]
    for i in range(count // 4):
        lines.append(f"  h = gelu(linear(x, wide) as up[{i}])")
        lines.append(f"  x = x + linear(h, width) as down[{i}]")
    return "\n".join([*lines, "  output x", "  weights { _: entangle }", "}", ""])


def of_decisions(count: int) -> str:
    """A space of so many decisions: a width for each of half as many layers, and its presence."""
    turns = count // 2
    return "\n".join(
        [
            "block layer(x: [B, C]) -> [B, C] {",
            "  choose wide in {16, 32}",
            "  choose there in {true, false}",
            "  when there { x = x + linear(gelu(linear(x, wide) as up), C) as down }",
            "  return x",
            "}",
            "space grown(width = 16) {",
            "  input x: [B, width]",
            f"  for i in 0..<{turns} {{ x = layer(x) as layers[i] }}",
            "  output x",
            "  weights { _: entangle }",
            "}",
            "",
        ]
    )


KINDS: dict[str, Callable[[int], str]] = {"nodes": of_nodes, "decisions": of_decisions}


def fresh(graph: Graph) -> Graph:
    """The same graph, of which nothing has been found yet."""
    return graph.restated(())


@dataclass(frozen=True)
class Work:
    """Calls of functions in a piece of work, Python's and others, its seconds, and what it made."""

    calls: int
    seconds: float
    made: Any


def measured(work: Callable[[], Any]) -> Work:
    """Once with a profile and `RUNS` times without, from a heap without garbage each time."""
    profile = cProfile.Profile()
    profile.runcall(work)
    counted = sum(entry.callcount for entry in profile.getstats())
    made, times = None, list[float]()
    for _ in range(RUNS):
        made = None
        gc.collect()
        start = time.process_time()
        made = work()
        times.append(time.process_time() - start)
    return Work(counted, min(times), made)


def verified(graph: Graph) -> None:
    report = Report()
    verify(graph, report)
    report.check()


def proved(file: Path) -> None:
    parse.cache_clear()
    checked(str(file), {}).report.check()


def parts(text: str) -> dict[str, Work]:
    """Each part of the compiler, for one space."""

    def source() -> Source:
        parse.cache_clear()
        return Source("<grown>", text)  # of which nothing has been found yet, as of `fresh`

    found = {"parse": measured(lambda: parse(source())), "load": measured(lambda: load(source()))}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "grown.space"
        file.write_text(text)
        found["check"] = measured(lambda: proved(file))
    graph: Graph = found["load"].made
    found["verify"] = measured(lambda: verified(fresh(graph)))
    found["decisions"] = measured(lambda: fresh(graph).decisions)
    decisions = graph.decisions
    found["hash"] = measured(lambda: digest(fresh(graph)))
    found["count"] = measured(lambda: fresh(graph).size())
    largest = {path: choice.symbol.points[0] for path, choice in decisions.items()}
    taken = decisions.assignment(largest)
    found["specialize"] = measured(lambda: specialize(fresh(graph), taken))
    found["lower"] = measured(lambda: Supernet(fresh(graph)))
    found["write IR text"] = measured(lambda: write(fresh(graph)))
    ir = Source("<grown.spaceir>", found["write IR text"].made)
    found["read IR text"] = measured(lambda: read(ir))
    return found


def growth(sizes: list[int], counts: Sequence[float]) -> float:
    """The exponent between the last two sizes."""
    if len(sizes) < 2:
        return math.nan
    return math.log(counts[-1] / counts[-2]) / math.log(sizes[-1] / sizes[-2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)))
    parser.add_argument("--only", choices=KINDS)
    given = parser.parse_args()
    sizes = [int(size) for size in given.sizes.split(",")]
    parts(of_nodes(20))  # what is imported, once; of a size that is not measured
    figures: dict[str, dict[str, dict[str, float | dict[str, float]]]] = {}
    for kind, written in KINDS.items():
        if given.only not in (None, kind):
            continue
        columns = [parts(written(size)) for size in sizes]
        figures[kind] = {}
        heads = (*(f"{size:>12,}" for size in sizes), f"{'calls':>8}{'seconds':>8}")
        print(f"{kind:16}", *heads, flush=True)
        for name in columns[0]:
            works = [column[name] for column in columns]
            both = {
                "calls": growth(sizes, [work.calls for work in works]),
                "seconds": growth(sizes, [work.seconds for work in works]),
            }
            shown = (f"{work.seconds:>12.4f}" for work in works)
            print(f"{name:16}", *shown, "".join(f"{slope:8.2f}" for slope in both.values()))
            figures[kind][name] = {
                "calls": {str(n): work.calls for n, work in zip(sizes, works, strict=True)},
                "seconds": {str(n): work.seconds for n, work in zip(sizes, works, strict=True)},
                "growth": {what: round(slope, 3) for what, slope in both.items()},
            }
    out = ROOT / "benchmarks" / "results" / "growth.json"
    kept = json.loads(out.read_text())["figures"] if out.exists() else {}
    facts = {"python": platform.python_version(), "runs": RUNS}
    out.write_text(json.dumps({"facts": facts, "figures": kept | figures}, indent=1) + "\n")
    print(f"written to {out.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
