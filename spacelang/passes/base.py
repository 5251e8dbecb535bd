"""Passes: pure functions from Graph to Graph, their options declared as data.

    @dataclass(frozen=True)
    class Multiplex(Pass):
        name: ClassVar[str] = "multiplex"
        preserves: ClassVar[frozenset[str]] = frozenset({"space"})
        path: Pattern
        every: int = 2

The fields are the options, in a file's `rewrite { }`, in a pipeline string and in Python alike. The
annotation of a field says how an option is read: `Pattern` is a path, `tuple[Pattern, ...]` a list
of paths, `BlockSource` a block in scope, anything else a plain value. A field that ends in `_` is
the option without it (`name_` is `name`, which every pass has).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, dataclass, fields
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from spacelang.diagnostics import Report
from spacelang.ir.block import Block
from spacelang.ir.graph import Graph
from spacelang.ir.node import Call, TensorType

Preserved = Literal["function", "parameters", "space"]


@dataclass(frozen=True)
class Insertion:
    """A block made for one place: the call, its result, and the blocks that it brings."""

    call: Call
    result: TensorType
    blocks: Mapping[str, Block]


@runtime_checkable
class BlockSource(Protocol):
    """A block that can be called on a value of any type that it fits."""

    @property
    def name(self) -> str:
        """What the block is called in the text."""
        ...

    def at(self, type: TensorType, path: str, taken: frozenset[str]) -> Insertion:
        """The call of the block under `path` on a value of this type (in the host block's sizes).

        `taken` are names of blocks that exist. Raises SpaceError where it does not fit.
        """
        ...


@dataclass(frozen=True)
class Pass:
    """One rewriting. `preserves` is what it is tested for: function, parameters, size of space."""

    name: ClassVar[str] = ""
    preserves: ClassVar[frozenset[str]] = frozenset()

    def run(self, graph: Graph, report: Report) -> Graph:
        """The rewritten graph; what does not fit is added to the report (SP601)."""
        raise NotImplementedError(self.name)


def options(step: type[Pass]) -> dict[str, Field[Any]]:
    """The options of a pass in order: the fields behind their names."""
    return {field.name.removesuffix("_"): field for field in fields(step)}
