"""The encoder of Whisper (Radford et al. 2022); what its decoder needs is left."""

from __future__ import annotations

from unitx.config import BackboneConfig
from unitx.families.common import activation, classifier, keys_without_bias, merged, preprocessor, unchanged_in
from unitx.families.images import position_tables
from unitx.pooling import Pooling
from unitx.positions import LearnedPositions
from unitx.published import Blueprint, Folder, Table
from unitx.registry import register_family
from unitx.spectrogram import LogMel
from unitx.tokenizers.audio import AudioProcessor

LAYER = "layers.{i}."
TABLE: Table = {
    "tokenizers.audio.stem.conv1": "conv1",
    "tokenizers.audio.stem.conv2": "conv2",
    "backbone.blocks.{i}.attn.qkv": tuple(f"{LAYER}self_attn.{name}_proj" for name in "qkv"),
    "backbone.blocks.{i}.attn.qkv.bias": tuple(f"{LAYER}self_attn.{name}_proj.bias" for name in "qv"),
    "backbone.blocks.{i}.attn.out": f"{LAYER}self_attn.out_proj",
    "backbone.blocks.{i}.attn_norm": f"{LAYER}self_attn_layer_norm",
    "backbone.blocks.{i}.mlp.up": f"{LAYER}fc1",
    "backbone.blocks.{i}.mlp.down": f"{LAYER}fc2",
    "backbone.blocks.{i}.mlp_norm": f"{LAYER}final_layer_norm",
    "backbone.norm": "layer_norm",
}


@register_family("whisper")
def whisper(folder: Folder) -> Blueprint:
    config = folder.config
    folder.leave_off("model.", "encoder.")
    dim = config["d_model"]
    backbone = BackboneConfig(
        dim, config["encoder_layers"], config["encoder_attention_heads"], mlp_ratio=config["encoder_ffn_dim"] / dim,
        rotary_base=None, norm_bias=True, norm_eps=1e-5, qk_norm=False, qkv_bias=True, out_bias=True,
        activation=activation(config.get("activation_function", "gelu")),
    )  # fmt: skip
    if "layer_weights" in folder.names:
        raise ValueError(
            "use_weighted_layer_sum is True, a head on all layers, which is not supported: save the model without it "
            "(model.encoder.save_pretrained)"
        )
    # The original projects each token and takes the mean, which is the same.
    pooling = Pooling("mean", steps=("dense",), width=config.get("classifier_proj_size", 256))
    tasks, head = classifier(folder, "audio", "classifier", pooling, "projector")
    table, change = merged(
        (TABLE | head, {"backbone.blocks.{i}.attn.qkv.bias": keys_without_bias}),
        position_tables("embed_positions.weight", (), own=0, modality="audio"),
    )
    return Blueprint(backbone, {"audio": _processor(folder)}, tasks, table, change, left_out=r"^decoder\.|^proj_out\.")


def _processor(folder: Folder) -> AudioProcessor:
    config = folder.config
    mels, length = config.get("num_mel_bins", 80), config.get("max_source_positions", 1500)
    given = preprocessor(folder, "feature_extractor")
    expected = {"feature_size": mels, "sampling_rate": 16_000, "padding_value": 0.0, "dither": 0.0}
    unchanged_in("preprocessor_config.json", given, do_normalize=False, **expected)
    hop, samples = given.get("hop_length", 160), given.get("chunk_length", 30) * 16_000
    if hop < 1 or samples % hop:
        raise ValueError(f"preprocessor_config.json: hop_length {hop} must divide the {samples} samples of a window")
    frames = samples // hop
    if given and frames != 2 * length:
        raise ValueError(
            f"max_source_positions is {length}, of two frames each, but chunk_length and hop_length of the feature "
            f"extractor give {frames} frames: they are not of one model"
        )
    return AudioProcessor(
        length, mels=mels, hop=hop, window=given.get("n_fft", 400), patch_frames=2, merges=0,
        spectrogram=LogMel(2 * length), positions=LearnedPositions((length, 1)),
    )  # fmt: skip
