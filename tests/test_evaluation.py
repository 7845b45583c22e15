"""Scores on held-out rows, against the same thing done by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_data import captioned, text_rows

from unitx.batches import Feed, Preparer
from unitx.config import BackboneConfig
from unitx.data import open_source
from unitx.evaluation import gain, score, task_outputs
from unitx.model import Model
from unitx.task import TaskInfo
from unitx.tokenizers.image import ImageProcessor
from unitx.tokenizers.text import TextProcessor

LABELS = ["blue", "green", "red"]


def small_model(*infos: TaskInfo) -> Model:
    torch.manual_seed(0)
    processors = {"image": ImageProcessor(max_tokens=4, patch=8), "text": TextProcessor(max_tokens=32)}
    model = Model(BackboneConfig(dim=16, depth=1, heads=2), processors, infos)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return model


def feed_of(info: TaskInfo, rows: list[dict[str, Any]], size: int) -> Feed:
    return Feed(info, open_source(rows, info.reads, info.label), size)


@pytest.mark.parametrize(("size", "workers"), [(1, 0), (4, 0), (4, 1), (100, 0)])
def test_outputs_are_what_each_row_gives_alone(size: int, workers: int):
    info = TaskInfo("topic", "classify", {"text": "text"}, "label", LABELS)
    model, rows = small_model(info), text_rows(10)
    outputs, targets, tally = task_outputs(
        model, Preparer(model.processors), feed_of(info, rows, size), workers=workers
    )
    wanted = model.eval().predict_proba([row["text"] for row in rows], "topic")
    assert np.allclose(outputs.softmax(-1).numpy(), wanted, atol=1e-5)
    assert targets.argmax(-1).tolist() == [LABELS.index(row["label"]) for row in rows] and tally.skipped == []
    found, _ = score(model, Preparer(model.processors), feed_of(info, rows, size), 0)
    assert found["accuracy"] == pytest.approx(np.mean(wanted.argmax(-1) == targets.argmax(-1).numpy()))


@pytest.mark.parametrize("size", [1, 7])
def test_of_long_items_all_is_judged_as_it_is_predicted(size: int):
    rows = [{"text": "word " * (1 + 5 * i), "label": LABELS[i % 2], "level": float(i)} for i in range(9)]
    kind = TaskInfo("kind", "classify", {"text": "text"}, "label", LABELS)
    level = TaskInfo("level", "regress", {"text": "text"}, "level", facts={"mean": [0.0], "std": [1.0]})
    space = TaskInfo("space", "align", {"text": "text"}, "label", LABELS)
    model = small_model(kind, level, space).eval()
    found = {}
    for info in (kind, level, space):
        feed = feed_of(info, rows, size)
        found[info.name], _, tally = task_outputs(model, Preparer(model.processors), feed)
        assert tally.shortened == {}
    texts = [row["text"] for row in rows]
    np.testing.assert_allclose(found["kind"].softmax(-1), model.predict_proba(texts, "kind"), atol=1e-5)
    levels = [answer.score for (answer,) in model.predict(texts, "level")]
    np.testing.assert_allclose(found["level"][:, 0], levels, atol=1e-4)
    np.testing.assert_allclose(found["space"], model.embed(texts), atol=1e-5)


def test_the_mode_of_the_model_is_put_back():
    info = TaskInfo("topic", "classify", {"text": "text"}, "label", LABELS)
    model = small_model(info)
    for training in (True, False):
        model.train(training)
        score(model, Preparer(model.processors), feed_of(info, text_rows(4), 2), 0)
        assert model.training == training


def test_targets_of_several_tensors_are_joined(tmp_path: Path):
    info = TaskInfo("pairs", "align", {"image": "image", "text": "text"}, "label", LABELS)
    rows = captioned(tmp_path / "photos", each=3)
    model = small_model(info)
    small, large = (task_outputs(model, Preparer(model.processors), feed_of(info, rows, size)) for size in (2, 9))
    assert small[0].shape == (18, 16) and set(small[1]) == set(large[1])
    # The same items, whatever the batches: in the order of the rows, each with its columns.
    assert all(torch.equal(small[1][key], large[1][key]) for key in small[1])
    assert torch.allclose(small[0], large[0], atol=1e-5)


def test_a_task_without_targets():
    info = TaskInfo("write", "next_token", {"text": "text"})
    rows = [{"text": row["text"]} for row in text_rows(7)]
    model = small_model(info)
    outputs, targets, _ = task_outputs(model, Preparer(model.processors), feed_of(info, rows, 3))
    assert targets is None and outputs.shape == (7, 3)
    kept = [min(len(row["text"].encode()), 32 - 2) for row in rows]
    assert outputs[:, 1].tolist() == kept  # bytes; begin and end of text stand for none
    bits = score(model, Preparer(model.processors), feed_of(info, rows, 3), 0)[0]["bits_per_byte"]
    assert bits == pytest.approx(float(outputs[:, 0].sum()) / np.log(2) / sum(kept), rel=1e-5)


def test_what_cannot_be_read_is_left_out_and_reported(tmp_path: Path):
    info = TaskInfo("colour", "classify", {"image": "image"}, "label", LABELS)
    rows = captioned(tmp_path / "photos", each=4)
    for i in (0, 1, 6):  # the first batch of two holds nothing else
        Path(rows[i]["image"]).write_bytes(b"no picture")
    model = small_model(info)
    outputs, targets, tally = task_outputs(model, Preparer(model.processors), feed_of(info, rows, 2))
    assert outputs.shape == (9, 3) and targets.shape == (9, 3)
    assert sorted(rows[i]["image"] for i in (0, 1, 6)) == sorted(
        next(row["image"] for row in rows if row["image"] in line) for line in tally.skipped
    )
    for row in rows:
        Path(row["image"]).write_bytes(b"no picture")
    found, tally = score(model, Preparer(model.processors), feed_of(info, rows, 2), 0)
    assert found == {} and len(tally.skipped) == len(rows)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("new", "old", "expected"),
    [
        ({"a": 0.6}, {"a": 0.5}, 0.25),  # of a range of 0.4
        ({"a": 0.6, "chrf": 30.0}, {"a": 0.5, "chrf": 50.0}, (0.25 - 1.0) / 2),
        ({"a": 0.9, "chrf": 45.0}, {"a": 0.5, "chrf": 50.0}, (1.0 - 0.25) / 2),
        ({"a": 0.6, "only": 1.0}, {"a": 0.5}, 0.25),
        ({"a": NAN}, {"a": 0.5}, -1.0),
        ({"a": 0.5}, {"a": NAN}, 1.0),
        ({"a": NAN}, {"a": NAN}, 0.0),
        ({"b": 0.5}, {"b": 0.5}, 0.0),  # a score that has not moved yet
        ({}, {}, 0.0),
        ({"a": -INF}, {"a": 0.5}, -1.0),
        ({"a": 0.5}, {"a": -INF}, 1.0),
    ],
)
def test_evaluations_are_compared_task_by_task_in_units_of_their_ranges(
    new: dict[str, float], old: dict[str, float], expected: float
):
    so_far = [{"a": 0.5, "chrf": 30.0, "b": 0.5}, {"a": 0.9, "chrf": 50.0}, {"a": NAN, "chrf": 40.0}]
    assert gain(new, old, [*so_far, new]) == pytest.approx(expected)


def test_the_least_gain_of_one_task_does_not_outweigh_a_fall_of_another() -> None:
    first, second = {"a": 0.990, "b": 0.80}, {"a": 0.991, "b": 0.40}
    assert gain(second, first, [first, second]) < -0.4
    assert gain(first, second, [first, second]) > 0.4
