from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from unitx.errors import BadItem, UnitxError
from unitx.media import (
    check_whole,
    crop,
    describe,
    is_missing_file,
    modality_of,
    named_file,
    open_binary,
    sound_seconds,
    suffix_modality,
)
from unitx.tokenizers.image import ImageProcessor


def test_importing_it_does_not_import_torch():
    code = "import sys, unitx.media; print('torch' in sys.modules, 'numpy' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["False", "False"]


@pytest.mark.parametrize(
    ("item", "modality"),
    [
        (Image.new("L", (2, 2)), "image"),
        (np.zeros((5, 6, 3)), "image"),
        (np.zeros((5, 6, 4), np.uint8), "image"),
        (np.zeros((5, 6, 1), np.uint16), "image"),
        (np.zeros((5, 6), np.uint8), "image"),
        (np.zeros((5, 6), np.float32), None),
        (torch.zeros(3, 5, 6), "image"),
        (torch.zeros(5), None),
        ((np.zeros(9), 16_000), "audio"),
        ((torch.zeros(2, 9), 44_100.0), "audio"),
        ((np.zeros(9), np.int64(8_000)), "audio"),
        ((np.zeros(9), np.zeros(9)), None),
        ("a cat", "text"),
        ("", "text"),
        ("missing.png", "text"),
        ("x" * 100_000, "text"),
        ("nul\0.png", "text"),
        (Path("missing.png"), "image"),
        (Path("a.WAV"), "audio"),
        (Path("a.mp4"), "video"),
        (Path("a.md"), "text"),
        (Path("a.xyz"), None),
        (b"bytes", None),
        (3.5, None),
        (None, None),
        (np.float32(1), None),
    ],
)
def test_modality_of(item, modality):
    assert modality_of(item) == modality


@pytest.mark.parametrize(
    ("name", "modality"), [("a.JPG", "image"), ("a.m4a", "audio"), ("a.mkv", "video"), ("a.txt", "text"), ("a", "text")]
)
def test_a_string_that_names_an_existing_file_is_what_its_suffix_says(tmp_path, name, modality):
    path = tmp_path / name
    assert modality_of(str(path)) == "text"
    path.touch()
    assert modality_of(str(path)) == modality
    assert suffix_modality(path) == (modality if "." in name else None)


@pytest.mark.parametrize(
    ("item", "name"),
    [
        ("cat.png", "cat.png"),
        (Path("a/b"), "a/b"),
        ("hello", "text 'hello'"),
        ("line\n" * 9, "text 'line\\nline\\nline\\nline\\nline\\nline\\n…'"),
        (b"abc", "bytes of length 3"),
        (Image.new("RGB", (32, 16)), "PIL image 32x16 RGB"),
        (np.zeros((3, 4), np.float32), "array (3, 4) float32"),
        (torch.zeros(3, 4), "tensor (3, 4) float32"),
        ((np.zeros(4), 8000), "array (4,) float64 at 8000 Hz"),
        (io.BytesIO(), "file object"),
        (None, "NoneType None"),
        (float("nan"), "float nan"),
    ],
)
def test_describe(item, name):
    assert describe(item) == name
    assert "\n" not in describe(item)


def test_open_binary_gives_the_same_bytes_however_they_come(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"12345")
    moved = io.BytesIO(b"12345")
    moved.read(3)

    class Pipe:
        def read(self) -> bytes:
            return b"12345"

    for item in (path, str(path), b"12345", bytearray(b"12345"), moved, Pipe()):
        with open_binary(item) as file:
            assert file.read() == b"12345"
            file.seek(0)
    assert not moved.closed  # the user's own file stays open


def test_open_binary_names_the_item_and_the_remedy(tmp_path):
    empty = tmp_path / "empty.wav"
    empty.touch()
    cases = {
        "no-such.png": "no such file",
        str(tmp_path): "cannot be opened",
        str(empty): "is empty",
        "nul\0.png": "cannot be opened",
        b"": "is empty",
        5: "give a path",
        io.StringIO("text"): "binary mode",
    }
    for item, message in cases.items():
        with pytest.raises(BadItem, match=message) as caught, open_binary(item):
            pass
        assert "\n" not in str(caught.value)


def test_crop_reaches_every_place_and_no_other():
    rng = np.random.default_rng(0)
    starts = {crop(10, 4, rng).start for _ in range(500)}
    assert starts == set(range(7))
    assert crop(10, 4, None) == slice(0, 4)
    assert list(range(3))[crop(3, 4, rng)] == [0, 1, 2]


def test_check_whole_names_the_option():
    for bad in (0, -1, 1.5, "8", None):
        with pytest.raises(UnitxError, match="patch must be"):
            ImageProcessor(patch=bad)
    with pytest.raises(UnitxError, match="merges must be a whole number, 0 or more, not -1"):
        ImageProcessor(merges=-1)
    check_whole(ImageProcessor(merges=0), "patch")


def test_a_tilde_is_the_home_of_whoever_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    Image.new("RGB", (4, 4)).save(tmp_path / "cat.png")
    assert modality_of("~/cat.png") == "image" and named_file("~/cat.png") == tmp_path / "cat.png"
    assert is_missing_file("~/dog.png") and not is_missing_file("~/cat.png")
    assert named_file("~/dog.png") == "~/dog.png"


def test_the_length_of_a_sound_is_read_off_its_header(tmp_path: Path) -> None:
    wave = np.zeros(12_000, dtype=np.float32)
    for suffix, kind in (("wav", "WAV"), ("flac", "FLAC"), ("ogg", "OGG")):
        soundfile.write(tmp_path / f"a.{suffix}", wave, 8_000, format=kind)
        assert sound_seconds(tmp_path / f"a.{suffix}") == pytest.approx(1.5)
    assert sound_seconds((tmp_path / "a.wav").read_bytes()) == pytest.approx(1.5)
    assert sound_seconds((wave.tolist(), 8_000)) == 1.5 and sound_seconds((wave, 0)) == float("inf")
    assert sound_seconds((wave, 8_000)) == sound_seconds((np.stack([wave, wave]), 8_000)) == 1.5
    with av.open(str(tmp_path / "a.m4a"), "w") as container:
        stream = container.add_stream("aac", rate=8_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
        frame.sample_rate = 8_000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    assert sound_seconds(tmp_path / "a.m4a") == pytest.approx(1.5, abs=0.3)
    (tmp_path / "b.raw").write_bytes(b"no sound at all")
    assert sound_seconds(tmp_path / "b.raw") >= 0  # without a header anything may be guessed; reading it will tell
    (tmp_path / "b.wav").write_bytes(b"no sound at all")
    with pytest.raises(BadItem, match=r"b\.wav is not a sound file"):
        sound_seconds(tmp_path / "b.wav")
    with pytest.raises(BadItem, match="there is no such file"):
        sound_seconds(tmp_path / "c.wav")
