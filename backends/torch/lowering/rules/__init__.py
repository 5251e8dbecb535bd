"""The lowering rules, a file a family of ops; importing this package registers them."""

from spacelang.backends.torch.lowering.rules import linear, norm, pointwise, pool, shape, table

__all__ = ["linear", "norm", "pointwise", "pool", "shape", "table"]
