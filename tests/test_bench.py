"""spacelang bench: rows by name, contenders in turns, records in a file, and the page from it."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from command import data, good, refused, run

from spacelang import load
from spacelang.backends.torch import weights
from spacelang.backends.torch.bench import work
from spacelang.backends.torch.bench.contenders import BUILDERS, build
from spacelang.backends.torch.bench.published.autoformer import AutoFormer
from spacelang.backends.torch.supernet import Supernet
from spacelang.bench import machine
from spacelang.bench import measure as measuring
from spacelang.bench.chart import chart
from spacelang.bench.machine import Idle
from spacelang.bench.page import with_table
from spacelang.bench.rows import BY_NAME, COMPILED_ROWS, OWN, ROWS, Row, UnknownRow, select
from spacelang.bench.store import kept, merged
from spacelang.bench.verdict import Verdict, verdict
from spacelang.diagnostics import Source, SpaceError, error

ROW = Row("tiny", "", 4, "inference", ("timm", "timm.folded"), ("onnxruntime",), 1.5)


def record(**seconds: list[float] | str) -> dict[str, Any]:
    contenders = {
        name.replace("__", "."): {"missing": found}
        if isinstance(found, str)
        else {
            "wall": found,
            "cpu": found,
            "peak_mib": 100.0,
            "added_mib": 1.0,
            "compile_seconds": 2.5 if name == "inference" else 0.0,
            "setting": "",
        }
        for name, found in seconds.items()
    }
    return {
        "row": "tiny@4", "threads": 1, "flops": 8_000, "narrow": False, "date": "2026-01-31", "code": "abc1234",
        "contenders": contenders,
        "limits": {
            "flops": [10_000.0] * 4, "plain": [5_000.0] * 4, "narrow": [20_000.0] * 4, "bandwidth": [1e9] * 4,
        },
        "machine": {"processor": "p", "cores": 2, "others": 0.25}, "versions": {"torch": "2"},
    }  # fmt: skip


FOUND = record(
    inference=[1.0, 2.0, 1.0, 1.0], timm=[4.0, 4.0, 4.0, 4.0], timm__folded=[2.0, 3.0, 2.0, 2.0],
    onnxruntime="onnxruntime is not installed",
)  # fmt: skip


def test_ratios_are_taken_within_a_round() -> None:
    assert measuring.best(FOUND, "inference", ROW.against) == "timm.folded"
    assert measuring.ratio(FOUND, "inference", "timm.folded") == (2.0, 1.625, 2.0)
    assert measuring.ratio(FOUND, "inference", "onnxruntime") is None
    assert measuring.share_of_limit(FOUND, "inference") == 0.8
    assert measuring.share_of_limit(FOUND, "timm") == 0.2
    assert measuring.share_of_limit({**FOUND, "narrow": True}, "inference") == 0.4
    slow, fast = (
        [9.0, 1.0, 1.0, 9.0],
        [8.0, 2.0, 2.0, 8.0],
    )  # rounds differ: medians say other than ratios
    found = record(inference=[9.0, 1.0, 1.0, 9.0], timm=slow, timm__folded=fast)
    assert measuring.best(found, "inference", ROW.against) == "timm"


def test_a_row_is_met_in_time_and_in_memory() -> None:
    assert verdict(ROW, FOUND) == Verdict(True, ">= 1.5: met")
    assert verdict(replace(ROW, wanted=1.7), FOUND) == Verdict(
        True, ">= 1.7: met by the median alone"
    )
    assert verdict(replace(ROW, wanted=None), FOUND) == Verdict(True)
    assert verdict(replace(ROW, wanted=2.5), FOUND) == Verdict(False, ">= 2.5: missed")
    near = {**FOUND, "flops": 8_500}
    assert verdict(replace(ROW, wanted=2.5), near) == Verdict(True, ">= 2.5: met at the limit")
    assert not verdict(replace(ROW, wanted=2.5), {**near, "narrow": True}).met
    assert not verdict(replace(ROW, wanted=2.5, same=False), near).met
    both = replace(ROW, memory=0.5)
    asked = ">= 1.5, memory <= 0.50: time met, memory "
    for peak, added, says in (
        (40.0, 0.5, "met (0.40 of the peak, 0.50 of what was added)"),
        (60.0, 20.0, "missed (0.60 of the peak, 20.00 of what was added)"),
        (60.0, 0.5, "missed (0.60 of the peak, 0.50 of what was added;"
         " out of reach: 60 MiB before the work, 50 wanted)"),
    ):  # fmt: skip
        own = {**FOUND["contenders"]["inference"], "peak_mib": peak, "added_mib": added}
        found = {**FOUND, "contenders": {**FOUND["contenders"], "inference": own}}
        assert verdict(both, found) == Verdict(says.startswith("met"), asked + says)
    busy = {**FOUND, "machine": {**FOUND["machine"], "others": 1.4}}
    swung = {**FOUND, "limits": {**FOUND["limits"], "flops": [10_000.0] * 3 + [6_000.0]}}
    assert verdict(ROW, busy) == verdict(ROW, swung) == Verdict(False, ">= 1.5: disturbed")
    assert verdict(ROW, {**busy, "machine": {**FOUND["machine"], "others": 1.2}}).met
    without = record(inference=[1.0] * 4, timm="missing", timm__folded="missing")
    assert not verdict(ROW, without).met


def test_how_busy_others_keep_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that was taken but our own, over the time."""
    busy, clock = iter([10.0, 16.0, 16.0]), iter([100.0, 102.0, 102.0])
    monkeypatch.setattr(machine, "busy", lambda: next(busy))
    monkeypatch.setattr(machine.time, "monotonic", lambda: next(clock))
    idle = Idle()
    assert idle.others(own=2.0) == 2.0
    assert idle.others(own=7.0) == 0.0
    monkeypatch.setattr(machine, "busy", lambda: None)
    monkeypatch.setattr(machine.time, "monotonic", lambda: 0.0)
    assert Idle().others(own=1.0) is None


