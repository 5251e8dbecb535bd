"""What is taken below a use of a block: decisions by their path in it, and those of cells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar

from spacelang.ir.graph import Graph, Instance

Taken = TypeVar("Taken")


def has_cells(graph: Graph) -> bool:
    """Whether any call takes its decisions under a name of the root's."""
    return any(
        node.call is not None and node.call.decide.startswith("/")
        for block in (graph.root, *graph.blocks.values())
        for node in block.everywhere()
    )


def below(
    instance: Instance, taken: Mapping[str, Taken], cells: bool
) -> Iterator[tuple[str, Taken]]:
    """What is taken inside a use: its own by their path in it, a cell's from the root (`/..`)."""
    for path, value in taken.items():
        if not instance.decide:
            yield path, value
        elif path.startswith((instance.decide + ".", instance.decide + "[")):
            yield path[len(instance.decide) :], value
        elif cells:
            yield "/" + path, value
