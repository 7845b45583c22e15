"""Augmentation: a pure function of the generator, bounded, and nothing at strength 0."""

from __future__ import annotations

import random
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from unitx.augment import Augment, mix_pictures
from unitx.batches import Feed, Preparer, Steps
from unitx.data import open_source
from unitx.task import TaskInfo
from unitx.tokenizers.image import ImageProcessor

SHAPES = [(1, 1), (1, 40), (40, 1), (16, 16), (90, 20), (21, 64)]  # width, height


def picture(width: int = 24, height: int = 16, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def wave(samples: int = 4_000) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(0, 0.1, samples).astype(np.float32))


def vary(level: str, modality: str, raw: Any, features: Any, strength: float, seed: int) -> list[np.ndarray]:
    """What a level makes of a raw item and of features, as arrays."""
    augment, rng = Augment(level), np.random.default_rng(seed)
    return [np.asarray(augment.raw(modality, raw, rng, strength)),
            np.asarray(augment.features(modality, features, rng, strength))]  # fmt: skip


ITEMS = {
    "image": (picture(), np.random.default_rng(1).normal(size=(3, 16, 24)).astype(np.float32)),
    "audio": (wave(), np.random.default_rng(1).normal(size=(60, 80)).astype(np.float32)),
    "text": ("some words", np.arange(5)),
}


@pytest.mark.parametrize("modality", ITEMS)
def test_none_gives_back_the_same_object_and_draws_nothing(modality: str):
    raw, features = ITEMS[modality]
    rng = np.random.default_rng(0)
    assert Augment("none").raw(modality, raw, rng, 1.0) is raw
    assert Augment("none").features(modality, features, rng, 1.0) is features
    assert rng.integers(2**31) == np.random.default_rng(0).integers(2**31)


@pytest.mark.parametrize(("level", "modality"), list(product(["light", "strong"], ITEMS)))
def test_a_pure_function_of_the_generator(level: str, modality: str):
    runs = [[vary(level, modality, *ITEMS[modality], 1.0, seed) for seed in range(12)] for _ in range(2)]
    for once, again in zip(*runs, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(once, again, strict=True))
    different = {b"".join(part.tobytes() for part in run) for run in runs[0]}
    assert len(different) == (1 if modality == "text" else 12)


@pytest.mark.parametrize("modality", ITEMS)
def test_global_generators_stay_where_they_are(modality: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch, "manual_seed", None)  # it seeds the accelerators' generators too
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    features = np.array(ITEMS[modality][1])
    kept = features.copy()
    for seed in range(8):
        vary("strong", modality, ITEMS[modality][0], features, 1.0, seed)
        mix_pictures(torch.rand(4, 3, 8, 8, generator=torch.Generator()), torch.eye(4), np.random.default_rng(seed))
    assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]
    assert np.array_equal(np.random.get_state()[1], before[2])
    assert np.array_equal(features, kept)  # nor is what was given written over


@pytest.mark.parametrize(("level", "size"), list(product(["light", "strong"], SHAPES)))
def test_at_strength_zero_a_picture_is_itself_or_its_mirror_image(level: str, size: tuple[int, int]):
    given = picture(*size)
    wanted = np.asarray(given)
    for seed in range(10):
        found = np.asarray(Augment(level).raw("image", given, np.random.default_rng(seed), 0.0))
        assert np.array_equal(found, wanted) or np.array_equal(found, wanted[:, ::-1])


@pytest.mark.parametrize("level", ["light", "strong"])
def test_at_strength_zero_sounds_and_features_are_themselves(level: str):
    for modality in ("image", "audio"):
        raw, features = ITEMS[modality]
        for seed in range(6):
            found = vary(level, modality, raw, features, 0.0, seed)
            assert np.array_equal(found[1], features)
            assert modality == "image" or np.array_equal(found[0], raw)


@pytest.mark.parametrize(("level", "size"), list(product(["light", "strong"], SHAPES)))
def test_a_crop_keeps_its_share_of_any_picture(level: str, size: tuple[int, int]):
    smallest = {"light": 0.5, "strong": 0.25}[level]
    areas = []
    for seed in range(20):
        found = Augment(level).raw("image", picture(*size), np.random.default_rng(seed), 1.0)
        assert isinstance(found, Image.Image) and found.mode == "RGB"
        assert 1 <= found.width <= size[0] and 1 <= found.height <= size[1]
        areas.append(found.width * found.height / (size[0] * size[1]))
    assert min(areas) > 0.8 * smallest - 2 / min(size) / max(size)
    assert np.mean(areas) > smallest and (min(size) == 1 or min(areas) < 0.95)


def masked(found: np.ndarray, given: np.ndarray, axis: int) -> int:
    """How many whole lines along an axis were changed."""
    return int((found != given).all(axis=1 - axis).sum())


