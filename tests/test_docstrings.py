"""What is public says what it gives: the modules that docs/ir.md names, exports, passes, engines."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import spacelang
from spacelang import plugins

DOCS = Path(__file__).parent.parent / "docs"
TABLE = re.compile(r"^\| (`spacelang\..*?) \|", re.MULTILINE)
IMPORT = re.compile(r"^from (spacelang[\w.]*) import (.*)$", re.MULTILINE)


def public() -> list[str]:
    """The modules of the table of docs/ir.md; `.node` has the folder of the name before it."""
    found: list[str] = []
    for row in TABLE.findall((DOCS / "ir.md").read_text("utf-8")):
        for name in re.findall(r"`([\w.]+)`", row):
            folder = found[-1].rpartition(".")[0] if found else ""
            found.append(folder + name if name.startswith(".") else name)
    return found


MODULES = public()


def silent(module: ModuleType) -> Iterator[str]:
    """What a module defines without `_` in front and says nothing of."""
    tree = ast.parse(inspect.getsource(module))
    if not ast.get_docstring(tree):
        yield module.__name__
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            inner = node.body if isinstance(node, ast.ClassDef) else []
            for one, name in ((node, node.name), *((m, f"{node.name}.{m.name}") for m in inner
                              if isinstance(m, ast.FunctionDef) and m.name[0] != "_")):  # fmt: skip
                if len((ast.get_docstring(one) or "").split()) < 2:
                    yield f"{module.__name__}.{name}"


def test_the_page_names_modules() -> None:
    assert len(set(MODULES)) == len(MODULES) > 30


@pytest.mark.parametrize("name", MODULES)
def test_what_is_public_says_what_it_gives(name: str) -> None:
    assert list(silent(importlib.import_module(name))) == []


def test_what_is_exported_or_imported_by_the_pages_does_too() -> None:
    named = [(spacelang.__name__, name) for name in spacelang.__all__ if name != "__version__"]
    for page in sorted(DOCS.rglob("*.md")):
        for module, names in IMPORT.findall(page.read_text("utf-8")):
            named += [(module, name.strip()) for name in names.split(",")]
    found = [getattr(importlib.import_module(module), name) for module, name in named]
    callables = [one for one in found if inspect.isclass(one) or inspect.isroutine(one)]
    assert len(callables) > 15
    assert [one for one in callables if not inspect.getdoc(one)] == []


@pytest.mark.parametrize("group", ["spacelang.passes", "spacelang.engines"])
def test_passes_and_engines_do_too(group: str) -> None:
    for name in plugins.table(group):
        made = plugins.load(group, name)
        if made.__module__.startswith("spacelang."):
            assert made.__doc__, name
            assert made.run.__doc__, name
