"""What each code of a diagnostic means: one Markdown page a code, with an example that fails.

page("SP304")          # the text that `spacelang explain SP304` shows
examples("SP304")      # its texts of the language, each with the code it fails with, if any
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files

from spacelang.diagnostics import CODES

_FENCE = re.compile(
    r"^```space(?: fails (?P<code>SP\d+))?(?: as (?P<name>\S+))?\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Example:
    """A text of a page; `code` is what it fails with, empty if it is right. `name` is the name its
    file must have for that, empty if any will do."""

    text: str
    code: str = ""
    name: str = ""


def page(code: str) -> str:
    """The page of a code (`SP304`, `sp304` or `304`) as Markdown. KeyError if there is none."""
    name = f"SP{code.upper().removeprefix('SP')}"
    if name not in CODES:
        raise KeyError(f"no diagnostic has the code {code}")
    return files("spacelang.explain").joinpath(f"{name}.md").read_text(encoding="utf-8")


def examples(code: str) -> Iterator[Example]:
    """The texts of the language on a page, in order."""
    for found in _FENCE.finditer(page(code)):
        yield Example(found["text"], found["code"] or "", found["name"] or "")
