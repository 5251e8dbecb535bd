"""The order in which variables are eliminated, and every table met on the way.

    bag heads[0]: (width, depth) <- cost(width, heads[0]) * mask(depth, heads[0])
    bag ratio[0]: ...
    root (width, depth): left half | right half

A bag folds the tables that hold its variable and adds up the variable's values. What is left when
the remaining variables form one clique is the root; its last convolution is never made: two halves
stay, to be searched against each other. Nothing here knows which decisions are global.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import lgamma, prod

import numpy as np
from numpy.typing import NDArray

from spacelang.analysis.distribution import UNIT, Indices, Rows, fold, sum_out
from spacelang.analysis.limit import Limit
from spacelang.analysis.problem import Integers

# Joint values of the variables at the root; each is searched by itself.
ROOT = 1024
# Rows longer than this are not merged for the sake of a smaller root.
PLAIN = 1 << 12
# Tables longer than this are never compared for being alike.
COMPARED = 1 << 16
# Groups of alike tables that are split between the halves in every way.
TRIED = 12


@dataclass(frozen=True, eq=False)
class Node:
    """A table of the elimination: a factor of the problem, or what a bag left behind."""

    rows: Rows
    bag: Bag | None = None

    @cached_property
    def kinds(self) -> frozenset[bytes]:
        """Its rows of several entries, each shifted to begin at 0; none if the table is long."""
        rows = self.rows
        if len(rows.keys) > COMPARED:
            return frozenset()
        apart = rows.keys - rows.low[rows.owner]
        ends = zip(rows.start[:-1], rows.start[1:], strict=True)
        return frozenset(apart[first:last].tobytes() for first, last in ends if last > first + 1)


@dataclass(frozen=True, eq=False)
class Chain:
    """Tables folded one after the other; tables[j] is the fold of the first j + 1 nodes."""

    nodes: tuple[Node, ...]
    tables: tuple[Rows, ...]

    @property
    def rows(self) -> Rows:
        return self.tables[-1] if self.tables else UNIT


@dataclass(frozen=True, eq=False)
class Bag:
    """An eliminated variable: its chain, and the chain's table with the variable added up."""

    variable: str
    chain: Chain
    rows: Rows


@dataclass(frozen=True, eq=False)
class Root:
    """What is left: for every joint value of `scope` a shift, a number of ways, and two halves.

    `constants` are the nodes of at most one entry a row, summed up in `shift` and `ways` [points].
    """

    scope: tuple[str, ...]
    shape: tuple[int, ...]
    constants: tuple[Node, ...]
    shift: Indices
    ways: Integers
    halves: tuple[Chain, Chain]


def build(factors: Iterable[Rows], domains: Mapping[str, int], limit: Limit) -> Root:
    """Eliminate variables, cheapest first. Raises TooLarge where a table would pass the limit."""
    nodes = [Node(rows) for rows in factors]
    costs: dict[str, tuple[int, int]] = {}
    place = {variable: index for index, variable in enumerate(domains)}
    while True:
        around = _neighbours(nodes)
        for variable, scope in around.items():
            if variable not in costs:
                longest = max(node.rows.longest for node in nodes if variable in node.rows.scope)
                costs[variable] = prod(domains[v] for v in scope) * longest, place[variable]
        variable = min(around, key=costs.__getitem__, default=None)
        if variable is None or (_is_clique(around, domains) and not _is_plain(nodes, variable)):
            break
        touched, nodes = _gathered(nodes, variable, around[variable])
        chain = link(_ordered(touched), limit)
        bag = Bag(variable, chain, sum_out(chain.rows, variable, limit))
        nodes.append(Node(bag.rows, bag))
        for neighbour in around[variable]:
            costs.pop(neighbour, None)
    return _root(nodes, tuple(sorted(around, key=place.__getitem__)), domains, limit)


def _gathered(
    nodes: Sequence[Node], variable: str, scope: set[str]
) -> tuple[list[Node], list[Node]]:
    """The nodes to fold for a variable, and the rest.

    Nodes that lie within the scope come along where they have a row in common: layers that are
    always there have the same sums as layers that may be, and folded together they coincide.
    """
    touched = [node for node in nodes if variable in node.rows.scope]
    kinds = frozenset[bytes]().union(*(node.kinds for node in touched))
    alike = [
        node
        for node in nodes
        if node not in touched and scope.issuperset(node.rows.scope) and kinds & node.kinds
    ]
    touched.extend(alike)
    return touched, [node for node in nodes if node not in touched]


def link(nodes: Sequence[Node], limit: Limit) -> Chain:
    """Fold tables in the order given."""
    tables: list[Rows] = []
    for node in nodes:
        tables.append(fold(tables[-1], node.rows, limit) if tables else node.rows)
    return Chain(tuple(nodes), tuple(tables))


