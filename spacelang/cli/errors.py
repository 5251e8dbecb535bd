"""From any failure to what the user sees and the exit code; never a traceback.

    error[SP504]: no decision has the path encoder[0].head        exit 2
    error: cannot write 5,120 bytes: No space left on device: 'run/model.safetensors'     exit 3

With --json the same stands on stderr as one object: {"exit", "error", "diagnostics"}.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from difflib import get_close_matches
from types import FrameType
from typing import TextIO

import click
from click.exceptions import Exit

from spacelang.cli.output import colored, complain, dumps, in_color
from spacelang.diagnostics import Diagnostic, SpaceError
from spacelang.files import Locked
from spacelang.journal import JournalError
from spacelang.render import as_json as diagnostics_as_json
from spacelang.render import text as diagnostics_as_text

OK, DEFECT, INVALID, ENVIRONMENT, LOCKED, UNVERIFIED = 0, 1, 2, 3, 4, 5
INTERRUPTED, BROKEN_PIPE, TERMINATED = 130, 141, 143
TRACEBACK = "SPACELANG_TRACEBACK"


class Terminated(BaseException):
    """SIGTERM or SIGUSR1 arrived; what is open is closed on the way out."""


def terminate(number: int, frame: FrameType | None) -> None:
    """A handler of these."""
    raise Terminated


def run(command: Callable[[], None], as_json: bool) -> int:
    """Run a command to its exit code, and say on stderr what went wrong."""
    try:
        code = _run(command, as_json)
        if not sys.stdout.closed:  # a server closes it at the end
            sys.stdout.flush()
        return code
    except BrokenPipeError:
        _give_up(sys.stdout)
        return BROKEN_PIPE
    except OSError as failed:
        _give_up(sys.stdout)
        return _refuse(ENVIRONMENT, _of_os(failed), as_json)


def _run(command: Callable[[], None], as_json: bool) -> int:
    try:
        command()
        return OK
    except Exit as ended:
        return ended.exit_code
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except Terminated:
        return TERMINATED
    except BrokenPipeError:
        raise
    except SpaceError as failed:
        return _refuse(failed.code, failed.diagnostics, as_json)
    except click.UsageError as failed:
        usage = failed.ctx.get_usage() if failed.ctx is not None else ""
        return _refuse(INVALID, failed.format_message(), as_json, usage)
    except click.ClickException as failed:
        return _refuse(INVALID, failed.format_message(), as_json)
    except JournalError as failed:
        return _refuse(UNVERIFIED, str(failed), as_json)
    except Locked as failed:
        return _refuse(LOCKED, _of_os(failed), as_json)
    except OSError as failed:
        return _refuse(ENVIRONMENT, _of_os(failed), as_json)
    except MemoryError:
        return _refuse(ENVIRONMENT, "not enough memory", as_json)
    except ImportError as failed:
        if (failed.name or "").partition(".")[0] == "spacelang":
            return _defect(failed, as_json)
        return _refuse(ENVIRONMENT, f"a library is missing or broken: {failed}", as_json)
    except Exception as failed:
        stopped = {INTERRUPTED, TERMINATED} & {getattr(failed, "code", None)}
        if stopped:  # a run that ended in good order
            return _refuse(stopped.pop(), str(failed), as_json)
        return _defect(failed, as_json)


def _refuse(code: int, reason: str | Sequence[Diagnostic], as_json: bool, usage: str = "") -> int:
    if isinstance(reason, str):
        headline, found = reason, list[Diagnostic]()
    else:
        headline, found = reason[0].headline, list(reason)
    if as_json:
        record = {"exit": code, "error": headline, "diagnostics": diagnostics_as_json(found)}
        print(dumps(record), file=sys.stderr)
    elif found:
        print(diagnostics_as_text(found, in_color(sys.stderr)), file=sys.stderr)
    else:
        if usage:
            complain(usage)
        complain(headline, colored("error", "error", sys.stderr) + ": ")
    return code


def _of_os(failed: OSError) -> str:
    """What the system says, with the names it is about."""
    reason = failed.strerror or str(failed) or type(failed).__name__
    names = [os.fsdecode(n) for n in (failed.filename, failed.filename2) if n is not None]
    return ": ".join([reason, *map(repr, names)])


def _defect(failed: Exception, as_json: bool) -> int:
    """A fault of ours: one line, and where it is on request."""
    if os.environ.get(TRACEBACK):
        raise failed
    kind = type(failed).__name__
    reason = f"a defect of spacelang: {kind}: {failed} (set {TRACEBACK}=1 to see where)"
    return _refuse(DEFECT, reason, as_json)


def _give_up(stream: TextIO) -> None:
    """Let the interpreter's last flush of a stream that nobody reads go nowhere."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def nearest(word: str, known: Sequence[str]) -> str:
    """`did you mean ..?` or nothing."""
    near = get_close_matches(word, known, 1)
    return f"did you mean {near[0]}?" if near else ""
