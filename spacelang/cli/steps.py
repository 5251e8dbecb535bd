"""The nodes of a network as the steps that a drawing shows: what goes together is one box.

Together go calls of one block in a row (also with what they differ in: a shift, a drop rate, the
condition under which they are there), and ops in a row that nothing else reads from.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from spacelang.cli.listing import guarded, span_of
from spacelang.ir.graph import conditions
from spacelang.ir.node import Node

if TYPE_CHECKING:
    from spacelang.ir.block import Block

MOST_OPS = 5  # in one box
_VARIANT = re.compile(r"\.\d+$")
_LAST = re.compile(r"\[\d+\](?=[^\[]*$)")

Step = list[Node]


def steps(block: Block) -> list[Step]:
    """The nodes of a block, in order, by boxes."""
    readers: dict[int, set[int]] = {}
    for node in block.nodes:
        for value in node.operands:
            readers.setdefault(value.node, set()).add(node.id)
    for value in block.outputs:
        readers.setdefault(value.node, set()).add(-1)
    found: list[Step] = []
    for node in block.nodes:
        if found and _continues(found[-1], node, readers):
            found[-1].append(node)
        else:
            found.append([node])
    return found


def named(block: str) -> str:
    """The name of a block without the number of its variant: `encoder.3` is `encoder`."""
    return _VARIANT.sub("", block)


def spanned(step: Sequence[Node]) -> str:
    """The labels of a step: encoder[0..11]."""
    first, last = step[0].label, step[-1].label
    return first if len(step) == 1 else span_of(first, last)


def remarks(step: Sequence[Node]) -> tuple[str, ...]:
    """Under which conditions the nodes of a step are there: the first and the last of them."""
    from spacelang.cli.listing import condition_text

    texts = [condition_text(conditions(node)[0]) for node in (step[0], step[-1])]
    words = list(dict.fromkeys(texts))
    return (f"when {' .. '.join(words)}",)


def _continues(step: Step, node: Node, readers: dict[int, set[int]]) -> bool:
    """Whether a node goes with the step before it."""
    last = step[-1]
    inputs = {value.node for value in node.operands}
    if last.id not in inputs or not inputs <= {n.id for n in step}:
        return False
    if _plain(last) and _plain(node):
        ids = {n.id for n in step} | {node.id}
        return len(step) < MOST_OPS and all(readers[n.id] <= ids for n in step)
    kind = _kind(last)
    if kind is None or kind != _kind(node) or readers[last.id] != {node.id}:
        return False
    return inputs == {last.id} and all(_family(a) == _family(b) for a, b in pairwise([*step, node]))


def _plain(node: Node) -> bool:
    return node.call is None and not node.regions and node.op != "input"


def _kind(node: Node) -> object:
    """What nodes of one step have in common; None for those that stand alone."""
    inner = guarded(node) if node.regions else node
    if inner is None or inner.call is None:
        return None
    return bool(node.regions), named(inner.call.block), node.types


def _family(node: Node) -> str:
    """A label without its last index; a guard is called as what it guards."""
    return _LAST.sub("[_]", label_of(node))


def label_of(node: Node) -> str:
    inner = guarded(node) if node.regions else None
    return node.label or (inner.label if inner is not None else "")
