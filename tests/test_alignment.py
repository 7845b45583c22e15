"""Words found by another saying of them: the warping against a plain recursion, and times that are known."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from unitx.worlds import espeak, neural, waveforms
from unitx.worlds.alignment import SLANT, cepstra, transfer_marks, warp

TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "Honey never spoils, even after three thousand years.",
    "A group of flamingos is called a flamboyance.",
    "She sells sea shells by the shore every summer.",
]


def unit_vectors(count: int, seed: int) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(count, 4))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 6), (5, 1), (7, 7), (9, 4), (4, 11)])
def test_no_path_is_cheaper(n: int, m: int) -> None:
    one, other = unit_vectors(n, 0), unit_vectors(m, 1)
    costs = 1 - one @ other.T

    @cache
    def cheapest(i: int, j: int) -> float:
        if i < 0 or j < 0:
            return np.inf
        steps = [cheapest(i - 1, j - 1), cheapest(i - 1, j) + SLANT, cheapest(i, j - 1) + SLANT]
        return costs[i, j] + (0.0 if i == j == 0 else min(steps))

    path = warp(one, other)
    steps = np.diff(path, axis=0)
    assert path[0].tolist() == [0, 0] and path[-1].tolist() == [n - 1, m - 1]
    assert {*map(tuple, steps.tolist())} <= {(1, 1), (1, 0), (0, 1)}
    slanted = SLANT * (steps.sum(1) == 1).sum()
    assert costs[path[:, 0], path[:, 1]].sum() + slanted == pytest.approx(cheapest(n - 1, m - 1))


def test_a_slower_saying_has_its_marks_later() -> None:
    waveform, marks = espeak.say_words(TEXTS[0], "en", "train", np.random.default_rng(0))
    slow = np.interp(np.arange(0, len(waveform) - 1, 0.8), np.arange(len(waveform)), waveform).astype(np.float32)
    moved = transfer_marks(marks, waveform, slow)
    assert [place for place, _ in moved] == [place for place, _ in marks]
    away = np.array([at / 0.8 for _, at in marks]) - np.array([at for _, at in moved])
    assert np.abs(away).max() < 0.06 * waveforms.BANK_RATE
    same = transfer_marks(marks, waveform, waveform)
    assert np.abs(np.array(same) - np.array(marks)).max() <= 160  # a frame


def test_words_of_one_synthesizer_are_found_by_another() -> None:
    """espeak-ng tells when its words begin, and so does hibari: by espeak-ng hibari's are found to some hundredths."""
    away = []
    for seed, text in enumerate(TEXTS):
        rng = np.random.default_rng(seed)
        told, marks = espeak.say_words(text, "en", "train", rng)
        other, truth = waveforms.at_bank_rate(*neural.synthesize_words(text, neural.Speaker.random(rng)))
        begins = dict(truth)
        away += [at - begins[place] for place, at in transfer_marks(marks, told, other) if place in begins]
    seconds = np.array(away) / waveforms.BANK_RATE
    assert len(away) > 25 and np.median(np.abs(seconds)) < 0.05 and (np.abs(seconds) < 0.12).mean() > 0.85


def test_a_click_and_silence_can_be_aligned() -> None:
    click, silence = np.ones(10, np.float32), np.zeros(4_000, np.float32)
    for told, other in ((click, silence), (silence, click), (click, click)):
        ((place, at),) = transfer_marks([(3, 5)], told, other)
        assert place == 3 and 0 <= at <= len(other)
    assert cepstra(click).shape == (1, 28) and np.isfinite(cepstra(silence)).all()
