"""Vision transformers of timm (Wightman 2019): vit_*, deit_*, deit3_*, whose shapes are read off their tensors."""

from __future__ import annotations

import math
import re
from typing import Any

from unitx.config import BackboneConfig
from unitx.families.common import Part, averaged, classifier, embedding, merged, unchanged, zero_bias
from unitx.families.images import pair, patch_weights, position_tables, scaled
from unitx.pooling import Pooling
from unitx.positions import LearnedPositions
from unitx.published import Blueprint, Folder, Table
from unitx.registry import register_family
from unitx.resize import Resize
from unitx.tokenizers.image import ImageProcessor

BLOCK = "backbone.blocks.{i}."
TABLE: Table = {
    "tokenizers.image.stem.embed": "patch_embed.proj",
    "tokenizers.image.positions.norm": "norm_pre",
    f"{BLOCK}attn.qkv": "blocks.{i}.attn.qkv",
    f"{BLOCK}attn.out": "blocks.{i}.attn.proj",
    f"{BLOCK}attn_norm": "blocks.{i}.norm1",
    f"{BLOCK}mlp.up": "blocks.{i}.mlp.fc1",
    f"{BLOCK}mlp.down": "blocks.{i}.mlp.fc2",
    f"{BLOCK}mlp_norm": "blocks.{i}.norm2",
    "backbone.norm": "norm",
}
ATTENTION_POOLING = {"q": "q", "kv": "kv", "out": "proj", "norm": "norm", "up": "mlp.fc1", "down": "mlp.fc2"}
NAMES = re.compile(
    r"(vit|deit|deit3)_(tiny|small|medium|base|large|huge|giant|gigantic|so400m)(_distilled)?_patch\d+"
    r"(_(plus|clip|quickgelu|dinov2|siglip|gap|map|miil|reg\d|\d+))*"
)
# Where model_args does not say: the first that is found in an architecture's name.
HEADS = {
    "plus": 14, "giant_patch14_dinov2": 24, "giant_patch14_reg4_dinov2": 24, "base_patch16_gap": 16, "tiny": 3,
    "small": 6, "medium": 8, "base": 12, "large": 16, "huge": 16, "giant": 16, "gigantic": 16, "so400m": 16,
}  # fmt: skip
# Architectures whose activation is the approximate GELU.
TANH = r"so400m_patch16_siglip|patch32_siglip|large_patch16_siglip.*_512"


@register_family("timm")
def timm(folder: Folder) -> Blueprint:
    folder.leave_off("timm_model.")
    name = folder.config["architecture"].split(".")[0]
    args: dict[str, Any] = folder.config.get("model_args") or {}
    if not NAMES.fullmatch(name):
        raise ValueError(f"the architecture '{name}' is not known; known are vit_*, deit_* and deit3_* of a plain kind")
    unchanged(args, in_chans=3, act_layer=None, norm_layer=None, qk_norm=False, pos_embed="learn",
              pool_include_prefix=False, dynamic_img_pad=False)  # fmt: skip
    backbone = _backbone(folder, name, args)
    positions, patch, positioned = _positions(folder, args, backbone)
    pooling = _pooling(folder, args, positions.class_tokens, backbone)
    if "head_dist.weight" in folder.names:  # whose answers are averaged
        tasks, head = classifier(folder, "image", ("head", "head_dist"), Pooling("concat", first=2))
        answered = merged((head, averaged(f"heads.{tasks[0].name}.head")))
    else:
        tasks, head = classifier(folder, "image", "head", pooling)
        answered = merged((head, {}), *(_pooler(f"heads.{task.name}.pooler.") for task in tasks))
    tasks = [*tasks, embedding("image", pooling)]
    parts: list[Part] = [(TABLE, {"tokenizers.image.stem.embed": patch_weights}), positioned, answered]
    if "patch_embed.proj.bias" not in folder.names:
        parts.append(zero_bias("tokenizers.image.stem.embed", backbone.dim))
    if "blocks.0.ls1.gamma" in folder.names:
        parts.append(scaled(f"{BLOCK}attn.out", "blocks.{i}.attn.proj", "blocks.{i}.ls1.gamma"))
        parts.append(scaled(f"{BLOCK}mlp.down", "blocks.{i}.mlp.fc2", "blocks.{i}.ls2.gamma"))
    table, change = merged(*parts, _pooler("heads.pooled.pooler."))
    return Blueprint(backbone, {"image": _processor(folder, positions, patch)}, tasks, table, change)


register_family("timm_wrapper")(timm)


