"""Every kernel compiles for every target; what it needs of one is a golden table."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from spacelang.backends.triton import resources
from spacelang.cli import runs
from spacelang.cli.kernels import TARGETS
from spacelang.cli.main import commands

TABLE = Path(__file__).resolve().parent.parent / "golden" / "kernels.json"
ALL_HEADS = "at most 32 bytes, where 32 heads of a tile and of a sum fill the registers"
SPILLS: dict[str, str] = {  # build and target -> why it may spill
    "attention.keys[irpe_k, fp16] sm_90": "8 bytes, where ptxas keeps to 128 registers by itself",
    "attention.queries[autoformer, fp32] sm_90": "8 bytes, where ptxas keeps to 96 registers by itself",
    "cascade_training.attend_back[49 fp32] sm_90": "80 bytes, where ptxas keeps to 128 registers by itself",
    "mixed_attention.sums[mini_swin_6, fp16] sm_80": "32 bytes, where ptxas keeps to 128 registers by itself",
    "mixed_attention.sums[mini_swin_6, fp16] sm_90": "16 bytes, where ptxas keeps to 128 registers by itself",
    "mixed_attention.values[mini_swin_24, fp16] sm_90": ALL_HEADS,
    **dict.fromkeys(
        (f"mixed_attention.keys[mini_swin_24, fp16] sm_{n}" for n in (80, 90, 100)), ALL_HEADS
    ),
}


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100", "gfx942"])
def test_what_kernels_need_of_a_device(
    target: str, fresh_python: Callable[..., str], update_golden: bool
) -> None:
    """In a process of its own, where kernels are compiled and not interpreted."""
    code = "import os; os.environ.pop('TRITON_INTERPRET', None); import json; "
    code += "from spacelang.backends.triton.resources import column; "
    found = json.loads(fresh_python("-c", f"{code}print(json.dumps(column({target!r})))"))
    golden = json.loads(TABLE.read_text("utf-8"))
    if update_golden:
        golden = {build: {**golden.get(build, {}), target: needs} for build, needs in found.items()}
        TABLE.write_text(json.dumps(golden, indent=1) + "\n", "utf-8")
    assert found == {build: targets[target] for build, targets in golden.items()}
    spilling = {f"{build} {target}" for build, needs in found.items() if needs["spilled"]}
    assert spilling == {name for name in SPILLS if name.endswith(f" {target}")}


SECTIONS = ("attention", "mixed_attention", "cascade_training")
"""Families with a table of their own in the document, in which rows go without their name."""


def test_the_document_says_what_the_binaries_need(root: Path) -> None:
    """A row for every build, as generated."""
    golden = json.loads(TABLE.read_text("utf-8"))
    document = (root / "docs" / "kernels.md").read_text("utf-8")
    for name, needs in golden.items():
        family, _, kernel = name.partition(".")
        cells = [
            f"{found['registers']}, {found['spilled']}, {found['shared'] / 1024:g}"
            for found in needs.values()
        ]
        row = f"| {' | '.join((kernel if family in SECTIONS else name, *cells))} |"
        assert row in document, name


MLP = """space t { input x: [B, 5, 8]
  output layer_norm(x) as n |> linear(16) as a |> gelu |> linear(8) as b }"""


def test_the_command_compiles_for_a_target(
    tmp_path: Path, fresh_python: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the kernels that a space has, as the golden table has it."""
    space = tmp_path / "t.space"
    space.write_text(MLP, "utf-8")
    command = ["kernels", str(space), "--target", "sm_90"]
    refused = CliRunner().invoke(commands, command)
    assert "error[SP605]: kernels are interpreted here" in refused.output
    monkeypatch.delenv("TRITON_INTERPRET")
    found = json.loads(fresh_python("-m", "spacelang", *command, "--json"))["binaries"]
    golden = json.loads(TABLE.read_text("utf-8"))
    wanted = {build: on["sm_90"] for build, on in golden.items() if build.startswith("linear.")}
    assert len(wanted) == 4
    assert found == {"mlp": wanted}
    monkeypatch.setattr(runs, "work", lambda *of: lambda *asked: wanted)
    told = CliRunner().invoke(commands, command).output
    first = wanted["linear.norm_gelu[bf16]"]
    line = f"linear.norm_gelu[bf16]: {first['registers']} registers, 0 bytes spilled"
    assert line in told
    assert tuple(resources.TARGETS) == TARGETS
