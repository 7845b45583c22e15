"""Scenes: boxes lie around what was drawn, questions have right answers, and the parts share nothing."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from unitx.errors import UnitxError
from unitx.worlds.scenes import NUMBERS, OVERLAP, SIZE, SceneWorld

WORLD = SceneWorld(concepts=5, most=3, part="test")


def row(world: SceneWorld, index: int) -> dict:
    return world.row(index, np.random.default_rng(index))


def test_a_row_is_the_same_each_time_and_in_another_process() -> None:
    again = pickle.loads(pickle.dumps(WORLD))
    for index in range(3):
        first, second = row(WORLD, index), again.row(index, np.random.default_rng(99))
        assert np.array_equal(first.pop("image"), second.pop("image")) and first == second


def test_boxes_lie_around_what_differs_from_the_ground() -> None:
    seen = 0
    for index in range(60):
        pixels = np.asarray(row(WORLD, index)["image"]).astype(int)
        objects = row(WORLD, index)["objects"]
        if not (pixels[0, 0] == 255).all() or len(objects) != 1:
            continue  # only on white, and alone, is it plain what was drawn
        (left, top, width, height), seen = objects[0]["box"], seen + 1
        drawn = (pixels < 225).any(2)
        rows, columns = np.flatnonzero(drawn.any(1)), np.flatnonzero(drawn.any(0))
        assert abs(rows[0] - top) <= 2 and abs(rows[-1] + 1 - top - height) <= 2
        assert abs(columns[0] - left) <= 2 and abs(columns[-1] + 1 - left - width) <= 2
    assert seen >= 3


def test_objects_are_in_the_picture_and_hide_little_of_each_other() -> None:
    for index in range(40):
        objects = row(WORLD, index)["objects"]
        assert 1 <= len(objects) <= 3
        for i, one in enumerate(objects):
            left, top, width, height = one["box"]
            assert 0 <= left < left + width <= SIZE and 0 <= top < top + height <= SIZE
            for other in objects[:i]:
                a, b = np.array(one["box"]), np.array(other["box"])
                sides = np.minimum(a[:2] + a[2:], b[:2] + b[2:]) - np.maximum(a[:2], b[:2])
                # The squares overlap by so much at most; the boxes inside them may be much smaller.
                assert sides.clip(0).prod() <= OVERLAP * 30**2


def test_what_is_said_of_a_scene_is_true() -> None:
    kinds = set()
    for index in range(120):
        found = row(WORLD, index)
        objects, question, answer = found["objects"], found["question"], found["answer"]
        names = [each["name"] for each in objects]
        centre = {axis: [each["box"][axis] + each["box"][axis + 2] / 2 for each in objects] for axis in (0, 1)}
        assert found["count"] == len(names)
        assert found["caption"].split(", ") == [names[i] for i in np.argsort(centre[0], kind="stable")]
        kinds.add(question.split()[0] + question.split()[-1])
        if question == "how many are there?":
            assert answer == NUMBERS[len(names)]
        elif question.startswith("is there a "):
            assert answer == ("yes" if question[11:-1] in names else "no")
        else:
            sides = {"left?": (0, min), "right?": (0, max), "top?": (1, min), "bottom?": (1, max)}
            axis, best = sides[question.split()[-1]]
            assert answer == names[centre[axis].index(best(centre[axis]))]
    assert len(kinds) > 5


def test_options_are_checked() -> None:
    with pytest.raises(UnitxError, match="room for 1 to 6 emoji, not 9"):
        SceneWorld(most=9)
    with pytest.raises(UnitxError, match="has no part 'dev'"):
        SceneWorld(part="dev")
    with pytest.raises(UnitxError, match="concepts is 0"):
        SceneWorld(concepts=0)
    assert len(SceneWorld()) > len(WORLD) and SceneWorld().of_part("test").part == "test"
