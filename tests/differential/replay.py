"""One program again: `python tests/differential/replay.py 1234`, or the path of a `.space` file.

Prints the program and, where a claim fails, the smallest program for which it fails in the same way,
which is also written to `corpus/`.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))

from differential.checks import Failure, failure
from differential.program import program
from differential.shrink import shrunk

CORPUS = Path(__file__).parent / "corpus"


def minimal(text: str, found: Failure, seconds: float = 60.0) -> str:
    """The smallest program that breaks the same claim in the same way."""

    def keeps(candidate: str) -> bool:
        other = failure(candidate, only=found.check)
        return other is not None and other.signature == found.signature

    return shrunk(text, keeps, seconds)


def kept(name: str, found: Failure, text: str) -> str:
    """The minimal program with why it is kept, written to the corpus; its path."""
    path = CORPUS / f"{name}.space"
    why = found.detail.strip().split("\n")[0]
    path.write_text(f"# {found.check}: {found.kind}: {why}\n{text}", "utf-8")
    return str(path)


def main(argument: str) -> int:
    text = program(int(argument)) if argument.isdigit() else Path(argument).read_text("utf-8")
    print(text)
    found = failure(text)
    if found is None:
        print("every claim holds")
        return 0
    print(f"{found.check}: {found.kind}\n{found.detail}\n")
    small = minimal(text, found)
    print(small)
    if argument.isdigit():
        print("kept as", kept(f"program_{argument}", found, small))
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
