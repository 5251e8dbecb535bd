"""Training in bfloat16 beside float32: the loss after 200 steps, seed by seed.

    python benchmarks/precision.py [--seeds 5]

The quickstart's supernet (AutoFormer's weight-entangled transformer) on 5,000 digits, a random path
a step, by the recipe below; the loss is the mean of the last epoch. With `--amp` weights and their
moments stay in float32. The record is benchmarks/results/precision.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch

import spacelang
from spacelang.backends.torch.data.datasets import open_data
from spacelang.backends.torch.runs.progress import progress
from spacelang.backends.torch.runs.run import environment
from spacelang.backends.torch.training.recipe import Recipe
from spacelang.backends.torch.training.training import train
from spacelang.files import atomic_write

RESULT = Path(__file__).resolve().parent / "results" / "precision.json"
RECIPE = Recipe(
    epochs=2, batch_size=30, lr=2e-3, warmup_epochs=0, aug="digits", val_interval=2
)  # 100 steps an epoch


def trained(seed: int, amp: bool) -> dict[str, float]:
    """The mean loss of the last epoch, and how many steps there were."""
    with progress("quiet") as told, tempfile.TemporaryDirectory() as folder:
        recipe = replace(RECIPE, amp=amp)
        graph, data = spacelang.load("quickstart.space"), open_data("mnist5k")
        made = train(graph, data, recipe, Path(folder) / "run", seed=seed, reporter=told)
    last = made.log[-1]
    return {"loss": cast(float, last["loss"]), "steps": cast(int, last["step"])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    kinds = {"float32": False, "bfloat16": True}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in kinds}
    for seed in range(given.seeds):
        for name, amp in kinds.items():
            found[name].append(trained(seed, amp))
            print(f"seed {seed}  {name:<9} {found[name][-1]}", flush=True)
    losses = {name: [one["loss"] for one in all_] for name, all_ in found.items()}
    low, high = min(losses["float32"]), max(losses["float32"])
    within = sum(low <= loss <= high for loss in losses["bfloat16"])
    print(f"float32 {low:.4f} to {high:.4f}, mean {statistics.mean(losses['float32']):.4f}")
    print(
        f"bfloat16 mean {statistics.mean(losses['bfloat16']):.4f}, {within} of {given.seeds} within"
    )
    record: dict[str, Any] = {"losses": found, "within": within, "environment": environment()}
    atomic_write(RESULT, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
