"""`spacelang bench kernels`: results compared, times, and shares of what the device can do.

    python -m spacelang.backends.torch.bench.kernel_records '{"device": "interpret", "repeats": 7}'

Results are compared first: a rival that gives others is left out, and so is one that fails; a
kernel that does is the error of its record, and the others go on. Bytes and FLOPs are those of the
traffic model, which has forward passes alone; their shares are of a copy and of a product of
matrices, measured here. In the interpreter times say nothing of a GPU: it shows that the command
works. It runs in a process of its own, as Triton reads at its import where it runs.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from spacelang import plugins
from spacelang.backends.torch.bench.kernels import Setting, Work, works
from spacelang.diagnostics import SpaceError, error

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}
"""Of the largest magnitude; a half type may also be as far off as eager PyTorch in it."""
CUT = 2  # times as far off is bfloat16 in the interpreter, which cuts it off where a device rounds
SUMMED = 1e-4  # of gradients in float32: sums over all tokens of a batch, each in its own order
WARM_UP = 3
OURS = ("kernel", "eager")  # have to run
CALLS = 10  # in a row between two events of a GPU
COPIED, SIDE = 1 << 30, 8192  # bytes of a copy, side of a product: the limits of a device
TINY = (1 << 20, 64)


def measured(
    work: Work, setting: Setting, repeats: int, limits: Mapping[str, float]
) -> dict[str, Any]:
    """The record of one kernel (SP703 where it fails or computes something else)."""
    contenders, left_out = dict(work.contenders), dict(work.left_out)
    required = plugins.load("spacelang.kernels", "required")
    with torch.no_grad(), required():
        errors, first = _compared(work, setting, contenders, left_out)
        times = {name: [first[name]] if setting.tiny else [] for name in contenders}
        for turn in range(0 if setting.tiny else WARM_UP + repeats):
            for name, call in contenders.items():
                seconds = _timed(call, setting)
                if turn >= WARM_UP:
                    times[name].append(seconds)
    best = statistics.median(times["kernel"])
    done = {} if work.traffic is None else asdict(work.traffic)
    rates = {what: done[what] / best for what in limits if done}
    return {
        "name": work.name, "what": work.what, "device": setting.device,
        "dtype": str(setting.dtype).removeprefix("torch."),
        "seconds": times, "errors": errors, "left_out": left_out, "modelled": done or None,
        "bytes_a_second": rates.get("bytes"), "flops_a_second": rates.get("flops"),
        "limits": dict(limits),
        "share": {what: rate / limits[what] for what, rate in rates.items()} or None,
    }  # fmt: skip


def _compared(
    work: Work,
    setting: Setting,
    contenders: dict[str, Callable[[], Tensor]],
    left_out: dict[str, str],
) -> tuple[dict[str, float], dict[str, float]]:
    """How far off each contender is, and the seconds of that call, told of the interpreter alone.

    Who fails or is too far off is taken out of them.
    """
    wanted = (work.exact or work.contenders["eager"])().float()
    errors: dict[str, float] = {}
    seconds: dict[str, float] = {}
    for name, call in work.contenders.items():
        start = time.perf_counter()
        try:
            found = call().float()
        except SpaceError:
            raise
        except Exception as failed:  # of whatever kind a compiler of others raises
            told = str(failed).splitlines() or [type(failed).__name__]
            _leave_out(work, name, f"it failed: {told[0]}", contenders, left_out)
        else:
            seconds[name] = time.perf_counter() - start
            errors[name] = float((found - wanted).abs().max() / wanted.abs().max())
    bound = max(_bound(work, setting), errors["eager"])
    for name, off in [*errors.items()]:
        if not off <= bound:
            why = f"it gives other results ({off:.1e} of the largest)"
            _leave_out(work, name, why, contenders, left_out)
            del errors[name]
    return errors, seconds


def _bound(work: Work, setting: Setting) -> float:
    if setting.dtype == torch.float32 and work.traffic is None:
        return SUMMED
    cut = setting.tiny and setting.dtype == torch.bfloat16
    return TOLERANCE[setting.dtype] * (CUT if cut else 1)


def _leave_out(
    work: Work, name: str, why: str, contenders: dict[str, Any], left_out: dict[str, str]
) -> None:
    """Without a contender from here on; SP703 for one of ours."""
    if name in OURS:
        raise SpaceError(error("SP703", f"{work.name}: {name}: {why}"))
    left_out[name] = why
    del contenders[name]


def limits(setting: Setting) -> dict[str, float]:
    """Bytes a second of a copy, read and written, and FLOPs a second of a product in the type."""
    count, side = TINY if setting.tiny else (COPIED, SIDE)
    source, target = torch.zeros(2, count, dtype=torch.uint8, device=setting.place)
    a, b = setting.moved(torch.ones(2, side, side))
    amounts: dict[str, tuple[int, Callable[[], Tensor]]] = {
        "bytes": (2 * count, lambda: target.copy_(source)),
        "flops": (2 * side**3, lambda: a @ b),
    }
    found: dict[str, float] = {}
    for what, (amount, call) in amounts.items():
        seconds = [_timed(call, setting) for _ in range(2 * WARM_UP)]
        found[what] = amount / statistics.median(seconds[WARM_UP:])
    return found


def _timed(call: Callable[[], Tensor], setting: Setting) -> float:
    if setting.device != "cuda":
        start = time.perf_counter()
        call()
        return time.perf_counter() - start
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(CALLS):
        call()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3 / CALLS


def records(setting: Setting, repeats: int) -> Iterator[dict[str, Any]]:
    """A record of each kernel, or what it failed with."""
    if setting.device == "cuda" and not torch.cuda.is_available():
        found = error("SP605", "there is no CUDA device here")
        yield _failure(SpaceError(found.hint("--device interpret shows that the command works")))
        return
    # Kernels multiply float32 exactly: a rival by TF32 would be 1e-3 off.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    most = limits(setting)
    for make in works(setting).values():
        try:
            for work in make():
                yield measured(work, setting, repeats, most)
        except SpaceError as failed:
            yield _failure(failed)


def _failure(failed: SpaceError) -> dict[str, Any]:
    found = failed.diagnostics[0]
    return {"failed": found.headline, "code": found.code, "help": found.help}


def main() -> None:
    """Print a record a line."""
    request = json.loads(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    setting = Setting(request["device"], getattr(torch, request["dtype"]))
    for record in records(setting, request["repeats"]):
        answers.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
