"""How published decoders slow rotary positions down, so that texts may be longer than those they were trained on."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from unitx.families.common import unchanged_in

KINDS = ("default", "linear", "llama3", "yarn")


class Rotary(NamedTuple):
    """Fields of `BackboneConfig`, by name."""

    rotary_base: float
    rotary_slowing: tuple[float, ...] | None = None
    rotary_gain: float = 1.0


def rotary(config: dict[str, Any], head_dim: int) -> Rotary:
    """What `rope_parameters` asks for, or as files of before transformers 5 call it, `rope_scaling`.

    Raises:
        ValueError: a kind that is not supported.
    """
    given = config.get("rope_parameters") or {}
    rope = config.get("rope_scaling") or given  # which files of two versions have both; that wins
    base = rope.get("rope_theta") or given.get("rope_theta") or config.get("rope_theta", 10_000.0)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in KINDS:
        raise ValueError(f"rope_type is {kind!r}; supported are {', '.join(KINDS)}")
    if kind == "default":
        return Rotary(base)
    unchanged_in("rope_parameters", rope, partial_rotary_factor=1.0)
    factor = float(rope["factor"])
    if kind == "linear":
        return Rotary(base, (factor,) * (head_dim // 2))
    original = "original_max_position_embeddings"
    length = config.get(original) or rope.get(original) or config["max_position_embeddings"]
    if kind == "llama3":
        low, high = (float(rope[name]) for name in ("low_freq_factor", "high_freq_factor"))
        turns = length / (2 * math.pi) * base ** (-2 * np.arange(head_dim // 2) / head_dim)
        return Rotary(base, _slowed(((turns - low) / (high - low)).clip(0, 1), factor))
    return _yarn(rope, base, factor, length, head_dim)


def _yarn(rope: dict[str, Any], base: float, factor: float, length: int, head_dim: int) -> Rotary:
    """YaRN (Peng et al. 2023): frequencies that turn often stay, and scores are sharper."""
    ends = [
        head_dim * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(base))
        for turns in (rope.get("beta_fast") or 32, rope.get("beta_slow") or 1)
    ]
    if rope.get("truncate", True):
        ends = [math.floor(ends[0]), math.ceil(ends[1])]
    first, last = max(ends[0], 0), min(ends[1], head_dim - 1)
    kept = 1 - ((np.arange(head_dim // 2) - first) / (last - first or 0.001)).clip(0, 1)
    gain, one, all_dim = (rope.get(name) for name in ("attention_factor", "mscale", "mscale_all_dim"))
    if gain is None:
        gain = _sharper(factor, one) / _sharper(factor, all_dim) if one and all_dim else _sharper(factor, 1.0)
    return Rotary(base, _slowed(kept, factor), float(gain))


def _sharper(factor: float, scale: float) -> float:
    return 0.1 * scale * math.log(factor) + 1 if factor > 1 else 1.0


def _slowed(kept: np.ndarray, factor: float) -> tuple[float, ...]:
    """By how much each frequency is slowed, where a share of it is kept and the rest divided by the factor."""
    return tuple((1 / (kept + (1 - kept) / factor)).tolist())
