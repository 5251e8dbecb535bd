"""Latency: operations and their signatures, tables, the additive model, and budgets on it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from command import SPACE, run

from spacelang.analysis.activation_memory import liveness
from spacelang.analysis.latency import LatencyModel, every_operation, operations
from spacelang.analysis.latency_table import (
    Error,
    Facts,
    Fit,
    LatencyTable,
    Whole,
    fitted,
    read_table,
    shown,
)
from spacelang.analysis.profile import Profile
from spacelang.analysis.queries import parsed, sample
from spacelang.analysis.traffic import at
from spacelang.diagnostics import Source, SpaceError
from spacelang.engines.baselines import RandomSearch
from spacelang.engines.contraction import Contraction
from spacelang.engines.evolution import Evolution
from spacelang.engines.pool import Pool, encoding
from spacelang.engines.protocol import Evaluated, Samples, Score
from spacelang.ir.decision import Assignment
from spacelang.ir.graph import Graph
from spacelang.loader import load

FACTS = Facts("cpu", "a made-up processor", 1, 2, "float32")


def table_of(graph: Graph, *networks: Whole) -> LatencyTable:
    """Made-up times: a thousand nanoseconds for each letter of a signature."""
    every = every_operation(graph, FACTS.batch)
    own = tuple(replace(n, graph=graph.hash) for n in networks)
    return LatencyTable(FACTS, {text: 1000.0 * len(text) for text in every}, own)


@pytest.fixture(scope="module")
def small() -> Graph:
    return load(Source("small", SPACE))


@pytest.fixture(scope="module")
def table(small: Graph, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A table of the small space: latency is the sum, and 10,000 ns."""
    path = tmp_path_factory.mktemp("latency") / "table.json"
    networks = [Whole({}, s, s + 10_000, fitted=True) for s in (100_000.0, 300_000.0)]
    table_of(small, *networks, Whole({}, 190_000, 160_000, fitted=False)).write(path)
    return str(path)


def every(graph: Graph) -> list[Assignment]:
    return [a for a, _ in Pool(graph).draw(1000, "all")]


# Operations.


def test_an_operation_is_told_by_its_op_options_shapes_and_weights(small: Graph) -> None:
    values = at(small, {"width": 8, "depth": 2, "layers[0].ratio": 2, "layers[1].ratio": 2}, 2)
    linear = (
        "linear{{axes=1 bias=true out={1}}}([2, {0}]; bias=[{1}] weight=[{1}, {0}]) -> [2, {1}]"
    )
    layer = [
        linear.format(8, 16),
        "gelu([2, 16]) -> [2, 16]",
        linear.format(16, 8),
        "add{flipped=false number=null}(0:[2, 8], 1:[2, 8]) -> [2, 8]",
    ]
    found = [made.signature for made in operations(small, values)]
    assert found == [linear.format(12, 8), *layer, *layer, linear.format(8, 10)]


def test_views_and_weights_go_with_what_reads_them() -> None:
    """A view is part of what reads it and no operation; a rearrange that copies is one; a dropped
    path is its operand."""
    text = """
space views {
  input x: [B, 4, 6]
  p = parameter([4, 6]) as table
  q, k = split(drop_path(x, 0.1), [2, 2], axis: 1)
  y = einsum(q, rearrange(k, "b t c -> b c t"), pattern: "btc,bcu->btu")
  z = rearrange(x + p, "b t c -> b (c t)") |> relu
  w = linear(mean(y, axes: [1, 2]) |> rearrange("b -> b 1"), 2) as side
  output w + (linear(z, 2) as head)
}
"""
    graph = load(Source("views", text))
    found = [made.signature for made in operations(graph, at(graph, None, 2))]
    half = "split{axis=1 parts=[2, 2]}([2, 4, 6])"
    turned = f'rearrange{{pattern="b t c -> b c t" sizes=[]}}({half}.1)'
    assert found[0] == f'einsum{{pattern="btc,bcu->btu"}}({half}.0, {turned}) -> [2, 2, 2]'
    assert 'rearrange{pattern="b t c -> b (c t)" sizes=[]}([2, 4, 6]) -> [2, 24]' in found
    assert "relu([2, 24]) -> [2, 24]" in found
    assert any("[2, 4, 6], parameter{shape=[4, 6]}(value=[4, 6]))" in text for text in found)
    assert not any("drop_path" in text for text in found)


