"""The pages of `spacelang explain`: one a code, and their examples do what they say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from command import run

from spacelang.analysis.space import lints
from spacelang.diagnostics import CODES, Source, SpaceError
from spacelang.explain import Example, examples, page
from spacelang.loader import load
from spacelang.syntax.format import format
from spacelang.syntax.parse import parse

FILE = re.compile(r"^```\w+ as (?P<name>\S+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
SESSION = re.compile(
    r"^```(?P<kind>console|python)\n(?P<text>.*?)^```$(?:\n\n```text\n(?P<told>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)
FOLDER = Path(__file__).parent.parent / "spacelang" / "explain"
SYNTAX = [code for code in CODES if code.startswith("SP1")]
# Codes of what no text of the language can bring about: files, assignments, programs, runs.
WITHOUT_TEXT = {
    "SP104",
    "SP509",
    "SP512",
    "SP602",
    "SP603",
    "SP605",
    "SP606",
    *(f"SP70{n}" for n in (1, 2, 3, 4, 5, 8)),
}


def found_by_loading(example: Example, folder: Path) -> set[str]:
    """The codes of what loading an example finds, each of its subnets too; warnings count."""
    path = folder / (example.name or "example.space")
    path.write_text(example.text, "utf-8")
    lines = example.text.splitlines()
    subnets = [line.split()[1] for line in lines if line.startswith("subnet ")]
    found: set[str] = set()
    for address in (str(path), *(f"{path}:{name}" for name in subnets)):
        try:
            found |= {remark.code for remark in lints(load(address))}
        except SpaceError as refused:
            found |= {diagnostic.code for diagnostic in refused.diagnostics}
    return found


def found_by_parsing(example: Example) -> set[str]:
    try:
        parse(Source("example.space", example.text))
    except SpaceError as refused:
        return {diagnostic.code for diagnostic in refused.diagnostics}
    return set()


def test_every_code_has_a_page_and_every_page_a_code() -> None:
    assert {path.stem for path in FOLDER.glob("*.md")} == CODES.keys()


@pytest.mark.parametrize("code", CODES)
def test_a_page_begins_with_its_code_and_meaning(code: str) -> None:
    assert page(code).startswith(f"# {code}: {CODES[code]}\n\n")
    assert max(map(len, page(code).splitlines())) <= 100


@pytest.mark.parametrize("code", sorted(CODES.keys() - WITHOUT_TEXT))
def test_a_page_shows_a_text_that_fails_and_one_that_does_not(code: str) -> None:
    assert [example.code for example in examples(code)] == [code, ""]


@pytest.mark.parametrize("code", sorted(WITHOUT_TEXT))
def test_a_page_shows_what_is_told_and_what_to_do(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commands, or Python, on the files of the page: first some that are refused as it says, then
    some that are not."""
    monkeypatch.chdir(tmp_path)
    text = page(code)
    for file in FILE.finditer(text):
        (tmp_path / file["name"]).write_text(file["text"], "utf-8")
    names: dict[str, Any] = {}
    told: list[str] = []
    for block in SESSION.finditer(text):
        if block["kind"] == "python":
            try:
                exec(block["text"], names)
                told.append("")
            except SpaceError as refused:
                told.append(str(refused))
            assert told[-1] == (block["told"] or "").rstrip()
            continue
        for part in block["text"].split("$ spacelang ")[1:]:
            words, _, wanted = part.partition("\n")
            found = run(*words.split())
            assert found.exit_code == (2 if wanted else 0), found.output
            assert not wanted or found.stderr.rstrip() == wanted.rstrip()
            told.append(wanted)
    assert told[0].startswith(f"error[{code}]: ")
    assert told[1:]
    assert not any(told[1:])


@pytest.mark.parametrize("code", CODES)
def test_examples_are_of_the_language(code: str) -> None:
    """What does not fail by its syntax is written in the layout of the formatter."""
    assert page(code).count("```space") == len(list(examples(code)))
    for example in examples(code):
        if not example.code.startswith("SP1"):
            assert format(parse(Source(code, example.text))) == example.text


@pytest.mark.parametrize("code", SYNTAX)
def test_examples_of_the_syntax_fail_as_they_say(code: str) -> None:
    for example in examples(code):
        assert found_by_parsing(example) == ({example.code} if example.code else set())


@pytest.mark.parametrize("code", sorted(CODES.keys() - WITHOUT_TEXT))
def test_examples_fail_as_they_say(code: str, tmp_path: Path) -> None:
    for example in examples(code):
        assert found_by_loading(example, tmp_path) == ({example.code} if example.code else set())


def test_codes_are_found_in_any_spelling() -> None:
    assert page("sp304") == page("304") == page("SP304")
    with pytest.raises(KeyError, match="SP999"):
        page("SP999")
