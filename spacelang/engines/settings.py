"""An engine from its settings: `search evolution { population = 50 }`, then the command line.

    engine = configure("evolution", graph.search.get("evolution", {}), {"generations": "10"})

Settings are the fields of the engine's dataclass. Later layers win; text is read as the type of the
field, so that a command line can hand over what it was given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from types import NoneType
from typing import Any, Literal, cast, get_args, get_origin, get_type_hints

from spacelang.diagnostics import Report, SpaceError, error, spelt
from spacelang.engines.protocol import Able, Engine
from spacelang.ir.graph import Graph
from spacelang.plugins import load

GROUP = "spacelang.engines"
BUDGETS = frozenset(("where", "bounds"))
"""Settings that are budgets, written as after `--where`, or lists of them."""


class Unreadable(ValueError):
    """A value that is not of the type of its field; the message says what would be."""


def configure(name: str, *layers: Mapping[str, object]) -> Engine:
    """The engine of that name with these settings, later layers over earlier ones.

    SpaceError: SP604 for an unknown engine, SP204 for an unknown setting, SP209 for a value of the
    wrong kind, SP103 for one out of range (a ValueError of the engine's `__post_init__`).
    """
    found = load(GROUP, name)
    if not (isinstance(found, type) and is_dataclass(found)):
        raise SpaceError(error("SP604", f"{name} is no engine: an engine is a dataclass"))
    return made(found, *layers)


def made(kind: Any, *layers: Mapping[str, object]) -> Any:
    """An engine of a class with these settings, as `configure` makes one by its name."""
    values = read_fields(kind, kind.name, *layers)
    try:
        return kind(**values)
    except ValueError as problem:
        raise SpaceError(error("SP103", f"{kind.name}: {problem}")) from problem


def read_fields(kind: Any, name: str, *layers: Mapping[str, object]) -> dict[str, Any]:
    """Values of a dataclass's fields from settings, those of later layers (SP204, SP209).

    `name` is what the messages call the thing that is set.
    """
    hints = get_type_hints(kind)
    known = [field.name for field in fields(kind)]
    report = Report()
    values: dict[str, Any] = {}
    for layer in layers:
        for setting, value in layer.items():
            if setting not in known:
                near = get_close_matches(setting, known, 1)
                unknown = error("SP204", f"{name} has no setting {setting}")
                unknown = unknown.note(f"its settings are {', '.join(known) or 'none'}")
                report.add(unknown.hint(f"did you mean {near[0]}?") if near else unknown)
                continue
            try:
                values[setting] = read(hints[setting], value)
            except Unreadable as problem:
                report.add(error("SP209", f"{name}: {setting} is {problem}, not {spelt(value)}"))
    report.check()
    return values


def settings_of(engine: Able) -> dict[str, object]:
    """The settings of an engine as JSON, which `configure` takes again."""
    named = ((field.name, getattr(engine, field.name)) for field in fields(cast(type, engine)))
    return {n: list(cast(tuple[object], v)) if isinstance(v, tuple) else v for n, v in named}


def check(engine: Able, space: Graph, fixed: bool = False) -> None:
    """SP701 if a space has decisions of a kind that the engine cannot take, or has none at all.

    With `fixed` a network without decisions will do: it can be trained, if not searched.
    """
    if not space.decisions and not fixed:
        raise SpaceError(
            error("SP701", f"{space.name} leaves nothing to decide").hint(
                "an engine needs at least one `choose`"
            )
        )
    foreign = [c for c in space.decisions.values() if c.kind not in engine.kinds]
    if foreign:
        kinds = sorted({c.kind for c in foreign})
        shown = ", ".join(c.path for c in foreign[:8]) + (", .." if len(foreign) > 8 else "")
        headline = f"{engine.name} cannot take decisions of kind {' or '.join(kinds)}"
        raise SpaceError(
            error("SP701", headline, foreign[0].span).note(
                f"{shown}", f"it takes {', '.join(sorted(engine.kinds))}"
            )
        )


def read(kind: Any, value: object) -> object:
    """A value as the type of a field: int, float, bool, str, a Literal, a tuple, or None."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        if value in arguments:
            return value
        raise Unreadable(f"one of {', '.join(map(str, arguments))}")
    if origin is tuple:
        given = _listed(value) if isinstance(value, str) else value
        if not isinstance(given, list | tuple):
            raise Unreadable("a list")
        parts = cast(list[object] | tuple[object, ...], given)
        return tuple(read(arguments[0], p.strip() if isinstance(p, str) else p) for p in parts)
    if NoneType in arguments:
        if value is None or value == "none":
            return None
        return read(next(a for a in arguments if a is not NoneType), value)
    return _SCALARS[kind](value)


def _listed(text: str) -> list[str]:
    """The parts of a text between commas outside of brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _integer(value: object) -> int:
    if isinstance(value, str):
        with suppress(ValueError):
            return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise Unreadable("a whole number")


def _number(value: object) -> float:
    if isinstance(value, str):
        with suppress(ValueError):
            value = float(value)
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    raise Unreadable("a number")


def _truth(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if value in ("true", "false"):
        return value == "true"
    raise Unreadable("true or false")


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    raise Unreadable("a text")


_SCALARS = {int: _integer, float: _number, bool: _truth, str: _text}
