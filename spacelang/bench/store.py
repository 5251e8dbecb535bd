"""Records in a file: one a row and number of threads, the latest."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from spacelang.bench.rows import Row
from spacelang.diagnostics import SpaceError, error

VERSION = 2


def kept(path: Path) -> dict[str, Any]:
    """What a file of records holds; an empty one where it is not there (SP702 for another file)."""
    if not path.exists():
        return {"version": VERSION, "records": {}}
    try:
        found: object = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as failed:
        raise SpaceError(error("SP702", f"{path} cannot be read: {failed}")) from failed
    if not isinstance(found, dict):
        raise SpaceError(error("SP702", f"{path} holds no records of bench"))
    data = cast(dict[str, Any], found)
    if data.get("version") != VERSION or not isinstance(data.get("records"), dict):
        raise SpaceError(error("SP702", f"{path} holds no records of bench"))
    return data


def missing(data: Mapping[str, Any], expected: Iterable[tuple[Row, int]]) -> list[tuple[str, int]]:
    """Of which rows and numbers of threads there is no record."""
    return [
        (row.name, threads)
        for row, threads in expected
        if key({"row": row.name, "threads": threads}) not in data["records"]
    ]


def key(record: Mapping[str, Any]) -> str:
    """Under which name a record is kept."""
    return f"{record['row']} x{record['threads']}"


def merged(data: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """The records with one more, or with one in the place of an earlier one."""
    records = {**data["records"], key(record): dict(record)}
    return {**data, "records": dict(sorted(records.items()))}


__all__ = ["kept", "key", "merged", "missing"]
