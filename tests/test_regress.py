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
    said = (means @ head.head.weight.T + head.head.bias)[:, 0]
    torch.testing.assert_close(head.outputs(tokens, targets.rows)[:, 0], said, rtol=1e-4, atol=1e-4)
    said = said * info.facts["std"][0] + 6.0  # in the units of the data
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
    mean, std = (torch.tensor(head.info.facts[name]) for name in ("mean", "std"))
    assert head.score((said - mean) / std, (truth - mean) / std) == pytest.approx(expected)
    (row,) = head.answers((torch.tensor([[1.5, 2.5]]) - mean) / std, 1)
    assert [answer.label for answer in row] == ["price 1", "price 2"]
    assert [answer.score for answer in row] == pytest.approx([1.5, 2.5])


def test_large_numbers_of_little_spread_are_told_apart() -> None:
    """Seconds since 1970, of which float32 knows every 128th."""
    seconds = [1_700_000_000 + 10 * k for k in range(8)]
    info = fitted(seconds)
    targets = Regress.collate(info, [[number] for number in seconds])
    np.testing.assert_allclose(targets[:, 0], (np.arange(8) - 3.5) / np.std(np.arange(8)), rtol=1e-6)
    head = small_model(info).heads["price"]
    assert [row[0].score for row in head.answers(targets, 1)] == pytest.approx(seconds, abs=1e-4)
    middle = torch.zeros(8, 1)
    assert head.score(middle, targets) == pytest.approx({"r2": 0, "mae": 20}, abs=1e-4)


@pytest.mark.parametrize(
    ("cells", "says"),
    [
        ([1, "cheap", "dear"], "'price' holds text 'cheap', which is no number .and so 2 of 3 cells"),
        ([1, float("inf")], "give finite numbers"),
        ([[1, 2], [3]], "as many numbers in every row"),
        ([7, 7, 7], "are all 7: there is nothing to learn"),
        ([0.7] * 37, "are all 0.7: there is nothing to learn"),  # whose deviation is 1e-16 by numpy
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
    with pytest.raises(BadItem, match=r"'price' holds text '1,234', which is no number; .*write 1234\.5"):
        Regress.examples(info, {"picture": picture(0), "price": "1,234"})


def test_numbers_in_arrays() -> None:
    assert fitted([np.array([1.0, 2.0]), np.array([3.0, 6.0])]).facts["mean"] == [2.0, 4.0]


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
