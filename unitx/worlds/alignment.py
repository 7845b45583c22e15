"""When words are said, learned from another recording of the same words that tells it."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torchaudio.functional import create_dct

from unitx.tokenizers.audio import AudioProcessor
from unitx.worlds.waveforms import BANK_RATE

MELS, CEPSTRA = 32, 14
LEAST_STD = 0.3  # of a band over the recording: what hardly changes tells nothing
EACH = 2  # frames that one pair stands for: four times as fast as each frame by itself, and as exact
SLANT = 0.15  # what a frame costs that has no counterpart of its own


def transfer_marks(marks: list[tuple[int, int]], told: np.ndarray, other: np.ndarray) -> list[tuple[int, int]]:
    """(character, sample) marks of a waveform, moved to where another says the same; both (n,) at 16,000 Hz.

    By dynamic time warping (Sakoe and Chiba 1978) of mel cepstra and how they change.
    """
    hop = EACH * _processor().hop
    frames, counterparts = warp(cepstra(told)[::EACH], cepstra(other)[::EACH]).T
    middles = np.bincount(frames, counterparts) / np.bincount(frames)
    places = np.interp([sample / hop for _, sample in marks], np.arange(len(middles)), middles) * hop
    return [(character, min(int(place), len(other))) for (character, _), place in zip(marks, places, strict=True)]


def cepstra(waveform: np.ndarray) -> np.ndarray:
    """(frames, 28) unit vectors: what is heard at each 10 ms, each band by its own mean and spread, and its change."""
    bands = _processor().features(torch.from_numpy(waveform))
    bands = (bands - bands.mean(0)) / (bands.std(0) + LEAST_STD)
    found = bands @ create_dct(CEPSTRA, MELS, norm="ortho").numpy()
    change = np.gradient(found, axis=0) if len(found) > 1 else np.zeros_like(found)
    both = np.concatenate([found, 2 * change], axis=1)
    return both / (np.linalg.norm(both, axis=1, keepdims=True) + 1e-6)


def warp(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(steps, 2) the pairs of frames, from the first to the last, that are likest in sum; of unit vectors (n, dim)."""
    costs = 1 - one @ other.T
    n, m = costs.shape
    total = np.full((n + 1, m + 1), np.inf)
    total[0, 0] = 0
    for diagonal in range(2, n + m + 1):  # all cells of one hang only on those before
        i = np.arange(max(1, diagonal - m), min(n, diagonal - 1) + 1)
        total[i, diagonal - i] = costs[i - 1, diagonal - i - 1] + _before(total, i, diagonal - i).min(0)
    path = [(n, m)]
    while path[-1] != (1, 1):
        i, j = path[-1]
        step = int(_before(total, i, j).argmin())
        path.append((i - (step != 2), j - (step != 1)))
    return np.array(path[::-1]) - 1


def _before(total: np.ndarray, i: np.ndarray | int, j: np.ndarray | int) -> np.ndarray:
    """(3, …) what it costs to come to a cell by a step in both, in the first, in the second."""
    return np.stack([total[i - 1, j - 1], total[i - 1, j] + SLANT, total[i, j - 1] + SLANT])


@cache
def _processor() -> AudioProcessor:
    return AudioProcessor(rate=BANK_RATE, mels=MELS)
