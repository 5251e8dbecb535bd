"""Nodes of a block: one op applied to values, or a call of another block.

Four kinds of node hold other code. `call` uses a named block; `guard` yields its region's results
where its condition holds and its first operands where not; `choose` yields the results of the
region whose condition holds; every other op is a row of the op table. A region is a block without a
scope of its own: it shares the sizes, decisions and parameters of the block that it stands in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from spacelang.diagnostics import NOWHERE, Span
from spacelang.ir.condition import Condition
from spacelang.ir.dim import Dim, Symbol, product
from spacelang.ir.param import Init, View

if TYPE_CHECKING:
    from spacelang.ir.block import Block

STRUCTURAL = frozenset({"input", "identity", "call", "guard", "choose"})
"""Ops that are no rows of the op table: what they mean is said here and in `verify.py`."""

Attribute = Dim | Condition | Symbol | Init | str | bool | None | tuple["Attribute", ...]


@dataclass(frozen=True)
class TensorType:
    """The shape of a value in the sizes of its block, and its element type (f32, i64, bool)."""

    shape: tuple[Dim, ...]
    dtype: str = "f32"

    @property
    def rank(self) -> int:
        """How many axes."""
        return len(self.shape)

    def elements(self) -> Dim:
        """The product of all sizes: 1 without an axis."""
        return product(self.shape)

    def substitute(self, values: Mapping[str, Dim | Symbol]) -> TensorType:
        """The type with decisions and sizes replaced."""
        return TensorType(tuple(d.substitute(values) for d in self.shape), self.dtype)

    def __str__(self) -> str:
        body = f"[{', '.join(map(str, self.shape))}]"
        return body if self.dtype == "f32" else f"{self.dtype}{body}"


@dataclass(frozen=True)
class Value:
    """A result of a node of the same block or region."""

    node: int
    index: int = 0

    def __str__(self) -> str:
        return f"%{self.node}" if not self.index else f"%{self.node}.{self.index}"


@dataclass(frozen=True)
class Call:
    """A use of a block.

    path    where it stands in the caller ("" for a transparent call: the caller's own place)
    decide  prefix of its decisions; "/normal" counts from the root (a cell)
    store   prefix of its parameters; another call's for tied weights
    own     parameters that stay under `path` although the rest is tied
    sizes   the callee's sizes, in the sizes of the caller
    """

    block: str
    path: str
    decide: str
    store: str
    own: tuple[str, ...] = ()
    sizes: Mapping[str, Dim | Symbol] = field(default_factory=dict[str, Dim | Symbol])


@dataclass(frozen=True)
class Node:
    """One operation. `label` is the path, inside the block, under which others name its value."""

    id: int
    op: str
    operands: tuple[Value, ...] = ()
    attributes: Mapping[str, Attribute] = field(default_factory=dict[str, Attribute])
    params: Mapping[str, View] = field(default_factory=dict[str, View])
    regions: tuple[Block, ...] = ()
    call: Call | None = None
    types: tuple[TensorType, ...] = ()
    label: str = ""
    span: Span = field(default=NOWHERE, compare=False, repr=False)

    @property
    def holds(self) -> bool:
        """Whether there is other code inside: a block that it calls, or regions."""
        return self.call is not None or bool(self.regions)

    @property
    def values(self) -> tuple[Value, ...]:
        """Its results, in order."""
        return tuple(Value(self.id, i) for i in range(len(self.types)))


def join(prefix: str, path: str) -> str:
    """A path below a prefix; a path that starts with `/` counts from the root."""
    if path.startswith("/"):
        return path[1:]
    return f"{prefix}.{path}" if prefix and path else prefix or path
