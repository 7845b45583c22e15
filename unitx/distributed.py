"""What several processes share; with one process each function gives back what it was given."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


def gather_rows(x: Tensor) -> Tensor:
    """The rows of all processes, in the order of their ranks; gradients flow back to where a row came from.

    Processes may hold different numbers of rows.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return x
    from torch.distributed.nn.functional import all_gather

    sizes = [torch.zeros(1, dtype=torch.long, device=x.device) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, torch.tensor([len(x)], device=x.device))
    longest = max(int(n) for n in sizes)
    padded = torch.cat([x, x.new_zeros(longest - len(x), *x.shape[1:])])
    if x.is_floating_point():
        parts = all_gather(padded)
    else:
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
    return torch.cat([part[: int(n)] for part, n in zip(parts, sizes, strict=True)])


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
