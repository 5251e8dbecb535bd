"""Every graph of the project as a `.space` text that loads to the same hash.

All spaces, instances and subnets of the shipped files; one architecture of each searchable space;
each space after each built-in pass that fits it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from small_spaces import CONVOLUTIONS, SHARED, VIT
from small_spaces import graph as small

from spacelang.diagnostics import Source, SpaceError
from spacelang.ir.graph import Graph
from spacelang.loader import load
from spacelang.passes.pipeline import run
from spacelang.passes.specialize import specialize
from spacelang.syntax import tree
from spacelang.syntax.format import format
from spacelang.syntax.parse import parse
from spacelang.syntax.write import write_space

SPACES = Path(__file__).parent.parent / "spaces"
SEARCHED = [
    "autoformer.space:autoformer_t", "s3.space:s3_start", "cream.space:cream",
    "cdarts.space:cifar10", "tinyvit.space:tinyvit_contraction",
    "efficientvit.space:efficientvit_search", "quickstart.space:quickstart",
]  # fmt: skip
HOSTS = [*SEARCHED, "deit.space:deit_ti", "swin.space:swin_t", "minivit.space:mini_deit_ti",
         "minivit.space:mini_swin_t", "irpe.space:deit_s_product_qkv"]  # fmt: skip
PASSES = {
    "irpe": "autoformer_t s3_start tinyvit_contraction efficientvit_search quickstart deit_ti "
    "swin_t mini_swin_t",
    "irpe{mode=bias}": "autoformer_t s3_start tinyvit_contraction efficientvit_search quickstart "
    "deit_ti swin_t mini_deit_ti mini_swin_t deit_s_product_qkv",
    "bucketise": "autoformer_t mini_deit_ti deit_s_product_qkv",
    "simplify": "autoformer_t s3_start cream cifar10 tinyvit_contraction efficientvit_search "
    "quickstart deit_ti swin_t mini_deit_ti mini_swin_t deit_s_product_qkv",
    "inline": "autoformer_t s3_start cream cifar10 tinyvit_contraction efficientvit_search "
    "quickstart deit_ti swin_t mini_deit_ti mini_swin_t deit_s_product_qkv",
    "entangle": "autoformer_t s3_start tinyvit_contraction efficientvit_search quickstart",
    "entangle{path=blocks[_][_].op}": "cream",
    "relax{op=softmax}": "cream cifar10",
    "relax{op=plain,inputs=sigmoid}": "cifar10",
    "relax{depth=softmax}": "autoformer_t quickstart",
    "multiplex{path=encoder}": "autoformer_t quickstart",
    "multiplex{path=blocks,own=[norm1]}": "deit_ti deit_s_product_qkv",
    "multiplex{path=layers[_].blocks,own=[norm1]}": "s3_start swin_t",
}
"""Passes, each with the spaces of `HOSTS` that it fits."""
LARGE = {"s3_start", "cream", "cifar10", "efficientvit_search", "mini_swin_t", "swin_t"}
"""Spaces that take a second or more after each pass: in the long runs, but for some passes."""
QUICK = {"relax{op=softmax}", "entangle{path=blocks[_][_].op}", "irpe{mode=bias}",
         "multiplex{path=layers[_].blocks,own=[norm1]}"}  # fmt: skip
SLOW = {"combinations/cream_kernels.space:cream_kernels"}
"""A hundred ties, each made by itself: half a minute."""
INSERTED = """
use {file}
block mix(a: [.., N, M]) {{ return (a * 2 + layer_norm(a) as norm) as mixed }}
space host from {name} {{ rewrite {{ insert(mix, after: {path}, name: "mixed") }} }}
"""


def addresses() -> Iterator[object]:
    """Every space without parameters that are to be given; of each file, the first three always."""
    files: Counter[str] = Counter()
    for address in found():
        file = address.partition(":")[0]
        files[file] += 1
        yield pytest.param(
            address, marks=[pytest.mark.soak] if files[file] > 3 or address in SLOW else []
        )


def found() -> Iterator[str]:
    for path in sorted(SPACES.rglob("*.space")):
        for item in parse(Source(str(path), path.read_text())).items:
            if isinstance(item, tree.SpaceOf | tree.Instance | tree.Subnet) and not needed(item):
                yield f"{path.relative_to(SPACES)}:{item.name}"


def needed(item: tree.SpaceOf | tree.Instance | tree.Subnet) -> bool:
    """Whether a space has parameters that only an instance gives."""
    return not isinstance(item, tree.Subnet) and any(p.default is None for p in item.params)


@cache
def shipped(address: str, **options: object) -> Graph:
    return load(SPACES / address, **options)


def written(graph: Graph) -> str:
    """The text of a graph, seen to load to the same hash and to be laid out as `fmt` does."""
    text = write_space(graph)
    again = load(Source("again.space", text))
    assert again.hash == graph.hash
    assert format(parse(Source("again.space", text))) == text
    return text


@pytest.mark.parametrize("address", [*addresses()])
def test_each_shipped_space(address: str) -> None:
    written(shipped(address))


@pytest.mark.parametrize("address", SEARCHED)
@pytest.mark.parametrize("which", ["largest", "smallest", "drawn"])
def test_an_architecture_of_each_searchable_space(address: str, which: str) -> None:
    graph = shipped(address)
    if which == "drawn":
        assignment = graph.sample(n=1, seed=4)[0]
    else:
        assignment = graph.decisions.extreme("largest" if which == "largest" else "smallest")
    written(specialize(graph, assignment))


def pairs(fits: bool) -> Iterator[object]:
    for host in HOSTS:
        name = host.partition(":")[2]
        for steps, spaces in PASSES.items():
            if (name in spaces.split()) == fits:
                slow = name in LARGE and fits and steps not in QUICK
                slow = slow or (name == "cream" and steps.startswith("entangle{"))
                yield pytest.param(host, steps, marks=[pytest.mark.soak] if slow else [])


@pytest.mark.parametrize(("host", "steps"), [*pairs(fits=True)])
def test_each_space_after_each_pass(host: str, steps: str) -> None:
    mixed = steps.startswith("relax{op") and host == "cdarts.space:cifar10"
    written(run(shipped(host, empty=True) if mixed else shipped(host), steps))


@pytest.mark.soak
@pytest.mark.parametrize(("host", "steps"), [*pairs(fits=False)])
def test_passes_that_do_not_fit(host: str, steps: str) -> None:
    """So that the table of those that fit misses none."""
    with pytest.raises(SpaceError):
        run(shipped(host), steps)


@pytest.mark.parametrize(
    ("file", "name", "path"),
    [
        ("deit", "deit_ti", "blocks[_].attn.softmax"),
        ("autoformer", "autoformer_t", "encoder[_].attn.softmax"),
        ("s3", "s3_t", "layers[_].blocks[_].attn.softmax"),
    ],
)
def test_inserted_blocks(file: str, name: str, path: str) -> None:
    text = INSERTED.format(file=file, name=name, path=path)
    written(load(Source(str(SPACES / "inserted.space"), text)))


@pytest.mark.parametrize("steps", ["cascade(blocks[_].attn)", "cascade(blocks[_].attn, parts: 3)"])
def test_cascaded_heads(steps: str) -> None:
    text = f"use deit\nspace host from deit_ti {{ rewrite {{ {steps} }} }}"
    written(load(Source(str(SPACES / "cascaded.space"), text)))


@pytest.mark.parametrize("text", [VIT, CONVOLUTIONS, SHARED], ids=["vit", "convolutions", "shared"])
@pytest.mark.parametrize("steps", ["", "inline", "simplify", "inline, simplify"])
def test_small_spaces(text: str, steps: str) -> None:
    graph = run(small(text), steps) if steps else small(text)
    written(graph)
    for assignment in graph.sample(n=3, seed=1):
        written(specialize(graph, assignment))


@pytest.mark.parametrize("seed", [2, pytest.param(3, marks=pytest.mark.soak)])
def test_subnets_of_alternatives_that_share(seed: int) -> None:
    """Layers tied in slices of other sizes, where what the largest of them needs is gone."""
    graph = shipped("combinations/cream_kernels.space:cream_kernels")
    written(specialize(graph, graph.sample(n=1, seed=seed)[0]))


def test_a_small_cdarts_inlined() -> None:
    """Picks, paths and cells without calls."""
    text = """use cdarts
    space two = darts(4, stem: 4, cells: [1, 1, 1], image: 32, classes: 3)"""
    graph = run(load(Source(str(SPACES / "two.space"), text)), "inline")
    found = written(graph)
    assert 'choose normal.dag[0][0].op in 1 of {"max_pool", ' in found
    assert "[reduction_inputs_0[0]]" in found
