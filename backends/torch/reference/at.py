"""A node where the interpreter runs it, and the table of rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from spacelang.backends.torch.lowering.ports import known
from spacelang.ir.dim import Dim
from spacelang.ir.dim import Value as DecisionValue
from spacelang.ir.graph import Instance
from spacelang.ir.node import Attribute, Node


@dataclass
class At:
    """A node where it runs: its options as numbers, its parameters as it reads them."""

    node: Node
    instance: Instance
    values: Mapping[str, DecisionValue]
    training: bool
    params: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    mask: Tensor | None = None
    updates: dict[str, Tensor] = field(default_factory=dict[str, Tensor])

    def value(self, dim: Dim) -> float | int:
        return known(self.instance.absolute(dim), self.values)

    def number(self, dim: Dim) -> int:
        return int(self.value(dim))

    def given(self, name: str) -> Attribute:
        return self.node.attributes[name]

    def real(self, name: str) -> float:
        dim = self.given(name)
        assert isinstance(dim, Dim)
        return float(self.value(dim))

    def whole(self, name: str) -> int:
        return int(self.real(name))

    def flag(self, name: str) -> bool:
        return self.given(name) is True

    def text(self, name: str) -> str:
        return str(self.given(name))

    def wholes(self, name: str) -> list[int]:
        given = self.given(name)
        dims = given if isinstance(given, tuple) else (given,)
        return [self.number(d) for d in dims if isinstance(d, Dim)]

    def named(self, name: str) -> dict[str, int]:
        """Sizes by name, `((name, size), ..)`."""
        given = self.given(name)
        pairs = [p for p in (given if isinstance(given, tuple) else ()) if isinstance(p, tuple)]
        return {str(word): self.number(d) for word, d in pairs if isinstance(d, Dim)}

    def weight(self, role: str, extra: Sequence[Tensor]) -> Tensor | None:
        """A parameter, or the operand that stands for it."""
        names = self.node.attributes.get("given", ())
        assert isinstance(names, tuple)
        return extra[names.index(role)] if role in names else self.params.get(role)


Row = Callable[..., "Tensor | Sequence[Tensor]"]
ROWS: dict[str, Row] = {}


def row(*names: str) -> Callable[[Row], Row]:
    def add(function: Row) -> Row:
        ROWS.update(dict.fromkeys(names, function))
        return function

    return add
