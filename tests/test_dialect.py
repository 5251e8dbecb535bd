"""Names in other code bases: prefixes first, then labels wherever they stand."""

from __future__ import annotations

import pytest

from spacelang.analysis.dialects import dialects, idle
from spacelang.diagnostics import Source
from spacelang.ir.text import write
from spacelang.loader import load
from spacelang.syntax.ir_text import read

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


@pytest.mark.parametrize(
    ("index", "wanted"),
    [
        ("max(i, 1)", "1 1"),
        ("min(i, 1)", "0 1"),
        ("3 if i == 0 else i", "3 1"),
        ("(2 * i + 1) // 2", "0 1"),
    ],
)
def test_indices_that_are_bound_count_from_zero(index: str, wanted: str) -> None:
    graph = load(Source("<names>", TEXT.replace("RULES", f"blocks[i].pw: a[{index}]")))
    for found in (graph, read(Source("<names>", write(graph)))):
        names = (found.dialects["other"].foreign(f"blocks[{i}].pw.c.weight")[0] for i in range(2))
        assert " ".join(name.split(".")[1] for name in names) == wanted


def test_what_is_wrong_has_its_place_in_ir_text_too() -> None:
    """Two names of one parameter, a layout that does not fit, a rule that says nothing."""
    rules = "c.weight: a in order(7)  blocks[i].pw: p  blocks[i].pw: q  nothing: b"
    text = write(load(Source("s.space", TEXT.replace("RULES", rules))))
    graph = read(Source("s.spaceir", text))
    found = [*dialects(graph), *idle([graph])]
    assert [d.code for d in found] == ["SP203", "SP606", "SP504"]
    lines = text.splitlines()
    places = [lines[d.primary.span.position[0] - 1].strip() for d in found]
    assert places[0].startswith('rename "blocks[i].pw" to "q"')
    assert places[1].startswith('rename "c.weight"')
    assert places[2].startswith('rename "nothing"')
