"""Time series: numbers of any channels over time, in patches of a few steps."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from einops import rearrange
from torch import Tensor

from unitx.backbone import Linear
from unitx.errors import BadItem
from unitx.media import check_whole, crop, describe
from unitx.registry import register_tokenizer
from unitx.tokenizer import Processor, Tokenizer
from unitx.tokens import Pieces, line_positions

LEAST_STD = 1e-6


@dataclass(frozen=True)
class SeriesProcessor(Processor):
    """Turns a series (steps, channels) into patches of some steps of all channels (PatchTST, Nie et al. 2023).

    Each channel is standardised by itself (RevIN, Kim et al. 2022), and its level and spread stand in every patch.

    Attributes:
        channels: numbers of a step.
        patch: steps of a patch.

    Raises:
        UnitxError: an option is out of range.
    """

    channels: int = 1
    patch: int = 8

    def __post_init__(self) -> None:
        check_whole(self, "max_tokens", "channels", "patch")

    def read(self, item: Any) -> np.ndarray:
        """An array, tensor or list (steps,) or (steps, channels), a text of numbers, or the path of a .npy file.

        Returns: (steps, channels) float64.

        Raises:
            BadItem: it is something else, empty, has other channels, or holds NaN or infinity.
        """
        if isinstance(item, str) and item.strip().endswith(".npy"):
            item = Path(item.strip()).expanduser()
        if isinstance(item, Path) and not item.is_file():
            raise BadItem(f"there is no file {item}")
        try:
            if isinstance(item, Path):
                item = np.load(item, allow_pickle=False)
            if isinstance(item, str):
                item = re.split(r"[\s,;|]+", item.strip())
            series = np.asarray(item, dtype=np.float64)
        except (OSError, EOFError, TypeError, ValueError, OverflowError, RuntimeError, BadZipFile) as error:
            raise BadItem(f"{describe(item)} is no series: give (steps, channels) numbers") from error
        series = series[:, None] if series.ndim == 1 else series
        if series.ndim != 2 or not len(series) or series.shape[1] != self.channels:
            raise BadItem(
                f"{describe(item)}: a series of shape {tuple(series.shape)}, and the model reads (steps, "
                f"{self.channels}): see --tokenizers.series.channels"
            )
        if not np.isfinite(series).all():
            raise BadItem(f"{describe(item)} holds NaN or infinity: fill the gaps")
        return series

    def features(self, raw: np.ndarray) -> np.ndarray:
        """(steps, 3 · channels) float32: the standardised numbers, their mean and the logarithm of their spread, which
        are the same at every step."""
        mean, std = raw.mean(0, keepdims=True), raw.std(0, keepdims=True)
        level, spread = np.arcsinh(mean), np.log(std + LEAST_STD)
        whole = [(raw - mean) / (std + LEAST_STD), *(np.repeat(x, len(raw), axis=0) for x in (level, spread))]
        return np.concatenate(whole, axis=1).astype(np.float32)

    def cut(self, features: np.ndarray, rng: np.random.Generator | None = None) -> Pieces:
        part = features[crop(len(features), self.max_tokens * self.patch, rng)]
        return self._patches(part, len(part) < len(features))

    def windows(self, features: np.ndarray) -> list[Pieces]:
        room = self.max_tokens * self.patch
        return [self._patches(features[i : i + room]) for i in range(0, len(features), room)]

    def _patches(self, part: np.ndarray, shortened: bool = False) -> Pieces:
        c = self.channels
        steps = np.pad(part[:, :c], ((0, -len(part) % self.patch), (0, 0)))  # by their mean
        patches = rearrange(steps, "(n p) c -> n (p c)", p=self.patch)
        values = np.concatenate([patches, np.repeat(part[:1, c:], len(patches), axis=0)], axis=1)
        return Pieces(np.ascontiguousarray(values), line_positions(len(values)), shortened)


@register_tokenizer("series")
class SeriesTokenizer(Tokenizer):
    """One linear map of each patch."""

    Processor = SeriesProcessor

    def __init__(self, processor: SeriesProcessor, dim: int):
        super().__init__(processor, dim)
        self.embed = Linear((processor.patch + 2) * processor.channels, dim)

    def forward(self, values: Tensor, counts: list[int]) -> Tensor:
        return self.embed(values)
