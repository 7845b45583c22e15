"""Images: square patches at the picture's own aspect ratio."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image, ImageCms, ImageOps
from torch import Tensor

from unitx.errors import BadItem, UnitxError
from unitx.media import check_whole, describe, open_binary
from unitx.positions import Grid, LearnedPositions, PositionEmbedding
from unitx.registry import register_tokenizer
from unitx.resize import Resize
from unitx.stem import Stem
from unitx.tokenizer import Processor, Tokenizer
from unitx.tokens import Pieces

SIDE_LIMIT = 100_000  # pixels; a file that claims so many a side is broken or an attack


@lru_cache(maxsize=4096)
def patch_grid(height: int, width: int, max_tokens: int) -> tuple[int, int]:
    """Rows and columns of patches that fill `max_tokens` without exceeding it, at the aspect ratio of the picture.

    The longer side gets as many patches as possible; the shorter one is rounded to whole patches (as NaViT, Dehghani
    et al. 2023, and SigLIP 2's NaFlex, Tschannen et al. 2025, do), at least one.
    """
    ratio = min(height, width) / max(height, width)
    for long in range(max_tokens, 0, -1):
        short = max(1, int(long * ratio + 0.5))
        if long * short <= max_tokens:
            break
    return (long, short) if height > width else (short, long)


@dataclass(frozen=True)
class ImageProcessor(Processor):
    """Turns pictures into patches.

    A picture is scaled, up or down, to fill `max_tokens` patches at its own aspect ratio.

    Attributes:
        max_tokens: the most patches that a picture becomes.
        patch: side of a patch in pixels.
        merges: of 2 × 2 neighbours, before a patch is embedded; 0 for one linear map (ViT).
        orientations: of the gradients that stand beside the colours of a pixel; 0 for colours alone (ViT).
        mean: of red, green and blue in 0 to 1; taken off.
        std: divided by afterwards.
        resize: of published models: how pictures are brought to size, instead.
        positions: of published models: learned positions and class tokens.

    Raises:
        UnitxError: an option is out of range.
    """

    patch: int = 16
    merges: int = 3
    orientations: int = 8
    mean: Sequence[float] = (0.5, 0.5, 0.5)
    std: Sequence[float] = (0.5, 0.5, 0.5)
    resize: Resize | None = field(default=None, repr=False)
    positions: LearnedPositions | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_whole(self, "max_tokens", "patch")
        check_whole(self, "merges", "orientations", least=0)
        # A configuration read from YAML or JSON brings lists.
        for name in ("mean", "std"):
            value = tuple(getattr(self, name))
            if len(value) != 3 or (name == "std" and min(value) <= 0):
                raise UnitxError(f"{type(self).__name__}: {name} must be three numbers (std above zero), not {value}")
            object.__setattr__(self, name, value)
        for name, kind in (("resize", Resize), ("positions", LearnedPositions)):
            if isinstance(value := getattr(self, name), dict):
                object.__setattr__(self, name, kind(**value))

    @property
    def width(self) -> int:
        """Numbers of a patch."""
        return 3 * self.patch**2

    def read(self, item: Any) -> Image.Image | Tensor:
        """Decode a path, bytes, a file object, a PIL image or an array.

        Arrays are (height, width) or (height, width, 1|3|4) of uint8, uint16, bool, other integers in 0 to 255, or
        floats in 0 to 1. A uint8 tensor is (1|3|4, height, width). A float tensor (3, height, width) holds pixel values
        already normalised and passes as it is. A large JPEG is decoded at a half, a quarter or an eighth, but not
        below twice the size that is needed.

        Returns: an RGB picture, upright, transparency on white; or the float tensor.

        Raises:
            BadItem: it is missing, empty, truncated, no picture, or has 0 or from 100,000 pixels a side.
        """
        if isinstance(item, Tensor):
            return _from_tensor(item)
        if isinstance(item, np.ndarray):
            return _from_array(item, describe(item))
        if isinstance(item, Image.Image):
            _check_size(item.size, describe(item))
            return _decoded(item, describe(item))
        with open_binary(item) as file:
            return self._from_file(file, describe(item))

    def _from_file(self, file: Any, name: str) -> Image.Image:
        try:
            image = Image.open(file)
        except Image.DecompressionBombError as error:
            raise BadItem(f"{name}: too many pixels to decode safely; scale it down") from error
        except Exception as error:  # decoders raise what they like on broken headers
            raise BadItem(f"{name} is not a picture that Pillow can read; convert it to PNG or JPEG") from error
        _check_size(image.size, name)
        if self.resize is None:  # a published model's pictures are the original's to the last bit
            rows, columns = patch_grid(image.height, image.width, self.max_tokens)
            image.draft(None, (2 * columns * self.patch, 2 * rows * self.patch))
        return _decoded(image, name)

    def features(self, raw: Image.Image | Tensor) -> np.ndarray:
        """(3, h, w) float32 normalised pixels, h and w whole patches."""
        if isinstance(raw, Tensor):
            return self._fit(raw).numpy()
        if self.resize is not None:
            return self._whole_patches(self._normalised(self.resize.picture(raw))).numpy()
        rows, columns = patch_grid(raw.height, raw.width, self.max_tokens)
        raw = raw.resize((columns * self.patch, rows * self.patch), Image.Resampling.BICUBIC, reducing_gap=3.0)
        mean, std = np.array([self.mean, self.std], dtype=np.float32)
        pixels = np.asarray(raw, dtype=np.float32) / (255 * std) - mean / std
        return pixels.transpose(2, 0, 1)

    def _normalised(self, pixels: Tensor) -> Tensor:
        mean, std = (torch.tensor(value).view(3, 1, 1) * 255 for value in (self.mean, self.std))
        return (pixels.float() - mean) / std

    def _whole_patches(self, pixels: Tensor) -> Tensor:
        """Without what is left over at the right and below, as a convolution leaves it."""
        height, width = (side // self.patch * self.patch for side in pixels.shape[-2:])
        if not height or not width:
            size = f"{pixels.shape[-1]} x {pixels.shape[-2]} pixels"
            raise BadItem(f"a picture of {size} has no whole patch: scale it up")
        return pixels[..., :height, :width]

    def _fit(self, pixels: Tensor) -> Tensor:
        if self.resize is not None:
            return self._whole_patches(pixels)
        _, height, width = pixels.shape
        whole = height % self.patch == 0 and width % self.patch == 0
        if whole and height * width <= self.max_tokens * self.patch**2:
            return pixels
        rows, columns = patch_grid(height, width, self.max_tokens)
        size = (rows * self.patch, columns * self.patch)
        return F.interpolate(pixels[None], size, mode="bicubic", antialias=True)[0]

    def shown(self, values: np.ndarray, grid: tuple[int, ...]) -> np.ndarray:
        """The picture (height, width, 3) in 0 … 1 that `cut` made patches (n, features) of."""
        rows, columns = grid[-2:]
        pattern = "(row column) (p q c) -> (row p) (column q) c"
        pixels = rearrange(values, pattern, row=rows, column=columns, p=self.patch, q=self.patch)
        return (pixels * np.array(self.std) + np.array(self.mean)).clip(0, 1)

    def with_positions(self) -> ImageProcessor:
        side = max(1, round(self.max_tokens**0.5))
        return replace(self, positions=self.positions or LearnedPositions((side, side)))

    def cut(self, features: np.ndarray, rng: np.random.Generator | None = None) -> Pieces:
        """All patches, row by row; the patch at (row, column) stands at (0, row, column), class tokens at (0, 0, 0)."""
        values = rearrange(features, "c (row p) (column q) -> (row column) (p q c)", p=self.patch, q=self.patch)
        columns = features.shape[2] // self.patch
        place = np.arange(len(values))
        positions = np.stack([np.zeros_like(place), place // columns, place % columns], axis=1)
        if self.positions is not None:
            positions = self.positions.behind_class_tokens(positions)
        return Pieces(np.ascontiguousarray(values), positions, grid=(len(values) // columns, columns))


def _check_size(size: tuple[int, ...], name: str) -> None:
    if min(size) < 1 or max(size) >= SIDE_LIMIT:
        raise BadItem(f"{name}: {size[0]} x {size[1]} pixels; a side must have 1 to {SIDE_LIMIT - 1:,} pixels")


def _decoded(image: Image.Image, name: str) -> Image.Image:
    try:
        return to_rgb(image)
    except Exception as error:  # decoders raise what they like on broken data
        raise BadItem(f"{name} cannot be decoded ({error}); copy it again from its source") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """A picture of any mode as RGB: upright (EXIF), transparency on white, wide samples scaled by their range."""
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = Image.fromarray(_to_uint8(np.asarray(image)))
    elif image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        image = ImageCms.buildTransform(lab, srgb, "LAB", "RGB").apply(image)
    elif image.mode == "La":
        image = image.convert("LA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


_TOPS = {"u": (65535.0,), "i": (255.0, 65535.0), "f": (1.0, 255.0, 65535.0)}


def _to_uint8(values: np.ndarray) -> np.ndarray:
    """Wide samples as bytes. 16 bits keep their full range; others are taken as 0 to 1 (floats), 0 to 255 or 0 to
    65,535, whichever is the first to hold them, and else stretched from their least to their greatest."""
    if not np.isfinite(values).all():
        raise ValueError("it holds NaN or infinity")
    low, high = float(values.min()), float(values.max())
    top = next((top for top in _TOPS[values.dtype.kind] if low >= 0 and high <= top), 0.0)
    if not top:
        values, top = values - np.float64(low), (high - low) or 1.0
    return np.round(values.astype(np.float64) * (255 / top)).astype(np.uint8)


def _from_array(array: np.ndarray, name: str) -> Image.Image:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise BadItem(f"{name} is not a picture; an array is (height, width) or (height, width, 1, 3 or 4)")
    _check_size(array.shape[1::-1], name)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.dtype == bool:
        array = array * np.uint8(255)
    elif array.dtype == np.uint16:
        array = _to_uint8(array)
    elif array.dtype.kind == "f":
        if not (array.min() >= -1e-3 and array.max() <= 1 + 1e-3):  # NaN fails too
            raise BadItem(f"{name}: floats of a picture must lie in 0 to 1; divide by 255, or give uint8")
        array = np.round(array.clip(0, 1) * 255)
    elif array.dtype.kind not in "iu" or array.min() < 0 or array.max() > 255:
        raise BadItem(f"{name}: samples of a picture must be uint8, uint16, or floats in 0 to 1")
    return to_rgb(Image.fromarray(np.ascontiguousarray(array, dtype=np.uint8)))


def _from_tensor(tensor: Tensor) -> Image.Image | Tensor:
    name = describe(tensor)
    if tensor.ndim == 3 and tensor.dtype == torch.uint8 and tensor.shape[0] in (1, 3, 4):
        return _from_array(rearrange(tensor.cpu().numpy(), "c h w -> h w c"), name)
    if tensor.ndim != 3 or tensor.shape[0] != 3 or not tensor.is_floating_point():
        raise BadItem(f"{name} is not a picture; a tensor is (3, height, width), float and normalised, or uint8")
    _check_size((tensor.shape[2], tensor.shape[1]), name)
    if not tensor.isfinite().all():
        raise BadItem(f"{name} holds NaN or infinity; look at how it was normalised")
    return tensor.detach().float().cpu()


@register_tokenizer("image")
class ImageTokenizer(Tokenizer):
    """A small stem for each patch (see `Stem`); of published models, class tokens and learned positions too."""

    Processor = ImageProcessor
    needs = ("grids",)

    def __init__(self, processor: ImageProcessor, dim: int):
        super().__init__(processor, dim)
        self.stem = Stem(processor.patch, processor.patch, 3, dim, processor.merges, processor.orientations)
        self.positions = PositionEmbedding(processor.positions, dim) if processor.positions else None

    def forward(self, values: Tensor, counts: list[int], grids: list[Grid] | None = None) -> Tensor:
        x = self.stem(values)
        return x if self.positions is None else self.positions(x, grids or [])
