"""A real package from outside, installed: an op, a row, a pass, an engine, a backend, rules."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parent / "plugin_example"

SPACE = """
space tiny() {
  input pixels: [B, 3, 8, 8]
  choose width in {4, 6}
  x = conv(pixels, width, 3) as stem |> leaky_relu(slope: 0.5) |> relu
  output mean(x, axes: [2, 3]) |> linear(2) as head
  weights { width: trailing }
}
"""

USE = f"""
import torch, spacelang
from spacelang import plugins
from spacelang.diagnostics import Source
from spacelang.engines.protocol import Score

text = {SPACE!r}
graph = spacelang.load(Source("<tiny>", text))
model = spacelang.compile(graph)
small = {{"width": 4}}
x = torch.randn(2, 3, 8, 8)
weights = model.state_dict()
seen = model.activate(small)(x)
h = torch.nn.functional.conv2d(x, weights["stem.weight"][2:], padding=1)
h = torch.relu(torch.nn.functional.leaky_relu(h, 0.5)).mean((2, 3))
wanted = torch.nn.functional.linear(h, weights["head.weight"][:, 2:], weights["head.bias"])
assert torch.allclose(seen, wanted, atol=1e-6), "trailing slices and the leaky row"
other = spacelang.load(Source("<tiny>", text.replace("trailing", "entangle(turned)")))
mirror = spacelang.compile(other)
mirror.load_state_dict(weights)
h = torch.nn.functional.conv2d(x, weights["stem.weight"][2:].flip(0), padding=1)
h = torch.relu(torch.nn.functional.leaky_relu(h, 0.5)).mean((2, 3))
wanted = torch.nn.functional.linear(h, weights["head.weight"][:, 2:].flip(1), weights["head.bias"])
assert torch.allclose(mirror.activate(small)(x), wanted, atol=1e-6), "an index table"
assert torch.allclose(mirror.extract(small)(x), wanted, atol=1e-6), "an index table"
leaking = spacelang.passes.run(graph, "leak{{slope=0.25}}")
assert [n.op for n in leaking.root.nodes].count("leaky_relu") == 2
assert spacelang.compile(graph, backend="list") == list(graph.storages)
class Toy:
    def probe(self, assignments, samples):
        return iter([Score(int(a["width"]), 10) for a in assignments])
climb = plugins.load("spacelang.engines", "climb")(rounds=1)
*_, end = climb.run(graph, Toy(), 0)
assert end.best.assignment["width"] == 6
try:
    spacelang.passes.run(graph, "leek")
except spacelang.SpaceError as failed:
    assert "did you mean leak?" in str(failed), failed
else:
    raise AssertionError("an unknown pass")
print("all seven points")
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("source") / "example"
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("__pycache__"))
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--no-build-isolation", "--target", str(target), str(source)], check=True)
    return target


def test_an_installed_package_adds_to_every_table(installed: Path, root: Path) -> None:
    path = os.pathsep.join([str(installed), str(root)])
    done = subprocess.run(
        [sys.executable, "-c", USE],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        cwd=installed,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "all seven points"


def test_a_clash_names_both_owners(installed: Path, root: Path, tmp_path: Path) -> None:
    other = tmp_path / "other-1.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (other / "entry_points.txt").write_text("[spacelang.passes]\nleak = other:Leak\n")
    code = "from spacelang import plugins; plugins.table('spacelang.passes')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (tmp_path, installed, root)))},
        cwd=tmp_path,
    )
    assert done.returncode != 0
    assert "SP202" in done.stderr
    assert "spacelang-example" in done.stderr
    assert "other" in done.stderr
