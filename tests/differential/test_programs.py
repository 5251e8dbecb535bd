"""Random legal programs, and all that must be true of each; the corpus of those that once failed.

A failing program is named by its number, shrunk, printed and kept in `corpus/`; it runs again by

    python tests/differential/replay.py NUMBER

All 100,000 are part of `make soak`. Some of them, as where a long run is to go on:

    make programs FROM=30200 TO=100000
"""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import differential.replay as replay
import pytest
import torch
from differential.checks import CHECKS, failure
from differential.program import program
from differential.replay import CORPUS, kept, minimal

from spacelang.backends.torch.reference import ROWS

PROGRAMS = 2_000
SOAK = 100_000
FROM, TO = (
    int(os.environ.get(f"PROGRAMS_{end}", at)) for end, at in (("FROM", PROGRAMS), ("TO", SOAK))
)
BATCH = 50
OFTEN_ENOUGH = 8
"""Programs of a batch on which a claim is tried, and of which one has to say something."""
KEPT = sorted(CORPUS.glob("*.space"))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="module")
def rare_collections() -> Iterator[None]:
    """Programs are many small objects: Python looks for unused ones less often, and only in those.

    That saves a quarter of the time.
    """
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_programs_that_once_failed(path: Path) -> None:
    found = failure(path.read_text("utf-8"))
    assert found is None, f"{found.check}: {found.kind}: {found.detail}"


def tried(first: int, end: int = SOAK) -> None:
    tally: Counter[str] = Counter()
    for number in range(first, min(first + BATCH, end)):
        text = program(number)
        found = failure(text, number, tally=tally)
        if found is None:
            continue
        small = minimal(text, found, float(os.environ.get("SHRINK_SECONDS", "60")))
        path = kept(f"program_{number}", found, small)
        pytest.fail(f"program {number}: {found.check}: {found.detail}\n\n{small}\nkept as {path}")
    print(*(f"{count:6} {name}" for name, count in tally.most_common()), sep="\n")
    for claim in (check.__name__ for check in CHECKS):
        skipped = sum(count for name, count in tally.items() if name.startswith(f"{claim}: "))
        few = tally[claim] < OFTEN_ENOUGH or claim == "programs"  # one in ten holds a program
        assert few or skipped < tally[claim], f"{claim} says nothing of any program"


@pytest.mark.parametrize("first", range(0, PROGRAMS, BATCH))
def test_random_programs(first: int) -> None:
    tried(first)


@pytest.mark.soak
@pytest.mark.parametrize("first", range(FROM, TO, BATCH))
def test_more_random_programs(first: int) -> None:
    tried(first, TO)


PLANTED = """
block layer(x: [B, C], rate) -> [B, C] {
  choose hidden in {4, 8}
  return x + (linear(x, hidden) as up |> relu |> linear(C) as down |> drop_path(rate))
}
space main() {
  input x: [B, 8]
  x = linear(x, 4) as stem
  for i in 0..1 { x = layer(x, 0.1 * i) as layers[i] }
  output linear(x, 3) as head
  weights { _: entangle }
}
subnet small of main { layers[0].hidden = 4  layers[1].hidden = 8 }
"""


def test_a_failing_program_is_shrunk_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an interpreter whose `relu` is another function, all that is left is that `relu`."""
    monkeypatch.setattr(replay, "CORPUS", tmp_path)
    monkeypatch.setitem(globals(), "program", lambda number: PLANTED)
    monkeypatch.setitem(ROWS, "relu", lambda at, x: x.abs())
    with pytest.raises(pytest.fail.Exception, match=r"program 0: outputs: output"):
        tried(0)
    small = (tmp_path / "program_0.space").read_text("utf-8")
    assert small.startswith("# outputs: AssertionError in outputs")
    assert small.count("relu") == 1
    assert not any(word in small for word in ("linear", "for", "subnet", "drop_path", "weights"))
    assert len(small) < len(PLANTED) / 2
    assert failure(small, only="outputs") is not None
    monkeypatch.undo()
    assert failure(small, only="outputs") is None


def test_the_generator_reaches_far() -> None:
    """Programs differ, and each construct stands in some of a hundred; else the claims would say
    little."""
    texts = [program(number) for number in range(100, 300)]
    assert len(set(texts)) == len(texts)
    found = {word: sum(word in text for text in texts) for word in {*WORDS, *OFTEN}}
    rare = {word: n for word, n in found.items() if n < 2}
    assert not rare
    scarce = {word: found[word] for word, least in OFTEN.items() if found[word] < least}
    assert not scarce


WORDS = [
    "|>",
    "cascade(",
    "total(",
    "choose",
    "op",
    "when",
    "else",
    "for",
    "reversed",
    "enumerate",
    "cell",
    "block",
    "local(",
    "softmax",
    "einsum",
    "rearrange",
    "split(",
    "unstack",
    "concat",
    "batch_norm",
    "layer_norm",
    "rms_norm",
    "conv_transpose",
    "resize",
    "avg_pool",
    "drop_path",
    "dropout",
    "clipped_index",
    "offset_index",
    "bucket_index",
    "shift_mask",
    "take(",
    "table(",
    "gather(",
    "parameter",
    "weight:",
    "bias:",
    "entangle",
    "separate",
    "entangle(centre)",
    "entangle(band)",
    "store(",
    "tie",
    "require",
    "rewrite",
    "relax",
    "irpe",
    "names",
    "output",
    "derived",
    "within",
    "inst",
    "let",
    "search",
    "program",
    "subnet",
    "index:",
    "slices:",
    "bucket_sum(",
    "true",
]
OFTEN = {
    "choose": 120, "when": 80, "for": 30, "separate": 30, "concat([": 40, "table(": 15, "cell ": 15,
    " in 1 of ": 15, " in 2 of ": 15, "[0]]": 5, "output side": 15, ": tie": 10, "require": 15,
    "else when": 15, "softmax": 15, "cascade(": 8, "resize(": 8, "slices:": 5, "program both": 10,
    "subnet small": 8, "index: true": 8, "choose {": 8, "drop_path(": 15, "space derived": 15,
}  # fmt: skip
"""A construct, and in how many of the two hundred it stands at least."""