def _neighbours(nodes: Sequence[Node]) -> dict[str, set[str]]:
    """Each remaining variable with all those that share a table with it, itself included."""
    around: dict[str, set[str]] = {}
    for node in nodes:
        for variable in node.rows.scope:
            around.setdefault(variable, set()).update(node.rows.scope)
    return around


def _is_clique(around: Mapping[str, set[str]], domains: Mapping[str, int]) -> bool:
    small = prod(domains[variable] for variable in around) <= ROOT
    return small and all(len(scope) == len(around) for scope in around.values())


def _is_plain(nodes: Sequence[Node], variable: str) -> bool:
    """Whether eliminating a variable takes no convolution, and little else."""
    lengths = [node.rows.longest for node in nodes if variable in node.rows.scope]
    return sum(length > 1 for length in lengths) < 2 and max(lengths) <= PLAIN


def _root(
    nodes: Sequence[Node], scope: tuple[str, ...], domains: Mapping[str, int], limit: Limit
) -> Root:
    shape = tuple(domains[variable] for variable in scope)
    constants = tuple(node for node in nodes if node.rows.longest <= 1)
    shift = np.zeros(prod(shape), np.int64)
    ways = np.ones(prod(shape), object)
    for node in constants:
        rows = node.rows.rows_of(scope, shape)
        held = node.rows.lengths[rows] > 0
        entry = np.where(held, node.rows.start[rows], 0)
        if len(node.rows.keys):
            shift += np.where(held, node.rows.keys[entry], 0)
            ways *= np.where(held, node.rows.counts[entry].astype(object), 0)
        else:
            ways *= 0
    halves = _split([node for node in nodes if node.rows.longest > 1], domains)
    left, right = (link(half, limit) for half in halves)
    return Root(scope, shape, constants, shift, ways, (left, right))


def _signature(node: Node) -> tuple[object, ...]:
    """Equal for tables whose sums coincide when they are folded with each other."""
    rows = node.rows
    if len(rows.keys) > COMPARED:
        return (id(node),)
    return rows.scope, rows.start.tobytes(), (rows.keys - rows.low[rows.owner]).tobytes()


def _alike(nodes: Sequence[Node]) -> list[list[Node]]:
    groups: dict[tuple[object, ...], list[Node]] = {}
    for node in nodes:
        groups.setdefault(_signature(node), []).append(node)
    return list(groups.values())


def _ordered(nodes: Sequence[Node]) -> list[Node]:
    """Many alike first (their sums coincide), short before long, one entry a row at the end."""

    def rank(group: list[Node]) -> tuple[bool, int, int]:
        longest = group[0].rows.longest
        return longest <= 1, -len(group), longest

    return [node for group in sorted(_alike(nodes), key=rank) for node in group]


def _extent(group: Sequence[Node]) -> float:
    """Logarithm of the sums that n tables alike of length d may have: C(n + d - 1, n)."""
    number, longest = len(group), group[0].rows.longest
    return lgamma(number + longest) - lgamma(number + 1) - lgamma(longest)


def _split(nodes: Sequence[Node], domains: Mapping[str, int]) -> tuple[list[Node], list[Node]]:
    """Two halves, such that the larger is expected to be as small as possible."""
    groups = sorted(_alike(nodes), key=_extent, reverse=True)
    if not groups:
        return [], []
    if _extent(groups[0]) > 2 * sum(map(_extent, groups[1:])) and len(groups[0]) > 1:
        middle = len(groups[0]) // 2
        groups[:1] = groups[0][:middle], groups[0][middle:]
    variables = sorted({variable for group in groups for variable in group[0].rows.scope})
    points = np.log([domains[variable] for variable in variables])
    held = np.array([[v in group[0].rows.scope for v in variables] for group in groups])
    extents = np.array([_extent(group) for group in groups])

    def larger(left: NDArray[np.bool_]) -> NDArray[np.float64]:
        """For choices [choices, groups] of what goes left, the logarithm of the larger half."""
        number = left.shape[1]
        sizes = [
            half @ extents[:number] + (half @ held[:number]) @ points for half in (left, ~left)
        ]
        return np.maximum(*sizes)

    # The largest groups in every way, then each of the rest where it is best.
    some = min(len(groups), TRIED)
    choices = (np.arange(1 << some)[:, None] >> np.arange(some)) & 1 == 1
    best = choices[np.argmin(larger(choices))]
    for _ in groups[some:]:
        choices = np.stack([np.append(best, False), np.append(best, True)])
        best = choices[np.argmin(larger(choices))]
    sides = [
        [node for group, goes in zip(groups, side, strict=True) if goes for node in group]
        for side in (best, ~best)
    ]
    return _ordered(sides[0]), _ordered(sides[1])
