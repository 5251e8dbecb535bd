"""How every published system starts, as its specification's paragraph on initialisation says it.

A start is the rule that a weight has in the graph: nothing is drawn here, what a rule draws is
tested in `backends/test_initialize.py`. A weight is named by the op that reads it and its path; of
the rows of a system the first that fits counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from spacelang.ir.graph import Graph
from spacelang.loader import load

SPACES = Path(__file__).parent.parent / "spaces"

ZERO, ONE = "constant(0)", "constant(1)"
DRAWN = "trunc_normal(1/50)"
USUAL = "PyTorch's own"
SPOKEN = {"zeros": ZERO, "ones": ONE} | dict.fromkeys(
    ("linear", "linear_bias", "conv", "conv_bias"), USUAL
)

NORMS = {"*_norm *.weight": ONE, "*_norm *.bias": ZERO}
CONVOLUTIONS = {"conv *": USUAL}
TRANSFORMER = {"linear *.weight": DRAWN, "linear *.bias": ZERO} | NORMS | CONVOLUTIONS
SWIN = TRANSFORMER | {"parameter *.relative_position_bias_table": DRAWN}
TOKENS = {"parameter *_token": DRAWN, "parameter pos_embed": DRAWN}
CELLS = NORMS | CONVOLUTIONS | {"linear *": USUAL, "parameter alphas.*": "normal(1/1000)"}
MOBILE = NORMS | {
    "conv *.weight": "fan_out",
    "conv *.bias": ZERO,
    "linear *.weight": "uniform_out",
    "linear *.bias": ZERO,
}

STARTS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "autoformer": (
        "autoformer_t autoformer_s_subnet",
        TRANSFORMER | TOKENS | {"parameter *.embeddings_table_?": DRAWN},
    ),
    "s3": ("s3_start s3_t", SWIN),
    "swin": ("swin_t", SWIN),
    "cream": ("cream cream_14m", MOBILE),
    "cdarts": ("cifar10 imagenet cifar10_search", CELLS),
    "cdarts_imagenet": ("imagenet_search", CELLS),
    "deit": ("deit_ti deit_ti_distilled", TRANSFORMER | TOKENS),
    "irpe": (
        "deit_ti_product_k deit_s_product_qkv deit_s_euc_k deit_s_cross_k",
        TRANSFORMER | TOKENS | {"parameter *.lookup_table_weight": ZERO},
    ),
    "minivit": (
        "mini_deit_ti mini_swin_t",
        SWIN | {"parameter pos_embed": DRAWN, "parameter *.lookup_table_weight": ZERO},
    ),
    "tinyvit": (
        "tinyvit_5m tinyvit_contraction",
        {"batch_norm *.blocks*.conv3.bn.weight": ZERO}
        | TRANSFORMER
        | {"parameter *.attention_biases": ZERO},
    ),
    "efficientvit": (
        "efficientvit_m0 efficientvit_m0_passed efficientvit_search",
        {
            "batch_norm *.m.bn.weight": ZERO,
            "batch_norm *.pw2.bn.weight": ZERO,
            "batch_norm *.proj*.bn.weight": ZERO,
        }
        | TRANSFORMER
        | {"parameter *.attention_biases": ZERO},
    ),
    "mobilenetv3": ("mobilenetv3_large mobilenetv3_search", MOBILE),
}
"""Of a file: its spaces, and how their weights start."""


def test_every_published_system_is_here() -> None:
    small = {"quickstart", "small_cells", "small_paths", "small_ranges"}  # of no publication
    assert STARTS.keys() == {path.stem for path in SPACES.glob("*.space")} - small


@pytest.mark.parametrize("system", STARTS)
def test_starts_as_published(system: str) -> None:
    names, rows = STARTS[system]
    wrong, used = dict[str, str](), set[str]()
    for name in names.split():
        for weight, start in starts(load(SPACES / f"{system}.space:{name}")).items():
            row = next((row for row in rows if fnmatchcase(weight, row)), None)
            if row is None or rows[row] != start:
                wrong[weight] = start
            elif row is not None:
                used.add(row)
    assert wrong == {}
    assert used == rows.keys()


def starts(graph: Graph) -> dict[str, str]:
    """`OP PATH` of every weight -> how it starts."""
    found: dict[str, str] = {}
    for place in graph.places():
        for view in place.node.params.values():
            path = place.instance.param(view.param)
            storage = graph.storages[path]
            if storage.param.role == "weight":
                start = str(storage.param.init)
                found[f"{place.node.op} {path}"] = SPOKEN.get(start, start)
    return found
