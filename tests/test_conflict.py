"""The angles between the gradients of tasks, against gradients taken one sequence at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from small_models import CAPTION, CLASSES, PAIRS, STORIES, batch_of, picture, small_model

from unitx.conflict import gradient_conflict
from unitx.errors import UnitxError
from unitx.plots import draw_conflict

ROWS: list[tuple[str, dict[str, Any]]] = [
    *(("kind", {"picture": picture(i), "kind": ("cat", "dog")[i % 2]}) for i in range(3)),
    *(("caption", {"image": picture(i), "name": "a cat"[: 2 + i]}) for i in range(3)),
    ("stories", {"text": "once upon"}),
]


def test_cosines_are_those_of_gradients_taken_row_by_row() -> None:
    model = small_model(CLASSES, CAPTION, STORIES)
    tasks, cosines = gradient_conflict(model, [batch_of(model, ROWS[:4]), batch_of(model, ROWS[4:])])
    by_hand: dict[str, np.ndarray] = {}
    for task in ("kind", "caption", "stories"):
        model.zero_grad()
        for name, row in ROWS:
            if name == task:
                batch = batch_of(model, [(name, row)])
                model.head(task).loss(model.encode(batch), batch.targets[task]).sum.backward()
        by_hand[task] = np.concatenate([p.grad.flatten().double().numpy() for p in model.backbone.parameters()])
    assert tasks == ["kind", "caption", "stories"]
    for i, one in enumerate(by_hand.values()):
        for j, other in enumerate(by_hand.values()):
            expected = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
            assert float(cosines[i, j]) == pytest.approx(expected, abs=1e-5)
    assert cosines[0, 1].abs() > 1e-3 and torch.allclose(cosines.diagonal(), torch.ones(3), atol=1e-5)


def test_opposite_answers_to_one_picture_are_in_full_conflict() -> None:
    two = replace(CLASSES, labels=["cat", "dog"])
    model = small_model(two, replace(two, name="other"))
    model.head("other").load_state_dict(model.head("kind").state_dict())
    item = {"picture": picture(0)}
    _, cosines = gradient_conflict(
        model, [batch_of(model, [("kind", {**item, "kind": "cat"}), ("other", {**item, "kind": "dog"})])]
    )
    assert float(cosines[0, 1]) == pytest.approx(-1.0, abs=1e-5)


def test_what_has_no_angle_is_named() -> None:
    model = small_model(CLASSES, PAIRS)
    with pytest.raises(UnitxError, match="rows of kind alone: give two tasks"):
        gradient_conflict(model, [batch_of(model, ROWS[:2])])
    model.backbone.requires_grad_(False)
    with pytest.raises(UnitxError, match="no parameter of the backbone trains"):
        gradient_conflict(model, [])


def test_the_picture_has_every_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    saved = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (figures.append(self), saved(self, *a, **k)))
    cosines = torch.tensor([[1.0, -0.25], [-0.25, 1.0]])
    draw_conflict(["say", "find"], cosines, tmp_path / "conflict.png")
    axes = figures[0].axes[0]
    assert [text.get_text() for text in axes.texts] == ["1.00", "-0.25", "-0.25", "1.00"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["say", "find"]
    assert np.allclose(axes.images[0].get_array(), cosines) and (tmp_path / "conflict.png").stat().st_size
