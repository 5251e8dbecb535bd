"""What `show` and `info` print of a program: its networks, what they share, and its pool."""

from __future__ import annotations

from collections.abc import Mapping

import click

from spacelang.cli.info import stored
from spacelang.cli.output import both, many, pairs, say
from spacelang.diagnostics import SpaceError, error
from spacelang.ir.program import Program


def program_at(address: str, settings: Mapping[str, object]) -> Program | None:
    """The program that an address names; None where it names something else."""
    from spacelang.loader import load_program, named_program

    try:
        if not named_program(address):
            return None
    except SpaceError:
        return None  # what is wrong is told by whoever loads the space
    if settings:
        raise click.UsageError("a program has no parameters: its networks are written in it")
    return load_program(address)


def program_of(address: str, settings: Mapping[str, object]) -> Program:
    """The program that an address names, or the last of its file (SP701 for one network)."""
    from spacelang.loader import load_program, named_program, open_address

    program = program_at(address, settings)
    if program is not None:
        return program
    if open_address(address)[1] and not named_program(address):
        found = error("SP701", f"{address} is one network: an engine for programs was asked for")
        raise SpaceError(found.hint("program p { network a = ..  network b = .. } names several"))
    if settings:
        raise click.UsageError("a program has no parameters: its networks are written in it")
    return load_program(address)


def record(program: Program) -> dict[str, object]:
    """A program as JSON."""
    pool = program.pool
    return {
        "name": program.name,
        "networks": {
            name: {"decisions": len(graph.decisions), "storage": stored(graph, "params")}
            for name, graph in program.networks.items()
        },
        "decisions": {path: list(names) for path, names in program.decisions.items()},
        "shared": {path: list(names) for path, names in program.shared.items()},
        "pool": None if pool is None else {
            "name": pool.name, "of": pool.of, "paths": list(pool.paths), "params": pool.numel,
        },
    }  # fmt: skip


def listing(program: Program) -> None:
    """A program for people."""
    say(program.name)
    rows = [
        (
            f"  {name}",
            f"{both(stored(graph, 'params'))} parameters, {many(len(graph.decisions), 'decision')}",
        )
        for name, graph in program.networks.items()
    ]
    for names in dict.fromkeys(program.shared.values()):
        paths = [path for path, readers in program.shared.items() if readers == names]
        numel = sum(
            program.networks[names[0]].storages[path].numel
            for path in paths
            if program.networks[names[0]].storages[path].param.role == "weight"
        )
        tops = ", ".join(dict.fromkeys(path.split(".")[0] for path in paths))
        rows.append((f"  {' + '.join(names)}", f"share {both(numel)} parameters: {tops}"))
    if program.pool is not None:
        pool = program.pool
        kept = f"{both(pool.numel)} parameters of {pool.of}: {', '.join(pool.paths)}"
        rows.append((f"  {pool.name}", f"a pool, keeps {kept}"))
    pairs(rows)
