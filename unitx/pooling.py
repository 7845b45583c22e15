"""How the tokens of a sequence become one vector, and what is computed from it before a head answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from unitx.backbone import ACTIVATION, LayerNorm, Linear
from unitx.errors import UnitxError
from unitx.tokens import Tokens, segment_mean

KINDS = (
    "mean", "first", "concat", "last", "end", "rest", "first and rest", "attention", "max", "weighted mean",
    "scaled sum",
)  # fmt: skip
STEPS = ("norm", "dense", "tanh", *ACTIVATION)


@dataclass(frozen=True)
class Pooling:
    """What a `Pooler` does.

    Attributes:
        kind: "mean" of all tokens, "max" of each number over them, "weighted mean" (the n-th token counts n times,
            Muennighoff 2022), "scaled sum" (divided by the square root of their number), "first" (a class token),
            "concat" (several side by side), "last" (a decoder), "end" (where the end of the text is), "rest" (the mean
            of the patches behind class and register tokens), "first and rest" (both side by side), or "attention" (a
            learned query).
        first: how many tokens "first" is the mean of, and "concat" takes.
        rest: where "rest" begins, and what "attention" sees.
        skip: an id that "last" passes over at the end of a sequence: padding that is part of the text.
        end: the id that "end" looks for, at its first place; None for the highest id of the text.
        heads: of "attention", which divide the width.
        mlp: hidden width of the MLP behind "attention".
        activation: of that MLP.
        steps: what follows, in order: "norm", "dense", "tanh" or the name of an activation.
        width: what "dense" gives; 0 for as many numbers as it gets.
        bias: whether "dense" adds a learned vector.
        eps: of norms.

    Raises:
        UnitxError: there is no such kind or step.
    """

    kind: str = "mean"
    first: int = 1
    rest: int = 0
    skip: int | None = None
    end: int | None = None
    heads: int = 1
    mlp: int = 0
    activation: str = "gelu"
    steps: tuple[str, ...] = ()
    width: int = 0
    bias: bool = True
    eps: float = 1e-6

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(self.steps))  # a list, from JSON
        if self.kind not in KINDS:
            raise UnitxError(f"pooling is {self.kind!r}; it can be {', '.join(KINDS)}")
        for name, least in (("first", 1), ("rest", 0), ("heads", 1), ("mlp", 0), ("width", 0)):
            if not isinstance(value := getattr(self, name), int) or value < least:
                raise UnitxError(f"pooling: {name} is {value!r}; it must be a whole number from {least} on")
        if self.activation not in ACTIVATION:
            raise UnitxError(f"pooling: activation is {self.activation!r}; it can be {', '.join(ACTIVATION)}")
        for step in self.steps:
            if step not in STEPS:
                raise UnitxError(f"a pooling has no step {step!r}; there are {', '.join(STEPS)}")

    @classmethod
    def parse(cls, value: Pooling | Mapping[str, Any] | str) -> Pooling:
        """From the name of a kind, or the fields, as options hold them."""
        if isinstance(value, Mapping):
            if unknown := value.keys() - {f.name for f in fields(cls)}:
                raise UnitxError(f"a pooling has no field '{min(unknown)}'")
            return cls(**value)
        return value if isinstance(value, Pooling) else cls(value)


class Pooler(nn.Module):
    """Tokens → one vector a sequence.

    Attributes:
        width: of the vectors.
    """

    def __init__(self, dim: int, config: Pooling):
        super().__init__()
        self.config = config
        self.attention = AttentionPooling(dim, config) if config.kind == "attention" else None
        self.width = dim * {"first and rest": 2, "concat": config.first}.get(config.kind, 1)
        self.steps = nn.ModuleList()
        for step in config.steps:
            self.steps.append(self._step(step))

    def _step(self, name: str) -> nn.Module:
        if name == "norm":
            return LayerNorm(self.width, self.config.eps, bias=True)
        if name == "dense":
            before, self.width = self.width, self.config.width or self.width
            return Linear(before, self.width, bias=self.config.bias)
        return nn.Identity()

    def forward(self, tokens: Tokens) -> Tensor:
        """(B, width), in packed order."""
        x = self._pooled(tokens)
        for name, step in zip(self.config.steps, self.steps, strict=True):
            x = torch.tanh(x) if name == "tanh" else ACTIVATION[name](x) if name in ACTIVATION else step(x)
        return x

    def _pooled(self, tokens: Tokens) -> Tensor:
        layout, kind = tokens.layout, self.config.kind
        if self.attention is not None:
            return self.attention(tokens)
        if kind in ("mean", "weighted mean", "scaled sum"):
            return _averaged(tokens, kind)
        if kind == "max":
            owners = layout.segments[:, None].expand_as(tokens.vectors)
            lowest = tokens.vectors.new_full((len(layout), tokens.vectors.shape[1]), -torch.inf)
            return lowest.scatter_reduce(0, owners, tokens.vectors, "amax")
        if kind in ("last", "end"):
            skip, end = self.config.skip, self.config.end
            place = _places_of_last(tokens, skip) if kind == "last" else _places_of_end(tokens, end)
            return tokens.vectors.index_select(0, place)
        if kind == "concat":
            if (shortest := min(layout.lengths)) < self.config.first:
                raise UnitxError(f"a sequence of {shortest} tokens has no {self.config.first} class tokens")
            places = layout.offsets[:-1, None].long() + torch.arange(self.config.first, device=layout.device)
            return tokens.vectors.index_select(0, places.flatten()).view(len(layout), -1)
        first = _mean_where(tokens, layout.within < self.config.first)
        if kind == "first":
            return first
        rest = _mean_where(tokens, layout.within >= self.config.rest)
        return torch.cat([first, rest], dim=-1) if kind == "first and rest" else rest


def _averaged(tokens: Tokens, kind: str) -> Tensor:
    """(B, dim) float32: a mean, or what is near to one."""
    if kind == "scaled sum":
        return tokens.mean() * tokens.layout.offsets.diff().sqrt()[:, None]
    if kind == "mean":
        return tokens.mean()
    weights = (tokens.layout.within + 1.0)[:, None]
    sums = tokens.with_vectors(torch.cat([weights * tokens.vectors, weights], dim=1)).mean()
    return sums[:, :-1] / sums[:, -1:]


def _mean_where(tokens: Tokens, chosen: Tensor) -> Tensor:
    """(B, dim): the mean of the chosen (N,) tokens of each sequence."""
    rows = chosen.nonzero()[:, 0]
    layout = tokens.layout
    found = segment_mean(tokens.vectors.index_select(0, rows), layout.segments.index_select(0, rows), len(layout))
    return found.to(tokens.vectors.dtype)


def _places_of_last(tokens: Tokens, skip: int | None) -> Tensor:
    """(B,) rows: of the last token whose id is not `skip`; of the first where there is none."""
    layout = tokens.layout
    last = layout.offsets[1:].long() - 1
    if skip is None:
        return last
    rows = torch.arange(len(layout.ids), device=last.device)
    rows = torch.where(layout.ids == skip, layout.offsets[:-1].long()[layout.segments], rows)
    return torch.zeros_like(last).scatter_reduce(0, layout.segments, rows, "amax")


def _places_of_end(tokens: Tokens, end: int | None) -> Tensor:
    """(B,) rows: of the first token with the id `end`, or else with the highest id; of the first where there is none,
    as in CLIP's own code."""
    layout = tokens.layout
    ids = layout.ids if end is None else (layout.ids == end).long()
    highest = ids.new_full((len(layout),), -1).scatter_reduce(0, layout.segments, ids, "amax")
    rows = torch.arange(len(ids), device=ids.device)
    found = torch.where(ids == highest[layout.segments], rows, len(ids))
    return rows.new_full((len(layout),), len(ids)).scatter_reduce(0, layout.segments, found, "amin")


