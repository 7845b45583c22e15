"""Llama (Touvron et al. 2023), Qwen2 (Yang et al. 2024), Qwen3 (2025): RMSNorm, SwiGLU, grouped heads, rotary."""

from __future__ import annotations

from typing import Any

from unitx.config import BackboneConfig
from unitx.families.common import (
    activation,
    ends,
    head_norm,
    language_model,
    merged,
    rotary_qkv,
    sees_only_before,
    sequence_classifier,
    text_processor,
)
from unitx.families.rotary import rotary
from unitx.published import Blueprint, Change, Folder, Table
from unitx.registry import register_family

LAYER = "layers.{i}."
TABLE: Table = {
    "tokenizers.text.embed": "embed_tokens",
    "backbone.blocks.{i}.attn.qkv": tuple(f"{LAYER}self_attn.{name}_proj" for name in "qkv"),
    "backbone.blocks.{i}.attn.q_norm": f"{LAYER}self_attn.q_norm",
    "backbone.blocks.{i}.attn.k_norm": f"{LAYER}self_attn.k_norm",
    "backbone.blocks.{i}.attn.out": f"{LAYER}self_attn.o_proj",
    "backbone.blocks.{i}.attn_norm": f"{LAYER}input_layernorm",
    "backbone.blocks.{i}.mlp.up": (f"{LAYER}mlp.gate_proj", f"{LAYER}mlp.up_proj"),
    "backbone.blocks.{i}.mlp.down": f"{LAYER}mlp.down_proj",
    "backbone.blocks.{i}.mlp_norm": f"{LAYER}post_attention_layernorm",
    "backbone.norm": "norm",
}


def decoder(
    folder: Folder,
    *,
    qk_norm: bool = False,
    qkv_bias: bool | None = None,
    head_size: int | None = None,
    **fixed: Any,
) -> Blueprint:
    """What the three have in common.

    Args:
        head_size: of the type, where the configuration does not say.
        fixed: what the type has, whatever the configuration says.
    """
    config = folder.config | fixed
    folder.leave_off("model.")
    dim, heads = config["hidden_size"], config["num_attention_heads"]
    head_dim = config.get("head_dim") or head_size or dim // heads
    bias = bool(config.get("attention_bias", False))
    backbone = BackboneConfig(
        dim, config["num_hidden_layers"], heads, kv_heads=config.get("num_key_value_heads") or heads,
        mlp_ratio=config["intermediate_size"] / dim, **rotary(config, head_dim)._asdict(),
        head_size=head_dim, window=_window(config), full_layers=_full_layers(config), norm="rmsnorm",
        norm_eps=config.get("rms_norm_eps", 1e-6), qk_norm=qk_norm, qkv_bias=bias if qkv_bias is None else qkv_bias,
        out_bias=bias, mlp_bias=bool(config.get("mlp_bias", False)),
        activation=activation(config.get("hidden_act", "silu")), gated=True, causal=sees_only_before(config),
    )  # fmt: skip
    length = config.get("max_position_embeddings", 2048)
    text = text_processor(folder, config["vocab_size"], length, end=ends(folder))
    tasks, head = language_model(folder, "lm_head", tied="embed_tokens", ties=False)
    change: dict[str, Change] = {
        "backbone.blocks.{i}.attn.qkv": rotary_qkv(head_dim),
        "backbone.blocks.{i}.attn.q_norm": head_norm(head_dim),
        "backbone.blocks.{i}.attn.k_norm": head_norm(head_dim),
    }
    ignored = r"rotary_emb\.inv_freq$|^lm_head\."
    classifiers, scores = sequence_classifier(folder)
    table, change = merged((TABLE | head, change), scores)
    return Blueprint(backbone, {"text": text}, classifiers or tasks, table, change, ignored)


@register_family("llama")
def llama(folder: Folder) -> Blueprint:
    return decoder(folder, sliding_window=None)


@register_family("qwen2")
def qwen2(folder: Folder) -> Blueprint:
    return decoder(folder, qkv_bias=True, attention_bias=False, mlp_bias=False)


@register_family("qwen3")
def qwen3(folder: Folder) -> Blueprint:
    return decoder(folder, qk_norm=True, head_size=128, mlp_bias=False)


def _full_layers(config: dict[str, Any]) -> tuple[int, ...]:
    kinds = config.get("layer_types")
    if kinds is not None:
        return tuple(i for i, kind in enumerate(kinds) if kind == "full_attention") if _window(config) else ()
    return tuple(range(config.get("max_window_layers", 28))) if _window(config) else ()


def _window(config: dict[str, Any]) -> int | None:
    """What a token sees to each side; theirs counts the token itself where it sees what came before alone."""
    wanted = config.get("use_sliding_window") and config.get("sliding_window")
    return config["sliding_window"] - sees_only_before(config) if wanted else None
