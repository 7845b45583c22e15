from __future__ import annotations

import io
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageOps
from timm.data.naflex_transforms import get_image_size_for_seq

from unitx.errors import BadItem, UnitxError
from unitx.tokenizers.image import ImageProcessor, ImageTokenizer, patch_grid, to_rgb

SMALL = ImageProcessor(max_tokens=16, patch=8)
COLOUR = (200, 60, 120)


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


def encoded(image: Image.Image, format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def png(width: int, height: int, depth: int, colour_type: int, rows: bytes) -> bytes:
    """A PNG written by hand, for what Pillow reads but can't write (16 bits a channel) or would not (a huge header)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


sides = st.integers(1, 3000)


@settings(max_examples=300, deadline=None)
@given(height=sides, width=sides, tokens=st.integers(1, 1024))
def test_the_grid_fills_the_tokens_at_the_pictures_aspect(height, width, tokens):
    rows, columns = patch_grid(height, width, tokens)
    assert 1 <= rows * columns <= tokens
    assert patch_grid(width, height, tokens) == (columns, rows)
    long, short = max(rows, columns), min(rows, columns)
    ratio = min(height, width) / max(height, width)
    # The shorter side is right to half a patch, and one more patch on the longer side would not have fitted.
    assert abs(short - long * ratio) <= 0.5 or short == 1
    assert (long + 1) * max(1, int((long + 1) * ratio + 0.5)) > tokens


@settings(max_examples=200, deadline=None)
@given(height=st.integers(100, 2000), width=st.integers(100, 2000))
def test_the_grid_is_naflexs_to_one_patch(height, width):
    if max(height, width) < 4 * min(height, width):
        theirs = get_image_size_for_seq((height, width), patch_size=16, max_seq_len=256)[1]
        ours = patch_grid(height, width, 256)
        assert all(abs(a - b // 16) <= 1 for a, b in zip(ours, theirs, strict=True))


def test_known_grids():
    assert patch_grid(500, 500, 16) == (4, 4)
    assert patch_grid(1, 1000, 16) == (1, 16)
    assert patch_grid(1000, 1, 16) == (16, 1)
    assert patch_grid(480, 640, 192) == (12, 16)
    assert SMALL.features(SMALL.read(noise(50, 50))).shape == (3, 32, 32)
    assert SMALL.features(SMALL.read(noise(1, 1000))).shape == (3, 8, 128)


def test_patches_are_those_of_a_convolution():
    torch.manual_seed(0)
    processor = ImageProcessor(max_tokens=24, patch=4, merges=0, orientations=0)
    tokenizer = ImageTokenizer(processor, 10)
    embed = tokenizer.stem.embed
    pixels = processor.features(processor.read(noise(40, 60)))
    pieces = processor.cut(pixels)
    assert pieces.values.shape == (24, 48) and not pieces.shortened
    kernel = embed.weight.view(10, 4, 4, 3).permute(0, 3, 1, 2)  # (dim, p q c) → (dim, c, p, q)
    torch.nn.init.normal_(embed.bias)
    expected = torch.nn.functional.conv2d(torch.from_numpy(pixels)[None], kernel, embed.bias, stride=4)
    out = tokenizer(torch.from_numpy(pieces.values), [24])
    torch.testing.assert_close(out, expected[0].flatten(1).T, atol=1e-5, rtol=1e-5)
    positions = [[0, row, column] for row in range(4) for column in range(6)]
    assert pieces.positions.tolist() == positions and pieces.positions.dtype == np.int64


def test_patches_are_those_of_a_loop():
    pixels = np.arange(3 * 16 * 24, dtype=np.float32).reshape(3, 16, 24)
    values = SMALL.cut(pixels).values
    for row in range(2):
        for column in range(3):
            patch = pixels[:, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8]
            np.testing.assert_array_equal(values[row * 3 + column], patch.transpose(1, 2, 0).ravel())


def test_pixels_are_normalised_as_torchvision_does():
    from torchvision.transforms import v2

    processor = ImageProcessor(max_tokens=16, patch=8, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    image = Image.fromarray(noise(32, 32))
    peer = v2.Compose(
        [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(processor.mean, processor.std)]
    )
    np.testing.assert_allclose(processor.features(image), peer(image).numpy(), atol=1e-5)


def test_scaling_is_antialiased():
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    pixels = SMALL.features(SMALL.read(stripes))
    np.testing.assert_allclose(pixels, 0, atol=0.02)  # mid grey, where picking single pixels would give -1 or 1


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV"])
def test_every_mode_that_rgb_converts_to(mode):
    if mode in ("LA", "PA"):
        image = Image.new("RGB", (6, 4), COLOUR).convert(mode[0]).convert(mode)
    else:
        image = Image.new("RGB", (6, 4), COLOUR).convert(mode)
    out = SMALL.read(image)
    assert (out.mode, out.size) == ("RGB", (6, 4))
    grey = Image.new("RGB", (1, 1), COLOUR).convert("L").getpixel((0, 0))
    expected = {"1": None, "L": (grey,) * 3, "LA": (grey,) * 3}.get(mode, COLOUR)
    if expected:
        # An adaptive or web palette and the colour spaces round.
        near = 40 if mode in ("P", "PA") else 3
        np.testing.assert_allclose(np.asarray(out)[0, 0], expected, atol=near)
    else:
        assert set(np.unique(np.asarray(out))) <= {0, 255}


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B", "I;16N", "I"])
def test_wide_integers_are_scaled_by_their_range(mode):
    values = np.array([[0, 257, 25_700, 65_535]], dtype=np.int64)
    order = ">u2" if mode.endswith("B") else "<u2" if mode != "I" else "<i4"
    image = Image.frombytes(mode, (4, 1), values.astype(order).tobytes())
    np.testing.assert_array_equal(np.asarray(to_rgb(image))[0, :, 0], [0, 1, 100, 255])


@pytest.mark.parametrize(
    ("mode", "values", "expected"),
    [
        ("F", [0, 0.5, 1], [0, 128, 255]),
        ("F", [0, 100, 255], [0, 100, 255]),
        ("F", [-1, 0, 1], [0, 128, 255]),
        ("F", [-3, -3, -3], [0, 0, 0]),
        ("I", [0, 100, 255], [0, 100, 255]),
        ("I", [0, 1 << 29, 1 << 30], [0, 128, 255]),
    ],
)
def test_floats_and_long_integers_are_scaled(mode, values, expected):
    image = Image.fromarray(np.array([values], dtype=np.float32 if mode == "F" else np.int32))
    assert image.mode == mode
    np.testing.assert_array_equal(np.asarray(to_rgb(image))[0, :, 0], expected)


def test_lab_is_converted_by_its_meaning():
    lab = Image.new("LAB", (2, 2), (255, 128, 128))
    assert min(to_rgb(lab).getpixel((0, 0))) >= 250  # lightness 100 is white
    red = to_rgb(Image.frombytes("LAB", (1, 1), bytes([136, 80 + 0, 67]))).getpixel((0, 0))  # a* = 80, b* = 67
    np.testing.assert_allclose(red, (255, 0, 0), atol=12)


def premultiplied(mode: str) -> Image.Image:
    return Image.new({"RGBa": "RGBA", "La": "LA"}[mode], (2, 2), {"RGBa": (0, 0, 0, 0), "La": (0, 0)}[mode]).convert(
        mode
    )


def test_transparency_lies_on_white():
    palette = Image.new("P", (2, 2), 0)
    palette.putpalette([10, 20, 30, 0, 0, 0])
    palette.info["transparency"] = 0
    keyed = Image.new("RGB", (2, 2), (1, 2, 3))
    keyed.info["transparency"] = (1, 2, 3)
    clear = [Image.new("RGBA", (2, 2), (9, 9, 9, 0)), Image.new("LA", (2, 2), (9, 0)), palette, keyed]
    clear += [premultiplied("RGBa"), premultiplied("La")]
    clear.append(Image.open(io.BytesIO(encoded(palette, "PNG", transparency=0))))
    for image in clear:
        assert SMALL.read(image).getpixel((0, 0)) == (255, 255, 255), image.mode
    half = SMALL.read(Image.new("RGBA", (2, 2), (200, 0, 0, 128))).getpixel((0, 0))
    np.testing.assert_allclose(half, (227, 127, 127), atol=2)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    upright = Image.new("RGB", (64, 32), "white")
    ImageDraw.Draw(upright).rectangle((0, 0, 15, 15), fill="red")
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Image.Transpose that brings upright to what was stored
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    out = SMALL.read(encoded(stored, "PNG", exif=exif))
    np.testing.assert_array_equal(np.asarray(out), np.asarray(upright))


def test_16_bit_files_keep_their_range():
    ramp = np.linspace(0, 65_535, 64).astype(np.uint16)
    grey = encoded(Image.fromarray(np.tile(ramp, (8, 1))), "PNG")
    np.testing.assert_array_equal(np.asarray(SMALL.read(grey))[0, :, 1], np.round(ramp / 257))
    rows = b"".join(b"\0" + np.repeat(ramp, 3).astype(">u2").tobytes() for _ in range(8))
    rgb = np.asarray(SMALL.read(png(64, 8, 16, 2, rows)))
    np.testing.assert_allclose(rgb[0, :, 1], ramp / 257, atol=1)


def test_arrays_and_tensors_are_the_same_picture():
    pixels = noise(20, 30)
    expected = pixels
    for item in (
        pixels,
        pixels.astype(np.uint16) * 257,
        pixels.astype(np.int64),
        pixels / 255,
        (pixels / 255).astype(np.float32),
        torch.from_numpy(pixels).permute(2, 0, 1),
        np.dstack([pixels, np.full((20, 30), 255, np.uint8)]),
        pixels[::1, ::-1][:, ::-1],
    ):
        np.testing.assert_array_equal(np.asarray(SMALL.read(item)), expected)
    grey = pixels[:, :, 0]
    for item in (grey, grey[:, :, None], torch.from_numpy(grey)[None]):
        np.testing.assert_array_equal(np.asarray(SMALL.read(item)), np.repeat(grey[:, :, None], 3, axis=2))
    assert SMALL.read(np.eye(4, dtype=bool)).getpixel((0, 0)) == (255, 255, 255)


def test_float_tensors_are_pixel_values_as_they_are():
    torch.manual_seed(0)
    fits = torch.randn(3, 16, 32)
    np.testing.assert_array_equal(SMALL.features(SMALL.read(fits.double())), fits.numpy())
    for shape, expected in [((3, 20, 20), (3, 32, 32)), ((3, 320, 160), (3, 40, 24))]:
        out = SMALL.features(SMALL.read(torch.full(shape, 0.3)))
        assert out.shape == expected and out.dtype == np.float32
        np.testing.assert_allclose(out, 0.3, atol=1e-5)


def test_every_way_to_name_a_file(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(noise(9, 9)).save(path)
    data = path.read_bytes()
    with open(path, "rb") as file:
        items = [path, str(path), data, io.BytesIO(data), file, Image.open(path)]
        out = [np.asarray(SMALL.read(item)) for item in items]
    for pixels in out:
        np.testing.assert_array_equal(pixels, noise(9, 9))


def test_the_first_frame_of_an_animation_is_read():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for format in ("GIF", "PNG", "WEBP", "TIFF"):
        lossless = {"lossless": True} if format == "WEBP" else {}
        data = encoded(frames[0], format, save_all=True, append_images=frames[1:], **lossless)
        assert Image.open(io.BytesIO(data)).n_frames == 2
        np.testing.assert_allclose(SMALL.read(data).getpixel((4, 4)), (255, 0, 0), atol=3)


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_jpeg_is_decoded_reduced_and_looks_the_same(orientation):
    y, x = np.mgrid[:1200, :1600]
    image = Image.fromarray(
        np.stack([x * 255 // 1600, y * 255 // 1200, (x + y) * 255 // 2800], axis=2).astype(np.uint8)
    )
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(image, "JPEG", quality=95, exif=exif)
    raw = SMALL.read(data)
    rows, columns = patch_grid(raw.height, raw.width, 16)
    assert raw.width <= 400 and raw.width >= 2 * columns * 8 and raw.height >= 2 * rows * 8
    whole = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert (raw.width > raw.height) == (whole.width > whole.height) == (orientation == 1)
    np.testing.assert_allclose(SMALL.features(raw), SMALL.features(whole), atol=0.06)


def test_damaged_files_are_named_with_the_remedy(tmp_path):
    image = Image.fromarray(noise(64, 64))
    files = {
        "empty.png": (b"", "is empty"),
        "text.jpg": (b"this is no picture" * 9, "not a picture that Pillow can read"),
        "drawing.svg": (b"<svg/>", "not a picture that Pillow can read"),
        "header.png": (encoded(image, "PNG")[:20], "not a picture|cannot be decoded"),
        "wide.png": (png(100_000, 1, 8, 0, b"\0"), "100000 x 1 pixels"),
        "bomb.png": (png(90_000, 90_000, 8, 0, b"\0"), "too many pixels"),
        "zero.png": (png(0, 5, 8, 0, b"\0"), "not a picture|0 x 5 pixels"),
    }
    for format in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"):
        data = encoded(image, format)
        files[f"half.{format.lower()}"] = (data[: len(data) // 2], "cannot be decoded|not a picture")
    for name, (data, message) in files.items():
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(BadItem, match=message) as caught:
            SMALL.prepare(path)
        assert name in str(caught.value) and ";" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("missing.png", "missing.png: there is no such file"),
        (Path("missing.png"), "no such file"),
        (None, "NoneType None cannot be read"),
        (np.zeros((3, 4, 5), np.uint8), "an array is"),
        (np.zeros(5, np.uint8), "an array is"),
        (np.zeros((0, 4, 3), np.uint8), "4 x 0 pixels"),
        (np.zeros((1, 100_000), np.uint8), "100000 x 1 pixels"),
        (Image.new("RGB", (0, 5)), "0 x 5 pixels"),
        (np.full((4, 4, 3), 255.0), "divide by 255"),
        (np.full((4, 4), np.nan), "0 to 1"),
        (np.full((4, 4), 300), "uint8, uint16"),
        (np.full((4, 4), "a"), "uint8, uint16"),
        (torch.zeros(4, 4), "a tensor is"),
        (torch.zeros(3, 4, 4, dtype=torch.long), "a tensor is"),
        (torch.full((3, 4, 4), torch.nan), "NaN"),
        (torch.zeros(3, 0, 4), "4 x 0 pixels"),
        (Image.fromarray(np.full((2, 2), np.inf, np.float32)), "NaN or infinity"),
    ],
)
def test_bad_items_are_named(item, message):
    with pytest.raises(BadItem, match=message) as caught:
        SMALL.read(item)
    assert "\n" not in str(caught.value)


def test_options_are_checked():
    with pytest.raises(UnitxError, match="three numbers"):
        ImageProcessor(std=(0.5, 0.5))
    with pytest.raises(UnitxError, match="three numbers"):
        ImageProcessor(std=(0.5, 0.0, 0.5))
    assert ImageProcessor(mean=[0.1, 0.2, 0.3]) == ImageProcessor(mean=(0.1, 0.2, 0.3))
    assert pickle.loads(pickle.dumps(SMALL)) == SMALL


def test_the_tokenizer_keeps_the_scale_and_the_dtype():
    torch.manual_seed(0)
    tokenizer = ImageTokenizer(SMALL, 256)
    values = torch.from_numpy(SMALL.prepare(noise(32, 32)).values)
    out = tokenizer(values, [16])
    torch.testing.assert_close(out.pow(2).mean().sqrt(), values.pow(2).mean().sqrt(), rtol=0.3, atol=0)
    assert out.dtype == torch.float32 and tokenizer(values.bfloat16(), [16]).dtype == torch.bfloat16
    assert tokenizer(values[:0], []).shape == (0, 256)
    assert len(SMALL.windows(SMALL.features(SMALL.read(noise(32, 32))))) == 1


def test_twelve_megapixels_are_decoded_reduced_to_at_most_256_patches(tmp_path: Path) -> None:
    file = tmp_path / "large.jpg"
    Image.linear_gradient("L").resize((4000, 3000)).convert("RGB").save(file)
    processor = ImageProcessor()
    picture = processor.read(file)
    assert picture.width < 1200  # JPEG's own scaling by 1/4: nobody decoded twelve million pixels
    rows, columns = patch_grid(3000, 4000, 256)
    assert len(processor.prepare(file)) == rows * columns <= 256 and columns / rows == pytest.approx(4 / 3, rel=0.1)
