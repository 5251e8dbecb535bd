"""Speed and size of the compiler: every figure that the documents state, measured in one run.

    python benchmarks/compiler.py [--repeats 7] [--only NAME]
    python benchmarks/compiler.py --page     # only the page, from the results

Writes benchmarks/results/compiler.json and the table of docs/benchmarks.md. Times are medians of
wall time; processes are started fresh where a start is part of what is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spacelang.analysis.budget import Budget
    from spacelang.backends.torch.supernet import Supernet
    from spacelang.ir.graph import Graph

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "compiler.json"
PAGE = ROOT / "docs" / "benchmarks.md"
BEGIN = "<!-- compiler: made by benchmarks/compiler.py -->"
END = "<!-- end of compiler -->"
# What is wanted of a figure, by how its name begins; the longest that fits is taken. Times are at
# most so long, rates at least so high.
AT_MOST: Mapping[str, float] = {
    "check ": 1.0, "check autoformer.space": 0.5, "check of 5,000 lines": 5.0,
    "load + verify": 1.0, "load + verify autoformer_t": 0.15,
    "count autoformer": 0.1, "count s3": 30.0, "count c": 1.0,
    "activate": 0.001, "extract": 0.5, "bytes of the supernet": 1.05,
}  # fmt: skip
AT_LEAST: Mapping[str, float] = {
    "uniform draws a second": 5_000, "uniform draws a second, autoformer_t": 50_000,
    "vectorised costs a second": 1e6,
    "cost of a candidate, times": 1_000, "draw under a budget, times": 1_000,
}  # fmt: skip
SEARCHABLE = {
    "autoformer_t": "autoformer.space:autoformer_t",
    "autoformer_s": "autoformer.space:autoformer_s",
    "autoformer_b": "autoformer.space:autoformer_b",
    "s3_start": "s3.space:s3_start",
    "tinyvit_contraction": "tinyvit.space:tinyvit_contraction",
    "efficientvit_search": "efficientvit.space:efficientvit_search",
    "cream": "cream.space:cream",
    "cdarts_cifar10": "cdarts.space:cifar10",
    "cdarts_imagenet": "cdarts.space:imagenet",
}
BANDS = (
    ("autoformer_t", "params in 5.0M..5.1M"),
    ("autoformer_s", "params in 22.5M..23M"),
    ("autoformer_b", "params in 53M..54M"),
    ("s3_start", "macs in 4.4G..4.6G"),
    ("s3_start", "params in 25M..30M"),  # with its own limit on MACs: both figures at once
    ("tinyvit_contraction", "params in 8M..10M"),
    ("efficientvit_search", "params in 6M..8M"),
    ("cream", "params in 5.5M..6.5M"),
    ("cream", "macs in 300M..400M"),
    ("cdarts_cifar10", "params in 3M..3.5M"),
    ("cdarts_cifar10", "macs in 500M..600M"),
    ("cdarts_imagenet", "params in 4.5M..5M"),
)


def timed(work: Callable[[], object], repeats: int) -> float:
    """Median seconds of a piece of work, after one warm-up."""
    work()
    times: list[float] = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def worked(work: Callable[[], object], repeats: int) -> float:
    """Median seconds of the processor, which others on the machine do not lengthen."""
    work()
    times: list[float] = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return statistics.median(times)


def command(*arguments: str) -> Callable[[], object]:
    def run() -> object:
        return subprocess.run(
            [sys.executable, "-m", "spacelang", *arguments],
            check=True,
            capture_output=True,
            cwd=ROOT,
        )

    return run


def long_file(lines: int) -> str:
    """A space of about so many lines of ordinary statements."""
    blocks = ["use vit", "space long(width = 64, image = 32, classes = 10) {"]
    blocks.append("  input pixels: [B, 3, image, image]")
    blocks.append("  x = patch_embed(pixels, width, patch: 4) as patch_embed |> tokens")
    for i in range(lines // 2):
        blocks.append(f"  let hidden_{i} = {i % 3 + 2} * width")
        blocks.append(f"  x = x + (layer_norm(x) as norms[{i}] |> mlp(hidden_{i}) as mlps[{i}])")
    blocks.append("  output mean(x, axes: [1]) |> linear(classes) as head")
    return "\n".join([*blocks, "}", ""])


def starts(repeats: int) -> dict[str, float]:
    """From process start to exit, bytecode compiled."""
    found = {
        "python -c pass": timed(
            lambda: subprocess.run([sys.executable, "-c", "pass"], check=True), repeats
        ),
        "spacelang --help": timed(command("--help"), repeats),
    }
    shipped = ROOT / "spaces"
    for path in sorted((*shipped.glob("*.space"), *shipped.glob("combinations/*.space"))):
        name = path.relative_to(shipped).as_posix()
        found[f"check {name}"] = timed(command("check", f"spaces/{name}"), repeats)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "long.space"
        path.write_text(long_file(5000))
        found["check of 5,000 lines"] = timed(command("check", str(path)), 1)
    return found


def loads(repeats: int) -> dict[str, float]:
    """Parse, elaborate with full proof, lay out storage and verify, in a warm process."""
    from spacelang.diagnostics import Report
    from spacelang.ir.verify import verify
    from spacelang.loader import load
    from spacelang.syntax.parse import parse

    def whole(address: str) -> None:
        parse.cache_clear()
        report = Report()
        verify(load(ROOT / "spaces" / address), report)
        report.check()

    return {
        f"load + verify {name}": timed(lambda a=a: whole(a), repeats)
        for name, a in SEARCHABLE.items()
    }


def count(graph: Graph, where: Budget) -> None:
    """Count what is within a budget, with nothing kept; bounds would be no count."""
    from spacelang.analysis.cost import CostModel
    from spacelang.analysis.count import Counter

    assert isinstance(Counter(graph, CostModel(graph)).size(where), int)


def counts(repeats: int) -> dict[str, float]:
    """Tables and an exact count under a budget, nothing cached; and draws per second."""
    import numpy as np

    from spacelang.analysis.cost import CostModel
    from spacelang.analysis.count import Counter
    from spacelang.loader import load
    from spacelang.syntax.budget import parse_where

    found: dict[str, float] = {}
    for name, text in BANDS:
        graph = load(ROOT / "spaces" / SEARCHABLE[name])
        where, asked = parse_where(graph, text), f"{name} ({text})"
        found[f"count {asked}"] = timed(partial(count, graph, where), max(1, repeats // 2))
        counter = Counter(graph, CostModel(graph))
        draws = 50_000 if name.startswith("autoformer") else 5_000
        rng = np.random.default_rng(0)
        counter.draw_indices(10, rng, where)
        seconds = timed(partial(counter.draw_indices, draws, rng, where), 1)
        found[f"uniform draws a second, {asked}"] = draws / seconds
    graph = load(ROOT / "spaces" / SEARCHABLE["autoformer_t"])
    counter = Counter(graph, CostModel(graph))
    many = counter.draw_indices(200_000, np.random.default_rng(0))
    found["vectorised costs a second, autoformer_t"] = len(many) / timed(
        lambda: counter.costs(many), 3
    )
    return found


def accounting(repeats: int) -> dict[str, float]:
    """What a candidate costs and one under a budget, beside the published way: weights are cut out
    of the supernet and measured, and candidates are drawn until one fits."""
    import numpy as np

    from spacelang.analysis.cost import CostModel
    from spacelang.analysis.count import Counter
    from spacelang.backends.torch import weights
    from spacelang.backends.torch.bench.published.autoformer import AutoFormer
    from spacelang.backends.torch.supernet import Supernet
    from spacelang.loader import load
    from spacelang.syntax.budget import parse_where

    graph = load(ROOT / "spaces" / SEARCHABLE["autoformer_t"])
    state = weights.save(Supernet(graph), names="published")
    counter, where = Counter(graph, CostModel(graph)), parse_where(graph, "params in 5.75M..5.85M")
    many = counter.draw_indices(200_000, np.random.default_rng(0))
    own = timed(lambda: counter.costs(many), 3) / len(many)
    few = list(graph.sample(50, seed=0))

    def count() -> None:
        for candidate in few:
            AutoFormer(state, graph, candidate).parameters()

    published = timed(count, repeats) / len(few)
    low, high = 5_750_000, 5_850_000
    start, drawn, accepted = time.perf_counter(), 0, 0
    while accepted < 20:
        for candidate in graph.sample(100, seed=drawn):
            accepted += low <= AutoFormer(state, graph, candidate).parameters() <= high
        drawn += 100
    rejecting = (time.perf_counter() - start) / accepted
    draw = timed(lambda: counter.draw_indices(50_000, np.random.default_rng(0), where), 1) / 50_000
    return {
        "cost of a candidate, autoformer_t": own,
        "cost of a candidate, as published": published,
        "cost of a candidate, times as fast as the published accounting": published / own,
        "draw under a budget, autoformer_t": draw,
        "draw under a budget by rejection, as published": rejecting,
        "draw under a budget, times as fast as rejection as published": rejecting / draw,
    }


FIRST_EXTRACTION = """
import sys, time
import spacelang, torch
torch.set_num_threads(int(sys.argv[2]))
graph = spacelang.load(sys.argv[1])
model = spacelang.compile(graph)
drawn = graph.sample(n=1, seed=int(sys.argv[3]))[0]
start = time.perf_counter()
model.extract(drawn)
print(time.perf_counter() - start)
"""


def cold_extraction(threads: int, repeats: int) -> float:
    """Median seconds of the first extraction in a process, of another architecture each time."""
    space = str(ROOT / "spaces" / SEARCHABLE["autoformer_t"])
    times: list[float] = []
    for seed in range(repeats):
        run = [sys.executable, "-c", FIRST_EXTRACTION, space, str(threads), str(seed)]
        done = subprocess.run(run, check=True, capture_output=True, cwd=ROOT, text=True)
        times.append(float(done.stdout))
    return statistics.median(times)


def held(model: Supernet) -> int:
    """Bytes of all distinct storages of a supernet that has run, its index tables with them."""
    from spacelang.backends.torch.inputs import example

    model(*example(model.graph))
    return sum(
        {
            t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
            for t in (*model.parameters(), *model.buffers())
        }.values()
    )


def networks(repeats: int) -> dict[str, float]:
    """activate and extract of random AutoFormer-T architectures; bytes of the supernet."""
    import torch

    import spacelang

    graph = spacelang.load(ROOT / "spaces" / SEARCHABLE["autoformer_t"])
    model = spacelang.compile(graph)
    drawn = graph.sample(n=64, seed=0)
    turn = iter(range(1 << 30))
    before, extracting = torch.get_num_threads(), dict[str, float]()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for kind, measured in (("warm", timed), ("warm, processor", worked)):
            found = measured(lambda: model.extract(drawn[next(turn) % 64]), 4 * repeats)
            extracting[f"extract autoformer_t, {kind}, {threads} threads"] = found
        found = cold_extraction(threads, repeats)
        extracting[f"extract autoformer_t, first in a process, {threads} threads"] = found
    torch.set_num_threads(before)

    def activate() -> None:
        model.activate(drawn[next(turn) % 64])

    params = sum(s.numel for s in graph.storages.values() if s.param.role == "weight")
    return {
        "activate autoformer_t": timed(activate, 64),
        **extracting,
        "bytes of the supernet over 4 x parameters": held(model) / (4 * params),
    }


def texts(repeats: int) -> dict[str, float]:
    """Reading: long files, what is refused, IR text; and a batch of augmented images."""
    import numpy as np
    import torch

    from spacelang.backends.torch.data.augment import RECIPES, augment
    from spacelang.diagnostics import Source, SpaceError
    from spacelang.ir.text import write
    from spacelang.loader import load
    from spacelang.syntax.ir_text import read
    from spacelang.syntax.parse import parse

    line = "  x = linear(x, width * ratio) as fc1 |> gelu |> linear(width) as fc2\n"
    long = Source("<long>", "space a {\n" + line * 5_000 + "}\n")
    bombs = {
        "500,000 brackets": "let a = " + "(" * 500_000,
        "100,000 signs": "let a = " + "-" * 100_000 + "1",
        "70,000 terms": "let a = " + " + ".join(["b"] * 70_000),
        "30,000 wrong lines": "let a 3\n" * 30_000,
    }

    def refuse(text: str) -> None:
        try:
            parse(Source("<bomb>", text))
        except SpaceError:
            return
        raise AssertionError("it was not refused")

    def anew(source: Source) -> object:
        parse.cache_clear()
        return parse(source)

    def vary() -> object:
        return augment(images, RECIPES["digits"], seed=0, epoch=0, ids=ids)

    ir = Source("<ir>", write(load(ROOT / "spaces" / SEARCHABLE["autoformer_t"])))
    images, ids = torch.rand(128, 1, 28, 28), np.arange(128)
    return {
        "parse 5,000 lines": timed(lambda: anew(long), 1),
        **{f"refuse {n}": timed(lambda t=t: refuse(t), 1) for n, t in bombs.items()},
        "read the IR text of autoformer_t": timed(lambda: read(ir), repeats),
        "augment 128 digits": timed(vary, repeats),
    }


PARTS = {
    "starts": starts, "loads": loads, "texts": texts, "counts": counts, "accounting": accounting,
    "networks": networks,
}  # fmt: skip


def wanted(name: str) -> tuple[str, float] | None:
    """`<=` or `>=` and a bound, for a figure of which something is asked."""
    found = [
        (len(start), sign, bound)
        for sign, table in (("<=", AT_MOST), (">=", AT_LEAST))
        for start, bound in table.items()
        if name.startswith(start)
    ]
    return max(found)[1:] if found else None


def met(name: str, value: float) -> bool:
    asked = wanted(name)
    return asked is None or (value <= asked[1] if asked[0] == "<=" else value >= asked[1])


def shown(name: str, value: float) -> str:
    if any(word in name for word in ("a second", "times as")):
        return f"{value:,.0f}"
    if name.startswith("bytes"):
        return f"{value:.4f}"
    for unit, size in (("us", 1e-6), ("ms", 1e-3)):
        if value < 1e3 * size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g} s"


def table(figures: Mapping[str, float]) -> str:
    """The table of the page, a line a figure."""
    lines = ["| what | measured | wanted |", "|---|---|---|"]
    for name, value in figures.items():
        sign, bound = wanted(name) or ("", 0.0)
        verdict = "" if met(name, value) else ": missed"
        asked = f"{sign} {bound:,.10g}" if sign else ""
        lines.append(f"| {name} | {shown(name, value)} | {asked}{verdict} |")
    return "\n".join(lines)


def with_table(page: str, figures: Mapping[str, float]) -> str:
    start, end = page.index(BEGIN) + len(BEGIN), page.index(END)
    return f"{page[:start]}\n{table(figures)}\n{page[end:]}"


def write(figures: Mapping[str, float]) -> None:
    facts = {
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"facts": facts, "figures": figures}, indent=1) + "\n")
    print(f"written to {RESULTS.relative_to(ROOT)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--page", action="store_true")
    given = parser.parse_args()
    figures: dict[str, float] = {}
    for name, part in {} if given.page else PARTS.items():
        if given.only in (None, name):
            for what, value in part(given.repeats).items():
                figures[what] = value
                missed = "" if met(what, value) else "  missed"
                print(f"{what:60} {value:14.4f}{missed}", flush=True)
    if given.only is None:
        if not given.page:
            write(figures)
        kept = json.loads(RESULTS.read_text())["figures"]
        PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), kept), encoding="utf-8")


if __name__ == "__main__":
    main()
