"""Configuration of the backbone and the one dial; nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass

NORMS = ("layernorm", "rmsnorm")
WHOLE = ("dim", "depth", "heads", "kv_heads", "window", "head_size")  # numbers of these kinds, above 0
REAL = ("rotary_gain", "mlp_ratio", "rotary_base", "window_rotary_base", "norm_eps")
OPTIONAL = ("kv_heads", "window", "head_size", "rotary_base", "window_rotary_base")  # that may be None
ACTIVATIONS = ("gelu", "gelu_tanh", "quick_gelu", "silu", "relu")


@dataclass(frozen=True)
class BackboneConfig:
    """The shape of a backbone. The defaults are those of new models; what follows `rotary_base` is for published ones.

    Attributes:
        dim: width of the residual stream.
        depth: number of blocks.
        heads: attention heads.
        kv_heads: heads of keys and values (grouped-query attention); None for as many as `heads`.
        mlp_ratio: hidden width of the MLP, in multiples of dim.
        window: tokens that a token sees to each side; None for all.
        rotary_base: the longest rotary wavelength is about 2π times this, in positions; None for no rotary.
        head_size: width of a head; None for dim / heads.
        full_layers: blocks that see everything where there is a window.
        window_rotary_base: of the other blocks; None for `rotary_base`.
        rotary_slowing: what each rotary frequency is divided by, head_size / 2 numbers, the fastest's first; None for
            1. So models read texts longer than those they were trained on (Chen et al. 2023).
        rotary_gain: what turned queries and keys are multiplied by (YaRN, Peng et al. 2023).
        norm: "layernorm" or "rmsnorm" (Zhang and Sennrich 2019).
        norm_bias: whether norms add a learned vector.
        norm_eps: added to the variance.
        post_norm: norms stand on the residual stream, after each branch (Vaswani et al. 2017), not before it.
        first_norm: whether the first block's attention has a norm; not where the tokens are normed already.
        final_norm: whether the last block of a pre-norm backbone has a norm behind it.
        qk_norm: whether queries and keys are normed (Dehghani et al. 2023).
        qkv_bias, out_bias, mlp_bias: whether these linear maps add a learned vector.
        activation: of the MLP, one of `ACTIVATIONS`.
        gated: the activation of one half of the hidden layer multiplies the other (GLU, Shazeer 2020).
        causal: it was trained as a decoder: an item is read so where no task says otherwise.

    Raises:
        ValueError: a field is out of range, or fields do not fit together.
    """

    dim: int = 128
    depth: int = 4
    heads: int = 4
    kv_heads: int | None = None
    mlp_ratio: float = 4.0
    window: int | None = None
    rotary_base: float | None = 10_000.0
    head_size: int | None = None
    full_layers: tuple[int, ...] = ()
    window_rotary_base: float | None = None
    rotary_slowing: tuple[float, ...] | None = None
    rotary_gain: float = 1.0
    norm: str = "layernorm"
    norm_bias: bool = False
    norm_eps: float = 1e-6
    post_norm: bool = False
    first_norm: bool = True
    final_norm: bool = True
    qk_norm: bool = True
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = True
    activation: str = "gelu"
    gated: bool = False
    causal: bool = False

    def __post_init__(self) -> None:
        for name in ("full_layers", "rotary_slowing"):
            if isinstance(value := getattr(self, name), list):  # from JSON
                object.__setattr__(self, name, tuple(value))
        for names, kind in ((WHOLE, int), (REAL, int | float)):
            for name in names:
                value = getattr(self, name)
                if (value is not None or name not in OPTIONAL) and not (isinstance(value, kind) and value > 0):
                    whole = "a whole number, " if kind is int else ""
                    raise ValueError(f"{name} is {value}, and must be {whole}more than 0")
        if self.head_size is None and self.dim % self.heads:
            raise ValueError(f"dim {self.dim} must be a multiple of heads {self.heads}")
        if self.rotary_base is not None and self.head_dim % 2:
            shape = f"dim {self.dim} with heads {self.heads}"
            raise ValueError(f"{shape}: rotary positions need heads of an even width, not {self.head_dim}")
        if self.rotary_slowing is not None and len(self.rotary_slowing) != self.head_dim // 2:
            raise ValueError(f"rotary_slowing has {len(self.rotary_slowing)} numbers, not {self.head_dim // 2}")
        if self.kv_heads is not None and self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} must be a multiple of kv_heads {self.kv_heads}")
        for name, known in (("norm", NORMS), ("activation", ACTIVATIONS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it can be {', '.join(known)}")

    @property
    def head_dim(self) -> int:
        return self.head_size or self.dim // self.heads

    @property
    def mlp_dim(self) -> int:
        """Hidden width of the MLP."""
        return round(self.mlp_ratio * self.dim)

    def window_of(self, layer: int) -> int | None:
        """The window of a block."""
        return None if layer in self.full_layers else self.window

    def rotary_base_of(self, layer: int) -> float | None:
        """The rotary base of a block."""
        windowed = self.window is not None and layer not in self.full_layers
        return self.window_rotary_base if windowed and self.window_rotary_base else self.rotary_base


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


def heads_for(dim: int, width: int) -> int:
    """How many heads a backbone `dim` wide has whose heads are about `width` wide, or wider where that must be."""
    return next((heads for heads in range(dim // width, 0, -1) if dim % (2 * heads) == 0), 1)


def size_of(dim: int) -> str:
    """The setting of the dial for a backbone of this width: the largest that is not wider, or the smallest."""
    return next((name for name, size in reversed(SIZES.items()) if size.dim <= dim), "nano")
