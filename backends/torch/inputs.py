"""Inputs of networks: random ones to try them with, and how a manifest spells what they are.

[B, 3, 224, 224]          normal numbers
i64[B, 12] in 0..49       whole numbers of a range, both ends included
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Generator, Tensor

from spacelang.diagnostics import SpaceError, error
from spacelang.ir.dim import Dim, Symbol
from spacelang.ir.graph import Graph
from spacelang.ir.node import Node

BATCH = 2
_TEXT = re.compile(
    r"(?P<dtype>f32|i64)?\[(?P<sizes>[^\]]*)\](?: in (?P<low>-?\d{1,18})\.\.(?P<high>-?\d{1,18}))?"
)
_FREE = re.compile(r"[A-Za-z_]\w*")


@dataclass(frozen=True)
class Input:
    """The shape of an input, free sizes by name; for whole numbers the least and the largest."""

    sizes: tuple[int | str, ...]
    within: tuple[int, int] | None = None

    def __str__(self) -> str:
        shape = f"[{', '.join(map(str, self.sizes))}]"
        return shape if self.within is None else f"i64{shape} in {self.within[0]}..{self.within[1]}"

    def draw(self, generator: Generator, batch: int = BATCH) -> Tensor:
        """Random entries; free sizes are `batch`."""
        shape = [batch if isinstance(size, str) else size for size in self.sizes]
        if self.within is None:
            return torch.randn(shape, generator=generator)
        low, high = self.within
        return torch.randint(low, high + 1, shape, generator=generator)


def input_of(node: Node) -> Input:
    """What an input node of a graph reads."""
    sizes = tuple(str(s) if s.symbols else int(s.at({})) for s in node.types[0].shape)
    within = node.attributes.get("within")
    if not isinstance(within, tuple):
        return Input(sizes)
    low, high = (int(end.at({})) for end in within if isinstance(end, Dim))
    return Input(sizes, (low, high))


def parsed(text: str) -> Input | None:
    """An input as a manifest spells it, None for any other text."""
    found = _TEXT.fullmatch(text)
    if found is None or (found["dtype"] == "i64") != (found["low"] is not None):
        return None
    words = [word.strip() for word in found["sizes"].split(",")]
    if not all(_FREE.fullmatch(word) or (word.isdecimal() and len(word) < 7) for word in words):
        return None
    sizes = tuple(int(word) if word.isdecimal() else word for word in words)
    if found["low"] is None:
        return Input(sizes)
    low, high = int(found["low"]), int(found["high"])
    return Input(sizes, (low, high)) if low <= high else None


def example(graph: Graph, batch: int = BATCH, seed: int = 0) -> tuple[Tensor, ...]:
    """Random inputs of a network; free sizes are `batch`."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(input_of(node).draw(generator, batch) for node in graph.root.inputs)


def check(graph: Graph, inputs: Sequence[Tensor]) -> None:
    """SP303 for inputs of another shape or kind than a network reads, one size having one value."""
    nodes = graph.root.inputs
    if len(inputs) != len(nodes):
        raise SpaceError(error("SP303", f"{len(nodes)} inputs are read, not {len(inputs)}"))
    for node, tensor in zip(nodes, inputs, strict=True):
        type, name = node.types[0], node.label or "the input"
        fits = len(type.shape) == tensor.dim() and all(
            size.constant is None or size.constant == n
            for size, n in zip(type.shape, tensor.shape, strict=True)
        )
        if not fits:
            raise SpaceError(error("SP303", f"{name} is {list(tensor.shape)}, not {type}"))
        if (type.dtype == "i64") == tensor.is_floating_point():
            raise SpaceError(error("SP303", f"{name} is {tensor.dtype}, not {input_of(node)}"))
    _check_free(nodes, inputs)


def _check_free(nodes: Sequence[Node], inputs: Sequence[Tensor]) -> None:
    """SP303 where free sizes that several axes are made of would have to be several numbers."""
    values: dict[str, Fraction] = {}
    for node, tensor in zip(nodes, inputs, strict=True):
        for size, length in zip(node.types[0].shape, tensor.shape, strict=True):
            free = _multiple(size)
            if free is None:
                continue
            symbol, factor = free
            value = length / factor
            if values.setdefault(symbol.name, value) != value or value.denominator > 1:
                shape = f"{node.label or 'the input'} is {list(tensor.shape)}, not {node.types[0]}"
                known = "a whole number" if value.denominator > 1 else values[symbol.name]
                raise SpaceError(error("SP303", f"{shape} where {symbol} is {known}"))


def _multiple(size: Dim) -> tuple[Symbol, Fraction] | None:
    """The free size that a size is a multiple of, and by which factor."""
    if len(size.terms) != 1:
        return None
    ((monomial, factor),) = size.terms
    match monomial:
        case ((Symbol() as symbol, 1),) if symbol.free:
            return symbol, Fraction(factor)
        case _:
            return None
