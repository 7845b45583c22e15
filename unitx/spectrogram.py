"""Spectrograms: the power of a sound in mel bands, and what published models make of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchaudio.compliance import kaldi
from torchaudio.functional import melscale_fbanks

BLOCK = 1 << 20  # samples that are transformed at once: they bound the memory


def mel_power(frames: list[Tensor], rate: int, mels: int) -> list[Tensor]:
    """The power in `mels` bands from 0 to rate / 2 (Slaney's scale).

    Args:
        frames: of each sound, (n, window).

    Returns: for each (n, mels).
    """
    counts = [len(of_item) for of_item in frames]
    size = frames[0].shape[1]
    window, banks = _mel(rate, mels, size)
    parts = [part for of_item in frames for part in of_item.split(max(1, BLOCK // size))]
    mel = torch.cat([_power(torch.cat(block) * window) @ banks for block in _blocks(parts, BLOCK // size)])
    return list(mel.split(counts))


@lru_cache(maxsize=8)
def _mel(rate: int, mels: int, window: int) -> tuple[Tensor, Tensor]:
    """The window (window,) and torchaudio's mel filters (window // 2 + 1, mels).

    For clips of a second `MelSpectrogram` itself takes twice the time of its arithmetic.
    """
    banks = melscale_fbanks(window // 2 + 1, 0.0, rate / 2, mels, rate, norm="slaney", mel_scale="slaney")
    return torch.hann_window(window), banks


def _blocks(parts: list[Tensor], size: int) -> Iterator[list[Tensor]]:
    """Neighbours together, as many as have `size` rows in all, at least one."""
    block: list[Tensor] = []
    for part in parts:
        if block and sum(map(len, block)) + len(part) > size:
            yield block
            block = []
        block.append(part)
    yield block


def _power(frames: Tensor) -> Tensor:
    spectrum = torch.fft.rfft(frames)
    return spectrum.real.square() + spectrum.imag.square()


@dataclass(frozen=True)
class LogMel:
    """Whisper's spectrogram (Radford et al. 2022): 80 dB below a recording's loudest cell, about -1 to 1.

    Attributes:
        frames: of a window; what a recording lacks of it is silence.

    Raises:
        ValueError: a window of an odd number of frames, or none.
    """

    frames: int = 3000
    bands_first: ClassVar[bool] = True  # its extractor gives (mels, frames)

    def __post_init__(self) -> None:
        if self.frames < 2 or self.frames % 2:
            raise ValueError(f"a window of {self.frames} frames: it must have an even number")

    def of(self, wave: Tensor, rate: int, mels: int, hop: int, window: int) -> Tensor:
        """(frames, mels) of a waveform (n,), without the silence that follows: as if the original's extractor got it
        filled up to whole windows, uncut."""
        half, samples = window // 2, self.frames * hop
        whole = -(-len(wave) // samples) * samples
        heard = min(-(-(len(wave) + half) // hop), whole // hop)
        padded = F.pad(F.pad(wave, (0, whole - len(wave)))[None], (half, half), mode="reflect")[0]
        (power,) = mel_power([padded.unfold(0, window, hop)[:heard]], rate, mels)
        log = power.clamp(min=1e-10).log10_()
        return (log.maximum(log.max() - 8) + 4) / 4

    def silence(self, features: np.ndarray) -> float:
        """The value of silence behind features (frames, mels)."""
        return max(float(features.max()) - 2, -1.5)  # 10 ** -10, or 80 dB below the loudest


@dataclass(frozen=True)
class Fbank:
    """AST's spectrogram (Gong et al. 2021): Kaldi's log-mel filterbank, cut into patches that may overlap.

    Attributes:
        frames: of a window; what a recording lacks of it is filled up with zeros, before `mean` is taken off.
        mean: taken off.
        std: half of what is divided by afterwards.
        strides: mel bands and frames from one patch to the next.

    Raises:
        ValueError: a number is out of range.
    """

    frames: int = 1024
    mean: float = -4.2677393
    std: float = 4.5689974
    strides: tuple[int, int] = (10, 10)
    bands_first: ClassVar[bool] = False  # its extractor gives (frames, mels)

    def __post_init__(self) -> None:
        object.__setattr__(self, "strides", tuple(self.strides))  # a list, from JSON
        if min(self.frames, self.std, *self.strides) <= 0:
            raise ValueError(f"frames, std and strides must be more than 0: {self}")

    def of(self, wave: Tensor, rate: int, mels: int, hop: int, window: int) -> Tensor:
        """(frames, mels) of a waveform (n,); `window` and `hop` are Kaldi's 25 and 10 ms."""
        wave = F.pad(wave, (0, max(0, window - len(wave))))
        count, step = 1 + (len(wave) - window) // hop, max(1, BLOCK // window)
        parts = [wave[i * hop : (i + step - 1) * hop + window] for i in range(0, count, step)]
        options = {"sample_frequency": float(rate), "window_type": "hanning", "num_mel_bins": mels}
        bank = torch.cat([kaldi.fbank(part[None], **options) for part in parts])
        return (bank - self.mean) / (2 * self.std)

    def silence(self, features: np.ndarray) -> float:
        """The value of what is filled up behind features (frames, mels)."""
        return -self.mean / (2 * self.std)
