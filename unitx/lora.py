"""Low-rank adapters on the backbone (LoRA, Hu et al. 2021), which a sequence of a frozen modality does not pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unitx.backbone import Backbone, Block, Linear
from unitx.tokens import Layout

RANK, ALPHA = 8, 16


class LoRA(nn.Module):
    """A frozen linear map plus a trained one of low rank, which starts at zero.

    Attributes:
        gate: (N, 1), the scale for the tokens that the adapter acts on, 0 for others; None for the scale for all.
    """

    def __init__(self, base: Linear):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.lora_A = nn.Parameter(torch.randn(RANK, base.in_features) * base.in_features**-0.5)
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, RANK))
        self.scale = ALPHA / RANK
        self.gate: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        low = F.linear(x, self.lora_A.to(x.dtype)) * (self.scale if self.gate is None else self.gate.to(x.dtype))
        return self.base(x) + F.linear(low, self.lora_B.to(x.dtype))

    @torch.no_grad()
    def merged(self) -> Linear:
        """The one linear map that is equal to both together."""
        self.base.weight += self.scale * self.lora_B @ self.lora_A
        return self.base.requires_grad_(True)


def add_lora(backbone: Backbone) -> None:
    """Put an adapter on every linear map of every block that has none yet, and freeze the rest of the backbone."""
    backbone.requires_grad_(False)
    for module, name in _linears(backbone):
        linear = getattr(module, name)
        adapter = linear if isinstance(linear, LoRA) else LoRA(linear).to(linear.weight.device)
        adapter.lora_A.requires_grad_(True)
        adapter.lora_B.requires_grad_(True)
        setattr(module, name, adapter)


def merge_lora(backbone: Backbone) -> None:
    """Fold all adapters into the weights."""
    for module, name in _linears(backbone):
        if isinstance(adapter := getattr(module, name), LoRA):
            setattr(module, name, adapter.merged())
    backbone.requires_grad_(True)


def has_lora(backbone: Backbone) -> bool:
    """Whether there are adapters that have not been merged."""
    return any(isinstance(module, LoRA) for module in backbone.modules())


def without_lora(backbone: Backbone) -> dict[str, Tensor]:
    """The backbone's weights by name, as they are where the adapters are passed by."""
    adapters = tuple(f"{name}." for name, module in backbone.named_modules() if isinstance(module, LoRA))
    weights = backbone.state_dict()
    bypassed = {name: value for name, value in weights.items() if not name.startswith(adapters) or ".base." in name}
    return {name.replace(".base.", "."): value for name, value in bypassed.items()}


@contextmanager
def gated(backbone: Backbone, layout: Layout, frozen: list[bool]) -> Iterator[None]:
    """Within it the adapters leave out every sequence that consists of frozen modalities alone.

    Args:
        frozen: whether a modality is, by its number.
    """
    free = (~torch.tensor(frozen, device=layout.device)[layout.modality]).float()
    touched = free.new_zeros(len(layout)).index_add(0, layout.segments, free) > 0
    gate = touched[layout.segments].float()[:, None]
    adapters = [module for module in backbone.modules() if isinstance(module, LoRA)]
    for adapter in adapters:
        adapter.gate = gate * adapter.scale
    try:
        yield
    finally:
        for adapter in adapters:
            adapter.gate = None


def _linears(backbone: Backbone) -> list[tuple[nn.Module, str]]:
    """Every linear map of every block: the module that holds it, and its name there."""
    blocks = [module for module in backbone.modules() if isinstance(module, Block)]
    return [place for b in blocks for place in ((b.attn, "qkv"), (b.attn, "out"), (b.mlp, "up"), (b.mlp, "down"))]
