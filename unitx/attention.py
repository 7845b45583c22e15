"""Attention over ragged batches: one function, three implementations that agree.

Every token says what it looks for (query), what it holds (key) and what it tells (value): message passing
(Vaswani et al. 2017). Who sees whom is `tokens.visible`: a prefix sees itself freely, what follows looks back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from unitx.tokens import Group, Layout, visible

FLASH_HEADS = range(8, 257, 8)  # widths of a head that flash attention takes as they are


def attention(q: Tensor, k: Tensor, v: Tensor, layout: Layout, window: int | None = None) -> Tensor:
    """Attention within each sequence of a packed batch.

    Args:
        q: (N, heads, d) queries.
        k, v: (N, kv_heads, d) keys and values; kv_heads divides heads (grouped-query attention, Ainslie et al. 2023).
        layout: how N is cut into sequences, and their prefixes.
        window: a token sees at most so many tokens to each side; None for all.

    Returns: (N, heads, d).
    """
    if q.is_cuda and q.dtype in (torch.float16, torch.bfloat16) and q.shape[-1] in FLASH_HEADS:
        return flash_attention(q, k, v, layout, window)
    return grouped_attention(q, k, v, layout, window)


def reference_attention(q: Tensor, k: Tensor, v: Tensor, layout: Layout, window: int | None = None) -> Tensor:
    """The definition, a plain loop over sequences: the truth in tests."""
    out = []
    for qi, ki, vi, prefix in zip(*(x.split(layout.lengths) for x in (q, k, v)), layout.prefix, strict=True):
        weights = _softmax_weights(qi, ki, prefix, window)
        out.append(torch.einsum("hij,jhd->ihd", weights, _repeat_heads(vi, qi)))
    return torch.cat(out)


def attention_weights(q: Tensor, k: Tensor, layout: Layout, window: int | None = None) -> list[Tensor]:
    """The weights (heads, n, n) of each sequence, in packed order; for looking inside."""
    pairs = zip(q.split(layout.lengths), k.split(layout.lengths), layout.prefix, strict=True)
    return [_softmax_weights(qi, ki, prefix, window) for qi, ki, prefix in pairs]


def _softmax_weights(q: Tensor, k: Tensor, prefix: int, window: int | None) -> Tensor:
    i = torch.arange(len(q), device=q.device)
    scores = torch.einsum("ihd,jhd->hij", q, _repeat_heads(k, q)) * q.shape[-1] ** -0.5
    return scores.masked_fill(~visible(i[:, None], i[None, :], prefix, window), -torch.inf).softmax(-1)


def _repeat_heads(x: Tensor, like: Tensor) -> Tensor:
    return x.repeat_interleave(like.shape[1] // x.shape[1], dim=1)


def grouped_attention(q: Tensor, k: Tensor, v: Tensor, layout: Layout, window: int | None = None) -> Tensor:
    """Sequences of equal length as one dense call each, through PyTorch's fused attention; any device."""
    if q.dtype == torch.bfloat16 and not q.is_cuda and q.requires_grad:
        # On CPUs PyTorch's backward pass takes up to fifteen times as long in bf16.
        return grouped_attention(q.float(), k.float(), v.float(), layout, window).to(q.dtype)
    sizes = [group.count * group.length for group in layout.groups]
    out = []
    for group, *qkv in zip(layout.groups, q.split(sizes), k.split(sizes), v.split(sizes), strict=True):
        # By views: with many short groups einops would cost as much as the attention.
        qi, ki, vi = (x.unflatten(0, (group.count, group.length)).transpose(1, 2) for x in qkv)
        if window is not None and group.length > window + 1:
            y = _windowed(qi, ki, vi, layout, group, window)
        else:
            mask = layout.mask(group) if group.kind == "prefix" else None
            y = _sdpa(qi, ki, vi, mask=mask, causal=group.kind == "causal")
        out.append(y.transpose(1, 2).flatten(0, 1))
    return torch.cat(out) if len(out) > 1 else out[0]


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=grouped)


