"""What tests of distillation share: a small space of transformers on digits, its data, a teacher."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import spacelang
from spacelang.backends.torch.data.datasets import Dataset, open_data
from spacelang.backends.torch.distillation.distill import DistillTrainer, Lesson, distill, engine_of
from spacelang.backends.torch.distillation.teacher import Teacher
from spacelang.backends.torch.runs.interrupt import Interrupted
from spacelang.backends.torch.runs.run import read_log
from spacelang.backends.torch.supernet import Supernet
from spacelang.backends.torch.training.recipe import Recipe
from spacelang.backends.torch.training.training import Trained
from spacelang.diagnostics import Source
from spacelang.ir.graph import Graph

SPACE = """
use vit
default linear(init: trunc_normal(0.1), bias_init: 0)
default parameter(init: trunc_normal(0.1))
block attention(x: [B, N, C], heads, dim = 4) -> [B, N, C] {
  q, k, v = linear(x, [3, heads, dim]) as qkv |> unstack(axis: 2)
  return linear(weigh(softmax(scores(q, k)), v), C, axes: 2) as proj
}
space digits(widths = {8, 12}, depths = {1, 2}, classes = 10) {
  input x: [B, 1, 8, 8]
  choose width in widths
  choose depth in depths
  block layer(x: [B, N, C], drop) -> [B, N, C] {
    choose heads in {1, 2}
    x = x + (layer_norm(x) as norm1 |> attention(heads) as attn |> drop_path(drop))
    return x + (layer_norm(x) as norm2 |> mlp(C * 2) as mlp |> drop_path(drop))
  }
  x = patch_embed(x, width, patch: 4) as stem |> tokens |> add_positions as _
  for i in 0..<depth { x = layer(x, drop: 0.25 * i) as layers[i] }
  output mean(x, axes: [1]) |> linear(classes) as head
  weights { _: entangle }
}
"""
ATTENTION = ("layers[{0,1}].attn.qkv = layers[{0,2}].attn.qkv",)
HIDDEN = ("layers[{0,1}] = layers[{0,2}]",)
MINIVIT = {
    "losses": ("soft_cross_entropy", "relations", "hidden_relations=0.1", "hidden_states=0.1"),
    "attention": ATTENTION,
    "hidden": HIDDEN,
}
RECIPE = Recipe(epochs=3, batch_size=40, lr=1e-2, warmup_epochs=0, aug="digits", val_interval=0)


def student() -> Graph:
    return spacelang.load(Source("<digits>", SPACE))


def small(data: Dataset, count: int = 100) -> Dataset:
    """Fewer training images."""
    part = data.train
    cut = replace(
        part, images=part.images[:count], labels=part.labels[:count], ids=part.ids[:count]
    )
    return replace(data, train=cut)


def digits() -> Dataset:
    return small(open_data("digits"))


def a_teacher(seed: int = 1, **sizes: object) -> Teacher:
    """A wider and deeper network, whose weights nobody trained: it teaches the same to all."""
    graph = spacelang.load(Source("<digits>", SPACE), widths={16}, depths={3}, **sizes)
    model = Supernet(graph, seed=seed).eval()
    torch.manual_seed(seed)
    return Teacher.of(model, f"teacher {seed}")


def learn(
    folder: Path,
    data: Dataset,
    settings: Mapping[str, Any],
    *,
    graph: Graph | None = None,
    recipe: Recipe = RECIPE,
    **who: Any,
) -> Trained:
    """A distillation of the small student."""
    lesson = Lesson(engine_of(recipe, settings), **who)
    return distill(graph or student(), data, recipe, folder, lesson, seed=3)


def newest(folder: Path) -> Path:
    """The last checkpoint of a run."""
    return max(folder.glob("checkpoint-*.safetensors"))


def fingerprint(folder: Path) -> tuple[str, str]:
    """The bytes of the newest weights, and the log."""
    return hashlib.sha256(newest(folder).read_bytes()).hexdigest(), repr(read_log(folder))


def stopped_and_gone_on_with(
    run: Callable[[Path], object], folder: Path, monkeypatch: pytest.MonkeyPatch, *stops: int
) -> None:
    """A run in `folder` that a signal ends after each of these steps, and that then goes on."""
    original = DistillTrainer.step
    for stop in stops:

        def step(self: DistillTrainer, plan: Any, stop: int = stop) -> Any:
            found = original(self, plan)
            if plan.step == stop:
                os.kill(os.getpid(), signal.SIGTERM)
            return found

        monkeypatch.setattr(DistillTrainer, "step", step)
        with pytest.raises(Interrupted):
            run(folder)
    monkeypatch.setattr(DistillTrainer, "step", original)
    run(folder)
