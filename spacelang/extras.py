"""What to install where a library of an extra is missing: its packages, by their own names.

    install("export")       # pip install 'onnx>=1.17' 'onnxscript>=0.5' 'onnxruntime>=1.20'

The extras are those of pyproject.toml. Packages are named, and not the extra, so that a hint holds
however spacelang itself was installed.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping

PACKAGES: Mapping[str, tuple[str, ...]] = {
    "triton": ("triton>=3.4",),
    "timm": ("timm>=1.0.15", "torchvision"),
    "data": ("mlxtend>=0.23", "scikit-learn>=1.4", "scikit-image>=0.22", "pillow>=10"),
    "search": ("optuna>=4",),
    "track": ("tensorboard>=2.15",),
    "lsp": ("pygls>=2", "pygments>=2.17"),
    "export": ("onnx>=1.17", "onnxscript>=0.5", "onnxruntime>=1.20"),
}


def install(extra: str) -> str:
    """The command that installs what an extra needs."""
    return " ".join(("pip install", *map(shlex.quote, PACKAGES[extra])))


__all__ = ["PACKAGES", "install"]
