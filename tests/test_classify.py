from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, log_loss
from small_models import batch_of, picture, shake, small_model
from torch import Tensor

from unitx.data import open_source
from unitx.errors import UnitxError
from unitx.task import TaskInfo
from unitx.tasks.classify import Classify
from unitx.tokens import Targets, Tokens

LABELS = ["ant", "bee", "cat", "dog"]


def make(labels: list[str] = LABELS, counts: list[int] | None = None, **options: Any) -> Classify:
    facts = {"class_counts": counts} if counts else {}
    task = Classify(8, TaskInfo("kind", "classify", {"text": "text"}, "kind", labels, options=options, facts=facts), {})
    shake(task)
    return task


def sequences() -> Tokens:
    return Tokens.from_list([torch.randn(n, 8) for n in (5, 2, 7, 2, 1)])


def one_hot(classes: list[int], count: int = 4) -> Tensor:
    return F.one_hot(torch.tensor(classes), count).float()


def means(tokens: Tokens) -> Tensor:
    """(B, dim) in the order of the list that the batch was made from."""
    return torch.stack([sequence.mean(0) for sequence in tokens.to_list()])


def test_the_loss_is_smoothed_weighted_cross_entropy() -> None:
    counts, smoothing = [1, 2, 3, 6], 0.2
    task, tokens, classes = make(counts=counts, label_smoothing=smoothing, class_weights="auto"), sequences(), [0, 3, 1]
    rows = torch.tensor([tokens.layout.inverse[i] for i in (2, 0, 4)])
    found = task.loss(tokens, Targets(rows, one_hot(classes), 3))
    logits = means(tokens)[[2, 0, 4]] @ task.head.weight.T + task.head.bias
    expected = 0.0
    for scores, c in zip(logits.tolist(), classes, strict=True):
        total = math.log(sum(math.exp(s) for s in scores))
        for k, s in enumerate(scores):
            share = smoothing / 4 + (1 - smoothing if k == c else 0.0)
            expected -= share * (12 / (4 * counts[k])) * (s - total)
    assert found.sum.item() == pytest.approx(expected, rel=1e-5)
    weights = torch.tensor([12 / (4 * n) for n in counts])
    peer = F.cross_entropy(logits, torch.tensor(classes), weights, reduction="sum", label_smoothing=smoothing)
    torch.testing.assert_close(found.sum, peer, rtol=1e-5, atol=1e-5)
    assert float(found.metrics["accuracy"]) == sum(int(s.argmax()) == c for s, c in zip(logits, classes, strict=True))


def test_soft_targets_count_as_mixtures() -> None:
    task, tokens = make(label_smoothing=0.0), sequences()
    mixed = 0.3 * one_hot([0, 1, 2, 3, 0]) + 0.7 * one_hot([1, 1, 0, 2, 3])
    rows = torch.tensor(tokens.layout.inverse)
    loss = task.loss(tokens, Targets(rows, mixed, 5)).sum
    logp = task.outputs(tokens, rows).log_softmax(-1)
    torch.testing.assert_close(loss, -(mixed * logp).sum())


def test_multi_label_is_the_mean_of_binary_cross_entropies() -> None:
    counts = [4, 1, 1, 2]
    task, tokens = make(counts=counts, multi_label=True, class_weights="auto"), sequences()
    rows = torch.tensor(tokens.layout.inverse)
    wanted = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 0], [0, 0, 0, 1]]).float()
    found = task.loss(tokens, Targets(rows, wanted, 5))
    p = (means(tokens) @ task.head.weight.T + task.head.bias).sigmoid()
    each = -(wanted * p.log() + (1 - wanted) * (1 - p).log()) * torch.tensor([8 / (4 * n) for n in counts])
    torch.testing.assert_close(found.sum, each.sum() / 4)
    torch.testing.assert_close(task.probabilities(task.outputs(tokens, rows)), p)


@pytest.mark.parametrize("multi", [False, True])
def test_zero_rows_give_a_loss_of_zero_and_zero_gradients(multi: bool) -> None:
    task, tokens = make(multi_label=multi), sequences()
    none = Targets(torch.zeros(0, dtype=torch.long), task.collate(task.info, []), 0)
    found = task.loss(tokens, none)
    found.sum.backward()
    assert found.sum.item() == 0 and task.outputs(tokens, none.rows).shape == (0, 4)
    assert all(p.grad is not None and not p.grad.any() for p in task.parameters())


def test_automatic_class_weights_average_one_over_the_training_rows() -> None:
    rows = [{"text": "x", "kind": kind} for kind in ["b"] * 6 + ["a"] * 3 + ["c"]]
    info = TaskInfo("kind", "classify", {"text": "text"}, "kind", options={"class_weights": "auto"})
    info = Classify.fit(info, open_source(rows, info.reads, info.label))
    assert info.labels == ["a", "b", "c"] and info.facts["class_counts"] == [3, 6, 1]
    weights = Classify(8, info, {}).class_weights
    assert sum(float(weights[info.labels.index(row["kind"])]) for row in rows) / len(rows) == pytest.approx(1)
    torch.testing.assert_close(weights * torch.tensor([3.0, 6.0, 1.0]), torch.full((3,), 10 / 3))


