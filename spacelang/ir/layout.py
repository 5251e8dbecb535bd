"""How a foreign tensor of a dialect is laid out, for a storage (SP606 where it does not fit).

order_of(storage, layout)    # our factors of the first axis in the foreign order: (1, 0, 2)
shape_of(storage, layout)    # the foreign sizes
"""

from __future__ import annotations

from math import prod

from spacelang.diagnostics import SpaceError, error
from spacelang.ir.dialect import Layout
from spacelang.ir.dim import Dim, symbol_of
from spacelang.ir.storage import Storage, merged


def shape_of(storage: Storage, layout: Layout) -> tuple[int, ...]:
    """The foreign sizes of `in shape(..)`."""
    wanted = tuple(int(size.at({})) for size in layout.shape)
    for sizes in map(merged, storage.tensors):
        if prod(wanted) != prod(sizes):
            found = f"{storage.path} is {list(sizes)}, which is never {list(wanted)}"
            raise SpaceError(error("SP606", found, storage.param.span))
    return wanted


def order_of(storage: Storage, layout: Layout) -> tuple[int, ...]:
    """Our factors of the first axis in the foreign order.

    A number is the constant factor of that value, a name the factor of that size; names of sizes
    that have become numbers take what is left, in order.
    """
    factors = list(storage.param.shape[0]) if storage.shape else []
    left = dict(enumerate(factors))
    taken: dict[int, int] = {}
    for place, word in enumerate(layout.order):
        for index, size in left.items():
            wanted = size.constant == int(word) if word.isdecimal() else _named(size) == word
            if wanted:
                taken[place] = index
                del left[index]
                break
    for place, word in enumerate(layout.order):
        if place not in taken and left and not word.isdecimal():
            taken[place] = min(left)
            del left[taken[place]]
    if left or len(taken) != len(layout.order):
        shown = " * ".join(map(str, factors))
        raise SpaceError(
            error("SP606", f"order({', '.join(layout.order)}) does not fit {storage.path}").note(
                f"its first axis is {shown}"
            )
        )
    return tuple(taken[place] for place in range(len(layout.order)))


def _named(size: Dim) -> str:
    """The last label of a size that is a decision or an argument: `%heads` is `heads`."""
    symbol = symbol_of(size)
    return "" if symbol is None else symbol.name.rsplit(".", 1)[-1].removeprefix("%")
