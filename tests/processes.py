"""Several processes that run together on this machine, as torchrun would start them."""

from __future__ import annotations

import os
import socket
import sys
import traceback
from collections.abc import Callable

import torch

from spacelang.backends.torch.runs.ranks import together


def run_together(size: int, action: Callable[[int], object]) -> list[int]:
    """Run an action of the rank in so many forked processes; how each ended (negative: a signal).

    An exception in one is printed and is exit code 1.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children: list[int] = []
    for rank in range(size):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                torch.set_num_threads(1)
                os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
                os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
                with together("cpu"):
                    action(rank)
                code = 0
            except BaseException:
                traceback.print_exc(file=sys.stderr)
            finally:
                sys.stderr.flush()
                os._exit(code)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
