"""Kernels run on the CPU in Triton's interpreter: said before Triton is first imported."""

from __future__ import annotations

import os

os.environ["TRITON_INTERPRET"] = "1"
