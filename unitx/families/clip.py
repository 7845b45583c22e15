"""CLIP (Radford et al. 2021) and SigLIP (Zhai et al. 2023): a tower for pictures, a tower for texts, one space."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor

from unitx.families.common import (
    SHAPE,
    Part,
    activation,
    embedding,
    merged,
    pre_norm,
    text_processor,
    unchanged,
    unchanged_in,
    zero_bias,
)
from unitx.families.images import image_processor, patch_weights, position_tables, square_patch
from unitx.pooling import Pooling
from unitx.positions import LearnedPositions
from unitx.published import Blueprint, Change, Folder, Table, TowersBlueprint
from unitx.registry import register_family
from unitx.tokenizers.text import TextProcessor
from unitx.vocabulary import NONE, PublishedVocabulary

BLOCK, LAYER = "backbone.blocks.{i}.", "encoder.layers.{i}."
BLOCKS: Table = {
    f"{BLOCK}attn.qkv": tuple(f"{LAYER}self_attn.{name}_proj" for name in "qkv"),
    f"{BLOCK}attn.out": f"{LAYER}self_attn.out_proj",
    f"{BLOCK}attn_norm": f"{LAYER}layer_norm1",
    f"{BLOCK}mlp.up": f"{LAYER}mlp.fc1",
    f"{BLOCK}mlp.down": f"{LAYER}mlp.fc2",
    f"{BLOCK}mlp_norm": f"{LAYER}layer_norm2",
}
TEXT = BLOCKS | {
    "tokenizers.text.embed": "embeddings.token_embedding",
    "tokenizers.text.positions": "embeddings.position_embedding",
    "backbone.norm": "final_layer_norm",
}
IMAGE = BLOCKS | {"tokenizers.image.stem.embed": "embeddings.patch_embedding"}
HEAD = "heads.pooled.pooler."
IGNORED = r"position_ids$"
Tower = Callable[..., Blueprint]


def clip_image(folder: Folder, config: dict[str, Any], prefix: str = "", width: int = 0) -> Blueprint:
    """`width`: of the projection into the common space; 0 without one."""
    config = SHAPE | config
    eps, dim = config.get("layer_norm_eps", 1e-5), config["hidden_size"]
    positions, patch = _positions(config, class_tokens=1, norm_eps=eps, default=32)
    tables = position_tables("embeddings.position_embedding.weight", ("embeddings.class_embedding",), own=1)
    head: Table = {f"{HEAD}steps.0": "post_layernorm"}
    table, change = merged(
        (IMAGE | {"tokenizers.image.positions.norm": "pre_layrnorm"}, {"tokenizers.image.stem.embed": patch_weights}),
        zero_bias("tokenizers.image.stem.embed", dim), tables, (head, {}),
    )  # fmt: skip
    table = _behind(prefix, table) | ({f"{HEAD}steps.1": "visual_projection"} if width else {})
    pooling = Pooling("first", steps=("norm", "dense") if width else ("norm",), width=width, bias=False, eps=eps)
    image = image_processor(folder, positions, patch, "CLIP")
    backbone = pre_norm(config, eps, "quick_gelu", final_norm=False)
    return Blueprint(backbone, {"image": image}, [embedding("image", pooling)], table, change, IGNORED)


def clip_text(folder: Folder, config: dict[str, Any], prefix: str = "", width: int = 0) -> Blueprint:
    config = SHAPE | {"hidden_size": 512, "num_attention_heads": 8, "intermediate_size": 2048} | config
    eps, end = config.get("layer_norm_eps", 1e-5), config.get("eos_token_id", 49407)
    length = config.get("max_position_embeddings", 77)
    # Old configurations say 2, which is another token: the end is the highest id of its vocabulary.
    pooling = Pooling("end", end=None if end == 2 else end, steps=("dense",) if width else (), width=width, bias=False)
    table = _behind(prefix, TEXT) | ({f"{HEAD}steps.0": "text_projection"} if width else {})
    text = text_processor(folder, config.get("vocab_size", 49408), length, positions=length, truncate=True)
    backbone = pre_norm(config, eps, "quick_gelu", causal=True)
    return Blueprint(backbone, {"text": text}, [embedding("text", pooling)], table, {}, IGNORED)


def siglip_image(folder: Folder, config: dict[str, Any], prefix: str = "") -> Blueprint:
    config = SHAPE | config
    eps, dim = config.get("layer_norm_eps", 1e-6), config["hidden_size"]
    positions, patch = _positions(config, class_tokens=0, norm_eps=0.0, default=16)
    table, change = merged(
        (IMAGE | {"backbone.norm": "post_layernorm"}, {"tokenizers.image.stem.embed": patch_weights}),
        position_tables("embeddings.position_embedding.weight", (), own=0),
        _attention_pooling(dim),
    )
    kind, pooling = config.get("hidden_act", "gelu_pytorch_tanh"), Pooling("mean")
    if config.get("vision_use_head", True):
        pooling = Pooling("attention", heads=config["num_attention_heads"], mlp=config["intermediate_size"],
                          activation=activation(kind), eps=eps)  # fmt: skip
    image = image_processor(folder, positions, patch, "Siglip")
    backbone = pre_norm(config, eps, "gelu_pytorch_tanh")
    return Blueprint(backbone, {"image": image}, [embedding("image", pooling)], _behind(prefix, table), change, IGNORED)


def siglip_text(folder: Folder, config: dict[str, Any], prefix: str = "") -> Blueprint:
    config = SHAPE | config
    eps, length = config.get("layer_norm_eps", 1e-6), config.get("max_position_embeddings", 64)
    pooling = Pooling("last", steps=("dense",), width=config.get("projection_size") or config["hidden_size"])
    text = _siglip_processor(folder, config.get("vocab_size", 32000), length)
    table = _behind(prefix, TEXT | {f"{HEAD}steps.0": "head"})
    backbone = pre_norm(config, eps, "gelu_pytorch_tanh")
    return Blueprint(backbone, {"text": text}, [embedding("text", pooling)], table, {}, IGNORED)


@register_family("clip")
def clip(folder: Folder) -> TowersBlueprint:
    width = folder.config.get("projection_dim", 512)
    image = clip_image(folder, _part(folder, "vision_config"), "vision_model.", width)
    text = clip_text(folder, _part(folder, "text_config"), "text_model.", width)
    return TowersBlueprint({"image": image, "text": text}, "logit_scale")


@register_family("siglip")
def siglip(folder: Folder) -> TowersBlueprint:
    image = siglip_image(folder, _part(folder, "vision_config"), "vision_model.")
    text = siglip_text(folder, _part(folder, "text_config"), "text_model.")
    return TowersBlueprint({"image": image, "text": text}, "logit_scale", "logit_bias")


def _part(folder: Folder, name: str) -> dict[str, Any]:
    """A tower's configuration; files of old versions say it twice, and the second counts."""
    if "logit_scale" not in folder.names:
        kind = (folder.config.get("architectures") or ["such a model"])[0]
        raise ValueError(f"{kind} is no model of two towers: save the tower alone (model.vision_model.save_pretrained)")
    return (folder.config.get(name) or {}) | (folder.config.get(f"{name}_dict") or {})


