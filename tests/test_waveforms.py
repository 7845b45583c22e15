"""Waveforms of made speech: other rates, a byte a sample, other takes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchaudio

from unitx.worlds import espeak, waveforms


def test_resample_keeps_tones_and_agrees_with_torchaudio() -> None:
    time = np.arange(11_111) / 22_050
    tone = (np.sin(2 * np.pi * 440 * time) * np.hanning(len(time))).astype(np.float32)
    ours = waveforms.resample(tone, 22_050)
    assert len(ours) == 11_111 * 320 // 441
    exact = np.sin(2 * np.pi * 440 * np.arange(len(ours)) / 16_000) * np.interp(
        np.arange(len(ours)) / 16_000, time, np.hanning(len(time))
    )
    np.testing.assert_allclose(ours, exact, atol=1e-4)
    spoken, rate = espeak.synthesize("strawberry", "en")
    theirs = torchaudio.functional.resample(torch.from_numpy(spoken), rate, 16_000, lowpass_filter_width=64).numpy()
    ours = waveforms.resample(spoken, rate)
    assert np.corrcoef(ours, theirs[: len(ours)])[0, 1] > 0.99


def test_resample_drops_what_16_khz_cannot_hold() -> None:
    hiss = np.sin(2 * np.pi * 9_500 * np.arange(22_050) / 22_050).astype(np.float32) * np.hanning(22_050)
    assert np.abs(waveforms.resample(hiss.astype(np.float32), 22_050)).max() < 1e-3


def test_compress_is_torchaudios_mu_law() -> None:
    waveform = np.linspace(-1, 1, 2_001, dtype=np.float32)
    theirs = torchaudio.functional.mu_law_encoding(torch.from_numpy(waveform), 256).numpy()
    ours = waveforms.compress(waveform)
    assert np.abs(ours.astype(int) - theirs).max() <= 1
    back = waveforms.expand(ours)
    assert np.abs(back - waveform).max() < 0.025  # steps are widest at the peak
    quiet = np.abs(waveform) < 0.01
    assert np.abs(back - waveform)[quiet].max() < 0.0005


def test_vary() -> None:
    waveform = waveforms.resample(*espeak.synthesize("strawberry", "en"))
    np.testing.assert_array_equal(waveforms.vary(waveform, np.random.default_rng(0), 0.0), waveform)
    one, other, again = (waveforms.vary(waveform, np.random.default_rng(seed)) for seed in (1, 2, 1))
    np.testing.assert_array_equal(one, again)
    assert len(one) != len(other)
    lengths = [len(waveforms.vary(waveform, np.random.default_rng(seed))) / len(waveform) for seed in range(50)]
    assert 0.85 < min(lengths) < 1 < max(lengths) < 2
    for seed in range(50):
        varied = waveforms.vary(waveform, np.random.default_rng(seed))
        assert varied.dtype == np.float32 and np.isfinite(varied).all() and 0.1 < np.abs(varied).max() < 2


def test_vary_takes_a_very_short_clip() -> None:
    for seed in range(30):
        assert np.isfinite(waveforms.vary(np.ones(40, dtype=np.float32), np.random.default_rng(seed))).all()


def test_a_change_of_speed_is_linear_interpolation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waveforms, "_noise", lambda length, rng: np.zeros(length, dtype=np.float32))
    rng = np.random.default_rng(0)
    for length in (*range(2, 60), *rng.integers(5_000, 60_000, 300).tolist()):  # none runs over the end
        waveform = np.linspace(0, 1, length, dtype=np.float32)
        ramp = np.trim_zeros(waveforms.vary(waveform, rng, 1e-4))
        assert len(ramp) < 3 or np.abs(np.diff(ramp, 2)).max() < 1e-2


def test_the_noise_falls_with_frequency_as_its_colour_says() -> None:
    for power, tape in enumerate(waveforms._tapes()):
        spectrum = np.abs(np.fft.rfft(tape)) ** 2
        frequency = np.fft.rfftfreq(len(tape), 1 / 16_000)
        low, high = ((frequency > f) & (frequency < 2 * f) for f in (200, 3_200))
        octaves = np.log2(spectrum[low].mean() / spectrum[high].mean()) / 4
        assert abs(octaves - power) < 0.1
        assert tape.std() == pytest.approx(1, abs=1e-3)