@pytest.mark.parametrize(
    "address", ["small_paths.space", "small_cells.space", "quickstart.space", "autoformer.space"]
)
def test_the_model_adds_up_what_runs(address: str) -> None:
    """Its tables by decisions give, for any architecture, the sum over the operations that run."""
    graph = load(address)
    model = LatencyModel(graph, table_of(graph))
    for assignment in sample(graph, 5, seed=3):
        listed = operations(graph, at(graph, assignment, FACTS.batch))
        wanted = sum(1000 * len(made.signature) for made in listed)
        assert model.sum(graph.decisions.check(assignment)) == wanted
        assert model.at(graph.decisions.check(assignment)) == wanted


# Tables.


def test_the_fit_is_a_line_of_least_relative_squares() -> None:
    line = [Whole({}, s, 2 * s + 500, fitted=True) for s in (1000, 3000, 4000)]
    assert fitted(line).scale == pytest.approx(2)
    assert fitted(line).offset == pytest.approx(500)
    assert fitted([Whole({}, 1000, 1500, fitted=True)]) == Fit(1.5, 0)
    assert fitted([Whole({}, 1000, n, fitted=True) for n in (1000, 2000)]).offset == 0
    below = fitted([Whole({}, s, 2 * s - 900, fitted=True) for s in (1000, 3000)])
    assert below.offset == 0, "a network of nothing takes no less than nothing"
    # w = 1/1100^2, 1/5100^2:  scale = sum(s m / m^2) / sum(s^2 / m^2)
    assert below.scale == pytest.approx(
        (1000 / 1100 + 3000 / 5100) / ((1000 / 1100) ** 2 + (3000 / 5100) ** 2)
    )
    assert Fit(2, 500).of(1000) == 2500


def test_the_error_is_found_on_networks_that_the_fit_has_not_seen(small: Graph) -> None:
    seen = [Whole({}, s, 2 * s, fitted=True) for s in (1000, 3000)]
    others = [Whole({}, 1000, 1600, fitted=False), Whole({}, 2000, 4000, fitted=False)]
    made = table_of(small, *seen, *others)
    assert made.error == Error(0.125, 0.25, 2)
    assert made.stated == "error 12.5% in the mean, 25.0% at worst over 2 networks"
    assert table_of(small, *seen).stated == "error not measured"


def test_fit_and_error_are_those_of_the_space_at_hand(small: Graph) -> None:
    """A table of two spaces: neither takes the other's networks; without any, that is told."""
    own = (Whole({}, 1000, 2000, fitted=True), Whole({}, 1000, 1600, fitted=False))
    other = Whole({}, 1000, 90_000, fitted=True, graph="of another space")
    made = table_of(small, *own)
    both = replace(made, networks=(other, *made.networks))
    values = small.decisions.check(small.decisions.extreme("smallest"))
    model = LatencyModel(small, both)
    assert model.at(values) == 2 * model.sum(values)
    assert model.stated == "error 25.0% in the mean, 25.0% at worst over 1 network"
    fits = json.loads(json.dumps(both.as_json()["fits"]))
    assert {graph: found["fit"]["scale"] for graph, found in fits.items()} == {
        small.hash: 2, "of another space": 90,
    }  # fmt: skip
    strange = LatencyModel(small, replace(both, networks=(other,)))
    assert strange.at(values) == 90 * strange.sum(values)
    assert "no network of small was measured" in strange.stated
    assert "fit is of 1 of other spaces" in strange.stated
    assert "other spaces" not in LatencyModel(small, replace(both, networks=())).stated


def test_a_table_is_read_as_it_was_written(small: Graph, tmp_path: Path) -> None:
    made = table_of(small, Whole({"width": 8, "depth": 1}, 5.5, 7.25, fitted=True))
    made.write(tmp_path / "table.json")
    assert read_table(tmp_path / "table.json") == made


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"kind": "subnet"},
        {"facts": {"device": "cpu"}},
        {"entries": {"relu([1])": -1}},
        {"entries": {"relu([1])": "fast"}},
        {"entries": {"relu([1])": True}},
        {"entries": {"relu([1])": 10**400}},
        {"entries": {"relu([1])": 1e-200}},
        {"entries": []},
        {"facts": {**asdict(FACTS), "batch": -3}},
        {"facts": {**asdict(FACTS), "threads": 0}},
        {"facts": {**asdict(FACTS), "form": "folded"}},
        {"networks": [{"assignment": {}, "sum": 1, "measured": 1e-200, "fitted": True}]},
        {"networks": [{"assignment": {}, "sum": 1e200, "measured": 1, "fitted": True}]},
        {"networks": [{"assignment": {}, "sum": 1, "measured": 1, "fitted": True, "graph": 3}]},
        {"networks": [{"assignment": {}, "sum": 1, "measured": 0, "fitted": True}]},
        {"networks": [3]},
        None,
    ],
    ids=lambda change: str(change)[:80],
)
def test_what_is_no_table_is_refused(small: Graph, tmp_path: Path, change: object) -> None:
    path = tmp_path / "table.json"
    text = json.dumps(table_of(small).as_json() | change) if isinstance(change, dict) else "{"
    path.write_text(text)
    with pytest.raises(SpaceError) as refused:
        read_table(path)
    assert refused.value.diagnostics[0].code == "SP702"
    with pytest.raises(SpaceError, match="is no latency table"):
        read_table(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (5, "5 ns"),
        (4_730_000, "4.73 ms"),
        (25_140, "25.1 us"),
        (2.5e9, "2.50 s"),
        (3.21e8, "321 ms"),
    ],
)
def test_times_are_shown_in_three_digits(nanoseconds: float, text: str) -> None:
    assert shown(nanoseconds) == text


