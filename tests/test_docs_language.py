"""Every example of docs/language.md does what it says.

A fence `space` loads without a warning; `space fails SP304` and `space warns SP510` are refused, or
warned of, with just this code. A text without a `space` of its own is the body of one, as the page
says. The fence `text` after an example holds figures of it, one a line, as `name: value`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spacelang.analysis.queries import counter
from spacelang.analysis.space import lints
from spacelang.diagnostics import SpaceError
from spacelang.grammars.loader import grammar
from spacelang.ir.graph import Graph
from spacelang.ir.program import Program
from spacelang.ir.storage import merged
from spacelang.loader import load, load_program

PAGE = Path(__file__).parent.parent / "docs" / "language.md"
FENCE = re.compile(
    r"^```space(?: (?:fails|warns) (?P<code>SP\d+))?\n(?P<text>.*?)^```\n"
    r"(?:\n```text\n(?P<figures>.*?)^```\n)?",
    re.MULTILINE | re.DOTALL,
)
EXAMPLES = list(FENCE.finditer(PAGE.read_text("utf-8")))


def whole(text: str) -> str:
    """A file: declarations before the first statement, the statements in a space of their own."""
    if re.search(r"^space ", text, re.MULTILINE) or not re.search(r"^[^#\n]", text, re.MULTILINE):
        return text
    outside = re.findall(r"^(?:use|default) .*$", text, re.MULTILINE)
    body = re.sub(r"^(?:use|default) .*$", "", text, flags=re.MULTILINE)
    found = [*outside, "space example {"]
    if "input " not in body:
        found.append("  input x: [B, 16]")
    found.append(body)
    if "output " not in body:
        found.append("  output x")
    if "weights {" not in body and "choose" in body:
        found.append("  weights { _: entangle }")
    return "\n".join((*found, "}", ""))


def sizes(graph: Graph) -> str:
    """What is stored; `4x8 and 4x16` are two tensors for two candidates."""
    found: list[str] = []
    for path, stored in graph.storages.items():
        shapes = ("x".join(map(str, merged(shape))) for shape in stored.tensors)
        found.append(f"{path} {' and '.join(shapes)}".rstrip())
    return ", ".join(found)


def figure(name: str) -> Callable[[Graph], str]:
    def largest(graph: Graph) -> str:
        return str(getattr(graph.cost(graph.decisions.extreme("largest")), name))

    return largest


def reach(graph: Graph) -> str:
    low, high = counter(graph).extremes("params")
    return f"{low} to {high}"


FIGURES: dict[str, Callable[[Graph], str]] = {
    "params": figure("params"),
    "macs": figure("macs"),
    "reach": reach,
    "size": lambda graph: str(graph.size()),
    "decisions": lambda graph: ", ".join(graph.decisions),
    "parameters": sizes,
    "outputs": lambda graph: ", ".join(output.name for output in graph.outputs),
    "inputs": lambda graph: ", ".join(node.label for node in graph.root.inputs),
}


def programs(text: str) -> list[str]:
    return re.findall(r"^program (\w+)", text, re.MULTILINE)


def shown(program: Program) -> str:
    """`a, b shared; 8 in the pool`."""
    kept = program.pool.numel if program.pool is not None else 0
    return f"{', '.join(program.shared)} shared; {kept:,} in the pool"


def subnets(text: str) -> list[str]:
    return re.findall(r"^subnet (\w+)", text, re.MULTILINE)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_example(number: int, tmp_path: Path) -> None:
    example = EXAMPLES[number]
    path = tmp_path / "example.space"
    path.write_text(whole(example["text"]), "utf-8")
    found: list[tuple[str, str]] = []
    graph: Graph | None = None
    for name in programs(example["text"]):
        try:
            load_program(f"{path}:{name}")
        except SpaceError as refused:
            found += [(d.code, d.headline) for d in refused.diagnostics]
    for address in [str(path), *(f"{path}:{name}" for name in subnets(example["text"]))]:
        try:
            graph = load(address)
            found += [(lint.code, lint.headline) for lint in lints(graph)]
        except SpaceError as refused:
            found += [(d.code, d.headline) for d in refused.diagnostics]
    assert {code for code, _ in found} == ({example["code"]} if example["code"] else set()), found
    for line in (example["figures"] or "").splitlines():
        name, _, value = line.partition(": ")
        if name.startswith("program "):
            assert shown(load_program(f"{path}:{name[8:]}")) == value
        elif name == "message":
            assert value in [headline for _, headline in found]
        else:
            assert graph is not None
            assert FIGURES[name](graph) == value, name


def test_every_form_of_the_grammar_has_an_example() -> None:
    """Every alternative of every rule, with and without each of its optional parts, and every word
    and sign: whatever can be written is written on the page, in an example that parses."""
    from lark import Lark

    lark = Lark(grammar("space"), parser="lalr", start=["start", "expr"], maybe_placeholders=True)
    callbacks: dict[Any, Callable[[list[Any]], Any]] = lark.parser.parser.parser.callbacks
    used: set[Any] = set()

    def counted(rule: Any, made: Callable[[list[Any]], Any]) -> Callable[[list[Any]], Any]:
        def call(children: list[Any]) -> Any:
            used.add(rule)
            return made(children)

        return call

    rules = list(callbacks)
    callbacks.update({rule: counted(rule, made) for rule, made in callbacks.items()})
    words: set[str] = set()
    for example in EXAMPLES:
        if not (example["code"] or "").startswith("SP1"):
            source = whole(example["text"])
            lark.parse(source, start="start")
            words |= {str(token) for token in lark.lex(source)}
    assert [str(rule) for rule in rules if rule not in used] == []
    tables = json.loads((PAGE.parent.parent / "grammars" / "space.json").read_text("utf-8"))
    assert tables["literals"].keys() - words == set()


def test_the_page_has_examples() -> None:
    text = PAGE.read_text("utf-8")
    assert len(EXAMPLES) == text.count("```space") > 100
    assert text.count("```text") == sum(bool(e["figures"]) for e in EXAMPLES)
