"""How the compiler's work grows: one space of 10 to 3,000 nodes, one of 10 to 3,000 decisions.

    python benchmarks/growth.py [--sizes 10,100,1000,3000] [--only nodes|decisions]

Counts calls of functions, which no other work on the machine changes, of each part of the compiler
alone. `growth` is the exponent between the last two sizes: 1 is linear, 2 quadratic. Prints a table
and writes benchmarks/results/growth.json.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import math
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spacelang.diagnostics import Report, Source
from spacelang.ir.graph import Graph
from spacelang.ir.text import digest, write
from spacelang.ir.verify import verify
from spacelang.loader import load
from spacelang.passes.specialize import specialize
from spacelang.syntax.ir_text import read
from spacelang.syntax.parse import parse

ROOT = Path(__file__).resolve().parent.parent
SIZES = (10, 100, 1000, 3000)


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


def calls(work: Callable[[], Any]) -> tuple[int, Any]:
    """Calls of functions in a piece of work, Python's and others, and what it made."""
    profile = cProfile.Profile()
    made = profile.runcall(work)
    return sum(entry.callcount for entry in profile.getstats()), made


def verified(graph: Graph) -> None:
    report = Report()
    verify(graph, report)
    report.check()


def parts(text: str) -> dict[str, int]:
    """Calls of each part of the compiler for one space."""
    source = Source("<grown>", text)
    found: dict[str, int] = {}
    found["parse"], _ = calls(lambda: parse(source))
    found["load"], graph = calls(lambda: load(source))
    found["verify"], _ = calls(lambda: verified(fresh(graph)))
    found["decisions"], decisions = calls(lambda: fresh(graph).decisions)
    found["hash"], _ = calls(lambda: digest(fresh(graph)))
    largest = {path: choice.symbol.points[0] for path, choice in decisions.items()}
    taken = decisions.assignment(largest)
    found["specialize"], _ = calls(lambda: specialize(fresh(graph), taken))
    found["write IR text"], ir = calls(lambda: write(fresh(graph)))
    found["read IR text"], _ = calls(lambda: read(Source("<grown.spaceir>", ir)))
    return found


def growth(sizes: list[int], counts: list[int]) -> float:
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
    figures: dict[str, dict[str, dict[str, float]]] = {}
    for kind, written in KINDS.items():
        if given.only not in (None, kind):
            continue
        measured = [parts(written(size)) for size in sizes]
        figures[kind] = {}
        print(f"{kind:16}", *(f"{size:>12,}" for size in sizes), f"{'growth':>8}", flush=True)
        for name in measured[0]:
            counts = [one[name] for one in measured]
            exponent = growth(sizes, counts)
            print(f"{name:16}", *(f"{count:>12,}" for count in counts), f"{exponent:8.2f}")
            row = {str(size): count for size, count in zip(sizes, counts, strict=True)}
            figures[kind][name] = {**row, "growth": round(exponent, 3)}
    if given.only is None:
        out = ROOT / "benchmarks" / "results" / "growth.json"
        out.parent.mkdir(exist_ok=True)
        facts = {"python": platform.python_version()}
        out.write_text(json.dumps({"facts": facts, "figures": figures}, indent=1) + "\n")
        print(f"written to {out.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
