"""ViT (Dosovitskiy et al. 2020), DeiT (Touvron et al. 2020), DINOv2 (Oquab et al. 2023; registers: Darcet et al.)."""

from __future__ import annotations

from typing import Any

from unitx.families.common import SHAPE, activation, averaged, classifier, embedding, merged, pre_norm, unchanged
from unitx.families.images import (
    image_processor,
    pair,
    patch_weights,
    position_tables,
    scaled,
    square_patch,
)
from unitx.pooling import Pooling
from unitx.positions import LearnedPositions
from unitx.published import Blueprint, Folder, Table
from unitx.registry import register_family

LAYER = "encoder.layer.{i}."
SHARED: Table = {
    "backbone.blocks.{i}.attn.qkv": tuple(f"{LAYER}attention.attention.{name}" for name in ("query", "key", "value")),
    "backbone.norm": "layernorm",
}
BLOCKS: Table = SHARED | {
    "backbone.blocks.{i}.attn.out": f"{LAYER}attention.output.dense",
    "backbone.blocks.{i}.attn_norm": f"{LAYER}layernorm_before",
    "backbone.blocks.{i}.mlp.up": f"{LAYER}intermediate.dense",
    "backbone.blocks.{i}.mlp.down": f"{LAYER}output.dense",
    "backbone.blocks.{i}.mlp_norm": f"{LAYER}layernorm_after",
}
PATCHES: Table = {"tokenizers.image.stem.embed": "embeddings.patch_embeddings.projection"}
VIT: Table = BLOCKS | PATCHES | {"heads.pooled.pooler.steps.0": "pooler.dense"}
# What transformers' modules are called since version 5, where its files kept the older names.
ATTENTION = {
    r"\.attention\.q_proj\.": ".attention.attention.query.",
    r"\.attention\.k_proj\.": ".attention.attention.key.",
    r"\.attention\.v_proj\.": ".attention.attention.value.",
    r"\.attention\.o_proj\.": ".attention.output.dense.",
}
MODULES = {
    r"^layers\.": "encoder.layer.",
    **ATTENTION,
    r"\.mlp\.fc1\.": ".intermediate.dense.",
    r"\.mlp\.fc2\.": ".output.dense.",
}
IGNORED = r"mask_token$|^decoder\."  # of masked pre-training


@register_family("vit")
def vit(folder: Folder, tokens: tuple[str, ...] = ("cls_token",), processor: str = "ViT") -> Blueprint:
    """`tokens`: the names of the class tokens; `processor`: whose it has where its file names none."""
    config = SHAPE | folder.config
    folder.leave_off("vit.", "deit.", renamed=MODULES)
    positions, patch = _positions(config, len(tokens))
    backbone = pre_norm(config, eps=1e-12)
    pooling = Pooling("first")
    if "pooler.dense.weight" in folder.names:
        act = config.get("pooler_act", "tanh")
        width = config.get("pooler_output_size") or config["hidden_size"]
        pooling = Pooling("first", steps=("dense", act if act == "tanh" else activation(act)), width=width)
    tasks, head = classifier(folder, "image", "classifier", Pooling("first"))
    names = tuple(f"embeddings.{name}" for name in tokens)
    table, change = position_tables("embeddings.position_embeddings", names, own=len(names))
    image = image_processor(folder, positions, patch, processor)
    return Blueprint(
        backbone, {"image": image}, [*tasks, embedding("image", pooling)], VIT | table | head,
        change | {"tokenizers.image.stem.embed": patch_weights}, IGNORED,
    )  # fmt: skip


@register_family("deit")
def deit(folder: Folder) -> Blueprint:
    plan = vit(folder, ("cls_token", "distillation_token"), "DeiT")
    heads = ("cls_classifier", "distillation_classifier")
    if f"{heads[0]}.weight" in folder.names:  # whose answers are averaged
        plan.tasks[:0], head = classifier(folder, "image", heads, Pooling("concat", first=2))
        plan.table |= head
        plan.change |= averaged(f"heads.{plan.tasks[0].name}.head")
    return plan


@register_family("dinov2")
def dinov2(folder: Folder, registers: int = 0) -> Blueprint:
    config = SHAPE | folder.config
    folder.leave_off("dinov2.", "dinov2_with_registers.", renamed=ATTENTION)
    positions, patch = _positions(config, 1 + registers, antialias=registers > 0, default=14)
    gated = bool(config.get("use_swiglu_ffn", False))
    ratio = config.get("mlp_ratio", 4)
    hidden = int(config["hidden_size"] * ratio)
    hidden = (int(hidden * 2 / 3) + 7) // 8 * 8 if gated else hidden
    kind = "silu" if gated else activation(config.get("hidden_act", "gelu"))
    backbone = pre_norm(config, eps=1e-6, mlp_ratio=hidden / config["hidden_size"], activation=kind, gated=gated)
    named: Table = SHARED | PATCHES | {
        "backbone.blocks.{i}.attn_norm": f"{LAYER}norm1",
        "backbone.blocks.{i}.mlp_norm": f"{LAYER}norm2",
        "backbone.blocks.{i}.mlp.up": f"{LAYER}mlp.weights_in" if gated else f"{LAYER}mlp.fc1",
    }
    down = f"{LAYER}mlp.weights_out" if gated else f"{LAYER}mlp.fc2"
    names = ("embeddings.cls_token", "embeddings.register_tokens")[: 2 if registers else 1]
    tasks, head = classifier(folder, "image", "classifier", Pooling("first and rest", rest=1 + registers))
    table, change = merged(
        (named | head, {"tokenizers.image.stem.embed": patch_weights}),
        position_tables("embeddings.position_embeddings", names, own=1),
        scaled("backbone.blocks.{i}.attn.out", f"{LAYER}attention.output.dense", f"{LAYER}layer_scale1.lambda1"),
        scaled("backbone.blocks.{i}.mlp.down", down, f"{LAYER}layer_scale2.lambda1"),
    )
    image = image_processor(folder, positions, patch, "Bit")
    return Blueprint(
        backbone, {"image": image}, [*tasks, embedding("image", Pooling("first"))], table, change, IGNORED,
    )  # fmt: skip


@register_family("dinov2_with_registers")
def dinov2_with_registers(folder: Folder) -> Blueprint:
    return dinov2(folder, folder.config.get("num_register_tokens", 4))


def _positions(
    config: dict[str, Any], class_tokens: int, antialias: bool = False, default: int = 16
) -> tuple[LearnedPositions, int]:
    """The table of positions, and the side of a patch."""
    unchanged(config, num_channels=3)
    patch = square_patch(config, default)
    height, width = pair(config.get("image_size", 224))
    return LearnedPositions((height // patch, width // patch), class_tokens, antialias), patch
