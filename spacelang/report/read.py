"""A report to and from JSON, every field checked.

from_json({"space": "a.space:b", "size": "31104", ...}) -> Report
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Literal, cast, get_args, get_origin, get_type_hints

from spacelang.diagnostics import SpaceError, error
from spacelang.report.model import Report

Json = object


class ReportError(SpaceError):
    """The data of a report is not what `spacelang.report.model` describes."""

    def __init__(self, place: str, problem: str) -> None:
        super().__init__(error("SP702", f"the report's data is wrong at {place}: {problem}"))


def from_json(data: Mapping[str, Json]) -> Report:
    """A report from JSON data; ReportError names the first place that is wrong."""
    return cast(Report, _read(Report, data, "report"))


def to_json(report: Report) -> dict[str, Json]:
    """The JSON data of a report; sizes, which may pass what JSON readers hold, as strings."""
    data = cast(dict[str, Json], _plain(report))
    data["size"] = str(report.size)
    if report.size_within is not None:
        data["size_within"] = str(report.size_within)
    return data


def _plain(value: object) -> Json:
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple):
        return [_plain(part) for part in cast(tuple[object, ...], value)]
    if isinstance(value, Mapping):
        items = cast(Mapping[str, object], value).items()
        return {name: _plain(part) for name, part in items}
    return value


def _read(kind: object, value: Json, place: str) -> object:
    """A JSON value as a type of the model: what each type accepts is one line here."""
    origin, arguments = get_origin(kind), get_args(kind)
    if isinstance(kind, type) and is_dataclass(kind):
        return _read_dataclass(kind, value, place)
    if origin in (UnionType,) or str(origin) == "typing.Union":
        return _read_union(arguments, value, place)
    if origin is Literal:
        if value in arguments:
            return value
        raise ReportError(place, f"{value!r} is none of {', '.join(map(str, arguments))}")
    if origin is tuple:
        return _read_tuple(arguments, value, place)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {
            name: _read(arguments[1], part, f"{place}.{name}")
            for name, part in _object(value, place).items()
        }
    if kind is int and isinstance(value, str) and value.isascii() and value.isdigit():
        return _integer(value, place)
    if kind is float and type(value) is int:
        value = float(value) if abs(value) < 1 << 53 else value
    if type(value) is not kind:
        name = {int: "whole number", float: "number", str: "string", bool: "boolean"}
        raise ReportError(place, f"{_shown(value)} is no {name.get(cast(type, kind), 'value')}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ReportError(place, f"{value} is no finite number")
    if isinstance(value, int) and value < 0:
        raise ReportError(place, f"{value} is negative")
    return value


def _read_dataclass(kind: type, value: Json, place: str) -> object:
    given = _object(value, place)
    hints = get_type_hints(kind)
    known = {field.name: field for field in fields(kind)}
    unknown = sorted(given.keys() - known.keys())
    if unknown:
        raise ReportError(place, f"there is no field {unknown[0]!r}")
    for name, field in known.items():
        optional = field.default is not MISSING or field.default_factory is not MISSING
        if name not in given and not optional:
            raise ReportError(place, f"the field {name!r} is missing")
    read = {name: _read(hints[name], part, f"{place}.{name}") for name, part in given.items()}
    try:
        return kind(**read)
    except ValueError as problem:
        raise ReportError(place, str(problem)) from problem


def _read_union(kinds: tuple[object, ...], value: Json, place: str) -> object:
    if value is None and NoneType in kinds:
        return None
    if type(value) in kinds:
        return _scalar(value, place)
    last: ReportError | None = None
    for kind in kinds:
        if kind is NoneType or kind is str:
            continue
        try:
            return _read(kind, value, place)
        except ReportError as problem:
            last = problem
    raise last or ReportError(place, f"{_shown(value)} does not fit")


def _scalar(value: Json, place: str) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        raise ReportError(place, f"{value} is no finite number")
    return value


def _read_tuple(kinds: tuple[object, ...], value: Json, place: str) -> tuple[object, ...]:
    if not isinstance(value, (list, tuple)):
        raise ReportError(place, f"{_shown(value)} is no array")
    parts = cast(list[Json], value)
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        kinds = (kinds[0],) * len(parts)
    if len(parts) != len(kinds):
        raise ReportError(place, f"has {len(parts)} entries, not {len(kinds)}")
    pairs = zip(kinds, parts, strict=True)
    return tuple(_read(kind, part, f"{place}[{i}]") for i, (kind, part) in enumerate(pairs))


def _object(value: Json, place: str) -> dict[str, Json]:
    if not isinstance(value, Mapping):
        raise ReportError(place, f"{_shown(value)} is no object")
    return {str(name): part for name, part in cast(Mapping[object, Json], value).items()}


def _integer(text: str, place: str) -> int:
    try:
        return int(text)
    except ValueError as problem:  # longer than Python converts
        raise ReportError(place, f"a number of {len(text):,} digits") from problem


def _shown(value: Json) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
