"""Names of PyTorch in a text: the message says how it is written here, and that text is right."""

from __future__ import annotations

import pytest

import spacelang
from spacelang.diagnostics import SpaceError
from spacelang.syntax.torch_words import SAID

SHAPES = ["[B, 8]", "[B, 1, 8]", "[B, 8, 8]", "[B, 8, 6, 6]"]
LISTS = {"chunk", "unbind"}
SPACE = """use vit
space s {{
  input x: {shape}
  input y: {shape}
  input ids: [B, 4] in 0..<50
  q, k, v = unstack(parameter([3, 1, 16, 2, 8]) as qkv, axis: 0)
  found = {text}
  output found
}}
"""


def problems(tmp_path, text: str, shape: str) -> list[str]:
    path = tmp_path / "s.space"
    path.write_text(SPACE.format(shape=shape, text=text), "utf-8")
    try:
        spacelang.load(path)
    except SpaceError as refused:
        return [f"{d.code} {d.headline} {d.help}" for d in refused.diagnostics]
    return []


@pytest.mark.parametrize("name", SAID)
def test_what_is_said_is_right(tmp_path, name: str) -> None:
    text = SAID[name].split(", with")[0]
    if name in LISTS:
        text = f"total({text})"
    found = {shape: problems(tmp_path, text, shape) for shape in SHAPES}
    assert not all(found.values()), found


@pytest.mark.parametrize("name", SAID)
def test_a_name_of_pytorch_is_answered(tmp_path, name: str) -> None:
    (found,) = problems(tmp_path, f"{name}(x)", SHAPES[0])
    assert found.startswith("SP201")
    assert SAID[name] in found


def test_a_name_in_other_letters_is_the_name(tmp_path) -> None:
    (found,) = problems(tmp_path, "GELU(x)", SHAPES[0])
    assert "did you mean gelu?" in found


def test_a_name_of_the_text_comes_first(tmp_path) -> None:
    path = tmp_path / "s.space"
    block = "block attention(x) { return x }"
    path.write_text(f"{block}\nspace s {{ input x: [B, 4]  output Attention(x) }}", "utf-8")
    with pytest.raises(SpaceError, match="did you mean attention"):
        spacelang.load(path)
