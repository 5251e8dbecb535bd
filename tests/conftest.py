"""What all tests share: hypothesis profiles, golden updates, the checkout and a fresh Python."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

# Tests run beside each other: one thread each. Read by torch at its first import.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Kernels run in Triton's interpreter, which must be known before Triton is first imported.
os.environ["TRITON_INTERPRET"] = "1"

# No deadline: a shared machine is slow at times. In CI the examples are the same at every run.
settings.register_profile("default", deadline=None, derandomize="CI" in os.environ)
settings.register_profile("soak", deadline=None, max_examples=5_000)
settings.load_profile("default")

ROOT = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite the golden files")


@pytest.fixture(scope="session")
def update_golden(pytestconfig: pytest.Config) -> bool:
    """Whether golden files are to be rewritten instead of compared."""
    return bool(pytestconfig.getoption("--update-golden"))


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def fresh_python() -> Callable[..., str]:
    """Run `python ARGUMENTS` in a new process of the checkout; its standard output."""

    def run(*arguments: str, cwd: Path = ROOT) -> str:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
