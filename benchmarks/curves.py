"""Draws the curves of growth.json and scaling.json, and writes their table into the page.

python benchmarks/curves.py      # docs/growth.svg, and a section of docs/benchmarks.md
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"
PICTURE = ROOT / "docs" / "growth.svg"
BEGIN = "<!-- growth: made by benchmarks/curves.py -->"
END = "<!-- end of growth -->"
MILLION = 10**6  # nodes of the graph that is estimated
NAMED = ("parse", "load", "check", "verify", "hash", "count", "lower")

Curve = dict[str, float]


def exponent(curve: Curve) -> float:
    """Between the last two sizes: 1 is linear, 2 quadratic."""
    (n, a), (m, b) = list(curve.items())[-2:]
    return math.log(b / a) / math.log(int(m) / int(n))


def line(axes: Axes, curve: Curve, name: str) -> None:
    sizes = [int(size) for size in curve]
    axes.plot(sizes, list(curve.values()), marker="o", markersize=3, linewidth=1.2, label=name)


def panel(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set(title=title, xlabel=x, ylabel=y, xscale="log", yscale="log")
    sizes = sorted({size for drawn in axes.lines for size in drawn.get_xdata()})
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes], rotation=45 if len(sizes) > 6 else 0)
    axes.minorticks_off()
    axes.grid(visible=True, which="major", linewidth=0.3)
    axes.legend(fontsize=6, frameon=False)


def picture(growth: dict[str, Any], curves: dict[str, Curve]) -> None:
    mpl.rcParams.update({"svg.hashsalt": "spacelang", "svg.fonttype": "none", "font.size": 7})
    figure, grid = plt.subplots(2, 3, figsize=(10, 6), layout="constrained")
    for axes, kind in zip(grid[0][:2], growth, strict=True):
        for name in NAMED:
            if name in growth[kind]:  # a record may be older than a part
                line(axes, growth[kind][name]["seconds"], name)
        panel(axes, f"the compiler, by {kind}", kind, "seconds")
    places = {
        "depth": (grid[0][2], "counting and drawing, by depth", "layers", "seconds"),
        "candidates": (grid[1][0], "the same, by candidates", "candidates of a layer", "seconds"),
    }
    for axis, (axes, *words) in places.items():
        for name in ("count", "1,000 draws"):
            line(axes, curves[f"{name} by {axis}"], name)
        panel(axes, *words)
    for axis in ("width", "depth", "tokens"):
        line(grid[1][1], curves[f"step by {axis}"], axis)
    panel(grid[1][1], "a training step of 8 images", "width, depth, tokens", "seconds")
    line(grid[1][2], curves["candidates a second by processes"], "evolution")
    panel(grid[1][2], "a search", "processes", "candidates a second")
    most = max(curves["candidates a second by processes"].values())
    grid[1][2].set(yscale="linear", ylim=(0, 1.1 * most))
    figure.savefig(PICTURE, metadata={"Date": None})


def table(growth: dict[str, Any], curves: dict[str, Curve]) -> list[str]:
    """Exponents and the seconds that a graph of a million nodes would take, by the larger one."""
    rows = [
        "| what | by | seconds at the largest size | exponent of calls | of seconds | a million |",
        "|---|---|---|---|---|---|",
    ]
    for kind, parts in growth.items():
        for name, part in parts.items():
            size, seconds = list(part["seconds"].items())[-1]
            slopes = [max(part["growth"][what], 0.0) for what in ("calls", "seconds")]
            far = seconds * (MILLION / int(size)) ** max(slopes)
            told = " | ".join(f"{slope:.2f}" for slope in slopes)
            rows.append(
                f"| {name} | {kind} | {seconds:.3f} at {int(size):,} | {told} | {far:,.0f} s |"
            )
    for name, curve in curves.items():
        if " by " in name and "processes" not in name:
            what, axis = name.split(" by ")
            size, seconds = list(curve.items())[-1]
            rows.append(
                f"| {what} | {axis} | {seconds:.3f} at {int(size):,} | | {exponent(curve):.2f} | |"
            )
    return rows


def with_table(page: str, growth: dict[str, Any], curves: dict[str, Curve]) -> str:
    """The page with the table between its marks."""
    start, end = page.index(BEGIN) + len(BEGIN), page.index(END)
    made = "\n".join(table(growth, curves))
    return f"{page[:start]}\n{made}\n{page[end:]}"


def main() -> None:
    growth = json.loads((RESULTS / "growth.json").read_text())["figures"]
    curves = json.loads((RESULTS / "scaling.json").read_text())["curves"]
    picture(growth, curves)
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(with_table(page, growth, curves), encoding="utf-8")
    print(f"{PICTURE.relative_to(ROOT)} and a table in {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
