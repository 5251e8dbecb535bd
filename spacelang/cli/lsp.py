"""`lsp`: the language server, on stdin and stdout, for editors."""

from __future__ import annotations

import click
from click.exceptions import Exit

from spacelang.cli.errors import ENVIRONMENT
from spacelang.cli.output import complain
from spacelang.extras import install


@click.command(short_help="A language server for editors, on stdin and stdout.")
def lsp() -> None:
    """Serve editors by the language server protocol: diagnostics as one types, hover with count and
    cost, definition, completion, rename and layout.

    Editors start it; it needs the extra `lsp`.
    """
    try:
        from spacelang.editor.server import serve
    except ModuleNotFoundError as failed:
        if (failed.name or "").partition(".")[0] not in ("pygls", "lsprotocol"):
            raise
        complain(f"error: {failed.name} is missing: {install('lsp')}")
        raise Exit(ENVIRONMENT) from None
    serve().start_io()
