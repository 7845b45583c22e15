"""AST, the Audio Spectrogram Transformer (Gong et al. 2021): a vision transformer on overlapping patches of sound."""

from __future__ import annotations

from einops import rearrange
from torch import Tensor

from unitx.config import BackboneConfig
from unitx.families.common import activation, classifier, embedding, preprocessor, unchanged_in
from unitx.families.images import position_tables, square_patch
from unitx.families.vit import MODULES
from unitx.pooling import Pooling
from unitx.positions import LearnedPositions
from unitx.published import Blueprint, Folder, Table
from unitx.registry import register_family
from unitx.spectrogram import Fbank
from unitx.tokenizers.audio import AudioProcessor

LAYER = "encoder.layer.{i}."
TABLE: Table = {
    "tokenizers.audio.stem.embed": "embeddings.patch_embeddings.projection",
    "backbone.blocks.{i}.attn.qkv": tuple(f"{LAYER}attention.attention.{name}" for name in ("query", "key", "value")),
    "backbone.blocks.{i}.attn.out": f"{LAYER}attention.output.dense",
    "backbone.blocks.{i}.attn_norm": f"{LAYER}layernorm_before",
    "backbone.blocks.{i}.mlp.up": f"{LAYER}intermediate.dense",
    "backbone.blocks.{i}.mlp.down": f"{LAYER}output.dense",
    "backbone.blocks.{i}.mlp_norm": f"{LAYER}layernorm_after",
    "backbone.norm": "layernorm",
}


@register_family("audio-spectrogram-transformer")
def ast(folder: Folder) -> Blueprint:
    config = folder.config
    folder.leave_off("audio_spectrogram_transformer.", renamed=MODULES)
    dim, eps = config["hidden_size"], config.get("layer_norm_eps", 1e-12)
    backbone = BackboneConfig(
        dim, config["num_hidden_layers"], config["num_attention_heads"], mlp_ratio=config["intermediate_size"] / dim,
        rotary_base=None, norm_bias=True, norm_eps=eps, qk_norm=False, qkv_bias=config.get("qkv_bias", True),
        out_bias=True, activation=activation(config.get("hidden_act", "gelu")),
    )  # fmt: skip
    pooling = Pooling("first", first=2, steps=("norm",), eps=eps)
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