@pytest.mark.parametrize(("level", "share"), [("light", 0.5), ("strong", 1.0)])
def test_spectrogram_masks_are_bounded_and_filled_with_the_mean(level: str, share: float):
    _, given = ITEMS["audio"]
    frames, mels, counts = *given.shape, []
    for seed in range(40):
        found = np.asarray(Augment(level).features("audio", given, np.random.default_rng(seed), 1.0))
        assert found.shape == given.shape and found.dtype == given.dtype
        lines = masked(found, given, 0), masked(found, given, 1)
        # Two stripes of each kind, at most a fifth of the frames and a quarter of the bands each.
        assert lines[0] <= 2 * int(frames * 0.2 * share) and lines[1] <= 2 * int(mels * 0.25 * share)
        changed = found != given
        assert changed.sum() == lines[0] * mels + lines[1] * frames - lines[0] * lines[1]
        # Later masks take the mean of what the earlier ones left, which stays near the first.
        assert not changed.any() or np.abs(found[changed] - given.mean()).max() < 0.1 * given.std()
        counts.append(lines)
    assert all(max(c) > 0 for c in zip(*counts, strict=True))


@pytest.mark.parametrize("frames", [1, 2, 3, 5])
def test_spectrograms_of_a_few_frames(frames: int):
    given = np.random.default_rng(0).normal(size=(frames, 80)).astype(np.float32)
    for seed in range(10):
        found = np.asarray(Augment("strong").features("audio", given, np.random.default_rng(seed), 1.0))
        assert found.shape == given.shape and np.isfinite(found).all()
        assert (found == given).any(axis=1).all()  # at this length no frame is masked as a whole


@pytest.mark.parametrize("samples", [1, 2, 17, 4_000])
def test_speed_changes_length_by_at_most_fifteen_percent(samples: int):
    lengths = []
    for seed in range(20):
        found = np.asarray(Augment("strong").raw("audio", wave(samples), np.random.default_rng(seed), 1.0))
        assert found.ndim == 1 and found.dtype == np.float32 and np.isfinite(found).all()
        lengths.append(len(found))
    assert samples / 1.15 - 1 <= min(lengths) and max(lengths) <= samples / 0.85 + 1
    assert samples < 17 or len(set(lengths)) > 3


def test_speed_changes_pitch():
    time = np.arange(16_000) / 16_000
    tone = torch.from_numpy(np.sin(2 * np.pi * 1_000 * time).astype(np.float32))
    for seed in range(6):
        found = np.asarray(Augment("strong").raw("audio", tone, np.random.default_rng(seed), 1.0))
        peak = np.abs(np.fft.rfft(found)).argmax() * 16_000 / len(found)
        assert abs(peak - 1_000 * 16_000 / len(found)) < 3


def test_normalised_pixels_pass_as_they_are():
    pixels = torch.rand(3, 8, 8)
    assert Augment("strong").raw("image", pixels, np.random.default_rng(0), 1.0) is pixels


def mixtures() -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    pictures = torch.rand(5, 3, 12, 20, generator=torch.Generator().manual_seed(0))
    made = [mix_pictures(pictures, torch.eye(5), np.random.default_rng(seed)) for seed in range(30)]
    return [(pictures, *pair) for pair in made]


def test_mixed_targets_sum_to_one_and_name_two_pictures():
    for _, _, targets in mixtures():
        assert torch.allclose(targets.sum(1), torch.ones(5), atol=1e-6) and (targets >= 0).all()
        assert ((targets > 0).sum(1) <= 2).all()


def test_mixed_pixels_are_mixed_as_their_targets():
    kinds = set()
    for pictures, mixed, targets in mixtures():
        if torch.equal(mixed, pictures):
            continue
        blend = torch.einsum("ij,jchw->ichw", targets, pictures)
        whole = (mixed[:, None] == pictures[None]).all(2)  # (new, old, h, w): where a pixel is an old picture's
        if torch.allclose(mixed, blend, atol=1e-5):
            kinds.add("mixup")
        else:
            kinds.add("cutmix")
            assert whole.any(1).all()
            # The share of the pixels that came from elsewhere is the share of the target.
            share = whole.float().mean((2, 3))
            assert torch.allclose(share, targets, atol=1e-5)
    assert kinds == {"mixup", "cutmix"}


def test_one_picture_is_not_mixed():
    picture, target = torch.rand(1, 3, 8, 8), torch.eye(1)
    found = mix_pictures(picture, target, np.random.default_rng(0))
    assert found[0] is picture and found[1] is target