class AttentionPooling(nn.Module):
    """A learned query attends to the tokens of a sequence, and an MLP follows (MAP, Zhai et al. 2022)."""

    def __init__(self, dim: int, config: Pooling):
        super().__init__()
        if dim % config.heads:
            raise UnitxError(f"pooling: heads {config.heads} must divide the width {dim}")
        self.heads, self.activation, self.rest = config.heads, ACTIVATION[config.activation], config.rest
        self.query = nn.Parameter(torch.randn(dim) * dim**-0.5)
        self.q, self.kv, self.out = Linear(dim, dim), Linear(dim, 2 * dim), Linear(dim, dim)
        self.norm = LayerNorm(dim, config.eps, bias=True)
        self.up, self.down = Linear(dim, config.mlp or 4 * dim), Linear(config.mlp or 4 * dim, dim)

    def forward(self, tokens: Tokens) -> Tensor:
        """(B, dim), in packed order."""
        segments, count = tokens.layout.segments, len(tokens.layout)
        k, v = self.kv(tokens.vectors).float().unflatten(-1, (2, self.heads, -1)).unbind(1)
        q = self.q(self.query).float().view(self.heads, -1)
        seen = tokens.layout.within >= self.rest
        scores = ((k * q).sum(-1) * q.shape[-1] ** -0.5).masked_fill(~seen[:, None], -torch.inf)
        owners = segments[:, None].expand_as(scores)
        highest = scores.new_full((count, self.heads), -torch.inf).scatter_reduce(0, owners, scores, "amax")
        weights = torch.exp(scores - highest.index_select(0, segments))
        sums = weights.new_zeros(count, self.heads).index_add(0, segments, weights)
        found = v.new_zeros(count, *v.shape[1:]).index_add(0, segments, v * weights[..., None]) / sums[..., None]
        x = self.out(found.flatten(1).to(tokens.vectors.dtype))
        return x + self.down(self.activation(self.up(self.norm(x))))
