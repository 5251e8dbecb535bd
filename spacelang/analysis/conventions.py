"""Published ways of counting multiply-accumulates, by name.

    counted(graph, values, "fvcore")

What this project calls `macs` is the convention `operators`. Publications count with tools of their
own that add norms and pools, leave ops out, or hold slips; a convention gives the figure that such
a counter prints for the same network, slips included, so that published figures can be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from fractions import Fraction
from typing import TYPE_CHECKING

from spacelang.analysis.queries import model
from spacelang.diagnostics import SpaceError, error
from spacelang.ir.dim import Dim, Value

if TYPE_CHECKING:
    from spacelang.ir.graph import Graph, Place
    from spacelang.ir.node import TensorType

Values = Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Counted:
    """An op of one architecture: its place, its multiply-accumulates, its first operand and its
    first result as known sizes."""

    place: Place
    macs: int
    read: tuple[int, ...]
    made: tuple[int, ...]

    @property
    def op(self) -> str:
        return self.place.node.op

    @property
    def path(self) -> str:
        return self.place.path

    @property
    def pools(self) -> bool:
        """Whether it is the mean over both sides of a map [B, C, H, W] of more than one entry."""
        if self.op != "mean" or len(self.read) != 4 or self.read[2] * self.read[3] == 1:
            return False
        axes = self.place.node.attributes["axes"]
        assert isinstance(axes, tuple)
        return {int(axis.at({})) % 4 for axis in axes if isinstance(axis, Dim)} == {2, 3}

    @property
    def keeps(self) -> bool:
        return self.place.node.attributes.get("keep") is True


Extra = Callable[[Counted], int]


@dataclass(frozen=True, slots=True)
class Convention:
    """How to count.

    about    what is counted beside or instead of `operators`, and who counts so
    ops      the ops whose multiply-accumulates count; all where empty
    units    op -> units for each element of its result
    extra    further units of an op
    whole    the figure of a network as a whole, instead of all the above
    """

    about: str
    ops: frozenset[str] = frozenset()
    units: Mapping[str, int] = field(default_factory=dict[str, int])
    extra: Extra | None = None
    whole: Callable[[list[Counted]], int] | None = None

    def count(self, ops: list[Counted]) -> int:
        if self.whole is not None:
            return self.whole(ops)
        total = 0
        for one in ops:
            if not self.ops or one.op in self.ops:
                total += one.macs
            total += self.units.get(one.op, 0) * _product(one.made)
            if self.extra is not None:
                total += self.extra(one)
        return total


def counted(graph: Graph, values: Values, name: str) -> int:
    """The multiply-accumulates of an architecture by a convention, at batch 1.

    SP604 for an unknown name, SP601 where the convention is a formula of another kind of network.
    """
    return named(name).count(list(_ops(graph, values)))


def named(name: str) -> Convention:
    """The convention of a name (SP604)."""
    if name in CONVENTIONS:
        return CONVENTIONS[name]
    rows = [f"{known}: {convention.about}" for known, convention in CONVENTIONS.items()]
    found = error("SP604", f"no convention is called {name}").note(*rows)
    near = get_close_matches(name, CONVENTIONS, 1)
    raise SpaceError(found.hint(f"did you mean {near[0]}?") if near else found)


def _ops(graph: Graph, values: Values) -> Iterator[Counted]:
    """The ops of an architecture."""
    costs = model(graph)
    for place in graph.places(inference=True):
        node = place.node
        if not node.types or not all(guard.at(values) for guard in place.guards):
            continue
        operands = node.operands[:1]
        by_id = place.instance.block.all_by_id
        read = tuple(by_id[v.node].types[v.index] for v in operands)
        made = _sizes(place, node.types[0], values)
        work = int(costs.of_node(place)[0].at(values))
        yield Counted(place, work, _sizes(place, read[0], values) if read else (), made)


def _sizes(place: Place, of: TensorType, values: Values) -> tuple[int, ...]:
    """The sizes of a type in an architecture; a free one is a batch of one."""
    found: list[int] = []
    for size in of.shape:
        here = place.instance.absolute(size)
        free = {s.name: 1 for s in here.symbols if s.free and not s.rate}
        found.append(int((here.substitute(free) if free else here).at(values)))
    return tuple(found)


def _product(sizes: tuple[int, ...]) -> int:
    total = 1
    for size in sizes:
        total *= size
    return total


def _pool_reads(one: Counted) -> int:
    return _product(one.read) if one.pools else 0


def _last_pool_reads(one: Counted) -> int:
    return 0 if one.keeps else _pool_reads(one)


def _thop_pools(one: Counted) -> int:
    """Additions and one division for each mean of a window."""
    if one.op == "avg_pool":
        return _product(one.made)
    return _product(one.read) + _product(one.made) if one.pools else 0


def _swin(ops: list[Counted]) -> int:
    """Norms are one unit an element, but for the last: classes are read from width * grid / 16;
    a merging is taken to double the width."""
    stem = next((one for one in ops if one.op == "conv"), None)
    last = next((one for one in ops if one.op == "layer_norm" and one.path == "norm"), None)
    merges = any(one.path.endswith("downsample.reduction") for one in ops)
    if stem is None or last is None or not merges:
        raise _unfit("swin", "a stem, downsample.reduction between stages, and a last norm")
    total = 0
    for one in ops:
        if one is last:
            total += one.made[-1] * stem.made[-2] * stem.made[-1] // 16
        elif one.op == "layer_norm":
            total += _product(one.made)
        elif one.path.endswith("downsample.reduction"):
            tokens = _product(one.made[:-1])
            total += tokens * 8 * (_product(one.read) // tokens // 4) ** 2
        else:
            total += one.macs
    return total


def _autoformer(ops: list[Counted]) -> int:
    """`get_complexity(196)`: it counts two tokens too many, the head at every token, and relative
    positions as 28 n^2 a layer."""
    stem = next((one for one in ops if one.op == "conv"), None)
    qkv = [one for one in ops if one.path.endswith("attn.qkv")]
    hidden = [one for one in ops if one.path.endswith(".fc1")]
    head = next((one for one in ops if one.path == "head"), None)
    if stem is None or head is None or not qkv or len(qkv) != len(hidden):
        raise _unfit("autoformer", "layers of attn.qkv and fc1, and a head")
    width, patches = stem.made[1], stem.made[2] * stem.made[3]
    n = patches + 2
    total = Fraction(width + stem.macs) + Fraction((patches + 1) * width, 2)
    for attention, mlp in zip(qkv, hidden, strict=True):
        q, f = _product(attention.made[2:]) // 3, mlp.made[-1]
        total += 2 * n * width + 4 * n * q * width + 2 * n * n * q + 28 * n * n
        total += Fraction(n * n + n * q, 2) + 2 * n * width * f
    return int(total + head.made[-1] * (patches + 1) * width)


def _unfit(name: str, needed: str) -> SpaceError:
    return SpaceError(
        error("SP601", f"the convention {name} does not fit").note(
            f"it is a formula of networks with {needed}"
        )
    )


PRODUCTS = frozenset({"conv", "conv_transpose", "linear"})
CONVENTIONS: Mapping[str, Convention] = {
    "operators": Convention(
        "convolutions, linear layers and products of tensors: `macs` everywhere else"
    ),
    "convolutions": Convention(
        "convolutions alone, without the classifier (Cream, CDARTS)",
        ops=frozenset({"conv", "conv_transpose"}),
    ),
    "layers": Convention(
        "convolutions and linear layers, without the products of attention", ops=PRODUCTS
    ),
    "fvcore": Convention(
        "operators, 2 an element of batch norms and 5 of layer norms: fvcore's table "
        "(MiniViT, TinyViT, iRPE)",
        units={"batch_norm": 2, "layer_norm": 5},
    ),
    "cream": Convention(
        "fvcore, and 1 an element that a pool of a map reads: the labels of Cream's networks",
        units={"batch_norm": 2, "layer_norm": 5},
        extra=_pool_reads,
    ),
    "efficientvit": Convention(
        "fvcore, and 1 an element that the last pool reads, none for squeeze-and-excite",
        units={"batch_norm": 2, "layer_norm": 5},
        extra=_last_pool_reads,
    ),
    "thop": Convention(
        "operators, 4 an element of batch norms, and the additions and divisions of mean pools: "
        "thop 0.1.1 (Cream's children, CDARTS)",
        units={"batch_norm": 4},
        extra=_thop_pools,
    ),
    "swin": Convention(
        "the `flops()` of Swin, S3 and Mini-Swin: operators and 1 an element of layer norms; the "
        "last is counted as width * grid / 16, a merging as if it doubled the width",
        whole=_swin,
    ),
    "autoformer": Convention(
        "AutoFormer's `get_complexity(196)`: two tokens too many, the head at every token, "
        "relative positions as 28 n^2 a layer, half a unit an element of softmax and positions",
        whole=_autoformer,
    ),
}

__all__ = ["CONVENTIONS", "Convention", "counted", "named"]
