"""BERT (Devlin et al. 2018), RoBERTa (Liu et al. 2019), XLM-R (Conneau et al. 2019), DistilBERT (Sanh et al. 2019)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from unitx.config import BackboneConfig
from unitx.families.common import activation, classifier, embedding, text_processor, unchanged
from unitx.pooling import Pooling
from unitx.published import Blueprint, Folder, Table
from unitx.registry import register_family

LAYER = "encoder.layer.{i}."
BERT: Table = {
    "tokenizers.text.embed": "embeddings.word_embeddings",
    "tokenizers.text.positions": ("embeddings.position_embeddings", "embeddings.token_type_embeddings"),
    "tokenizers.text.norm": "embeddings.LayerNorm",
    "backbone.blocks.{i}.attn.qkv": tuple(f"{LAYER}attention.self.{name}" for name in ("query", "key", "value")),
    "backbone.blocks.{i}.attn.out": f"{LAYER}attention.output.dense",
    "backbone.blocks.{i}.attn_norm": f"{LAYER}attention.output.LayerNorm",
    "backbone.blocks.{i}.mlp.up": f"{LAYER}intermediate.dense",
    "backbone.blocks.{i}.mlp.down": f"{LAYER}output.dense",
    "backbone.blocks.{i}.mlp_norm": f"{LAYER}output.LayerNorm",
    "heads.pooled.pooler.steps.0": "pooler.dense",
}
DISTILBERT: Table = {
    "tokenizers.text.embed": "embeddings.word_embeddings",
    "tokenizers.text.positions": "embeddings.position_embeddings",
    "tokenizers.text.norm": "embeddings.LayerNorm",
    "backbone.blocks.{i}.attn.qkv": tuple(f"transformer.layer.{{i}}.attention.{name}_lin" for name in "qkv"),
    "backbone.blocks.{i}.attn.out": "transformer.layer.{i}.attention.out_lin",
    "backbone.blocks.{i}.attn_norm": "transformer.layer.{i}.sa_layer_norm",
    "backbone.blocks.{i}.mlp.up": "transformer.layer.{i}.ffn.lin1",
    "backbone.blocks.{i}.mlp.down": "transformer.layer.{i}.ffn.lin2",
    "backbone.blocks.{i}.mlp_norm": "transformer.layer.{i}.output_layer_norm",
}
# Heads of the training task, which are not taken over.
IGNORED = r"position_ids$|^cls\.|^lm_head\.|^vocab_"


def post_norm(dim: int, depth: int, heads: int, mlp_dim: int, kind: str, eps: float) -> BackboneConfig:
    """The backbone of the original transformer's encoder: post-norm, biases everywhere, no rotary."""
    return BackboneConfig(
        dim, depth, heads, mlp_ratio=mlp_dim / dim, rotary_base=None, norm_bias=True, norm_eps=eps, post_norm=True,
        qk_norm=False, qkv_bias=True, out_bias=True, activation=activation(kind),
    )  # fmt: skip


@register_family("bert")
def bert(folder: Folder, padding: int = -1) -> Blueprint:
    """`padding`: the id of the padding token, behind which RoBERTa's positions begin."""
    config = folder.config
    folder.leave_off("bert.", "roberta.")
    unchanged(config, position_embedding_type="absolute", is_decoder=False, add_cross_attention=False)
    eps = config.get("layer_norm_eps", 1e-12)
    positions = config.get("max_position_embeddings", 512) - (padding + 1)
    text = text_processor(folder, config["vocab_size"], positions, positions=positions, norm_eps=eps)
    pooling = Pooling("first", steps=("dense", "tanh"))
    pooled = [embedding("text", pooling)] if "pooler.dense.weight" in folder.names else []
    of_roberta = "classifier.out_proj.weight" in folder.names
    dense, out = ("classifier.dense", "classifier.out_proj") if of_roberta else ("pooler.dense", "classifier")
    tasks, head = classifier(folder, "text", out, pooling, dense)
    return Blueprint(
        post_norm(config["hidden_size"], config["num_hidden_layers"], config["num_attention_heads"],
                  config["intermediate_size"], config.get("hidden_act", "gelu"), eps),
        {"text": text},
        [*tasks, *pooled],
        BERT | head,
        {"tokenizers.text.positions": _with_type(padding + 1)},
        IGNORED,
    )  # fmt: skip


def _with_type(first: int) -> Callable[[str, list[Tensor]], Tensor]:
    """Positions from `first` on, with the vector of the first segment, in which all tokens of a text are."""

    def change(leaf: str, tensors: list[Tensor]) -> Tensor:
        positions, types = tensors
        return positions[first:] + types[0]

    return change


@register_family("roberta")
def roberta(folder: Folder) -> Blueprint:
    padding = folder.config.get("pad_token_id", 1)
    if padding is None:
        raise ValueError("pad_token_id is null, and positions begin behind it")
    return bert(folder, padding)


register_family("xlm-roberta")(roberta)
register_family("camembert")(roberta)


@register_family("distilbert")
def distilbert(folder: Folder) -> Blueprint:
    config = folder.config
    folder.leave_off("distilbert.")
    positions, eps = config.get("max_position_embeddings", 512), 1e-12
    text = text_processor(folder, config["vocab_size"], positions, positions=positions, norm_eps=eps)
    pooling = Pooling("first", steps=("dense", "relu"))
    tasks, head = classifier(folder, "text", "classifier", pooling, "pre_classifier")
    return Blueprint(
        post_norm(config["dim"], config["n_layers"], config["n_heads"], config["hidden_dim"],
                  config.get("activation", "gelu"), eps),
        {"text": text}, tasks, DISTILBERT | head, ignored=IGNORED,
    )  # fmt: skip
