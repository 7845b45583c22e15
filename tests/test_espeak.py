"""Speech: espeak-ng's voices."""

from __future__ import annotations

import multiprocessing
import sys

import numpy as np
import pytest

from unitx.errors import UnitxError
from unitx.worlds import espeak


def test_every_accent_can_be_set_and_speaks() -> None:
    word = {"zh": "猫", "ko": "고양이", "ar": "قطة", "fa": "گربه", "ru": "кошка"}
    accents = [(language, voice) for language in espeak.ACCENTS for voice in espeak.voices(language)]
    assert len(accents) > 20 and espeak.voices("ja") == []
    for language, voice in accents:
        waveform, rate = espeak.synthesize(word.get(language, "gato"), voice)
        assert rate == 22_050 and waveform.dtype == np.float32
        assert 0.15 * rate < len(waveform) < 2 * rate and 0.05 < np.abs(waveform).max() <= 1


def test_every_variant_is_another_speaker() -> None:
    said = {espeak.synthesize("strawberry", f"en+{variant}")[0].tobytes() for variant in espeak.variants()}
    assert len(espeak.variants()) > 100
    assert len(said) > 0.9 * len(espeak.variants())


@pytest.mark.parametrize("voice", ["en-gb", "fr-fr", "en+nobody", "nowhere", "", "+f2"])
def test_an_unknown_voice_is_an_error_that_names_it(voice: str) -> None:
    espeak.synthesize("cat", "en")  # espeak-ng would go on with this one, silently
    with pytest.raises(UnitxError, match=f"'{voice}'".replace("+", r"\+")):
        espeak.synthesize("cat", voice)


def test_a_voice_is_not_kept_from_the_call_before() -> None:
    first, _ = espeak.synthesize("orange", "fr+f2", speed=120, pitch=80)
    other, _ = espeak.synthesize("orange", "en+m3")
    again, _ = espeak.synthesize("orange", "fr+f2", speed=120, pitch=80)
    assert abs(len(first) - len(again)) < 100 < abs(len(first) - len(other))


def test_after_a_restart_the_same_is_said_sample_for_sample() -> None:
    def say() -> bytes:
        return b"".join(espeak.synthesize("orange", f"fr+{v}")[0].tobytes() for v in ("f2", "whisper", "croak"))

    espeak.restart()
    first = say()
    assert say() != first  # its voice goes on where it was
    espeak.restart()
    assert say() == first


def test_duration_falls_with_speed_and_the_fundamental_rises_with_pitch() -> None:
    text = "the quick brown fox jumps over the lazy dog"
    slow, usual, fast = (len(espeak.synthesize(text, "en", speed=speed)[0]) for speed in (100, 200, 400))
    assert 1.7 < slow / usual < 2.3 and 1.5 < usual / fast < 2.3

    def fundamental(pitch: int) -> float:
        waveform, rate = espeak.synthesize("aaaaah", "en", pitch=pitch, range=0)
        piece = waveform[len(waveform) // 4 : len(waveform) // 4 + 2048]
        product = np.correlate(piece, piece, "full")[2047:]
        lag = rate // 400 + int(product[rate // 400 : rate // 60].argmax())
        return rate / lag

    assert fundamental(10) < 0.9 * fundamental(90)


def test_no_silence_at_the_ends() -> None:
    waveform, _ = espeak.synthesize("cat", "en")
    peak = np.abs(waveform).max()
    assert np.abs(waveform[0]) > 0.01 * peak and np.abs(waveform[-1]) > 0.01 * peak


@pytest.mark.parametrize("text", ["", "   ", "x" * 801])
def test_text_that_cannot_be_said(text: str) -> None:
    with pytest.raises(UnitxError, match="give"):
        espeak.synthesize(text, "en")


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    espeak.variants.cache_clear()
    with pytest.raises(UnitxError, match=r"pip install 'unitx-toolkit\[demo\]'"):
        espeak.variants()


def _say(text: str) -> np.ndarray:
    espeak.restart()
    return espeak.synthesize(text, "en-us+f2")[0]


def test_another_process_says_the_same() -> None:
    here = _say("horse")
    method = "fork" if sys.platform == "linux" else "spawn"
    with multiprocessing.get_context(method).Pool(1) as pool:
        np.testing.assert_array_equal(pool.apply(_say, ("horse",)), here)
