"""What tests of passes share: graphs of texts, and graphs in which the verifier finds nothing."""

from __future__ import annotations

from spacelang.diagnostics import Report, Source
from spacelang.ir.graph import Graph
from spacelang.ir.pattern import Pattern, parse_pattern
from spacelang.ir.verify import verify
from spacelang.loader import load
from spacelang.passes.multiplex import Every, Multiplex

MIX = """
block mix(a: [B, H, N, M]) -> [B, H, N, M] {
  return rearrange(a, "b h i j -> b i j h") |> linear(H, bias: false) as _
      |> rearrange("b i j h -> b h i j")
}
"""


def paths(*texts: str) -> tuple[Pattern, ...]:
    return tuple(parse_pattern(t) for t in texts)


def multiplex(path: str, every: Every = 2, own: tuple[str, ...] = ()) -> Multiplex:
    return Multiplex(parse_pattern(path), every, paths(*own))


def text_graph(text: str) -> Graph:
    return load(Source("test.space", text))


def sound(graph: Graph) -> Graph:
    """The graph, once the verifier has found nothing."""
    report = Report()
    verify(graph, report)
    assert [d.headline for d in report] == []
    return graph


def weights(graph: Graph) -> int:
    return sum(s.numel for s in graph.storages.values() if s.param.role == "weight")
