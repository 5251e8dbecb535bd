"""Variants of `mixed_attention` that the published networks launch, for ahead-of-time compilation.

mini_deit_ti    up to 8 heads of 64, 49 product buckets on keys: Mini-DeiT-Ti and -S
mini_deit_b     12 heads of 64, the same
mini_swin_6     up to 8 heads of 32, offsets and regions: the first two stages of Mini-Swin
mini_swin_12    12 or 16 heads: the third stage
mini_swin_24    24 or 32 heads: the last, which has one window and no regions
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from spacelang.backends.triton import mixed_attention_tiles as tiles
from spacelang.backends.triton.mixed_attention import BLOCK, options, owned
from spacelang.backends.triton.mixed_attention_kernels import KERNELS
from spacelang.backends.triton.resources import Build

_DEIT = {"WIDTH": 64, "VALUE": 64, "BUCKETS": 64, "TABLES": 0, "ROWS": 1, "MASKED": 0}
_SWIN = {"WIDTH": 32, "VALUE": 32, "BUCKETS": 16, "TABLES": 1, "ROWS": 0, "MASKED": 1}
NETWORKS: Mapping[str, Mapping[str, int]] = {
    "mini_deit_ti": {**_DEIT, "HEADS": 8},
    "mini_deit_b": {**_DEIT, "HEADS": 16},
    "mini_swin_6": {**_SWIN, "HEADS": 8},
    "mini_swin_12": {**_SWIN, "HEADS": 16},
    "mini_swin_24": {**_SWIN, "HEADS": 32, "MASKED": 0},
}
LAUNCHED = (
    ("mini_deit_b", "fp16"), ("mini_swin_6", "fp16"), ("mini_swin_12", "fp16"),
    ("mini_swin_24", "fp16"), ("mini_deit_ti", "fp32"), ("mini_deit_ti", "bf16"),
)  # fmt: skip
KINDS = {"fp16": torch.float16, "fp32": torch.float32, "bf16": torch.bfloat16}
TYPES: Mapping[str, str] = (
    dict.fromkeys((*tiles.INTEGERS, *tiles.OWN), "i32")
    | {"scale": "fp32"}
    | dict.fromkeys(("table", "key_table", "rows", "lse", "delta", "partial"), "*fp32")
    | dict.fromkeys(tiles.WEIGHTS, "*fp32")
    | dict.fromkeys(("before_grad", "after_grad", "after_bias_grad"), "*fp32")
    | {"row_index": "*i8", "table_index": "*i16", "regions": "*i16"}
)


def _build(network: str, kernel: str, kind: str) -> Build:
    """A kernel as a network launches it; all that is in no table is of the kind of q."""
    function = KERNELS[kernel]
    chosen = NETWORKS[network]
    inside = kernel == "forward" and chosen["ROWS"] > 0
    constants = {
        **chosen, "OWN": owned(chosen["HEADS"], inside), "BLOCK": BLOCK, "ALIGNED": 8,
        **({"INSIDE": int(inside)} if kernel == "forward" else {}),
    }  # fmt: skip
    cuda, hip = (options(KINDS[kind], hip) for hip in (False, True))
    arguments = [name for name in function.arg_names if name not in constants and name not in cuda]
    types = {name: TYPES.get(name, f"*{kind}") for name in arguments}
    name = f"mixed_attention.{kernel}[{network}, {kind}]"
    return Build(name, function, types, constants, cuda, hip, 16)


BUILDS = tuple(
    _build(network, kernel, kind)
    for network, kind in LAUNCHED
    for kernel in KERNELS
    if kernel != "rows" or NETWORKS[network]["ROWS"]
)
