"""Number formats: which one the processor is good at, and weights cast to it once for many answers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from unitx.backbone import MixedPrecision

if TYPE_CHECKING:
    from unitx.model import Model

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def choose_precision(wanted: str, device: torch.device, dim: int) -> tuple[str, str]:
    """The format of the activations: what was asked for, or the faster of fp32 and bf16, timed on one product.

    What a processor says of itself is no guide: some claim bf16 and are three times slower with it.

    Returns: "fp32" or "bf16", and a sentence that says why.
    """
    if wanted != "auto":
        return wanted, f"{wanted}, as asked for"
    took = {name: _time_product(dtype, device, dim) for name, dtype in DTYPES.items()}
    fastest = min(took, key=took.__getitem__)
    # A tie goes to fp32: casts cost too, and it is exact.
    chosen = "bf16" if fastest == "bf16" and took["fp32"] > 1.3 * took["bf16"] else "fp32"
    times = ", ".join(f"{name} {seconds * 1e3:.2f} ms" for name, seconds in took.items())
    return chosen, f"{chosen}, the better of {times} a product"


def _time_product(dtype: torch.dtype, device: torch.device, dim: int) -> float:
    x = torch.randn(4096, dim, device=device).to(dtype)
    w = torch.randn(dim, 4 * dim, device=device).to(dtype)
    best = float("inf")
    for _ in range(5):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        x @ w
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return best


@contextmanager
def answering(model: Model) -> Iterator[None]:
    """Within it the model is evaluated, not trained, and its weights stay as they are: what is cast is cast once."""
    training, dtype = model.training, model.compute_dtype
    mixed = [m for m in model.modules() if isinstance(m, MixedPrecision)] if dtype != torch.float32 else []
    model.eval()
    try:
        with torch.no_grad():
            for module in mixed:
                module.copies = module.cast(dtype)
        yield
    finally:
        for module in mixed:
            module.copies = None
        model.train(training)
