"""Charts as inline SVG: curves over epochs, and a cloud of candidates with its Pareto front."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from spacelang.report.model import Candidate, Network, Report, Role
from spacelang.report.text import cost_name, exact, html, percent, scored, tick
from spacelang.statistics import pareto_front

Point = tuple[float, float]
Format = Callable[[float], str]


@dataclass(frozen=True, slots=True)
class Scale:
    """A linear map from low..high to start..end, in pixels."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


@dataclass(frozen=True, slots=True)
class Frame:
    """The axes of a chart of a given width and height."""

    width: float
    height: float
    x: Scale
    y: Scale

    def point(self, value: Point) -> str:
        return f"{self.x.at(value[0]):.1f},{self.y.at(value[1]):.1f}"


def frame(
    xs: Sequence[float], ys: Sequence[float], width: float, height: float, pad: float = 0.0
) -> Frame:
    """Axes that hold all values, with a share of room around them."""
    left, right, top, bottom = 52.0, 16.0, 24.0, 40.0
    x_low, x_high = _room(xs, pad)
    y_low, y_high = _room(ys, max(pad, 0.06))
    return Frame(
        width,
        height,
        Scale(x_low, x_high, left, width - right),
        Scale(y_low, y_high, height - bottom, top),
    )


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers within low..high, about as many as wanted."""
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def curve(points: Sequence[Point], name: str, css: str, show: Format, along: str = "epoch") -> str:
    """One line over the epochs, or what else it goes `along`; a single one is a dot."""
    points = [point for point in points if all(map(math.isfinite, point))]
    if not points:
        return '<p class="note">Not measured.</p>'
    axes = frame([x for x, _ in points], [y for _, y in points], 480, 250)
    path = " ".join(axes.point(point) for point in points)
    last_x, last_y = points[-1]
    parts = [
        _axes(axes, along, whole=True, show=show),
        f'<polyline class="curve stroke-{css}" points="{path}"/>',
        f'<g transform="translate({axes.point(points[-1])})"><circle class="{css}-dot" r="4">'
        f"<title>{along} {last_x:g}: {html(show(last_y))}</title></circle></g>",
    ]
    return _svg(axes, f"{name} over {len(points)} {along}s, at the end {show(last_y)}", parts)


def cloud(report: Report) -> str:
    """All candidates as cost against accuracy, their Pareto front, and the networks kept."""
    points = [(float(c.cost), c.accuracy) for c in report.candidates]
    marked = _marked(report)
    every = [*points, *(point for point, _ in marked)]
    if not every:
        return '<p class="note">No candidates were evaluated.</p>'
    bounds = [float(bound) for bound in report.limit if bound is not None]
    xs = [x for x, _ in every]
    spread = max(xs) - min(xs) or max(xs)
    near = [bound for bound in bounds if min(xs) - spread <= bound <= max(xs) + spread]
    axes = frame([*xs, *near], [y for _, y in every], 1000, 430, pad=0.045)
    low, high = report.limit
    parts = [_outside(axes, axes.x.low, low), _outside(axes, high, axes.x.high)]
    parts.append(_axes(axes, cost_name(report.cost), whole=False, show=percent))
    parts.append('<text x="0" y="10">validation accuracy</text>')
    parts += [_limit(axes, bound) for bound in near]
    # Random search below, evolution above: where they meet, both can be seen.
    rank = {"other": 0, "random": 1, "evolution": 2}
    parts.append('<g class="cloud">')
    parts += [
        _candidate(axes, candidate)
        for candidate in sorted(report.candidates, key=lambda c: rank[c.method])
    ]
    parts.append("</g>")
    parts.append(_front(axes, points))
    parts += [_network(axes, point, network) for point, network in marked]
    name = f"{len(points)} candidates, {cost_name(report.cost)} against validation accuracy"
    return _svg(axes, name, parts)


def mark(kind: str) -> str:
    """A small drawing of a mark, for legends and tables."""
    return f'<svg class="mark" viewBox="-8 -8 16 16" aria-hidden="true">{_MARKS[kind]}</svg>'


def forest(network: Network, low: float, high: float, bounds: tuple[float, float]) -> str:
    """An accuracy (test, else validation) and its interval low..high, on a scale of `bounds`."""
    score = network.test or network.validation
    if score is None:
        return ""
    scale = Scale(*bounds, 6, 144)
    css = f"{network.role}-row"
    at, start, end = (scale.at(share) for share in (score.accuracy, low, high))
    return (
        f'<svg class="forest" viewBox="0 0 150 16" role="img" aria-label="{scored(score)}">'
        '<line class="rail" x1="6" x2="144" y1="8" y2="8"/>'
        f'<line class="span {css}" x1="{start:.1f}" x2="{end:.1f}" y1="8" y2="8"/>'
        f'<circle class="dot {css}" cx="{at:.1f}" cy="8" r="4.5"/></svg>'
    )


def _star(radius: float) -> str:
    """Five points around the origin, the first upwards."""
    corners: list[str] = []
    for i in range(10):
        length = radius if i % 2 == 0 else radius * 0.45
        angle = math.pi * (i / 5 - 0.5)
        corners.append(f"{length * math.cos(angle):.2f},{length * math.sin(angle):.2f}")
    return " ".join(corners)


_MARKS = {
    "evolution": '<circle class="evolution" r="4.4"/>',
    "random": '<rect class="random" x="-3.8" y="-3.8" width="7.6" height="7.6" rx="1"/>',
    "other": '<circle class="other" r="3"/>',
    "front": '<path class="front" d="M-8,5 V-1 H0 V-5 H8"/>',
    "winner": f'<polygon class="winner-mark" points="{_star(9)}"/>',
    "best-random": '<rect class="best-random" x="-5" y="-5" width="10" height="10" rx="1.5"/>',
    "largest": '<path class="largest" d="M0,-7 L7,0 L0,7 L-7,0 Z"/>',
}
_ROLE_MARKS: dict[Role, str] = {
    "winner": "winner",
    "random": "best-random",
    "largest": "largest",
    "other": "other",
}


def role_mark(role: Role) -> str:
    """The mark of a network in the cloud, for tables."""
    return mark(_ROLE_MARKS[role])


def _marked(report: Report) -> list[tuple[Point, Network]]:
    """The networks of the table that have a place in the cloud, the winner last, on top."""
    found: list[tuple[Point, Network]] = []
    for role in ("largest", "random", "winner"):
        network = report.network(role)
        cost = network.cost(report.cost) if network else None
        if network and network.validation and cost is not None:
            found.append(((float(cost), network.validation.accuracy), network))
    return found


def _room(values: Sequence[float], pad: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    if low == high:
        low, high = low - (abs(low) or 1) * 0.05, high + (abs(high) or 1) * 0.05
    return low - (high - low) * pad, high + (high - low) * pad


def _rounds(number: float, places: int) -> bool:
    return abs(number - round(number, places)) < 1e-9


def _axes(axes: Frame, x_name: str, *, whole: bool, show: Format) -> str:
    """Grid, axes, ticks and names; `whole` leaves out ticks between whole numbers."""
    left, right, bottom = axes.x.start, axes.x.end, axes.y.start
    parts: list[str] = []
    y_ticks = ticks(axes.y.low, axes.y.high)
    labels = [show(value) for value in y_ticks]
    if show is percent:
        exact_at = (n for n in range(3) if all(_rounds(100 * value, n) for value in y_ticks))
        places = next(exact_at, 3)
        labels = [percent(value, places) for value in y_ticks]
    for value, label in zip(y_ticks, labels, strict=True):
        y = axes.y.at(value)
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    wanted = 6 if axes.width < 600 else 9
    for value in ticks(axes.x.low, axes.x.high, wanted):
        if whole and value != int(value):
            continue
        x = axes.x.at(value)
        parts.append(
            f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 4}"/>'
        )
        parts.append(
            f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{tick(value)}</text>'
        )
    parts.append(f'<line class="axis" x1="{left}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    parts.append(f'<text x="{right}" y="{bottom + 35}" text-anchor="end">{html(x_name)}</text>')
    return "".join(parts)


def _candidate(axes: Frame, candidate: Candidate) -> str:
    x, y = axes.x.at(candidate.cost), axes.y.at(candidate.accuracy)
    title = f"<title>{exact(candidate.cost)}: {percent(candidate.accuracy)}</title>"
    if candidate.method == "random":
        return (
            f'<rect class="random" x="{x - 3.3:.1f}" y="{y - 3.3:.1f}" width="6.6" height="6.6" '
            f'rx="1">{title}</rect>'
        )
    radius = 3.9 if candidate.method == "evolution" else 3
    place = f'cx="{x:.1f}" cy="{y:.1f}" r="{radius}"'
    return f'<circle class="{candidate.method}" {place}>{title}</circle>'


def _front(axes: Frame, points: Sequence[Point]) -> str:
    """The Pareto front as a staircase with a ring around each of its points."""
    front = [points[i] for i in pareto_front([x for x, _ in points], [y for _, y in points])]
    if not front:
        return ""
    path = [f"M{axes.point(front[0])}"]
    for (_, low), (cost, high) in pairwise(front):
        path.append(f"L{axes.point((cost, low))} L{axes.point((cost, high))}")
    path.append(f"L{axes.point((max(x for x, _ in points), front[-1][1]))}")
    rings = "".join(
        f'<circle class="halo" cx="{axes.x.at(x):.1f}" cy="{axes.y.at(y):.1f}" r="6.5"/>'
        for x, y in front
    )
    return f'<path class="front" d="{" ".join(path)}"/>{rings}'


def _outside(axes: Frame, start: float | None, end: float | None) -> str:
    """A shade over the costs that the search may not reach."""
    if start is None or end is None or start >= axes.x.high or end <= axes.x.low:
        return ""
    left = axes.x.at(max(start, axes.x.low))
    width = axes.x.at(min(end, axes.x.high)) - left
    top, height = axes.y.end, axes.y.start - axes.y.end
    return f'<rect class="outside" x="{left:.1f}" y="{top}" width="{width:.1f}" height="{height}"/>'


def _limit(axes: Frame, bound: float) -> str:
    x, top, bottom = axes.x.at(bound), axes.y.end, axes.y.start
    right = x < (axes.x.start + axes.x.end) / 2
    anchor, shift = ("start", 6) if right else ("end", -6)
    return (
        f'<line class="limit" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"/>'
        f'<text class="limit-label" x="{x + shift:.1f}" y="{bottom - 8}" text-anchor="{anchor}">'
        f"limit {tick(bound)}</text>"
    )


def _network(axes: Frame, point: Point, network: Network) -> str:
    x, y = axes.x.at(point[0]), axes.y.at(point[1])
    anchor, shift = ("end", -12) if x > (axes.x.start + axes.x.end) / 2 else ("start", 12)
    title = f"{network.name}: {exact(int(point[0]))}, {percent(point[1])}"
    label = ""
    if network.role in ("winner", "largest"):
        label = (
            f'<text class="label" x="{shift}" y="-9" text-anchor="{anchor}">'
            f"{html(network.name)}</text>"
        )
    return (
        f'<g transform="translate({x:.1f},{y:.1f})">{_MARKS[_ROLE_MARKS[network.role]]}{label}'
        f"<title>{html(title)}</title></g>"
    )


def _svg(axes: Frame, name: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {axes.width:g} {axes.height:g}" role="img" aria-label="{html(name)}">'
        f"{''.join(parts)}</svg>"
    )
