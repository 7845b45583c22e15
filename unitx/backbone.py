"""The processor: blocks of attention (tokens exchange messages) and MLP (every token computes by itself).

Each stands on a branch of the residual stream. For new models the last projection of each branch starts at zero, so a
new backbone is the identity and learns a short program first.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unitx.attention import Cache, attention, attention_weights
from unitx.config import BackboneConfig
from unitx.tokens import Layout, Tokens

Record = dict[str, Tensor | list[Tensor]]


class MixedPrecision:
    """Weight and bias stay float32, and are cast at each use to the dtype of the input (Micikevicius et al. 2018).

    Attributes:
        copies: both as they were cast for many uses (see `answering`).
    """

    weight: Any
    bias: Any
    copies: tuple[Tensor, Tensor | None] | None = None

    def cast(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        if self.copies is not None and self.copies[0].dtype == dtype:
            return self.copies
        return self.weight.to(dtype), None if self.bias is None else self.bias.to(dtype)


class Linear(MixedPrecision, nn.Linear):
    """A linear map."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, *self.cast(x.dtype))


class LayerNorm(MixedPrecision, nn.LayerNorm):
    """Layer normalisation (Ba et al. 2016) with a learned gain.

    New models have it without bias. On CPUs PyTorch fuses it, and not RMSNorm, which takes four times as long.
    """

    def __init__(self, dim: int, eps: float = 1e-6, bias: bool = False):
        super().__init__(dim, eps, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, *self.cast(x.dtype), self.eps)


class RMSNorm(nn.RMSNorm):
    """Division by the root mean square (Zhang and Sennrich 2019), with a learned gain, in float32."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float()).to(x.dtype)


def make_norm(config: BackboneConfig, dim: int, bias: bool) -> LayerNorm | RMSNorm:
    """A norm over `dim` numbers, of the backbone's kind."""
    return RMSNorm(dim, config.norm_eps) if config.norm == "rmsnorm" else LayerNorm(dim, config.norm_eps, bias)


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


ACTIVATION: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "quick_gelu": _quick_gelu,
    "silu": F.silu,
    "relu": F.relu,
}


