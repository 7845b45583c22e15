"""Items with what was found on them."""

from __future__ import annotations

import numpy as np
from PIL import Image

from unitx.drawings import draw_boxes, draw_sound, draw_text
from unitx.tasks.detect import Found
from unitx.tasks.tag import Span


def test_boxes_are_drawn_where_they_are() -> None:
    white = Image.new("RGB", (100, 50), "white")
    found = [Found("cat", 0.9, (0.5, 0.5, 0.9, 0.9)), Found("dog", 0.4, (0.1, 0.6, 0.3, 0.9))]
    drawn = np.asarray(draw_boxes(white, found, ["cat", "dog"])).astype(int)
    zoom = drawn.shape[0] // 50
    assert drawn.shape == (50 * zoom, 100 * zoom, 3)
    for found_one in found:
        sides = zip(found_one.box, (100, 50, 100, 50), strict=True)
        left, top, right, bottom = (round(share * side * zoom) for share, side in sides)
        edge, middle = drawn[(top + bottom) // 2, left], drawn[(top + bottom) // 2, (left + right) // 2]
        assert (edge < 255).any() and (middle == 255).all()
        assert (drawn[bottom, left:right] != 255).any(1).all()
    assert (drawn[:, : zoom * 5] == 255).all()
    assert (np.asarray(draw_boxes(white, [], ["cat"])) == 255).all()


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
