"""Speech: espeak-ng's voices, and what is made of what they say."""

from __future__ import annotations

import multiprocessing
import sys

import numpy as np
import pytest
import torch
import torchaudio

from unitx.errors import UnitxError
from unitx.worlds import speech


def test_every_accent_can_be_set_and_speaks() -> None:
    word = {"zh": "猫", "ko": "고양이", "ar": "قطة", "fa": "گربه", "ru": "кошка"}
    accents = [(language, voice) for language in speech.ACCENTS for voice in speech.voices(language)]
    assert len(accents) > 20 and speech.voices("ja") == []
    for language, voice in accents:
        waveform, rate = speech.synthesize(word.get(language, "gato"), voice)
        assert rate == 22_050 and waveform.dtype == np.float32
        assert 0.15 * rate < len(waveform) < 2 * rate and 0.05 < np.abs(waveform).max() <= 1


def test_every_variant_is_another_speaker() -> None:
    said = {speech.synthesize("strawberry", f"en+{variant}")[0].tobytes() for variant in speech.variants()}
    assert len(speech.variants()) > 100
    assert len(said) > 0.9 * len(speech.variants())


@pytest.mark.parametrize("voice", ["en-gb", "fr-fr", "en+nobody", "nowhere", "", "+f2"])
def test_an_unknown_voice_is_an_error_that_names_it(voice: str) -> None:
    speech.synthesize("cat", "en")  # espeak-ng would go on with this one, silently
    with pytest.raises(UnitxError, match=f"'{voice}'".replace("+", r"\+")):
        speech.synthesize("cat", voice)


def test_a_voice_is_not_kept_from_the_call_before() -> None:
    first, _ = speech.synthesize("orange", "fr+f2", speed=120, pitch=80)
    other, _ = speech.synthesize("orange", "en+m3")
    again, _ = speech.synthesize("orange", "fr+f2", speed=120, pitch=80)
    assert abs(len(first) - len(again)) < 100 < abs(len(first) - len(other))


def test_after_a_restart_the_same_is_said_sample_for_sample() -> None:
    def say() -> bytes:
        return b"".join(speech.synthesize("orange", f"fr+{v}")[0].tobytes() for v in ("f2", "whisper", "croak"))

    speech.restart()
    first = say()
    assert say() != first  # its voice goes on where it was
    speech.restart()
    assert say() == first