# Budgets.


@pytest.mark.parametrize(
    ("text", "band"),
    [
        ("latency <= 5ms", (None, 5_000_000)),
        ("latency in 3ms..4.5ms and depth == 2", (3_000_000, 4_500_000)),
        ("latency < 2us", (None, 1999)),
        ("0.25s >= latency", (None, 250_000_000)),
        ("latency in 0..5ns", (0, 5)),
        ("params <= 300", None),
    ],
)
def test_a_latency_is_bounded_by_times(
    small: Graph, text: str, band: tuple[int | None, int | None] | None
) -> None:
    found = parsed(small, text)
    assert found is not None
    assert found.window(1) == (band or (None, None))
    assert found.timed == (band is not None)
    assert "latency" not in found.exact.bands


@pytest.mark.parametrize(
    ("text", "band"),
    [
        ("throughput >= 200", (None, 10_000_000)),  # two images a pass
        ("throughput > 199", (None, 10_000_000)),
        ("throughput >= 3", (None, 666_666_666)),
        ("throughput in 100..200", (9_950_249, 20_000_000)),  # 201 a second at 9,950,248.76 ns
        ("throughput < 201 and latency <= 15ms", (9_950_249, 15_000_000)),
        ("throughput >= 200 and latency <= 5ms and params <= 1K", (None, 5_000_000)),
        ("throughput >= 0", (None, None)),
    ],
)
def test_a_throughput_bounds_the_latency_of_a_batch(
    small: Graph, text: str, band: tuple[int | None, int | None]
) -> None:
    found = parsed(small, text)
    assert found is not None
    assert found.timed
    assert found.window(FACTS.batch) == band
    assert found.exact.bands.keys() <= {"params"}


def test_a_throughput_below_none_is_never_met(small: Graph, table: str) -> None:
    with pytest.raises(SpaceError, match="SP502"):
        Pool(small, "throughput < 0", 0, table).draw(1, "random")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("latency <= 5", "SP209"),
        ("params <= 5ms", "SP209"),
        ("throughput >= 5ms", "SP209"),
        ("throughput >= params", "SP508"),
        ("troughput >= 5", "SP201"),
        ("latency <= 5ms and params <= 3ms", "SP209"),
        ("latency <= params", "SP508"),
        ("latency <= 5ms or depth == 2", "SP508"),
        ("latancy <= 5ms", "SP201"),
        ("latency <= 5min", "SP101"),
    ],
)
def test_other_budgets_on_latency_are_refused(small: Graph, text: str, code: str) -> None:
    with pytest.raises(SpaceError) as refused:
        parsed(small, text)
    assert [found.code for found in refused.value.diagnostics] == [code]


def test_no_exact_count_knows_latency(small: Graph) -> None:
    for ask in (small.size, lambda where: small.sample(1, 0, where)):
        with pytest.raises(SpaceError, match="latency is measured, not counted") as refused:
            ask("latency <= 5ms")
        assert refused.value.diagnostics[0].code == "SP508"
    with pytest.raises(SpaceError) as refused:
        load(Source("small", SPACE.replace("  weights", "  require latency <= 3\n  weights")))
    assert refused.value.diagnostics[0].code == "SP201"


