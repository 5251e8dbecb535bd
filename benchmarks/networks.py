"""Our networks beside what one would run instead: every row of `spacelang bench`, and the page.

    python benchmarks/networks.py [NAME ..]                  # measures, writes results and page
    python benchmarks/networks.py --threads 1                # with one thread alone
    python benchmarks/networks.py --compiled                 # with the rows of torch.compile
    python benchmarks/networks.py --page                     # only the page, from the results

Records are kept in benchmarks/results/networks.json; docs/benchmarks.md gets its table from there,
and docs/benchmarks.svg its bars.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from spacelang.bench.chart import chart
from spacelang.bench.page import with_table
from spacelang.bench.rows import THREADS
from spacelang.bench.store import kept
from spacelang.files import atomic_write

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "networks.json"
PAGE = ROOT / "docs" / "benchmarks.md"
PICTURE = ROOT / "docs" / "benchmarks.svg"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--threads", action="append", type=int)
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--page", action="store_true")
    given = parser.parse_args()
    code = 0  # of rows that could not be measured; the page has the others
    for threads in [] if given.page else given.threads or THREADS:
        command = [sys.executable, "-m", "spacelang", "bench", *given.names]
        command += ["--threads", str(threads), *(["--compiled"] if given.compiled else [])]
        code = subprocess.run([*command, "-o", RESULTS], check=False).returncode or code
    found = kept(RESULTS)
    atomic_write(PAGE, with_table(PAGE.read_text(encoding="utf-8"), found))
    atomic_write(PICTURE, chart(found))
    print(f"{len(found['records'])} records in {PAGE.relative_to(ROOT)}")
    sys.exit(code)


if __name__ == "__main__":
    main()
