"""Weights passed from one supernet to the next: what both keep, view by view.

    count = inherit(new_model, old_model)          # elements that were copied

A storage keeps its candidates as leading slices of its factors, so the overlap of two is the
smaller extent of each factor. Where slices begin elsewhere (`centre`, a table) entries of two sizes
do not mean the same, and only a storage of the same shape is taken over. Tensors of a bank go by
the values that they belong to.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from spacelang.backends.torch.supernet import Supernet
from spacelang.ir.storage import Shape, Storage, bank_position, picks
from spacelang.passes.narrow import displaced


def inherit(new: Supernet, old: Supernet) -> int:
    """Copy into a supernet what its storages have in common with those of another."""
    apart = displaced(new.graph) | displaced(old.graph)
    copied = 0
    for path, storage in new.graph.storages.items():
        before = old.graph.storages.get(path)
        if before is None:
            continue
        for position, source in _pairs(storage, before):
            shape, other = storage.tensors[position], before.tensors[source]
            if _ranks(shape) != _ranks(other) or (path in apart and shape != other):
                continue
            copied += _copy(new, old, path, (position, source), (shape, other))
    return copied


def _pairs(new: Storage, old: Storage) -> Iterator[tuple[int, int]]:
    """Tensors of two storages that belong to the same values."""
    known = {symbol.name: set(symbol.values) for symbol in old.bank}
    if {symbol.name for symbol in new.bank} != known.keys():
        return
    for position in range(len(new.tensors)):
        values = picks(new.bank, position)
        if all(value in known[name] for name, value in values.items()):
            yield position, bank_position(old.bank, values)


def _copy(
    new: Supernet,
    old: Supernet,
    path: str,
    positions: tuple[int, int],
    shapes: tuple[Shape, Shape],
) -> int:
    extents = [[size for axis in shape for size in axis] for shape in shapes]
    common = tuple(slice(0, min(sizes)) for sizes in zip(*extents, strict=True))
    into = new.stored_tensor(path, positions[0])
    source = old.stored_tensor(path, positions[1])
    with torch.no_grad():
        part = source.reshape(extents[1])[common]
        into.view(extents[0])[common] = part.to(into.device)
    return part.numel()


def _ranks(shape: Shape) -> tuple[int, ...]:
    return tuple(map(len, shape))
