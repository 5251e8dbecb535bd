"""Figures: what an architecture costs, and how many of them there are.

A requirement may limit FIGURES besides decisions, a budget MEASURED.
"""

from __future__ import annotations

from dataclasses import dataclass

from spacelang.ir.dim import Symbol

FIGURES = ("params", "macs", "activations")
"""What a requirement may limit besides decisions: symbols without values."""
LATENCY, THROUGHPUT = "latency", "throughput"
TIMED = (LATENCY, THROUGHPUT)
"""What a budget may limit too, in nanoseconds and in whole images a second: it is measured, not a
figure of the graph."""
MEASURED = (*FIGURES, *TIMED)
"""All of these."""


@dataclass(frozen=True)
class Cost:
    """Figures of one architecture, at batch 1."""

    params: int
    macs: int
    activations: int


@dataclass(frozen=True, slots=True)
class Between:
    """Bounds, both included, that surely hold a number of architectures."""

    lower: int
    upper: int


def figure(name: str) -> Symbol:
    """The symbol of a figure: any number, 0 among them, unlike a free size."""
    return Symbol(name, rate=True)
