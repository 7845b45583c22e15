"""Clips: what is said of a motion is what the pixels do, no single frame tells it, and the parts share nothing."""

from __future__ import annotations

import math
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import rotate
from scipy.stats import ks_2samp
from sklearn.ensemble import RandomForestClassifier
from small_models import SHAPE, shake
from test_video import encoded

from unitx import cli
from unitx.errors import UnitxError
from unitx.model import Model
from unitx.source import MadeSource
from unitx.task import TaskInfo
from unitx.tokenizers.video import VideoProcessor
from unitx.worlds import pictures
from unitx.worlds.clips import FRAMES, GROWTH, MOTIONS, SIZE, TURN, WAY, ClipWorld, path_of

SOME = ["🐱", "🚗", "🍌"]
WORLD = ClipWorld(SOME, part="test")


@pytest.fixture(scope="module")
def train() -> ClipWorld:
    return ClipWorld(SOME).prepare()


def row(world: ClipWorld, index: int, seed: int = 0, strength: float = 1.0) -> dict[str, Any]:
    return world.row(index, np.random.default_rng([seed, index]), strength)


def test_a_row_is_the_same_each_time_and_in_another_process(train: ClipWorld) -> None:
    packed = pickle.dumps(train)
    assert len(packed) < 1_000
    for world, again in ((train, pickle.loads(packed)), (WORLD, pickle.loads(pickle.dumps(WORLD)))):
        for index in range(3):
            first, second = row(world, index), row(again, index)
            assert np.array_equal(first.pop("video"), second.pop("video")) and first == second
    assert np.array_equal(row(WORLD, 5, seed=0)["video"], row(WORLD, 5, seed=1, strength=0.5)["video"])
    other = ClipWorld(SOME, part="test", seed=1)
    assert not any(np.array_equal(row(WORLD, i)["video"], row(other, i)["video"]) for i in range(5))


def test_a_row_is_a_clip_and_what_is_said_of_it(train: ClipWorld) -> None:
    assert isinstance(train, MadeSource) and len(train) > len(WORLD)
    names = ("cat face", "automobile", "banana")
    motions, concepts, captions = (train.column(name) for name in ("motion", "concept", "caption"))
    assert {*Counter(zip(motions, concepts, strict=True)).values()} == {len(train) // 24}
    assert {*concepts} == {*names} and len({*captions}) == 24
    lengths = set()
    for index in range(60):
        found = row(train, index)
        assert [*found] == train.columns
        assert [found[name] for name in ("motion", "concept", "caption")] == [
            motions[index],
            concepts[index],
            captions[index],
        ]
        assert found["caption"] == f"{found['name']} {found['motion']}" and found["name"] == found["concept"]
        assert found["video"].shape[1:] == (SIZE, SIZE, 3) and found["video"].dtype == np.uint8
        lengths.add(len(found["video"]))
    assert lengths == {*range(FRAMES[0], FRAMES[1] + 1)}
    with pytest.raises(UnitxError, match="'video' are made anew"):
        train.column("video")


def middle(frame: np.ndarray) -> np.ndarray:
    """(2,) x and y of what is drawn on white, in pixels, round a picture whose sides meet: the mean direction."""
    drawn = (255.0 - frame).sum(2)
    turns = np.exp(2j * np.pi * (np.arange(SIZE) + 0.5) / SIZE)
    return np.array([np.angle((drawn.sum(axis) * turns).sum()) for axis in (0, 1)]) * SIZE / (2 * np.pi)


def way_of(frames: np.ndarray) -> np.ndarray:
    """(2,) how far x and y go over a clip, in sides of a frame, summed over short steps."""
    steps = np.diff([middle(frame) for frame in frames], axis=0)
    return ((steps + SIZE / 2) % SIZE - SIZE / 2).sum(0) / SIZE


def growth_of(frames: np.ndarray) -> float:
    first, last = ((255.0 - frame).sum() for frame in frames[[0, -1]])
    return math.sqrt(last / first)


def turn_of(frames: np.ndarray) -> float:
    """By how many radians the first frame must be turned to look most like the last."""
    first, last = (
        np.roll(f.mean(2), np.round(SIZE / 2 - middle(f)).astype(int)[::-1], (0, 1)) for f in frames[[0, -1]]
    )
    angles = np.arange(-180, 180, 6)
    errors = [np.abs(rotate(first, angle, reshape=False, order=1, cval=255) - last).mean() for angle in angles]
    return math.radians(angles[int(np.argmin(errors))])


@pytest.mark.parametrize("motion", MOTIONS)
def test_what_is_said_to_move_moves_so(motion: str, train: ClipWorld) -> None:
    """Of drawings as they are on white, where it is plain what was drawn."""
    direction = np.array(MOTIONS[motion][:2])
    grown = {"growing": GROWTH, "shrinking": (1 / GROWTH[1], 1 / GROWTH[0])}.get(motion, (1.0, 1.0))
    for index in [*MOTIONS].index(motion) + 8 * np.arange(12):
        frames = row(train, int(index), strength=0.0)["video"]
        way = way_of(frames)
        # What turns may be heavier at one side, and its middle goes round a little.
        assert (np.abs(way[direction == 0]) < (0.15 if motion == "turning" else 0.05)).all()
        assert not direction.any() or WAY[0] - 0.05 < direction @ way < WAY[1] + 0.05
        assert 0.95 * grown[0] < growth_of(frames) < 1.05 * grown[1]
        if motion == "turning":
            assert TURN[0] - 0.15 < abs(turn_of(frames)) < TURN[1] + 0.15
        elif direction.any():
            assert abs(turn_of(frames)) < 0.15
        assert (frames == frames[0]).all() == (motion == "standing still")


def paths(motion: str, count: int = 400) -> list[np.ndarray]:
    return [path_of(motion, np.random.default_rng([seed, *map(ord, motion)])) for seed in range(count)]


def test_no_single_frame_tells_the_motion() -> None:
    found = {motion: paths(motion) for motion in MOTIONS}
    rng = np.random.default_rng(0)
    taken: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "first": lambda path: path[0],
        "last": lambda path: path[-1],
        "any": lambda path: path[rng.integers(len(path))],
    }
    for when, take in taken.items():
        frames = {motion: np.array([take(path) for path in found[motion]]) for motion in MOTIONS}
        for values in frames.values():
            values[:, :2] %= SIZE
            values[:, 3] %= 2 * math.pi
        for motion, values in frames.items():
            others = np.concatenate([frames[other] for other in MOTIONS if other != motion])
            for k, what in enumerate(("x", "y", "side", "turn")):
                if what != "side" or when == "any":
                    assert ks_2samp(values[:, k], others[:, k]).pvalue > 1e-3, (when, motion, what)


