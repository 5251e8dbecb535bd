"""Equal statements after each other as a loop: `for i in 0..<depth { x = f(x) as layers[i] }`.

Statements are equal where they differ in numbers alone, one of which counts them. What else
differs is computed from the count where that is possible, else listed: `for i, n in enumerate(..)`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from spacelang.syntax.write_values import candidate

SHORTEST = 3
"""Statements that are worth a loop."""
_NUMBER = re.compile(r'"[^"]*"|(?<![\w.])\d+(?:\.\d+)?(?:e-\d+)?(?:/\d+)?(?![\w.])')
_WHEN = re.compile(r"when (\d+) < (\w+) \{ (.*) \}")
_NOTHING = re.compile(r"for \w+ in 0\.\.<(\w+) \{ \}")


@dataclass(frozen=True)
class _Line:
    """A statement without its numbers, and these; `bound` is a decision above which the count
    stays where it is there."""

    text: str
    numbers: tuple[Fraction, ...]
    bound: str = ""
    count: int = 0


def rolled(
    lines: Sequence[str], free: Callable[[str], str], present: Mapping[str, Sequence[Fraction]]
) -> list[str]:
    """Statements with loops; `present` are the values of decisions that bound loops, by name."""
    read = [_read(line, present) for line in lines]
    made: list[str] = []
    start = 0
    while start < len(lines):
        stop = _run(read, start)
        loop = _loop(read[start:stop], lines[start:stop], free, present)
        made += loop or [lines[start]]
        start = stop if loop else start + 1
    bounds = {
        bound for line in made for bound in re.findall(r"^for \w+ in \d+\.\.<(\w+) \{ \w", line)
    }
    return [line for line in made if (m := _NOTHING.fullmatch(line)) is None or m[1] not in bounds]


def _read(line: str, present: Mapping[str, Sequence[Fraction]]) -> _Line | None:
    """A statement of one line that assigns; None for others."""
    guard = _WHEN.fullmatch(line)
    body = line if guard is None else guard[3]
    if "\n" in line or " = " not in body or body.startswith(("let ", "when ", "for ", "choose ")):
        return None
    if guard is not None and guard[2] not in present:
        return None
    found = [m[0] for m in _NUMBER.finditer(body) if m[0][0] != '"']
    text = _NUMBER.sub(lambda m: m[0] if m[0][0] == '"' else "\0", body)
    numbers = tuple(map(Fraction, found))
    return _Line(text, numbers, guard[2] if guard else "", int(guard[1]) if guard else 0)


def _run(read: Sequence[_Line | None], start: int) -> int:
    """Where a run of equal statements ends; what is bound stands behind what is not."""
    first = read[start]
    stop = start + 1
    bound = first.bound if first is not None else ""
    while first is not None and stop < len(read):
        line = read[stop]
        if line is None or line.text != first.text or (bound and line.bound != bound):
            break
        bound = line.bound
        stop += 1
    return stop


def _loop(
    run: Sequence[_Line | None],
    lines: Sequence[str],
    free: Callable[[str], str],
    present: Mapping[str, Sequence[Fraction]],
) -> list[str]:
    """The loop of a run, none where it is short or nothing counts it."""
    known = [line for line in run if line is not None]
    columns = list(zip(*(line.numbers for line in known), strict=True)) if known else []
    count = next((c for c in columns if _counts(c)), None)
    if count is None or len(run) < SHORTEST:
        return []
    first, bound = int(count[0]), known[-1].bound
    end = str(first + len(run))
    if bound:
        tail = [
            (number, line.count) for number, line in zip(count, known, strict=True) if line.bound
        ]
        values = present[bound]
        whole = max(values) == first + len(run) and min(values) >= tail[0][0]
        if not whole or any(number != turn for number, turn in tail):
            free_part = sum(not line.bound for line in known)
            plain = _loop(run[:free_part], lines[:free_part], free, present)
            return [*plain, *lines[free_part:]] if plain else []
        end = bound
    index = free("i")
    listed: dict[tuple[Fraction, ...], str] = {}
    texts: list[str] = []
    for column in columns:
        if len(set(column)) == 1:
            texts.append(candidate(column[0]))
            continue
        text = _affine(column, first, index)
        if text is None:
            if column not in listed and (bound or len(listed) == 2):
                return []
            text = listed.setdefault(column, "") or free("n")
            listed[column] = text
        texts.append(text)
    return [_written(known[0].text, texts, index, first, end, listed)]


def _counts(column: Sequence[Fraction]) -> bool:
    return all(n == column[0] + turn and n.denominator == 1 for turn, n in enumerate(column))


def _affine(column: Sequence[Fraction], first: int, index: str) -> str | None:
    """A column of numbers as an expression of the count."""
    slope = column[1] - column[0]
    if any(n != column[0] + slope * turn for turn, n in enumerate(column)):
        return None
    offset = column[0] - slope * first
    if slope == 1:
        text = index
    elif slope.numerator == 1:
        text = f"{index} / {slope.denominator}"
    else:
        text = f"{candidate(slope)} * {index}" if slope > 0 else f"({slope}) * {index}"
    if not offset:
        return text if slope == 1 else f"({text})"
    return f"({text} {'+' if offset > 0 else '-'} {candidate(abs(offset))})"


def _written(
    text: str,
    texts: Sequence[str],
    index: str,
    first: int,
    end: str,
    listed: Mapping[tuple[Fraction, ...], str],
) -> str:
    parts: Iterator[str] = iter(texts)
    body = re.sub("\0", lambda _: next(parts), text)
    if not listed:
        return f"for {index} in {first}..<{end} {{ {body} }}"
    names = ", ".join((index, *listed.values()))
    lists = [f"[{', '.join(map(candidate, column))}]" for column in listed]
    if first == 0 and len(lists) == 1:
        return f"for {names} in enumerate({lists[0]}) {{ {body} }}"
    return f"for {names} in zip({first}..<{end}, {', '.join(lists)}) {{ {body} }}"
