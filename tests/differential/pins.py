"""Programs with some decisions taken in their text: `choose width in {8}` for `choose width in {4, 8}`.

pinned(text, {"width": 8, "op": "a"})     every decision of these names
every(text)                               one text for each combination
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from math import prod
from typing import Any

from differential.shrink import bare, positions, replaced

from spacelang.diagnostics import Source
from spacelang.ir.decision import Plain
from spacelang.syntax import tree
from spacelang.syntax.format import format
from spacelang.syntax.parse import parse


def pinned(text: str, values: Mapping[str, Plain]) -> str:
    """The program with the decisions of these names taken, wherever they stand."""
    file: Any = bare(parse(Source("pins.space", text)))
    for spot, node in sorted(positions(file), key=lambda pair: -len(pair[0])):
        if isinstance(node, tree.Choose | tree.ChoosePath) and node.target.hops[-1].name in values:
            file = replaced(file, spot, _taken(node, values[node.target.hops[-1].name]))
    return format(file)


def _taken(node: Any, value: Plain) -> Any:
    if isinstance(node, tree.ChoosePath):
        return tree.ChoosePath(node.target, tuple(o for o in node.options if o.name == value))
    if isinstance(node.domain, tree.Draw):
        assert isinstance(value, list)
        items = tuple(tree.Number(v, str(v)) for v in value)
        assert items
        return node
    return tree.Choose(node.target, tree.Set((literal(value),)), None)


def literal(value: Plain) -> Any:
    """A value of a decision as an expression."""
    if isinstance(value, str):
        return tree.String(value)
    if isinstance(value, bool):
        return tree.Name("true" if value else "false")
    return tree.Number(value, str(value))


def every(text: str, most: int = 300) -> Iterator[str]:
    """A text for each combination of candidates that are written as a set or a range of numbers."""
    file: Any = bare(parse(Source("pins.space", text)))
    spots: list[tuple[Any, list[Any]]] = []
    for spot, node in positions(file):
        if isinstance(node, tree.ChoosePath):
            spots.append((spot, [tree.ChoosePath(node.target, (o,)) for o in node.options]))
        elif isinstance(node, tree.Choose) and isinstance(node.domain, tree.Set):
            sets = [tree.Set((item,)) for item in node.domain.items]
            spots.append((spot, [tree.Choose(node.target, s, None) for s in sets]))
        elif isinstance(node, tree.Choose) and isinstance(node.domain, tree.Range):
            numbers = _numbers(node.domain)
            made = [tree.Choose(node.target, tree.Set((n,)), None) for n in numbers]
            spots.append((spot, made))
    if prod(len(made) for _, made in spots) > most:
        return
    spots.sort(key=lambda pair: -len(pair[0]))
    if any(_inside(a, b) for a, _ in spots for b, _ in spots if a != b):
        return
    for nodes in product(*(made for _, made in spots)):
        result = file
        for (spot, _), node in zip(spots, nodes, strict=True):
            result = replaced(result, spot, node)
        yield format(result)


def _inside(a: Any, b: Any) -> bool:
    return a[: len(b)] == b


def _numbers(node: tree.Range) -> list[Any]:
    ends = (node.start, node.stop, node.step or tree.Number(1, "1"))
    if not all(isinstance(end, tree.Number) for end in ends):
        return []
    start, stop, step = (end.value for end in ends if isinstance(end, tree.Number))
    found: list[Any] = []
    while start < stop or (start == stop and not node.open):
        found.append(tree.Number(start, str(start)))
        start += step
    return found
