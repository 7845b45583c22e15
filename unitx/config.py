"""Configuration of the backbone and the one dial; nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BackboneConfig:
    """The shape of a backbone.

    Attributes:
        dim: width of the residual stream.
        depth: number of blocks.
        heads: attention heads; dim / heads is the head size.
        kv_heads: heads of keys and values (grouped-query attention); None for as many as `heads`.
        mlp_ratio: hidden width of the MLP, in multiples of dim.
        window: tokens that a token sees to each side; None for all.
        rotary_base: the longest rotary wavelength is about 2π times this, in positions.
    """

    dim: int = 128
    depth: int = 4
    heads: int = 4
    kv_heads: int | None = None
    mlp_ratio: float = 4.0
    window: int | None = None
    rotary_base: float = 10_000.0

    def __post_init__(self) -> None:
        for name in ("dim", "depth", "heads", "kv_heads", "window", "mlp_ratio", "rotary_base"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} is {value}, and must be more than 0")
        if self.dim % self.heads or self.head_dim % 2:
            raise ValueError(f"dim {self.dim} must be an even multiple of heads {self.heads}")
        if self.kv_heads is not None and self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} must be a multiple of kv_heads {self.kv_heads}")

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads


@dataclass(frozen=True)
class Size:
    """What one setting of the dial stands for: the backbone's shape, a learning rate and a batch in tokens."""

    dim: int
    depth: int
    heads: int
    lr: float
    batch_tokens: int


# Widths, depths and heads are those of ViT (Dosovitskiy et al. 2020; Touvron et al. 2021 for tiny) from tiny upwards.
SIZES = {
    "nano": Size(dim=128, depth=4, heads=4, lr=6e-3, batch_tokens=2_048),
    "tiny": Size(dim=192, depth=12, heads=3, lr=4e-3, batch_tokens=8_192),
    "small": Size(dim=384, depth=12, heads=6, lr=2e-3, batch_tokens=16_384),
    "base": Size(dim=768, depth=12, heads=12, lr=1e-3, batch_tokens=65_536),
    "large": Size(dim=1024, depth=24, heads=16, lr=5e-4, batch_tokens=131_072),
}


def size_of(dim: int) -> Size:
    """The setting of the dial for a backbone of this width: the largest that is not wider, or the smallest."""
    return next((size for size in reversed(SIZES.values()) if size.dim <= dim), SIZES["nano"])
