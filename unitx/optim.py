"""Optimizers: Muon for the hidden matrices of the backbone, AdamW for the rest, and one schedule for both."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from unitx.backbone import Attention
from unitx.sharding import is_shared, part_of, whole

if TYPE_CHECKING:
    from unitx.model import Model

MOMENTUM = 0.95  # Muon's
MUON_RATE = 4.0  # Muon's learning rate in multiples of AdamW's: one peak rate is given for both


class Muon(torch.optim.Optimizer):
    """Momentum whose matrices are orthogonalised before they are applied (Jordan et al. 2024).

    The update is scaled by 0.2 · sqrt(max(rows, columns)), so that its entries are about as large as AdamW's (Liu et
    al. 2025). Matrices of one shape go through the iteration as one batch, those that processes share (FSDP2) whole in
    each.

    Args:
        splits: parameter → the row counts of the matrices that are stacked in it (query, key and value), which are
            orthogonalised apart.
        dtype: of the iteration; the processor's fast one.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        weight_decay: float = 0.0,
        splits: dict[nn.Parameter, list[int]] | None = None,
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__(params, {"lr": lr, "momentum": MOMENTUM, "weight_decay": weight_decay})
        self.splits = splits or {}
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # it is not called
        by_shape: dict[tuple[int, ...], list[tuple[Tensor, Tensor, float]]] = defaultdict(list)
        shared: list[tuple[Tensor, Tensor]] = []
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                if "momentum" not in self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
                momentum = self.state[p]["momentum"]
                momentum.lerp_(p.grad, 1 - group["momentum"])
                update = p.grad.lerp(momentum, group["momentum"])  # Nesterov's
                p.mul_(1 - group["lr"] * group["weight_decay"])
                sizes, target = self.splits.get(p, [len(p)]), p
                if is_shared(p):
                    update = whole(update)
                    target = torch.zeros_like(update)
                    shared.append((p, target))
                for part, change in zip(target.split(sizes), update.split(sizes), strict=True):
                    tall = part.shape[0] > part.shape[1]
                    flat, to = (change.T, part.T) if tall else (change, part)
                    by_shape[tuple(flat.shape)].append((to, flat, group["lr"]))
        for (rows, columns), entries in by_shape.items():
            updates = orthogonalize(torch.stack([change for _, change, _ in entries]).to(self.dtype))
            scale = 0.2 * math.sqrt(max(rows, columns))
            for (to, _, lr), update in zip(entries, updates.to(torch.float32), strict=True):
                to.add_(update, alpha=-lr * scale)
        for p, change in shared:
            p.add_(part_of(change, p))


def orthogonalize(matrices: Tensor, steps: int = 5) -> Tensor:
    """(b, rows, columns), rows <= columns → the nearest semi-orthogonal matrices, about: singular values near one.

    A quintic Newton-Schulz iteration with the coefficients of Jordan et al. 2024, which make small singular values grow
    fast and leave all between about 0.7 and 1.2.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def build_optimizers(
    model: Model,
    kind: str,
    lr: float,
    weight_decay: float,
    layer_decay: float = 1.0,
    dtype: torch.dtype = torch.float32,
    new: Collection[str] = (),
) -> list[torch.optim.Optimizer]:
    """The optimizers of all parameters that require a gradient.

    Args:
        kind: "muon" (hidden matrices of the backbone; the rest by AdamW) or "adamw" (all).
        layer_decay: factor of the learning rate for each block further from the output (Bao et al. 2021).
        dtype: of Muon's iteration.
        new: names of parameters that begin anew in a trained model, and learn at the full rate.
    """
    hidden, rest = defaultdict(list), defaultdict(list)
    splits = {}
    depth = model.backbone.config.depth
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        scale = 1.0 if name in new else layer_decay ** (depth - _level(name, depth))
        if kind == "muon" and _is_hidden(name, p):
            hidden[MUON_RATE * scale].append(p)
            if ".qkv." in name:  # also below adapters
                attention = model.get_submodule(name.partition(".qkv.")[0])
                assert isinstance(attention, Attention)
                splits[p] = [heads * attention.head_dim for heads in attention.heads]
            elif ".mlp.up." in name and model.get_submodule(name.partition(".up.")[0]).gated:
                splits[p] = [len(p) // 2] * 2
        else:
            decays = p.ndim == 2 and ".positions." not in name  # neither ViT's positions nor its class tokens do
            rest[scale, weight_decay if decays else 0.0].append(p)
    found: list[torch.optim.Optimizer] = []
    if hidden:
        groups = [{"params": params, "scale": scale} for scale, params in hidden.items()]
        found.append(Muon(groups, lr, weight_decay=weight_decay, splits=splits, dtype=dtype))
    if rest:
        groups = [{"params": params, "scale": s, "weight_decay": decay} for (s, decay), params in rest.items()]
        found.append(torch.optim.AdamW(groups, lr, betas=(0.9, 0.95), fused=True))
    return found


def _is_hidden(name: str, p: nn.Parameter) -> bool:
    """Whether it is a matrix of a block; adapters are not, since their product is what counts."""
    return ".blocks." in name and name.endswith(".weight") and p.ndim == 2


def _level(name: str, depth: int) -> int:
    """0 for tokenizers, i for block i - 1, depth for what comes after the blocks."""
    if name.startswith("tokenizers."):
        return 0
    if name.startswith("backbone.blocks."):
        return int(name.split(".")[2]) + 1
    return depth


def schedule(done: float, warmup: float) -> float:
    """The learning rate's factor when a share `done` of the run is over: linear warm-up, then a cosine to zero."""
    rise = min(1.0, done / warmup) if warmup > 0 else 1.0
    fall = 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, (done - warmup) / max(1 - warmup, 1e-9)))))
    return max(rise * fall, 1e-3)


def set_lr(optimizers: list[torch.optim.Optimizer], lr: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr * group["scale"]
