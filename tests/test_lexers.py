"""Lexers of other programs are those of the grammar, and read every shipped text."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

from spacelang.diagnostics import Source
from spacelang.editor.build import FILES, FOLDER
from spacelang.editor.symbols import tokens

pytest.importorskip("pygments")
from pygments.token import Comment, Error, Keyword, Name, Operator

from spacelang.editor.lexer import SpaceLexer

ROOT = Path(__file__).resolve().parent.parent
SPACES = sorted((ROOT / "spaces").rglob("*.space"))
WORDS = (Keyword, Operator.Word)


@pytest.mark.parametrize("name", FILES)
def test_generated_files_are_up_to_date(name: str) -> None:
    assert (FOLDER / name).read_text() == FILES[name](), "run python -m spacelang.editor.build"


@pytest.mark.parametrize("path", SPACES, ids=lambda p: p.stem)
def test_every_shipped_text(path: Path) -> None:
    """No error tokens, nothing lost, and keywords are exactly the keywords of the parser."""
    text = path.read_text()
    found = list(SpaceLexer().get_tokens(text))
    assert not [value for kind, value in found if kind in Error]
    assert "".join(value for _, value in found) == text
    wanted = [t.text for t in tokens(Source("t", text)) if t.kind not in ("NAME", "WORD")]
    words = [w for w in wanted if w.isalpha() and w.isascii() and w.islower()]
    constants = Keyword.Constant
    assert [v for k, v in found if any(k in w for w in WORDS) and k is not constants] == words
    assert all(value.startswith("#") for kind, value in found if kind in Comment)


def test_words_after_a_dot_are_names() -> None:
    found = {value: kind for kind, value in SpaceLexer().get_tokens("x.use 0..depth use")}
    assert found["depth"] is Name
    assert found["use"] is Keyword
    pairs = [value for kind, value in SpaceLexer().get_tokens("x.use") if kind is Name.Attribute]
    assert pairs == ["use"]


def test_pygments_finds_the_lexer() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (target,) = project["project"]["entry-points"]["pygments.lexers"].values()
    module, _, name = target.partition(":")
    assert (module, name) == (SpaceLexer.__module__, SpaceLexer.__name__)


def test_the_textmate_grammar_reads_the_same_words() -> None:
    """Its expressions, tried in their order as editors do, give the same words to every text."""
    grammar = json.loads((FOLDER / "space.tmLanguage.json").read_text())
    rules = [(re.compile(r["match"], re.MULTILINE), r) for r in grammar["patterns"]]
    assert grammar["scopeName"] == "source.space"
    for path in SPACES:
        text = path.read_text()
        wanted = [t.text for t in tokens(Source("t", text)) if t.kind not in ("NAME", "WORD")]
        wanted = [w for w in wanted if w.isalpha() and w.islower()]
        found: list[str] = []
        at = 0
        while at < len(text):
            hits = [
                (m.start(), i, m, r) for i, (e, r) in enumerate(rules) if (m := e.search(text, at))
            ]
            if not hits:
                break
            _, _, match, rule = min(hits, key=lambda hit: hit[:2])
            name = rule.get("name", "")
            if name.startswith(("keyword.control", "keyword.operator.word")):
                found.append(match[0])
            elif "captures" in rule and rule["captures"]["1"]["name"].startswith("storage"):
                found.append(match[1])
            at = max(match.end(), at + 1)
        assert found == wanted, path.name