def test_sizes_at_the_ends_of_a_clip_hint_at_little() -> None:
    """A forest that is told all of a frame, beside one that is told two."""

    def described(path: np.ndarray, frames: list[int]) -> np.ndarray:
        angles = path[frames] * [2 * math.pi / SIZE, 2 * math.pi / SIZE, 0, 1]
        return np.concatenate([path[frames, 2], np.cos(angles).ravel(), np.sin(angles).ravel()])

    found = [(motion, path) for motion in MOTIONS for path in paths(motion)]
    truth = np.array([motion for motion, _ in found])
    for frames, least, most in (([0], 0, 0.2), ([-1], 0, 0.2), ([0, -1], 0.6, 1)):  # chance: 0.125
        values = np.stack([described(path, frames) for _, path in found])
        forest = RandomForestClassifier(60, min_samples_leaf=5, random_state=0).fit(values[::2], truth[::2])
        assert least <= forest.score(values[1::2], truth[1::2]) <= most


def test_the_parts_share_no_rendering_and_no_ground(train: ClipWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str | None] = []
    clip = pictures.clip
    monkeypatch.setattr(pictures, "clip", lambda *given: asked.append(given[-1]) or clip(*given))  # type: ignore[func-returns-value]
    made = []
    for world in (train, train.of_part("validation"), WORLD):
        asked.clear()
        made.append({row(world, index)["video"].tobytes() for index in range(40)})
        assert {*asked} == ({None, "stripes"} if world is train else {"checks"})
        assert len(made[-1]) == 40
    assert not made[0] & made[1] and not made[0] & made[2] and not made[1] & made[2]


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"part": "dev"}, "no part 'dev'"), ({"concepts": 101}, "is 101"), ({"concepts": ["cat"]}, "cat")],
)
def test_wrong_settings(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UnitxError, match=words):
        ClipWorld(**settings)


def test_a_file_of_any_frame_rate_is_answered_as_the_clip_is(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    task = TaskInfo("motion", "classify", {"video": "video"}, "motion", [*MOTIONS])
    model = Model(SHAPE, {"video": VideoProcessor(max_tokens=36, patch=16)}, [task])
    shake(model)
    model.save_pretrained(tmp_path / "model")
    shown, files = [], []
    for index in range(5):
        frames = row(WORLD, index)["video"]
        for rate in (5, 50):
            files.append(tmp_path / f"{index}-{rate}.mp4")
            files[-1].write_bytes(encoded(frames, "mp4", "libx264", rate=rate, crf="1"))
            shown.append(frames)
        times = np.sort(np.random.default_rng(index).choice(2_000, len(frames), replace=False))  # ms
        files.append(tmp_path / f"{index}-uneven.mp4")
        files[-1].write_bytes(encoded(frames, "mp4", "libx264", times=(times - times[0]).tolist(), crf="1"))
        middles = times[0] + (np.arange(8) + 0.5) * (times[-1] + 1 - times[0]) / 8
        shown.append(np.stack([frames[times <= middle][-1] for middle in middles]))
    processor = model.processors["video"]
    for file, frames in zip(files, shown, strict=True):
        pixels, expected = (processor.features(processor.read(item)) for item in (file, frames))
        assert np.abs(pixels - expected).mean() < 0.05  # from -1 to 1
    expected = model.predict_proba(shown)
    np.testing.assert_allclose(model.predict_proba(files), expected, atol=0.06)
    assert cli.main(["predict", str(tmp_path / "model"), *map(str, files)]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == [str(file) for file in files]
    assert [line[1].rpartition(" ")[0] for line in lines] == [[*MOTIONS][best] for best in expected.argmax(1)]
