"""A task of one's own says what it can do, and takes part as those that ship do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_models import CLASSES, SPACE, STORIES, batch_of, picture, small_model
from torch import Tensor, nn

from unitx.errors import UnitxError
from unitx.registry import register_task
from unitx.report import evaluate
from unitx.source import labels_in
from unitx.task import Task, TaskInfo
from unitx.tokens import Example, Tokens


@register_task("halved")
class Halved(Task):
    """Embeds by the first half of the mean."""

    embeds = True

    def __init__(self, dim: int, info: TaskInfo, processors: dict[str, Any]):
        super().__init__(dim, info, processors)
        self.embedding_dim = dim // 2

    def outputs(self, tokens: Tokens, rows: Tensor) -> Tensor:
        return F.normalize(tokens.mean()[rows, : self.embedding_dim], dim=-1)


@register_task("stutter")
class Stutter(Task):
    """Says one letter again and again."""

    generates = True

    def next_logits(self, vectors: Tensor) -> Tensor:
        return F.one_hot(torch.full((len(vectors),), ord("a")), 300).float()


@register_task("nearest")
class Nearest(Task):
    """Classifies by the cosine with a prototype."""

    classifies = True
    headline = "hits"

    def __init__(self, dim: int, info: TaskInfo, processors: dict[str, Any]):
        super().__init__(dim, info, processors)
        self.prototypes = nn.Parameter(torch.randn(len(info.labels), dim))

    @classmethod
    def examples(cls, info: TaskInfo, row: dict[str, Any]) -> list[Example]:
        (name,) = labels_in(row[info.label])
        return [Example(info.parts(row), [float(name == label) for label in info.labels])]

    def outputs(self, tokens: Tokens, rows: Tensor) -> Tensor:
        return tokens.mean()[rows] @ self.prototypes.T

    def probabilities(self, outputs: Tensor) -> Tensor:
        return outputs.softmax(-1)

    def score(self, outputs: Tensor, targets: Any) -> dict[str, float]:
        return {"hits": float((outputs.argmax(-1) == targets.argmax(-1)).float().mean())}


def test_a_task_of_ones_own_embeds() -> None:
    model = small_model(SPACE, replace(SPACE, name="part", kind="halved"), CLASSES)
    items = ["a cat", picture(0)]
    means = torch.stack([states.mean(0) for states in model.hidden_states(items)])
    np.testing.assert_allclose(model.embed(items), F.normalize(means[:, :16], dim=-1), atol=1e-6)
    with pytest.warns(UserWarning, match="1 of 1"):
        assert model.embed(["none.png"], on_error="skip").shape == (1, 16)
    with pytest.raises(UnitxError, match=r"task 'part' \(halved\) does not predict labels"):
        model.predict(items, "part")


def test_a_task_of_ones_own_generates() -> None:
    model = small_model(replace(STORIES, name="stutter", kind="stutter"), CLASSES)
    assert model.generate(["b", ""], max_tokens=3, temperature=0) == ["aaa", "aaa"]


def test_a_task_of_ones_own_classifies() -> None:
    model = small_model(replace(CLASSES, name="near", kind="nearest"), SPACE)
    rows = [{"picture": picture(i), "kind": CLASSES.labels[i % 3]} for i in range(9)]
    said = [answers[0].label for answers in model.predict([row["picture"] for row in rows])]
    right = [label == row["kind"] for label, row in zip(said, rows, strict=True)]
    report = evaluate(model, rows)
    assert report.scores == {"hits": pytest.approx(np.mean(right))} and report.confusion.sum() == 9
    assert len(report.mistakes) == right.count(False) > 0 and [row["class"] for row in report.classes] == CLASSES.labels


ROWS: list[tuple[str, dict[str, Any]]] = [
    ("kind", {"picture": picture(0), "kind": "dog"}),
    ("kind", {"picture": picture(1), "kind": "owl"}),
    ("stories", {"text": "once"}),
]


def test_uncertain_losses_are_divided_by_their_variances() -> None:
    plain = small_model(CLASSES, replace(STORIES, weight=2.0))
    model = small_model(replace(CLASSES, uncertain=True), replace(STORIES, weight=2.0, uncertain=True))
    model.load_state_dict(plain.state_dict(), strict=False)
    s = {"kind": 0.7, "stories": -1.2}
    for task, value in s.items():
        model.head(task).log_variance.data.fill_(value)
    _, found = plain(batch_of(plain, ROWS))
    total, metrics = model(batch_of(model, ROWS))
    kind, stories = (float(found[f"{task}/loss"]) for task in s)
    expected = kind * np.exp(-0.7) + 0.7 / 2 + 2 * (stories * np.exp(1.2) - 1.2 / 2)
    assert total.item() == pytest.approx(expected, rel=1e-5)
    assert float(metrics["kind/loss"]) == pytest.approx(kind, rel=1e-5)
    assert float(metrics["stories/log_variance"]) == pytest.approx(-1.2)
    total.backward()
    assert float(model.head("kind").log_variance.grad) == pytest.approx(0.5 - kind * np.exp(-0.7), rel=1e-5)
    counts = {"kind": 2.0, "stories": float(batch_of(model, ROWS).targets["stories"].count)}
    parts = [model(batch_of(model, rows), counts)[0] for rows in (ROWS[:1], ROWS[1:])]
    assert sum(parts).item() == pytest.approx(expected, rel=1e-5)


def test_a_learned_variance_ends_at_twice_the_loss_whatever_the_weight() -> None:
    """Else it would take back what the weight says."""
    task = Task(4, replace(CLASSES, uncertain=True, weight=3.0), {})
    optimizer = torch.optim.Adam(task.parameters(), 0.05)
    for _ in range(400):
        optimizer.zero_grad()
        task.weighed(torch.tensor(0.25)).backward()
        optimizer.step()
    assert float(task.log_variance.detach().exp()) == pytest.approx(2 * 0.25, rel=1e-3)