def test_how_busy_the_machine_is_is_read_off_linux(tmp_path: Path) -> None:
    tick = os.sysconf("SC_CLK_TCK")
    stat = tmp_path / "stat"
    # user, nice, system, idle, waiting for disks, interrupts, soft ones, stolen, guests (in user)
    stat.write_text(
        f"cpu  {tick} {tick} {tick} {9 * tick} {9 * tick} {tick} 0 {tick} {tick} 0\ncpu0 1\n"
    )
    assert machine.busy(stat) == 5.0
    assert machine.busy(tmp_path / "none") is None


def test_the_page_says_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    from spacelang.bench import page

    monkeypatch.setattr(page, "BY_NAME", {"tiny@4": ROW})
    whole = f"before\n{page.BEGIN}\nold\n{page.END}\nafter"
    made = with_table(whole, {"records": {"tiny@4 x1": FOUND}})
    assert (
        "| tiny@4 | 1 | p | 1000.00 ms, made in 2.5 s | timm.folded 2000.00 ms | 2.00 (1.62..2.00) |"
        " 2.00 |" in made
    )
    assert "| >= 1.5: met | 80% | 100 against 100 MiB | 1 against 1 MiB |" in made
    assert "timm 4.00, onnxruntime: onnxruntime is not installed" in made
    assert "Measured 2026-01-31." in made
    assert "Code: `abc1234`." in made
    assert "other processes took 0.25 cores" in made
    assert "0 in bfloat16" in made
    assert "best PyTorch rival" in made
    assert "ONNX Runtime is" not in made, "it was not measured"
    there = {**FOUND["contenders"], "onnxruntime": FOUND["contenders"]["inference"]}
    for times, says in (([0.5] * 4, "in every row where"), ([4.0] * 4, "in 0 of the 1 rows where")):
        wanted = f"in {int(times[0] >= 0.7)} of 1 at least 0.7"
        there["onnxruntime"] = {**there["onnxruntime"], "wall": times}
        both = {"records": {"tiny@4 x1": {**FOUND, "contenders": there}}}
        assert f"ONNX Runtime is faster than ours by PyTorch {says}" in with_table(whole, both)
        assert wanted in with_table(whole, both)
        assert ("Less: tiny@4 x1 0.50." in with_table(whole, both)) == (times[0] < 0.7)
    other = {"processor": "Intel(R) Xeon(R) CPU @ 2 GHz", "cores": 4, "others": 0.25}
    fast = {**FOUND, "threads": 2, "machine": other, "limits": {
        "flops": [9e9] * 4, "plain": [8e9] * 4, "narrow": [7e9] * 4, "bandwidth": [6e9] * 4}}  # fmt: skip
    both = with_table(whole, {"records": {"tiny@4 x1": FOUND, "tiny@4 x2": fast}})
    assert "Machines, each row on one of them: Intel Xeon @ 2 GHz, 4 cores; p, 2 cores." in both
    assert "Limit of p with 1 thread, measured in the same rounds: 0 GFLOP/s" in both
    assert (
        "Limit of Intel Xeon @ 2 GHz with 2 threads, measured in the same rounds: 9 GFLOP" in both
    )
    assert "| tiny@4 | 2 | Intel Xeon @ 2 GHz |" in both
    assert "\nold\n" not in made
    assert made.startswith("before\n")
    assert made.endswith("\nafter")


