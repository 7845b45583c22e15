"""Small published models with weights that are all drawn, their tokenizers, and what to give them."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf
from PIL import Image
from torch import Tensor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

import tokenizers as fast
from unitx.model import Model

VOCABULARY = 97
BERT = {"vocab_size": VOCABULARY, "intermediate_size": 52, "max_position_embeddings": 60}
LLAMA = BERT | {"num_attention_heads": 6, "num_hidden_layers": 3, "hidden_size": 36}
DISTIL = {"vocab_size": VOCABULARY, "max_position_embeddings": 60}
GPT2 = {"vocab_size": VOCABULARY, "n_positions": 60}
MODERN = BERT | {"pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2}
ROTARY = {"rope_theta": 500.0, "rope_type": "default"}


def small(**given: Any) -> dict[str, Any]:
    return BERT | {"hidden_size": 36, "num_hidden_layers": 2, "num_attention_heads": 3} | given


CASES: dict[str, tuple[Any, Any]] = {
    "bert": (hf.BertModel, hf.BertConfig(**small())),
    "bert, odd": (hf.BertModel, hf.BertConfig(**small(hidden_size=30, num_attention_heads=2, hidden_act="gelu_new"))),
    "bert, no pooler": (partial(hf.BertModel, add_pooling_layer=False), hf.BertConfig(**small(layer_norm_eps=1e-3))),
    "bert, with its head": (hf.BertForMaskedLM, hf.BertConfig(**small(num_hidden_layers=1, hidden_act="relu"))),
    "roberta": (hf.RobertaModel, hf.RobertaConfig(**small(pad_token_id=1, type_vocab_size=1))),
    "roberta, odd": (hf.RobertaModel, hf.RobertaConfig(**small(pad_token_id=0, hidden_size=42))),
    "roberta, with its head": (hf.RobertaForMaskedLM, hf.RobertaConfig(**small(num_attention_heads=2, pad_token_id=1))),
    "xlm-roberta, bare": (hf.XLMRobertaModel, hf.XLMRobertaConfig(**small(pad_token_id=1, hidden_act="gelu_new"))),
    "xlm-roberta, odd": (hf.XLMRobertaModel, hf.XLMRobertaConfig(**small(hidden_size=26, num_attention_heads=1))),
    "xlm-roberta": (hf.XLMRobertaForMaskedLM, hf.XLMRobertaConfig(**small(num_hidden_layers=1))),
    "distilbert": (hf.DistilBertModel, hf.DistilBertConfig(**DISTIL, n_layers=2, n_heads=3, dim=36, hidden_dim=50)),
    "distilbert, one head": (hf.DistilBertModel, hf.DistilBertConfig(**DISTIL, n_layers=3, n_heads=1, dim=10)),
    "distilbert, odd": (
        hf.DistilBertForMaskedLM,
        hf.DistilBertConfig(**DISTIL, n_layers=1, n_heads=2, dim=22, hidden_dim=10, activation="relu"),
    ),
    "modernbert": (hf.ModernBertModel, hf.ModernBertConfig(**MODERN | small(num_hidden_layers=5, local_attention=8))),
    "modernbert, odd": (
        hf.ModernBertModel,
        hf.ModernBertConfig(**MODERN | small(num_hidden_layers=4, local_attention=6, norm_bias=True, mlp_bias=True,
                            attention_bias=True, global_attn_every_n_layers=2)),
    ),
    "modernbert, with its head": (hf.ModernBertForMaskedLM, hf.ModernBertConfig(**MODERN | small(local_attention=128))),
    "gpt2": (hf.GPT2Model, hf.GPT2Config(**GPT2, n_embd=36, n_layer=2, n_head=3)),
    "gpt2, odd": (hf.GPT2LMHeadModel, hf.GPT2Config(**GPT2, n_embd=30, n_layer=3, n_head=5, n_inner=44)),
    "gpt2, exact gelu": (
        hf.GPT2LMHeadModel, hf.GPT2Config(**GPT2, n_embd=16, n_layer=1, n_head=1, activation_function="gelu")
    ),
    "llama": (hf.LlamaForCausalLM, hf.LlamaConfig(**LLAMA, num_key_value_heads=2, rope_parameters=ROTARY)),
    "llama, odd": (
        hf.LlamaForCausalLM,
        hf.LlamaConfig(**LLAMA, num_key_value_heads=6, head_dim=10, attention_bias=True, mlp_bias=True,
                       tie_word_embeddings=True),
    ),
    "llama 3.1": (
        hf.LlamaForCausalLM,
        hf.LlamaConfig(**LLAMA, num_key_value_heads=3, head_dim=16, rope_parameters=ROTARY | {
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16}),
    ),
    "llama, slowed": (
        hf.LlamaForCausalLM,
        hf.LlamaConfig(**LLAMA, num_key_value_heads=3, head_dim=16, rope_parameters=ROTARY | {
            "rope_type": "linear", "factor": 2.5}),
    ),
    "qwen2, yarn": (
        hf.Qwen2ForCausalLM,
        hf.Qwen2Config(**LLAMA, num_key_value_heads=3, rope_parameters=ROTARY | {
            "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 15, "beta_fast": 4.0}),
    ),
    "qwen3, yarn as asked for": (
        hf.Qwen3ForCausalLM,
        hf.Qwen3Config(**LLAMA, num_key_value_heads=2, head_dim=18, rope_parameters=ROTARY | {
            "rope_type": "yarn", "factor": 3.0, "original_max_position_embeddings": 20, "truncate": False,
            "mscale": 0.7, "mscale_all_dim": 1.3}),
    ),
    "llama, a window that it has not": (
        hf.LlamaModel, hf.LlamaConfig(**LLAMA, num_key_value_heads=2, sliding_window=4, use_sliding_window=True)
    ),
    "llama, bare": (hf.LlamaModel, hf.LlamaConfig(**LLAMA, num_key_value_heads=1, rms_norm_eps=1e-3)),
    "qwen2": (hf.Qwen2ForCausalLM, hf.Qwen2Config(**LLAMA, num_key_value_heads=3)),
    "qwen2, both ways": (hf.Qwen2Model, hf.Qwen2Config(**LLAMA, num_key_value_heads=3, is_causal=False)),
    "qwen2, windows both ways": (
        hf.Qwen2Model, hf.Qwen2Config(**LLAMA, num_key_value_heads=2, is_causal=False, use_sliding_window=True,
                                      sliding_window=4, max_window_layers=1)
    ),
    "qwen2, biases that it has not": (
        hf.Qwen2Model, hf.Qwen2Config(**LLAMA, num_key_value_heads=2, attention_bias=True, mlp_bias=True)
    ),
    "gpt2, both ways": (hf.GPT2Model, hf.GPT2Config(**GPT2, n_embd=36, n_layer=2, n_head=3, is_causal=False)),
    "qwen2, windows": (
        hf.Qwen2ForCausalLM,
        hf.Qwen2Config(**LLAMA, num_key_value_heads=2, use_sliding_window=True, sliding_window=5, max_window_layers=1),
    ),
    "qwen2, bare": (hf.Qwen2Model, hf.Qwen2Config(**LLAMA, num_key_value_heads=1, tie_word_embeddings=True)),
    "qwen3": (hf.Qwen3ForCausalLM, hf.Qwen3Config(**LLAMA, num_key_value_heads=2, head_dim=8)),
    "qwen3, odd": (
        hf.Qwen3ForCausalLM,
        hf.Qwen3Config(**LLAMA, num_key_value_heads=3, head_dim=14, attention_bias=True, tie_word_embeddings=True),
    ),
    "qwen3, bare": (hf.Qwen3Model, hf.Qwen3Config(**LLAMA, num_key_value_heads=1, head_dim=16, rope_parameters=ROTARY)),
}  # fmt: skip

LABELS = {"num_labels": 3, "pad_token_id": 0}
CLASSIFIERS: dict[str, tuple[Any, Any]] = {
    "bert": (hf.BertForSequenceClassification, hf.BertConfig(**small(**LABELS))),
    "bert, a reranker": (hf.BertForSequenceClassification, hf.BertConfig(**small(num_labels=1))),
    "bert, several labels": (
        hf.BertForSequenceClassification,
        hf.BertConfig(**small(**LABELS, problem_type="multi_label_classification", hidden_size=30)),
    ),
    "roberta": (hf.RobertaForSequenceClassification, hf.RobertaConfig(**small(num_labels=4, pad_token_id=1))),
    "distilbert": (
        hf.DistilBertForSequenceClassification,
        hf.DistilBertConfig(**DISTIL, n_layers=2, n_heads=3, dim=36, hidden_dim=50, num_labels=3),
    ),
    "modernbert": (hf.ModernBertForSequenceClassification, hf.ModernBertConfig(**MODERN | small(num_labels=3))),
    "modernbert, mean": (
        hf.ModernBertForSequenceClassification,
        hf.ModernBertConfig(**MODERN | small(num_labels=3, classifier_pooling="mean", classifier_bias=True,
                            norm_bias=True, classifier_activation="relu")),
    ),
    "gpt2": (
        hf.GPT2ForSequenceClassification, hf.GPT2Config(**GPT2, n_embd=36, n_layer=2, n_head=3, **LABELS)
    ),
    "llama": (hf.LlamaForSequenceClassification, hf.LlamaConfig(**LLAMA, num_key_value_heads=2, **LABELS)),
    "llama, padded": (
        hf.LlamaForSequenceClassification,
        hf.LlamaConfig(**LLAMA, num_key_value_heads=2, **LABELS | {"pad_token_id": 7}),
    ),
    "qwen3": (hf.Qwen3ForSequenceClassification, hf.Qwen3Config(**LLAMA, num_key_value_heads=3, head_dim=8, **LABELS)),
}  # fmt: skip

NUMBER = {"num_labels": 2, "problem_type": "regression"}
REGRESSORS: dict[str, tuple[Any, Any]] = {
    "bert": (hf.BertForSequenceClassification, hf.BertConfig(**small(**NUMBER | {"num_labels": 1}))),
    "modernbert": (hf.ModernBertForSequenceClassification, hf.ModernBertConfig(**MODERN | small(**NUMBER))),
    "gpt2": (
        hf.GPT2ForSequenceClassification, hf.GPT2Config(**GPT2, n_embd=36, n_layer=2, n_head=3, **NUMBER)
    ),
}  # fmt: skip

PATCHES = {"image_size": 32, "patch_size": 8}


def seeing(**given: Any) -> dict[str, Any]:
    shape = {"hidden_size": 36, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 52}
    return PATCHES | shape | given


IMAGES: dict[str, tuple[Any, Any]] = {
    "vit": (hf.ViTModel, hf.ViTConfig(**seeing())),
    "vit, another pooler": (hf.ViTModel, hf.ViTConfig(**seeing(pooler_output_size=20, pooler_act="relu"))),
    "vit, odd": (
        partial(hf.ViTModel, add_pooling_layer=False),
        hf.ViTConfig(**seeing(patch_size=5, image_size=25, hidden_size=30, qkv_bias=False, hidden_act="gelu_new")),
    ),
    "vit, classes": (
        hf.ViTForImageClassification, hf.ViTConfig(**seeing(num_labels=5, num_attention_heads=4, layer_norm_eps=1e-3))
    ),
    "vit, pre-training": (
        hf.ViTForMaskedImageModeling, hf.ViTConfig(**seeing(num_attention_heads=2, encoder_stride=8))
    ),
    "deit": (hf.DeiTModel, hf.DeiTConfig(**seeing())),
    "deit, classes": (hf.DeiTForImageClassification, hf.DeiTConfig(**seeing(num_labels=4, hidden_size=42))),
    "deit, teacher": (
        hf.DeiTForImageClassificationWithTeacher, hf.DeiTConfig(**seeing(num_labels=4, num_attention_heads=2))
    ),
    "dinov2": (hf.Dinov2Model, hf.Dinov2Config(**seeing(patch_size=4, image_size=20))),
    "dinov2, gated": (hf.Dinov2Model, hf.Dinov2Config(**seeing(use_swiglu_ffn=True, mlp_ratio=3, hidden_size=30))),
    "dinov2, classes": (
        hf.Dinov2ForImageClassification, hf.Dinov2Config(**seeing(num_labels=3, qkv_bias=False, use_mask_token=False))
    ),
    "dinov2, registers": (hf.Dinov2WithRegistersModel, hf.Dinov2WithRegistersConfig(**seeing(num_register_tokens=2))),
    "dinov2, registers, gated": (
        hf.Dinov2WithRegistersModel, hf.Dinov2WithRegistersConfig(**seeing(use_swiglu_ffn=True, num_attention_heads=2))
    ),
    "dinov2, registers, classes": (
        hf.Dinov2WithRegistersForImageClassification, hf.Dinov2WithRegistersConfig(**seeing(num_labels=3))
    ),
    "clip, pictures": (hf.CLIPVisionModel, hf.CLIPVisionConfig(**seeing())),
    "clip, pictures, projected": (
        hf.CLIPVisionModelWithProjection, hf.CLIPVisionConfig(**seeing(projection_dim=22, hidden_act="gelu"))
    ),
    "clip, pictures, odd": (
        hf.CLIPVisionModel,
        hf.CLIPVisionConfig(**seeing(patch_size=5, image_size=25, hidden_size=30, layer_norm_eps=1e-3)),
    ),
    "siglip, pictures": (hf.SiglipVisionModel, hf.SiglipVisionConfig(**seeing())),
    "siglip, pictures, odd": (
        hf.SiglipVisionModel, hf.SiglipVisionConfig(**seeing(hidden_size=42, layer_norm_eps=1e-3, hidden_act="gelu"))
    ),
    "siglip, pictures, no head": (hf.SiglipVisionModel, hf.SiglipVisionConfig(**seeing(vision_use_head=False))),
}  # fmt: skip

# Architecture, and arguments of timm.create_model.
TIMM: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("vit_tiny_patch16_224", {"img_size": 64, "depth": 2, "embed_dim": 36, "num_heads": 3, "num_classes": 5}),
    "not square": ("vit_tiny_patch16_224", {"img_size": (32, 64), "depth": 1, "num_classes": 0}),
    "no qkv bias": ("vit_base_patch16_224_miil", {"img_size": 64, "depth": 1, "embed_dim": 96}),
    "dinov2": ("vit_small_patch14_reg4_dinov2", {"img_size": 56, "depth": 2, "embed_dim": 60}),
    "dinov2, gated": ("vit_giant_patch14_dinov2", {"img_size": 56, "depth": 1, "embed_dim": 48, "num_heads": 4}),
    "distilled": ("deit_tiny_distilled_patch16_224", {"img_size": 48, "depth": 1, "num_classes": 7}),
    "deit3": ("deit3_small_patch16_224", {"img_size": 48, "depth": 1, "embed_dim": 60}),
    "clip": ("vit_base_patch16_clip_quickgelu_224", {"img_size": 64, "depth": 1, "embed_dim": 48, "num_heads": 4}),
    "siglip": ("vit_base_patch16_siglip_224", {"img_size": 64, "depth": 2, "embed_dim": 48, "num_heads": 4}),
    "attention behind class tokens": (
        "vit_small_patch14_reg4_dinov2", {"img_size": 56, "depth": 1, "embed_dim": 60, "global_pool": "map"}
    ),
    "mean": ("vit_base_patch16_reg4_gap_256", {"img_size": 64, "depth": 1, "embed_dim": 48, "num_classes": 3}),
}

READING = {"vocab_size": VOCABULARY, "max_position_embeddings": 60, "hidden_size": 30, "num_hidden_layers": 2,
           "num_attention_heads": 3, "intermediate_size": 44}  # fmt: skip
TOWERS: dict[str, Callable[[], Any]] = {
    "clip": lambda: hf.CLIPModel(
        hf.CLIPConfig(text_config=READING | {"eos_token_id": 96}, vision_config=seeing(), projection_dim=20)
    ),
    "clip, as old files say": lambda: hf.CLIPModel(
        hf.CLIPConfig(text_config=READING | {"eos_token_id": 2, "hidden_act": "gelu"},
                      vision_config=seeing(hidden_act="gelu", patch_size=16), projection_dim=50)
    ),
    "clip, narrow": lambda: hf.CLIPModel(
        hf.CLIPConfig(text_config=READING | {"eos_token_id": 96, "hidden_size": 42},
                      vision_config=seeing(hidden_size=22, num_attention_heads=1), projection_dim=7)
    ),
    "siglip": lambda: hf.SiglipModel(
        hf.SiglipConfig(text_config=READING | {"projection_size": 36}, vision_config=seeing())
    ),
    "siglip, odd": lambda: hf.SiglipModel(
        hf.SiglipConfig(text_config=READING | {"hidden_size": 42, "projection_size": 26, "hidden_act": "gelu"},
                        vision_config=seeing(hidden_size=26, num_attention_heads=2, patch_size=4))
    ),
    "siglip, other eps": lambda: hf.SiglipModel(
        hf.SiglipConfig(text_config=READING | {"projection_size": 36, "layer_norm_eps": 1e-3},
                        vision_config=seeing(layer_norm_eps=1e-4, num_attention_heads=4))
    ),
}  # fmt: skip


WATCHING = {"hidden_size": 36, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 52}
DECODER = {"decoder_hidden_size": 8, "decoder_num_attention_heads": 2, "decoder_num_hidden_layers": 1,
           "decoder_intermediate_size": 8}  # fmt: skip
WAYS = {"id2label": {0: "left", 1: "right", 2: "still"}}
_VIDEOS: dict[str, tuple[Any, dict[str, Any]]] = {
    "mean": (hf.VideoMAEModel, {"image_size": 16, "patch_size": 4, "num_frames": 4}),
    "wide, single frames": (
        hf.VideoMAEModel,
        {"image_size": [8, 20], "patch_size": 4, "num_frames": 6, "tubelet_size": 1, "use_mean_pooling": False},
    ),
    "classes": (
        hf.VideoMAEForVideoClassification,
        {"image_size": 12, "patch_size": 3, "num_frames": 6, "tubelet_size": 3, "hidden_act": "gelu_new"} | WAYS,
    ),
    "classes, the first token": (
        hf.VideoMAEForVideoClassification,
        {"image_size": [21, 15], "patch_size": 5, "num_frames": 8, "use_mean_pooling": False, "layer_norm_eps": 1e-3}
        | WAYS,
    ),
    "with its decoder": (
        hf.VideoMAEForPreTraining,
        {"image_size": [24, 16], "patch_size": 8, "num_frames": 4, "hidden_size": 26, "num_attention_heads": 2,
         "use_mean_pooling": False},
    ),
    "no biases": (hf.VideoMAEModel, {"image_size": 16, "patch_size": 8, "num_frames": 7, "qv_bias": False}),
}  # fmt: skip
VIDEOS: dict[str, tuple[Any, Any]] = {
    name: (make, hf.VideoMAEConfig(**WATCHING | DECODER | given)) for name, (make, given) in _VIDEOS.items()
}


@torch.no_grad()
def drawn(make: Callable[..., Any], *config: Any) -> Any:
    """Every parameter drawn, so that one that is dropped or swapped shows."""
    torch.manual_seed(0)
    model = make(*config).eval()
    for name, p in model.named_parameters():
        noise = torch.randn_like(p)
        is_gain = p.ndim == 1 and name.endswith(("weight", "lambda1", "gamma"))
        p.copy_(1 + 0.3 * noise if is_gain else noise * (0.3 if p.ndim < 2 else p[0].numel() ** -0.5))
    return model


def loaded(case: tuple[Any, Any], folder: Path) -> tuple[Any, Model, Path]:
    """An original, what we make of its folder, and the folder."""
    original = drawn(*case)
    original.save_pretrained(folder)
    return original, Model.from_pretrained(folder, "cpu"), folder


def sequences(seed: int = 0) -> list[Tensor]:
    """Ids of mixed lengths; none is a special one."""
    rng = np.random.default_rng(seed)
    return [torch.from_numpy(rng.integers(5, VOCABULARY, n)) for n in (7, 1, 40, 7, 23, 2)]


def pictures(multiple: int = 8) -> list[Tensor]:
    """Normalised pixels (3, h, w) of several sizes; the last leaves a rest beside whole patches."""
    rng = np.random.default_rng(1)
    sizes = [(4, 4), (4, 4), (3, 6), (5, 4), (1, 2)]
    shapes = [*((h * multiple, w * multiple) for h, w in sizes), (4 * multiple + 3, 6 * multiple + multiple // 2)]
    return [torch.from_numpy(rng.normal(size=(3, *shape)).astype(np.float32)) for shape in shapes]


def clips(config: Any, count: int = 3) -> list[Tensor]:
    """Pixel values (frames, 3, height, width)."""
    size = config.image_size if isinstance(config.image_size, list | tuple) else [config.image_size] * 2
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(config.num_frames, 3, *size, generator=generator) for _ in range(count)]


def photos() -> list[Image.Image]:
    """Pictures of several shapes, larger and smaller than what models take."""
    rng = np.random.default_rng(2)
    sizes = [(400, 300), (200, 500), (41, 97), (31, 20), (224, 224), (999, 231)]
    coarse = [rng.integers(0, 256, (h // 7 + 1, w // 7 + 1, 3), dtype=np.uint8) for w, h in sizes]
    return [Image.fromarray(a).resize(size, Image.Resampling.BILINEAR) for a, size in zip(coarse, sizes, strict=True)]


TEXTS = [
    "The quick brown fox jumps over the lazy dog.", "", " ", "naïve café, Straße", "日本語のテキスト", "Привет, мир!",
    "مرحبا", "emoji 🚀👩‍🚀", "tabs\tand\nlines\r\n", "a" * 90,
    "[CLS] not special [SEP]", "x\u0000y", "ﬁ ½ Å", "#hash @me",
]  # fmt: skip
CORPUS = [*TEXTS, *(f"word{i} and number {i * 37}" for i in range(200))]


def wordpiece() -> hf.PreTrainedTokenizerFast:
    made = fast.BertWordPieceTokenizer()
    made.train_from_iterator(CORPUS, vocab_size=400, show_progress=False)
    ids = {name: made.token_to_id(name) for name in ("[CLS]", "[SEP]")}
    made.post_processor = fast.processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=made._tokenizer, cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]", unk_token="[UNK]"
    )


def byte_level() -> hf.PreTrainedTokenizerFast:
    made = fast.ByteLevelBPETokenizer()
    made.train_from_iterator(CORPUS, vocab_size=400, show_progress=False, special_tokens=["<|endoftext|>"])
    return hf.PreTrainedTokenizerFast(tokenizer_object=made._tokenizer, eos_token="<|endoftext|>")


def unigram() -> hf.PreTrainedTokenizerFast:
    made = fast.Tokenizer(fast.models.Unigram())
    made.pre_tokenizer, made.decoder = fast.pre_tokenizers.Metaspace(), fast.decoders.Metaspace()
    trainer = fast.trainers.UnigramTrainer(
        vocab_size=300, special_tokens=["<s>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    made.train_from_iterator(CORPUS, trainer)
    made.post_processor = fast.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return hf.PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def clip_tokenizer() -> hf.CLIPTokenizer:
    made = fast.Tokenizer(fast.models.BPE(end_of_word_suffix="</w>"))
    made.normalizer = fast.normalizers.Lowercase()
    made.pre_tokenizer = fast.pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<|startoftext|>", "<|endoftext|>"]
    trainer = fast.trainers.BpeTrainer(
        vocab_size=700, end_of_word_suffix="</w>", special_tokens=special, show_progress=False
    )
    made.train_from_iterator(CORPUS, trainer)
    model = json.loads(made.to_str())["model"]
    for sign in fast.pre_tokenizers.ByteLevel.alphabet():
        for piece in (sign, f"{sign}</w>"):
            model["vocab"].setdefault(piece, len(model["vocab"]))
    return hf.CLIPTokenizer(vocab=model["vocab"], merges=[tuple(merge) for merge in model["merges"]])


def small_bert(folder: Path, vocabulary: int = 400) -> hf.BertModel:
    config = hf.BertConfig(
        **BERT | {"vocab_size": vocabulary}, hidden_size=36, num_hidden_layers=2, num_attention_heads=3
    )
    model = drawn(hf.BertModel, config)
    model.save_pretrained(folder)
    return model


AST = {"num_attention_heads": 3, "num_hidden_layers": 2, "hidden_size": 30, "intermediate_size": 52}
WHISPER = {
    "d_model": 30, "encoder_layers": 2, "encoder_attention_heads": 3, "encoder_ffn_dim": 52, "decoder_layers": 1,
    "decoder_attention_heads": 3, "decoder_ffn_dim": 20, "vocab_size": VOCABULARY, "max_source_positions": 50,
    "pad_token_id": 1, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
}  # fmt: skip


def ast_case(make: Any, mels: int, frames: int, extractor: dict[str, Any], **given: Any) -> tuple[Any, Any, Any]:
    config = hf.ASTConfig(**AST | {"num_mel_bins": mels, "max_length": frames} | given)
    return make, config, hf.ASTFeatureExtractor(num_mel_bins=mels, max_length=frames, **extractor)


def whisper_case(make: Any, mels: int, extractor: dict[str, Any], **given: Any) -> tuple[Any, Any, Any]:
    config = hf.WhisperConfig(**WHISPER | {"num_mel_bins": mels} | given)
    return make, config, hf.WhisperFeatureExtractor(mels, **{"chunk_length": 1, **extractor})


AUDIO: dict[str, tuple[Any, Any, Any]] = {  # the last is the feature extractor
    "ast": ast_case(hf.ASTModel, 128, 100, {}),
    "ast, odd": ast_case(hf.ASTModel, 37, 83, {"mean": -3.0, "std": 2.5}, patch_size=9, frequency_stride=7,
                         time_stride=4, qkv_bias=False, layer_norm_eps=1e-3, num_attention_heads=5),
    "ast, gaps between patches": ast_case(hf.ASTModel, 40, 60, {"do_normalize": False}, patch_size=6,
                                          frequency_stride=8, time_stride=11, hidden_act="gelu_new"),
    "ast, with its head": ast_case(hf.ASTForAudioClassification, 64, 90, {}, num_labels=7, hidden_size=42),
    "ast, with a head of many labels": ast_case(hf.ASTForAudioClassification, 24, 50, {}, num_labels=3,
                                                problem_type="multi_label_classification", time_stride=16),
    "whisper": whisper_case(hf.WhisperForConditionalGeneration, 80, {}),
    "whisper, odd": whisper_case(hf.WhisperModel, 128, {"hop_length": 100}, max_source_positions=80, d_model=42,
                                 encoder_attention_heads=7, scale_embedding=True),
    "whisper, encoder alone": whisper_case(WhisperEncoder, 23, {"n_fft": 512, "chunk_length": 2}, encoder_layers=3,
                                           max_source_positions=100, activation_function="relu"),
    "whisper, with a head": whisper_case(hf.WhisperForAudioClassification, 40, {}, classifier_proj_size=19,
                                         num_labels=5),
}  # fmt: skip


def audio_encoder(original: Any) -> Any:
    """What of an original makes hidden states of spectrograms."""
    return getattr(original.base_model, "encoder", original.base_model)


def audio_windows(extractor: Any, seed: int = 0) -> list[Tensor]:
    """Spectrograms as an extractor gives them, of sounds of mixed lengths."""
    rng = np.random.default_rng(seed)
    sounds = [rng.uniform(-0.5, 0.5, n).astype(np.float32) for n in (16_000, 4_001, 400, 9_999)]
    return [extractor(s, sampling_rate=16_000, return_tensors="pt")[extractor.model_input_names[0]][0] for s in sounds]
