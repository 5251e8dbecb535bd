"""Tables of grammars by lark, in a form that JSON holds and that is the same on every run.

    python -m spacelang.grammars.build         # rewrites the .json beside each .lark that has one

lark numbers states in the order of its sets; here they are numbered by a walk from the start.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from spacelang.files import atomic_write
from spacelang.grammars.loader import END, fingerprint, grammar

# Where a parse may begin; a grammar not named here begins at `start`.
STARTS: dict[str, tuple[str, ...]] = {"space": ("start", "expr")}


def build(name: str) -> dict[str, Any]:
    """The tables of a grammar as JSON data (`loader.decode` reads them)."""
    from lark import Lark
    from lark.grammar import Rule
    from lark.lexer import TerminalDef

    text = grammar(name)
    starts = STARTS.get(name, ("start",))
    parser = Lark(text, parser="lalr", start=list(starts), maybe_placeholders=True)
    data, memo = parser.memo_serialize([TerminalDef, Rule])
    table = data["parser"]["parser"]
    entries = list(memo.values())
    terminals = [entry for entry in entries if entry["__type__"] == "TerminalDef"]
    rows = sorted({_row(entry) for entry in entries if entry["__type__"] == "Rule"}, key=repr)
    states = {
        state: {
            table["tokens"][token]: ~rows.index(_row(memo[target["@"]])) if reduce else target
            for token, (reduce, target) in row.items()
        }
        for state, row in table["states"].items()
    }
    order = _walk(states, [table["start_states"][start] for start in starts])
    symbols = sorted({symbol for row in states.values() for symbol in row})
    place = {symbol: index for index, symbol in enumerate(symbols)}
    return {
        "grammar": fingerprint(text),
        "symbols": symbols,
        "terminals": sorted({entry["name"] for entry in terminals} & set(symbols) | {END}),
        "literals": dict(sorted(pair for entry in terminals for pair in _literals(entry))),
        "patterns": {
            entry["name"]: entry["pattern"]["value"]
            for entry in sorted(terminals, key=lambda entry: entry["name"])
            if not any(_literals(entry))
        },
        "rules": [[*row[:3], list(row[3]), *row[4:]] for row in rows],
        "states": [
            [
                number
                for symbol, target in sorted(states[state].items())
                for number in (place[symbol], order[target] if target >= 0 else target)
            ]
            for state in order
        ],
        "starts": {
            start: [order[table["start_states"][start]], order[table["end_states"][start]]]
            for start in starts
        },
    }


def _walk(states: Mapping[int, Mapping[str, int]], starts: list[int]) -> dict[int, int]:
    """A number for each state: breadth first, by the names of symbols."""
    order = {state: number for number, state in enumerate(starts)}
    queue = list(starts)
    for state in queue:
        for _, target in sorted(states[state].items()):
            if target >= 0 and target not in order:
                order[target] = len(order)
                queue.append(target)
    return order


def _row(rule: Mapping[str, Any]) -> tuple[Any, ...]:
    """A rule as the fields of `loader.Rule`: what lark's own tree builder would do with it."""
    options = rule["options"]
    origin: str = rule["origin"]["name"]
    # A digit for each symbol of the rule as written: 1 if it is optional and this variant lacks it.
    digits = "".join(str(int(absent)) for absent in options["empty_indices"])
    length = len(rule["expansion"])
    absent = [len(run) for run in digits.split("0")] if digits else [0] * (length + 1)
    keep: list[int | None] = []
    for position, symbol in enumerate(rule["expansion"]):
        keep += [None] * absent[position]
        if symbol["__type__"] == "NonTerminal":
            keep.append(~position if symbol["name"].startswith("_") else position)
        elif options["keep_all_tokens"] or not symbol["filter_out"]:
            keep.append(position)
    keep += [None] * absent[length]
    lift = bool(options["expand1"]) and not rule["alias"]
    name = rule["alias"] or options["template_source"] or origin
    return origin, name, length, tuple(keep), lift, origin.startswith("_")


def _literals(terminal: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The fixed texts of a terminal, each with its name; none if it is a true pattern."""
    pattern = terminal["pattern"]
    if pattern["__type__"] == "PatternStr":
        yield pattern["value"], terminal["name"]
    elif found := re.fullmatch(r"\(\?:([a-z<>=!]+(?:\|[a-z<>=!]+)*)\)", pattern["value"]):
        for text in found[1].split("|"):
            yield text, terminal["name"]


def write(folder: Path) -> Iterator[Path]:
    """Rewrite the tables in a folder of grammars; the paths of those that changed."""
    for path in sorted(folder.glob("*.json")):
        text = json.dumps(build(path.stem), separators=(",", ":")).replace("],[", "],\n[") + "\n"
        if text != path.read_text(encoding="utf-8"):
            atomic_write(path, text)
            yield path


if __name__ == "__main__":
    for changed in write(Path(__file__).parent):
        print(changed)
