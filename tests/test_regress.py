"""Regression: numbers in the units of the data, against scikit-learn's and by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import mean_absolute_error, r2_score
from small_models import batch_of, picture, small_model

import unitx
from unitx.data import open_source
from unitx.errors import BadItem, UnitxError
from unitx.recipe import Recipe, TaskRecipe
from unitx.task import TaskInfo
from unitx.tasks.regress import Regress

INFO = TaskInfo("price", "regress", {"picture": "image"}, "price")
PRICES = [3.0, 5.0, "10"]


def fitted(cells: list) -> TaskInfo:
    rows = [{"picture": picture(i), "price": cell} for i, cell in enumerate(cells)]
    return Regress.fit(INFO, open_source(rows, INFO.reads))


@torch.no_grad()
def test_the_loss_is_the_squared_error_of_standardised_numbers() -> None:
    info = fitted(PRICES)
    assert info.facts["mean"] == [6.0] and info.facts["std"] == pytest.approx([np.std([3, 5, 10])])
    model = small_model(info)
    rows = [{"picture": picture(i, 4 + 4 * i, 8), "price": price} for i, price in enumerate(PRICES)]
    batch = batch_of(model, [("price", row) for row in rows])
    head, targets = model.heads["price"], batch.targets["price"]
    tokens = model.encode(batch)
    numbers = np.array([float(price) for price in PRICES])
    means = torch.stack([states.mean(0) for states in tokens.to_list()])
    said = (means @ head.head.weight.T + head.head.bias)[:, 0] * info.facts["std"][0] + 6.0
    torch.testing.assert_close(head.outputs(tokens, targets.rows)[:, 0], said, rtol=1e-4, atol=1e-4)
    found = head.loss(tokens, targets)
    off = (said.numpy() - numbers) / info.facts["std"][0]
    assert float(found.sum) == pytest.approx(float((off**2).sum()), rel=1e-4)
    assert float(found.metrics["mae"]) == pytest.approx(float(np.abs(said.numpy() - numbers).sum()), rel=1e-4)
    answers = model.predict([row["picture"] for row in rows])
    assert [found[0].label for found in answers] == ["price"] * 3
    np.testing.assert_allclose([found[0].score for found in answers], said, rtol=1e-4)


def test_a_new_head_says_the_mean() -> None:
    model = small_model(fitted(PRICES))
    torch.nn.init.zeros_(model.heads["price"].head.weight)
    torch.nn.init.zeros_(model.heads["price"].head.bias)
    assert model.predict([picture(5)])[0][0].score == pytest.approx(6.0)


def test_scores_are_scikit_learns() -> None:
    head = small_model(fitted([[1, 20], [2, 10], [4, 0]])).heads["price"]
    rng = np.random.default_rng(0)
    truth, said = torch.tensor(rng.normal(size=(20, 2))), torch.tensor(rng.normal(size=(20, 2)))
    expected = {"r2": r2_score(truth, said), "mae": mean_absolute_error(truth, said)}
    assert head.score(said, truth) == pytest.approx(expected)
    (row,) = head.answers(torch.tensor([[1.5, 2.5]]), 1)
    assert row == [("price 1", 1.5), ("price 2", 2.5)]


@pytest.mark.parametrize(
    ("cells", "says"),
    [
        ([1, "cheap", "dear"], "'price' holds text 'cheap', which is no number .and so 2 of 3 cells"),
        ([1, float("inf")], "give finite numbers"),
        ([[1, 2], [3]], "as many numbers in every row"),
        ([7, 7, 7], "are all 7: there is nothing to learn"),
        ([None, None], "as many numbers in every row"),
    ],
)
def test_what_cannot_be_learned_is_said_before(cells: list, says: str) -> None:
    with pytest.raises(UnitxError, match=says):
        fitted(cells)


def test_a_bad_cell_is_named() -> None:
    info = fitted([*PRICES, "dear"])  # one of four is left for training to report
    assert info.facts["mean"] == [6.0]
    assert Regress.examples(info, {"picture": picture(0), "price": None}) == []
    with pytest.raises(BadItem, match="'price' holds text 'dear', which is no number"):
        Regress.examples(info, {"picture": picture(0), "price": "dear"})
    with pytest.raises(BadItem, match="the model gives 1 numbers"):
        Regress.examples(info, {"picture": picture(0), "price": [1, 2]})


def test_a_run_learns_how_bright_a_picture_is(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(200):
        level = float(rng.uniform(20, 230))
        pixels = np.clip(level + rng.normal(0, 10, (8, 8, 3)), 0, 255).astype(np.uint8)
        rows.append({"picture": pixels, "price": 100 + 4 * level})
    task = TaskRecipe("regress", reads="picture:image", label="price")
    recipe = Recipe(tasks={"price": task}, tokenizers={"image": {"patch": 4, "max_tokens": 4}}, augment="none")
    run = unitx.train(recipe, data=rows, steps=60, evaluations=1, out=str(tmp_path / "run"), echo=False)
    assert run.metrics["price/r2"] > 0.95
    again = unitx.Model.from_pretrained(tmp_path / "run")
    report = unitx.evaluate(again, rows)
    assert report.scores["r2"] > 0.95 and report.scores["mae"] < 60
