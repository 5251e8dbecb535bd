"""All built-in ops: importing this module registers them."""

from spacelang.ops import linear, mixture, norm, pointwise, pool, shape, stored, table

__all__ = ["linear", "mixture", "norm", "pointwise", "pool", "shape", "stored", "table"]