def test_a_budget_in_the_text_may_bound_latency(tmp_path: Path) -> None:
    """`check` reads it, proves what it can of the rest, and knows nothing of times."""
    path = tmp_path / "small.space"
    written = 'search evolution {{ where = "{}"  latency = "table.json" }}\n}}\nsubnet'
    for budget, says in (
        ("latency <= 5ms and depth == 2", ""),
        ("latency <= 5ms and depth <= 3", ""),
        ("throughput >= 5 and depth == 2", ""),
        ("latency <= 5", "SP209"),
    ):
        path.write_text(SPACE.replace("}\nsubnet", written.format(budget)))
        done = run("check", path)
        assert (done.exit_code, says in done.output) == (2 if says else 0, True), done.output


def latency_of(small: Graph, assignment: Assignment) -> int:
    listed = operations(small, at(small, assignment, FACTS.batch))
    return sum(1000 * len(made.signature) for made in listed) + 10_000


def test_a_pool_gives_what_is_in_the_window_and_nothing_else(small: Graph, table: str) -> None:
    latencies = {encoding(a): latency_of(small, a) for a in every(small)}
    assert len(latencies) == 12
    low, high = sorted(latencies.values())[3], sorted(latencies.values())[8]
    where = f"latency in {low}ns..{high}ns and params <= 2K"
    pool = Pool(small, where, seed=1, latency=table)
    inside = {encoding(a) for a, _ in pool.draw(100, "all")}
    assert inside == {
        encoding(a)
        for a in every(small)
        if low <= latencies[encoding(a)] <= high and small.cost(a).params <= 2000
    }
    assert 0 < len(inside) < 12
    assert pool.exhausted
    assert pool.draw(1, "more") == []


