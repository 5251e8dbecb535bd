"""Short mutated texts through tokens and parser: a tree or a SpaceError, and never a wait.

Texts are statements of the shipped files and of the pages of `explain`. Mutations work on tokens
and on characters. Of the texts that parse every fifth is formatted, too: its tree must come back.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spacelang.diagnostics import CODES, Diagnostic, Report, Source, SpaceError
from spacelang.explain import examples
from spacelang.grammars.loader import tables
from spacelang.render import text as drawing
from spacelang.syntax import tree
from spacelang.syntax.format import format
from spacelang.syntax.parse import parse
from spacelang.syntax.tokens import BRACKETS, scan

SPACES = sorted((Path(__file__).parent.parent / "spaces").rglob("*.space"))
TABLES = tables("space")
RUNS, TEXTS = 8, 13_000
LONGEST = 60
STRANGE = [
    "\x00",
    "\x1b",
    "\u202e",
    "\ud800",
    "\ufeff",
    "\r",
    "\u00e9",
    "\U0001f600",
    "'",
    "`",
    "\\",
    ";",
]
WORDS = [*TABLES.literals, *("0 1 9e99 1K 3x _ a N " + '"b" "').split(), " ", "\n", "# c\n"]


def statements() -> list[list[str]]:
    """Token texts of whole statements and declarations that are short."""
    texts = [path.read_text("utf-8") for path in SPACES]
    texts += [e.text for code in CODES for e in examples(code) if not e.code.startswith("SP1")]
    found: list[list[str]] = []
    for text in texts:
        todo: list[Any] = list(parse(Source("corpus", text)).items)
        while todo:
            node = todo.pop()
            for inner in vars(node).values():
                if isinstance(inner, tree.Body):
                    todo += inner.statements
            tokens = scan(Source("corpus", node.span.text), TABLES, Report()).tokens[:-1]
            words = [token.text for token in tokens]
            if len(words) <= LONGEST:
                inside = not isinstance(node, tree.Use | tree.SpaceOf | tree.Instance | tree.Subnet)
                found.append(["space", "s", "{", *words, "}"] if inside else words)
    return found


CORPUS = statements()


def replace(words: list[str], source: random.Random) -> None:
    words[source.randrange(len(words))] = source.choice(WORDS)


def insert(words: list[str], source: random.Random) -> None:
    words.insert(source.randrange(len(words) + 1), source.choice(WORDS))


def remove(words: list[str], source: random.Random) -> None:
    del words[source.randrange(len(words))]


def swap(words: list[str], source: random.Random) -> None:
    i, j = source.randrange(len(words)), source.randrange(len(words))
    words[i], words[j] = words[j], words[i]


def repeat(words: list[str], source: random.Random) -> None:
    i = source.randrange(len(words))
    words[i:i] = words[i : i + source.randrange(1, 4)] * source.randrange(1, 5)


def splice(words: list[str], source: random.Random) -> None:
    other = source.choice(CORPUS)
    i = source.randrange(len(other))
    words[source.randrange(len(words)) :] = other[i:]


def nest(words: list[str], source: random.Random) -> None:
    i = source.randrange(len(words))
    opener, closer = source.choice(["()", "[]", "{}", ("f(", ")"), ("-", ""), ("not ", "")])
    count = source.choice([1, 2, 5, BRACKETS + 6])
    words[i : i + 1] = [opener] * count + [words[i]] + [closer] * count


def strange(words: list[str], source: random.Random) -> None:
    i = source.randrange(len(words))
    at = source.randrange(len(words[i]) + 1)
    words[i] = words[i][:at] + source.choice(STRANGE) + words[i][at:]


MUTATIONS: list[Callable[[list[str], random.Random], None]] = [
    replace, insert, remove, swap, repeat, splice, nest, strange,
]  # fmt: skip


def mutant(source: random.Random) -> str:
    words = list(source.choice(CORPUS))
    for _ in range(source.randrange(4)):
        source.choice(MUTATIONS)(words, source)
        if not words:
            break
    return source.choice([" ", " ", "\n", ""]).join(words)


def outcome(text: str) -> tree.File | tuple[Diagnostic, ...]:
    try:
        return parse(Source("fuzz.space", text))
    except SpaceError as refused:
        return refused.diagnostics


@pytest.mark.parametrize("run", range(RUNS))
def test_mutated_texts(run: int) -> None:
    source = random.Random(run)
    good = 0
    for number in range(TEXTS):
        text = mutant(source)
        made = outcome(text)
        if isinstance(made, tree.File):
            good += 1
            if number % 5 == 0:
                assert outcome(format(made)) == made, text
        else:
            assert made, text
            assert all(found.code.startswith("SP1") for found in made), text
            if number % 20 == 0:
                drawing(made).encode()
    # Neither nearly all refused nor nearly all taken: the mutants are close to the language.
    assert TEXTS // 10 < good < TEXTS // 2
