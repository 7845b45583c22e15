"""ModernBERT (Warner et al. 2024): rotary with two bases, GeGLU, local and global attention, no biases."""

from __future__ import annotations

from typing import Any

from unitx.config import BackboneConfig
from unitx.families.common import Part, activation, classifier, merged, rotary_qkv, text_processor, unchanged, zero_bias
from unitx.pooling import Pooling
from unitx.published import Blueprint, Change, Folder, Table
from unitx.registry import register_family
from unitx.task import TaskInfo

TABLE: Table = {
    "tokenizers.text.embed": "embeddings.tok_embeddings",
    "tokenizers.text.norm": "embeddings.norm",
    "backbone.blocks.{i}.attn.qkv": "layers.{i}.attn.Wqkv",
    "backbone.blocks.{i}.attn.out": "layers.{i}.attn.Wo",
    "backbone.blocks.{i}.attn_norm": "layers.{i}.attn_norm",
    "backbone.blocks.{i}.mlp.up": "layers.{i}.mlp.Wi",
    "backbone.blocks.{i}.mlp.down": "layers.{i}.mlp.Wo",
    "backbone.blocks.{i}.mlp_norm": "layers.{i}.mlp_norm",
    "backbone.norm": "final_norm",
}


@register_family("modernbert")
def modernbert(folder: Folder) -> Blueprint:
    config = folder.config
    folder.leave_off("model.")
    dim, depth, heads = config["hidden_size"], config["num_hidden_layers"], config["num_attention_heads"]
    eps, bias = config.get("norm_eps", 1e-5), bool(config.get("norm_bias", False))
    full, local = _bases(config)
    text = text_processor(
        folder, config["vocab_size"], config.get("max_position_embeddings", 8192), norm_eps=eps, norm_bias=bias
    )
    backbone = BackboneConfig(
        dim, depth, heads, mlp_ratio=config["intermediate_size"] / dim, rotary_base=full, window_rotary_base=local,
        window=config.get("local_attention", 128) // 2, full_layers=_full_layers(config), norm_bias=bias, norm_eps=eps,
        first_norm=False, qk_norm=False, qkv_bias=config.get("attention_bias", False),
        out_bias=config.get("attention_bias", False), mlp_bias=config.get("mlp_bias", False),
        activation=activation(config.get("hidden_activation", "gelu")), gated=True,
    )  # fmt: skip
    tasks, head = _classifier(folder, dim, eps)
    table, change = merged((TABLE, {"backbone.blocks.{i}.attn.qkv": _qkv(dim // heads)}), head)
    return Blueprint(
        backbone, {"text": text}, tasks, table, change, r"^(head|decoder)\.",
    )  # fmt: skip


def _classifier(folder: Folder, dim: int, eps: float) -> tuple[list[TaskInfo], Part]:
    config = folder.config
    kind = {"cls": "first", "mean": "mean"}[config.get("classifier_pooling", "cls")]
    act = activation(config.get("classifier_activation", "gelu"))
    pooling = Pooling(kind, steps=("dense", act, "norm"), eps=eps)
    tasks, head = classifier(folder, "text", "classifier", pooling, "head.dense", "", "head.norm")
    parts: list[Part] = [(head, {})]
    for step, theirs in ((0, "head.dense"), (2, "head.norm")):
        if tasks and f"{theirs}.bias" not in folder.names:
            parts.append(zero_bias(f"heads.{tasks[0].name}.pooler.steps.{step}", dim))
    return tasks, merged(*parts)


def _full_layers(config: dict[str, Any]) -> tuple[int, ...]:
    kinds = config.get("layer_types")
    every = config.get("global_attn_every_n_layers", 3)
    if kinds is None:
        return tuple(range(0, config["num_hidden_layers"], every))
    return tuple(i for i, kind in enumerate(kinds) if kind == "full_attention")


def _bases(config: dict[str, Any]) -> tuple[float, float]:
    """The rotary bases of layers that see everything, and of local ones."""
    rope = config.get("rope_parameters") or {}
    if "full_attention" in rope:
        for kind in rope.values():
            unchanged(kind, rope_type="default")
        return rope["full_attention"]["rope_theta"], rope["sliding_attention"]["rope_theta"]
    unchanged(config, rope_scaling=None)
    full = config.get("global_rope_theta", 160_000.0)
    return full, config.get("local_rope_theta", 10_000.0) or full


def _qkv(head_dim: int) -> Change:
    joined = rotary_qkv(head_dim)
    return lambda leaf, tensors: joined(leaf, list(tensors[0].chunk(3)))
