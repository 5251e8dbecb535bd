"""The processes of a run, which take the same steps and share the work of each.

    with together("cuda") as ranks:              # as torchrun started them; alone without it
        own = ranks.shards(8)                    # of the 8 parts of a batch, those of this process
        rows = ranks.gather(rows)                # numbers of every part, at every process
        ranks.add(gradients)                     # the same sum to the bit, however many processes

All processes run the same program: what is drawn is a function of seed and step, so they agree
without asking. Only the first writes. Sums follow one binary tree over the parts of a batch; as
long as a process has a whole branch of it, 1, 2 or 8 processes end with the same bits.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import zip_longest
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from spacelang.diagnostics import SpaceError, error

Item = TypeVar("Item")
TIMEOUT = "SPACELANG_TIMEOUT"  # in the environment: seconds of one exchange
USUAL = 1800.0  # of these: an epoch's end is validated in between
MOST = 1e6
EXCHANGED = ("gloo", "nccl")  # in errors of exchanges
GATHERED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what torchrun says


class Lost(OSError):
    """Another process of the run is gone, so this one cannot go on; the last checkpoint counts."""

    def __init__(self, reason: str) -> None:
        super().__init__(errno.ECONNABORTED, f"another process of the run is gone ({reason})")


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those of a run."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def shards(self, count: int) -> range:
        """The parts of a batch that are this process's (SP708 where they cannot be divided so)."""
        own = count // self.size
        if self.size > 1 and (count % self.size or own & (own - 1)):
            fitting = [n for n in range(1, count + 1) if divides(count, n)]
            numbers = ", ".join(map(str, fitting))
            found = error("SP708", f"{self.size} processes cannot share {count} shards of a batch")
            raise SpaceError(
                found.note(f"{count} shards go on {numbers}").hint(
                    f"--shards {self.size}, from the start of the run: it is part of the recipe"
                )
            )
        return range(self.rank * own, (self.rank + 1) * own)

    def gather(self, rows: Sequence[Sequence[float]]) -> list[list[float]]:
        """The rows of all processes, in the order of the processes; as many from each."""
        if self.size == 1:
            return [list(row) for row in rows]
        here = torch.tensor(rows, dtype=torch.float64, device=_place())
        found = [torch.empty_like(here) for _ in range(self.size)]
        _exchange(lambda: dist.all_gather(found, here))
        return torch.cat(found).tolist()

    def largest(self, number: int) -> int:
        """The largest of the numbers of all processes."""
        return int(max(row[0] for row in self.gather([[number]])))

    def same(self, text: str, what: str) -> None:
        """SP708 where processes differ in something that has to be the same."""
        digest = int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")
        if len({row[0] for row in self.gather([[digest]])}) > 1:
            raise SpaceError(
                error("SP708", f"the processes of the run differ in {what}").hint(
                    "give each the same command, files and versions"
                )
            )

    def wait(self) -> None:
        """Go on when all have come here."""
        if self.size > 1:
            self.gather([[0]])

    def lead(self, action: Callable[[], None]) -> None:
        """Let the first process do something, and the others wait for it; `Lost` if it failed."""
        failed: BaseException | None = None
        if self.first:
            try:
                action()
            except BaseException as problem:
                failed = problem
        if self.size > 1:
            told = self.largest(int(failed is not None))
            if told and failed is None:
                raise Lost("the first one says why")
        if failed is not None:
            raise failed

    def from_first(self, tensor: Tensor) -> Tensor:
        """The first process's tensor, of the same shape everywhere."""
        if self.size > 1:
            tensor = tensor.contiguous()
            _exchange(lambda: dist.broadcast(tensor, 0))
        return tensor

    def add(self, leaf: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """The sums over all processes of tensors that each has under the same keys.

        Every process adds a slice of everything, in the order of the tree, and gives it to all: as
        much traffic as a ring, and one order.
        """
        if self.size == 1:
            return dict(leaf)
        found: dict[int, Tensor] = {}
        for dtype in sorted({t.dtype for t in leaf.values()}, key=str):
            keys = sorted(k for k, t in leaf.items() if t.dtype == dtype)
            whole = self._sum(torch.cat([leaf[k].reshape(-1) for k in keys]))
            sizes = [leaf[k].numel() for k in keys]
            for key, part in zip(keys, whole.split(sizes), strict=True):
                found[key] = part.view(leaf[key].shape)
        return found

    def _sum(self, flat: Tensor) -> Tensor:
        length = -(-flat.numel() // self.size)
        mine = flat.new_zeros(self.size * length)
        mine[: flat.numel()] = flat
        theirs = torch.empty_like(mine)
        _exchange(lambda: dist.all_to_all_single(theirs, mine))
        added = tree(list(theirs.view(self.size, length)), torch.add).contiguous()
        found = [torch.empty_like(added) for _ in range(self.size)]
        _exchange(lambda: dist.all_gather(found, added))
        return torch.cat(found)[: flat.numel()]


ALONE = Ranks()


def divides(count: int, processes: int) -> bool:
    """Whether so many processes can share so many parts: each has a whole branch of the tree."""
    own = count // processes
    return processes == 1 or (count % processes == 0 and own & (own - 1) == 0)


def tree(items: Sequence[Item], add: Callable[[Item, Item], Item]) -> Item:
    """The sum of some items by pairs of neighbours, then of their sums, and so on."""
    level = list(items)
    while len(level) > 1:
        pairs = zip_longest(level[::2], level[1::2])
        level = [a if b is None else add(a, b) for a, b in pairs]
    return level[0]


class Branch:
    """Sums in the order of `tree`, of items that come one by one; log2 of them are kept."""

    def __init__(self) -> None:
        self._sums: list[tuple[int, dict[int, Tensor]]] = []

    def push(self, leaf: dict[int, Tensor]) -> None:
        """Take the next item: tensors by key. What is given may be changed."""
        count = 1
        while self._sums and self._sums[-1][0] == count:
            before = self._sums.pop()[1]
            count, leaf = 2 * count, _added(before, leaf)
        self._sums.append((count, leaf))

    def total(self) -> dict[int, Tensor]:
        """The sum of all."""
        found: dict[int, Tensor] = {}
        for _, sums in reversed(self._sums):
            found = _added(sums, found)
        return found


def _added(first: dict[int, Tensor], second: dict[int, Tensor]) -> dict[int, Tensor]:
    """Sums by key; what one lacks is nothing."""
    for key, tensor in second.items():
        first[key] = first[key].add_(tensor) if key in first else tensor
    return first


def current() -> Ranks:
    """This process among those that PyTorch knows of."""
    if dist.is_available() and dist.is_initialized():
        return Ranks(dist.get_rank(), dist.get_world_size())
    return ALONE


@contextmanager
def together(device: str = "cpu") -> Generator[Ranks]:
    """Join the processes that torchrun started (OSError where they cannot be reached).

    On GPUs by NCCL, each process on that of its local rank; else by Gloo. Without torchrun this
    process is alone.
    """
    size = os.environ.get("WORLD_SIZE", "1")
    if not size.isdecimal():
        raise OSError(errno.EINVAL, f"WORLD_SIZE is {size!r}, not how many processes there are")
    if int(size) < 2:
        yield ALONE
        return
    missing = [name for name in GATHERED if name not in os.environ]
    if missing:
        raise OSError(errno.EINVAL, f"WORLD_SIZE is set but {', '.join(missing)} is not")
    cuda = device.startswith("cuda")
    if cuda:
        torch.cuda.set_device(device)
    limit = timeout()
    _exchange(lambda: _join("nccl" if cuda else "gloo", limit))
    try:
        yield current()
    except RuntimeError as failed:  # in what PyTorch exchanges by itself
        if any(words in str(failed).lower() for words in EXCHANGED):
            raise Lost(str(failed).split("\n")[0][:200]) from failed
        raise
    finally:
        dist.destroy_process_group()


def timeout() -> timedelta:
    """How long processes wait for each other in one exchange (OSError for what is no time)."""
    text = os.environ.get(TIMEOUT, str(USUAL))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= MOST:
        raise OSError(errno.EINVAL, f"{TIMEOUT} is {text!r}, not a number of seconds above 0")
    return timedelta(seconds=seconds)


def _join(backend: str, limit: timedelta) -> None:
    """Meet the others. After a restart torchrun's store may still hold addresses of the dead."""
    given: Any = dist  # which has these two without saying so to type checkers
    store, rank, size = next(given.rendezvous("env://", timeout=limit))
    life = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = given.PrefixStore(f"spacelang-{life}", store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=limit)


def local(device: str) -> str:
    """The device of this process: of `cuda` that of its local rank."""
    rank = os.environ.get("LOCAL_RANK")
    return f"cuda:{rank}" if device == "cuda" and rank and rank.isdigit() else device


def _place() -> torch.device:
    cuda = dist.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")


def _exchange(action: Callable[[], object]) -> None:
    """What the processes do together; `Lost` where one of them does not."""
    try:
        action()
    except (RuntimeError, ValueError) as failed:
        raise Lost(str(failed).split("\n")[0][:200]) from failed
