"""The base of all classes of the syntax tree: frozen records, made without generated code.

    class Item(Tree):
        value: Expr
        indices: tuple[Index, ...]

Sixty frozen dataclasses take 25 ms to come into being, a twentieth of what `spacelang check` may
take; classes without code of their own take 2 ms.
"""

from __future__ import annotations

from dataclasses import Field, field
from typing import Any, ClassVar, cast, dataclass_transform

from spacelang.diagnostics import NOWHERE, Span


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
class Record:
    """A frozen record: fields by position or name, compared by those that are not exempt."""

    _fields: ClassVar[tuple[str, ...]] = ()
    _compared: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        apart: set[str] = set()
        cls._fields = tuple(name for name in cls.__annotations__ if name != "span")
        for name in cls.__annotations__:
            default = cls.__dict__.get(name)
            if isinstance(default, Field):
                given = cast("Field[object]", default)
                setattr(cls, name, given.default)
                if not given.compare:
                    apart.add(name)
        cls._compared = tuple(name for name in cls._fields if name not in apart)
        cls.__match_args__ = cls._fields

    def __init__(self, *values: Any, **named: Any) -> None:
        self.__dict__.update(zip(self._fields, values, strict=False), **named)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Record) or type(self) is not type(other):
            return False
        return self is other or self._key() == other._key()

    def __hash__(self) -> int:
        return hash((type(self), self._key()))

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in self._compared)
        return f"{type(self).__name__}({shown})"

    def _key(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in self._compared)

    def children(self) -> tuple[object, ...]:
        """The values of its fields: trees, tuples of trees, plain values."""
        return tuple(getattr(self, name) for name in self._fields)


class Tree(Record):
    """A node of the tree; where it stands does not count in comparison."""

    span: Span = field(default=NOWHERE, compare=False, repr=False, kw_only=True)
