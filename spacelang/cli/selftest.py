"""`selftest`: is this installation whole? Versions, golden figures, and the time they take."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version

import click
from click.exceptions import Exit

from spacelang import __version__
from spacelang.cli import options
from spacelang.cli.errors import UNVERIFIED
from spacelang.cli.output import emit, pairs, table, tracked
from spacelang.diagnostics import SpaceError

LIBRARIES = ("torch", "lark", "networkx", "numpy", "safetensors", "click", "rich", "triton", "timm")


def _figure(address: str, figure: str) -> Callable[[], object]:
    """A figure of a fixed network."""

    def found() -> object:
        from spacelang.loader import load

        return getattr(load(address).cost(), figure)

    return found


def _stored(address: str) -> Callable[[], object]:
    """Elements that a supernet keeps."""

    def found() -> object:
        from spacelang.cli.info import stored
        from spacelang.loader import load

        return stored(load(address), "params")

    return found


def _size(address: str, where: str = "") -> Callable[[], object]:
    """A number of architectures."""

    def found() -> object:
        from spacelang.loader import load

        return load(address).size(where=where)

    return found


def _format() -> object:
    """Whether the shipped file is formatted to itself."""
    from spacelang.syntax.format import format
    from spacelang.syntax.parse import parse
    from spacelang.syntax.scope import read_source, shipped_folder

    source = read_source(shipped_folder() / "autoformer.space")
    return format(parse(source)) == source.text


# What is computed -> how, and what comes out. The figures are those of the publications.
GOLDEN: Mapping[str, tuple[Callable[[], object], object]] = {
    "autoformer_t: parameters kept": (_stored("autoformer.space:autoformer_t"), 11_669_224),
    "autoformer_t: architectures": (_size("autoformer.space:autoformer_t"), 280_804_921_344),
    "autoformer_t: 5M to 6M params": (
        _size("autoformer.space:autoformer_t", "params in 5M..6M"), 5_164_334_576,
    ),
    "autoformer_t_subnet: params": (
        _figure("autoformer.space:autoformer_t_subnet", "params"), 5_867_944,
    ),
    "autoformer_t_subnet: macs": (
        _figure("autoformer.space:autoformer_t_subnet", "macs"), 1_481_938_432,
    ),
    "deit_s: params": (_figure("deit.space:deit_s", "params"), 22_050_664),
    "swin_t: macs": (_figure("swin.space:swin_t", "macs"), 4_490_566_656),
    "cream_14m: params": (_figure("cream.space:cream_14m", "params"), 2_673_096),
    "autoformer.space is in its layout": (_format, True),
}  # fmt: skip


@click.command(short_help="Versions, golden figures, and how long they take.")
@options.as_json
def selftest(as_json: bool) -> None:
    """Compute a handful of published figures, and say what is installed. Exit 5: one is wrong."""
    started = time.perf_counter()
    versions = {"spacelang": __version__, "python": platform.python_version(), **_versions()}
    wanted = tracked(GOLDEN.items(), "computing", len(GOLDEN))
    checks = [_checked(name, *row) for name, row in wanted]
    seconds = round(time.perf_counter() - started, 3)
    good = all(check["ok"] for check in checks)
    if as_json:
        emit({"versions": versions, "checks": checks, "seconds": seconds, "ok": good})
    else:
        pairs(list(versions.items()))
        rows = [
            (
                "ok" if c["ok"] else "WRONG",
                str(c["name"]),
                _text(c["found"]),
                f"{c['seconds']:.3f} s",
            )
            for c in checks
        ]
        table(("", "check", "found", "time"), rows, right="llrr")
        print(f"{'all as published' if good else 'NOT as published'}, {seconds:.1f} s")
    if not good:
        raise Exit(UNVERIFIED)


def _checked(name: str, compute: Callable[[], object], wanted: object) -> dict[str, object]:
    started = time.perf_counter()
    try:
        found = compute()
    except SpaceError as failed:
        found = failed.diagnostics[0].headline
    seconds = round(time.perf_counter() - started, 3)
    return {
        "name": name, "wanted": wanted, "found": found, "ok": found == wanted, "seconds": seconds,
    }  # fmt: skip


def _versions() -> dict[str, str]:
    """The libraries that are installed."""
    found: dict[str, str] = {}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


def _text(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
