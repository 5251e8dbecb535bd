"""A network, or a block of it, as boxes and arrows: DOT text, and an SVG made without `dot`.

Boxes stand in layers, each below all that it reads (longest path); an arrow over several layers
runs through a narrow slot in each, and a layer is ordered by where its boxes and slots come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from spacelang.cli.listing import condition_text, guarded, options, sharing, span_of, unmarked
from spacelang.cli.steps import label_of, named, remarks, spanned, steps
from spacelang.diagnostics import SpaceError, error
from spacelang.ir.graph import Output, conditions
from spacelang.ir.node import Node, Value
from spacelang.render import visible
from spacelang.report.text import html

if TYPE_CHECKING:
    from spacelang.ir.graph import Graph

Kind = Literal["input", "call", "op", "choice", "output"]

# Pixels.
CHARACTER, MARGIN, GAP, LINE, SLOT = 7.3, 14.0, 26.0, 17.0, 18.0
LAYER = 30.0  # between two layers
SWEEPS = 4


@dataclass(frozen=True)
class Box:
    """One box: what it is called, what it does, and its remarks (repetition, condition, shape)."""

    title: str
    kind: Kind
    lines: tuple[str, ...] = ()

    @property
    def width(self) -> float:
        return max(map(len, (self.title, *self.lines))) * CHARACTER + 2 * MARGIN

    @property
    def height(self) -> float:
        return (1 + len(self.lines)) * LINE + MARGIN


@dataclass(frozen=True)
class Sketch:
    """Boxes and the arrows between them, by number; a box comes after all that it reads."""

    name: str
    boxes: tuple[Box, ...]
    arrows: tuple[tuple[int, int], ...]


def sketch(graph: Graph, block: str = "") -> Sketch:
    """A block of a graph, by default the network's own; what goes together is one box.

    Errors: SP201 for a block that there is not.
    """
    if block and block not in graph.blocks:
        near = get_close_matches(block, graph.blocks, 1)
        found = error("SP201", f"{graph.name} has no block {visible(block)}")
        found = found.note(f"its blocks: {', '.join(graph.blocks)}")
        raise SpaceError(found.hint(f"did you mean {near[0]}?") if near else found)
    drawn = graph.blocks[block] if block else graph.root
    outputs = tuple(Output("output", v) for v in drawn.outputs) if block else graph.outputs
    boxes: list[Box] = []
    arrows: dict[tuple[int, int], None] = {}
    owner: dict[Value, int] = {}
    for step in steps(drawn):
        number = len(boxes)
        box = _box(step)
        boxes.append(replace(box, lines=tuple(map(unmarked, box.lines))))
        for node in step:
            for value in node.operands:
                if owner[value] != number:
                    arrows[owner[value], number] = None
            for value in node.values:
                owner[value] = number
    for output in outputs:
        arrows[owner[output.value], len(boxes)] = None
        remark = ("while training",) if output.training else ()
        boxes.append(Box(output.name, "output", remark))
    return Sketch(block or graph.name, tuple(boxes), tuple(arrows))


def _box(step: Sequence[Node]) -> Box:
    node, last = step[0], step[-1]
    shape = ", ".join(map(str, last.types))
    within = [only for only in map(guarded, step) if only is not None]
    if within:
        inner = _box(within)
        title = span_of(label_of(node), label_of(last)) if len(step) > 1 else inner.title
        return Box(title, "choice", (*inner.lines[:-1], *remarks(step), shape))
    if node.op == "input":
        return Box(node.label, "input", (shape,))
    if node.call is not None:
        block = named(node.call.block)
        title = spanned(step) or block
        what = (block,) if title != block else ()
        many = (f"x {len(step)}",) if len(step) > 1 else ()
        shared = (sharing(step),) if sharing(step) else ()
        return Box(title, "call", (*what, *many, *shared, shape))
    if node.regions:
        word = "when" if node.op == "guard" else "one of"
        return Box(node.label or word, "choice", (*_alternatives(node), shape))
    title, *more = (f"{one.op} {one.label}".strip() for one in step)
    given = ", ".join(f"{name}: {text}" for name, text in options(node).items())
    first = (given,) if given and len(given) <= 40 and not more else ()
    return Box(title, "op", (*first, *more, shape))


def _alternatives(node: Node, most: int = 8) -> tuple[str, ...]:
    shown = [condition_text(condition) for condition in conditions(node)]
    return (*shown[:most], *((f".. {len(shown) - most} more",) if len(shown) > most else ()))


def dot(drawn: Sketch) -> str:
    """Graphviz text."""
    lines = [
        f"digraph {_quoted(drawn.name)} {{",
        "  rankdir=TB",
        '  node [shape=box style="rounded"]',
    ]
    for number, box in enumerate(drawn.boxes):
        label = "\n".join((box.title, *box.lines))
        style = ' style="rounded,dashed"' if box.kind == "choice" else ""
        lines.append(f"  n{number} [label={_quoted(label)}{style}]")
    lines += [f"  n{a} -> n{b}" for a, b in drawn.arrows]
    return "\n".join([*lines, "}"]) + "\n"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


@dataclass
class Spot:
    """A box, or the slot of an arrow, in its layer."""

    layer: int
    width: float
    box: int | None
    x: float = 0.0  # of the centre
    above: tuple[int, ...] = ()


STYLE = """
svg { font: 12px ui-monospace, Menlo, Consolas, monospace; --ink: #1c2330; --soft: #667085;
  --line: #98a2b3; --paper: #ffffff; --call: #eef4ff; --choice: #fff6e5; --io: #e9f7ef; }
@media (prefers-color-scheme: dark) { svg { --ink: #e6e9ef; --soft: #98a2b3; --line: #5d6675;
  --paper: #12161d; --call: #1b2a44; --choice: #3a2f16; --io: #16331f; } }
text { fill: var(--ink); text-anchor: middle; }
text.soft { fill: var(--soft); } rect { stroke: var(--line); fill: var(--paper); }
rect.back { stroke: none; }
.call { fill: var(--call); } .choice { fill: var(--choice); stroke-dasharray: 5 3; }
.input, .output { fill: var(--io); } path { fill: none; stroke: var(--line); stroke-width: 1.4; }
marker path { fill: var(--line); stroke: none; }
"""


def svg(drawn: Sketch) -> str:
    """A drawing that needs nothing else; light and dark."""
    spots, routes = _placed(drawn)
    count = 1 + max(spot.layer for spot in spots)
    heights = [0.0] * count
    for spot in spots:
        if spot.box is not None:
            heights[spot.layer] = max(heights[spot.layer], drawn.boxes[spot.box].height)
    tops = [MARGIN]
    for height in heights:
        tops.append(tops[-1] + height + LAYER)
    left = min(spot.x - spot.width / 2 for spot in spots) - MARGIN
    width = max(spot.x + spot.width / 2 for spot in spots) + MARGIN - left
    parts = [
        _arrow([(spots[i].x - left, tops[spots[i].layer], _extent(spots[i], drawn, heights))
                for i in route])
        for route in routes
    ]  # fmt: skip
    for spot in spots:
        if spot.box is not None:
            parts.append(_drawn(drawn.boxes[spot.box], spot.x - left, tops[spot.layer]))
    size = f"{width:.0f} {tops[-1] - LAYER + MARGIN:.0f}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" width="{width:.0f}" '
        f'role="img" aria-label="the network {html(drawn.name)}">\n<style>{STYLE}</style>\n'
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0,0 L8,4 L0,8 Z"/></marker></defs>\n'
        f'<rect class="back" width="100%" height="100%"/>\n{"".join(parts)}</svg>\n'
    )


def _extent(spot: Spot, drawn: Sketch, heights: Sequence[float]) -> float:
    """How far down a spot reaches: a box has its own height, a slot that of its layer."""
    return heights[spot.layer] if spot.box is None else drawn.boxes[spot.box].height


def _placed(drawn: Sketch) -> tuple[list[Spot], list[list[int]]]:
    """Every box and slot with its place, and each arrow as the spots that it runs through."""
    layers = [0] * len(drawn.boxes)
    for start, end in sorted(drawn.arrows, key=lambda arrow: arrow[1]):
        layers[end] = max(layers[end], layers[start] + 1)
    spots = [
        Spot(layer, box.width, number)
        for number, (layer, box) in enumerate(zip(layers, drawn.boxes, strict=True))
    ]
    routes: list[list[int]] = []
    for start, end in drawn.arrows:
        route = [start]
        for layer in range(layers[start] + 1, layers[end]):
            spots.append(Spot(layer, SLOT, None))
            route.append(len(spots) - 1)
        routes.append([*route, end])
    for route in routes:
        for a, b in pairwise(route):
            spots[b].above = (*spots[b].above, a)
    rows: list[list[Spot]] = [[] for _ in range(1 + max(layers, default=0))]
    for spot in spots:
        rows[spot.layer].append(spot)
    for row in rows:
        _spread(row)
    for _ in range(SWEEPS):
        for row in rows[1:]:
            row.sort(key=lambda spot: _middle(spot, spots))
            _spread(row)
    return spots, routes


def _middle(spot: Spot, spots: Sequence[Spot]) -> float:
    return sum(spots[i].x for i in spot.above) / len(spot.above) if spot.above else spot.x


def _spread(row: Sequence[Spot]) -> None:
    """Side by side in their order, the boxes centred; slots go to the sides."""
    total = sum(spot.width + GAP for spot in row) - GAP
    at = -total / 2
    for spot in row:
        spot.x = at + spot.width / 2
        at += spot.width + GAP
    boxes = [spot for spot in row if spot.box is not None]
    if len(boxes) == 1:
        shift = boxes[0].x
        for spot in row:
            spot.x -= shift


def _arrow(stops: Sequence[tuple[float, float, float]]) -> str:
    """A smooth line from the bottom of the first spot to the top of the last."""
    x, y, height = stops[0]
    path = [f"M{x:.1f},{y + height:.1f}"]
    below = y + height
    for x_next, y_next, height_next in stops[1:]:
        half = (y_next + below) / 2
        end = f"{x_next:.1f},{y_next:.1f}"
        path.append(f"C{x:.1f},{half:.1f} {x_next:.1f},{half:.1f} {end}")
        if (x_next, y_next, height_next) != stops[-1]:
            path.append(f"L{x_next:.1f},{y_next + height_next:.1f}")
        x, below = x_next, y_next + height_next
    return f'<path d="{" ".join(path)}" marker-end="url(#tip)"/>\n'


def _drawn(box: Box, x: float, y: float) -> str:
    lines = [
        f'<text{" class=" + chr(34) + "soft" + chr(34) if i else ""} x="{x:.1f}" '
        f'y="{y + MARGIN / 2 + LINE * (i + 0.72):.1f}">{html(line)}</text>'
        for i, line in enumerate((box.title, *box.lines))
    ]
    return (
        f'<rect class="{box.kind}" x="{x - box.width / 2:.1f}" y="{y:.1f}" rx="6" '
        f'width="{box.width:.1f}" height="{box.height:.1f}"/>{"".join(lines)}\n'
    )
