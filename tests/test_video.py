from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
import torch
from av.stream import Disposition
from PIL import Image
from small_models import SHAPE, shake

import unitx
from unitx import cli
from unitx.augment import Augment
from unitx.errors import BadItem, UnitxError
from unitx.media import describe, modality_of
from unitx.model import Model
from unitx.task import TaskInfo
from unitx.tokenizers import video as source
from unitx.tokenizers.audio import AudioProcessor
from unitx.tokenizers.image import ImageProcessor, patch_grid
from unitx.tokenizers.video import VideoProcessor, VideoTokenizer

SMALL = VideoProcessor(max_tokens=24, patch=8, frames=4)
FORMATS = [
    ("mp4", "mpeg4", {}), ("mp4", "libx264", {"bf": "2"}), ("avi", "mpeg4", {"bf": "2"}),
    ("avi", "libx264", {"x264-params": "bframes=3:keyint=12:log-level=none"}), ("matroska", "libx264", {}),
    ("webm", "libvpx-vp9", {}), ("mpegts", "libx264", {}), ("mpeg", "mpeg2video", {}), ("mjpeg", "mjpeg", {}),
    ("h264", "libx264", {"bf": "2"}), ("flv", "flv", {}), ("asf", "msmpeg4", {}), ("matroska", "ffv1", {}),
]  # fmt: skip


def greys(count: int, height: int = 32, width: int = 48) -> np.ndarray:
    """(count, height, width, 3): frame i has the grey 8 i."""
    return np.broadcast_to((8 * np.arange(count, dtype=np.uint8))[:, None, None, None], (count, height, width, 3))


