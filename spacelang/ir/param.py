"""Parameters and how a use reads them: `Param`, `View`, `Slice`, `Gather`, `Init`.

    param qkv.weight: [[3, heads, 64], [width]] init trunc_normal(0.02)    # the largest use's need
    view qkv.weight[0:3, 0:heads, 0:64][0:width]                           # what this use reads

An axis is a product of factors and every factor is sliced by itself, so that `[3, heads, 64]` keeps
q, k and v apart. The storage behind a parameter (`storage.py`) holds the largest need of every
factor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from spacelang.diagnostics import NOWHERE, Span
from spacelang.ir.dim import ZERO, Dim, maximum, product

Role = Literal["weight", "buffer"]
Known = tuple[tuple[int, ...], ...] | None
"""The factors of each axis as numbers, None where a decision is in one."""


@dataclass(frozen=True)
class Init:
    """How a parameter starts: the name of a rule (a row of the backend's table) and its numbers."""

    rule: str
    arguments: tuple[Dim, ...] = ()

    def __str__(self) -> str:
        return (
            f"{self.rule}({', '.join(map(str, self.arguments))})" if self.arguments else self.rule
        )


@dataclass(frozen=True)
class Param:
    """A tensor that a block owns, by its path inside the block's store.

    `shape` has one tuple of factors an axis, in the block's own sizes. `bank` names the decisions
    of which every value has a storage of its own (`separate`).
    """

    path: str
    shape: tuple[tuple[Dim, ...], ...]
    init: Init
    role: Role = "weight"
    dtype: str = "f32"
    persistent: bool = True
    decay: bool = True
    bank: tuple[str, ...] = ()
    reserved: bool = False
    span: Span = field(default=NOWHERE, compare=False, repr=False)

    @cached_property
    def known(self) -> Known:
        """Its shape, if no decision is in it."""
        return known(self.shape)

    def at(self, path: str, span: Span) -> Param:
        """The same under another path."""
        return Param(
            path, self.shape, self.init, self.role, self.dtype,
            self.persistent, self.decay, self.bank, self.reserved, span,
        )  # fmt: skip


@dataclass(frozen=True)
class Slice:
    """`length` entries of one factor from `start`, `step` apart."""

    start: Dim
    length: Dim
    step: int = 1

    @property
    def leading(self) -> bool:
        """Whether it reads the first entries, one after the other."""
        return self.step == 1 and self.start == ZERO


@dataclass(frozen=True)
class Gather:
    """Entries of one factor through a named index table, a pure function of `arguments`."""

    table: str
    arguments: tuple[Dim, ...]
    length: Dim

    @property
    def leading(self) -> bool:
        """No: which entries it reads, its table says."""
        return False


def sized(part: Slice | Gather, change: Callable[[Dim], Dim]) -> Slice | Gather:
    """A part with its sizes changed."""
    if isinstance(part, Slice):
        return Slice(change(part.start), change(part.length), part.step)
    return Gather(part.table, tuple(change(a) for a in part.arguments), change(part.length))


@dataclass(frozen=True)
class View:
    """What one use reads of a parameter: a slice or gather per factor of each axis."""

    param: str
    index: tuple[tuple[Slice | Gather, ...], ...]

    @cached_property
    def lengths(self) -> tuple[tuple[Dim, ...], ...]:
        """How many entries are read of each factor of each axis."""
        return tuple([tuple([part.length for part in axis]) for axis in self.index])

    @cached_property
    def known(self) -> Known:
        """How much it reads of every factor, if no decision is in that."""
        return known(self.lengths)

    def numel(self) -> Dim:
        """Elements read."""
        return product(length for axis in self.lengths for length in axis)

    @property
    def leading(self) -> bool:
        """Whether it reads the first entries of every factor."""
        return all(part.leading for axis in self.index for part in axis)


def larger(first: Param, other: Param) -> Param:
    """The first of two declarations of a parameter, as large as either."""
    if [len(axis) for axis in first.shape] != [len(axis) for axis in other.shape]:
        return first
    axes = zip(first.shape, other.shape, strict=True)
    shape = tuple(tuple(maximum(m, n) for m, n in zip(a, b, strict=True)) for a, b in axes)
    return replace(first, shape=shape)


def known(shape: Iterable[Iterable[Dim]]) -> Known:
    """A shape as whole numbers, None where it holds a decision."""
    axes: list[tuple[int, ...]] = []
    for axis in shape:
        factors = [n.constant for n in axis]
        if None in factors:
            return None
        axes.append(tuple([int(n) for n in factors if n is not None]))
    return tuple(axes)


def leading(param: Param) -> View:
    """The view that reads the first entries of every factor."""
    axes = [tuple([Slice(ZERO, n) for n in axis]) for axis in param.shape]
    return View(param.path, tuple(axes))
