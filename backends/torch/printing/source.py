"""Printed sources: one network as readable PyTorch, a class a block, that needs torch alone.

    text = print_network(model, assignment)

Blocks are lowered by the same rules as everywhere, into fx graphs that are printed and never run. A
class takes what differs between its uses; uses that come out alike share one. Transparent calls are
written out, and so are all calls of a network whose weights are shared across blocks.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from spacelang.backends.torch.extract import Chosen
from spacelang.backends.torch.lowering import functions, tables
from spacelang.backends.torch.lowering.ports import identifier
from spacelang.backends.torch.printing.classes import ClassText, ClassWork, Outside
from spacelang.backends.torch.printing.spell import free_name
from spacelang.diagnostics import SpaceError, error
from spacelang.ir import functions as numbers
from spacelang.ir.block import Block
from spacelang.ir.decision import Assignment
from spacelang.ir.liveness import Computed
from spacelang.ir.node import join

if TYPE_CHECKING:
    from spacelang.backends.torch.supernet import Supernet

NETWORK = "Network"
HELPERS = (tables, functions, numbers)  # modules of functions that need torch alone
IMPORTS = {"__future__", "collections.abc", "fractions", "math", "torch", "torch.nn.functional"}
GROUP = '''class Group(nn.Module):
    """Modules and parameters under one name."""

    def __init__(self, /, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
'''


def print_network(model: Supernet, assignment: Assignment) -> str:
    """A Python module whose class `Network` is one network; its names are those of the supernet."""
    values = model.graph.decisions.check(assignment)
    return Source(model, Chosen(model.graph, values)).text()


class Source:
    """The classes of a network, callees first, and the functions that they call."""

    def __init__(self, model: Supernet, chosen: Chosen) -> None:
        self.chosen, self.graph = chosen, chosen.graph
        self.splits = model.plain.splits
        self.kept = chosen.kept()
        self.flat = self._shared()
        self.names: dict[str, str] = {}
        self.helpers: dict[str, Callable[..., object]] = {}
        self.outside: set[str] = set()  # uses that cannot be a class of their own

    def _shared(self) -> bool:
        """Whether a weight is read under another path than its own, or under that of a call."""
        blocks = (self.graph.root, *self.graph.blocks.values())
        called = {block.name: tuple(_called(block)) for block in blocks}
        return any(
            view.param.startswith(("/", *called[instance.block.name]))  # a path from the root
            or join(instance.path, view.param) != instance.param(view.param)
            for instance, view in self.chosen.reads
        )

    def text(self) -> str:
        """The whole module, proved to parse and to import nothing but torch."""
        self.of(self.chosen.root)
        title = identifier(self.graph.name)
        classes = [f"class {name}(nn.Module):\n{body}" for body, name in self.names.items()]
        group = [GROUP] if any("Group(" in text for text in classes) else []
        body = "\n\n".join([*helper_texts(self.helpers.values()), *group, *classes])
        math = "import math\n\n" if "math." in body else ""
        text = HEAD.format(name=title, network=NETWORK, math=math) + body
        check_imports(text)
        return text

    def of(self, level: Computed) -> ClassText | None:
        """The class of a use of a block; one that another use came out as is taken.

        None where a class of its own could not know the size of a batch.
        """
        path = level.instance.path
        if path in self.outside:
            return None
        try:
            work = ClassWork(self, level)
        except Outside:
            self.outside.add(path)
            return None
        arguments, body = work.text()
        if body not in self.names:
            block = level.level
            words = identifier(block.name).split("_")
            camel = "".join(word[:1].upper() + word[1:] for word in words if word)
            free = free_name(camel, {*self.names.values(), NETWORK, "Group"})
            self.names[body] = NETWORK if block is self.graph.root else free
        return ClassText(self.names[body], arguments, work.reads)


def _called(block: Block) -> Iterator[str]:
    """How paths below a block's calls begin; a transparent one has none of its own."""
    calls = (node.call for node in block.everywhere())
    return (f"{call.path}." for call in calls if call is not None and call.path)


def helper_texts(helpers: Iterable[Callable[..., object]]) -> list[str]:
    """The functions that are not PyTorch's, each after those that it calls."""
    found: dict[str, str] = {}

    def add(function: Callable[..., object]) -> None:
        name = function.__name__
        home = next((m for m in HELPERS if vars(m).get(name) is function), None)
        if home is None:
            raise SpaceError(error("SP605", f"{name} is no function that can be printed"))
        for word in sorted({*function.__code__.co_names} - {name, *found}):
            called = vars(home).get(word)
            if inspect.isfunction(called) and called.__module__ == home.__name__:
                add(called)
        found.setdefault(name, inspect.getsource(function))

    for function in helpers:
        add(function)
    return list(found.values())


HEAD = '''"""{name}: a network of its own, in plain PyTorch.

    from safetensors.torch import load_file

    network = {network}()
    network.load_state_dict(load_file("weights.safetensors"))
"""

{math}import torch
import torch.nn.functional as F
from torch import Tensor, nn


'''


def check_imports(text: str) -> None:
    """The text parses, and imports nothing but torch and what is in the standard library."""
    for node in ast.walk(ast.parse(text)):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or "."]
        if set(names) - IMPORTS:
            raise SpaceError(error("SP605", f"a printed source imports {names[0]}"))