def test_the_page_of_the_documents_is_made_from_the_results(root: Path) -> None:
    page = (root / "docs" / "benchmarks.md").read_text()
    found = kept(root / "benchmarks" / "results" / "networks.json")
    assert found["records"]
    assert with_table(page, found) == page
    assert chart(found) == (root / "docs" / "benchmarks.svg").read_text()


def test_what_has_no_record_is_listed(root: Path) -> None:
    """Every row with one thread and with two, and those of the compiler with one: measured, or
    named by the page."""
    page = (root / "docs" / "benchmarks.md").read_text()
    lines = re.findall(r"^\* Not measured yet with (\d+) threads?: (.*)\.$", page, re.MULTILINE)
    listed = {f"{name} x{threads}" for threads, names in lines for name in names.split(", ")}
    wanted = {f"{row.name} x{threads}" for row in ROWS for threads in (1, 2)}
    wanted |= {f"{row.name} x1" for row in COMPILED_ROWS}
    measured = {*kept(root / "benchmarks" / "results" / "networks.json")["records"]}
    assert listed == wanted - measured


def test_every_row_that_falls_short_is_explained(root: Path) -> None:
    """By its name, with what it reached; rows that are met, on any number of threads, are not."""
    page = (root / "docs" / "benchmarks.md").read_text()
    section = page.partition("### Rows that fall short")[2].partition("\n#")[0]
    explained = {n for line in section.splitlines() if line.startswith("* `") for n in told(line)}
    records = kept(root / "benchmarks" / "results" / "networks.json")["records"].values()
    missed = {r["row"] for r in records if not verdict(BY_NAME[r["row"]], r).met}
    assert explained == missed


def told(line: str) -> list[str]:
    """The rows that a line is about: the names before its colon."""
    return re.findall(r"`([^`]+)`", line.partition(":")[0])


