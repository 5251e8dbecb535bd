"""A contender in a process of its own: asked in lines of JSON, one piece of work at a time.

with Contender(request) as it:
    it.about                     # what it is, or why it is missing
    it.run(3)                    # {"wall": seconds, "cpu": seconds} of three calls
    it.results(path)             # its outputs, to be compared
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, cast

from spacelang.diagnostics import SpaceError, error

WORKER = "spacelang.backends.torch.bench"
Answer = dict[str, Any]


def answer_of(line: str) -> Answer | None:
    """What a line of a worker says; None for what a library prints before the worker has moved its
    output."""
    try:
        found: object = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return cast(Answer, found) if isinstance(found, dict) else None


class Contender:
    """A fresh process that builds one contender, then waits to be asked."""

    def __init__(self, request: Mapping[str, object]) -> None:
        threads = str(request["threads"])
        fixed = {name: threads for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        self.name = str(request["contender"])
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", WORKER, json.dumps(dict(request))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True,
            env={**os.environ, **fixed},
        )  # fmt: skip

    def started(self) -> Answer:
        """What the process says once its contender is built."""
        return self._answer()

    def run(self, calls: int) -> Answer:
        """Seconds of so many calls, by the clock and of the processor."""
        return self._ask(run=calls)

    def results(self, path: str) -> Answer:
        """One call, its outputs written to a file of numpy's."""
        return self._ask(results=path)

    def peak(self) -> Answer:
        """MiB: the most that the process held, and how much of it the work added."""
        return self._ask(peak=True)

    def _ask(self, **question: object) -> Answer:
        stdin = self._process.stdin
        assert stdin is not None
        with suppress(BrokenPipeError):  # the answer tells how it ended
            stdin.write(json.dumps(question) + "\n")
            stdin.flush()
        return self._answer()

    def _answer(self) -> Answer:
        assert self._process.stdout is not None
        for line in iter(self._process.stdout.readline, ""):
            if (answer := answer_of(line)) is not None:
                return answer
        code = self._process.wait()
        self._errors.seek(0)
        told = self._errors.read().decode(errors="replace").strip().splitlines()
        found = error("SP703", f"the process of {self.name} ended with {code}")
        raise SpaceError(found.note(told[-1] if told else "it said nothing"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        failed: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if kind is not None:
            self._process.kill()
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._errors.close()
