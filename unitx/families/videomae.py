"""VideoMAE (Tong et al. 2022): a ViT of tubelets, with positions that are not learned."""

from __future__ import annotations

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from unitx.families.common import classifier, embedding, keys_without_bias, pre_norm, unchanged
from unitx.families.images import pair, pixels_as, square_patch
from unitx.families.vit import BLOCKS, LAYER
from unitx.pooling import Pooling
from unitx.positions import LearnedPositions
from unitx.published import Blueprint, Change, Folder, Table
from unitx.registry import register_family
from unitx.tokenizers.video import VideoProcessor

TABLE: Table = BLOCKS | {
    "tokenizers.video.stem.embed": "embeddings.patch_embeddings.projection",
    "tokenizers.video.positions.table": (),
    "tokenizers.video.positions.class_tokens": (),
    "heads.pooled.pooler.steps.0": "fc_norm",
}
IGNORED = r"^decoder\.|^encoder_to_decoder\.|^mask_token$"  # of masked pre-training


@register_family("videomae")
def videomae(folder: Folder) -> Blueprint:
    config = folder.config
    folder.leave_off("videomae.")
    video = _processor(folder)
    backbone = pre_norm(
        config, eps=1e-12, final_norm=not config.get("use_mean_pooling", True),
        qkv_bias=config.get("qkv_bias", config.get("qv_bias", True)),
    )  # fmt: skip
    normed = ("norm",) if "fc_norm.weight" in folder.names else ()
    pooling = Pooling("mean", steps=normed, eps=1e-5)
    classified = Pooling("first") if backbone.final_norm else pooling
    tasks, head = classifier(folder, "video", "classifier", classified, *("fc_norm" for _ in classified.steps))
    table, change = _biases(folder)
    change |= {
        "tokenizers.video.stem.embed": _tubelet_weights,
        "tokenizers.video.positions.table": _sinusoids(video.max_tokens, backbone.dim),
        "tokenizers.video.positions.class_tokens": lambda leaf, tensors: torch.zeros(0, backbone.dim),
    }
    return Blueprint(
        backbone, {"video": video}, [*tasks, embedding("video", pooling)], TABLE | table | head, change, IGNORED
    )


def _processor(folder: Folder) -> VideoProcessor:
    config = folder.config
    unchanged(config, num_channels=3)
    patch, frames, tubelet = square_patch(config, 16), config.get("num_frames", 16), config.get("tubelet_size", 2)
    height, width = pair(config.get("image_size", 224))
    positions = LearnedPositions((frames // tubelet, height // patch, width // patch))
    files = [folder.read_json(f"{name}.json") or {} for name in ("video_preprocessor_config", "preprocessor_config")]
    given = files[0] or files[1] or (folder.read_json("processor_config.json") or {}).get("video_processor", {})
    own = {"size": {"shortest_edge": min(height, width)}, "crop_size": {"height": height, "width": width}}
    pixels = pixels_as(given or own, "VideoMAE")
    sides = pixels["resize"].crop or pixels["resize"].size
    if len(sides) == 2 and [side // patch for side in sides] != [height // patch, width // patch]:
        raise ValueError(f"preprocessor_config.json gives frames of {sides}, and the model reads {(height, width)}")
    return VideoProcessor(
        positions.tokens, patch=patch, positions=positions, frames=frames, tubelet=tubelet, **pixels
    )


def _biases(folder: Folder) -> tuple[Table, dict[str, Change]]:
    """Under the names on the hub or those of the modules; keys have some in files of early transformers 5 alone."""
    if any(name.endswith("attention.key.bias") for name in folder.names):
        return {}, {}
    hub = any(name.endswith("attention.q_bias") for name in folder.names)
    names = ("q_bias", "v_bias") if hub else ("query.bias", "value.bias")
    ours = "backbone.blocks.{i}.attn.qkv.bias"
    return {ours: tuple(f"{LAYER}attention.attention.{name}" for name in names)}, {ours: keys_without_bias}


def _tubelet_weights(leaf: str, tensors: list[Tensor]) -> Tensor:
    """A convolution whose stride is its size, as the linear map of a tubelet."""
    (value,) = tensors
    return rearrange(value, "d c u p q -> d (p q u c)") if leaf == "weight" else value


def _sinusoids(count: int, dim: int) -> Change:
    """Sines and cosines of a tubelet's number in its clip (Vaswani et al. 2017)."""
    angles = np.arange(count)[:, None] / 10_000 ** (2 * (np.arange(dim) // 2) / dim)
    angles[:, 0::2], angles[:, 1::2] = np.sin(angles[:, 0::2]), np.cos(angles[:, 1::2])
    table = torch.from_numpy(angles.astype(np.float32))
    return lambda leaf, tensors: table
