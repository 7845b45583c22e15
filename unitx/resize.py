"""How a published model's pictures were brought to its size: the original's resampling, copied exactly."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unitx.errors import BadItem

SIDE_LIMIT = 20_000  # pixels that a side is scaled to at most; pictures so long and narrow show nothing
MODES = ("nearest-exact", "bilinear", "bicubic")


@dataclass(frozen=True)
class Resize:
    """Scales pictures to a size, and cuts out their middle.

    Attributes:
        size: (height, width), or (side,) for the shorter side, the other following; () to leave it.
        crop: (height, width) of the middle that is kept, on black where the picture is smaller; () for all.
        resample: "nearest-exact", "bilinear" or "bicubic".
        pillow: whether Pillow resamples (timm), or torchvision on bytes (Hugging Face); they differ by a level or two.
        cover: whether a (height, width) is only what the picture must cover, its proportions kept.

    Raises:
        ValueError: there is no such resampling, or a size or a crop is none.
    """

    size: tuple[int, ...] = ()
    crop: tuple[int, ...] = ()
    resample: str = "bilinear"
    pillow: bool = False
    cover: bool = False

    def __post_init__(self) -> None:
        for name in ("size", "crop"):  # lists, from JSON
            sides = tuple(int(side) for side in getattr(self, name))
            counts = (0, 1, 2) if name == "size" else (0, 2)
            if len(sides) not in counts or not all(1 <= side <= SIDE_LIMIT for side in sides):
                raise ValueError(f"a {name} of {sides} pixels is none")
            object.__setattr__(self, name, sides)
        if self.resample not in MODES:
            raise ValueError(f"the resampling {self.resample!r} is not supported; there are {', '.join(MODES)}")

    @cached_property
    def _mode(self) -> Any:
        from torchvision.transforms import InterpolationMode

        return InterpolationMode(self.resample)

    def picture(self, image: Image.Image) -> Tensor:
        """(3, height, width) uint8 of an RGB picture."""
        return self._by_pillow(image) if self.pillow else self.frames(to_tensor(image))

    def frames(self, frames: Tensor) -> Tensor:
        """The same of pictures (…, 3, height, width) uint8, by torchvision."""
        from torchvision.transforms.v2 import functional  # takes a second, and most models do without

        if self.size:
            frames = functional.resize(frames, self._scaled(*frames.shape[-2:]), self._mode, antialias=True)
        if not self.crop:
            return frames
        top, left = (int((whole - kept) / 2) for whole, kept in zip(frames.shape[-2:], self.crop, strict=True))
        return functional.crop(frames, top, left, *self.crop)

    def _by_pillow(self, image: Image.Image) -> Tensor:
        from torchvision.transforms.v2 import functional

        if self.size:
            image = functional.resize(image, self._scaled(image.height, image.width), self._mode)
        return to_tensor(functional.center_crop(image, list(self.crop)) if self.crop else image)

    def _scaled(self, height: int, width: int) -> list[int]:
        """The [height, width] that a picture is scaled to."""
        if len(self.size) == 2 and not self.cover:
            return [*self.size]
        if self.cover:
            ratio = min(height / self.size[0], width / self.size[1])
            sides = [round(height / ratio), round(width / ratio)]
        else:
            long = int(self.size[0] * max(height, width) / min(height, width))
            sides = [self.size[0], long] if height <= width else [long, self.size[0]]
        if max(sides) > SIDE_LIMIT:
            raise BadItem(f"a picture of {width} x {height} pixels would have {max(sides)} pixels a side: crop it")
        return sides


def to_tensor(image: Image.Image) -> Tensor:
    """(3, height, width) uint8 of an RGB picture."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