def rotary_table(
    positions: Tensor, head_dim: int, base: float, slowing: tuple[float, ...] | None = None, gain: float = 1.0
) -> Tensor:
    """(N, 1, head_dim / 2) complex: the turns of rotary positions (Su et al. 2021) over three axes.

    Frequency i turns with axis i mod 3 (interleaved M-RoPE, as in Qwen3-VL): every axis gets fast and slow ones. A
    token at (t, t, t) is turned exactly as by one-dimensional rotary at t.
    """
    frequency = torch.arange(head_dim // 2, device=positions.device)
    speed = base ** (-frequency.float() * 2 / head_dim)
    if slowing is not None:
        speed = speed / torch.tensor(slowing, device=positions.device)
    angle = positions.float()[:, frequency % 3] * speed
    return torch.polar(torch.full_like(angle, gain), angle)[:, None]


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Turn x (N, heads, d): the pair (2i, 2i + 1) as one complex number, which is the fastest on CPUs."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * table).flatten(-2).to(x.dtype)


class Attention(nn.Module):
    """Message passing between the tokens of a sequence."""

    def __init__(self, config: BackboneConfig, layer: int):
        super().__init__()
        kv = config.kv_heads or config.heads
        self.heads = (config.heads, kv, kv)
        self.head_dim = config.head_dim
        self.window = config.window_of(layer)
        self.qkv = Linear(config.dim, sum(self.heads) * self.head_dim, bias=config.qkv_bias)
        self.q_norm, self.k_norm = (
            make_norm(config, self.head_dim, bias=False) if config.qk_norm else nn.Identity() for _ in range(2)
        )
        self.out = Linear(config.heads * self.head_dim, config.dim, bias=config.out_bias)

    def forward(
        self,
        x: Tensor,
        layout: Layout,
        table: Tensor | None,
        cache: Cache | None = None,
        layer: int = 0,
        record: Record | None = None,
    ) -> Tensor:
        """(N, dim) → (N, dim).

        Args:
            table: (N, head_dim / 2) complex, how far rotary turns each token; None for no rotary.
            cache: where the tokens go on behind others.
            layer: the block's number, under which `cache` and `record` know it.
            record: gets the attention weights.
        """
        q, k, v = self.qkv(x).view(len(x), -1, self.head_dim).split(self.heads, dim=1)
        q, k = self.q_norm(q), self.k_norm(k)
        if table is not None:
            q, k = rotate(q, table), rotate(k, table)
        if record is not None:
            record[f"block{layer}.weights"] = attention_weights(q, k, layout, self.window)
        if cache is None:
            y = attention(q, k, v, layout, self.window)
        else:
            y = cache.attend(layer, q, k, v, layout, self.window)
        return self.out(y.flatten(1))


class MLP(nn.Module):
    """What every token computes by itself."""

    def __init__(self, config: BackboneConfig):
        super().__init__()
        hidden = config.mlp_dim
        self.activation, self.gated = ACTIVATION[config.activation], config.gated
        self.up = Linear(config.dim, hidden * (2 if config.gated else 1), bias=config.mlp_bias)
        self.down = Linear(hidden, config.dim, bias=config.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, dim) → (N, dim)."""
        if not self.gated:
            return self.down(self.activation(self.up(x)))
        opened, passed = self.up(x).chunk(2, dim=-1)
        return self.down(self.activation(opened) * passed)


class Block(nn.Module):
    """Attention and MLP, each on a branch of the residual stream: behind its norm (pre-norm, Xiong et al. 2020), or
    with the norm on the stream after it (post-norm)."""

    def __init__(self, config: BackboneConfig, layer: int):
        super().__init__()
        attn_norm, self.mlp_norm = (make_norm(config, config.dim, config.norm_bias) for _ in range(2))
        self.attn_norm = attn_norm if layer or config.first_norm else nn.Identity()
        self.attn, self.mlp = Attention(config, layer), MLP(config)
        self.post_norm = config.post_norm

    def branch(self, x: Tensor, norm: nn.Module, change: Callable[[Tensor], Tensor]) -> Tensor:
        """The residual stream after one of the two."""
        return norm(x + change(x)) if self.post_norm else x + change(norm(x))


class Backbone(nn.Module):
    """Blocks over `Tokens`; works alone, without a `Model`.

    `forward` returns tokens of the same shape. Given a dictionary as `record`, it also writes what happened inside,
    under stable names: `embed`, `block3.attn` and `block3.mlp` (the residual stream after each branch, (N, dim) in
    packed order), `final`, and with `weights=True` `block3.weights` (a (heads, n, n) tensor for each sequence).
    """

    def __init__(self, config: BackboneConfig):
        super().__init__()
        self.config = config
        blocks = [Block(config, layer) for layer in range(config.depth)]
        self.blocks = nn.ModuleList(blocks)
        behind = config.final_norm and not config.post_norm
        self.norm = make_norm(config, config.dim, config.norm_bias) if behind else nn.Identity()
        self.apply(_init_linear)
        for block in blocks:
            for last in (block.attn.out, block.mlp.down):
                nn.init.zeros_(last.weight)

    def forward(
        self, tokens: Tokens, cache: Cache | None = None, record: Record | None = None, weights: bool = False
    ) -> Tokens:
        if weights and cache is not None:
            raise ValueError("attention weights are recorded without a cache: run the whole sequence at once")
        x, layout = tokens.vectors, tokens.layout
        c = self.config
        bases = [c.rotary_base_of(layer) for layer in range(c.depth)]
        scaling = c.rotary_slowing, c.rotary_gain
        tables = {base: rotary_table(layout.positions, c.head_dim, base, *scaling) for base in {*bases} if base}
        inside = record if weights else None
        _note(record, "embed", x)
        for i, block in enumerate(cast(list[Block], self.blocks)):
            table = tables.get(bases[i] or 0.0)
            attend = partial(block.attn, layout=layout, table=table, cache=cache, layer=i, record=inside)
            x = block.branch(x, block.attn_norm, attend)
            _note(record, f"block{i}.attn", x)
            x = block.branch(x, block.mlp_norm, block.mlp)
            _note(record, f"block{i}.mlp", x)
        if cache is not None:
            cache.advance(layout)
        x = self.norm(x)
        _note(record, "final", x)
        return tokens.with_vectors(x)

    def new_cache(self, batch: int, room: int, like: Tensor) -> Cache:
        """An empty cache for `batch` sequences of at most `room` tokens, of `like`'s dtype and device."""
        c = self.config
        return Cache(c.depth, batch, c.kv_heads or c.heads, room, c.head_dim, like)


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=module.in_features**-0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _note(record: Record | None, name: str, x: Tensor) -> None:
    if record is not None:
        record[name] = x
