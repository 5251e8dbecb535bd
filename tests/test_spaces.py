"""Every shipped space: canonical text, legal, and exact to the last parameter.

`golden/figures.json`: params is the number of elements of the network, supernet_params of the
storage, size the number of architectures, macs multiply-accumulates at batch 1 of the graph as
written. None of them may ever be loosened.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spacelang.analysis.queries import counter
from spacelang.diagnostics import Report
from spacelang.ir.dim import Dim
from spacelang.ir.param import Slice
from spacelang.ir.verify import verify
from spacelang.loader import load, open_address
from spacelang.syntax import tree
from spacelang.syntax.format import format
from spacelang.syntax.parse import parse

SPACES = Path(__file__).parent.parent / "spaces"
FILES = sorted(p.relative_to(SPACES).as_posix() for p in SPACES.rglob("*.space"))
FIGURES = json.loads((Path(__file__).parent / "golden" / "figures.json").read_text())
BANDS = {
    ("autoformer.space:autoformer_t", "params in 5M..6M"): 5_164_334_576,
    ("cream.space:cream", "macs in 300M..400M"): 4_868_208_130_443_215,
    ("cream.space:cream", "params in 5.5M..6.5M and macs in 400M..450M"): 7_443_723_796_373_583,
    ("cdarts.space:cifar10", "params in 3M..3.5M"): 336_790_021_020_191_100,
    ("s3.space:s3_start", ""): 74_638_962_853_230_090_910_404,
    ("tinyvit.space:tinyvit_contraction", ""): 273_461,
    ("efficientvit.space:efficientvit_search", ""): 362_880,
    ("cdarts.space:cifar10", ""): 1_037_664_180**2,  # of seven operations, in two cells
    ("cream.space:cream", ""): 21_936_950_640_377_856,
}
RESIZED = [
    ("autoformer.space:autoformer_t", 192),
    ("autoformer.space:autoformer_t", 288),
    ("deit.space:deit_s", 288),
    ("swin.space:swin_t", 448),
    ("tinyvit.space:tinyvit_5m", 256),
    ("efficientvit.space:efficientvit_m4", 512),
    ("cream.space:cream", 160),
    ("minivit.space:mini_deit_ti", 384),
]


@pytest.mark.parametrize("name", FILES)
def test_the_file_is_in_canonical_form(name: str) -> None:
    source, _ = open_address(SPACES / name)
    assert format(parse(source)) == source.text


@pytest.mark.parametrize("name", FILES)
def test_the_file_is_short(name: str) -> None:
    """150 lines; AutoFormer 60 without foreign names and subnets."""
    source, _ = open_address(SPACES / name)
    left_out = [
        node
        for node in tree.below(parse(source))
        if name == "autoformer.space" and isinstance(node, tree.Names | tree.Subnet)
    ]
    lines = source.text.count("\n") - sum(node.span.text.count("\n") + 1 for node in left_out)
    assert lines <= (60 if left_out else 150)


@pytest.mark.parametrize("address", FIGURES)
def test_golden_figures(address: str) -> None:
    graph = load(SPACES / address)
    wanted = FIGURES[address]
    weights = [s.numel for s in graph.storages.values() if s.param.role == "weight"]
    if "params" in wanted:
        cost = graph.cost()
        assert {"params": cost.params, "macs": cost.macs}.items() >= wanted.items()
        return
    found: dict[str, int | str] = {"supernet_params": sum(weights)}
    if "size" in wanted:
        found["size"] = str(graph.size())
        found["min_params"], found["max_params"] = counter(graph).extremes("params")
    assert found == wanted


@pytest.mark.parametrize("address", FIGURES)
def test_the_graph_breaks_no_invariant(address: str) -> None:
    report = Report()
    verify(load(SPACES / address), report)
    assert not report.errors


@pytest.mark.parametrize(("address", "where"), BANDS, ids=str)
def test_exact_counts(address: str, where: str) -> None:
    assert load(SPACES / address).size(where) == BANDS[address, where]


@pytest.mark.soak  # half a minute and 1.5 GB; tests/test_truncated.py asks it of a part
def test_s3_under_both_figures() -> None:
    """Its own limit is on MACs; the count lies where rounded costs had bounded it before."""
    graph, where = load(SPACES / "s3.space:s3_start"), "params in 25M..30M"
    size = graph.size(where)
    assert size == 7_565_823_170_562_931_629_554
    assert 6.29e21 < size < 8.77e21
    costs = [graph.cost(a) for a in graph.sample(300, seed=0, where=where)]
    assert all(25_000_000 <= c.params <= 30_000_000 for c in costs)
    assert all(4_000_000_000 <= c.macs <= 5_000_000_000 for c in costs)


@pytest.mark.parametrize(("address", "image"), RESIZED)
def test_another_resolution(address: str, image: int) -> None:
    graph = load(SPACES / address, image=image)
    report = Report()
    verify(graph, report)
    report.check()
    assert graph.root.inputs[0].types[0].shape[-1] == image


def test_windows_read_the_middle_of_their_tables() -> None:
    """Also where a number had to be known, so that every window has an alternative of its own."""
    graph = load(SPACES / "s3.space:s3_start")
    starts: dict[str, set[tuple[int, int]]] = {}
    values = [{"window": 7}, {"window": 14}]
    for place in graph.places():
        for view in place.node.params.values():
            path = place.instance.param(view.param)
            if not path.endswith("relative_position_bias_table"):
                continue
            part = view.index[0][0]
            assert isinstance(part, Slice)
            start, length = (place.instance.absolute(d) for d in (part.start, part.length))
            for value in values:
                names = {s.name: value["window"] for s in (*start.symbols, *length.symbols)}
                entry = int(start.at(names)), int(length.at(names))
                starts.setdefault(path, set()).add(entry)
    assert len(starts) == sum(3 if s != 2 else 7 for s in range(4))
    for path, found in starts.items():
        side = graph.storages[path].shape[0][0]
        assert found == {((side - n) // 2, n) for n in (13, side)}, path


@pytest.mark.parametrize(
    ("address", "options"),
    [
        ("deit.space:deit_ti", {"depth": 1}),
        ("autoformer.space:autoformer_t", {"depths": {1}}),
        ("swin.space:swin_t", {"depths": [1]}),
    ],
)
def test_a_network_of_one_layer(address: str, options: dict[str, object]) -> None:
    """Rates of path drop grow with the layers; the first is never dropped."""
    rates: list[Dim] = []
    for place in load(SPACES / address, **options).places():
        if place.node.op == "drop_path":
            rate = place.node.attributes["rate"]
            assert isinstance(rate, Dim)
            rates.append(place.instance.absolute(rate))
    assert rates == [0, 0]
