"""How many variants of kernels whole spaces launch, lowered and run; JSON on stdout.

    python tests/kernels/count_network_variants.py COUNT SPACES

As `count_variants.py`, but of operands that networks give their kernels: random architectures of a
space go forward, and some of them a training step, on PyTorch's meta device, where tensors have
shapes, strides and places in their storage, and no numbers.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Mapping
from typing import Any

import torch
from count_variants import Recorder
from torch._library.custom_ops import OPDEFS
from torch.utils._python_dispatch import TorchDispatchMode
from triton.runtime.jit import JITFunction

from spacelang import load
from spacelang.backends.torch.lowering.kernels import with_kernels
from spacelang.backends.torch.supernet import Supernet
from spacelang.backends.triton import launch, resources

TRAINED = 25  # of so many one goes a training step, two at least
RECOMPUTED = ("spacelang::linear_backward", "spacelang::cascade_backward")  # which launch nothing


class Bodies(TorchDispatchMode):
    """Runs the bodies of kernels' operators, not the fake results that they have for no numbers."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "spacelang" and func.name() not in RECOMPUTED:
            with self:
                return OPDEFS[func.name()]._init_fn(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def recorded() -> dict[str, Recorder]:
    """Every kernel of every module, replaced by what records its launches."""
    resources.builds()  # which imports them all
    found: dict[str, Recorder] = {}
    made: dict[int, Recorder] = {}

    def instead(kernel: Any) -> Any:
        if not isinstance(kernel, JITFunction) or not kernel.do_not_specialize:
            return kernel  # what kernels call is no kernel
        if id(kernel) not in made:
            name = f"{kernel.__module__.rpartition('.')[2]}.{kernel.__name__}"
            made[id(kernel)] = found[name] = Recorder(kernel)
        return made[id(kernel)]

    for name, module in list(sys.modules.items()):
        if name.startswith("spacelang.backends.triton."):
            for key, value in list(vars(module).items()):
                if key == "KERNELS" and isinstance(value, dict):
                    value.update({part: instead(kernel) for part, kernel in value.items()})
                else:
                    setattr(module, key, instead(value))
    return found


def counted(recorders: Mapping[str, Recorder]) -> dict[str, int]:
    """Variants of each kernel since the last time."""
    found = {name: recorder.variants for name, recorder in recorders.items() if recorder.variants}
    for recorder in recorders.values():
        for keys in recorder.keys.values():
            keys.clear()
    return found


def main() -> None:
    asked, spaces = int(sys.argv[1]), json.loads(sys.argv[2])
    launch.INTERPRETED = True  # kernels on any device: the recorders
    torch.is_autocast_enabled = lambda *of: False  # PyTorch's asks for no meta device
    recorders = recorded()
    choose = random.Random(0)
    found: dict[str, dict[str, dict[str, int]]] = {}
    for address, settings in spaces.items():
        graph = load(address, **settings)
        with with_kernels(), torch.device("meta"):
            model = Supernet(graph).half()
        sides = [int(size.at({})) for size in graph.root.inputs[0].types[0].shape[1:]]
        mine = found[address] = {}
        for name, count in (("evaluation", asked), ("training", max(2, asked // TRAINED))):
            model.train(name == "training")
            for architecture in graph.sample(n=count, seed=1):
                images = torch.zeros(
                    choose.randint(2, 9), *sides, dtype=torch.float16, device="meta"
                )
                with launch.require_fused(), Bodies():
                    with torch.set_grad_enabled(model.training):
                        out = model.activate(architecture)(images)
                    if model.training:
                        out.sum().backward()
            mine[name] = counted(recorders)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
