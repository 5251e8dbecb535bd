"""Exactly uniform draws: whole numbers below a bound, and walks back through an elimination.

A draw starts at one entry of a table, with as many ways as its count says. Going back, it chooses
among the entries that were added up there, each as often as it has ways. No probability is ever a
floating-point number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from spacelang.analysis.distribution import Indices, Rows
from spacelang.analysis.problem import Integers
from spacelang.analysis.tree import Bag, Chain, Node

# Entries of a matrix (draws x alternatives) treated at once.
MATRIX = 1 << 21
WORD = 64

Alternatives = Callable[[Indices], tuple[Indices, Integers]]


def below(rng: np.random.Generator, bounds: Integers) -> Integers:
    """For each bound (positive, int64 or Python integers) a whole number 0 <= r < bound."""
    if bounds.dtype != object:
        return rng.integers(0, bounds)
    lengths = np.array([int(bound).bit_length() for bound in bounds], np.int64)
    result = np.zeros(len(bounds), object)
    open_ = np.arange(len(bounds))
    while len(open_):
        # As many random bits as the bound has; what is not below the bound is drawn again.
        words = -(-int(lengths[open_].max()) // WORD)
        drawn = np.zeros(len(open_), object)
        for _ in range(words):
            word = rng.integers(0, 1 << 64, len(open_), np.uint64, endpoint=False)
            drawn = (drawn << WORD) | word.astype(object)
        drawn = drawn >> (WORD * words - lengths[open_]).astype(object)
        fits = (drawn < bounds[open_]).astype(np.bool_)
        result[open_[fits]] = drawn[fits]
        open_ = open_[~fits]
    return result


def choose(
    rng: np.random.Generator, states: Indices, width: int, alternatives: Alternatives
) -> Indices:
    """For each state one of its alternatives (at most `width`), each as often as its weight says.

    `alternatives` gives for distinct states [m] the targets and the weights [m, at most width].
    """
    result = np.empty(len(states), np.int64)
    for some in _pieces(len(states), max(1, MATRIX // max(width, 1))):
        distinct, which = np.unique(states[some], return_inverse=True)
        targets, weights = alternatives(distinct)
        reached = np.cumsum(weights, axis=1)
        drawn = below(rng, reached[which, -1])
        slot = (reached[which] <= drawn[:, None]).sum(axis=1)
        result[some] = targets[which, slot]
    return result


def walk(
    rng: np.random.Generator, starts: list[tuple[Node, Indices]], values: dict[str, Indices]
) -> None:
    """Fill `values`: for every variable eliminated below the nodes, its value in each draw.

    A start is a node with the entry of its table in each draw.
    """
    pending = list(starts)
    while pending:
        node, entries = pending.pop()
        if node.bag is None:
            continue
        value, entries = _bag_value(rng, node.bag, entries)
        values[node.bag.variable] = value
        pending.extend(unfold(rng, node.bag.chain, entries))


def unfold(
    rng: np.random.Generator, chain: Chain, entries: Indices
) -> Iterator[tuple[Node, Indices]]:
    """The entries of a chain's nodes that add up to the given entries of its last table."""
    for last in reversed(range(1, len(chain.nodes))):
        table, shorter, node = chain.tables[last], chain.tables[last - 1], chain.nodes[last]
        scanned, other = node.rows, shorter
        if scanned.longest > other.longest:
            scanned, other = other, scanned
        row_scanned = scanned.rows_of(table.scope, table.shape)
        row_other = other.rows_of(table.scope, table.shape)
        chosen = choose(
            rng, entries, scanned.longest, _sums(table, scanned, other, row_scanned, row_other)
        )
        rest = table.keys[entries] - scanned.keys[chosen]
        found = other.position(row_other[table.owner[entries]], rest)
        in_node, entries = (chosen, found) if scanned is node.rows else (found, chosen)
        yield node, in_node
    yield chain.nodes[0], entries


def _sums(
    table: Rows, scanned: Rows, other: Rows, row_scanned: Indices, row_other: Indices
) -> Alternatives:
    """The entries of `scanned` that lead to an entry of `table`, with their ways."""
    slots = np.arange(scanned.longest)

    def alternatives(entries: Indices) -> tuple[Indices, Integers]:
        owner = table.owner[entries]
        mine, theirs = row_scanned[owner][:, None], row_other[owner][:, None]
        held = slots < scanned.lengths[mine]
        place = np.where(held, scanned.start[mine] + slots, 0)
        rest = table.keys[entries][:, None] - scanned.keys[place]
        _, ways = other.ways(np.broadcast_to(theirs, rest.shape), rest)
        wide = table.counts.dtype == object
        counts = scanned.counts.astype(object) if wide else scanned.counts
        return place, np.where(held, counts[place] * ways, 0)

    return alternatives


def _bag_value(rng: np.random.Generator, bag: Bag, entries: Indices) -> tuple[Indices, Indices]:
    """The value of a bag's variable in each draw, and the entry of its chain's last table."""
    source, target = bag.chain.rows, bag.rows
    _, _, members = source.without(bag.variable)

    def alternatives(entries: Indices) -> tuple[Indices, Integers]:
        rows = members[target.owner[entries]]
        keys = np.broadcast_to(target.keys[entries][:, None], rows.shape)
        return source.ways(rows, keys)

    reached = choose(rng, entries, members.shape[1], alternatives)
    axis = source.scope.index(bag.variable)
    stride = int(np.prod(source.shape[axis + 1 :], dtype=np.int64))
    return source.owner[reached] // stride % source.shape[axis], reached


def _pieces(length: int, size: int) -> Iterator[slice]:
    for first in range(0, length, size):
        yield slice(first, first + size)
