"""Every kernel compiles for every target; what it needs of one is a golden table."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from kernels.resource_tables import OTHERS, OWN, SPILLS, TABLE, families, golden, page

from spacelang.backends.triton import resources
from spacelang.backends.triton.resources import builds_of
from spacelang.cli import runs
from spacelang.cli.kernels import TARGETS
from spacelang.cli.main import commands


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100", "gfx942"])
def test_what_kernels_need_of_a_device(
    target: str, fresh_python: Callable[..., str], update_golden: bool
) -> None:
    """In a process of its own, where kernels are compiled and not interpreted."""
    code = "import os; os.environ.pop('TRITON_INTERPRET', None); import json; "
    code += "from spacelang.backends.triton.resources import column; "
    found = json.loads(fresh_python("-c", f"{code}print(json.dumps(column({target!r})))"))
    table = golden()
    if update_golden:
        table = {build: {**table.get(build, {}), target: needs} for build, needs in found.items()}
        TABLE.write_text(json.dumps(table, indent=1) + "\n", "utf-8")
    assert found == {build: targets[target] for build, targets in table.items()}
    spilling = {f"{build} {target}" for build, needs in found.items() if needs["spilled"]}
    assert spilling == {name for name in SPILLS if name.endswith(f" {target}")}


def test_the_document_says_what_the_binaries_need(root: Path, update_golden: bool) -> None:
    """Its tables are the golden one, whole: no row is missing, and none is of a build that went."""
    path = root / "docs" / "kernels.md"
    text = path.read_text("utf-8")
    assert families(text) == [*OWN, OTHERS]
    made = page(text, golden())
    if update_golden:
        path.write_text(made, "utf-8")
    else:
        assert made == text, "run pytest tests/kernels/test_resources.py --update-golden"
    assert page(made.replace("* `", "* ` "), golden()) == made.replace("\n* ` ", "\n* `")


MLP = """space t { input x: [B, 5, 8]
  output layer_norm(x) as n |> linear(16) as a |> gelu |> linear(8) as b }"""


def test_the_command_compiles_for_a_target(
    tmp_path: Path, fresh_python: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the variants that a space has, as the golden table has it; what none has is named."""
    space = tmp_path / "t.space"
    space.write_text(MLP, "utf-8")
    command = ["kernels", str(space), "--target", "sm_90"]
    refused = CliRunner().invoke(commands, command)
    assert "error[SP605]: kernels are interpreted here" in refused.output
    monkeypatch.delenv("TRITON_INTERPRET")
    found = json.loads(fresh_python("-m", "spacelang", *command, "--json"))
    mine = ("norm_gelu[bf16]", "plain[bf16]", "mixed[bf16]", "norm_gelu[fp32]", "plain[fp32]")
    wanted = {f"linear.{build}": golden()[f"linear.{build}"]["sm_90"] for build in mine}
    assert found["binaries"] == {"mlp": wanted}
    assert found["unbuilt"] == {}

    def needs(kernel: str, target: str, variants: list[dict[str, int | str]]) -> resources.Needs:
        return resources.Needs(wanted, [v for v in variants if not builds_of(kernel, v)])

    monkeypatch.setattr(runs, "work", lambda *of: needs)
    space.write_text(MLP.replace("gelu", "relu"), "utf-8")
    told = CliRunner().invoke(commands, command).output
    first = wanted["linear.norm_gelu[bf16]"]
    line = f"linear.norm_gelu[bf16]: {first['registers']} registers, 0 bytes spilled"
    assert line in told
    assert told.count("not compiled, as no published network has it") == 1
    assert "has it: ACTIVATION relu, ALIGNED 8, BIAS 1, NORM 1" in told
    assert tuple(resources.TARGETS) == TARGETS