def _backbone(folder: Folder, name: str, args: dict[str, Any]) -> BackboneConfig:
    names = folder.names
    hidden, dim = folder.shape("blocks.0.mlp.fc1.weight")
    gated = folder.shape("blocks.0.mlp.fc2.weight")[1] * 2 == hidden
    heads = args.get("num_heads") or next(count for size, count in HEADS.items() if size in name)
    kind = "quick_gelu" if "quickgelu" in name else "gelu_tanh" if re.search(TANH, name) else "gelu"
    return BackboneConfig(
        dim, 1 + max(int(one.split(".")[1]) for one in names if one.startswith("blocks.")), int(heads),
        mlp_ratio=hidden / dim / (2 if gated else 1), rotary_base=None, norm_bias=True,
        norm_eps=1e-5 if "_clip_" in name else 1e-6, final_norm="norm.weight" in names, qk_norm=False,
        qkv_bias="blocks.0.attn.qkv.bias" in names, out_bias=True, activation="silu" if gated else kind, gated=gated,
    )  # fmt: skip


def _positions(folder: Folder, args: dict[str, Any], backbone: BackboneConfig) -> tuple[LearnedPositions, int, Part]:
    """The table of positions, the side of a patch, and where both come from."""
    patch, width = folder.shape("patch_embed.proj.weight")[2:]
    if patch != width:
        raise ValueError(f"patches are {patch} x {width}; supported are square patches")
    sides = pair(args.get("img_size") or _pretrained(folder)["input_size"][1:])
    rows, columns = (side // patch for side in sides)
    tokens = tuple(name for name in ("cls_token", "dist_token", "reg_token") if name in folder.names)
    count = sum(folder.shape(name)[1] for name in tokens)
    own = math.prod(folder.shape("pos_embed")[:-1]) - rows * columns
    if not 0 <= own <= count:
        raise ValueError(f"pos_embed has {own} positions beside {rows} x {columns} patches: is img_size another?")
    eps = backbone.norm_eps if "norm_pre.weight" in folder.names else 0.0
    positions = LearnedPositions((rows, columns), count, antialias=True, norm_eps=eps)
    return positions, patch, position_tables("pos_embed", tokens, own)


def _pooling(folder: Folder, args: dict[str, Any], prefix: int, backbone: BackboneConfig) -> Pooling:
    plain = "map" if "attn_pool.latent" in folder.names else "token" if "cls_token" in folder.names else "avg"
    plain = "avg" if "fc_norm.weight" in folder.names else plain
    kind = args.get("global_pool", folder.config.get("global_pool", plain))
    steps = ("norm",) if "fc_norm.weight" in folder.names else ()
    if kind == "token":
        return Pooling("first", first=2 if "dist_token" in folder.names else 1, steps=steps, eps=backbone.norm_eps)
    if kind == "avg":
        return Pooling("rest", rest=prefix, steps=steps, eps=backbone.norm_eps)
    if kind == "map":
        hidden = folder.shape("attn_pool.mlp.fc1.weight")[0]
        return Pooling(
            "attention", rest=prefix, heads=backbone.heads, mlp=hidden, activation=backbone.activation,
            eps=backbone.norm_eps,
        )  # fmt: skip
    raise ValueError(f"global_pool is {kind!r}; supported are token, avg and map")


def _pooler(ours: str) -> Part:
    """What stands between tokens and a head; a table may name more than there is."""
    table: Table = {f"{ours}attention.{a}": f"attn_pool.{b}" for a, b in ATTENTION_POOLING.items()}
    table |= {f"{ours}steps.0": "fc_norm", f"{ours}attention.query": ("attn_pool.latent",)}
    return table, {f"{ours}attention.query": lambda leaf, tensors: tensors[0].flatten()}


def _pretrained(folder: Folder) -> dict[str, Any]:
    """Beside the architecture in old folders."""
    return {"input_size": (3, 224, 224)} | (folder.config.get("pretrained_cfg") or folder.config)


def _processor(folder: Folder, positions: LearnedPositions, patch: int) -> ImageProcessor:
    """The transform that timm builds for evaluation."""
    given = {"crop_pct": 0.875, "crop_mode": "center", "interpolation": "bicubic", **_pretrained(folder)}
    size = tuple(given["input_size"][1:])
    scaled_size = tuple(math.floor(side / given["crop_pct"]) for side in size)
    if given["crop_mode"] not in ("center", "squash"):
        raise ValueError(f"crop_mode {given['crop_mode']!r} is not supported; supported are center and squash")
    squash, square = given["crop_mode"] == "squash", size[0] == size[1]
    resize = Resize(
        scaled_size if squash or not square else scaled_size[:1], size, given["interpolation"], pillow=True,
        cover=not (squash or square),
    )  # fmt: skip
    return ImageProcessor(
        positions.tokens, patch=patch, merges=0, orientations=0,
        mean=given.get("mean", (0.485, 0.456, 0.406)), std=given.get("std", (0.229, 0.224, 0.225)),
        resize=resize, positions=positions,
    )  # fmt: skip
