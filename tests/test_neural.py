"""Speech by a neural network: where its words begin, and what another speaker is."""

from __future__ import annotations

import math
import sys

import hibari
import numpy as np
import pytest

from unitx.errors import UnitxError
from unitx.worlds import neural, waveforms
from unitx.worlds.neural import RATE, Speaker

TEXT = "She has seen 12 ships: six of them, in 1984, were general-purpose ships."


def fundamental(waveform: np.ndarray) -> float:
    """Hz, by the cepstrum (Noll 1967) of the loudest eighth of a second."""
    n = RATE // 8
    begin = max(range(0, len(waveform) - n, n // 2), key=lambda i: float(np.square(waveform[i : i + n]).sum()))
    spectrum = np.abs(np.fft.rfft(waveform[begin : begin + n] * np.hanning(n)))[: n // 8]  # up to 3,000 Hz
    cepstrum = np.abs(np.fft.rfft(np.log(spectrum + 1e-4) - np.log(spectrum + 1e-4).mean(), 8 * n))
    frequencies = 8 * n * RATE / n / np.arange(1, len(cepstrum))  # of ripples 1 / frequency apart
    inside = (frequencies > 80) & (frequencies < 350)
    return float(frequencies[inside][cepstrum[1:][inside].argmax()])


def test_the_usual_speaker_is_hibaris_own_voice() -> None:
    waveform, rate, _ = neural.synthesize_words("A cat sat on a mat.", seed=3)
    own = hibari.Hibari()("A cat sat on a mat.", seed=3)
    trimmed, _ = waveforms.trim(own, [])
    assert rate == hibari.SAMPLE_RATE and waveform.dtype == np.float32
    np.testing.assert_allclose(waveform, trimmed, rtol=0, atol=1e-4)  # the pitch is rounded once more


def test_every_word_has_its_begin_and_numbers_are_one() -> None:
    waveform, rate, marks = neural.synthesize_words(TEXT)
    assert [TEXT[place:].split()[0] for place, _ in marks] == TEXT.split()
    samples = [sample for _, sample in marks]
    assert samples == sorted(set(samples)) and samples[0] < 0.1 * rate and samples[-1] < len(waveform)
    lengths = dict(zip(TEXT.split(), np.diff([*samples, len(waveform)]) / rate, strict=True))
    assert lengths["1984,"] > 2 * lengths["in"]


def test_words_begin_where_they_sound() -> None:
    """By the hiss that each of these begins with, and that no other sound of theirs has."""
    waveform, rate, marks = neural.synthesize_words("Sue saw six silly sailors")
    frames = np.lib.stride_tricks.sliding_window_view(waveform, rate // 100)[:: rate // 100]
    power = np.square(np.abs(np.fft.rfft(frames * np.hanning(frames.shape[1]))))
    hiss = power[:, 40:].sum(1) > power[:, :30].sum(1)  # above 4,000 and below 3,000 Hz
    for _, sample in marks:
        first = sample * 100 // rate
        assert hiss[first : first + 8].any(), sample / rate
        assert hiss[max(first - 3, 0) : first + 5].any(), sample / rate


def test_sentences_follow_each_other() -> None:
    text = "One cat.  Two dogs!"
    _, rate, marks = neural.synthesize_words(text)
    assert [text[place:].split()[0] for place, _ in marks] == ["One", "cat.", "Two", "dogs!"]
    assert marks[2][1] - marks[1][1] > 0.3 * rate


def test_punctuation_alone_is_no_word() -> None:
    text = '"Hello" -- he said -- "again"'
    _, _, marks = neural.synthesize_words(text)
    words = [text.split()[len(text[: place + 1].split()) - 1] for place, _ in marks]
    assert list(dict.fromkeys(words)) == ['"Hello"', "he", "said", '"again"']


def test_another_speaker_has_another_pitch_and_other_resonances() -> None:
    usual, rate, marks = neural.synthesize_words("Are we far away")
    low, _, same = neural.synthesize_words("Are we far away", Speaker(pitch=0.5))
    assert len(low) == pytest.approx(len(usual), abs=rate // 20)
    np.testing.assert_allclose(same, marks, atol=rate // 50)  # both are trimmed by how loud they are
    assert fundamental(low) == pytest.approx(0.5 * fundamental(usual), rel=0.15)

    def centre(waveform: np.ndarray) -> float:
        power = np.square(np.abs(np.fft.rfft(waveform)))
        return float((power * np.fft.rfftfreq(len(waveform), 1 / rate)).sum() / power.sum())

    long, _, _ = neural.synthesize_words("Are we far away", Speaker(tract=1.25))
    short, _, _ = neural.synthesize_words("Are we far away", Speaker(tract=0.8))
    assert centre(long) < centre(short)
    assert fundamental(long) == pytest.approx(fundamental(usual), rel=0.15)


def test_range_is_of_intonation() -> None:
    f0 = np.array([0.0, 100.0, 200.0, 0.0], np.float32)
    np.testing.assert_allclose(Speaker(range=0).change(f0), [0, 150, 150, 0])
    np.testing.assert_allclose(Speaker(pitch=2).change(f0), 2 * f0)
    assert np.array_equal(Speaker().change(np.zeros(3)), np.zeros(3))


def test_speakers_are_of_all_kinds() -> None:
    speakers = [Speaker.random(np.random.default_rng(seed)) for seed in range(50)]
    pitches = [speaker.pitch for speaker in speakers]
    assert min(pitches) < 0.55 and max(pitches) > 1.3 and all(math.isclose(s.tract, 1, rel_tol=0.25) for s in speakers)


def test_a_faster_speaker_is_done_sooner() -> None:
    slow, fast = (neural.synthesize_words(TEXT, speed=speed)[0] for speed in (0.8, 1.6))
    assert 1.5 < len(slow) / len(fast) < 2.5


@pytest.mark.parametrize("text", ["", "  ", "-- !", "猫"])
def test_text_that_cannot_be_said(text: str) -> None:
    with pytest.raises(UnitxError, match="give it English words"):
        neural.synthesize_words(text)


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hibari", None)
    neural._voice.cache_clear()
    with pytest.raises(UnitxError, match=r"unitx-toolkit\[hear\]"):
        neural.synthesize_words("cat")
