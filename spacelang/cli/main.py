"""The command `spacelang`: a table of commands, each loaded when it is called.

    spacelang check spaces/autoformer.space
    spacelang info autoformer.space:autoformer_t --json

Exit codes: 0 ok, 2 invalid input, 3 environment or disk, 4 locked, 5 verification failed, 130 and
143 by signal; docs/cli.md has all of it.
"""

from __future__ import annotations

import gc
import io
import os
import signal
import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, TextIO

import click
from click.exceptions import Exit
from click.shell_completion import shell_complete

from spacelang import __version__
from spacelang.cli.errors import nearest, run, terminate
from spacelang.cli.output import complain

# Section -> command -> where it is, and its line in the help.
SECTIONS: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "Write a space": {
        "new": ("new:new", "Start a file from a shipped space."),
        "check": ("check:check", "Prove a file right for every architecture, and lint it."),
        "fmt": ("check:fmt", "Bring files into the canonical layout."),
        "explain": ("check:explain", "What the code of a diagnostic means."),
    },
    "Look into it": {
        "info": ("info:info", "Decisions, exact size, storage, and the range of costs."),
        "count": ("info:count", "The exact number of architectures, also within a budget."),
        "sample": ("info:sample", "Architectures drawn exactly uniformly, one a line."),
        "cost": ("info:cost", "Exact params, MACs and activations of one architecture."),
        "genotype": ("genotype:genotype", "A published genotype as an assignment, or back."),
        "show": ("show:show", "The graph as text, IR, a .space file, DOT, SVG or HTML."),
        "kernels": ("kernels:kernels", "What runs as fused kernels, and what that saves."),
        "profile": ("profile:profile", "Time and memory of a network here, by block and by op."),
    },
    "Run it": {
        "compile": ("compile:compile", "An artifact folder: all that training needs."),
        "train": ("train:train", "Train the supernet of a space, or go on with it."),
        "distill": ("distill:distill", "Train a student by a teacher, or by its stored outputs."),
        "store": ("store:store", "Write, look into and verify stored outputs of a teacher."),
        "search": ("search:search", "Search a trained supernet, or train while searching."),
        "extract": (
            "takeaway:extract",
            "A network of its own: source, weights, and a proof of equality.",
        ),
        "export": ("takeaway:export", "A network as .pt2 or .onnx, checked against eager."),
        "quickstart": ("takeaway:quickstart", "The whole road on real images, with a report."),
    },
    "Look after it": {
        "bench": ("bench:bench", "Our networks beside what one would run instead."),
        "selftest": ("selftest:selftest", "Versions, golden figures, and how long they take."),
        "doctor": ("doctor:doctor", "Verify every hash of a run or artifact folder."),
        "trials": ("trials:trials", "What searches tried, as CSV or as an Optuna study."),
        "lsp": ("lsp:lsp", "A language server for editors, on stdin and stdout."),
    },
}
COMMANDS = {name: row for section in SECTIONS.values() for name, row in section.items()}


class Commands(click.Group):
    """The commands of the table above, behind one boundary for errors."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        return getattr(import_module(f"spacelang.cli.{module}"), attribute)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            hint = nearest(args[0], list(COMMANDS))
            reason = f"there is no command {args[0]!r}"
            raise click.UsageError(f"{reason}; {hint or 'spacelang --help lists them'}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table by sections; no command is loaded for it."""
        width = max(map(len, COMMANDS))
        for section, commands in SECTIONS.items():
            with formatter.section(section):
                formatter.write_dl([(f"{name:<{width}}", row[1]) for name, row in commands.items()])

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        words = list(sys.argv[1:] if args is None else args)
        name = prog_name or "spacelang"
        complete_var = complete_var or f"_{name.upper()}_COMPLETE"

        def command() -> None:
            if instruction := os.environ.get(complete_var):
                raise Exit(shell_complete(self, extra, name, complete_var, instruction))
            with self.make_context(name, words, **extra) as context:
                self.invoke(context)

        # click's own boundary would print an empty line at an interrupt, and knows fewer codes.
        options = words[: words.index("--")] if "--" in words else words
        sys.exit(run(command, "--json" in options))


def _version(context: click.Context, option: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        print(f"spacelang {__version__}")
        context.exit()


UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def _memory(context: click.Context, option: click.Parameter, text: str | None) -> None:
    if text is None or context.resilient_parsing:
        return
    from spacelang.analysis.memory import allow_memory

    digits = text.rstrip("KMGT")
    unit = text[len(digits) :]
    if not (digits.isascii() and digits.isdigit() and len(digits) < 19 and unit in UNITS):
        raise click.BadParameter(f"{text!r} is no size; 300G is one", context, option)
    allow_memory(int(digits) * UNITS[unit])


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version,
    help="Show the version and exit.",
)  # fmt: skip
@click.option(
    "--memory", metavar="SIZE", expose_value=False, callback=_memory,
    help="Let networks take so many bytes (300G), not just what the machine has.",
)  # fmt: skip
def commands() -> None:
    """A compiler for neural-architecture search spaces.

    SPACE is FILE.space (its last space) or FILE.space:NAME; shipped files are found by name. Every
    command but lsp takes --json. Exit codes: 0 ok, 2 invalid input, 3 environment or disk, 4
    locked, 5 verification failed.
    """


def _warn(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    complain(f"warning: {message}")


def main() -> None:
    """The entry point of the command line."""
    gc.set_threshold(500_000, 20, 20)  # a graph is made of many small objects: a tenth of the time
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, terminate)
    warnings.showwarning = _warn
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        commands()
    finally:
        gc.freeze()  # the process ends: to look for cycles in all that it made takes a fifth of it


__all__ = ["COMMANDS", "SECTIONS", "commands", "main"]
