"""What families of pictures share: the processor's file, patches, class tokens, LayerScale."""

from __future__ import annotations

import re
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from unitx.families.common import Part, preprocessor, unchanged
from unitx.positions import LearnedPositions
from unitx.published import Folder, Table
from unitx.resize import Resize
from unitx.tokenizers.image import ImageProcessor

CLIP_PIXELS = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]
}  # fmt: skip
CROPPED = {"do_center_crop": True, "crop_size": 224}
SHORTEST = CROPPED | {"size": {"shortest_edge": 224}, "default_to_square": False}
# Processors that do no more than is done here, and what they do where a file does not say.
PROCESSORS: dict[str, dict[str, Any]] = {
    "ViT": {"size": 224},
    "DeiT": CROPPED | {"size": 256, "resample": 3},
    "Beit": {"size": 224, "crop_size": 224, "resample": 3},
    "Bit": SHORTEST | CLIP_PIXELS | {"resample": 3},
    "CLIP": SHORTEST | CLIP_PIXELS | {"resample": 3},
    "Siglip": {"size": {"height": 224, "width": 224}, "default_to_square": False, "resample": 3},
    "VideoMAE": SHORTEST,
}
RESAMPLE = {0: "nearest-exact", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers


def image_processor(folder: Folder, positions: LearnedPositions, patch: int, kind: str) -> ImageProcessor:
    """The processor of the folder's preprocessor_config.json; without one, pictures are brought to the model's grid.

    Args:
        kind: whose processor the family has where the file names none.
    """
    given = preprocessor(folder, "image_processor")
    if not given:
        sides, usual = [side * patch for side in positions.grid], PROCESSORS[kind]
        square = usual.get("default_to_square", True) or not usual.get("do_center_crop")
        given = {"size": sides if square else {"shortest_edge": min(sides)}, "crop_size": sides}
    return ImageProcessor(positions.tokens, patch=patch, positions=positions, **pixels_as(given, kind))


def pixels_as(given: dict[str, Any], kind: str) -> dict[str, Any]:
    """The options that bring pixels to what a published model reads, as its processor's file says.

    Args:
        kind: whose processor it is where the file names none.
    """
    try:
        return _pixels_as(given, kind)
    except (ValueError, TypeError) as error:
        raise ValueError(f"preprocessor_config.json: {error}") from error


def _pixels_as(given: dict[str, Any], kind: str) -> dict[str, Any]:
    named = str(given.get("image_processor_type") or given.get("feature_extractor_type") or f"{kind}ImageProcessor")
    kind = re.sub(r"(ImageProcessor|FeatureExtractor|VideoProcessor)(Fast|Pil)?$", "", named)
    if kind not in PROCESSORS:
        raise ValueError(f"a {named} is not known; known are those of {', '.join(PROCESSORS)}")
    always = {"do_resize": True, "do_rescale": True, "do_normalize": True, "resample": 2}
    config = always | PROCESSORS[kind] | given
    unchanged(config, use_square_size=False, crop_pct=None, rescale_factor=1 / 255, do_pad=False)
    mean, std = [0.0] * 3, [1.0] * 3
    if config["do_normalize"]:
        mean, std = (config.get(name) or [0.5] * 3 for name in ("image_mean", "image_std"))
    if not len(mean) == len(std) == 3:
        raise ValueError("image_mean and image_std must be three numbers each")
    mean, std = ([float(value) for value in values] for values in (mean, std))
    if not config["do_rescale"]:  # ours are of pixels from 0 to 1
        mean, std = ([value / 255 for value in values] for values in (mean, std))
    return {"merges": 0, "orientations": 0, "mean": mean, "std": std, "resize": _resize(config)}


def _resize(config: dict[str, Any]) -> Resize:
    resample = config["resample"]
    if config["do_resize"] and resample not in RESAMPLE:
        raise ValueError(f"resample is {resample!r}; supported are {', '.join(map(str, RESAMPLE))}")
    square = config.get("default_to_square", True)
    return Resize(
        _sides(config["size"], square) if config["do_resize"] else (),
        _sides(config.get("crop_size") or config["size"], True) if config.get("do_center_crop") else (),
        RESAMPLE.get(resample, "bilinear"),
    )


def _sides(size: Any, square: bool) -> tuple[int, ...]:
    """(height, width), or (side,) for the shorter side, from the forms that files have."""
    if isinstance(size, int | float):
        return (int(size), int(size)) if square else (int(size),)
    if isinstance(size, list | tuple) and len(size) == 2:
        return int(size[0]), int(size[1])
    if not isinstance(size, dict):
        raise ValueError(f"a size of {size!r} is not supported")
    if set(size) == {"height", "width"}:
        return size["height"], size["width"]
    if set(size) == {"shortest_edge"}:
        return (size["shortest_edge"],)
    raise ValueError(f"a size of {size} is not supported; supported are height and width, or shortest_edge")


def pair(value: int | list[int] | tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a field that may hold one number for both."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def square_patch(config: dict[str, Any], default: int) -> int:
    """The side of a patch.

    Raises:
        ValueError: it is not square.
    """
    height, width = pair(config.get("patch_size", default))
    if height != width:
        raise ValueError(f"patch_size is {height} x {width}; supported are square patches")
    return height


def patch_weights(leaf: str, tensors: list[Tensor]) -> Tensor:
    """A convolution whose stride is its size, as the linear map of a patch."""
    (value,) = tensors
    return rearrange(value, "d c p q -> d (p q c)") if leaf == "weight" else value


def position_tables(positions: str, tokens: tuple[str, ...], own: int, modality: str = "image") -> Part:
    """Class tokens with their own positions, and the positions of patches.

    Args:
        positions: their table of positions: those of class tokens, then those of patches.
        tokens: their class tokens, in order.
        own: how many of those have a position.
        modality: whose tokenizer holds them.
    """
    ours = f"tokenizers.{modality}.positions."

    def class_tokens(leaf: str, tensors: list[Tensor]) -> Tensor:
        *vectors, table = (tensor.reshape(-1, tensor.shape[-1]) for tensor in tensors)
        found = torch.cat(vectors) if vectors else table[:0].clone()
        found[:own] += table[:own]
        return found

    def of_patches(leaf: str, tensors: list[Tensor]) -> Tensor:
        return tensors[0].reshape(-1, tensors[0].shape[-1])[own:]

    table: Table = {f"{ours}table": (positions,), f"{ours}class_tokens": (*tokens, positions)}
    return table, {f"{ours}table": of_patches, f"{ours}class_tokens": class_tokens}


def scaled(ours: str, theirs: str, scale: str) -> Part:
    """A linear map with the LayerScale behind it (Touvron et al. 2021) as one map."""

    def change(leaf: str, tensors: list[Tensor]) -> Tensor:
        value, gain = tensors
        return value * (gain[:, None] if leaf == "weight" else gain)

    names = {f"{ours}.{leaf}": (f"{theirs}.{leaf}", scale) for leaf in ("weight", "bias")}
    return dict(names), dict.fromkeys(names, change)
