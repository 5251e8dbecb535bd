"""Sharing rules: candidates read the last entries of the storage, as they are or turned around."""

from spacelang.ir.dim import Dim


def trailing(length: Dim, stored: int) -> Dim:
    return stored - length


def turned(length: int, stored: int) -> range:
    """An index table."""
    return range(stored - 1, stored - 1 - length, -1)