def script(root: Path, name: str) -> ModuleType:
    """A file of `benchmarks`, as a module."""
    spec = spec_from_file_location(name, root / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    made = module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_the_table_of_growth_is_made_from_its_results(root: Path) -> None:
    """A million is estimated by the larger of both exponents."""
    pytest.importorskip("matplotlib")
    curves = script(root, "curves")
    page = (root / "docs" / "benchmarks.md").read_text()
    growth, running = (
        json.loads((root / "benchmarks" / "results" / f"{name}.json").read_text())[part]
        for name, part in (("growth", "figures"), ("scaling", "curves"))
    )
    assert curves.with_table(page, growth, running) == page
    part = {"seconds": {"1000": 1.0, "10000": 20.0}, "growth": {"calls": 1.0, "seconds": 1.301}}
    (row,) = curves.table({"nodes": {"lower": part}}, {})[2:]
    assert row == "| lower | nodes | 20.000 at 10,000 | 1.00 | 1.30 | 7,999 s |"


@pytest.fixture(scope="module")
def compiler(root: Path) -> ModuleType:
    """The script that measures the compiler."""
    return script(root, "compiler")


def test_the_table_of_the_compiler_is_made_from_its_results(
    root: Path, compiler: ModuleType
) -> None:
    page = (root / "docs" / "benchmarks.md").read_text()
    figures = json.loads(compiler.RESULTS.read_text())["figures"]
    assert compiler.with_table(page, figures) == page
    assert compiler.wanted("uniform draws a second, cream") == (">=", 5_000)
    assert compiler.wanted("uniform draws a second, autoformer_t") == (">=", 50_000)
    assert not compiler.met("load + verify autoformer_t", 0.2)
    assert compiler.met("load + verify cream", 0.2)
    assert "| activate x | 2 ms | <= 0.001: missed |" in compiler.table({"activate x": 2e-3})
    assert {name for name, _ in compiler.BANDS} == set(compiler.SEARCHABLE)


def test_bytes_of_a_supernet_are_those_of_its_index_tables_too(compiler: ModuleType) -> None:
    text = "choose w in {4, 8} x = linear(x, w) as stem |> linear(3) as head"
    table = "x = x * table([w]) |i| { return i / 2 }"
    for body, tables in ((text, 0), (text.replace("|>", f"{table} x = x |>"), 4 * 8)):
        space = f"space s {{ input x: [B, 4] {body} output x weights {{ _: entangle }} }}"
        model = Supernet(load(Source("<s>", space)))
        assert compiler.held(model) == 4 * (8 * 4 + 8 + 3 * 8 + 3) + tables


def test_records_are_kept_by_row_and_threads(tmp_path: Path) -> None:
    path = tmp_path / "records.json"
    data = merged(merged(kept(path), FOUND), {**FOUND, "threads": 2})
    path.write_text(json.dumps(merged(data, {**FOUND, "flops": 1})))
    assert {name: r["flops"] for name, r in kept(path)["records"].items()} == {
        "tiny@4 x1": 1, "tiny@4 x2": 8_000,
    }  # fmt: skip
    for wrong in ("[", "{}", "[]", '{"version": 3, "records": {}}'):
        path.write_text(wrong)
        with pytest.raises(SpaceError, match="SP702"):
            kept(path)


def test_rows_by_name() -> None:
    assert select([]) == ROWS
    assert [r.name for r in select(["efficientvit_m0@16", "deit_tiny_patch16_224"])] == [
        "efficientvit_m0@16", "deit_tiny_patch16_224@1", "deit_tiny_patch16_224@16",
        "deit_tiny_patch16_224@1/onnxruntime", "deit_tiny_patch16_224@16/onnxruntime",
    ]  # fmt: skip
    by_runtime = select(["onnxruntime"])
    assert len(by_runtime) == 10 * 2
    assert {row.against for row in by_runtime} == {("onnxruntime",)}
    (first, *_) = COMPILED_ROWS
    assert first.name == "efficientvit_m0@1/compiled"
    assert first not in select(["efficientvit_m0"])
    assert first in select(["efficientvit_m0"], compiled=True)
    assert select([first.name]) == (first,)
    assert select([], compiled=True) == (*ROWS, *COMPILED_ROWS)
    with pytest.raises(UnknownRow, match="did you mean efficientvit_m0"):
        select(["eficientvit_m0"])
    assert "efficientvit_m0@64" in good("bench", "--list")
    assert data("bench", "--list")["all"] == len(ROWS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nothing",), "no benchmark 'nothing'"),
        (("--repeats", "3"), "3 is not in the range"),
        (("--threads", "0"), "0 is not in the range"),
        (("--device", "interpret"), "--device goes with"),
        (("--dtype", "float16"), "--dtype goes with"),
        (("kernels", "efficientvit_m0"), "stands alone"),
        (("kernels", "--list"), "stands alone"),
        (("kernels", "--compiled"), "stands alone"),
    ],
)
def test_bad_options(words: tuple[str, ...], message: str) -> None:
    assert message in refused("bench", *words)


