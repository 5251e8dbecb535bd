"""All built-in ops: importing this module registers them."""

from spacelang.ops import linear, norm, pointwise, pool, shape, table

__all__ = ["linear", "norm", "pointwise", "pool", "shape", "table"]