def test_a_new_head_says_that_all_classes_are_alike() -> None:
    task = Classify(8, TaskInfo("kind", "classify", {"text": "text"}, "kind", LABELS), {})
    tokens = sequences()
    torch.testing.assert_close(task.probabilities(task.outputs(tokens, torch.arange(5))), torch.full((5, 4), 0.25))


def test_targets_follow_the_cell() -> None:
    info = make().info
    several = make(multi_label=True).info
    assert Classify.target(info, "cat").tolist() == [0, 0, 1, 0]
    assert Classify.target(info, " cat ").tolist() == [0, 0, 1, 0]
    assert Classify.target(several, "cat| ant|wolf").tolist() == [1, 0, 1, 0]
    assert Classify.target(several, ["dog", "bee"]).tolist() == [0, 1, 0, 1]
    assert Classify.target(several, []).tolist() == [0, 0, 0, 0]
    numbers = make(["1", "2", "10"]).info
    assert Classify.target(numbers, 10).tolist() == [0, 0, 1]
    for unknown in (None, "", "wolf", "cat|ant"):
        assert Classify.target(info, unknown) is None
    assert Classify.target(several, "wolf") is None and Classify.target(several, None) is None


def test_rows_without_an_item_or_a_known_label_give_no_example() -> None:
    info = make().info
    assert Classify.examples(info, {"text": "x", "kind": "wolf"}) == []
    assert Classify.examples(info, {"text": None, "kind": "cat"}) == []
    (example,) = Classify.examples(info, {"text": ["x", "y"], "kind": "cat"})
    assert example.parts == [("text", "x"), ("text", "y")]


def test_several_columns_of_a_row_are_one_sequence() -> None:
    info = TaskInfo("kind", "classify", {"title": "text", "photo": "image"}, "kind", ["a", "b"])
    model = small_model(info)
    batch = batch_of(model, [("kind", {"title": "hello", "photo": picture(0), "kind": "a"})])
    assert batch.layout.lengths == [7 + 4] and batch.targets["kind"].values.tolist() == [[1, 0]]
    alone = model.processors["image"].prepare(picture(0)).positions + 7
    np.testing.assert_array_equal(batch.layout.positions[7:].numpy(), alone)


def test_answers_come_best_first() -> None:
    task, outputs = make(), torch.randn(6, 4)
    for scores, answers in zip(outputs.softmax(-1).tolist(), task.answers(outputs, 3), strict=True):
        assert [a.label for a in answers] == [name for _, name in sorted(zip(scores, LABELS, strict=True))][:-4:-1]
        assert [a.score for a in answers] == pytest.approx(sorted(scores)[:-4:-1])
    assert [len(found) for found in task.answers(outputs, 9)] == [4] * 6


def test_scores_equal_sklearns() -> None:
    task, outputs, truth = make(), torch.randn(40, 4), torch.arange(40) % 4
    found = task.score(outputs, one_hot(truth.tolist()))
    assert task.headline == "accuracy" and found["accuracy"] == pytest.approx(accuracy_score(truth, outputs.argmax(-1)))
    assert found["macro_f1"] == pytest.approx(f1_score(truth, outputs.argmax(-1), average="macro"))
    assert found["loss"] == pytest.approx(log_loss(truth, outputs.double().softmax(-1)), rel=1e-5)


def test_multi_label_scores_leave_out_classes_that_never_hold() -> None:
    task, outputs = make(multi_label=True), torch.randn(40, 4)
    truth = (torch.rand(40, 4) > 0.6).float()
    truth[:, 2] = 0
    found = task.score(outputs, truth)
    each = [average_precision_score(truth[:, k], outputs[:, k]) for k in (0, 1, 3)]
    assert task.headline == "average_precision" and found[task.headline] == pytest.approx(np.mean(each))
    assert found["macro_f1"] == pytest.approx(f1_score(truth, outputs > 0, average="macro", zero_division=0))
    assert task.score(outputs, torch.zeros(40, 4))["average_precision"] == 0


@pytest.mark.parametrize(
    "options, rows, says",
    [
        ({"class_weights": "balanced"}, None, "'none' or 'auto'"),
        ({"label_smoothing": "much"}, None, "label_smoothing is 'much'; it must be a number"),
        ({"multi_label": "no"}, None, "multi_label is 'no'; it must be true or false"),
        ({"label_smoothing": 1.0}, None, "label_smoothing"),
        ({"smoothing": 0.1}, None, "unknown field 'smoothing'; did you mean 'label_smoothing'"),
        ({}, [{"text": "x", "kind": ["a", "b"]}], "multi_label true"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], rows: list[dict] | None, says: str) -> None:
    rows = rows or [{"text": "x", "kind": "a"}, {"text": "y", "kind": "b"}]
    info = TaskInfo("tags", "classify", {"text": "text"}, "kind", options=options)
    with pytest.raises(UnitxError, match=says):
        Classify.fit(info, open_source(rows, info.reads, info.label))


def test_a_task_without_a_label_column_says_how_to_name_one() -> None:
    with pytest.raises(UnitxError, match="--label"):
        Classify.fit(TaskInfo("kind", "classify", {"text": "text"}), open_source([{"text": "x"}], {"text": "text"}))
