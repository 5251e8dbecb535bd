"""Before anything runs: `check` proves files, `fmt` lays them out, `explain` tells of a code."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import click
from click.exceptions import Exit

from spacelang.checking import Checked, checked
from spacelang.cli import options
from spacelang.cli.errors import INVALID, UNVERIFIED, nearest
from spacelang.cli.given import shown_at
from spacelang.cli.output import console, emit, in_color, many, say, table
from spacelang.diagnostics import CODES, Report, Source, SpaceError, error
from spacelang.render import as_json as diagnostics_as_json
from spacelang.render import text as diagnostics_as_text


@click.command(short_help="Prove a file right for every architecture, and lint it.")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@options.settings
@options.as_json
def check(files: tuple[str, ...], settings: Mapping[str, object], as_json: bool) -> None:
    """Parse, resolve, prove the shapes of every space for all its architectures, and lint.

    The networks of a program are proved, and what they share. FILE.space:NAME checks one. Exits
    with 2 if there is an error; warnings alone leave 0.
    """
    found = [checked(file, settings, shown_at) for file in files]
    errors = sum(len(one.report.errors) for one in found)
    warnings = sum(len(one.report.warnings) for one in found)
    if as_json:
        emit({"files": list(map(_record, found)), "errors": errors, "warnings": warnings})
    else:
        diagnostics = [d for one in found for d in one.report]
        if diagnostics:
            print(diagnostics_as_text(diagnostics, in_color(sys.stderr)), file=sys.stderr)
        for one in found:
            _summary(one)
    if errors:
        raise Exit(INVALID)


def _record(found: Checked) -> dict[str, object]:
    return {
        "file": found.file,
        "spaces": [{"name": name, "decisions": n} for name, n in found.spaces.items()],
        "open": [{"name": name, "parameters": list(m)} for name, m in found.open.items()],
        "diagnostics": diagnostics_as_json(found.report),
    }


def _summary(found: Checked) -> None:
    bad, doubtful = len(found.report.errors), len(found.report.warnings)
    verdict = many(bad, "error") if bad else "ok"
    extra = f", {many(doubtful, 'warning')}" if doubtful else ""
    say(f"{found.file}: {verdict}{extra}")
    width = max(map(len, (*found.spaces, *found.open)), default=0)
    for name, missing in found.open.items():
        say(f"  {name:<{width}}  open: {', '.join(missing)}")
    for name, decisions in found.spaces.items():
        say(f"  {name:<{width}}  {many(decisions, 'decision')}" if decisions else f"  {name}")


@click.command(short_help="Bring files into the canonical layout.")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--check", "only_check", is_flag=True, help="Change nothing; exit 5 if it would.")
@options.as_json
def fmt(files: tuple[str, ...], only_check: bool, as_json: bool) -> None:
    """Bring files into the canonical layout, comments kept; - formats stdin to stdout.

    A file with a syntax error stays as it is, and the exit code is 2.
    """
    report = Report()
    changed: dict[str, bool] = {}
    made: dict[str, str] = {}
    for file in files:
        try:
            changed[file], made[file] = _format(file, only_check)
        except SpaceError as failed:
            report.extend(failed.diagnostics)
    if as_json:
        rows: list[dict[str, object]] = [
            {"file": file, "changed": new, **({"text": made[file]} if file == "-" else {})}
            for file, new in changed.items()
        ]
        emit({"files": rows, "diagnostics": diagnostics_as_json(report)})
    else:
        if not only_check:
            sys.stdout.write(made.get("-", ""))
        verb = "would change" if only_check else "changed"
        for file in (file for file, new in changed.items() if new and file != "-"):
            say(f"{verb} {file}")
        if report.errors:
            print(diagnostics_as_text(report, in_color(sys.stderr)), file=sys.stderr)
    if report.errors:
        raise Exit(INVALID)
    if only_check and any(changed.values()):
        raise Exit(UNVERIFIED)


def _format(file: str, only_check: bool) -> tuple[bool, str]:
    """Format one file in its place, but stdin; whether that changed it, and the text in layout."""
    from spacelang.files import atomic_write
    from spacelang.syntax.format import format
    from spacelang.syntax.parse import parse
    from spacelang.syntax.scope import read_source

    if file == "-":
        source = Source("<stdin>", _stdin())
        made = format(parse(source))
        return made != source.text, made
    path = Path(file)
    if path.suffix == ".spaceir":
        raise SpaceError(
            error("SP104", f"{file} is IR text, which has one layout: as it is printed")
        )
    source = read_source(path)
    made = format(parse(source))
    if made.encode() == path.read_bytes():
        return False, made
    if not only_check:
        atomic_write(path, made)
    return True, made


def _stdin() -> str:
    try:
        text = sys.stdin.buffer.read((1 << 20) + 1).decode("utf-8")
    except UnicodeDecodeError as failed:
        raise SpaceError(error("SP104", f"stdin cannot be read: {failed}")) from failed
    if len(text) > 1 << 20:
        raise SpaceError(error("SP102", "stdin is larger than 1 MiB"))
    return text


@click.command(short_help="What the code of a diagnostic means.")
@click.argument("code", required=False, metavar="[CODE]")
@options.as_json
def explain(code: str | None, as_json: bool) -> None:
    """What the code of a diagnostic means, with an example; without CODE the list of all codes."""
    from spacelang.explain import page

    if code is None:
        if as_json:
            emit({"codes": [{"code": c, "headline": h} for c, h in CODES.items()]})
        else:
            table(("code", "what it is"), CODES.items())
        return
    try:
        text = page(code)
    except KeyError:
        hint = nearest(code.upper(), list(CODES)) or "`spacelang explain` lists them"
        raise click.UsageError(f"there is no code {code!r}; {hint}") from None
    name = f"SP{code.upper().removeprefix('SP')}"
    if as_json:
        emit({"code": name, "headline": CODES[name], "page": text})
    elif in_color(sys.stdout):
        from rich.markdown import Markdown

        console(sys.stdout).print(Markdown(text))
    else:
        print(text, end="")
