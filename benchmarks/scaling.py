"""How what runs grows: counting and sampling, a training step, and a search over processes.

    python benchmarks/scaling.py [--only count|step|search] [--repeats 5]

Seconds of the processor, the least of some repeats, on one thread; a search is candidates a second
of wall time. Writes benchmarks/results/scaling.json; `curves.py` draws it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "benchmarks" / "results" / "scaling.json"
PROCESSES = (1, 2, 4)

LAYERS = """\
use vit
space grown(depths, ratios) {
  input pixels: [B, 3, 32, 32]
  choose width in 32..64 by 16
  choose depth in depths
  x = patch_embed(pixels, width, patch: 8) as stem |> tokens
  for i in 0..<depth {
    choose ratio[i] in ratios
    x = x + (layer_norm(x) as norm[i] |> mlp(width * ratio) as mlp[i])
  }
  output mean(x, axes: [1]) |> linear(10) as head
  weights { _: entangle }
}
space measured = grown(1..%d, {%s})
"""

NETWORK = """\
use vit
space grown(width = %d, depth = %d, image = %d) {
  input pixels: [B, 3, image, image]
  block encoder(x: [B, N, C]) -> [B, N, C] {
    q, k, v = layer_norm(x) as norm1 |> linear([3, C / 32, 32]) as qkv |> unstack(axis: 2)
    x = x + linear(weigh(softmax(scores(q, k) / 6), v), C, axes: 2) as proj
    return x + (layer_norm(x) as norm2 |> mlp(C * 4) as mlp)
  }
  x = patch_embed(pixels, width, patch: 4) as stem |> tokens
  for i in 0..<depth { x = encoder(x) }
  output mean(x, axes: [1]) |> linear(10) as head
}
"""

Curve = dict[str, float]


def least(
    work: Callable[[], object], repeats: int, before: Callable[[], object] | None = None
) -> float:
    """Least seconds of the processor; what `before` does each time is not counted."""
    found: list[float] = []
    for _ in range(repeats):
        if before is not None:
            before()
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return min(found)


def counting(repeats: int) -> dict[str, Curve]:
    """A count and a thousand draws under a budget, by depth and by candidates of a layer."""
    from spacelang.diagnostics import Source
    from spacelang.loader import load

    def both(depth: int, candidates: int) -> tuple[float, float]:
        ratios = ", ".join(str(1 + i / 16) for i in range(candidates))
        source = Source("grown.space", LAYERS % (depth, ratios))
        graph = load(source)
        largest = graph.cost(graph.decisions.extreme("largest")).params
        smallest = graph.cost(graph.decisions.extreme("smallest")).params
        middle = (largest + smallest) // 2
        where = f"params in {middle * 9 // 10}..{middle * 11 // 10}"

        def anew() -> None:
            nonlocal graph
            graph = load(source)

        counted = least(lambda: graph.size(where=where), repeats, anew)
        drawn = least(
            lambda: list(graph.sample(n=1000, seed=0, where=where)), repeats, lambda: None
        )
        return counted, drawn

    found: dict[str, Curve] = {}
    for axis, sizes in {"depth": (4, 8, 16, 32, 64), "candidates": (2, 4, 8, 16, 32)}.items():
        for size in sizes:
            pair = both(size, 4) if axis == "depth" else both(12, size)
            for name, seconds in zip(("count", "1,000 draws"), pair, strict=True):
                found.setdefault(f"{name} by {axis}", {})[str(size)] = seconds
                print(f"{name} by {axis} {size}: {seconds:.4f} s", flush=True)
    return found


def stepping(repeats: int) -> dict[str, Curve]:
    """Forward and backward of eight images, by width, depth and tokens."""
    import torch

    import spacelang
    from spacelang.diagnostics import Source
    from spacelang.loader import load

    torch.set_num_threads(1)

    def step(width: int, depth: int, tokens: int) -> float:
        image = 4 * round(tokens**0.5)
        graph = load(Source("grown.space", NETWORK % (width, depth, image)))
        model = spacelang.compile(graph)
        images = torch.randn(8, 3, image, image)

        def work() -> None:
            model.zero_grad(set_to_none=True)
            model(images).square().mean().backward()

        work()
        return least(work, repeats)

    curves: dict[str, Iterable[tuple[int, int, int]]] = {
        "width": ((w, 4, 64) for w in (64, 128, 256, 512)),
        "depth": ((128, d, 64) for d in (2, 4, 8, 16, 32)),
        "tokens": ((128, 4, n) for n in (16, 64, 256, 1024)),
    }
    found: dict[str, Curve] = {}
    for place, (axis, points) in enumerate(curves.items()):
        for point in points:
            seconds = step(*point)
            found.setdefault(f"step by {axis}", {})[str(point[place])] = seconds
            print(f"step by {axis} {point[place]}: {seconds:.4f} s", flush=True)
    return found


def searching(repeats: int) -> dict[str, Curve]:
    """Candidates a second of the quickstart's evolution, evaluated by so many processes."""
    del repeats
    rates: Curve = {}
    with tempfile.TemporaryDirectory() as folder:
        trained = Path(folder) / "trained"
        spacelang(
            "train",
            "quickstart.space",
            "--data",
            "mnist5k",
            "--epochs",
            "1",
            "--shards",
            "4",
            "-o",
            trained,
        )
        for processes in PROCESSES:
            out = Path(folder) / f"search{processes}"
            start = time.perf_counter()
            spacelang(
                "search", trained, "--no-baselines", "-o", out, "--seed", "1", processes=processes
            )
            seconds = time.perf_counter() - start
            trials = spacelang("trials", out).count("\n") - 1
            rates[str(processes)] = trials / seconds
            print(f"search by processes {processes}: {trials / seconds:.2f} a second", flush=True)
    return {"candidates a second by processes": rates}


def spacelang(*arguments: str | Path, processes: int = 1) -> str:
    """Run a command, under torchrun where several processes share it; what it prints."""
    command = [sys.executable, "-m", "spacelang"]
    if processes > 1:
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node"]
        command += [str(processes), "-m", "spacelang"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    if done.returncode:
        sys.exit(re.sub(r"\n+", "\n", done.stderr))
    return done.stdout


GROUPS = {"count": counting, "step": stepping, "search": searching}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=GROUPS)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    kept = json.loads(OUT.read_text())["curves"] if OUT.exists() else {}
    for name, measured in GROUPS.items():
        if given.only in (None, name):
            kept |= measured(given.repeats)
    facts = {"python": platform.python_version(), "cores": os.cpu_count()}
    OUT.write_text(json.dumps({"facts": facts, "curves": kept}, indent=1) + "\n")
    print(f"written to {OUT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