def test_what_is_timed_while_it_is_built_is_built_alone() -> None:
    """Ours, what is compiled, and ONNX Runtime, which chooses among settings by their times."""

    def together(row: Row) -> list[list[str]]:
        return measuring._together(row)  # pyright: ignore[reportPrivateUsage]

    assert together(ROW) == [["inference"], ["timm", "timm.folded", "limits"], ["onnxruntime"]]
    (compiled, *_) = COMPILED_ROWS
    alone = [["inference.compiled"], [], ["timm.compiled"], ["inference"], ["limits"]]
    assert together(compiled) == alone


def test_contenders_take_turns_in_an_order_of_the_round() -> None:
    called: list[str] = []

    class Turn:
        def __init__(self, name: str) -> None:
            self.name = name

        def run(self, calls: int) -> dict[str, Any]:
            called.append(self.name)
            return {"wall": calls}

    there, orders = {name: Turn(name) for name in "abcd"}, set[tuple[str, ...]]()
    for number in range(7):
        called.clear()
        found = measuring._round(there, dict.fromkeys(there, 3), number)  # pyright: ignore
        assert found == {name: {"wall": 3} for name in there}
        orders.add(tuple(called))
    assert len(orders) > 3
    assert len({order[0] for order in orders}) > 1


class Fake:
    """A contender whose results are given; the last of them is `value`."""

    def __init__(self, value: float, shape: tuple[int, ...] = (2,)) -> None:
        self.value, self.shape = value, shape

    def results(self, path: str) -> None:
        y = np.array([100.0, self.value], np.float32).reshape(self.shape)
        np.savez(path, x=np.ones(3, np.float32), y=y)


def apart_of(row: Row, there: dict[str, Fake]) -> dict[str, float]:
    return measuring.compared(row, measuring._results(row, there))  # pyright: ignore


def test_results_are_compared_first() -> None:
    near, far = Fake(1.0005), Fake(1.002)
    assert apart_of(ROW, {"inference": Fake(1), "timm": near})["timm"] < 1e-5
    with pytest.raises(SpaceError, match="timm gives other results than inference"):
        apart_of(ROW, {"inference": Fake(1), "timm": far})
    for ours, theirs in ((1.0, np.nan), (np.nan, 1.0), (np.nan, np.nan)):
        with pytest.raises(SpaceError, match=r"than inference \(y: nan\)"):
            apart_of(ROW, {"inference": Fake(ours), "timm": Fake(theirs)})
    with pytest.raises(SpaceError, match=r"y of timm is \[1, 2\], not \[2\]"):
        apart_of(ROW, {"inference": Fake(1), "timm": Fake(1, (1, 2))})

    rounding = Fake(1e-4), Fake(2e-4)
    apart = apart_of(ROW, {"inference": rounding[0], "timm": rounding[1]})["timm"]
    assert apart == pytest.approx(1e-6)


def test_losses_and_what_is_in_float64_are_measured_by_themselves() -> None:
    """A loss is no measure of gradients; float64 has to agree more closely."""

    def apart(ours: dict[str, Any], theirs: dict[str, Any]) -> float:
        return measuring.compared(ROW, {"inference": ours, "timm": theirs})["timm"]

    def gradients(value: float) -> dict[str, Any]:
        return {"loss": np.float32(1000), "slope": np.array([value, 1.0], np.float32)}

    assert apart(gradients(0.5), gradients(0.5)) == 0
    with pytest.raises(SpaceError, match="slope"):  # by the loss it would be 2e-8
        apart(gradients(0.5), gradients(0.50002))

    def double(value: float) -> dict[str, Any]:
        return {"slope": np.array([value, 1.0])}

    assert apart(double(0.5), double(0.5 + 1e-10)) == pytest.approx(1e-10)
    with pytest.raises(SpaceError, match=r"slope: 1\.0e-06"):  # float32 might
        apart(double(0.5), double(0.5 + 1e-6))


