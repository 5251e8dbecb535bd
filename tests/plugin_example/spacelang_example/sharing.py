"""A sharing rule: candidates read the last entries of the storage."""

from spacelang.ir.dim import Dim


def trailing(length: Dim, stored: int) -> Dim:
    return stored - length
