"""Counter-based randomness: a draw is a function of (seed, purpose, epoch, sample), not of history.

    key = stream_key(seed=0, purpose="augment")
    draws = uniforms(key, epoch=3, samples=ids, count=8)        # [len(ids), 8] in [0, 1)

No state is kept, so nothing has to be saved to resume, and a sample gets the same draws in any
batch, order or process. The generator is Philox 4x32-10 (Salmon and others, "Parallel random
numbers: as easy as 1, 2, 3", 2011).
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def stream_key(seed: int, purpose: str) -> int:
    """The 64-bit key of one purpose of a run; different purposes get unrelated streams."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:8], "little")


def philox(counter: NDArray[np.uint64], key: int) -> NDArray[np.uint64]:
    """Philox 4x32-10: counters [n, 4] of 32-bit words -> random 32-bit words [n, 4]."""
    first, second = key & 0xFFFFFFFF, key >> 32 & 0xFFFFFFFF
    a, b, c, d = counter.T
    for _ in range(_ROUNDS):
        left, right = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]
        a, b, c, d = (
            right >> _HALF ^ b ^ np.uint64(first),
            right & _LOW,
            left >> _HALF ^ d ^ np.uint64(second),
            left & _LOW,
        )
        first, second = first + _WEYL[0] & 0xFFFFFFFF, second + _WEYL[1] & 0xFFFFFFFF
    return np.stack((a, b, c, d), axis=1)


def words(key: int, epoch: int, samples: NDArray[np.int64], count: int) -> NDArray[np.uint64]:
    """`count` random 32-bit words of every sample in an epoch (below 2**32): [len(samples), count].

    The first words do not depend on how many are asked for.
    """
    if not 0 <= epoch < 1 << 32:
        raise ValueError(f"epoch {epoch} is not in 0..2**32-1")
    blocks = -(-count // 4)
    ids = samples.astype(np.uint64)
    counter = np.empty((len(ids), blocks, 4), np.uint64)
    counter[:, :, 0] = (ids & _LOW)[:, None]
    counter[:, :, 1] = (ids >> _HALF)[:, None]
    counter[:, :, 2] = epoch
    counter[:, :, 3] = np.arange(blocks)
    return philox(counter.reshape(-1, 4), key).reshape(len(ids), -1)[:, :count]


def uniforms(key: int, epoch: int, samples: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    """`count` numbers in [0, 1) of every sample in an epoch: [len(samples), count]."""
    return words(key, epoch, samples, count).astype(np.float64) * 2.0**-32


def shuffled(key: int, epoch: int, samples: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions of the samples in the order of an epoch; equal samples keep their order."""
    drawn = words(key, epoch, samples, 2)
    return np.argsort(drawn[:, 0] << _HALF | drawn[:, 1], kind="stable")
