"""Time series: patches of a few steps, against plain loops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import unitx
from unitx.data import open_source
from unitx.errors import BadItem
from unitx.recipe import Recipe, TaskRecipe
from unitx.task import TaskInfo
from unitx.tokenizers.series import LEAST_STD, SeriesProcessor, SeriesTokenizer


def test_patches_are_standardised_steps_with_their_level_and_spread() -> None:
    rng = np.random.default_rng(0)
    series = rng.normal(3, 2, (10, 2))
    pieces = SeriesProcessor(channels=2, patch=4).prepare(series)
    assert pieces.values.shape == (3, 4 * 2 + 2 * 2) and pieces.positions[:, 0].tolist() == [0, 1, 2]
    mean, std = series.mean(0), series.std(0) + LEAST_STD
    for n in range(3):
        for p in range(4):
            expected = (series[4 * n + p] - mean) / std if 4 * n + p < 10 else np.zeros(2)
            np.testing.assert_allclose(pieces.values[n, 2 * p : 2 * p + 2], expected, atol=1e-5)
        np.testing.assert_allclose(pieces.values[n, 8:], [*np.arcsinh(mean), *np.log(std)], atol=1e-5)


def test_long_series_are_cut_for_training_and_read_whole_in_windows() -> None:
    processor = SeriesProcessor(max_tokens=3, patch=2)
    features = processor.features(processor.read(list(range(20))))
    assert [len(window) for window in processor.windows(features)] == [3, 3, 3, 1]
    cut = processor.cut(features, np.random.default_rng(0))
    assert len(cut) == 3 and cut.shortened
    whole = np.concatenate([window.values[:, :2].ravel() for window in processor.windows(features)])
    np.testing.assert_allclose(whole, features[:, 0])


def test_series_come_in_many_forms(tmp_path: Path) -> None:
    processor = SeriesProcessor()
    np.save(tmp_path / "a.npy", np.arange(3.0))
    for item in ([0, 1, 2], (0, 1, 2), "0 1 2", "0; 1;2", "0,1,2", torch.arange(3), np.arange(3), tmp_path / "a.npy"):
        assert processor.read(item).tolist() == [[0], [1], [2]]
    assert SeriesProcessor(channels=2).read([[1, 2], [3, 4]]).shape == (2, 2)
    steady = processor.prepare([5.0] * 8)
    assert np.isfinite(steady.values).all() and not steady.values[:, :8].any()


@pytest.mark.parametrize(
    ("item", "says"),
    [
        ("one two", "is no series"),
        ([], "a series of shape"),
        ([[1, 2], [3]], "is no series"),
        ([[1, 2], [3, 4]], r"a series of shape \(2, 2\), and the model reads \(steps, 1\): see --tokenizers.series"),
        ([1, float("nan")], "holds NaN or infinity: fill the gaps"),
        (Path("none.npy"), "there is no file none.npy"),
        ("none.npy", "there is no file none.npy"),
        ([10**400], "is no series"),
        ([None, 1.5], "holds NaN or infinity: fill the gaps"),
        ({"a": 1}, "is no series"),
    ],
)
def test_what_is_no_series_is_named(item: object, says: str) -> None:
    with pytest.raises(BadItem, match=says):
        SeriesProcessor().read(item)


def test_a_file_that_is_cut_off_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "whole.npz", np.arange(9.0))
    for content in (b"", (tmp_path / "whole.npz").read_bytes()[:40]):
        (tmp_path / "cut.npy").write_bytes(content)
        with pytest.raises(BadItem, match=r"cut\.npy is no series"):
            SeriesProcessor().read(tmp_path / "cut.npy")


def test_series_with_gaps_in_a_table_are_named() -> None:
    rows = [{"series": [0.5, float("nan"), float(i)], "label": "ab"[i % 2]} for i in range(4)]
    info = TaskInfo("kind", "classify", {"series": "series"}, "label", ["a", "b"])
    ((_, item),) = info.parts(open_source(rows, info.reads).row(0, np.random.default_rng(0)))
    with pytest.raises(BadItem, match="holds NaN or infinity: fill the gaps"):
        SeriesProcessor().read(item)


@torch.no_grad()
def test_a_patch_is_mapped_by_itself() -> None:
    processor = SeriesProcessor(channels=2, patch=4)
    tokenizer = SeriesTokenizer(processor, 16)
    values = torch.randn(5, 12)
    torch.testing.assert_close(tokenizer(values, [2, 3])[3:4], tokenizer(values[3:4], [1]))


def test_a_run_learns_which_way_a_series_goes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(240):
        up = bool(rng.integers(2))
        walk = np.cumsum(rng.normal(0.5 if up else -0.5, 1, int(rng.integers(20, 60))))
        rows.append({"series": walk.tolist(), "way": "up" if up else "down"})
    recipe = Recipe(tasks={"way": TaskRecipe("classify", reads="series", label="way")}, augment="none")
    run = unitx.train(recipe, data=rows, epochs=10, evaluations=1, out=str(tmp_path / "run"), echo=False)
    assert run.metrics["way/accuracy"] > 0.9
    model = unitx.Model.from_pretrained(tmp_path / "run")
    found = model.predict([{"series": list(range(30))}, {"series": [float(-i) for i in range(40)]}])
    assert [answers[0].label for answers in found] == ["up", "down"]
    assert model.embed([np.arange(30.0)], modality="series").shape == (1, 128)
