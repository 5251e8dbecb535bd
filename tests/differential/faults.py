"""Legal programs with one mistake in them, and what must be true of how they are refused.

A mistake is certain (`CERTAIN`: the program is illegal whatever else stands in it) or only likely
(a number or a name exchanged for another): then the program may still load.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from differential.pins import pinned
from differential.program import NAME, core
from differential.shrink import bare, positions, replaced

from spacelang.diagnostics import CODES, NOWHERE, Diagnostic, Source, SpaceError
from spacelang.ir.decision import Plain
from spacelang.loader import load
from spacelang.render import text as drawn
from spacelang.syntax import tree
from spacelang.syntax.format import format
from spacelang.syntax.parse import parse

CERTAIN = {
    "an unknown name": "bad = nowhere + x",
    "an unknown op": "bad = no_such_op(x)",
    "an unknown option": "bad = relu(x, no_such: 1)",
    "a word as a size": 'bad = linear(x, "wide") as bad_fc',
    "a decision as a tensor": "choose bad_n in {4, 8}  bad = relu(bad_n)",
    "too many axes": "bad = mean(x, axes: [9])",
    "a slice past the end": "bad = x[.., 0..<1000]",
    "parts that are not whole": "bad = split(x, 1009, axis: -1)",
    "a pattern of other axes": 'bad = rearrange(x, "a b c d e f -> a")',
    "sizes that differ": "bad = parameter([3]) as bad_a + parameter([5]) as bad_b",
    "sizes that sometimes differ":
        "choose bad_n in {3, 5}  bad = parameter([bad_n]) as bad_a + parameter([3]) as bad_b",
    "a slice that sometimes ends past it": "choose bad_n in {1, 999}  bad = x[.., 0..<bad_n]",
    "a part that is sometimes not whole":
        "choose bad_n in {1, 2}  bad = linear(x, 3 / bad_n) as bad_fc",
    "a division by zero": "choose bad_n in 0..2  bad = linear(x, 12 // bad_n) as bad_fc",
    "one label twice": "bad = linear(x, 4) as bad_fc |> linear(4) as bad_fc",
    "no storage rule": "weights { bad_path: separate }",
    "a value that must be known": "choose bad_n in {1, 2}  bad = split(x, bad_n, axis: -1)",
}  # fmt: skip
"""A mistake, and the statement that makes it, put before the output."""

Fault = tuple[str, str, bool]


def fault(number: int) -> Fault:
    """A program with a mistake: what it is, the text, whether it is certain."""
    rng = random.Random(f"fault {number}")
    text = core(rng).text()
    if rng.random() < 0.5:
        name = rng.choice(sorted(CERTAIN))
        before, output, after = text.rpartition("  output ")
        return name, f"{before}  {CERTAIN[name]}\n{output}{after}", True
    file: Any = bare(parse(Source(NAME, text)))
    spots = list(positions(file))
    for _ in range(100):
        spot, node = rng.choice(spots)
        made = rng.choice(CHANGES)(node, rng, spots)
        if made is not None and made != node:
            return "an exchanged part", format(replaced(file, spot, made)), False
    return "nothing", text, False


def _number(node: Any, rng: random.Random, spots: Any) -> Any:
    if not isinstance(node, tree.Number):
        return None
    value = node.value + rng.choice([1, -1, 2, 5])
    return tree.Number(value, str(value)) if value >= 0 else None


def _name(node: Any, rng: random.Random, spots: Any) -> Any:
    names = [n for _, n in spots if isinstance(n, tree.Name)]
    return rng.choice(names) if isinstance(node, tree.Name) else None


def _kind(node: Any, rng: random.Random, spots: Any) -> Any:
    if not isinstance(node, tree.Number | tree.Name):
        return None
    half = tree.Number(Fraction(1, 2), "0.5")
    return rng.choice(
        [tree.String("word"), tree.Name("true"), tree.Name("none"), tree.List(()), half]
    )


def _fewer(node: Any, rng: random.Random, spots: Any) -> Any:
    if isinstance(node, tree.Body | tree.CallOf | tree.List | tree.Weights):
        at = 1 if isinstance(node, tree.CallOf) else 0
        values = [*node.children()]
        if values[at]:
            gone = rng.randrange(len(values[at]))
            values[at] = values[at][:gone] + values[at][gone + 1 :]
            return type(node)(*values)
    return None


CHANGES: list[Callable[[Any, random.Random, Any], Any]] = [_number, _number, _name, _kind, _fewer]

EXAMPLE = re.compile(r"first disagreement: (.*)")


def refusal(text: str) -> tuple[Diagnostic, ...]:
    """What a program is refused with; nothing for one that loads. Any other exception passes."""
    try:
        load(Source(NAME, text))
    except SpaceError as refused:
        return refused.diagnostics
    return ()


def wrong(text: str, certain: bool) -> str:
    """What is wrong with how a program is refused; empty if nothing is."""
    try:
        found = refusal(text)
    except Exception as problem:
        return f"{type(problem).__name__}: {problem}"
    if not found:
        return "a program that is illegal loads" if certain else ""
    for diagnostic in found:
        if diagnostic.code not in CODES:
            return f"{diagnostic.code} is no code"
        if diagnostic.severity == "error" and diagnostic.primary.span is NOWHERE:
            return f"{diagnostic.code} has no place: {diagnostic.headline}"
        drawn((diagnostic,)).encode()
        for note in diagnostic.notes:
            example = EXAMPLE.match(note)
            if example and not _violates(text, example[1], diagnostic):
                return f"{diagnostic.code}: {note}, which is no counter-example"
    return ""


def _violates(text: str, example: str, found: Diagnostic) -> bool:
    """Whether the program is refused with the decisions of a counter-example taken.

    Of two shapes that differ from one architecture to another, with all but one of them.
    """
    values = dict(_assigned(part) for part in re.split(r", (?=[A-Za-z_])", example))
    file: Any = parse(Source(NAME, text))
    targets = [
        n.target.hops[-1].name
        for _, n in positions(file)
        if isinstance(n, tree.Choose | tree.ChoosePath)
    ]
    if any(targets.count(name) != 1 for name in values) or any(v is None for v in values.values()):
        return True  # taken where an argument stands, or written twice: not to be pinned by name
    taken = {name: value for name, value in values.items() if value is not None}
    if found.code != "SP205":
        return bool(refusal(pinned(text, taken)))
    rest = ({n: v for n, v in taken.items() if n != name} for name in taken)
    return any(refusal(pinned(text, some)) for some in rest)


def _assigned(part: str) -> tuple[str, Plain | None]:
    path, _, value = part.partition(" = ")
    name = re.split(r"[.\[]", path.rpartition(".")[2])[0]
    if value in ("true", "false"):
        return name, value == "true"
    if re.fullmatch(r"\d+(\.\d+)?", value):
        number = float(value)
        return name, int(number) if number == int(number) else number
    return name, None if value.startswith("[") else value.strip('"')
