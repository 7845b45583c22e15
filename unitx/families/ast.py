"""AST, the Audio Spectrogram Transformer (Gong et al. 2021): a vision transformer on overlapping patches of sound."""

from __future__ import annotations

from einops import rearrange
from torch import Tensor

from unitx.families.common import classifier, embedding, pre_norm, preprocessor, unchanged_in
from unitx.families.images import position_tables, square_patch
from unitx.families.vit import BLOCKS, MODULES
from unitx.pooling import Pooling
from unitx.positions import LearnedPositions
from unitx.published import Blueprint, Folder, Table
from unitx.registry import register_family
from unitx.spectrogram import Fbank
from unitx.tokenizers.audio import AudioProcessor

TABLE: Table = BLOCKS | {"tokenizers.audio.stem.embed": "embeddings.patch_embeddings.projection"}


@register_family("audio-spectrogram-transformer")
def ast(folder: Folder) -> Blueprint:
    config = folder.config
    folder.leave_off("audio_spectrogram_transformer.", renamed=MODULES)
    backbone = pre_norm(config, eps=1e-12)
    pooling = Pooling("first", first=2, steps=("norm",), eps=backbone.norm_eps)
    tasks, head = classifier(folder, "audio", "classifier.dense", pooling, "classifier.layernorm")
    tokens = ("embeddings.cls_token", "embeddings.distillation_token")
    table, change = position_tables("embeddings.position_embeddings", tokens, own=2, modality="audio")
    return Blueprint(
        backbone, {"audio": _processor(folder)}, [*tasks, embedding("audio", Pooling("first", first=2))],
        TABLE | table | head, change | {"tokenizers.audio.stem.embed": _patch_weights},
    )  # fmt: skip


def _processor(folder: Folder) -> AudioProcessor:
    config = folder.config
    mels, frames = config.get("num_mel_bins", 128), config.get("max_length", 1024)
    given = preprocessor(folder, "feature_extractor")
    expected = {"num_mel_bins": mels, "max_length": frames, "sampling_rate": 16_000, "padding_value": 0.0}
    unchanged_in("preprocessor_config.json", given, **expected)
    mean, std = given.get("mean", Fbank.mean), given.get("std", Fbank.std)
    if not given.get("do_normalize", True):
        mean, std = 0.0, 0.5
    patch, strides = square_patch(config, 16), (config.get("frequency_stride", 10), config.get("time_stride", 10))
    grid = tuple((size - patch) // stride + 1 for size, stride in zip((mels, frames), strides, strict=True))
    positions = LearnedPositions(grid, class_tokens=2)
    return AudioProcessor(
        positions.tokens, mels=mels, patch_frames=patch, patch_mels=patch, merges=0,
        spectrogram=Fbank(frames, mean, std, strides), positions=positions,
    )  # fmt: skip


def _patch_weights(leaf: str, tensors: list[Tensor]) -> Tensor:
    """A convolution over (mels, frames) as the linear map of a patch (frames, mels)."""
    (value,) = tensors
    return rearrange(value, "d 1 m f -> d (f m)") if leaf == "weight" else value
