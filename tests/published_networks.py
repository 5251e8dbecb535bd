"""The published networks among the shipped spaces: what each is, by the specifications' tables.

LISTS["s3.space:s3_t"]()      # the state dict of the published code, {name: shape}
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import published
from published import Genotype, Shapes

SWIN = {"t": (96, (2, 2, 6, 2)), "s": (96, (2, 2, 18, 2)), "b": (128, (2, 2, 18, 2))}
HEADS = {96: (3, 6, 12, 24), 128: (4, 8, 16, 32)}
EFFICIENT = {
    "m0": ((64, 128, 192), (1, 2, 3), (4, 4, 4), (5, 5, 5, 5)),
    "m1": ((128, 144, 192), (1, 2, 3), (2, 3, 3), (7, 5, 3, 3)),
    "m2": ((128, 192, 224), (1, 2, 3), (4, 3, 2), (7, 5, 3, 3)),
    "m3": ((128, 240, 320), (1, 2, 3), (4, 3, 4), (5, 5, 5, 5)),
    "m4": ((128, 256, 384), (1, 2, 3), (4, 4, 4), (7, 5, 3, 3)),
    "m5": ((192, 288, 384), (1, 3, 4), (3, 3, 4), (7, 5, 3, 3)),
}
TINY = {
    "5m": ((64, 128, 160, 320), (7, 14, 7)),
    "11m": ((64, 128, 256, 448), (7, 14, 7)),
    "21m": ((96, 192, 384, 576), (7, 14, 7)),
    "21m_384": ((96, 192, 384, 576), (12, 24, 12)),
    "21m_512": ((96, 192, 384, 576), (16, 32, 16)),
}
CREAM = {
    "14m": ([3], [3, 3], [3, 3], [3], [3]),
    "43m": ([3], [3, 1], [3, 1], [3, 3, 3], [3, 3]),
    "114m": ([3], [3, 3], [3, 3], [3, 3, 3], [3, 3]),
    "287m": ([3], [3, 3], [3, 1, 3], [3, 3, 3, 3], [3, 3, 3]),
    "481m": ([3, 4, 3, 1], [3, 2, 3, 0], [3, 3, 3, 1, 1], [3, 3, 3, 3], [3, 3, 3, 3]),
    "604m": ([3, 3, 2, 3, 3], [3, 2, 3, 2, 3], [3, 2, 3, 2, 3], [3, 3, 2, 2, 3, 3], [3, 3, 2, 3, 3, 3]),
}  # fmt: skip
CELLS = {
    "cdarts_cifar": ("s3.0 s3.1 / s3.1 s3.2 / s3.0 s3.1 / sk.0 sk.2", "s5.1 mp.0 / d5.2 sk.0 / s3.0 s5.1 / s3.0 d5.2"),
    "cdarts_imagenet_cell": ("s3.1 s3.0 / s3.0 s5.2 / s5.2 s3.1 / s3.1 s5.4", "s5.1 ap.0 / mp.1 d5.2 / s5.1 d5.2 / s3.3 d3.4"),
    "dartsv1": ("s3.1 s3.0 / sk.0 s3.1 / sk.0 s3.1 / s3.0 sk.2", "mp.0 mp.1 / sk.2 mp.0 / mp.0 sk.2 / sk.2 ap.0"),
    "dartsv2": ("s3.0 s3.1 / s3.0 s3.1 / s3.1 sk.0 / sk.0 d3.2", "mp.0 mp.1 / sk.2 mp.1 / mp.0 sk.2 / sk.2 mp.1"),
    "pcdarts_cifar": ("s3.1 sk.0 / s3.0 d3.1 / s5.0 s3.1 / ap.0 d3.1", "s5.1 mp.0 / s5.1 s5.2 / s3.0 s3.3 / s3.1 s3.2"),
    "pcdarts_imagenet": ("sk.1 s3.0 / s3.0 sk.1 / s3.1 s3.3 / s3.1 d5.4", "s3.0 sk.1 / d5.2 mp.1 / s3.2 s3.1 / s5.0 s3.3"),
    "pdarts": ("sk.0 d3.1 / sk.0 s3.1 / s3.1 s3.3 / s3.0 d5.4", "ap.0 s5.1 / s3.0 d5.2 / mp.0 d3.1 / d3.1 d5.3"),
}  # fmt: skip


def genotype(text: str) -> Genotype:
    """Operations and sources of each node, as the specification writes them."""
    edges = [[edge.split(".") for edge in node.split()] for node in text.split(" / ")]
    return [[(op, int(source)) for op, source in node] for node in edges]


def tables(sides: str, shape: tuple[int, ...], *names: str) -> Shapes:
    """iRPE's tables of a layer; those of values are transposed."""
    return {
        f"rpe_{side}.{name}": (shape[0], shape[2], shape[1]) if side == "v" else shape
        for side in sides
        for name in names or ("lookup_table_weight",)
    }


