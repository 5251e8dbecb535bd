"""Words of IR text: names, values and sizes as they stand in it, and what of a node is left out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from fractions import Fraction
from typing import cast

from spacelang.ir.condition import CONDITIONS, Condition
from spacelang.ir.dim import Dim, Symbol, symbol_of
from spacelang.ir.dim import Value as Candidate
from spacelang.ir.node import Attribute, Node

PLAIN = re.compile(r"%?[A-Za-z_]\w*(?:\[\d+\])*(?:\.\w+(?:\[\d+\])*)*'*", re.ASCII)
RESERVED = frozenset({
    "and", "as", "at", "block", "by", "call", "condition", "decide", "decides", "do", "else",
    "false", "graph", "if", "in", "init", "is", "names", "none", "not", "or", "output", "owns",
    "param", "rename", "require", "root", "rule", "search", "size", "spaceir", "stored", "stores",
    "symbol", "through", "to", "training", "true", "when", "within", "yield",
})  # fmt: skip
"""Words that are no names where they stand by themselves; those of `ir.lark`."""


def name(text: str, free: bool = False) -> str:
    """A name as it stands in the text; `free` where reserved words are names like any other."""
    plain = PLAIN.fullmatch(text) and (free or text not in RESERVED)
    return text if plain else "@" + json.dumps(text)


def base_name(block: str) -> str:
    """A block's name without the number of its variant: `encoder.2` -> `encoder`."""
    base, _, number = block.rpartition(".")
    return base if base and number.isdecimal() else block


def candidate(value: Candidate) -> str:
    """A value of a decision: `7/2`, `"k3"`, `true`, `[0, 2]`."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return json.dumps(value)
        case tuple():
            return f"[{', '.join(map(str, value))}]"
        case _:
            return str(Fraction(value))


def value_set(values: Iterable[Candidate]) -> str:
    """Candidates as a set of the text: `{192, 216, 240}`."""
    return f"{{{', '.join(map(candidate, values))}}}"


def values_of(size: Symbol) -> str:
    """What a size may be: nothing said is any whole number from 1 on, `*` any number at all."""
    if size.rate:
        return " in {*}"
    return f" in {value_set(size.values)}" if size.values else ""


def setting(value: object) -> str:
    """A setting of an engine; numbers keep their kind (`1` against `1.0`)."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(setting, cast(tuple[object, ...], value)))}]"
    return "none" if value is None else json.dumps(value)


def bare(dim: Dim) -> bool:
    """Whether a size is one symbol and nothing else."""
    return symbol_of(dim) is not None


def given_names(node: Node) -> tuple[str, ...]:
    """The names of the optional operands that stand last, where the attribute `given` says them."""
    given = node.attributes.get("given")
    if not isinstance(given, tuple) or not given or len(given) > len(node.operands):
        return ()
    names = tuple(entry for entry in given if isinstance(entry, str))
    return names if len(names) == len(given) else ()


def region_conditions(node: Node) -> tuple[Condition, ...] | None:
    """The conditions of a node's regions, if its attribute `conditions` has one for each."""
    given = node.attributes.get("conditions")
    if not node.regions or not isinstance(given, tuple) or len(given) != len(node.regions):
        return None
    found = tuple(entry for entry in given if isinstance(entry, CONDITIONS))
    return found if len(found) == len(given) else None


def same(a: Attribute, b: Attribute) -> bool:
    """Whether two attributes are one: a boolean is no number."""
    return type(a) is type(b) and a == b
