"""All rows of `evaluate`: importing this module enters them into its table."""

from spacelang.syntax import arithmetic, calls, choices, expressions, items, names

__all__ = ["arithmetic", "calls", "choices", "expressions", "items", "names"]
