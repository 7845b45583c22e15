"""Small published models with weights that are all drawn, their tokenizers, and what to give them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf
from torch import Tensor

import tokenizers as fast

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
    "llama, a window that it has not": (
        hf.LlamaModel, hf.LlamaConfig(**LLAMA, num_key_value_heads=2, sliding_window=4, use_sliding_window=True)
    ),
    "llama, bare": (hf.LlamaModel, hf.LlamaConfig(**LLAMA, num_key_value_heads=1, rms_norm_eps=1e-3)),
    "qwen2": (hf.Qwen2ForCausalLM, hf.Qwen2Config(**LLAMA, num_key_value_heads=3)),
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


@torch.no_grad()
def drawn(make: Callable[[Any], Any], config: Any) -> Any:
    """Every parameter drawn, so that one that is dropped or swapped shows."""
    torch.manual_seed(0)
    model = make(config).eval()
    for name, p in model.named_parameters():
        noise = torch.randn_like(p)
        is_gain = p.ndim == 1 and name.endswith(("weight", "lambda1", "gamma"))
        p.copy_(1 + 0.3 * noise if is_gain else noise * (0.3 if p.ndim < 2 else p[0].numel() ** -0.5))
    return model


def sequences(seed: int = 0) -> list[Tensor]:
    """Ids of mixed lengths; none is a special one."""
    rng = np.random.default_rng(seed)
    return [torch.from_numpy(rng.integers(5, VOCABULARY, n)) for n in (7, 1, 40, 7, 23, 2)]


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


def small_bert(folder: Path, vocabulary: int = 400) -> hf.BertModel:
    config = hf.BertConfig(
        **BERT | {"vocab_size": vocabulary}, hidden_size=36, num_hidden_layers=2, num_attention_heads=3
    )
    model = drawn(hf.BertModel, config)
    model.save_pretrained(folder)
    return model
