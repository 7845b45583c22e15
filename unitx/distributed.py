"""What several processes share; with one process each function gives back what it was given."""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


def on_cpus() -> bool:
    """Whether several processes were started where there is nothing but CPUs.

    Accelerate has to be told: it else takes each for the only one.
    """
    return int(os.environ.get("WORLD_SIZE", 1)) > 1 and not torch.accelerator.is_available()


def several() -> bool:
    """Whether there are other processes."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def gather_objects(x: Any) -> list[Any]:
    """What each process holds, in the order of their ranks; small things, which are pickled on the way."""
    found = [x]
    if several():
        found *= dist.get_world_size()
        dist.all_gather_object(found, x)
    return found


def gather_rows(x: Tensor) -> Tensor:
    """The rows of all processes, in the order of their ranks; gradients flow back to where a row came from.

    Processes may hold different numbers of rows.
    """
    return _Gathered.apply(x) if several() else x


class _Gathered(torch.autograd.Function):
    """PyTorch's differentiable `all_gather` asks for an all-to-all in its backward pass, which gloo lacks."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        sizes = [torch.zeros(1, dtype=torch.long, device=x.device) for _ in range(dist.get_world_size())]
        dist.all_gather(sizes, torch.tensor([len(x)], device=x.device))
        counts = [int(n) for n in sizes]
        ctx.mine = slice(sum(counts[: dist.get_rank()]), sum(counts[: dist.get_rank() + 1]))
        padded = torch.cat([x, x.new_zeros(max(counts) - len(x), *x.shape[1:])])
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:n] for part, n in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        whole = grads[0].contiguous()
        dist.all_reduce(whole)
        return whole[ctx.mine]


def batch_norm(norm: nn.BatchNorm1d, x: Tensor) -> Tensor:
    """Statistics of the batch over all processes while training.

    A single row has none, and a frozen norm keeps its own: they take the running ones.
    """
    learns = norm.training and norm.weight.requires_grad
    rows = gather_rows(x) if learns else x
    if not learns or len(rows) < 2:
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
    # Torch's class may go without them; those made above do not.
    assert norm.running_mean is not None and norm.running_var is not None and norm.momentum is not None
    mean, variance = rows.mean(0), rows.var(0, correction=0)
    with torch.no_grad():
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(variance * len(rows) / (len(rows) - 1), norm.momentum)
    return (x - mean) * (variance + norm.eps).rsqrt() * norm.weight + norm.bias
