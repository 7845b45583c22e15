from __future__ import annotations

import io
import pickle
import threading
import warnings
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import shake

from unitx import spectrogram
from unitx.errors import BadItem, UnitxError
from unitx.positions import LearnedPositions
from unitx.tokenizers import audio
from unitx.tokenizers.audio import AudioProcessor, AudioTokenizer
from unitx.tokens import Tokens

PLAIN = AudioProcessor()
BANDS = AudioProcessor(max_tokens=40, patch_mels=16, mels=64, patch_frames=8)


def tone(seconds: float = 1.0, rate: int = 16_000, hertz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def noise(n: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.5, 0.5, n).astype(np.float32)


def wav(wave: np.ndarray, rate: int = 16_000, format: str = "WAV", subtype: str | None = None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format=format, subtype=subtype)
    return file.getvalue()


def muxed(format: str, codec: str, wave: np.ndarray, rate: int, picture: bool = False, **options: str) -> bytes:
    """A file that PyAV writes: the wave in `codec`, after a silent video if `picture`."""
    file = io.BytesIO()
    with av.open(file, "w", format=format, options=options) as container:
        video = container.add_stream("mpeg4", rate=5) if picture else None
        if video is not None:
            video.width = video.height = 32
            video.pix_fmt = "yuv420p"
        sound = container.add_stream(codec, rate=rate) if len(wave) else None
        if sound is not None:
            sound.layout = "mono"
        if video is not None:
            for _ in range(5):
                container.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
            container.mux(video.encode(None))
        if sound is not None:
            frame = av.AudioFrame.from_ndarray((wave * 32767).astype(np.int16)[None], format="s16", layout="mono")
            frame.sample_rate = rate
            fit = av.AudioResampler(sound.format.name, "mono", rate, frame_size=sound.frame_size or None)
            for part in fit.resample(frame) + fit.resample(None):
                container.mux(sound.encode(part))
            container.mux(sound.encode(None))
    return file.getvalue()


def peak_hertz(wave: torch.Tensor, rate: int = 16_000) -> float:
    spectrum = np.abs(np.fft.rfft(wave.numpy() * np.hanning(len(wave))))
    return float(spectrum.argmax() * rate / len(wave))


def slaney_bank(rate: int, bins: int, mels: int) -> np.ndarray:
    """(mels, bins) triangles of equal area on Slaney's scale, written from its definition (Auditory Toolbox, 1998)."""
    step = np.log(6.4) / 27
    top = 15 + np.log(rate / 2 / 1000) / step if rate > 2000 else rate / 2 / (200 / 3)
    marks = np.linspace(0, top, mels + 2)
    edges = np.where(marks < 15, marks * 200 / 3, 1000 * np.exp((marks - 15) * step))
    hertz = np.linspace(0, rate / 2, bins)
    rows = []
    for left, centre, right in zip(edges, edges[1:], edges[2:], strict=False):
        up, down = (hertz - left) / (centre - left), (right - hertz) / (right - centre)
        rows.append(np.maximum(0, np.minimum(up, down)) * 2 / (right - left))
    return np.array(rows)


@pytest.mark.parametrize("n", [16_000, 1, 159, 160, 5_001])
def test_features_are_the_log_mel_of_a_plain_loop(n):
    wave = noise(n)
    padded = np.pad(wave, 200)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    frames = [np.abs(np.fft.rfft(padded[i * 160 : i * 160 + 400] * hann)) ** 2 for i in range(1 + n // 160)]
    power = np.array(frames) @ slaney_bank(16_000, 201, 64).T
    log = np.log10(np.maximum(power / power.max(), 1e-8))
    expected = (log - log.mean()) / max(log.std(), 0.5)
    out = PLAIN.features(PLAIN.read((wave, 16_000)))
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, expected, atol=2e-3)


def test_long_sound_is_transformed_in_blocks_without_a_seam(monkeypatch):
    raw = PLAIN.read((noise(50_000), 16_000))
    whole = PLAIN.features(raw)
    monkeypatch.setattr(spectrogram, "BLOCK", 400 * 7)
    np.testing.assert_allclose(PLAIN.features(raw), whole, atol=1e-4)


def test_loudness_does_not_matter():
    wave = noise(8_000) * np.linspace(0, 1, 8_000, dtype=np.float32)
    expected = PLAIN.features(PLAIN.read((wave, 16_000)))
    for gain in (1e-4, 0.1, 300.0):
        np.testing.assert_allclose(PLAIN.features(PLAIN.read((wave * gain, 16_000))), expected, atol=1e-2)


@pytest.mark.parametrize("wave", [np.zeros(3_000), np.full(3_000, 0.3), np.full(1, 1e-30), tone() * 1e-6, noise(100)])
def test_features_are_always_finite(wave):
    pieces = PLAIN.prepare((wave, 16_000))
    assert np.isfinite(pieces.values).all()
    assert np.abs(pieces.values).max() < 50


def test_silence_is_all_zero():
    assert not PLAIN.prepare((np.zeros(3_000, np.int16), 16_000)).values.any()


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "float16", "float32", "float64"])
def test_every_sample_type_is_the_same_wave(dtype):
    wave = tone()
    scale = {"int8": 128, "uint8": 128, "int16": 2**15, "int32": 2**31}.get(dtype, 1)
    samples = wave.astype(np.float64) * scale + (128 if dtype == "uint8" else 0)
    stored = (np.round(samples) if scale > 1 else samples).astype(dtype)
    out = PLAIN.read((stored, 16_000))
    assert out.dtype == torch.float32
    np.testing.assert_allclose(out.numpy(), wave, atol=1 / min(scale if scale > 1 else 1000, 1000))