def encoded(
    frames: np.ndarray, format: str = "mp4", codec: str = "mpeg4", times: list[int] | None = None, rate: int = 10,
    sound: bool = False, gop: int = 0, **options: str,
) -> bytes:  # fmt: skip
    """A file that PyAV writes; `times` in ms where frames are not evenly spaced, `gop` frames from key to key."""
    file = io.BytesIO()
    pixels = {"gif": "rgb8", "apng": "rgb24", "mjpeg": "yuvj420p"}.get(codec, "yuv420p")
    with av.open(file, "w", format=format) as container:
        stream: Any = container.add_stream(codec, rate=1000 if times else rate, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.bit_rate = pixels, 2_000_000
        if gop:
            stream.gop_size = gop
        heard: Any = container.add_stream("aac", rate=16_000, layout="mono") if sound else None
        for i, frame in enumerate(frames):
            made = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            if times:
                made.pts, made.time_base = times[i], Fraction(1, 1000)
            container.mux(stream.encode(made))
        container.mux(stream.encode(None))
        if sound:
            wave = np.sin(np.arange(16_000 * len(frames) // rate) / 9).astype(np.float32)
            part = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
            part.sample_rate = 16_000
            for piece in av.AudioResampler("fltp", "mono", 16_000, frame_size=1024).resample(part):
                container.mux(heard.encode(piece))
            container.mux(heard.encode(None))
    return file.getvalue()


def numbers(clip: torch.Tensor) -> list[int]:
    """Which frame of `greys` each is."""
    return (clip.float().mean((1, 2, 3)) / 8).round().int().tolist()


@pytest.mark.parametrize(("format", "codec", "options"), FORMATS, ids=[f"{f}-{c}" for f, c, _ in FORMATS])
def test_frames_are_spread_evenly_whatever_the_format(format, codec, options):
    data = encoded(greys(24), format, codec, **options)
    assert numbers(SMALL.read(data)) == [3, 9, 15, 21]
    assert numbers(VideoProcessor(frames=24, tubelet=1).read(data)) == list(range(24))
    assert numbers(VideoProcessor(frames=1, tubelet=1).read(data)) == [12]


@pytest.mark.parametrize(("format", "codec"), [("mp4", "libx264"), ("matroska", "mpeg4"), ("webm", "libvpx-vp9")])
def test_a_changing_frame_rate_counts_in_time_not_in_frames(format, codec):
    times = [0, 50, 100, 150, 200, 250, 300, 350, 1350, 2350, 3350, 3400]  # ten frames fill the first tenth
    found = numbers(VideoProcessor(frames=8, tubelet=1).read(encoded(greys(12), format, codec, times)))
    end = 3400 + (1 if format == "mp4" else 0)
    expected = [max(i for i, time in enumerate(times) if time <= (k + 0.5) * end / 8) for k in range(8)]
    assert found == expected and len(set(expected)) < 8


@pytest.mark.parametrize("format", ["mp4", "matroska"])
@pytest.mark.parametrize("tail", [1, 2, 3, 4])
def test_a_pause_shortly_before_the_end_is_no_longer_than_it_is(format, tail):
    times = [40 * i for i in range(27)]
    times += [times[-1] + 5_000 + 40 * i for i in range(tail)]
    waiting = {"x264-params": "bframes=2:b-adapt=0:scenecut=0"}  # frames for later ones
    data = encoded(greys(27 + tail), format, "libx264", times, **waiting)
    found = numbers(VideoProcessor(frames=8, tubelet=1).read(data))
    ends = times[-1] + 1, times[-1] + 40  # how long the last is shown no encoder knows
    spread = [[(k + 0.5) * end / 8 for k in range(8)] for end in ends]
    assert found in [[max(i for i, time in enumerate(times) if time <= at) for at in middle] for middle in spread]


class Counting:
    """A container that counts the frames it decodes."""

    def __init__(self, container: Any):
        self.container, self.count = container, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.container, name)

    def decode(self, stream: Any) -> Iterator[Any]:
        for frame in self.container.decode(stream):
            self.count += 1
            yield frame


@pytest.mark.parametrize(("format", "most"), [("mp4", 40), ("matroska", 40), ("mpegts", 600)])
def test_a_long_video_is_decoded_only_around_what_is_wanted(format, most, monkeypatch):
    data = encoded(greys(31).repeat(20, axis=0)[:600], format, "libx264", gop=10, bf="2")
    opened, counting = source._opened, []

    @contextmanager
    def watched(*given: Any) -> Iterator[tuple[Any, Any]]:
        with opened(*given) as (container, stream):
            counting.append(Counting(container))
            yield counting[-1], stream

    monkeypatch.setattr(source, "_opened", watched)
    assert numbers(SMALL.read(data)) == [(75 + 150 * i) // 20 for i in range(4)]
    assert counting[0].count == 0 and 4 <= counting[1].count <= most


def test_arrays_tensors_and_lists_are_the_same_clip():
    frames = np.random.default_rng(0).integers(0, 256, (4, 20, 30, 3), dtype=np.uint8)
    expected = torch.from_numpy(frames).permute(0, 3, 1, 2)
    pictures = [Image.fromarray(frame) for frame in frames]
    for item in (frames, frames[::-1][::-1], torch.from_numpy(frames), expected, pictures, tuple(pictures),
                 list(frames)):  # fmt: skip
        assert torch.equal(SMALL.read(item), expected)
    read_only = frames.copy()
    read_only.setflags(write=False)
    assert torch.equal(SMALL.read(read_only), expected)
    assert numbers(SMALL.read(greys(2))) == [0, 0, 1, 1]
    assert numbers(SMALL.read(greys(13))) == [1, 4, 8, 11]
    assert SMALL.read([pictures[0], pictures[1].resize((9, 9))]).shape == (4, 3, 20, 30)


def test_every_way_to_name_a_file(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(data := encoded(greys(8)))
    with path.open("rb") as file:
        for item in (path, str(path), data, io.BytesIO(data), file):
            assert numbers(SMALL.read(item)) == [1, 3, 5, 7]


@pytest.mark.parametrize("codec", ["gif", "apng"])
def test_animated_pictures_are_videos_where_they_are_read_so(codec):
    colours = [(255, 0, 0), (0, 0, 255)]
    frames = [Image.new("RGBA", (16, 16)) for _ in colours]
    for frame, colour in zip(frames, colours, strict=True):
        frame.paste((*colour, 255), (0, 0, 8, 16))  # and transparent at the right
    file = io.BytesIO()
    frames[0].save(file, "GIF" if codec == "gif" else "PNG", save_all=True, append_images=frames[1:], duration=100)
    clip = SMALL.read(file.getvalue())
    assert clip[:, :, 8, 4].tolist() == [[*colours[0]]] * 2 + [[*colours[1]]] * 2
    assert (clip[:, :, :, 9:] == 255).all()


def turned(data: bytes, matrix: tuple[int, int, int, int]) -> bytes:
    """An MP4 whose track header (ISO 14496-12, tkhd) says that the picture is to be turned, as telephones do."""
    plain = b"".join(v.to_bytes(4, "big") for v in (65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30))
    a, b, c, d = (v * 65536 & 0xFFFFFFFF for v in matrix)
    other = b"".join(v.to_bytes(4, "big") for v in (a, b, 0, c, d, 0, 0, 0, 1 << 30))
    header = data.index(b"tkhd")
    return data[:header] + data[header:].replace(plain, other, 1)


@pytest.mark.parametrize(
    ("matrix", "quarters"), [((1, 0, 0, 1), 0), ((0, 1, -1, 0), -1), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)]
)
def test_a_turned_video_is_set_upright(matrix, quarters):
    assert_shown(matrix, lambda pixels: np.rot90(pixels, quarters))  # counterclockwise


@pytest.mark.parametrize(
    ("matrix", "shown"),
    [
        ((-1, 0, 0, 1), lambda x: x[:, ::-1]),
        ((1, 0, 0, -1), lambda x: x[::-1]),
        ((0, 1, 1, 0), lambda x: x.transpose(1, 0, 2)),
        ((0, -1, -1, 0), lambda x: x.transpose(1, 0, 2)[::-1, ::-1]),
    ],
)
def test_a_mirrored_video_is_shown_as_it_says(matrix, shown):
    assert_shown(matrix, shown)


def assert_shown(matrix, shown):
    frames = np.zeros((4, 32, 48, 3), np.uint8)
    frames[:, :16, :24] = 255  # its upper left quarter is white
    clip = SMALL.read(turned(encoded(frames), matrix))
    expected = shown(frames[0]).transpose(2, 0, 1)
    assert clip.shape[1:] == expected.shape
    assert np.abs(clip[0].numpy().astype(int) - expected).mean() < 10


@pytest.mark.parametrize("size", [(33, 47), (17, 255), (2, 2)])
def test_odd_sizes(size):
    clip = SMALL.read(encoded(greys(4, *size), "matroska", "ffv1"))
    assert clip.shape == (4, 3, *size) and numbers(clip) == [0, 1, 2, 3]
    assert len(SMALL.cut(SMALL.features(clip))) <= 24


def test_tubelets_are_those_of_a_convolution():
    torch.manual_seed(0)
    processor = VideoProcessor(max_tokens=48, patch=4, frames=6, tubelet=3, merges=0, orientations=0)
    tokenizer = VideoTokenizer(processor, 10)
    frames = np.random.default_rng(0).integers(0, 256, (6, 40, 60, 3), dtype=np.uint8)
    pixels = processor.features(processor.read(frames))
    pieces = processor.cut(pixels)
    assert pixels.shape == (6, 3, 16, 24) and pieces.grid == (2, 4, 6) and not pieces.shortened
    embed = tokenizer.stem.embed
    torch.nn.init.normal_(embed.bias)
    kernel = embed.weight.view(10, 4, 4, 3, 3).permute(0, 4, 3, 1, 2)  # (dim, p q u c) → (dim, c, u, p, q)
    clip = torch.from_numpy(pixels).transpose(0, 1)
    expected = torch.nn.functional.conv3d(clip[None], kernel, embed.bias, stride=(3, 4, 4))
    out = tokenizer(torch.from_numpy(pieces.values), [48])
    torch.testing.assert_close(out, expected[0].flatten(1).T, atol=1e-5, rtol=1e-5)
    places = [[t, row, column] for t in range(2) for row in range(4) for column in range(6)]
    assert pieces.positions.tolist() == places and pieces.positions.dtype == np.int64
    assert tokenizer(torch.zeros(0, 144), []).shape == (0, 10)


def test_pixels_are_a_pictures():
    # Pillow and torchvision round their filters differently, by a level or two.
    frames = np.random.default_rng(0).integers(0, 256, (2, 60, 90, 3), dtype=np.uint8)
    processor, picture = VideoProcessor(24, patch=8, frames=2), ImageProcessor(24, patch=8)
    pixels = processor.features(processor.read(frames))
    for ours, frame in zip(pixels, frames, strict=True):
        np.testing.assert_allclose(ours, picture.features(picture.read(frame)), atol=3 / 127)


def test_float_tensors_are_pixel_values_as_they_are():
    fits = torch.randn(4, 3, 16, 40)
    np.testing.assert_array_equal(SMALL.features(SMALL.read(fits.double())), fits.numpy())
    np.testing.assert_array_equal(SMALL.features(SMALL.read(fits[:3])), fits[:2].numpy())  # whole tubelets
    out = SMALL.features(SMALL.read(torch.full((9, 3, 20, 30), 0.3)))
    rows, columns = patch_grid(20, 30, 12)
    assert out.shape == (4, 3, 8 * rows, 8 * columns)
    np.testing.assert_allclose(out, 0.3, atol=1e-5)


def test_large_frames_are_reduced_and_look_the_same():
    y, x = np.mgrid[:600, :800]
    frame = np.stack([x * 255 // 800, y * 255 // 600, (x + y) * 255 // 1400], axis=2).astype(np.uint8)
    clip = SMALL.read(np.stack([frame] * 4))
    assert clip.shape[2] < 130 and clip.shape[3] < 170
    expected = ImageProcessor(12, patch=8).features(Image.fromarray(frame))
    np.testing.assert_allclose(SMALL.features(clip)[0], expected, atol=0.03)


@pytest.mark.parametrize("level", ["light", "strong"])
def test_training_varies_all_frames_alike_and_does_not_flip_them(level):
    frames = np.zeros((4, 40, 40, 3), np.uint8)
    frames[:, :, :20] = np.arange(4)[:, None, None, None] * 20 + 100
    clip = SMALL.read(frames)
    for seed in range(20):
        varied = Augment(level).raw("video", clip, np.random.default_rng(seed), 1.0)
        assert varied.dtype == torch.uint8 and len(varied) == 4
        lit = (varied.float().mean(1) > 30).float()
        assert all(torch.equal(one, lit[0]) for one in lit)  # the border lies in one place
        assert (lit.mean((0, 1)).diff() <= 0).all()  # what was bright at the left is so still
    values = torch.randn(4, 3, 16, 16)
    assert Augment(level).raw("video", values, np.random.default_rng(0), 1.0) is values


def covered() -> bytes:
    """Sound with a picture of its cover, which is no video."""
    file, picture = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(picture, "PNG")
    with av.open(file, "w", format="mp3") as to, av.open(io.BytesIO(picture.getvalue())) as cover:
        heard: Any = to.add_stream("libmp3lame", rate=16_000)
        seen: Any = to.add_stream_from_template(cover.streams.video[0])
        seen.disposition = Disposition.attached_pic
        part = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.int16), format="s16p", layout="mono")
        part.sample_rate = 16_000
        to.mux(heard.encode(part))
        to.mux(heard.encode(None))
        for packet in cover.demux():
            if packet.dts is not None:
                packet.stream = seen
                to.mux(packet)
    return file.getvalue()


@pytest.mark.parametrize("codec", ["mjpeg", "mpeg4"])
def test_an_avi_may_leave_frames_out(codec):
    times = [80 * i for i in range(24)]  # every second one at 25 a second, and the last stands for two seconds
    data = encoded(greys(24), "avi", codec, [*times[:-1], times[-1] + 2_000])
    assert len(VideoProcessor(frames=4, tubelet=1).read(data)) == 4


def encoded_sound() -> bytes:
    """An MP4 of nothing but sound."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        heard: Any = container.add_stream("aac", rate=16_000, layout="mono")
        part = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        part.sample_rate = 16_000
        container.mux(heard.encode(part))
        container.mux(heard.encode(None))
    return file.getvalue()


def test_damaged_files_are_named_with_the_remedy(tmp_path):
    whole = encoded(greys(60, 64, 64), "mp4", "libx264")
    mkv, sounding = (encoded(greys(60, 64, 64), "matroska", "libx264", sound=s, gop=5) for s in (False, True))
    fast = tmp_path / "whole.mp4"  # the index before the pictures
    with av.open(io.BytesIO(whole)) as given, av.open(fast, "w", options={"movflags": "faststart"}) as to:
        stream = to.add_stream_from_template(given.streams.video[0])
        for packet in given.demux():
            if packet.dts is not None:
                packet.stream = stream
                to.mux(packet)
    avi = encoded(greys(60, 64, 64), "avi", "mjpeg")
    wav = io.BytesIO()
    soundfile.write(wav, np.zeros(800), 8000, format="WAV")
    with av.open(nothing := io.BytesIO(), "w", format="matroska") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv420p"
        container.start_encoding()
    files = {
        "empty.mp4": (b"", "is empty"),
        "text.mp4": (b"this is no video" * 99, "is not a video file"),
        "notes.txt": (b"this is no video\n" * 99, "is not a video file"),
        "half.mp4": (whole[: len(whole) // 2], "is not a video file"),
        "half.mkv": (mkv[: len(mkv) // 2], "damaged or cut off"),
        "sounding.mkv": (sounding[: len(sounding) // 2], "damaged or cut off"),
        "fast.mp4": (fast.read_bytes()[: -len(whole) // 3], "damaged"),
        "half.avi": (avi[: len(avi) // 2], "damaged or cut off"),
        "sound.wav": (wav.getvalue(), "has no pictures"),
        "sound.mp4": (encoded_sound(), "has no pictures"),
        "cover.mp3": (covered(), "has no pictures"),
        "nothing.mkv": (nothing.getvalue(), "holds no frames|is not a video"),
    }
    for name, (data, message) in files.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(BadItem, match=message) as caught:
            SMALL.prepare(tmp_path / name)
        assert name in str(caught.value) and ";" in str(caught.value) and "\n" not in str(caught.value)
    assert len(SMALL.prepare(sounding)) == len(SMALL.prepare(whole)) == 18


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("missing.mp4", "missing.mp4: there is no such file"),
        (None, "NoneType None cannot be read"),
        ([], "no pictures"),
        (["missing.png"], "missing.png: there is no such file"),
        ([torch.zeros(3, 4, 4)], "as one tensor"),
        (np.zeros((0, 4, 4, 3), np.uint8), "0 frames"),
        (np.zeros((2, 0, 4, 3), np.uint8), "4 x 0 pixels"),
        (np.zeros((2, 4, 4, 4), np.uint8), "an array is"),
        (np.zeros((2, 3, 4, 4), np.uint8), "an array is"),
        (np.zeros((4, 4, 3), np.uint8), "an array is"),
        (np.zeros((2, 4, 4, 3)), "must be uint8"),
        (torch.zeros(2, 4, 4, 3), "a float tensor is"),
        (torch.zeros(0, 3, 4, 4), "0 frames"),
        (torch.full((2, 3, 4, 4), torch.nan), "NaN"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.long), "must be uint8"),
        (Image.new("RGB", (4, 4)), "cannot be read"),
    ],
)
def test_bad_items_are_named(item, message):
    with pytest.raises(BadItem, match=message) as caught:
        SMALL.read(item)
    assert "\n" not in str(caught.value)


def test_a_clip_without_a_whole_tubelet_is_refused():
    with pytest.raises(BadItem, match="1 frames has no whole tubelet: give at least 2"):
        SMALL.features(torch.zeros(1, 3, 8, 8))


def test_options_are_checked():
    for given, message in [({"frames": 5}, "multiple of tubelet"), ({"frames": 0}, "frames must be"),
                           ({"max_tokens": 3}, "must fit in max_tokens"),
                           ({"std": (1, 1)}, "VideoProcessor: std must be three")]:  # fmt: skip
        with pytest.raises(UnitxError, match=message):
            VideoProcessor(**given)
    assert pickle.loads(pickle.dumps(SMALL)) == SMALL


@pytest.mark.parametrize(
    ("item", "modality"),
    [
        (np.zeros((2, 5, 6, 3), np.uint8), "video"),
        (np.zeros((2, 5, 6, 4), np.uint8), None),
        (torch.zeros(2, 3, 5, 6), "video"),
        (torch.zeros(2, 5, 6, 3, dtype=torch.uint8), "video"),
        ([Image.new("L", (2, 2))] * 3, "video"),
        ([], None),
        (["a", "b"], None),
    ],
)
def test_what_counts_as_a_video(item, modality):
    assert modality_of(item) == modality
    assert describe([Image.new("L", (2, 3))] * 3) == "list of 3, the first a PIL image 2x3 L"


def video_model(**others: Any) -> Model:
    model = Model(SHAPE, {"video": SMALL, **others}, [])
    shake(model)
    return model.eval()


def test_clips_of_different_sizes_stand_in_one_batch_as_alone():
    model = video_model()
    rng = np.random.default_rng(0)
    sizes = [(4, 20, 60), (9, 60, 20), (2, 33, 33), (4, 20, 60)]
    clips: list[Any] = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    clips += [torch.randn(2, 3, 8, 16), torch.randn(8, 3, 8, 8), [Image.fromarray(clips[0][0])]]
    together = model.hidden_states(clips)
    assert len({len(states) for states in together}) > 3
    for clip, states in zip(clips, together, strict=True):
        torch.testing.assert_close(model.hidden_states([clip])[0], states, atol=1e-5, rtol=1e-5)
    assert not np.allclose(model.embed([clips[0]]), model.embed([clips[0][::-1]]))  # played backwards


def test_a_file_is_its_pictures_and_its_sound_where_that_is_said(tmp_path):
    (tmp_path / "a.mp4").write_bytes(encoded(greys(8), sound=True))
    (tmp_path / "b.mp4").write_bytes(encoded(greys(8)))
    path = str(tmp_path / "a.mp4")
    both = video_model(audio=AudioProcessor(max_tokens=16, mels=16))
    seen, heard = both.embed([path]), both.embed([path], "audio")
    np.testing.assert_array_equal(seen, both.embed([path], "video"))
    assert not np.allclose(seen, heard)
    assert np.isfinite(both.embed([{"video": path, "audio": path}])).all()
    with pytest.raises(BadItem, match=r"b\.mp4 has no sound"):
        both.embed([tmp_path / "b.mp4"], "audio")
    deaf = Model(SHAPE, {"audio": AudioProcessor(max_tokens=8, mels=16)}, [])
    with pytest.raises(UnitxError, match="does not read 'video'"):
        deaf.embed([path])
    assert np.isfinite(deaf.embed([path], "audio")).all()
    index = unitx.Index(tmp_path / "index.parquet")
    index.add(both, tmp_path)
    assert sorted(Path(hit.item).name for hit in index.search(both, path, top=3)) == ["a.mp4", "b.mp4"]


def moving(root: Path, each: int) -> Path:
    """`root`/<left or right>/<n>.mp4: a bright bar that moves so, of any breadth, begin and speed."""
    rng = np.random.default_rng(0)
    for name, sign in (("left", -1), ("right", 1)):
        (root / name).mkdir(parents=True)
        for n in range(each):
            frames = rng.integers(0, 60, (12, 32, 32, 3), dtype=np.uint8)
            begin, breadth, speed = rng.integers(32), rng.integers(4, 12), rng.integers(1, 4)
            for i, frame in enumerate(frames):
                frame[:, (begin + sign * speed * i + np.arange(breadth)) % 32] = 220
            (root / name / f"{n}.mp4").write_bytes(encoded(frames))
    return root


def test_a_new_model_learns_which_way_things_move(tmp_path):
    train, test = moving(tmp_path / "train", 40), tmp_path / "test"
    for name in ("left", "right"):
        (test / name).mkdir(parents=True)
        for n in range(30, 40):
            (train / name / f"{n}.mp4").rename(test / name / f"{n}.mp4")
    given = {"tokenizers.video": {"patch": 16, "max_tokens": 16}, "model.dim": 64, "model.depth": 1, "model.heads": 2}
    run = unitx.train(
        "video-classify", data=str(train), test=str(test), steps=25, batch_tokens=256, out=str(tmp_path / "run"),
        echo=False, workers=0, precision="fp32", evaluations=1, **given,
    )  # fmt: skip
    assert run.metrics["video-classify/accuracy"] >= 0.9
    model = Model.from_pretrained(run.folder, "cpu")
    (answer,) = model.predict([test / "left" / "30.mp4"], top=1)[0]
    assert answer.label in ("left", "right")
    report = unitx.evaluate(run.folder, test, workers=0)
    assert report.scored == 20 and (report.folder / "report.png").is_file()


def test_a_video_is_shown_as_some_of_its_frames_side_by_side():
    for tubelet, frames, expected in ((2, 8, [1, 3, 5, 7]), (3, 12, [1, 4, 7, 10]), (1, 3, [0, 1, 2]), (1, 1, [0])):
        processor = VideoProcessor(max_tokens=6 * (frames // tubelet), patch=8, frames=frames, tubelet=tubelet)
        clip = np.random.default_rng(0).integers(0, 256, (frames, 16, 24, 3), dtype=np.uint8)
        pieces = processor.cut(processor.features(processor.read(clip)))
        strip = processor.shown(pieces.values, pieces.grid)
        assert strip.shape == (16, 26 * len(expected) - 2, 3)
        for place, number in enumerate(expected):
            np.testing.assert_allclose(strip[:, 26 * place :][:, :24], clip[number] / 255, atol=1e-6)
            assert (strip[:, 26 * place + 24 : 26 * place + 26] == 1).all()


def test_bad_clips_among_many_are_skipped_and_named(tmp_path, capsys):
    moving(tmp_path / "clips", 6)
    whole = (tmp_path / "clips" / "left" / "0.mp4").read_bytes()
    bad = {"half": whole[: len(whole) // 2], "sound": encoded_sound(), "empty": b""}
    for name, data in bad.items():
        (tmp_path / "clips" / "right" / f"{name}.mp4").write_bytes(data)
    given = {"tokenizers.video": {"patch": 16, "max_tokens": 16}, "model.dim": 32, "model.depth": 1, "model.heads": 2}
    run = unitx.train(
        "video-classify", data=str(tmp_path / "clips"), epochs=1, out=str(tmp_path / "run"), echo=False, workers=0,
        precision="fp32", evaluations=1, **given,
    )  # fmt: skip
    report = unitx.evaluate(run.folder, tmp_path / "clips", workers=0)
    assert report.rows == 15 and report.scored == 12 and len(report.skipped) == 3
    listed = set((run.folder / "skipped.txt").read_text().splitlines())
    assert listed and listed <= set(report.skipped)
    assert all(sum(f"right/{name}.mp4" in line for line in report.skipped) == 1 for name in bad)
    files = [str(tmp_path / "clips" / "right" / f"{name}.mp4") for name in ("0", *bad)]
    capsys.readouterr()
    with pytest.warns(UserWarning, match="3 of 4"):
        assert cli.main(["predict", str(run.folder), *files]) == 0
    first, *others = capsys.readouterr().out.splitlines()
    assert "right" in first.split("\t")[1] or "left" in first.split("\t")[1]
    assert [line.split("\t")[1] for line in others] == ["could not be read"] * 3


def test_a_report_shows_frames_of_a_video_and_a_table_holds_paths(tmp_path):
    moving(tmp_path / "clips", 3)
    table = tmp_path / "table.csv"
    rows = [f"clips/{way}/{n}.mp4,{way}" for way in ("left", "right") for n in range(3)]
    table.write_text("file,label\n" + "\n".join(rows))
    task = TaskInfo("way", "classify", {"file": "video"}, "label", ["left", "right"])
    model = Model(SHAPE, {"video": SMALL}, [task])
    shake(model)
    report = unitx.evaluate(model, table, folder=tmp_path / "report")
    assert report.scored == 6 and report.mistakes and (tmp_path / "report" / "report.png").is_file()
    assert unitx.data.guess_reads(unitx.data.open_source(table, None, "label"), "label") == {"file": "video"}
