"""Programs of small cells for tests: mixtures that decide, a deeper network, and a pool."""

from __future__ import annotations

from functools import cache

from spacelang.diagnostics import Source
from spacelang.ir.program import Program
from spacelang.loader import load_program

TEXT = """
block edge(x: [B, C, H, W]) -> [B, C, H, W] {{
  return choose op {{
    pool: avg_pool(x, 3)
    skip: x
    conv: relu(x) |> conv(C, 3) as conv |> batch_norm(affine: false) as norm
    none: zero(x)
  }}
}}
cell normal(a: [B, C, H, W], b: [B, D, H, W]) {{
  states = [conv(relu(a), 4) as first, conv(relu(b), 4) as second]
  for n in 0..<{nodes} {{
    choose inputs[n] in 2 of states
    y = total(inputs) |s, source, e| {{ return edge(s) as dag[n][e] }}
    states = states + [y]
  }}
  return concat(states[2..{last}], axis: 1)
}}
block glance(x: [B, C, H, W]) -> [B, 10] {{ return mean(relu(x), axes: [2, 3]) |> linear(10) as classifier }}
space small(cells, distilled = true) {{
  input pixels: [B, 1, 8, 8]
  a = conv(pixels, 6, 3, stride: 2) as stem |> batch_norm as norm
  b = a
  for i in 0..<cells {{
    a, b = b, normal(a, b) as cells[i]
    when i == 0 and distilled {{ output near: glance(b) as near }}
  }}
  output mean(b, axes: [2, 3]) |> linear(10) as head
}}
space mixed(cells) from small(cells) {{
  rewrite {{ relax({relax}) }}
  search cyclic_differentiable {{ epochs = 3  warm = 1  never = "none"  regular_on = ["pool", "skip"] }}
}}
program cycle {{
  network shallow = mixed(1)
  network deep = small(2{deep})
  share {share}
  {pool}
}}
"""
POOL = "pool memory = mixed(2) of deep: cells"


def text(
    nodes: int = 2,
    pool: str = POOL,
    relax: str = 'op: "softmax", inputs: "softmax"',
    deep: str = "",
    share: str = "stem, norm, near",
) -> str:
    """The text of a program whose cells have so many nodes, at most four."""
    return TEXT.format(nodes=nodes, last=nodes + 1, pool=pool, relax=relax, deep=deep, share=share)


@cache
def cells(nodes: int = 2, **parts: str) -> Program:
    """The program of a text."""
    return load_program(Source("<cells>", text(nodes, **parts)))
