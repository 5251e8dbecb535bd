"""Random legal programs, and all that must be true of each; the corpus of those that once failed.

A failing program is named by its number, shrunk, printed and kept in `corpus/`; it runs again by

    python tests/differential/replay.py NUMBER
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
import torch
from differential.checks import failure
from differential.program import program
from differential.replay import CORPUS, kept, minimal

PROGRAMS = 400
SOAK = 100_000
BATCH = 50
KEPT = sorted(CORPUS.glob("*.space"))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_programs_that_once_failed(path: Path) -> None:
    found = failure(path.read_text("utf-8"))
    assert found is None, f"{found.check}: {found.kind}: {found.detail}"


def tried(first: int) -> None:
    tally: Counter[str] = Counter()
    for number in range(first, first + BATCH):
        text = program(number)
        found = failure(text, number, tally=tally)
        if found is None:
            continue
        small = minimal(text, found, float(os.environ.get("SHRINK_SECONDS", "60")))
        path = kept(f"program_{number}", found, small)
        pytest.fail(f"program {number}: {found.check}: {found.detail}\n\n{small}\nkept as {path}")
    print(*(f"{count:6} {name}" for name, count in tally.most_common()), sep="\n")


@pytest.mark.parametrize("first", range(0, PROGRAMS, BATCH))
def test_random_programs(first: int) -> None:
    tried(first)


@pytest.mark.soak
@pytest.mark.parametrize("first", range(PROGRAMS, SOAK, BATCH))
def test_more_random_programs(first: int) -> None:
    tried(first)


def test_the_generator_reaches_far() -> None:
    """Programs differ, and use most of the language; else the claims would say little."""
    text = "".join(program(number) for number in range(300))
    missing = [word for word in WORDS.split() if word not in text]
    assert not missing
    assert len({program(number) for number in range(60)}) == 60


WORDS = """
|> cascade( total( choose op when else for reversed enumerate cell block local( softmax einsum
rearrange split( unstack concat batch_norm layer_norm rms_norm group_norm conv_transpose resize
max_pool avg_pool drop_path dropout clipped_index offset_index bucket_index shift_mask take(
parameter weight: bias: entangle separate entangle(centre) entangle(flat) store( tie require rewrite
multiplex relax irpe names output derived within inst
"""