def _windowed(q: Tensor, k: Tensor, v: Tensor, layout: Layout, group: Group, window: int) -> Tensor:
    """Block by block: the queries of one block of `window` tokens see at most that block and its two neighbours.

    q, k, v are (b, h, n, d); the cost grows with n · window rather than with n².
    """
    b, _, n, _ = q.shape
    blocks = -(-n // window)
    after = blocks * window - n
    q = rearrange(F.pad(q, (0, 0, 0, after)), "b h (m w) d -> (b m) h w d", w=window)
    k, v = (
        rearrange(F.pad(x, (0, 0, window, window + after)).unfold(2, 3 * window, window), "b h m d w -> (b m) h w d")
        for x in (k, v)
    )
    mask = _window_mask(layout, group, blocks, window)
    y = _sdpa(q, k, v, mask=mask)
    return rearrange(y, "(b m) h w d -> b h (m w) d", b=b)[:, :, :n]


def _window_mask(layout: Layout, group: Group, blocks: int, window: int) -> Tensor:
    """(b · blocks, 1, window, 3 · window) bool; made once for all layers."""
    key = (group, window)
    if key not in layout._masks:
        prefix = torch.tensor(layout.prefix[group.first : group.first + group.count], device=layout.device)
        start = torch.arange(blocks, device=layout.device)[:, None, None] * window
        i = start + torch.arange(window, device=layout.device)[:, None]
        j = start + torch.arange(-window, 2 * window, device=layout.device)
        seen = visible(i, j, prefix[:, None, None, None], window) & (j >= 0) & (j < group.length)
        # Queries that only fill up the last block see themselves: a row without any key would be NaN.
        seen = seen | ((i >= group.length) & (i == j))
        layout._masks[key] = rearrange(seen, "b m i j -> (b m) 1 i j")
    return layout._masks[key]


def flash_attention(q: Tensor, k: Tensor, v: Tensor, layout: Layout, window: int | None = None) -> Tensor:
    """CUDA in half precision: PyTorch's variable-length flash attention, one call a kind of mask.

    Sequences that are all encoders or all decoders take one call; a prefix language model takes two: the prefix sees
    itself, the rest sees all that came before it (the causal mask is aligned at the lower right).
    """
    from torch.nn.attention import varlen

    # Typed as giving a pair too, which it does only where auxiliary outputs are asked for.
    varlen_attn = cast(Callable[..., Tensor], varlen.varlen_attn)
    side = -1 if window is None else window
    longest = max(layout.lengths)
    kinds = {group.kind for group in layout.groups}
    if len(kinds) == 1 and "prefix" not in kinds:
        right = side if kinds == {"full"} else 0
        return varlen_attn(q, k, v, layout.offsets, layout.offsets, longest, longest, window_size=(side, right))

    parts = _prefix_parts(layout)
    free = varlen_attn(
        *(x.index_select(0, parts["prefix"]) for x in (q, k, v)),
        parts["prefix_offsets"], parts["prefix_offsets"], parts["prefix_longest"], parts["prefix_longest"],
        window_size=(side, side),
    )  # fmt: skip
    later = varlen_attn(
        q.index_select(0, parts["rest"]), k, v,
        parts["rest_offsets"], layout.offsets, parts["rest_longest"], longest,
        window_size=(side, 0),
    )  # fmt: skip
    return torch.cat([free, later]).index_select(0, parts["inverse"])


def _prefix_parts(layout: Layout) -> dict[str, Any]:
    """Which tokens belong to prefixes and which come later, with their offsets; made once for all layers."""
    if "parts" not in layout._masks:
        lengths = torch.tensor(layout.lengths)
        prefix = torch.minimum(torch.tensor(layout.prefix), lengths)
        is_prefix = layout.within < prefix.to(layout.device)[layout.segments]
        chosen, rest = is_prefix.nonzero()[:, 0], (~is_prefix).nonzero()[:, 0]

        def offsets(sizes: Tensor) -> Tensor:
            return F.pad(sizes.cumsum(0), (1, 0)).to(layout.device, torch.int32)

        layout._masks["parts"] = {
            "prefix": chosen, "prefix_offsets": offsets(prefix), "prefix_longest": int(prefix.max()),
            "rest": rest, "rest_offsets": offsets(lengths - prefix), "rest_longest": int((lengths - prefix).max()),
            "inverse": torch.cat([chosen, rest]).argsort(),
        }  # fmt: skip
    return layout._masks["parts"]


class Cache:
    """Keys and values of B growing sequences, preallocated: (B, kv_heads, room, d) for each layer.

    The prompts are prefilled at once as a ragged batch; what comes later, one token a step or several, looks back.

    Args:
        depth: layers.
        batch: B.
        kv_heads: of keys and values.
        room: the most tokens that a sequence may reach.
        head_dim: d.
        like: a tensor of the dtype and on the device that keys and values have.
    """

    def __init__(self, depth: int, batch: int, kv_heads: int, room: int, head_dim: int, like: Tensor):
        shape = (depth, batch, kv_heads, room, head_dim)
        self.keys, self.values = like.new_zeros(shape), like.new_zeros(shape)
        self.lengths = [0] * batch  # on the host, so that no layer waits for the device

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, layout: Layout, window: int | None) -> Tensor:
        """Store what the new tokens hold and tell, and attend: prompts within themselves, later tokens to the past.

        Raises:
            ValueError: a sequence would grow beyond the cache's room.
        """
        longest = max(self.lengths[i] + n for i, n in zip(layout.order, layout.lengths, strict=True))
        if longest > self.keys.shape[3]:
            raise ValueError(f"a sequence of {longest} tokens does not fit a cache with room for {self.keys.shape[3]}")
        row, place = self._places(layout)
        self.keys[layer, row, :, place] = k
        self.values[layer, row, :, place] = v
        if not any(self.lengths):
            return attention(q, k, v, layout, window)
        in_order = layout.order == list(range(len(self.lengths))) and len(q) == len(self.lengths)
        rows = slice(None) if in_order else row  # a view of the cache where it is one, for it is large
        keys, values = (x[layer, rows, :, :longest] for x in (self.keys, self.values))
        mask = self._mask(layout, longest, window)
        return _sdpa(q[:, :, None], keys, values, mask=mask)[:, :, 0]

    def _places(self, layout: Layout) -> tuple[Tensor, Tensor]:
        """(N,) the row of each new token and its place there; made once for all layers."""
        key = ("places", *self.lengths)
        if key not in layout._masks:
            row = torch.tensor(layout.order, device=layout.device)[layout.segments]
            layout._masks[key] = row, torch.tensor(self.lengths, device=layout.device)[row] + layout.within
        return layout._masks[key]

    def _mask(self, layout: Layout, longest: int, window: int | None) -> Tensor:
        """(N, 1, 1, longest) bool: what each new token sees of its row; made once for all layers."""
        key = ("seen", window, *self.lengths)
        if key not in layout._masks:
            place = self._places(layout)[1]
            seen = visible(place[:, None], torch.arange(longest, device=place.device), 0, window)
            layout._masks[key] = seen[:, None, None]
        return layout._masks[key]

    def select(self, rows: Tensor) -> None:
        """Keep some of the sequences (n,), each any number of times, in this order."""
        self.keys, self.values = self.keys.index_select(1, rows), self.values.index_select(1, rows)
        self.lengths = [self.lengths[i] for i in rows.tolist()]

    def advance(self, layout: Layout) -> None:
        """Count the tokens of `layout` as stored, once all layers have seen them."""
        for i, n in zip(layout.order, layout.lengths, strict=True):
            self.lengths[i] += n