def test_what_computes_something_else_is_not_compared() -> None:
    for row in (replace(ROW, same=False), replace(ROW, against=(), beside=("timm",))):
        assert "timm" in row.contenders
        there = {"inference": Fake(1), "timm": Fake(2)}
        assert "timm" not in apart_of(row, there)
    there = {"inference": Fake(1), "timm": Fake(1.0005)}
    with pytest.raises(SpaceError, match="gives other results"):
        apart_of(replace(ROW, tolerance=1e-7), there)


# Contenders compute the same.

CYCLES = """
  use cdarts
  program small {
    network shallow = mixed([1, 1, 1])
    network deep = darts(16, stem: 48, cells: [1, 1, 2], image: 32, classes: 10, affine: false, distilled: true)
    share feature_extractor, distill_aux_head1, distill_aux_head2
    pool memory = mixed([1, 1, 2]) of deep: nas_layers
  }
"""
PAIRS = {
    "deit_tiny_irpe_k": ("irpe.space:deit_ti_product_k", "extracted", "published"),
    "deit_tiny_irpe_qkv": (f"{OWN}:deit_tiny_irpe_qkv", "extracted", "published"),
    "mini_deit_tiny": ("minivit.space:mini_deit_ti", "inference", "published"),
    "autoformer_t_subnet": ("autoformer.space:autoformer_t_subnet", "extracted", "published"),
    "autoformer_t_step": ("autoformer.space:autoformer_t", "step", "step.published"),
    "autoformer_t_step_checkpointed": (
        "autoformer.space:autoformer_t",
        "step.checkpointed",
        "step.published",
    ),
    "autoformer_t_attention": ("", "attention", "attention.published"),
    "cream_step": ("cream.space:cream_to_50", "step", "step.published"),
    "cdarts_search_step": (CYCLES, "cycle", "cycle.published"),
}


@pytest.mark.parametrize("network", PAIRS)
def test_a_published_form_computes_the_same(network: str, tmp_path: Path) -> None:
    space, ours, theirs = PAIRS[network]
    if "\n" in space:
        (tmp_path / "cycles.space").write_text(space)
        space = str(tmp_path / "cycles.space")
    row = next(row for row in ROWS if row.network == network)
    assert (ours in row.contenders, theirs in row.contenders) == (True, True)
    given = {"space": space, "network": network, "batch": 2, "threads": 1, "double": row.double}
    own, other = (build({**given, "contender": name}).results() for name in (ours, theirs))
    assert own.keys() == other.keys()
    assert len(own) > 200 or row.network not in ("autoformer_t_step", "cdarts_search_step")
    row = replace(row, ours=ours, against=(theirs,))
    arrays = {ours: {k: t.detach().numpy() for k, t in own.items()},
              theirs: {k: t.detach().numpy() for k, t in other.items()}}  # fmt: skip
    assert measuring.compared(row, arrays)[theirs] <= row.tolerance


def test_every_contender_of_every_row_has_a_builder() -> None:
    for row in (*ROWS, *COMPILED_ROWS):
        assert {*row.contenders} <= BUILDERS.keys()


def test_the_published_accounting_counts_what_ours_does() -> None:
    graph = load("autoformer.space:autoformer_t")
    state = weights.save(Supernet(graph), names="published")
    for path in graph.sample(3, seed=0):
        assert AutoFormer(state, graph, path).parameters() == graph.cost(path).params


