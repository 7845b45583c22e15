"""What vision transformers put around patches: learned positions, class tokens before them, a norm behind."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unitx.backbone import LayerNorm

Grid = tuple[int, ...]
# Beside patches of unit RMS. With ViT's 0.02 a new image tokenizer on a language model learned nothing of places.
POSITION_STD = 0.5
MODES = {1: "linear", 2: "bicubic", 3: "trilinear"}


@dataclass(frozen=True)
class LearnedPositions:
    """The shape of a `PositionEmbedding`.

    Attributes:
        grid: how many positions were learned along each axis (rows and columns of a picture); other grids are
            interpolated from them.
        class_tokens: learned vectors that stand before the patches: class, distillation and register tokens.
        antialias: whether a grid that is smaller than the learned one is filtered first.
        norm_eps: of the LayerNorm behind; 0 for none.

    Raises:
        ValueError: a number is out of range.
    """

    grid: Grid
    class_tokens: int = 0
    antialias: bool = False
    norm_eps: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "grid", tuple(self.grid))  # a list, from JSON
        if len(self.grid) not in MODES or min(self.grid) < 1 or self.class_tokens < 0:
            raise ValueError(f"positions need a grid of one to three whole numbers above 0 and no less than 0 class "
                             f"tokens, not {self.grid} and {self.class_tokens}")  # fmt: skip

    @property
    def tokens(self) -> int:
        """Tokens of an item that fills the grid."""
        return self.class_tokens + math.prod(self.grid)


    def behind_class_tokens(self, positions: np.ndarray) -> np.ndarray:
        """(n, 3) positions of patches behind those of the class tokens, which all stand at (0, 0, 0)."""
        return np.pad(positions, ((self.class_tokens, 0), (0, 0)))


class PositionEmbedding(nn.Module):
    """Adds a learned vector to each patch by its place in the item's grid (ViT, Dosovitskiy et al. 2020).

    What is learned for a class token's own position is part of its vector.
    """

    def __init__(self, config: LearnedPositions, dim: int):
        super().__init__()
        self.config = config
        self.table = nn.Parameter(torch.randn(math.prod(config.grid), dim) * POSITION_STD)
        # None rather than empty: data-parallel training waits for the gradient of every parameter.
        k = config.class_tokens
        self.class_tokens = nn.Parameter(torch.randn(k, dim)) if k else None
        self.norm = LayerNorm(dim, config.norm_eps, bias=True) if config.norm_eps else nn.Identity()

    def forward(self, x: Tensor, grids: list[Grid]) -> Tensor:
        """Embed the patches of many items.

        Args:
            x: (patches, dim), the items end to end.
            grids: of each item; its patches run along the last axis first.

        Returns: (tokens, dim): the class tokens before the patches of each item.
        """
        tables = {grid: self.interpolated(grid) for grid in set(grids)}
        x = x + torch.cat([tables[grid] for grid in grids]) if grids else x
        return self.norm(self._with_class_tokens(x, [math.prod(grid) for grid in grids]))

    def interpolated(self, grid: Grid) -> Tensor:
        """(product of the grid, dim): the positions of an item of this grid."""
        learned = self.config.grid
        if grid == learned:
            return self.table
        table = self.table.T.reshape(1, -1, *learned).float()
        antialias = self.config.antialias and len(grid) == 2
        found = F.interpolate(table, grid, mode=MODES[len(grid)], align_corners=False, antialias=antialias)
        return found.flatten(2)[0].T

    def _with_class_tokens(self, x: Tensor, counts: list[int]) -> Tensor:
        k = self.config.class_tokens
        if self.class_tokens is None:
            return x
        starts = np.cumsum([0, *counts])
        before = np.arange(k)
        order = [part for a, n in zip(starts, counts, strict=False) for part in (before, np.arange(k + a, k + a + n))]
        index = torch.from_numpy(np.concatenate(order) if order else before[:0]).to(x.device)
        return torch.cat([self.class_tokens, x]).index_select(0, index)
