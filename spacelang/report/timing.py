"""The picture of a profile: a bar a block, its pieces the ops; below, the memory held op by op.

    text = timing(Timing(title, subtitle, bars, held))

An SVG that needs nothing else, light and dark, as the drawings of `show --as svg` are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from spacelang.report.chart import Scale, ticks
from spacelang.report.text import html, percent

# Pixels.
WIDTH, MARGIN, ROW, BAR, HEAD = 960.0, 20.0, 22.0, 14.0, 92.0
NAMES, FIGURES = 190.0, 250.0  # columns left and right of the bars
MEMORY = 130.0
COLOURS = 7  # ops that have one of their own
OTHER = "other"

COLOURED = "".join(f".c{i} {{ fill: var(--c{i}); }} " for i in range(COLOURS + 1))
STYLE = """
svg { font: 12px ui-monospace, Menlo, Consolas, monospace; --ink: #1c2330; --soft: #667085;
  --line: #dfe3ea; --paper: #ffffff; --c0: #2563d9; --c1: #0a7d5c; --c2: #c2620a; --c3: #7a46d1;
  --c4: #b3261e; --c5: #0e7490; --c6: #a16207; --c7: #98a2b3; }
@media (prefers-color-scheme: dark) { svg { --ink: #e6e9ef; --soft: #98a2b3; --line: #2a323c;
  --paper: #12161d; --c0: #6fa3ff; --c1: #3ecf9e; --c2: #f2a052; --c3: #bb9aff; --c4: #ff8a80;
  --c5: #56c7dc; --c6: #e0b84f; --c7: #5d6675; } }
text { fill: var(--ink); } text.soft { fill: var(--soft); } .end { text-anchor: end; }
text.title { font-size: 15px; font-weight: 600; }
.back { fill: var(--paper); } .grid { stroke: var(--line); }
.held { fill: var(--c0); fill-opacity: .22; stroke: var(--c0); stroke-width: 1.4; }
"""


@dataclass(frozen=True)
class Bar:
    """A block: nanoseconds of its ops, by op, and what stands to the right of it."""

    name: str
    ops: Mapping[str, float]
    remark: str

    @property
    def total(self) -> float:
        return sum(self.ops.values())


@dataclass(frozen=True)
class Timing:
    """What is drawn; `held` are bytes, op by op in the order in which they run."""

    title: str
    subtitle: str
    bars: tuple[Bar, ...]
    held: tuple[int, ...]


def timing(drawn: Timing) -> str:
    """The picture."""
    order = _slowest(drawn.bars)
    css = {op: f"c{min(i, COLOURS)}" for i, op in enumerate(order)}
    longest = max((bar.total for bar in drawn.bars), default=0.0) or 1.0
    scale = Scale(0.0, longest, NAMES, WIDTH - FIGURES)
    parts = [
        f'<text class="title" x="{MARGIN:g}" y="28">{html(drawn.title)}</text>',
        f'<text class="soft" x="{MARGIN:g}" y="48">{html(drawn.subtitle)}</text>',
        _legend(order),
    ]
    total = sum(bar.total for bar in drawn.bars) or 1.0
    for number, bar in enumerate(drawn.bars):
        parts.append(_bar(bar, HEAD + number * ROW, scale, css, bar.total / total))
    top = HEAD + len(drawn.bars) * ROW + 34
    parts.append(_memory(drawn.held, top))
    height = top + MEMORY + MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:g} {height:g}" '
        f'width="{WIDTH:g}" role="img" aria-label="{html(drawn.title)}">\n'
        f'<style>{STYLE}{COLOURED}</style>\n<rect class="back" width="100%" height="100%"/>\n'
        f"{''.join(parts)}</svg>\n"
    )


def _slowest(bars: Sequence[Bar]) -> list[str]:
    """The ops by what they take in all; those that have no colour of their own are at the end."""
    found: dict[str, float] = {}
    for bar in bars:
        for op, time in bar.ops.items():
            found[op] = found.get(op, 0.0) + time
    return sorted((op for op in found if found[op]), key=lambda op: (-found[op], op))


def _legend(order: Sequence[str]) -> str:
    names = [*order[:COLOURS], *([OTHER] if len(order) > COLOURS else [])]
    parts: list[str] = []
    x = NAMES
    for number, name in enumerate(names):
        parts.append(f'<rect class="c{number}" x="{x:.0f}" y="64" width="10" height="10" rx="2"/>')
        parts.append(f'<text class="soft" x="{x + 15:.0f}" y="73">{html(name)}</text>\n')
        x += 15 + 7.3 * len(name) + 18
    return "".join(parts)


def _bar(bar: Bar, y: float, scale: Scale, css: Mapping[str, str], share: float) -> str:
    pieces: list[str] = []
    at = 0.0
    for op in sorted(bar.ops, key=lambda op: (css.get(op, ""), op)):
        time = bar.ops[op]
        if not time:
            continue
        left, right = scale.at(at), scale.at(at + time)
        title = f"<title>{html(op)}: {time / 1e6:.3f} ms</title>"
        pieces.append(
            f'<rect class="{css[op]}" x="{left:.2f}" y="{y:.1f}" width="{right - left:.2f}" '
            f'height="{BAR:g}">{title}</rect>'
        )
        at += time
    base = y + BAR - 3
    return (
        f'<text class="end" x="{NAMES - 10:g}" y="{base:.1f}">{html(bar.name)}</text>'
        f"{''.join(pieces)}"
        f'<text x="{scale.at(at) + 8:.1f}" y="{base:.1f}">{percent(share)}'
        f'<tspan class="soft" dx="8">{html(bar.remark)}</tspan></text>\n'
    )


def _memory(held: Sequence[int], top: float) -> str:
    """The bytes that are held, as a staircase over the ops."""
    peak = max(held, default=0) or 1
    x = Scale(0, max(len(held), 1), NAMES, WIDTH - MARGIN)
    y = Scale(0, peak, top + MEMORY, top + 10)
    points = [f"M{x.at(0):.1f},{y.at(0):.1f}"]
    for number, size in enumerate(held):
        points.append(
            f"L{x.at(number):.1f},{y.at(size):.1f} L{x.at(number + 1):.1f},{y.at(size):.1f}"
        )
    points.append(f"L{x.at(len(held)):.1f},{y.at(0):.1f} Z")
    grid = [
        f'<line class="grid" x1="{NAMES:g}" x2="{WIDTH - MARGIN:g}" y1="{y.at(size):.1f}" '
        f'y2="{y.at(size):.1f}"/><text class="soft end" x="{NAMES - 10:g}" '
        f'y="{y.at(size) + 4:.1f}">{size / 1e6:g} MB</text>'
        for size in ticks(0, peak, 3)
    ]
    return (
        f'<text x="{MARGIN:g}" y="{top - 8:.1f}">activations held, op by op: '
        f"{peak / 1e6:.2f} MB at most</text>{''.join(grid)}"
        f'<path class="held" d="{" ".join(points)}"/>\n'
    )
