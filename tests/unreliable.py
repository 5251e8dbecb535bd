"""A disk that fails, or a process that dies, at the k-th call that changes the disk."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable

import pytest

from spacelang import files, journal

# As `spacelang.files` and `spacelang.journal` make them.
CALLS = ("open", "write", "fsync", "replace", "rename", "ftruncate", "pwrite", "fchmod")


def full() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Unreliable:
    """`os`, whose k-th disk call does not happen: `strike` is called in its place."""

    def __init__(self, fatal: int, strike: Callable[[], None], sticky: bool = False) -> None:
        self.count, self.fatal, self.strike, self.sticky = 0, fatal, strike, sticky
        self.struck: list[str] = []

    def __getattr__(self, name: str) -> object:
        value = getattr(os, name)
        if name not in CALLS:
            return value

        def call(*arguments: object, **options: object) -> object:
            self.count += 1
            if self.count == self.fatal or (self.sticky and self.count > self.fatal):
                self.struck.append(name)
                self.strike()
            return value(*arguments, **options)

        return call


def install(monkeypatch: pytest.MonkeyPatch, unreliable: Unreliable) -> None:
    """Let the modules that write files meet an unreliable disk."""
    monkeypatch.setattr(files, "os", unreliable)
    monkeypatch.setattr(journal, "os", unreliable)


def calls_of(action: Callable[[], object]) -> int:
    """How many disk calls an action makes."""
    counter = Unreliable(-1, full)
    with pytest.MonkeyPatch.context() as patch:
        install(patch, counter)
        action()
    return counter.count


def killed_at(call: int, action: Callable[[], object]) -> None:
    """Run an action in a child process that dies by SIGKILL in place of its k-th disk call."""
    child = os.fork()
    if child == 0:
        vars(files)["os"] = vars(journal)["os"] = Unreliable(call, die)
        try:
            action()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "the action makes fewer calls than expected"
