"""Running a file by ONNX Runtime: an array in, an array out.

    run = Runner(Path("network.onnx").read_bytes(), threads=1)
    logits = run(images)

It needs numpy and onnxruntime alone. Layouts are decided in the file, so the pass of the runtime
that would move transposes about again stays off.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from spacelang.backends.onnx.network import Array
from spacelang.diagnostics import SpaceError, error
from spacelang.extras import install

OFF = ("TransposeOptimizer", "SkipLayerNormFusion")
"""Passes that cost: the second makes a norm and a sum one operator, ten times as slow as they."""


def check_installed() -> None:
    """SP604 where a library is missing."""
    for needed in ("onnx", "onnxruntime"):
        if find_spec(needed) is None:
            found = error("SP604", f"{needed} is not installed")
            raise SpaceError(found.hint(install("export")))


class Runner:
    """A session of one thread pool; one input, one output."""

    def __init__(self, content: bytes, threads: int = 1) -> None:
        check_installed()
        import onnxruntime

        options: Any = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        levels: Any = onnxruntime.GraphOptimizationLevel
        options.graph_optimization_level = levels.ORT_ENABLE_ALL
        try:
            self._session: Any = onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"], disabled_optimizers=list(OFF)
            )
        except Exception as failed:  # whatever a damaged file makes of its reader
            found = error("SP702", "ONNX Runtime cannot read the file").note(str(failed)[:2000])
            raise SpaceError(found) from failed
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if (len(inputs), len(outputs)) != (1, 1):
            found = error("SP702", f"a file of {len(inputs)} inputs and {len(outputs)} outputs")
            raise SpaceError(found.note("a deployed network has one of each"))
        self._input = inputs[0].name

    def __call__(self, x: Array) -> Array:
        return self._session.run(None, {self._input: x})[0]
