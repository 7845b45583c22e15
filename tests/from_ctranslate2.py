"""CTranslate2's files (`model.bin`) of Whisper: its encoder, turned back into a Hugging Face folder.

A file holds, little-endian: a version, the name and revision of the kind of model, the number of tensors, and of each
its name, rank, shape, type, size in bytes and data.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
import transformers as hf
from torch import Tensor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

TYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
NAMES = {
    "position_encodings/encodings": "embed_positions/weight",
    "self_attention/layer_norm": "self_attn_layer_norm",
    "self_attention/linear_1": "self_attn/out_proj",
    "ffn/layer_norm": "final_layer_norm",
    "ffn/linear_0": "fc1",
    "ffn/linear_1": "fc2",
    "norm/gamma": "norm/weight",
    "norm/beta": "norm/bias",
}


def read_tensors(file: Path, prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, without it."""
    found = {}
    with open(file, "rb") as opened:
        _numbers(opened, "I"), _text(opened), _numbers(opened, "I")
        (count,) = _numbers(opened, "I")
        for _ in range(count):
            name, (rank,) = _text(opened), _numbers(opened, "B")
            shape = _numbers(opened, f"{rank}I")
            kind, size = _numbers(opened, "B")[0], _numbers(opened, "I")[0]
            data = opened.read(size)
            if name.startswith(prefix):
                found[name.removeprefix(prefix)] = torch.tensor(np.frombuffer(data, TYPES[kind]).reshape(shape))
    return found


def write_whisper_encoder(file: Path, folder: Path) -> WhisperEncoder:
    """Write the folder (float32, with the feature extractor's file) of the encoder in a `model.bin`; returns it."""
    tensors = read_tensors(file, "encoder/")
    heads = int(tensors.pop("num_heads"))
    state: dict[str, Tensor] = {}
    for theirs, value in tensors.items():
        name = re.sub(r"layer_(\d+)", r"layers/\1", theirs)
        for old, new in NAMES.items():
            name = name.replace(old, new)
        name = name.replace("/", ".")
        if "self_attention.linear_0" not in name:
            state[name] = value.float()
            continue
        for part, one in zip("qkv", value.float().chunk(3), strict=True):
            state[name.replace("self_attention.linear_0", f"self_attn.{part}_proj")] = one
    for name in [name for name in state if name.endswith("k_proj.bias")]:
        assert not state.pop(name).any()  # Whisper's keys have none
    encoder = WhisperEncoder(_config(state, heads)).eval()
    encoder.load_state_dict(state)
    encoder.save_pretrained(folder)
    hf.WhisperFeatureExtractor(encoder.config.num_mel_bins).save_pretrained(folder)
    return encoder


def _config(state: dict[str, Tensor], heads: int) -> hf.WhisperConfig:
    dim, mels, _ = state["conv1.weight"].shape
    return hf.WhisperConfig(
        d_model=dim, num_mel_bins=mels, encoder_attention_heads=heads,
        max_source_positions=len(state["embed_positions.weight"]), encoder_ffn_dim=len(state["layers.0.fc1.bias"]),
        encoder_layers=sum(name.endswith("fc1.bias") for name in state),
    )  # fmt: skip


def _numbers(file: BinaryIO, form: str) -> tuple[Any, ...]:
    return struct.unpack(f"<{form}", file.read(struct.calcsize(f"<{form}")))


def _text(file: BinaryIO) -> str:
    (length,) = _numbers(file, "H")
    return file.read(length).rstrip(b"\0").decode()
