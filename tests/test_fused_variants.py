"""The bound of compiled variants: at most eight of each kernel, over every shipped space.

Each of them is compiled ahead of time in one type at least, so that its registers are in the golden
table.
"""

from __future__ import annotations

import re

import pytest
from command import SHIPPED

from spacelang import load
from spacelang.backends.triton.resources import builds_of
from spacelang.diagnostics import SpaceError
from spacelang.loader import open_address
from spacelang.passes.fuse import for_kernels
from spacelang.passes.fused_cost import all_variants

BOUND = 8  # of one type and target
SPACE = re.compile(r"^space (\w+)", re.MULTILINE)
TOYS = ("small_cells", "small_paths", "small_ranges")  # which nobody publishes
MOST = {  # where most are, by file
    "autoformer": {"attention": 1, "mlp": 3},
    "cream": {"depthwise": 3, "squeeze": 3},
    "efficientvit": {"cascade": 3, "depthwise": 3, "squeeze": 1, "attention": 3},
    "minivit": {"mixed_attention": 3, "mlp": 2},
    "mobilenetv3": {"depthwise": 6, "squeeze": 6},
    "tinyvit": {"attention": 2, "depthwise": 2, "mlp": 2},
}


@pytest.mark.parametrize("name", SHIPPED)
def test_a_whole_space_has_few_variants(name: str) -> None:
    """The means of squeeze-excite are a kernel of their own. What is launched is compiled in some type."""
    source, _ = open_address(f"{name}.space")
    most: dict[str, int] = {}
    for space in SPACE.findall(source.text):
        try:
            graph = load(f"{name}.space:{space}")
        except SpaceError as failed:
            if failed.diagnostics[0].code != "SP204":
                raise
            continue  # it needs parameters: its instances are counted
        for kernel, variants in all_variants(for_kernels(graph).graph).items():
            most[kernel] = max(len(variants), most.get(kernel, 0))
            for variant in map(dict, variants):
                assert builds_of(kernel, variant) or name in TOYS, (space, kernel, variant)
    assert max(most.values(), default=0) <= BOUND
    assert most == MOST.get(name, most)
