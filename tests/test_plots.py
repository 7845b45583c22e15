"""The picture of a run."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox
from PIL import Image

from unitx.plots import draw_curves, draw_sketches, draw_space
from unitx.task import Sketch

HISTORY: list[dict[str, Any]] = [
    {"step": 10, "seconds": 1.0, "loss": 2.0, "a/loss": 1.5, "b/loss": 0.5, "a/accuracy": 0.1},
    {"step": 10, "held_out": {"a/accuracy": 0.2}},
    {"step": 20, "seconds": 2.0, "loss": 1.0, "a/loss": 0.75},  # task b had no row in this step
    {"step": 20, "held_out": {"a/accuracy": 0.4, "b/bits": 3.0}},
]


@pytest.mark.parametrize(
    "history",
    [HISTORY, [], HISTORY[:1], HISTORY[1:2], [{"step": 10, "loss": float("nan")}], [{"step": 1, "held_out": {}}]],
    ids=["both", "nothing", "losses", "scores", "not a number", "no scores"],
)
def test_any_history_gives_a_picture(tmp_path: Path, history: list[dict[str, Any]]):
    draw_curves(history, tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size == (1210, 440)
        assert np.asarray(picture.convert("L")).std() > 1


def test_a_task_may_be_called_anything(tmp_path: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_curves([{"step": 10, "loss": 2.0, "猫/loss": 2.0}], tmp_path / "curves.png")


def test_the_lines_are_the_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    figures: list[Figure] = []
    saved = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (figures.append(self), saved(self, *a, **k)))
    draw_curves(HISTORY, tmp_path / "curves.png")
    losses, scores = figures[0].axes
    drawn = {line.get_label(): line.get_xydata().tolist() for line in losses.lines}
    assert drawn["loss"] == [[10, 2.0], [20, 1.0]] and drawn["a/loss"] == [[10, 1.5], [20, 0.75]]
    assert drawn["b/loss"][0] == [10, 0.5] and set(drawn) == {"loss", "a/loss", "b/loss"}
    drawn = {line.get_label(): line.get_xydata().tolist() for line in scores.lines}
    assert drawn == {"a/accuracy": [[10, 0.2], [20, 0.4]], "b/bits": [[20, 3.0]]}


def test_small_scores_beside_large_ones_have_a_scale_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    figures: list[Figure] = []
    saved = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (figures.append(self), saved(self, *a, **k)))
    scores = [{"a/chrf": 30.0 + step, "a/loss": 0.2} for step in (1, 2)]
    draw_curves([{"step": step, "held_out": found} for step, found in enumerate(scores, 1)], tmp_path / "curves.png")
    _, held_out, right = figures[0].axes
    assert right.lines[0].get_xydata().tolist() == [[1, 0.2], [2, 0.2]] and right.get_ylim()[1] < 1
    assert held_out.get_ylim()[0] > 25
    assert [text.get_text() for text in held_out.get_legend().get_texts()] == ["a/chrf", "a/loss"]


@pytest.mark.parametrize(
    ("shape", "pictures", "columns"),
    [((9, 40, 3), 1, 2), ((9, 40, 3), 3, 1), ((9, 18, 3), 3, 1), ((9, 40), 3, 2)],
)
def test_wide_pictures_have_room(tmp_path: Path, shape: tuple, pictures: int, columns: int):
    rng, sheets = np.random.default_rng(0), []
    for count in (columns, columns + 1):
        draw_sketches([Sketch([rng.random(shape)] * pictures, "a caption")] * count, "title", tmp_path / "sheet.png")
        with Image.open(tmp_path / "sheet.png") as sheet:
            sheets.append(sheet.size)
    assert sheets == [(1760, 374), (1760, 660)]  # one row, and two


def test_captions_in_any_script_are_drawn_as_they_are(tmp_path: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sketches = [Sketch([np.zeros((9, 9, 3))], caption) for caption in ("$5_$6", "一", "$\\cat$")]
        draw_sketches(sketches, "title", tmp_path / "sheet.png")


def test_of_many_tasks_each_has_a_loss_and_a_panel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    figures: list[Figure] = []
    saved = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (figures.append(self), saved(self, *a, **k)))
    tasks = [f"task {i}" for i in range(10)]
    losses = [{f"{task}/loss": 1.0 + i + step for i, task in enumerate(tasks)} for step in (0, 1)]
    history: list[dict[str, Any]] = [{"step": i, "loss": sum(line.values()), **line} for i, line in enumerate(losses)]
    history.append({"step": 1, "held_out": {f"{task}/accuracy": i / 10 for i, task in enumerate(tasks)}})
    draw_curves(history, tmp_path / "curves.png")
    above, *panels = figures[0].axes
    assert [text.get_text() for text in above.get_legend().get_texts()] == ["loss", *(f"{task}/loss" for task in tasks)]
    assert len({(line.get_color(), line.get_linestyle()) for line in above.lines}) == 11
    drawn = {axes.get_title(): axes.lines[0].get_xydata().tolist() for axes in panels}
    assert drawn == {f"held out: {task}": [[1, i / 10]] for i, task in enumerate(tasks)}
    assert [axes.lines[0].get_label() for axes in panels] == ["accuracy"] * 10


def test_drawing_leaves_pyplot_alone(tmp_path: Path):
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    draw_curves(HISTORY, tmp_path / "curves.png")
    assert pyplot.get_fignums() == before


def test_the_space_shows_every_concept_in_each_sense(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    figures: list[Figure] = []
    saved = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (figures.append(self), saved(self, *a, **k)))
    rng = np.random.default_rng(0)
    concepts = {"image": np.arange(8).repeat(2), "text": np.arange(8).repeat(3), "audio": np.arange(6)}
    vectors = {sense: rng.normal(size=(len(found), 16)).astype(np.float32) for sense, found in concepts.items()}
    markers = [Image.new("RGBA", (32, 32), (30 * i, 0, 0, 255)) for i in range(8)]
    draw_space(vectors, concepts, markers, tmp_path / "space.png", "by nobody")
    (axes,) = figures[0].axes
    written, spoken = (len(marks.get_offsets()) for marks in axes.collections)
    pictures = [artist for artist in axes.artists if isinstance(artist, AnnotationBbox)]
    assert (len(pictures), written, spoken, len(axes.lines)) == (8, 8, 6, 14)  # a line from each mark to its picture
