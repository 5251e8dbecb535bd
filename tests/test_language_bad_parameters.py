"""Wrong parameters of the eight systems: told at the place in the file, and where they are given."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from spacelang.diagnostics import Diagnostic, Source, SpaceError
from spacelang.loader import load
from spacelang.syntax import tree
from spacelang.syntax.parse import parse

SPACES = Path(__file__).parent.parent / "spaces"

# A space with a parameter that does not fit -> code, file, and the text of the place that refuses it.
WRONG = {
    # Heads that do not divide a width.
    "deit(192, heads: 5)": ("SP302", "deit.space", "linear(x, [3, heads, dim])"),
    "mini_deit(192, heads: 5)": ("SP302", "deit.space", "linear(x, [3, heads, dim])"),
    "irpe_deit(192, heads: 5)": ("SP302", "deit.space", "linear(x, [3, heads, dim])"),
    "swin(96, [2, 2, 6, 2], heads: [5, 6, 12, 24])": (
        "SP302", "swin.space", "linear(t, [3, heads, dim])",
    ),
    "mini_swin(96, [2, 2, 6, 2], [5, 6, 12, 24], every: [2, 2, 6, 2])": (
        "SP302", "swin.space", "linear(t, [3, heads, dim])",
    ),
    "tinyvit([64, 130, 160, 320])": ("SP302", "tinyvit.space", "linear([heads, 3, dim])"),
    "efficientvit([64, 128, 192], [3, 3, 3], [5, 5, 5, 5])": (
        "SP502", "efficientvit.space", "C % heads == 0",
    ),
    "autoformer(192..240 by 24, 12..14, {3, 4}, {3.3, 4}, stored: 256)": (
        "SP302", "autoformer.space", None,
    ),
    "darts(33, stem: 99, cells: [2, 2, 2], image: 64, classes: 10, large: true)": (
        "SP302", "cdarts.space", None,
    ),
    # An image that the stem or a stage cannot take.
    "deit(192, heads: 3, image: 225)": ("SP303", "vit.space", None),
    "autoformer(192..240 by 24, 12..14, {3, 4}, {3.5, 4}, stored: 256, image: 100)": (
        "SP303", "vit.space", None,
    ),
    "swin(96, [2, 2, 6, 2], heads: [3, 6, 12, 24], image: 230)": ("SP303", "vit.space", None),
    "mini_swin(96, [2, 2, 6, 2], [3, 6, 12, 24], every: [2, 2, 6, 2], image: 250)": (
        "SP303", "vit.space", None,
    ),
    "s3([{64, 96}, {160}, {352}, {736}], [1..2, 1..2, 1..2, 1..2], [{1}, {4}, {10}, {22}], image: 100)": (
        "SP302", "vit.space", "rearrange",
    ),
    "efficientvit([64, 128, 192], [4, 4, 4], [5, 5, 5, 5], image: 200)": (
        "SP502", "efficientvit.space", "image % 16 == 0",
    ),
    "darts(36, stem: 108, cells: [7, 7, 6], image: 30, classes: 10)": (
        "SP304", "cells.space", "concat",
    ),
    "tinyvit([64, 128, 160, 320], image: 0)": ("SP302", "tinyvit.space", "image"),
    "cream([1, 2, 2, 1, 1], image: 0)": ("SP302", "cream.space", "image"),
    # A window larger than the map, and one that does not divide it.
    "swin(96, [2, 2, 6, 2], heads: [3, 6, 12, 24], windows: [60, 7, 7, 7])": (
        "SP502", "swin.space", "larger_windows or window <= H",
    ),
    "mini_swin(96, [2, 2, 6, 2], [3, 6, 12, 24], every: [2, 2, 6, 2], windows: [7, 7, 7, 8])": (
        "SP502", "swin.space", "larger_windows or window <= H",
    ),
    "tinyvit([64, 128, 160, 320], windows: [7, 15, 7])": (
        "SP502", "tinyvit.space", "larger_windows or window <= H",
    ),
    "efficientvit([64, 128, 192], [4, 4, 4], [5, 5, 5, 5], image: 96)": (
        "SP502", "efficientvit.space", "larger_windows or window <= image // 16",
    ),
    "swin(96, [2, 2, 6, 2], heads: [3, 6, 12, 24], windows: [9, 7, 7, 7])": (
        "SP302", "vit.space", "rearrange",
    ),
    # A supernet that is narrower than its networks.
    "autoformer(192..240 by 24, 12..14, {3, 4}, {3.5, 4}, stored: 128)": (
        "SP403", "autoformer.space", "width: store(stored)",
    ),
    # Lists that are too short.
    "swin(96, [2, 2, 6, 2], heads: [3, 6, 12])": ("SP307", "swin.space", "s"),
    "cream([1, 2, 2, 1])": ("SP307", "cream.space", "s"),
    # Words that mean nothing.
    'irpe_deit(192, heads: 3, method: "qantised")': (
        "SP209", "irpe.space", "irpe",
    ),
    # Parameters that lack, or that there are not.
    "autoformer(192..240 by 24, 12..14, {3, 4}, {3.5, 4})": ("SP204", "autoformer.space", None),
    "deit(192, head: 3)": ("SP204", "users.space", None),
}  # fmt: skip
FILES = (
    "autoformer",
    "cdarts",
    "cream",
    "deit",
    "efficientvit",
    "irpe",
    "minivit",
    "s3",
    "swin",
    "tinyvit",
)


def refused(text: str, tmp_path: Path) -> Diagnostic:
    uses = "\n".join(f"use {file}" for file in FILES)
    file = tmp_path / "users.space"
    file.write_text(f"{uses}\nspace wrong = {text}\n", "utf-8")
    with pytest.raises(SpaceError) as failed:
        load(file)
    return failed.value.diagnostics[0]


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_parameter_is_told_in_the_file_and_at_the_caller(text: str, tmp_path: Path) -> None:
    code, file, place = WRONG[text]
    found = refused(text, tmp_path)
    assert found.code == code
    primary = found.primary.span
    assert Path(primary.source.name).name == file
    assert place is None or primary.text.startswith(place)
    shown = [found.primary, *found.secondary]
    caller = [label.span for label in shown if Path(label.span.source.name).name == "users.space"]
    assert [span.text for span in caller] in ([text], [primary.text])
    assert all(span.position[0] == len(FILES) + 1 for span in caller)


BORROWED = """use blocks
space s {
  input x: [B, 196, 12]
  y = pair(x, 5) as pair
  output mean(y, axes: [1]) |> linear(2) as head
}
"""
BLOCKS = """use deit
block pair(x: [B, N, C], heads) { return attention(x, 3) as one |> attention(heads) as other }
"""


def test_what_is_wrong_in_a_borrowed_block_is_told_at_every_call_on_the_way(tmp_path: Path) -> None:
    """A block of another file, called by a block of a third one: of each file its own call."""
    (tmp_path / "blocks.space").write_text(BLOCKS, "utf-8")
    (tmp_path / "users.space").write_text(BORROWED, "utf-8")
    with pytest.raises(SpaceError) as failed:
        load(tmp_path / "users.space")
    (found,) = failed.value.diagnostics
    assert found.primary.span.text == "linear(x, [3, heads, dim])"
    shown = [
        (Path(label.span.source.name).name, label.span.text, label.text)
        for label in found.secondary
    ]
    assert shown == [
        ("blocks.space", "attention(heads)", "called here"),
        ("users.space", "pair(x, 5)", "called here"),
    ]


def test_a_window_larger_than_the_map_can_be_meant() -> None:
    """Then it is the map: the network of a window that is just as large, to the last hash."""
    whole = load("swin.space:swin_t", windows=(56, 7, 7, 7))
    assert load("swin.space:swin_t", windows=(60, 7, 7, 7), larger_windows=True).hash == whole.hash
    with pytest.raises(SpaceError) as failed:
        load("swin.space:swin_t", windows=(60, 7, 7, 7))
    assert failed.value.diagnostics[0].notes[0] == "H is 56, window is 60, larger_windows is false"


def test_the_parameters_of_a_subnet_are_its_caller(tmp_path: Path) -> None:
    file = tmp_path / "users.space"
    file.write_text("use cream\nsubnet wrong of cream([1, 1, 1]) { blocks[_][_].op = k3e4 }\n")
    with pytest.raises(SpaceError) as failed:
        load(f"{file}:wrong")
    found = failed.value.diagnostics[0]
    assert found.primary.span.text == "s"  # of depths[s]
    assert [label.span.text for label in found.secondary] == ["cream([1, 1, 1])"]


@pytest.mark.parametrize(
    ("line", "place"),
    [
        ("normal.dag[_][_].op = [sep_3, sep_3, sep_3, sep_7, skip, skip, skip, skip]", "sep_7"),
        ("normal.dag[1][0].op = sep_7", "sep_7"),
        ("reduction.inputs[_] = [[1, 0], [1, 3], [0, 1], [0, 2]]", "[1, 3]"),
    ],
)
def test_a_genotype_is_told_at_the_entry_that_is_wrong(
    line: str, place: str, tmp_path: Path
) -> None:
    """An operation or a source that there is not."""
    file = tmp_path / "users.space"
    file.write_text(f"use cdarts\nsubnet wrong of cifar10 {{ {line} }}\n")
    with pytest.raises(SpaceError) as failed:
        load(f"{file}:wrong")
    found = failed.value.diagnostics[0]
    assert found.code == "SP501"
    assert found.primary.span.text == place


def words(default: tree.Expr | None) -> list[str]:
    """The words of a default: of a string, or of a list of strings."""
    entries = default.items if isinstance(default, tree.List) else (default,)
    return [entry.value for entry in entries if isinstance(entry, tree.String)]


def word_parameters() -> Iterator[tuple[str, str, tuple[str, ...], str]]:
    """Every parameter of a shipped space that is a word, or a list of them, by its default: the
    file, a use of the space without that argument, the words, and the parameter."""
    for path in sorted(SPACES.rglob("*.space")):
        file = parse(Source(path.name, path.read_text("utf-8")))
        uses = {i.base.name: i.base for i in file.items if isinstance(i, tree.Instance)}
        for space in (item for item in file.items if isinstance(item, tree.SpaceOf)):
            for param in space.params:
                known = words(param.default)
                if not known:
                    continue
                given = uses[space.name].arguments or ()
                others = [a.span.text for a in given if a.name != param.name]
                wrong = '["nonsense"]' if isinstance(param.default, tree.List) else '"nonsense"'
                text = f"{space.name}({', '.join([*others, f'{param.name}: {wrong}'])})"
                yield path.stem, text, tuple(known), param.name


WORDS = list(word_parameters())


def test_spaces_have_parameters_of_words() -> None:
    assert {(file, name) for file, _, _, name in WORDS} == {
        ("autoformer", "pool"),
        ("irpe", "method"),
        ("irpe", "mode"),
        ("irpe", "on"),
        ("minivit", "seam"),
        ("swin", "seam"),
    }


@pytest.mark.parametrize(("file", "text", "known", "name"), WORDS)
def test_a_word_that_means_nothing_is_told_with_those_that_do(
    file: str, text: str, known: tuple[str, ...], name: str, tmp_path: Path
) -> None:
    """In the file of the space, or of its base, with the wrong word, its parameter and those that
    it may be; and where it is given."""
    found = refused(text, tmp_path)
    told = "\n".join((found.headline, found.primary.span.text, *found.notes, found.help))
    assert name in told
    assert "nonsense" in told
    assert all(word in told for word in known)
    assert Path(found.primary.span.source.name).stem in FILES
    assert text in [label.span.text for label in found.secondary]
