"""Published families against the libraries that they come from, with weights that are all drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from published_models import CASES, CLASSIFIERS, REGRESSORS, drawn, loaded, sequences
from safetensors.torch import load_file, save_file

from unitx.model import Model


@pytest.fixture(params=CASES, scope="module")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Model, Path]:
    """An original and what we make of its folder."""
    return loaded(CASES[request.param], tmp_path_factory.mktemp("published"))


@torch.no_grad()
def test_hidden_states_are_the_originals(pair: tuple[Any, Model, Path]) -> None:
    original, model, _ = pair
    for ids, ours in zip(sequences(), model.hidden_states(sequences()), strict=True):
        theirs = original.base_model(ids[None]).last_hidden_state[0]
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


@torch.no_grad()
def test_pooled_outputs_are_the_originals(pair: tuple[Any, Model, Path]) -> None:
    original, model, _ = pair
    theirs = [original.base_model(ids[None]) for ids in sequences()]
    if getattr(theirs[0], "pooler_output", None) is None:
        assert model.embedding_head is None
        return
    ours = model.embed(sequences(), normalize=False)
    np.testing.assert_allclose(ours, torch.cat([found.pooler_output for found in theirs]), atol=1e-4)


@torch.no_grad()
def test_a_language_model_says_what_the_original_says(pair: tuple[Any, Model, Path]) -> None:
    original, model, _ = pair
    if not model.tasks or model.tasks == ["pooled"]:
        return
    states = model.hidden_states(sequences())
    head = model.head("language-model")
    for ids, vectors in zip(sequences(), states, strict=True):
        if hasattr(original, "lm_head"):
            theirs = original(ids[None]).logits[0]
        else:
            theirs = original(ids[None]).last_hidden_state[0] @ original.get_input_embeddings().weight.T
        torch.testing.assert_close(head.next_logits(vectors), theirs, atol=1e-4, rtol=0)


def answering(case: tuple[Any, Any], folder: Path, asked: list[torch.Tensor]) -> tuple[Any, Model, torch.Tensor]:
    """An original that answers for a whole sequence, what we make of its folder, and its logits."""
    original = drawn(*case)
    original.save_pretrained(folder)
    logits = torch.cat([original(ids[None]).logits for ids in asked])
    return original, Model.from_pretrained(folder, "cpu"), logits


@pytest.mark.parametrize("name", CLASSIFIERS)
@torch.no_grad()
def test_a_classifier_answers_as_the_original(name: str, tmp_path: Path) -> None:
    original, model, logits = answering(CLASSIFIERS[name], tmp_path, sequences())
    each = original.config.problem_type or logits.shape[1] == 1
    theirs = logits.sigmoid() if each else logits.softmax(-1)
    np.testing.assert_allclose(model.predict_proba(sequences(), "text-classify"), theirs, atol=1e-5)
    assert model.labels("text-classify") == [f"LABEL_{i}" for i in range(logits.shape[1])]
    again = Model.from_pretrained(model.save_pretrained(tmp_path / "ours"), "cpu")
    ours = [m.predict_proba(sequences(), "text-classify") for m in (model, again)]
    np.testing.assert_array_equal(*ours)


@pytest.mark.parametrize("name", REGRESSORS)
@torch.no_grad()
def test_a_published_model_that_answers_in_numbers_does_so(name: str, tmp_path: Path) -> None:
    _, model, theirs = answering(REGRESSORS[name], tmp_path, sequences())
    ours = [[answer.score for answer in found] for found in model.predict(sequences(), "text-regress")]
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


@torch.no_grad()
def test_a_decoder_classifies_by_the_last_token_that_is_no_padding(tmp_path: Path) -> None:
    asked = [torch.tensor(ids) for ids in ([5, 6, 7, 7], [5, 6], [5, 7, 6], [7, 7], [7, 6, 7])]
    _, model, logits = answering(CLASSIFIERS["llama, padded"], tmp_path, asked)
    np.testing.assert_allclose(model.predict_proba(asked), logits.softmax(-1), atol=1e-5)


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 16}  # fmt: skip


@pytest.mark.parametrize(
    ("case", "edits", "without"),
    [
        ("qwen2", {"rope_scaling": LLAMA3}, ()),  # beside rope_parameters
        ("qwen2", {"sliding_window": 3, "max_window_layers": 0}, ("use_sliding_window", "layer_types")),
        ("qwen2, both ways", {"is_causal": True}, ()),
    ],
)
@torch.no_grad()
def test_fields_that_files_of_several_versions_have(case: str, edits: dict, without: tuple, tmp_path: Path) -> None:
    make, config = CASES[case]
    drawn(make, config).save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text()) | edits
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in fields.items() if k not in without}))
    original, model = make.from_pretrained(tmp_path).eval().base_model, Model.from_pretrained(tmp_path, "cpu")
    for ids, ours in zip(sequences(), model.hidden_states(sequences()), strict=True):
        torch.testing.assert_close(ours, original(ids[None]).last_hidden_state[0], atol=1e-4, rtol=0)


@torch.no_grad()
def test_a_shared_table_may_be_stored_as_the_heads(tmp_path: Path) -> None:
    make, config = CASES["llama, odd"]
    original = drawn(make, config)
    original.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["lm_head.weight"] = weights.pop("model.embed_tokens.weight")
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    ids, model = sequences()[0], Model.from_pretrained(tmp_path, "cpu")
    states = model.hidden_states([ids])[0]
    torch.testing.assert_close(states, original.base_model(ids[None]).last_hidden_state[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(
        model.head("language-model").next_logits(states), original(ids[None]).logits[0], atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("case", ["gpt2, odd", "llama, odd"])
@torch.no_grad()
def test_a_head_of_its_own_counts_whatever_the_configuration_says(case: str, tmp_path: Path) -> None:
    make, config = CASES[case]
    original = drawn(make, config)
    original.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["lm_head.weight"] = torch.randn(original.lm_head.weight.shape)
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    original, model = make.from_pretrained(tmp_path).eval(), Model.from_pretrained(tmp_path, "cpu")
    ids = sequences()[0]
    ours = model.head("language-model").next_logits(model.hidden_states([ids])[0])
    torch.testing.assert_close(ours, original(ids[None]).logits[0], atol=1e-4, rtol=0)


def test_it_is_kept_in_our_own_format(pair: tuple[Any, Model, Path], tmp_path: Path) -> None:
    _, model, _ = pair
    again = Model.from_pretrained(model.save_pretrained(tmp_path / "ours"), "cpu")
    for a, b in zip(model.hidden_states(sequences()), again.hidden_states(sequences()), strict=True):
        assert torch.equal(a, b)
