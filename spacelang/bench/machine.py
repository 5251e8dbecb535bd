"""Facts of the machine that something is measured on, and how busy it was with other work."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

CODE = ("spacelang", "backends", "grammars", "spaces")  # what may change a figure


def machine(others: float | None) -> dict[str, object]:
    """Facts of the machine; `others` is how many cores others took during the rounds."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = (line.partition(":") for line in info.read_text(errors="replace").splitlines())
        names = (value.strip() for key, _, value in lines if key.strip() == "model name")
        model = next(names, model)
    return {
        "processor": model, "cores": os.cpu_count(), "system": platform.system(),
        "python": platform.python_version(), "others": None if others is None else round(others, 2),
    }  # fmt: skip


def short(processor: str) -> str:
    """How a table calls a processor: `Intel(R) Xeon(R) Processor` is `Intel Xeon`."""
    plain = re.sub(r"\((?:R|TM|C)\)|\b(?:CPU|Processor)\b", " ", processor, flags=re.IGNORECASE)
    return " ".join(plain.split()) or processor


def code() -> str:
    """Which code this is: the commit of a checkout, `+` where its code is no longer that, else the
    version of the package that is installed; "unknown" where neither tells."""
    root = Path(__file__).resolve().parents[2]
    if (root / ".git").exists():
        with suppress(OSError, subprocess.CalledProcessError):  # no git, or another user's checkout
            changed = _git(root, "status", "--porcelain", "--", *CODE)
            return _git(root, "rev-parse", "--short", "HEAD") + "+" * bool(changed)
    with suppress(PackageNotFoundError):
        return version("spacelang-nas")
    return "unknown"


def _git(root: Path, *words: str) -> str:
    command = ["git", "-C", str(root), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


class Idle:
    """How busy the machine is with what is not ours, from when this is made (Linux alone)."""

    def __init__(self) -> None:
        self.start, self.busy = time.monotonic(), busy()

    def others(self, own: float) -> float | None:
        """Cores that other processes took on the mean, when ours took `own` seconds of processor
        time; None where the system does not tell."""
        now, taken = time.monotonic(), busy()
        if self.busy is None or taken is None:
            return None
        return max(0.0, (taken - self.busy - own) / (now - self.start))


def busy(file: Path = Path("/proc/stat")) -> float | None:
    """Seconds of processor time that all processes have taken; None where that is not told."""
    if not file.is_file():
        return None
    user, nice, system, _, _, *rest = map(int, file.read_text().split("\n", 1)[0].split()[1:9])
    return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")


__all__ = ["Idle", "busy", "code", "machine", "short"]
