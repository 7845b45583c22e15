from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from small_models import STORIES, batch_of, small_model
from torch import Tensor

from unitx.errors import UnitxError
from unitx.model import Model
from unitx.task import TaskInfo
from unitx.tasks.next_token import NextToken
from unitx.tokenizers.text import train_sentencepiece
from unitx.tokens import Targets

TEXTS = ["Once upon", "a", "", "the end of it", "été"]


def batch_and_ids(model: Model, texts: list[str] = TEXTS) -> tuple:
    ids = [model.processors["text"].prepare(text).values for text in texts]
    return batch_of(model, [("stories", {"text": text}) for text in texts]), ids


def naive(model: Model, ids: list[np.ndarray]) -> list[Tensor]:
    """Nats of each id after the first, from the hidden states of the sequence up to the one before it."""
    found = []
    for sequence in ids:
        nats = []
        for n in range(1, len(sequence)):
            row = [("stories", {"text": sequence[:n]})]
            states = model.encode(batch_of(model, row)).to_list()[0]
            nats.append(-(model.heads["stories"].head.weight @ states[-1]).log_softmax(0)[sequence[n]])
        found.append(torch.stack(nats))
    return found


@torch.no_grad()
def test_the_loss_is_that_of_each_token_from_those_before_it() -> None:
    model = small_model(STORIES)
    batch, ids = batch_and_ids(model)
    head, tokens, targets = model.heads["stories"], model.encode(batch), batch.targets["stories"]
    expected = naive(model, ids)
    found = head.loss(tokens, targets)
    assert targets.count == sum(len(sequence) - 1 for sequence in ids)
    assert float(found.sum) == pytest.approx(float(torch.cat(expected).sum()), rel=1e-4)
    outputs = head.outputs(tokens, targets.rows)
    byte_counts = [min(len(text.encode()), 11) for text in TEXTS]
    assert outputs[:, 1].tolist() == byte_counts and outputs[:, 2].tolist() == [len(s) - 1 for s in ids]
    torch.testing.assert_close(outputs[:, 0], torch.stack([n.sum() for n in expected]), rtol=1e-4, atol=1e-4)
    scores = head.score(outputs, None)
    assert scores["bits_per_byte"] == pytest.approx(
        float(torch.cat(expected).sum()) / math.log(2) / sum(byte_counts), rel=1e-4
    )
    assert scores["loss"] == pytest.approx(float(torch.cat(expected).mean()), rel=1e-4)


@pytest.mark.parametrize("vocabulary", ["bytes", "sentencepiece"])
def test_a_new_head_says_log2_of_the_vocabulary_per_token(vocabulary: str) -> None:
    spm = train_sentencepiece(["once upon a time there was a tree"] * 5, 300) if vocabulary != "bytes" else b""
    model = Model(
        small_model().backbone.config,
        small_model(vocabulary=vocabulary, spm=spm, max_tokens=64).processors,
        [STORIES],
    )
    texts = ["once upon a time", "a tree"]
    batch, ids = batch_and_ids(model, texts)
    head = model.heads["stories"]
    outputs = head.outputs(model.encode(batch), batch.targets["stories"].rows).detach()
    assert outputs[:, 1].sum() == sum(len(text) for text in texts)
    tokens = sum(len(sequence) - 1 for sequence in ids)
    per_byte = tokens * math.log2(model.processors["text"].vocab_size) / sum(len(text) for text in texts)
    assert head.score(outputs, None)["bits_per_byte"] == pytest.approx(per_byte, rel=1e-6)


def test_no_logit_depends_on_a_later_token() -> None:
    model = small_model(STORIES)
    batch, _ = batch_and_ids(model, ["abcdef"])
    vectors = model.embed_pieces(batch)
    leaf = vectors.vectors.detach().requires_grad_()
    states = model.backbone(vectors.with_vectors(leaf)).vectors
    for place in range(len(leaf)):
        (gradient,) = torch.autograd.grad(model.heads["stories"].next_logits(states[place]).square().sum(), leaf,
                                          retain_graph=True)  # fmt: skip
        touched = gradient.abs().sum(-1) > 0
        assert touched[: place + 1].all() and not touched[place + 1 :].any()


def test_only_the_tasks_own_sequences_are_predicted() -> None:
    other = TaskInfo("kind", "classify", {"text": "text"}, "kind", ["a", "b"])
    model = small_model(STORIES, other)
    head = model.heads["stories"]
    alone = batch_of(model, [("stories", {"text": text}) for text in TEXTS])
    mixed = batch_of(
        model, [row for text in TEXTS for row in (("kind", {"text": "xyz", "kind": "a"}), ("stories", {"text": text}))]
    )
    losses = [head.loss(model.encode(batch), batch.targets["stories"]) for batch in (alone, mixed)]
    torch.testing.assert_close(losses[0].sum, losses[1].sum, rtol=1e-5, atol=1e-4)
    assert alone.targets["stories"].count == mixed.targets["stories"].count > 0


def test_zero_rows_give_zero_loss_and_zero_gradients() -> None:
    model = small_model(STORIES)
    batch, _ = batch_and_ids(model)
    head = model.heads["stories"]
    loss = head.loss(model.encode(batch), Targets(torch.zeros(0, dtype=torch.long), None, 0)).sum
    loss.backward()
    assert loss.item() == 0 and not head.head.weight.grad.any()
    assert head.score(head.outputs(model.encode(batch), torch.zeros(0, dtype=torch.long)), None)["loss"] == 0


def test_rows_without_text_give_no_example() -> None:
    assert NextToken.examples(STORIES, {"text": None}) == []
    (example,) = NextToken.examples(STORIES, {"text": "a"})
    assert example.prefix_parts == 0 and example.parts == [("text", "a")]


@pytest.mark.parametrize("reads", [{"photo": "image"}, {"photo": "image", "title": "text"}])
def test_what_is_no_text_cannot_be_continued(reads: dict[str, str]) -> None:
    with pytest.raises(UnitxError, match="continues text and cannot read photo:image"):
        small_model(TaskInfo("stories", "next_token", reads))