def test_duration_falls_with_speed_and_the_fundamental_rises_with_pitch() -> None:
    text = "the quick brown fox jumps over the lazy dog"
    slow, usual, fast = (len(speech.synthesize(text, "en", speed=speed)[0]) for speed in (100, 200, 400))
    assert 1.7 < slow / usual < 2.3 and 1.5 < usual / fast < 2.3

    def fundamental(pitch: int) -> float:
        waveform, rate = speech.synthesize("aaaaah", "en", pitch=pitch, range=0)
        piece = waveform[len(waveform) // 4 : len(waveform) // 4 + 2048]
        product = np.correlate(piece, piece, "full")[2047:]
        lag = rate // 400 + int(product[rate // 400 : rate // 60].argmax())
        return rate / lag

    assert fundamental(10) < 0.9 * fundamental(90)


def test_no_silence_at_the_ends() -> None:
    waveform, _ = speech.synthesize("cat", "en")
    peak = np.abs(waveform).max()
    assert np.abs(waveform[0]) > 0.01 * peak and np.abs(waveform[-1]) > 0.01 * peak


@pytest.mark.parametrize("text", ["", "   ", "x" * 801])
def test_text_that_cannot_be_said(text: str) -> None:
    with pytest.raises(UnitxError, match="give"):
        speech.synthesize(text, "en")


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    speech.variants.cache_clear()
    with pytest.raises(UnitxError, match=r"pip install 'unitx-toolkit\[demo\]'"):
        speech.variants()


def _say(text: str) -> np.ndarray:
    speech.restart()
    return speech.synthesize(text, "en-us+f2")[0]


def test_another_process_says_the_same() -> None:
    here = _say("horse")
    method = "fork" if sys.platform == "linux" else "spawn"
    with multiprocessing.get_context(method).Pool(1) as pool:
        np.testing.assert_array_equal(pool.apply(_say, ("horse",)), here)


def test_resample_keeps_tones_and_agrees_with_torchaudio() -> None:
    time = np.arange(11_111) / 22_050
    tone = (np.sin(2 * np.pi * 440 * time) * np.hanning(len(time))).astype(np.float32)
    ours = speech.resample(tone)
    assert len(ours) == 11_111 * 320 // 441
    exact = np.sin(2 * np.pi * 440 * np.arange(len(ours)) / 16_000) * np.interp(
        np.arange(len(ours)) / 16_000, time, np.hanning(len(time))
    )
    np.testing.assert_allclose(ours, exact, atol=1e-4)
    spoken, rate = speech.synthesize("strawberry", "en")
    theirs = torchaudio.functional.resample(torch.from_numpy(spoken), rate, 16_000, lowpass_filter_width=64).numpy()
    ours = speech.resample(spoken)
    assert np.corrcoef(ours, theirs[: len(ours)])[0, 1] > 0.99


def test_resample_drops_what_16_khz_cannot_hold() -> None:
    hiss = np.sin(2 * np.pi * 9_500 * np.arange(22_050) / 22_050).astype(np.float32) * np.hanning(22_050)
    assert np.abs(speech.resample(hiss.astype(np.float32))).max() < 1e-3


def test_compress_is_torchaudios_mu_law() -> None:
    waveform = np.linspace(-1, 1, 2_001, dtype=np.float32)
    theirs = torchaudio.functional.mu_law_encoding(torch.from_numpy(waveform), 256).numpy()
    ours = speech.compress(waveform)
    assert np.abs(ours.astype(int) - theirs).max() <= 1
    back = speech.expand(ours)
    assert np.abs(back - waveform).max() < 0.025  # steps are widest at the peak
    quiet = np.abs(waveform) < 0.01
    assert np.abs(back - waveform)[quiet].max() < 0.0005


def test_vary() -> None:
    waveform = speech.resample(speech.synthesize("strawberry", "en")[0])
    np.testing.assert_array_equal(speech.vary(waveform, np.random.default_rng(0), 0.0), waveform)
    one, other, again = (speech.vary(waveform, np.random.default_rng(seed)) for seed in (1, 2, 1))
    np.testing.assert_array_equal(one, again)
    assert len(one) != len(other)
    lengths = [len(speech.vary(waveform, np.random.default_rng(seed))) / len(waveform) for seed in range(50)]
    assert 0.85 < min(lengths) < 1 < max(lengths) < 2
    for seed in range(50):
        varied = speech.vary(waveform, np.random.default_rng(seed))
        assert varied.dtype == np.float32 and np.isfinite(varied).all() and 0.1 < np.abs(varied).max() < 2


def test_vary_takes_a_very_short_clip() -> None:
    for seed in range(30):
        assert np.isfinite(speech.vary(np.ones(40, dtype=np.float32), np.random.default_rng(seed))).all()


def test_a_change_of_speed_is_linear_interpolation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speech, "_noise", lambda length, rng: np.zeros(length, dtype=np.float32))
    rng = np.random.default_rng(0)
    for length in (*range(2, 60), *rng.integers(5_000, 60_000, 300).tolist()):  # none runs over the end
        waveform = np.linspace(0, 1, length, dtype=np.float32)
        ramp = np.trim_zeros(speech.vary(waveform, rng, 1e-4))
        assert len(ramp) < 3 or np.abs(np.diff(ramp, 2)).max() < 1e-2


def test_the_noise_falls_with_frequency_as_its_colour_says() -> None:
    for power, tape in enumerate(speech._tapes()):
        spectrum = np.abs(np.fft.rfft(tape)) ** 2
        frequency = np.fft.rfftfreq(len(tape), 1 / 16_000)
        low, high = ((frequency > f) & (frequency < 2 * f) for f in (200, 3_200))
        octaves = np.log2(spectrum[low].mean() / spectrum[high].mean()) / 4
        assert abs(octaves - power) < 0.1
        assert tape.std() == pytest.approx(1, abs=1e-3)
