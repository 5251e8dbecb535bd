"""The chosen architecture, drawn from any assignment: a box a place, a gauge a decision.

A place is a decision's path without its last name: `encoder[3].heads` belongs to the box
`encoder[3]`; decisions of the whole network share one box. A place of which the assignment says
nothing is absent and drawn hollow.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from spacelang.report.model import Data, Decision, Value
from spacelang.report.text import exact, html, value

_INDEX = re.compile(r"\[(\d+)\]")
_MANY = 12  # more candidates than this are a rail without stops


@dataclass(frozen=True, slots=True)
class Group:
    """Decisions that differ in their indices alone: one row of the table of decisions."""

    path: str  # "encoder[0..4].heads"
    kind: str
    candidates: tuple[Value, ...]
    count: int


def grouped(decisions: Sequence[Decision]) -> tuple[Group, ...]:
    """Decisions of one pattern and the same candidates put together, in order of appearance."""
    members: dict[tuple[object, ...], list[str]] = {}
    for decision in decisions:
        # 1, 1.0 and True are equal to Python, and three things to a reader.
        kinds = tuple(type(candidate) for candidate in decision.candidates)
        key = (_INDEX.sub("[_]", decision.path), decision.kind, decision.candidates, kinds)
        members.setdefault(key, []).append(decision.path)
    first = {decision.path: decision for decision in reversed(decisions)}
    groups: list[Group] = []
    for paths in members.values():
        head = first[paths[0]]
        groups.append(Group(_range(paths), head.kind, head.candidates, len(paths)))
    return tuple(groups)


def architecture(decisions: Sequence[Decision], chosen: Mapping[str, Value], data: Data) -> str:
    """The network from its input to its classes, each place with what was decided there."""
    known = {decision.path: decision for decision in decisions}
    extra = [Decision(path, "", (chosen[path],)) for path in chosen if path not in known]
    places: dict[str, list[Decision]] = {}
    for decision in (*decisions, *extra):
        places.setdefault(_place(decision.path), []).append(decision)
    parts: list[str] = []
    whole = places.pop("", [])
    if whole:
        parts.append(f'<div class="row">{_box("whole network", whole, chosen, " whole")}</div>')
    channels, height, width = data.shape
    first = _end("input", f"{channels} &#215; {height} &#215; {width}")
    last = _end("output", f"{exact(data.classes)} classes", " last")
    rows: dict[str, list[str]] = {}
    for place, members in places.items():
        present = any(member.path in chosen for member in members)
        box = _box(_last(place), members, chosen, "" if present else " absent")
        rows.setdefault(_place(place), []).append(box)
    lines = list(rows.items()) or [("", [])]
    for position, (name, boxes) in enumerate(lines):
        if name:
            parts.append(f'<p class="row-name path">{html(name)}</p>')
        if position == 0:
            boxes = [first, *boxes]
        if position == len(lines) - 1:
            boxes = [*boxes, last]
        parts.append(f'<div class="row">{"".join(boxes)}</div>')
    return f'<div class="network">{"".join(parts)}</div>'


def _place(path: str) -> str:
    return path.rpartition(".")[0]


def _last(path: str) -> str:
    return path.rpartition(".")[2]


def _range(paths: Sequence[str]) -> str:
    """`a[0].b`, `a[1].b` -> `a[0..1].b`; several indices that vary, or gaps, are `[_]`."""
    if len(paths) == 1:
        return paths[0]
    columns = zip(*(_INDEX.findall(path) for path in paths), strict=True)
    shown: list[str] = []
    for column in columns:
        numbers = sorted({int(text) for text in column})
        unbroken = numbers == list(range(numbers[0], numbers[-1] + 1))
        if len(numbers) == 1:
            shown.append(f"[{numbers[0]}]")
        elif unbroken and len(numbers) == len(paths):
            shown.append(f"[{numbers[0]}..{numbers[-1]}]")
        else:
            shown.append("[_]")
    return _INDEX.sub(lambda _: shown.pop(0), paths[0])


def _end(name: str, text: str, css: str = "") -> str:
    return f'<div class="layer end{css}"><h3>{name}</h3><span class="small">{text}</span></div>'


def _box(name: str, members: Sequence[Decision], chosen: Mapping[str, Value], css: str) -> str:
    if "absent" in css:
        inside = '<span class="small">absent</span>'
    else:
        inside = "".join(_gauge(member, chosen.get(member.path)) for member in members)
    return f'<div class="layer{css}"><h3 class="path">{html(name)}</h3>{inside}</div>'


def _gauge(decision: Decision, taken: Value | None) -> str:
    """A decision's name and value above a rail with a stop a candidate."""
    shown = "not live" if taken is None else value(taken)
    stops = _stops(decision.candidates)
    parts = ['<line class="rail" x1="5" x2="115" y1="6" y2="6"/>']
    if len(stops) <= _MANY:
        parts += [f'<circle class="stop" cx="{stop:.1f}" cy="6" r="2.6"/>' for stop in stops]
    position = next(
        (i for i, c in enumerate(decision.candidates) if type(c) is type(taken) and c == taken),
        next((i for i, c in enumerate(decision.candidates) if c == taken), None),
    )
    if position is not None:
        parts.append(f'<circle class="taken" cx="{stops[position]:.1f}" cy="6" r="4.4"/>')
    every = ", ".join(value(candidate) for candidate in decision.candidates)
    return (
        f'<div class="gauge"><div><span>{html(_last(decision.path))}</span>'
        f"<b>{html(shown)}</b></div>"
        f'<svg viewBox="0 0 120 12" role="img" aria-label="{html(shown)} of {html(every)}">'
        f"<title>{html(every)}</title>{''.join(parts)}</svg></div>"
    )


def _stops(candidates: Sequence[Value]) -> list[float]:
    """Where each candidate stands on the rail: by its size if all are numbers, else by order."""
    numbers = [
        float(c) for c in candidates if isinstance(c, (int, float)) and not isinstance(c, bool)
    ]
    if len(numbers) < len(candidates) or min(numbers, default=0) == max(numbers, default=0):
        numbers = [float(i) for i in range(len(candidates))]
    low, high = min(numbers, default=0), max(numbers, default=0)
    if low == high:
        return [60.0 for _ in numbers]
    return [5 + 110 * (number - low) / (high - low) for number in numbers]
