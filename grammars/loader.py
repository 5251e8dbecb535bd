"""Grammars as package data, and the LALR tables that lark makes of them.

    tables("space")        # what the parser runs on, read from space.json in a few milliseconds
    grammar("space")       # the text of space.lark

Importing lark and building the tables takes 0.3 s, more than a whole `spacelang check` may. So the
tables of a grammar lie beside it as JSON, with the hash of the grammar they belong to; where the
file is missing or belongs to another grammar, lark builds them anew. After a change of a grammar:

    python -m spacelang.grammars.build
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any

END = "$END"


@dataclass(frozen=True, slots=True)
class Rule:
    """A production and what becomes of its symbols.

    `keep` lists the positions that become children: `~position` is a list to splice in, None an
    optional part that is absent. `lift`: a single child stands for itself. `splice`: no node of its
    own, its children go to the node above. `passes`: its one symbol stands for it, whatever it is.
    """

    origin: str
    name: str
    length: int
    keep: tuple[int | None, ...]
    lift: bool
    splice: bool
    passes: bool


@dataclass(frozen=True, slots=True, eq=False)
class Tables:
    """`actions[state][terminal]` is the next state, or `~rule` to reduce; `gotos` the same for
    the origins of rules; `starts` the first and the last state for each start symbol."""

    literals: dict[str, str]
    patterns: dict[str, str]
    rules: tuple[Rule, ...]
    actions: tuple[dict[str, int], ...]
    gotos: tuple[dict[str, int], ...]
    starts: dict[str, tuple[int, int]]


def grammar(name: str) -> str:
    """The text of a grammar of this package."""
    return files("spacelang.grammars").joinpath(f"{name}.lark").read_text(encoding="utf-8")


def fingerprint(text: str) -> str:
    """What says to which grammar tables belong."""
    return sha256(text.encode()).hexdigest()


@cache
def tables(name: str) -> Tables:
    """The tables of a grammar: the stored ones, or new ones where those are of another text."""
    stored = files("spacelang.grammars").joinpath(f"{name}.json")
    data: dict[str, Any] = {}
    if stored.is_file():
        data = json.loads(stored.read_text(encoding="utf-8"))
    if data.get("grammar") != fingerprint(grammar(name)):
        from spacelang.grammars.build import build

        data = build(name)
    return decode(data)


def decode(data: dict[str, Any]) -> Tables:
    """Tables of their JSON form."""
    symbols: list[str] = data["symbols"]
    terminals = frozenset(data["terminals"])
    actions: list[dict[str, int]] = []
    gotos: list[dict[str, int]] = []
    for row in data["states"]:
        targets = dict(zip([symbols[i] for i in row[::2]], row[1::2], strict=True))
        actions.append({s: t for s, t in targets.items() if s in terminals})
        gotos.append({s: t for s, t in targets.items() if s not in terminals})
    rules = (
        Rule(origin, name, length, tuple(keep), lift, splice, keep == [0] and length == 1 and lift)
        for origin, name, length, keep, lift, splice in data["rules"]
    )
    starts = {name: (first, last) for name, (first, last) in data["starts"].items()}
    return Tables(
        data["literals"], data["patterns"], tuple(rules), tuple(actions), tuple(gotos), starts
    )
