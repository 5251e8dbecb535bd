"""The store of teacher outputs: records written and read a second, and what it adds to their size.

python benchmarks/logits.py
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from spacelang.backends.torch.distillation.logits.manifest import Contents, epoch_folder
from spacelang.backends.torch.distillation.logits.reader import LogitStore
from spacelang.backends.torch.distillation.logits.record import Records, index_type
from spacelang.backends.torch.distillation.logits.writer import StoreWriter, finish

RECORDS, BATCH, REPEATS = 100_000, 1024, 7


def records(k: int, classes: int) -> Records:
    """Synthetic: the speed of a store does not hang on what the records say."""
    drawn = np.random.default_rng(0)
    values = -np.sort(-drawn.dirichlet(np.ones(k), RECORDS) * 0.99, axis=1)
    first = drawn.integers(classes - k, size=(RECORDS, 1))
    return Records(
        drawn.permutation(RECORDS).astype(np.int64) * 92_233_720_368_547,
        np.arange(RECORDS),
        (first + np.arange(k)).astype(index_type(classes)),
        values.astype(np.float16),
    )


def main() -> None:
    torch.set_num_threads(1)
    print(f"{RECORDS:,} records, {BATCH} a batch in random order, one core, median of {REPEATS}")
    for k, classes in ((10, 1000), (100, 21_841)):
        written = records(k, classes)
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            contents = Contents("t", "d", "a", classes, k)
            with StoreWriter(folder, epoch=0, contents=contents) as writer:
                for at in range(0, RECORDS, BATCH):
                    writer.add(written.take(slice(at, at + BATCH)))
            finish(folder, epoch=0)
            writing = time.perf_counter() - started
            size = sum(f.stat().st_size for f in epoch_folder(Path(folder), 0).iterdir())
            order = np.random.default_rng(1).permutation(RECORDS)
            times: list[float] = []
            for _ in range(REPEATS):
                started = time.perf_counter()
                store = LogitStore(folder, epoch=0)  # opened anew: every block is verified again
                for at in range(0, RECORDS, BATCH):
                    store.read(written.ids[order[at : at + BATCH]])
                times.append(time.perf_counter() - started)
            reading = sorted(times)[REPEATS // 2]
        raw = RECORDS * (4 * k + 16)
        print(
            f"K = {k}: write {RECORDS / writing:,.0f}/s, verified read {RECORDS / reading:,.0f}/s, "
            f"{size / RECORDS:.2f} bytes a record, {100 * (size / raw - 1):.2f} % over 4 K + 16"
        )


if __name__ == "__main__":
    main()
