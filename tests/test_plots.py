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

from unitx.plots import draw_boxes, draw_curves, draw_sketches, draw_sound, draw_space, draw_text
from unitx.task import Sketch
from unitx.tasks.detect import Found
from unitx.tasks.tag import Span

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


def test_boxes_are_drawn_where_they_are() -> None:
    white = Image.new("RGB", (100, 50), "white")
    found = [Found("cat", 0.9, (0.5, 0.5, 0.9, 0.9)), Found("dog", 0.4, (0.1, 0.6, 0.3, 0.9))]
    drawn = np.asarray(draw_boxes(white, found)).astype(int)
    zoom = drawn.shape[0] // 50
    assert drawn.shape == (50 * zoom, 100 * zoom, 3)
    for found_one in found:
        sides = zip(found_one.box, (100, 50, 100, 50), strict=True)
        left, top, right, bottom = (round(share * side * zoom) for share, side in sides)
        edge, middle = drawn[(top + bottom) // 2, left], drawn[(top + bottom) // 2, (left + right) // 2]
        assert (edge < 255).any() and (middle == 255).all()
        assert (drawn[bottom, left:right] != 255).any(1).all()
    assert (drawn[:, : zoom * 5] == 255).all()
    assert (np.asarray(draw_boxes(white, [])) == 255).all()


def test_spans_of_a_sound_are_drawn_when_they_are() -> None:
    spectrogram = np.tile(np.linspace(0, 1, 64)[:, None], (1, 100))
    strips = [[Span("cat", 0.9, 0.5, 1.0), Span("dog", 0.8, 1.5, 1.75)], [Span("dog", 1.0, 0.0, 9.0)]]
    drawn = np.asarray(draw_sound(spectrogram, 2.0, strips, ["cat", "dog"])).astype(int)
    height = drawn.shape[0] - 2 * 28
    assert (drawn[0, 0] == drawn[0, -1]).all() and (drawn[0, 0] != drawn[height - 1, 0]).any()
    line = drawn[height + 25]  # under the words
    width = drawn.shape[1]
    coloured = (line < 255).any(1)
    for share in (0.26, 0.3, 0.49, 0.76, 0.87):
        assert coloured[round(share * width)]
    for share in (0.1, 0.24, 0.51, 0.74, 0.89, 0.99):
        assert not coloured[round(share * width)]
    assert (line[round(0.3 * width)] != line[round(0.8 * width)]).any()  # another label
    below = drawn[height + 28 + 25]
    assert (below[round(0.9 * width)] == line[round(0.8 * width)]).all() and (below < 255).any(1).all()
    assert draw_sound(np.zeros((4, 4)), 1.0, [[]], []).size == (width, height + 28)  # silence, and nothing in it


def test_spans_of_a_text_are_drawn_under_its_words() -> None:
    text = "x" * 10 + "é" * 60 + "\n" + "y" * 29
    strips = [[Span("cat", 0.9, 2, 5, "x"), Span("dog", 0.8, 60, 70, "é")], [Span("dog", 1.0, 80, 100, "y")]]
    drawn = np.asarray(draw_text(text, strips, ["cat", "dog"])).astype(int)
    line = drawn.shape[0] // 2
    wide = (drawn.shape[1] - 8) / 64
    for row, strip, place, coloured in (
        (0, 0, 3, True), (0, 0, 1, False), (0, 0, 6, False), (0, 0, 62, True), (0, 1, 62, False), (1, 0, 3, True),
        (1, 0, 7, False), (1, 1, 3, False), (1, 1, 20, True), (1, 1, 40, False),
    ):  # fmt: skip
        y, x = line * row + 30 + 22 * strip + 18, 4 + (place + 0.5) * wide
        assert (drawn[y, round(x)] < 255).any() == coloured
    assert (drawn[4:26, 5 : round(4 + wide)] < 128).any()
    assert draw_text("", [[]], []).size[0] == drawn.shape[1]
    assert draw_text("a" * 9_999, [[]], []).size[1] == 12 * (34 + 22)
