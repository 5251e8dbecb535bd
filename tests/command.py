"""The command line in this process, for tests: run a command, read what it prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from spacelang.cli.main import commands

TINY = "autoformer.space:autoformer_t"
FIXED = "autoformer.space:autoformer_t_subnet"
SHIPPED = sorted(p.stem for p in (Path(__file__).parents[1] / "spaces").glob("*.space"))

# 12 networks: 2 widths, and 2 ratios for each of 1 or 2 layers.
SPACE = """
space small(classes = 10, widths = {8, 16}) {
  input x: [B, 12]
  choose width in widths
  choose depth in {1, 2}
  block layer(x: [B, width]) -> [B, width] {
    choose ratio in {1, 2}
    return x + (linear(x, width * ratio) as up |> gelu |> linear(width) as down)
  }
  y = linear(x, width) as stem
  for i in 0..<depth { y = layer(y) as layers[i] }
  output linear(y, classes) as head
  weights { _: entangle }
}
subnet least of small { width = 8  depth = 1  layers[0].ratio = 1 }
"""


def run(*words: object, stdin: str | bytes | None = None) -> Result:
    """One command in this process; an exception that leaves it fails the test."""
    result = CliRunner().invoke(commands, [str(word) for word in words], input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def good(*words: object, stdin: str | bytes | None = None) -> str:
    """The stdout of a command that succeeds and says nothing on stderr."""
    result = run(*words, stdin=stdin)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    return result.stdout


def data(*words: object, stdin: str | bytes | None = None) -> Any:
    """The JSON document that a command prints."""
    return json.loads(good(*words, "--json", stdin=stdin))


def refused(*words: object, code: int = 2) -> str:
    """The stderr of a command that ends with a code, and without a traceback."""
    result = run(*words)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.stderr
