"""`new`: a starting file made from a shipped space, with names of its own."""

from __future__ import annotations

import errno
import re
from collections.abc import Collection
from pathlib import Path

import click

from spacelang import __version__
from spacelang.cli import options
from spacelang.cli.errors import nearest
from spacelang.cli.output import emit, say
from spacelang.diagnostics import SpaceError

LONGEST = 64

HEADER = """\
# {name}: a space to change, made from {like}.space of spacelang {version}.
#
{steps}
#
# `choose` is a decision, `weights {{ }}` says how candidates share storage, the rest is a network.
"""
STEPS = (
    ("check {file}", "proves every architecture legal, or says which is not"),
    ("info {address}", "how many there are, and what they cost"),
    ("sample {address} -n 3", "some of them"),
    ("compile {address} -o build", "all that training needs, in one folder"),
)


@click.command(short_help="Start a file from a shipped space.")
@click.argument("name", metavar="NAME")
@click.option("--like", default="autoformer", show_default=True, metavar="SPACE",
              help="The shipped file to start from.")  # fmt: skip
@options.as_json
def new(name: str, like: str, as_json: bool) -> None:
    """Write NAME.space, a commented copy of a shipped file; spaces called after that file are
    called after NAME.

    A file that exists is not touched.
    """
    from spacelang.files import atomic_write
    from spacelang.syntax.scope import shipped_folder

    path = Path(name.removesuffix(".space") + ".space")
    folder = shipped_folder()
    files = sorted((*folder.glob("*.space"), *folder.glob("combinations/*.space")))
    known = [str(file.relative_to(folder).with_suffix("")) for file in files]
    wanted, _, one = like.partition(":")
    wanted = wanted.removesuffix(".space").removeprefix("spaces/")
    if wanted not in known:
        hint = nearest(wanted, known) or f"there are {', '.join(known)}"
        raise click.UsageError(f"no shipped space is called {like!r}; {hint}")
    if one:
        raise click.UsageError(f"a file starts from a whole file: --like {wanted}")
    text = made_like(path.stem, wanted, str(path))
    if path.exists() or path.is_symlink():
        raise FileExistsError(errno.EEXIST, "the file exists and is not replaced", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, text)
    if as_json:
        emit({"file": str(path), "like": wanted})
    else:
        say(f"wrote {path}")


def made_like(name: str, like: str, file: str) -> str:
    """The text of a new file: spaces called after the shipped file are called after it."""
    from spacelang.diagnostics import Source
    from spacelang.ir.op import ops
    from spacelang.syntax import tree
    from spacelang.syntax.format import format
    from spacelang.syntax.parse import parse
    from spacelang.syntax.scope import Library, read_source, shipped_folder

    like_name = Path(like).name
    source = read_source(shipped_folder() / f"{like}.space")
    parsed = parse(source)
    libraries = {file.stem for file in (shipped_folder() / "lib").glob("*.space")}
    names = Library(None).scope(parsed, shipped_folder()).names
    _check_name(name, {*names, *libraries, *ops()})
    text, address = source.text, file
    for item in parsed.items:
        if not isinstance(item, tree.SpaceOf | tree.Instance | tree.Subnet):
            continue
        ours = re.sub(rf"^{like_name}(?=_|$)", name, item.name)
        text = re.sub(rf"(?<![\w.]){item.name}\b", ours, text)
        if isinstance(item, tree.Instance) and address == file:
            address = f"{file}:{ours}"
    rows = [(step.format(file=file, address=address), what) for step, what in STEPS]
    width = max(len(step) for step, _ in rows)
    steps = "\n".join(f"#   spacelang {step:<{width}}   {what}" for step, what in rows)
    header = HEADER.format(name=name, like=like, version=__version__, steps=steps)
    return format(parse(Source(file, f"{header}\n{text}")))


def _check_name(name: str, taken: Collection[str]) -> None:
    """Refuse what the language cannot call a space, and what means something in the file."""
    from spacelang.diagnostics import Source
    from spacelang.syntax import tree
    from spacelang.syntax.parse import expression

    try:
        fits = len(name) <= LONGEST and isinstance(expression(Source("NAME", name)), tree.Name)
    except SpaceError:
        fits = False
    if not fits:
        raise click.UsageError(f"{name!r} is no name that a space can have")
    if name in taken:
        raise click.UsageError(f"{name} means something already; take another name")
