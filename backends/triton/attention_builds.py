"""Variants of `attention` that the published networks launch, for ahead-of-time compilation.

plain         heads 64 wide without terms (DeiT)
swin          windows of 7 x 7, heads 32 wide, one table of offsets, regions (Swin, Mini-Swin)
tinyvit       the same without regions, of 14 x 14 (TinyViT)
tinyvit_7     of 7 x 7, whose index is of bytes
quickstart    heads 16 wide over maps of more than 128 offsets (the quickstart)
efficient_V   heads 16 wide whose values are V wide, offsets (EfficientViT without its cascade)
autoformer    heads 64 wide, two tables of 30 on keys and two on values
irpe_k        DeiT with 50 product buckets on keys
irpe_qk       the same on queries and keys
irpe_qkv      on queries, keys and values
irpe_euc_k    82 buckets on keys
irpe_quant_k  the 134 buckets of the quantised method
irpe_cross_k  two times 82, the most
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from spacelang.backends.triton import attention_kernels as kernels
from spacelang.backends.triton.attention import SCATTERED, TILE, inside, options
from spacelang.backends.triton.resources import Build

_NONE = {"BUCKETS": 16, "TABLES": 0, "ROWS": 0, "COLUMNS": 0, "MASSES": 0, "MASKED": 0}
_ISOTROPIC = {**_NONE, "WIDTH": 64, "VALUE": 64, "BUCKETS": 64}
_WINDOWS = {**_NONE, "WIDTH": 32, "VALUE": 32, "TABLES": 1}
NETWORKS: Mapping[str, Mapping[str, int]] = {
    "plain": {**_ISOTROPIC, "BUCKETS": 16},
    "swin": {**_WINDOWS, "MASKED": 1},
    "tinyvit": _WINDOWS,
    "tinyvit_7": _WINDOWS,
    "quickstart": {**_WINDOWS, "WIDTH": 16, "VALUE": 16},
    **{f"efficient_{v}": {**_WINDOWS, "WIDTH": 16, "VALUE": v} for v in (16, 32, 64)},
    "autoformer": {**_ISOTROPIC, "ROWS": 2, "MASSES": 2},
    "irpe_k": {**_ISOTROPIC, "ROWS": 1},
    "irpe_qk": {**_ISOTROPIC, "ROWS": 1, "COLUMNS": 1},
    "irpe_qkv": {**_ISOTROPIC, "ROWS": 1, "COLUMNS": 1, "MASSES": 1},
    "irpe_euc_k": {**_ISOTROPIC, "ROWS": 1, "BUCKETS": 128},
    "irpe_quant_k": {**_ISOTROPIC, "ROWS": 1, "BUCKETS": 256},
    "irpe_cross_k": {**_ISOTROPIC, "ROWS": 2, "BUCKETS": 256},
}
WIDE = {"swin": "offsets", "tinyvit": "offsets", "quickstart": "offsets", "irpe_quant_k": "query"}
"""Whose index is of two bytes: its table has more than 128 entries."""
LAUNCHED = (
    *((network, "bf16" if network.startswith("tinyvit") else "fp16") for network in NETWORKS),
    ("autoformer", "fp32"),
)
SINGLE = ("swin", "tinyvit", "quickstart", "irpe_quant_k")
"""Whose forward is compiled in float32, too: tiles of 16, exact products, and, of the last, lookups
that are read from memory."""
KINDS = {"fp16": torch.float16, "fp32": torch.float32, "bf16": torch.bfloat16}
TYPES: Mapping[str, str] = (
    dict.fromkeys((*kernels.INTEGERS, *kernels.OWN), "i32")
    | {"scale": "fp32"}
    | dict.fromkeys(("table", "key_table", "query_table", "value_table"), "*fp32")
    | dict.fromkeys(("lse", "delta", "partial"), "*fp32")
    | {"regions": "*i16"}
)
SCATTER = {"summed": "*fp32", "table_grad": "*fp32"}
INDEXES = {
    "offsets": ("TABLES", "table_index"), "query": ("ROWS", "row_index"),
    "key": ("COLUMNS", "column_index"), "values": ("MASSES", "mass_index"),
}  # fmt: skip
"""Kind of a term -> how many a network has, and the argument that its index is."""


def _build(network: str, kernel: str, kind: str) -> Build:
    """A kernel as a network launches it; all that is in no table is of the kind of q."""
    function = kernels.KERNELS[kernel]
    constants = {**NETWORKS[network], "BLOCK": TILE[KINDS[kind]], "ALIGNED": 8}
    if kernel == "forward":
        constants["INSIDE"] = int(inside(constants, KINDS[kind]))
    arguments = [name for name in function.arg_names if name not in constants]
    bytes_of = {k: 2 if WIDE.get(network) == k else 1 for k in INDEXES}
    known = TYPES | {name: f"*i{8 * bytes_of[k]}" for k, (_, name) in INDEXES.items()}
    types = {name: known.get(name, f"*{kind}") for name in arguments}
    told = {f"{k} index": bytes_of[k] for k, (count, _) in INDEXES.items() if constants[count]}
    name = f"attention.{kernel}[{network}, {kind}]"
    cuda, hip = (options(kernel, KINDS[kind], hip) for hip in (False, True))
    return Build(name, function, types, constants, cuda, hip, 16, told)


def _builds() -> tuple[Build, ...]:
    found = [
        _build(network, kernel, kind)
        for network, kind in LAUNCHED
        for kernel in kernels.KERNELS
        if kernel != "offsets" or NETWORKS[network]["TABLES"]
    ]
    found += [_build(network, "forward", "fp32") for network in SINGLE]
    types = SCATTER | dict.fromkeys(("N", "C", "COUNT"), "i32")
    for kind, told in (("i8", 1), ("i16", 2)):
        name, own = f"attention.scatter[{kind}]", {**types, "table_index": f"*{kind}"}
        block = {"BLOCK": SCATTERED}
        found.append(Build(name, kernels.scatter_kernel, own, block, told={"offsets index": told}))
    return tuple(found)


BUILDS = _builds()