def swin(
    size: str,
    windows: Sequence[int] = (7,) * 4,
    every: Sequence[int] | None = None,
    image: int = 224,
) -> Shapes:
    width, depths = SWIN[size]
    return published.swin(width, depths, HEADS[width], windows, every, image)


def cdarts(cells: tuple[str, str], large: bool) -> Shapes:
    return published.cdarts(genotype(cells[0]), genotype(cells[1]), large)


CROSS = [f"rp_{x}.lookup_table_weight" for x in ("rows", "cols")]
LISTS: dict[str, Callable[[], Shapes]] = {
    "autoformer.space:autoformer_t": lambda: published.autoformer(256, 4, 14),
    "autoformer.space:autoformer_s": lambda: published.autoformer(448, 7, 14),
    "autoformer.space:autoformer_b": lambda: published.autoformer(640, 10, 16),
    "deit.space:deit_ti": lambda: published.deit(192, 3),
    "deit.space:deit_b_384": lambda: published.deit(768, 12, tokens=577),
    "irpe.space:deit_ti_product_k": lambda: published.deit(192, 3, tables("k", (1, 64, 50))),
    "irpe.space:deit_s_euc_k": lambda: published.deit(384, 6, tables("k", (1, 64, 82))),
    "irpe.space:deit_s_quant_k": lambda: published.deit(384, 6, tables("k", (1, 64, 134))),
    "irpe.space:deit_s_cross_k": lambda: published.deit(384, 6, tables("k", (1, 64, 82), *CROSS)),
    "irpe.space:deit_s_product_qkv": lambda: published.deit(384, 6, tables("qkv", (1, 64, 50))),
    "minivit.space:mini_deit_ti": lambda: published.mini_deit(192, 3),
    "minivit.space:mini_deit_s": lambda: published.mini_deit(384, 6),
    "minivit.space:mini_deit_b_384": lambda: published.mini_deit(768, 12, tokens=576),
    "minivit.space:mini_swin_t": lambda: swin("t", every=(2, 2, 6, 2)),
    "minivit.space:mini_swin_s": lambda: swin("s", every=(2, 2, 2, 2)),
    "minivit.space:mini_swin_b": lambda: swin("b", every=(2, 2, 2, 2)),
    "minivit.space:mini_swin_b_384": lambda: swin("b", (12,) * 4, (2, 2, 2, 2), 384),
    "swin.space:swin_t": lambda: swin("t"),
    "swin.space:swin_b_384": lambda: swin("b", (12,) * 4, image=384),
    "s3.space:s3_t": lambda: swin("t", (7, 7, 14, 7)),
    "s3.space:s3_s": lambda: swin("s", (14,) * 4),
    "s3.space:s3_b": lambda: published.swin(96, (2, 2, 30, 2), HEADS[96], (7, 7, 14, 7)),
    **{f"efficientvit.space:efficientvit_{n}": lambda a=a: published.efficientvit(*a) for n, a in EFFICIENT.items()},
    **{f"tinyvit.space:tinyvit_{n}": lambda a=a: published.tinyvit(*a) for n, a in TINY.items()},
    **{f"cream.space:cream_{n}": lambda a=a: published.cream_subnet(a) for n, a in CREAM.items()},
    "cream.space:cream": lambda: published.cream_supernet([4, 4, 5, 4, 4]),
    **{
        f"cdarts.space:{data}_{n}": lambda c=c, d=data: cdarts(c, d == "imagenet")
        for n, c in CELLS.items()
        for data in ("cifar10", "imagenet")
    },
}  # fmt: skip
