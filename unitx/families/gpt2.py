"""GPT-2 (Radford et al. 2019): a decoder with learned positions; its linear maps are stored as (in, out)."""

from __future__ import annotations

from unitx.config import BackboneConfig
from unitx.families.common import (
    activation,
    ends,
    language_model,
    merged,
    sees_only_before,
    sequence_classifier,
    text_processor,
    unchanged,
)
from unitx.published import Blueprint, Change, Folder, Table, transposed
from unitx.registry import register_family

TABLE: Table = {
    "tokenizers.text.embed": "wte",
    "tokenizers.text.positions": "wpe",
    "backbone.blocks.{i}.attn.qkv": "h.{i}.attn.c_attn",
    "backbone.blocks.{i}.attn.out": "h.{i}.attn.c_proj",
    "backbone.blocks.{i}.attn_norm": "h.{i}.ln_1",
    "backbone.blocks.{i}.mlp.up": "h.{i}.mlp.c_fc",
    "backbone.blocks.{i}.mlp.down": "h.{i}.mlp.c_proj",
    "backbone.blocks.{i}.mlp_norm": "h.{i}.ln_2",
    "backbone.norm": "ln_f",
}
TRANSPOSED = ("attn.qkv", "attn.out", "mlp.up", "mlp.down")


@register_family("gpt2")
def gpt2(folder: Folder) -> Blueprint:
    config = folder.config
    folder.leave_off("transformer.")
    unchanged(config, scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False, add_cross_attention=False)
    dim, positions = config["n_embd"], config.get("n_positions", 1024)
    backbone = BackboneConfig(
        dim, config["n_layer"], config["n_head"], mlp_ratio=(config.get("n_inner") or 4 * dim) / dim, rotary_base=None,
        norm_bias=True, norm_eps=config.get("layer_norm_epsilon", 1e-5), qk_norm=False, qkv_bias=True, out_bias=True,
        activation=activation(config.get("activation_function", "gelu_new")), causal=sees_only_before(config),
    )  # fmt: skip
    text = text_processor(folder, config["vocab_size"], positions, positions=positions, end=ends(folder))
    tasks, head = language_model(folder, "lm_head", tied="wte", ties=True)
    classifiers, scores = sequence_classifier(folder)
    turned: dict[str, Change] = {f"backbone.blocks.{{i}}.{name}": transposed for name in TRANSPOSED}
    table, change = merged((TABLE | head, turned), scores)
    return Blueprint(
        backbone, {"text": text}, classifiers or tasks, table, change,
        r"attn\.(masked_)?bias$|^lm_head\.",
    )  # fmt: skip
