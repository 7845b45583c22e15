"""Two ways to do the same, timed round by round in turn, on the GPU where there is one."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def compared(theirs: Callable[[], Any], ours: Callable[[], Any], count: int, unit: str, rounds: int = 5) -> str:
    """`count` of a unit a second by each, the ratio of the medians, and its spread over rounds side by side.

    What is done once only, as the choice of a kernel, stays out: a round before is not counted.
    """
    theirs(), ours()
    found = [(seconds(theirs), seconds(ours)) for _ in range(rounds)]
    a, b = (statistics.median(column) for column in zip(*found, strict=True))
    ratios = sorted(x / y for x, y in found)
    return (
        f"theirs {count / a:.1f} {unit}/s, unitx {count / b:.1f} {unit}/s, "
        f"ratio {a / b:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    )