def test_a_row_in_fresh_processes(tmp_path: Path) -> None:
    """The network as it is extracted, beside itself as it is for inference, and one without timm."""
    space = tmp_path / "small.space"
    space.write_text("""
      use conv
      space small() {
        input x: [B, 3, 16, 16]
        output mean(conv_bn(x, 8, 3) as one |> relu, axes: [2, 3]) |> linear(4) as head
      }""")
    row = Row("no_network", f"{space}:small", 2, "inference", ("extracted", "timm"))
    found = measuring.measure(row, threads=1, repeats=7)
    assert len(found["contenders"]["extracted"]["wall"]) == 7
    assert found["contenders"]["extracted"]["error"] < 1e-5
    assert found["contenders"]["inference"]["error"] is None, "it is what others are compared with"
    assert "missing" in found["contenders"]["timm"]
    assert found["flops"] == 2 * 2 * (16 * 16 * 8 * 27 + 8 * 4)
    assert min(found["limits"]["flops"]) > 1e8
    assert found["code"]
    assert measuring.ratio(found, "inference", "extracted") is not None


def test_freed_memory_is_kept_for_every_network(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(work, "keep_freed_memory", lambda: asked.append(True))
    made = work.forward(lambda x: x + 1, torch.zeros(2), {})
    assert asked
    assert made.results()["logits"].tolist() == [1, 1]


def test_a_folder_is_timed(tmp_path: Path) -> None:
    space = tmp_path / "net.space"
    space.write_text("space net() {\n input x: [B, 3, 8, 8]\n output conv(x, 4, 3) as c\n}")
    good("compile", f"{space}:net", "--for", "inference", "--batch", "2", "-o", tmp_path / "net")
    (record,) = data("bench", tmp_path / "net")["records"]
    assert record["row"] == f"{tmp_path / 'net'}:net@2"
    assert len(record["contenders"]["deployed"]["wall"]) == 7
    assert record["flops"] == 2 * 2 * 4 * 8 * 8 * 27
    good("compile", f"{space}:net", "-o", tmp_path / "space")
    assert "SP702" in refused("bench", tmp_path / "space")


def test_two_folders_of_one_network_have_two_records(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.space").write_text(
        "space efficientvit_m0() {\n input x: [1, 8]\n output linear(x, 4) as l\n}"
    )
    for folder in ("one", "two"):
        good("compile", "net.space:efficientvit_m0", "--for", "inference", "-o", folder)
    monkeypatch.setattr(
        measuring, "measure", lambda row, *_: {**record(deployed=[1.0] * 4), "row": row.name}
    )
    good("bench", "one", "./two/", "-o", "found.json")
    assert [*kept(Path("found.json"))["records"]] == [
        "one:efficientvit_m0@1 x1", "two:efficientvit_m0@1 x1",
    ]  # fmt: skip
    assert "efficientvit_m0@1" in BY_NAME, "which is the name of the row beside them"


def test_a_folder_called_as_a_row_is_not_in_its_way(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("efficientvit_m0", "onnxruntime"):
        Path(name).mkdir()
        assert good("bench", "--list", name)
        assert "SP702" in refused("bench", "--list", f"./{name}")


def test_a_row_that_cannot_be_ours() -> None:
    row = Row("no_network", "efficientvit.space:no_such", 1, "inference", ())
    with pytest.raises(SpaceError, match="nothing is called no_such"):
        measuring.measure(row, threads=1)


def test_a_row_that_fails_leaves_the_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first, second = ROWS[:2]

    def measure(row: Row, threads: int, repeats: int) -> dict[str, Any]:
        if row is first:
            raise SpaceError(error("SP703", "it cannot be built"))
        taken = {name.replace(".", "__"): [1.0] * 4 for name in row.contenders}
        return {**record(**taken), "row": row.name}

    monkeypatch.setattr(measuring, "measure", measure)
    path = tmp_path / "found.json"
    told = refused("bench", first.name, second.name, "-o", path)
    assert "it cannot be built" in told
    assert f"{first.name} is left out" in told
    assert [*kept(path)["records"]] == [f"{second.name} x1"]
    result = run("bench", first.name, second.name, "--json")
    assert result.exit_code == 2
    assert [one["row"] for one in json.loads(result.stdout)["records"]] == [second.name]
    assert "it cannot be built" in json.loads(result.stderr.splitlines()[-1])["error"]