def test_a_throughput_is_what_a_batch_comes_to(small: Graph, table: str) -> None:
    """As many images a second as the batch of the table, in the latency of the model."""
    model = LatencyModel(small, read_table(table))
    rates = {encoding(a): 2 * 10**9 // latency_of(small, a) for a in every(small)}
    for assignment in every(small):
        latency = model.at(small.decisions.check(assignment))
        assert model.throughput(latency) == rates[encoding(assignment)]
    _, low, *_, high, _ = sorted(set(rates.values()))
    for where, inside in (
        (f"throughput >= {low}", {a for a, rate in rates.items() if rate >= low}),
        (f"throughput < {low}", {a for a, rate in rates.items() if rate < low}),
        (f"throughput in {low}..{high}", {a for a, rate in rates.items() if low <= rate <= high}),
    ):
        assert {encoding(a) for a, _ in Pool(small, where, 0, table).draw(99, "all")} == inside


def test_draws_within_a_window_are_uniform(small: Graph, table: str) -> None:
    latencies = [latency_of(small, a) for a in every(small)]
    where = f"latency <= {sorted(latencies)[3]}ns"
    first = Counter(
        encoding(Pool(small, where, seed, table).draw(1, "first")[0][0]) for seed in range(400)
    )
    kinds = sum(latency <= sorted(latencies)[3] for latency in latencies)
    assert len(first) == kinds
    # 5 standard deviations of a binomial count
    assert all(abs(n - 400 / kinds) < 5 * (400 / kinds) ** 0.5 for n in first.values())


class Surface:
    """Scores of architectures: the larger, the better."""

    def probe(self, assignments: Iterable[Assignment], samples: Samples) -> Iterator[Score]:
        for assignment in assignments:
            yield Score(sum(int(n) for n in assignment.values() if isinstance(n, int)), 1000)


def test_engines_try_nothing_outside_of_the_window(small: Graph, table: str) -> None:
    limit = sorted(latency_of(small, a) for a in every(small))[6]
    where = f"latency <= {limit}ns"
    engines = [
        Evolution(1, 4, 2, 2, 1, where=where, latency=table),
        RandomSearch(evaluations=5, where=where, latency=table),
        Contraction(("", where), population=4, factors=4, latency=table),
    ]
    for engine in engines:
        tried = [e.candidate for e in engine.run(small, Surface(), 0) if isinstance(e, Evaluated)]  # type: ignore[arg-type]
        last = [c for c in tried if not isinstance(engine, Contraction) or c.generation == 1]
        assert last
        assert all(latency_of(small, c.assignment) <= limit for c in last)


def test_contraction_keeps_to_a_throughput_and_to_parameters(small: Graph, table: str) -> None:
    """Each round the limits of its own, both of them."""
    rates = sorted(2 * 10**9 // latency_of(small, a) for a in every(small))
    most = sorted(small.cost(a).params for a in every(small))[-2]
    bounds = (f"params <= {most}", f"params <= {most} and throughput >= {rates[6]}")
    engine = Contraction(bounds, population=6, factors=4, latency=table)
    events = list(engine.run(small, Surface(), 0))
    tried = [event.candidate for event in events if isinstance(event, Evaluated)]
    assert all(c.cost.params <= most for c in tried)
    slow, fast = (
        [2 * 10**9 // latency_of(small, c.assignment) for c in tried if c.generation == turn]
        for turn in (0, 1)
    )
    assert min(slow) < rates[6] <= min(fast)
    with pytest.raises(SpaceError, match="SP502") as refused:
        list(replace(engine, bounds=(f"throughput > {rates[-1]}",)).run(small, Surface(), 0))
    assert any("images a second" in note for note in refused.value.diagnostics[0].notes)


def test_a_window_that_nothing_meets_says_what_was_seen(small: Graph, table: str) -> None:
    fastest = min(latency_of(small, a) for a in every(small))
    pool = Pool(small, "latency <= 1us", 0, table)
    with pytest.raises(SpaceError) as refused:
        pool.draw(3, "random")
    (found,) = refused.value.diagnostics
    assert found.code == "SP502"
    assert any(f"latencies of {shown(fastest)} to" in note for note in found.notes)
    assert any("error 25.0% in the mean" in note for note in found.notes)


def test_a_space_too_large_to_try_out_is_given_up_after_so_many_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spacelang.engines.pool.MISSES", 300)
    graph = load("quickstart.space")
    table_of(graph).write(tmp_path / "table.json")
    pool = Pool(graph, "latency <= 1us", 0, str(tmp_path / "table.json"))
    with pytest.raises(SpaceError, match=r"none of 512 architectures drawn"):
        pool.draw(3, "random")


def test_a_budget_on_latency_needs_a_table_that_knows_the_space(
    small: Graph, table: str, tmp_path: Path
) -> None:
    with pytest.raises(SpaceError, match="needs a table") as refused:
        Pool(small, "latency <= 5ms")
    assert refused.value.diagnostics[0].code == "SP508"
    assert "spacelang profile" in (refused.value.diagnostics[0].help or "")
    wide = load(Source("small", SPACE), widths={8, 24})
    with pytest.raises(SpaceError) as refused:
        Pool(wide, "latency <= 5ms", 0, table)
    (found,) = refused.value.diagnostics
    assert found.code == "SP512"
    assert "24" in found.notes[0]
    assert f"-o {table} --batch 2 --threads 1 --dtype float32" in (found.help or "")
    # One operation too many to be missed: told when it is met, where all cannot be listed.
    entries = dict(read_table(table).entries)
    del entries["gelu([2, 32]) -> [2, 32]"]
    model = LatencyModel(small, LatencyTable(FACTS, entries))
    least, most = (
        small.decisions.check(small.decisions.extreme(w)) for w in ("smallest", "largest")
    )
    assert model.at(least) > 0
    with pytest.raises(SpaceError, match=r"gelu\(\[2, 32\]\)"):
        model.at(most)


# Profiles.


def test_the_parts_of_a_profile_add_up(small: Graph) -> None:
    for graph in (small, load("small_paths.space"), load("quickstart.space")):
        made = table_of(graph)
        (assignment,) = sample(graph, 1, seed=5)
        found = Profile.of(graph, assignment, made)
        cost, total = graph.cost(assignment), found.total
        assert total.ns == LatencyModel(graph, made).sum(graph.decisions.check(assignment))
        assert (total.params, total.macs) == (cost.params, FACTS.batch * cost.macs)
        for rows in (found.by_block(1), found.by_block(3), found.by_op()):
            for name in ("ns", "macs", "params", "made", "count"):
                assert sum(getattr(row, name) for row in rows) == getattr(total, name)
        assert max(row.live for row in found.by_block(1)) == found.peak


def test_memory_is_what_something_still_reads(small: Graph) -> None:
    """At width 8 and batch 2: 96 elements of the input, which stay, and 16 of x in a layer."""
    values = at(small, {"width": 8, "depth": 1, "layers[0].ratio": 2}, 2)
    steps = [(s.node.op, s.made, s.live) for s in liveness(small, values, 4)]
    x, wide, image = 4 * 2 * 8, 4 * 2 * 16, 4 * 2 * 12
    assert steps == [
        ("linear", x, image + x),
        ("linear", wide, image + x + wide),
        ("gelu", wide, image + x + wide + wide),
        ("linear", x, image + x + wide + x),
        ("add", x, image + x + x + x),
        ("linear", 4 * 2 * 10, image + x + 80),
    ]