def test_channels_stand_on_either_axis():
    left, right = tone(0.1), tone(0.1, hertz=880)
    expected = (left + right) / 2
    both = np.stack([left, right])
    for item in ((both, 16_000), (both.T, 16_000), (torch.from_numpy(both), 16_000), [both.T, np.int64(16_000)]):
        np.testing.assert_allclose(PLAIN.read(item).numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(PLAIN.read(wav(both.T, subtype="FLOAT")).numpy(), expected, atol=1e-6)
    assert PLAIN.read((np.zeros((6, 900)), 16_000)).shape == (900,)
    needs_gradient = torch.from_numpy(left).requires_grad_()
    assert not PLAIN.read((needs_gradient, 16_000)).requires_grad


@pytest.mark.parametrize("rate", [4_000, 8_000, 11_025, 22_050, 22_051, 44_100, 44_101, 48_000, 96_000, 192_000])
def test_every_rate_keeps_pitch_and_length(rate):
    out = PLAIN.read((tone(1.0, rate), rate))
    assert abs(len(out) - 16_000) <= 2
    assert abs(peak_hertz(out) - 440) < 1.5
    np.testing.assert_allclose(out.numpy()[2000:-2000], tone()[2000 : len(out) - 2000], atol=0.02)


def test_what_lies_above_the_new_rate_is_not_folded_down():
    out = PLAIN.read((tone(1.0, 48_000, hertz=15_000), 48_000))
    assert out[500:-500].abs().max() < 0.01


@pytest.mark.parametrize("format", ["WAV", "FLAC", "OGG", "AIFF", "MP3", "AU"])
def test_what_soundfile_reads(format, tmp_path):
    path = tmp_path / f"a.{format.lower()}"
    data = wav(tone(1.0, 44_100), 44_100, format)
    path.write_bytes(data)
    with open(path, "rb") as file:
        read = [PLAIN.read(item) for item in (path, str(path), data, file, io.BytesIO(data))]
    assert all(torch.equal(read[0], other) for other in read[1:])
    assert abs(peak_hertz(read[0]) - 440) < 1.5 and abs(len(read[0]) - 16_000) < 1_600


@pytest.mark.parametrize(
    ("format", "codec", "rate"),
    [
        ("mp4", "aac", 44_100),
        ("adts", "aac", 44_100),
        ("mp3", "libmp3lame", 44_100),
        ("ogg", "libopus", 48_000),
        ("webm", "libopus", 48_000),
        ("matroska", "aac", 16_000),
    ],
)
def test_what_pyav_writes(format, codec, rate):
    read = PLAIN.read(muxed(format, codec, tone(1.0, rate), rate))
    assert abs(peak_hertz(read) - 440) < 1.5 and abs(len(read) - 16_000) < 1_600


@pytest.mark.parametrize(("format", "codec"), [("mp3", "libmp3lame"), ("ogg", "libopus")])
def test_pyav_reads_what_an_old_libsndfile_does_not(format, codec, monkeypatch):
    data = muxed(format, codec, tone(1.0, 48_000), 48_000)
    by_soundfile = PLAIN.read(data)

    def refuse(file):
        raise soundfile.LibsndfileError(1)

    monkeypatch.setattr(audio.soundfile, "SoundFile", refuse)
    by_pyav = PLAIN.read(data)
    assert abs(len(by_pyav) - len(by_soundfile)) < 1_600 and abs(peak_hertz(by_pyav) - 440) < 1.5


def test_the_sound_of_a_video_and_a_video_without():
    assert abs(peak_hertz(PLAIN.read(muxed("mp4", "aac", tone(1.0, 44_100), 44_100, picture=True))) - 440) < 1.5
    with pytest.raises(BadItem, match="has no sound"):
        PLAIN.read(muxed("mp4", "aac", np.zeros(0), 44_100, picture=True))


def test_a_wav_written_to_a_pipe_is_whole():
    data = bytearray(wav(tone()))
    for at in (4, 40):  # the sizes of the file and of its samples, unknown when the header was written
        data[at : at + 4] = b"\xff\xff\xff\xff"
    assert len(PLAIN.read(bytes(data))) == 16_000


def test_damaged_files_are_named_with_the_remedy(tmp_path):
    wave = noise(48_000)
    whole = {
        "a.wav": wav(wave),
        "a.flac": wav(wave, format="FLAC"),
        "a.aiff": wav(wave, format="AIFF"),
        "a.ogg": wav(wave, format="OGG"),
        "a.mp3": wav(wave, format="MP3"),
        "a.opus": muxed("ogg", "libopus", wave, 48_000),
        "a.m4a": muxed("mp4", "aac", wave, 44_100),
        "a.webm": muxed("webm", "libopus", wave, 48_000),
    }
    files = {f"half-{name}": data[: len(data) // 2] for name, data in whole.items()}
    files |= {f"most-{name}": data[: len(data) * 9 // 10] for name, data in whole.items() if name != "a.webm"}
    files |= {f"head-{name}": data[:20] for name, data in whole.items()}
    files |= {"empty.wav": b"", "text.wav": b"no sound at all " * 99, "none.wav": wav(np.zeros(0, np.float32))}
    for name, data in files.items():
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(BadItem) as caught:
            PLAIN.prepare(path)
        assert name in str(caught.value) and ";" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("missing.wav", "no such file"),
        (Path("missing.mp3"), "no such file"),
        (None, "cannot be read"),
        (noise(9), "no sample rate"),
        (torch.zeros(9), "no sample rate"),
        ((noise(9), 16_000, 1), "give a pair"),
        ((noise(9), None), "give a pair"),
        ((noise(9), 0), "sample rate of 0"),
        ((noise(9), -8_000), "sample rate of -8000"),
        ((noise(9), float("nan")), "sample rate of nan"),
        ((np.zeros((2, 3, 4)), 16_000), r"a waveform is \(n,\)"),
        ((np.float32(1), 16_000), r"a waveform is \(n,\)"),
        ((np.zeros(9, np.int64), 16_000), "must be int8"),
        ((["a"], 16_000), "must be int8"),
        ((np.zeros(0), 16_000), "no samples"),
        ((np.zeros((2, 0)), 16_000), "no samples"),
        ((np.array([0, np.nan]), 16_000), "NaN"),
        ((np.array([0, -np.inf]), 16_000), "NaN or infinity"),
        # An id of its own: the bytes hold the time of writing, and every xdist worker must collect the same ids.
        pytest.param(wav(np.array([0, np.nan, 0], np.float32), subtype="FLOAT"), "NaN", id="NaN in a float WAV"),
    ],
)
def test_bad_items_are_named(item, message):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(BadItem, match=message) as caught:
            PLAIN.read(item)
    assert "\n" not in str(caught.value)


def test_patches_are_those_of_a_loop():
    features = np.random.default_rng(0).standard_normal((21, 64)).astype(np.float32)
    pieces = BANDS.cut(features)
    padded = np.vstack([features, np.full((3, 64), features.min())])
    values, positions = [], []
    for t in range(3):
        for band in range(4):
            values.append(padded[t * 8 : t * 8 + 8, band * 16 : band * 16 + 16].ravel())
            positions.append([t, t + band, t])
    np.testing.assert_array_equal(pieces.values, values)
    assert pieces.positions.tolist() == positions and pieces.positions.dtype == np.int64
    assert pieces.values.dtype == np.float32 and not pieces.shortened


@settings(max_examples=100, deadline=None)
@given(frames=st.integers(1, 400), seed=st.integers(0, 99))
def test_long_sounds_are_cropped_and_windowed(frames, seed):
    room = 10 * 8  # 40 tokens of 4 bands are 10 patches of 8 frames
    features = np.repeat(np.arange(frames, dtype=np.float32)[:, None], 64, axis=1)
    cut = BANDS.cut(features, np.random.default_rng(seed))
    seen = cut.values.reshape(-1, 4, 8, 16)[:, 0, :, 0].ravel()[: min(frames, room)]
    np.testing.assert_array_equal(seen, seen[0] + np.arange(min(frames, room)))
    assert cut.shortened == (frames > room) and len(cut) <= 40
    assert cut.positions[0].tolist() == [0, 0, 0]
    windows = BANDS.windows(features)
    together = np.concatenate([w.values.reshape(-1, 4, 8, 16)[:, 3, :, 15].ravel() for w in windows])
    np.testing.assert_array_equal(together[:frames], np.arange(frames))
    assert len(together) - frames < 8 and all(0 < len(w) <= 40 and not w.shortened for w in windows)


def test_a_crop_can_begin_anywhere():
    features = np.repeat(np.arange(90, dtype=np.float32)[:, None], 64, axis=1)
    rng = np.random.default_rng(0)
    assert {BANDS.cut(features, rng).values[0, 0] for _ in range(300)} == set(range(11))
    assert BANDS.cut(features).values[0, 0] == 0


def test_processors_travel_to_workers_and_are_safe_in_threads():
    assert pickle.loads(pickle.dumps(BANDS)) == BANDS
    items = [(noise(16_000) * np.roll(noise(16_000), i), 8_000 + 1_000 * i) for i in range(8)]
    expected = [PLAIN.prepare(item).values for item in items]
    spectrogram._mel.cache_clear()
    audio._resampler.cache_clear()
    found: dict[int, np.ndarray] = {}
    threads = [threading.Thread(target=lambda i=i: found.update({i: PLAIN.prepare(items[i]).values})) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(8):
        np.testing.assert_allclose(found[i], expected[i], atol=1e-5)


def test_options_are_checked():
    for options in (
        {"patch_mels": 12},
        {"patch_mels": 128},
        {"patch_mels": 16, "max_tokens": 2},
        {"hop": 0},
        {"rate": -1},
        {"depth": -1},
    ):
        with pytest.raises(UnitxError, match="AudioProcessor: "):
            AudioProcessor(**options)


@pytest.mark.parametrize("processor", [PLAIN, BANDS], ids=["one band", "four bands"])
def test_blocks_of_its_own_see_one_sound_at_a_time(processor):
    torch.manual_seed(0)
    tokenizer = AudioTokenizer(replace(processor, depth=2), 128)
    shake(tokenizer.encoder)
    rng = np.random.default_rng(0)
    pieces = [processor.prepare((rng.normal(size=n), 16_000)) for n in (9_000, 3_000, 9_000, 16_000)]
    together = tokenizer(torch.from_numpy(np.concatenate([p.values for p in pieces])), [len(p) for p in pieces])
    alone = torch.cat([tokenizer(torch.from_numpy(p.values), [len(p)]) for p in pieces])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
    # As in a backbone of its own behind the same stem.
    tokens = Tokens.from_list([tokenizer.stem(torch.from_numpy(pieces[0].values))], positions=[pieces[0].positions])
    expected = tokenizer.project(tokenizer.encoder(tokens).vectors)
    torch.testing.assert_close(alone[: len(expected)], expected, atol=1e-4, rtol=1e-4)
    assert tokenizer(torch.from_numpy(pieces[0].values), [len(pieces[0])], dtype=torch.bfloat16).dtype == torch.bfloat16
    assert tokenizer(torch.zeros(0, pieces[0].values.shape[1]), []).shape == (0, 128)


AST = spectrogram.Fbank(frames=512, strides=(10, 12))


@pytest.mark.parametrize("processor", [
    AudioProcessor(), AudioProcessor(1_000, patch_frames=4, patch_mels=16), AudioProcessor(rate=8_000, hop=100),
    AudioProcessor(500, mels=128, patch_frames=16, patch_mels=16, spectrogram=AST),
])  # fmt: skip
def test_a_step_of_positions_takes_so_many_seconds(processor):
    pieces = processor.prepare((np.random.default_rng(0).normal(size=4 * 16_000), 16_000))
    steps = pieces.positions[:, 0].max()
    covered = (512 * 160 / 16_000) if processor.spectrogram else 4.0
    assert steps * processor.seconds == pytest.approx(covered, abs=2.1 * processor.seconds)


LEARNED = LearnedPositions((24, 20), class_tokens=2)


@pytest.mark.parametrize("processor", [
    AudioProcessor(20), AudioProcessor(60, patch_frames=4, patch_mels=16), AudioProcessor(20, rate=8_000, hop=100),
    AudioProcessor(500, mels=128, patch_frames=16, patch_mels=16, spectrogram=spectrogram.Fbank(256, strides=(10, 12))),
    AudioProcessor(500, mels=128, patch_frames=16, patch_mels=16, spectrogram=spectrogram.Fbank(256, strides=(10, 12)),
                   positions=LEARNED),
    AudioProcessor(64, mels=80, patch_frames=2, spectrogram=spectrogram.LogMel(128)),
])  # fmt: skip
@pytest.mark.parametrize("second", [0.03, 1.234, 3.9])
def test_tokens_stand_where_what_they_hold_is_heard(processor, second):
    wave = np.zeros(4 * 16_000 + 500, dtype=np.float32)
    wave[round(second * 16_000)] = 1.0
    features = processor.features(processor.read((wave, 16_000)))
    windows = processor.windows(features)
    parts = [processor.cut(features, np.random.default_rng(seed)) for seed in range(5)]
    assert len(windows) > 1
    patch = processor.patch_frames * processor.hop / processor.rate
    loudest, heard_in = -np.inf, None
    for pieces, found in zip([*windows, *parts], processor.extents(None, [*windows, *parts]), strict=True):
        assert found.shape == (len(pieces), 2) and found.min() >= 0 and found.max() <= len(wave) / 16_000 + 0.02
        classes = len(pieces) - len(pieces.values)
        assert not found[:classes].any()
        first, last = (frame * processor.hop / processor.rate for frame in pieces.part)
        loud = pieces.values.max(1)
        if first + 0.02 < second < last - 0.02:
            begin, end = found[classes + int(loud.argmax())]
            assert begin - 0.03 <= second <= end + 0.03 + (patch if processor.spectrogram else 0)
        if loud.max() > loudest:
            loudest, heard_in = loud.max(), (first, last)
    assert heard_in[0] - 0.03 <= second <= heard_in[1] + 0.03
    together = np.concatenate(processor.extents(None, windows))
    together = np.unique(together[together[:, 0] < together[:, 1]], axis=0)
    np.testing.assert_allclose(together[1:, 0], together[:-1, 1], atol=patch if processor.spectrogram else 1e-9)


def test_blocks_of_its_own_know_the_order():
    assert AudioProcessor(depth=1).with_positions().positions is None
    assert AudioProcessor().with_positions().positions is not None


@pytest.mark.parametrize("processor", [PLAIN, BANDS], ids=["one band", "four bands"])
def test_the_tokenizer_without_merges_is_a_linear_map_at_unit_scale(processor):
    torch.manual_seed(0)
    processor = replace(processor, merges=0)
    tokenizer = AudioTokenizer(processor, 256)
    sweep = np.sin(np.cumsum(np.linspace(0.05, 2.5, 16_000))) * np.linspace(0.01, 1, 16_000)
    values = torch.from_numpy(processor.prepare((sweep, 16_000)).values)
    embed = tokenizer.stem.embed
    torch.nn.init.normal_(embed.bias, std=0.01)
    out = tokenizer(values, [len(values)])
    torch.testing.assert_close(out, values @ embed.weight.T + embed.bias)
    assert 0.7 < out.pow(2).mean().sqrt() < 1.4
    assert out.dtype == torch.float32 and tokenizer(values.bfloat16(), [1]).dtype == torch.bfloat16
    assert tokenizer(values[:0], []).shape == (0, 256)
