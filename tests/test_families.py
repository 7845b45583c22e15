"""Published families against the libraries that they come from, with weights that are all drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from published_models import CASES, CLASSIFIERS, REGRESSORS, drawn, loaded, sequences

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


@pytest.mark.parametrize("name", CLASSIFIERS)
@torch.no_grad()
def test_a_classifier_answers_as_the_original(name: str, tmp_path: Path) -> None:
    original = drawn(*CLASSIFIERS[name])
    original.save_pretrained(tmp_path)
    model = Model.from_pretrained(tmp_path, "cpu")
    logits = torch.cat([original(ids[None]).logits for ids in sequences()])
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
    original = drawn(*REGRESSORS[name])
    original.save_pretrained(tmp_path)
    model = Model.from_pretrained(tmp_path, "cpu")
    theirs = torch.cat([original(ids[None]).logits for ids in sequences()])
    ours = [[answer.score for answer in found] for found in model.predict(sequences(), "text-regress")]
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_it_is_kept_in_our_own_format(pair: tuple[Any, Model, Path], tmp_path: Path) -> None:
    _, model, _ = pair
    again = Model.from_pretrained(model.save_pretrained(tmp_path / "ours"), "cpu")
    for a, b in zip(model.hidden_states(sequences()), again.hidden_states(sequences()), strict=True):
        assert torch.equal(a, b)