def test_pictures_of_one_task_and_size_are_mixed_with_their_own_kind():
    rows = [{"image": picture(16, 16, seed=i), "label": "ab"[i % 2]} for i in range(8)]
    rows += [{"image": picture(32, 8, seed=i), "label": "ab"[i % 2]} for i in range(8, 12)]
    info = TaskInfo("kind", "classify", {"image": "image"}, "label", ["a", "b"])
    feed = Feed(info, open_source(rows, info.reads, "label"), 12)
    preparer = Preparer({"image": ImageProcessor(max_tokens=4, patch=8)})
    mixed = 0
    for step in range(12):
        (batch,), _ = Steps(preparer, [feed], progress=1, augment=Augment("strong"))[step]
        values = batch.targets["kind"].values
        assert len(values) == 12 and torch.allclose(values.sum(1), torch.ones(12), atol=1e-6)
        mixed += int((values.max(1).values < 1).any())
        if step == 0:  # a run begins with items as they are
            assert (values.max(1).values == 1).all()
    assert mixed > 2


@pytest.mark.parametrize("level", ["light", "strong"])
def test_half_of_the_pictures_are_mirrored(level: str):
    given = picture()
    found = [Augment(level).raw("image", given, np.random.default_rng(seed), 0.0) for seed in range(200)]
    mirrored = np.mean([np.array_equal(np.asarray(one), np.asarray(given)[:, ::-1]) for one in found])
    assert 0.35 < mirrored < 0.65


def test_light_changes_colours_and_strong_shapes_too():
    plain = Image.new("RGB", (24, 24), (120, 140, 90))
    for level in ("light", "strong"):
        augment = Augment(level)
        found = [np.asarray(augment.raw("image", plain, np.random.default_rng(s), 1.0), float) for s in range(60)]
        moved = np.array([one.mean((0, 1)) - (120, 140, 90) for one in found])
        assert moved.std(0).min() > 3
        # A crop, a mirror and other colours leave one colour everywhere; what turns or shifts leaves corners behind.
        uneven = np.mean([one.std((0, 1)).max() > 0 for one in found])
        assert (uneven == 0) if level == "light" else (uneven > 0.3)
        assert level == "strong" or np.abs(moved).max() < 80


def test_strong_erases_a_rectangle_of_a_quarter_of_the_pictures():
    given = np.full((3, 20, 30), 9.0, dtype=np.float32)  # further out than the noise that is filled in
    erased = []
    for seed in range(200):
        found = Augment("strong").features("image", given, np.random.default_rng(seed), 1.0)
        rows, columns = np.nonzero((found != given).all(0))
        erased.append(len(rows) > 0)
        if len(rows):
            box = (1 + rows.max() - rows.min()) * (1 + columns.max() - columns.min())
            assert len(rows) == box and 0.01 * 600 < box < 0.4 * 600
        assert np.array_equal(Augment("light").features("image", given, np.random.default_rng(seed), 1.0), given)
    assert 0.12 < np.mean(erased) < 0.4


@pytest.mark.parametrize("level", ["light", "strong"])
def test_boxes_go_with_what_they_show(level: str):
    """A red and a blue block on grey: their boxes in the varied picture are those of its red and of its blue pixels."""
    pixels = np.full((60, 90, 3), 128, dtype=np.uint8)
    pixels[10:30, 20:40] = [255, 0, 0]
    pixels[35:55, 60:80] = [0, 0, 255]
    boxes = np.array([[20 / 90, 10 / 60, 40 / 90, 30 / 60], [60 / 90, 35 / 60, 80 / 90, 55 / 60]], np.float32)
    lost = mirrored = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        varied, moved, kept = Augment(level).with_boxes(Image.fromarray(pixels), boxes, rng, 1.0)
        found = np.asarray(varied).astype(int)
        sides = np.array([varied.width, varied.height, varied.width, varied.height])
        assert moved.dtype == np.float32 and moved.shape == (2, 4) and (moved >= 0).all() and (moved <= 1).all()
        for box, is_kept, channel in zip(moved, kept, (0, 2), strict=True):
            rows, columns = np.nonzero(found[:, :, channel] - found[:, :, 2 - channel] > 60)
            assert is_kept == (len(rows) > 0.3 * 400)
            lost += not is_kept
            if is_kept:
                corners = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                np.testing.assert_allclose(box * sides, corners, atol=0.01)
        mirrored += bool(kept.all() and moved[0, 0] > moved[1, 0])
    assert lost > 2 and mirrored > 20


def test_boxes_stay_where_nothing_is_varied():
    boxes = np.array([[0.25, 0.5, 0.75, 1.0]], np.float32)
    rng = np.random.default_rng(0)
    given = picture()
    varied, moved, kept = Augment("none").with_boxes(given, boxes, rng, 1.0)
    assert varied is given and moved is boxes and kept.all()
    assert rng.integers(2**31) == np.random.default_rng(0).integers(2**31)
    varied, moved, kept = Augment("light").with_boxes(given, np.zeros((0, 4), np.float32), rng, 1.0)
    assert moved.shape == (0, 4) and kept.shape == (0,)
