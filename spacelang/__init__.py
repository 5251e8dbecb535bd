"""A compiler for neural-architecture search spaces.

    graph = spacelang.load("autoformer.space:autoformer_t", classes=10)
    model = spacelang.compile(graph, backend="torch")

The public names below are looked up on first use, so `import spacelang` loads no other library.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import spacelang.backends.torch.weights as weights
    from spacelang import passes as passes
    from spacelang.analysis.subspace import Subspace as Subspace
    from spacelang.backends.torch.inference.deploy import deploy as deploy
    from spacelang.backends.torch.inference.deploy_folder import load_deployed as load_deployed
    from spacelang.build import Builder as Builder
    from spacelang.diagnostics import SpaceError as SpaceError
    from spacelang.ir.decision import Decisions as Decisions
    from spacelang.ir.graph import Graph as Graph
    from spacelang.loader import compile as compile
    from spacelang.loader import load as load
    from spacelang.loader import load_program as load_program
    from spacelang.passes.narrow import narrow as narrow

__version__ = "0.1.0"

__all__ = [
    "Builder",
    "Decisions",
    "Graph",
    "SpaceError",
    "Subspace",
    "__version__",
    "compile",
    "deploy",
    "load",
    "load_deployed",
    "load_program",
    "narrow",
    "passes",
    "weights",
]

# Where each public name lives: "module", or "module:object".
_HOMES = {
    "Builder": "spacelang.build:Builder",
    "Decisions": "spacelang.ir.decision:Decisions",
    "Graph": "spacelang.ir.graph:Graph",
    "SpaceError": "spacelang.diagnostics:SpaceError",
    "Subspace": "spacelang.analysis.subspace:Subspace",
    "compile": "spacelang.loader:compile",
    "deploy": "spacelang.backends.torch.inference.deploy:deploy",
    "load": "spacelang.loader:load",
    "load_deployed": "spacelang.backends.torch.inference.deploy_folder:load_deployed",
    "load_program": "spacelang.loader:load_program",
    "narrow": "spacelang.passes.narrow:narrow",
    "passes": "spacelang.passes",
    "weights": "spacelang.backends.torch.weights",
}

# A checkout holds links to three folders beside this one; archives and some systems drop them.
_LINKS = [
    name
    for name in ("backends", "grammars", "spaces")
    if not os.path.isdir(os.path.join(os.path.dirname(__file__), name))
]
if _LINKS:
    raise ImportError(
        f"this checkout of spacelang has lost its links: spacelang/{_LINKS[0]} should lead to "
        f"../{_LINKS[0]}. Clone it with git where links are allowed (git config core.symlinks "
        "true), or install it: pip install ."
    )


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'spacelang' has no attribute {name!r}")
    module, _, attribute = home.partition(":")
    value = import_module(module)
    if attribute:
        value = getattr(value, attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
