"""Decisions: what a space leaves open, and what an architecture answers.

    width in {192, 216, 240}          always
    encoder[13].heads in {3, 4}       when depth > 13

A decision's path is its identity: in assignments, selectors, encodings, logs. An assignment maps
the paths of the *live* decisions to plain values (int, float, str, bool, list of int), as in JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from fractions import Fraction
from functools import cached_property
from itertools import permutations
from types import MappingProxyType
from typing import Literal, cast

from spacelang.diagnostics import NOWHERE, Diagnostic, Report, SpaceError, Span, counted, error
from spacelang.ir.condition import TRUE, Condition
from spacelang.ir.dim import Symbol, Value

Kind = Literal["dim", "presence", "path", "pick"]
Plain = int | float | str | bool | list[int]
Assignment = Mapping[str, Plain]


@dataclass(frozen=True)
class Choice:
    """One decision. `live` says for which architectures it is taken at all."""

    path: str
    kind: Kind
    values: tuple[Value, ...]
    hull: tuple[Value, ...] | None = None
    live: Condition = TRUE
    span: Span = field(default=NOWHERE, compare=False, repr=False)

    @cached_property
    def symbol(self) -> Symbol:
        """What sizes and conditions speak of; a pick may be spelt in any order, so it takes them
        all."""
        if self.kind != "pick":
            return Symbol(self.path, self.values)
        orders = (p for v in self.values if isinstance(v, tuple) for p in permutations(v))
        return Symbol(self.path, tuple(orders))

    @property
    def largest(self) -> Value:
        """The largest number, or the first of candidates that have no order."""
        if self.kind == "pick" or not all(isinstance(v, Fraction) for v in self.values):
            return self.values[0]
        return max(v for v in self.values if isinstance(v, Fraction))

    @property
    def smallest(self) -> Value:
        """The smallest number, or the first of candidates that have no order."""
        if self.kind == "pick" or not all(isinstance(v, Fraction) for v in self.values):
            return self.values[0]
        return min(v for v in self.values if isinstance(v, Fraction))

    def admits(self, value: Value) -> bool:
        """Whether a value is a candidate; a pick may be spelt in any order."""
        if isinstance(value, tuple):
            return tuple(sorted(value)) in self.values
        return any(type(value) is type(v) and value == v for v in self.values)


def sources(pick: Choice) -> int:
    """How many values a pick draws from."""
    return 1 + max(max(v) for v in pick.values if isinstance(v, tuple))


def drawn(pick: Choice) -> int:
    """How many values a pick draws."""
    return max(len(v) for v in pick.values if isinstance(v, tuple))


def exact(value: object) -> Value:
    """A plain value as the algebra holds it; numbers become exact fractions (3.5 -> 7/2).

    TypeError for what is no value of a decision, ValueError for a float that is not finite.
    """
    match value:
        case bool() | str() | Fraction():
            return value
        case int():
            return Fraction(value)
        case float():
            return Fraction(float.__repr__(value))  # repr of a NumPy float names its type
        case list() | tuple() if all(type(v) is int for v in cast(Iterable[object], value)):
            return tuple(cast(Iterable[int], value))
        case _:
            raise TypeError(f"{type(value).__name__} is no value of a decision")


def plain(value: Value) -> Plain:
    """A value as it stands in an assignment (7/2 -> 3.5)."""
    match value:
        case bool() | str():
            return value
        case tuple():
            return list(value)
        case _:
            number = Fraction(value)
            return int(number) if number.denominator == 1 else float(number)


def shown(value: object) -> str:
    """A value as an assignment writes it, in JSON: `"192"`, `true`, `3.5`."""
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):  # no JSON at all
        pass
    try:
        return repr(value)
    except (ValueError, RecursionError):  # too many digits, too deep
        return f"this {type(value).__name__}"


def _listed(paths: Sequence[str]) -> str:
    return ", ".join(paths[:8]) + (", .." if len(paths) > 8 else "")


class Decisions(Mapping[str, Choice]):
    """The table of decisions of a graph, in the order of the text."""

    def __init__(self, choices: Sequence[Choice]) -> None:
        self._choices = {choice.path: choice for choice in choices}

    def __getitem__(self, path: str) -> Choice:
        return self._choices[path]

    def __iter__(self) -> Iterator[str]:
        return iter(self._choices)

    def __len__(self) -> int:
        return len(self._choices)

    def __repr__(self) -> str:
        return f"Decisions({', '.join(self._choices)})"

    @cached_property
    def order(self) -> tuple[Choice, ...]:
        """Each decision after those which its being live depends on; else as in the text."""
        needs = {
            path: {s.name for s in choice.live.symbols} - {path}
            for path, choice in self._choices.items()
        }
        readers: dict[str, list[str]] = {}
        for path, names in needs.items():
            for name in names:
                readers.setdefault(name, []).append(path)
        place = {path: number for number, path in enumerate(needs)}
        found: dict[str, Choice] = {}
        ready = [path for path, names in needs.items() if not names]
        while ready:
            found |= {path: self._choices[path] for path in ready}
            freed: list[str] = []
            for path in ready:
                for reader in readers.get(path, ()):
                    needs[reader].discard(path)
                    if not needs[reader]:
                        freed.append(reader)
            ready = sorted(freed, key=place.__getitem__)
        return tuple({**found, **self._choices}.values())  # last, what waits for each other

    def ranges(self, given: Mapping[str, Iterable[object]]) -> dict[str, tuple[Value, ...]]:
        """The candidates that ranges leave, in their order, by the path of a decision.

        SP504 for a path that is no decision's, SP501 for what is no candidate or for none at all,
        SP209 for what is no list of them.
        """
        left: dict[str, tuple[Value, ...]] = {}
        for path, values in given.items():
            choice = self._choices.get(path)
            if choice is None:
                raise SpaceError(error("SP504", f"no decision has the path {path}"))
            asked = _entries(values)
            if asked is None:
                wrong = f"the range of {path} is a list of candidates, not {shown(values)}"
                raise SpaceError(error("SP209", wrong, choice.span))
            foreign = [value for value in asked if _candidate(choice, value) is None]
            if foreign or not asked:
                what = f"{shown(foreign[0])} is no candidate" if foreign else "nothing is left"
                raise SpaceError(error("SP501", f"{what} of {path}", choice.span))
            kept = [_candidate(choice, value) for value in asked]
            left[path] = tuple(value for value in choice.values if value in kept)
        return left

    def complete(self, taken: Mapping[str, Value], fill: str = "largest") -> dict[str, Value]:
        """Values for all decisions, live or not: those taken, and `fill` for the rest."""
        return {c.path: taken.get(c.path, getattr(c, fill)) for c in self.order}

    def live(self, values: Mapping[str, Value]) -> tuple[Choice, ...]:
        """The decisions that these values (of all decisions) leave live, in order."""
        alive: set[str] = set()
        for choice in self.order:
            if not choice.live.at(values):
                continue
            needed = {s.name for s in choice.live.symbols}
            # Of several ways to be live one may speak of decisions that are not.
            known = {name: values[name] for name in needed & alive}
            if needed <= alive or choice.live.substitute(known) == TRUE:
                alive.add(choice.path)
        return tuple(c for c in self._choices.values() if c.path in alive)

    def assignment(self, values: Mapping[str, Value]) -> Assignment:
        """The read-only assignment of plain values that holds only what is live."""
        return MappingProxyType({c.path: plain(values[c.path]) for c in self.live(values)})

    def extreme(self, which: Literal["largest", "smallest"]) -> Assignment:
        """The architecture whose every number is the largest (or smallest) candidate."""
        return self.assignment(self.complete({}, which))

    def check(self, assignment: Mapping[str, object], span: Span = NOWHERE) -> dict[str, Value]:
        """Exact values for all decisions from an assignment of the live ones.

        Raises SpaceError: SP509 no mapping, SP504 what is no path of the table, SP501 no candidate,
        SP506 a live decision not taken. Values given for decisions that are not live are ignored.
        """
        if not isinstance(cast(object, assignment), Mapping):
            kind = type(assignment).__name__
            raise SpaceError(error("SP509", f"an assignment is a mapping by paths, not {kind}"))
        report = Report()
        taken: dict[str, Value] = {}
        if assignment and not self._choices:  # one sentence, not one for each path
            found = error("SP504", "nothing is left to decide, and an assignment is given", span)
            raise SpaceError(found.note(f"it decides {_listed([shown(p) for p in assignment])}"))
        for path, value in cast(Mapping[object, object], assignment).items():
            if not isinstance(path, str):
                report.add(error("SP504", f"{shown(path)} is no path of a decision", span))
                continue
            choice = self._choices.get(path)
            if choice is None:
                near = get_close_matches(path, self._choices, 1)
                found = error("SP504", f"no decision has the path {path}", span)
                report.add(found.hint(f"did you mean {near[0]}?") if near else found)
                continue
            try:
                taken[path] = exact(value)
            except (TypeError, ValueError):
                report.add(error("SP501", f"{shown(value)} is no candidate of {path}", span))
                continue
            if not choice.admits(taken[path]):
                known = ", ".join(shown(plain(v)) for v in choice.values[:12])
                report.add(
                    error("SP501", f"{shown(value)} is no candidate of {path}", span).note(
                        f"{path} takes {known}{', ..' if len(choice.values) > 12 else ''}"
                    )
                )
        report.check()
        values = self.complete(taken)
        missing = [c.path for c in self.live(values) if c.path not in taken]
        if missing:
            report.add(not_taken(missing, span))
        report.check()
        return values


def _entries(values: object) -> list[object] | None:
    """The entries of what is a list of some kind; a word is none."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        return None
    return list(cast(Iterable[object], values))


def _candidate(choice: Choice, value: object) -> Value | None:
    """The candidate that a value is, a pick's in its order; None for what is none."""
    try:
        wanted = exact(value)
    except (TypeError, ValueError):
        return None
    if isinstance(wanted, tuple):
        wanted = tuple(sorted(wanted))
    return wanted if choice.admits(wanted) else None


def not_taken(paths: Sequence[str], span: Span = NOWHERE) -> Diagnostic:
    """SP506 for decisions that an architecture leaves open."""
    verb = "is" if len(paths) == 1 else "are"
    many = counted(len(paths), "decision")
    return error("SP506", f"{many} {verb} not taken: {_listed(paths)}", span)
