"""Commands with `--backend triton --require-fused`: they find what they find without, in kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import data
from triton.runtime.interpreter import GridExecutor

SIZES = ("image=8", "classes=2", "depths={1}", "widths={16, 32}", "head_counts=1..2", "ratios={1}")
SPACE = ("quickstart.space", *(word for size in SIZES for word in ("--set", size)))
# An optimiser divides by the size of a gradient: one that is only rounding must not become a step.
STEP = ("--epochs", 1, "-b", 4, "--lr", 0.01, "--opt-eps", 0.01, "--warmup-epochs", 0)
FUSED = ("--backend", "triton", "--require-fused")
QUIET = ("--progress", "quiet")
TOLERANCE = 1e-5
FORWARD = {"forward_kernel", "_linear_kernel"}
BACKWARD = {"queries_kernel", "keys_kernel", "offsets_kernel"}


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The names of kernels, as they are launched."""
    names: set[str] = set()
    run = GridExecutor.__call__

    def seen(grid: Any, *given: Any, **named: Any) -> None:
        names.add(grid.fn.__name__)
        run(grid, *given, **named)

    monkeypatch.setattr(GridExecutor, "__call__", seen)
    return names


def test_a_step_a_search_and_a_step_with_a_teacher(tmp_path: Path, launched: set[str]) -> None:
    """Each on a few images, of which training has one step."""
    images, (plain, fused) = tmp_path / "images.npz", (tmp_path / "plain", tmp_path / "fused")
    pixels = np.random.default_rng(0).integers(0, 255, (8, 8, 8)).astype(np.uint8)
    np.savez(images, images=pixels, labels=np.arange(8) % 2)
    step = (*SPACE, "--data", images, *STEP, *QUIET)
    wanted = data("train", *step, "-o", plain)
    assert launched == set()
    found = data("train", *step, "-o", fused, *FUSED)
    assert launched >= FORWARD | BACKWARD
    assert losses(found) == pytest.approx(losses(wanted), rel=TOLERANCE)

    launched.clear()
    search = ("--engine", "random", "-s", "evaluations=1", "--no-baselines", *QUIET)
    wanted, found = data("search", plain, *search), data("search", fused, *search, *FUSED)
    assert launched == FORWARD
    assert found["front"] == wanted["front"]

    launched.clear()
    taught = (*step, "--teacher", plain)
    wanted = data("distill", *taught, "-o", tmp_path / "taught")
    assert launched == set()
    found = data("distill", *taught, "-o", tmp_path / "taught-fused", *FUSED)
    assert launched >= FORWARD | BACKWARD
    assert losses(found) == pytest.approx(losses(wanted), rel=TOLERANCE)


def losses(found: dict[str, Any]) -> list[float]:
    assert found["log"]
    return [row["loss"] for row in found["log"]]