def _alone(tower: Tower, projection: str = "") -> Callable[[Folder], Blueprint]:
    """A tower that was saved without the other."""

    def family(folder: Folder) -> Blueprint:
        folder.leave_off("text_model.", "vision_model.")
        projected = f"{projection}.weight" in folder.names
        return tower(folder, folder.config, **({"width": folder.config["projection_dim"]} if projected else {}))

    return family


register_family("clip_vision_model")(_alone(clip_image, "visual_projection"))
register_family("clip_text_model")(_alone(clip_text, "text_projection"))
register_family("siglip_vision_model")(_alone(siglip_image))
register_family("siglip_text_model")(_alone(siglip_text))


def _positions(
    config: dict[str, Any], class_tokens: int, norm_eps: float, default: int
) -> tuple[LearnedPositions, int]:
    unchanged(config, num_channels=3)
    patch = square_patch(config, default)
    side = config.get("image_size", 224) // patch
    return LearnedPositions((side, side), class_tokens, norm_eps=norm_eps), patch


def _behind(prefix: str, table: Table) -> Table:
    """The table with their names behind a prefix."""
    return {
        ours: prefix + theirs if isinstance(theirs, str) else tuple(prefix + one for one in theirs)
        for ours, theirs in table.items()
    }


def _attention_pooling(dim: int) -> Part:
    """PyTorch's attention holds query, key and value in one map."""
    ours = f"{HEAD}attention."
    table: Table = {
        f"{ours}query": ("head.probe",),
        f"{ours}out": "head.attention.out_proj",
        f"{ours}norm": "head.layernorm",
        f"{ours}up": "head.mlp.fc1",
        f"{ours}down": "head.mlp.fc2",
    }
    for leaf in ("weight", "bias"):
        table |= {f"{ours}{part}.{leaf}": (f"head.attention.in_proj_{leaf}",) for part in ("q", "kv")}

    def query(leaf: str, tensors: list[Tensor]) -> Tensor:
        return tensors[0].flatten()

    def of_query(leaf: str, tensors: list[Tensor]) -> Tensor:
        return tensors[0][:dim]

    def of_key_and_value(leaf: str, tensors: list[Tensor]) -> Tensor:
        return tensors[0][dim:]

    change: dict[str, Change] = {f"{ours}query": query}
    change |= {f"{ours}q.{leaf}": of_query for leaf in ("weight", "bias")}
    change |= {f"{ours}kv.{leaf}": of_key_and_value for leaf in ("weight", "bias")}
    return table, change


def _siglip_processor(folder: Folder, ids: int, length: int) -> TextProcessor:
    """Texts are filled up to their greatest length, as they were in training; the last token is the one asked."""
    given: dict[str, Any] = {"positions": length, "truncate": True}
    spm, settings = folder.read_bytes("spiece.model"), folder.read_json("tokenizer_config.json") or {}
    if spm and not folder.read_bytes("tokenizer.json"):
        unchanged_in("tokenizer_config.json", settings, padding_side="right", do_lower_case=True)
        text = TextProcessor(length, vocabulary="siglip", spm=spm, ids=ids, **given)
    else:
        text = text_processor(folder, ids, length, **given)
    token = settings.get("pad_token", "</s>")
    token = token["content"] if isinstance(token, dict) else token
    vocab = None if text.vocabulary == "ids" else text.vocab
    if not isinstance(vocab, PublishedVocabulary):
        return text
    if (padding := vocab.id_of(token)) == NONE:
        raise ValueError(f"tokenizer_config.json: pad_token {token!r} is not in the vocabulary")
    return replace(text, padding=padding)
