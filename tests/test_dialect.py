"""Names in other code bases: prefixes first, then labels wherever they stand."""

from __future__ import annotations

import pytest

from spacelang.diagnostics import Source
from spacelang.loader import load

TEXT = """
use conv
space s {
  input x: [B, 3, 8, 8]
  for i in 0..1 { x = conv_bn(x, 3) as blocks[i].pw |> conv_bn(3) as blocks[i].dw }
  output mean(x, axes: [2, 3]) |> linear(4) as c
  names other { RULES }
}
"""


@pytest.mark.parametrize(
    ("rules", "wanted"),
    [
        ("_.c: _.conv", "blocks.0.pw.conv.weight blocks.1.dw.conv.weight conv.weight"),
        ("_.pw.c: _.conv_pw", "blocks.0.conv_pw.weight blocks.1.dw.c.weight c.weight"),
        ("_.c: _.conv  _.pw.c: _.conv_pw", "blocks.0.conv_pw.weight blocks.1.dw.conv.weight conv.weight"),
        ("blocks[i].dw.c: a[i].b  _.b: _.z", "blocks.0.pw.c.weight a.1.b.weight c.weight"),
        ("blocks[i]: stages[i + 1]  _.dw.c: _.last", "stages.1.pw.c.weight stages.2.last.weight c.weight"),
        ("_.pw.c.weight: _.w", "blocks.0.w blocks.1.dw.c.weight c.weight"),
    ],
)  # fmt: skip
def test_foreign_names(rules: str, wanted: str) -> None:
    graph = load(Source("<names>", TEXT.replace("RULES", rules)))
    paths = ("blocks[0].pw.c.weight", "blocks[1].dw.c.weight", "c.weight")
    assert " ".join(graph.dialects["other"].foreign(path)[0] for path in paths) == wanted
