"""What every op computes, written for the eye: the rows of the reference interpreter.

    @row("layer_norm")
    def _(at: At, x: Tensor) -> Tensor: ...

Norms, windows and index tables are spelt out; nothing here is shared with the lowering rules.
"""

from spacelang.backends.torch.reference import compute, move, table
from spacelang.backends.torch.reference.at import ROWS, At, Row

__all__ = ["ROWS", "At", "Row", "compute", "move", "table"]
