"""Speech by SVOX Pico: what another speed, pitch and vocal tract are, and what cannot be said."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from torchaudio.functional import detect_pitch_frequency

from unitx.errors import UnitxError
from unitx.worlds import pico
from unitx.worlds.waveforms import BANK_RATE, trim

py_nanotts = pytest.importorskip("py_nanotts", reason="has no wheels for Macs")
TWICE = 0.0 if sys.platform == "linux" else 1e-3  # elsewhere it never says a thing twice


def fundamental(waveform: np.ndarray) -> float:
    """Hz: the median of what torchaudio finds along the way."""
    return float(detect_pitch_frequency(torch.from_numpy(waveform), BANK_RATE, freq_low=70, freq_high=500).median())


def centre(waveform: np.ndarray) -> float:
    """Hz: the mean frequency of the magnitudes."""
    magnitude = np.abs(np.fft.rfft(waveform))
    return float((magnitude * np.fft.rfftfreq(len(waveform), 1 / BANK_RATE)).sum() / magnitude.sum())


def test_the_usual_voice_is_picos_own() -> None:
    said = py_nanotts.NanoTTS().speak("una mariposa", voice="es-ES", speed=1.0, pitch=1.0, volume=0.5)
    own, _ = trim(np.frombuffer(said, np.int16).astype(np.float32) / 32_768, [])
    np.testing.assert_allclose(pico.synthesize("una mariposa", "es-ES"), own, atol=1e-3)  # it never says a thing twice
    assert 0.1 < np.abs(own).max() < 0.99


@pytest.mark.parametrize("voice", ["de-DE", "en-GB", "en-US", "es-ES", "fr-FR", "it-IT"])
def test_every_voice_speaks_and_is_no_other(voice: str) -> None:
    waveform = pico.synthesize("mama", voice)
    assert waveform.dtype == np.float32 and 0.2 < len(waveform) / BANK_RATE < 1.0
    for other in {each for of_one in pico.VOICES.values() for each in of_one} - {voice}:
        assert not np.array_equal(pico.synthesize("mama", other), waveform)


def test_speed_pitch_and_tract_are_apart() -> None:
    usual = pico.synthesize("a long way from home", "en-GB")
    fast = pico.synthesize("a long way from home", "en-GB", speed=2)
    assert len(fast) == pytest.approx(len(usual) / 2, rel=0.2)
    high = pico.synthesize("a long way from home", "en-GB", pitch=1.5)
    assert len(high) == pytest.approx(len(usual), rel=0.1)
    assert fundamental(high) == pytest.approx(1.5 * fundamental(usual), rel=0.15)
    long = pico.synthesize("a long way from home", "en-GB", tract=1.25)
    assert len(long) == pytest.approx(len(usual), rel=0.1)
    assert fundamental(long) == pytest.approx(fundamental(usual), rel=0.15)
    assert centre(long) < 0.92 * centre(usual)


def test_someone_is_the_same_for_the_same_numbers_and_hardly_anyone_like_another() -> None:
    one, *others, again = (pico.say("gato", "es", np.random.default_rng(seed)) for seed in (0, 1, 2, 3, 4, 5, 6, 0))
    np.testing.assert_allclose(one, again, rtol=0, atol=TWICE)
    lengths = {len(waveform) for waveform in others}
    assert len(lengths) == 6 and max(lengths) > 1.3 * min(lengths)


@pytest.mark.parametrize("text", ["", "—", "猫"])
def test_text_that_cannot_be_said(text: str) -> None:
    with pytest.raises(UnitxError, match="give it words of its language"):
        pico.synthesize(text, "es-ES")


def test_marks_of_its_own_are_none_of_ours() -> None:
    marked, plain = (pico.synthesize(text, "en-GB") for text in ("a <volume> cat", "a volume cat"))
    np.testing.assert_allclose(marked, plain, rtol=0, atol=TWICE)


def test_no_such_voice() -> None:
    with pytest.raises(UnitxError, match=r"no voice 'xx': give one of voices\(language\)"):
        pico.synthesize("cat", "xx")
    with pytest.raises(UnitxError, match=r"cannot say .*: leave the text out"):
        pico.synthesize("cat \ud800", "en-GB")
    assert pico.voices("ja") == [] and pico.voices("en") == ["en-GB", "en-US"]


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "py_nanotts", None)
    pico._nanotts.cache_clear()
    try:
        assert pico.voices("en") == []
        with pytest.raises(UnitxError, match=r"unitx-toolkit\[demo\]"):
            pico.synthesize("cat", "en-GB")
    finally:
        pico._nanotts.cache_clear()
