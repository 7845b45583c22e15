"""Waveforms of made speech: brought to one rate, kept in a byte a sample, and varied."""

from __future__ import annotations

import math
from functools import cache

import numpy as np

BANK_RATE = 16_000  # Hz, of clips that are kept


def trim(waveform: np.ndarray, marks: list[tuple[int, int]]) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """A waveform (n,) without silence at its ends, and (character, sample) marks moved with it."""
    loud = np.flatnonzero(np.abs(waveform) > 0.01 * np.abs(waveform).max(initial=0))
    begin, end = (int(loud[0]), int(loud[-1]) + 1) if len(loud) else (0, 0)
    return waveform[begin:end], [(place, min(max(at - begin, 0), end - begin)) for place, at in marks]


def resample(waveform: np.ndarray, rate: int) -> np.ndarray:
    """From `rate`, above 16,000 Hz, to 16,000 Hz, exactly up to 8,000 Hz: the upper part of the spectrum is cut off."""
    # 441 samples become 320; what is over parts the end from the beginning. A length without large prime factors
    # transforms ten times as fast.
    down, up = rate // math.gcd(rate, BANK_RATE), BANK_RATE // math.gcd(rate, BANK_RATE)
    blocks = len(waveform) // down + 1
    step = max(8, 2 ** (blocks.bit_length() // 2))
    blocks = -(-blocks // step) * step
    spectrum = np.fft.rfft(waveform, down * blocks)[: up * blocks // 2 + 1]
    return (np.fft.irfft(spectrum, up * blocks)[: len(waveform) * up // down] * (up / down)).astype(np.float32)


def at_bank_rate(
    waveform: np.ndarray, rate: int, marks: list[tuple[int, int]]
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """A waveform and its (character, sample) marks at 16,000 Hz."""
    return resample(waveform, rate), [(place, at * BANK_RATE // rate) for place, at in marks]


def compress(waveform: np.ndarray) -> np.ndarray:
    """A waveform (n,) in -1 … 1 as n bytes, by mu-law (ITU-T G.711, 1972; here the continuous curve), peak at 1."""
    x = waveform / max(np.abs(waveform).max(initial=0), 1e-9)
    curve = np.sign(x) * np.log1p(255 * np.abs(x)) / math.log(256)
    return np.round(127.5 + 127.5 * curve).astype(np.uint8)


def expand(stored: np.ndarray) -> np.ndarray:
    """The waveform (n,) float32 that `compress` stored."""
    return _expansion()[stored]


@cache
def _expansion() -> np.ndarray:
    curve = (np.arange(256) - 127.5) / 127.5
    return (np.sign(curve) * np.expm1(np.abs(curve) * math.log(256)) / 255).astype(np.float32)


def vary(waveform: np.ndarray, rng: np.random.Generator, strength: float = 1.0) -> np.ndarray:
    """Another take of a waveform (n,) at 16,000 Hz: its speed and pitch, colour, room, noise, loudness and place.

    Strength 0 gives the waveform as it is, 1 the widest variation.
    """
    return vary_timed(waveform, rng, strength)[0]


def vary_timed(
    waveform: np.ndarray, rng: np.random.Generator, strength: float = 1.0
) -> tuple[np.ndarray, float, int]:
    """`vary`, how many times as fast it has become, and the sample where it begins."""
    if strength == 0:
        return waveform, 1.0, 0
    u = rng.uniform(-1, 1, 4) * strength
    step = math.exp(0.15 * u[0])
    places = np.arange(int((len(waveform) - 1) / step), dtype=np.float32) * np.float32(step)
    before = places.astype(np.int64)  # numpy gathers twice as fast by these as by 32 bits
    waveform = waveform[before] + (places - before).astype(np.float32) * np.diff(waveform)[before]
    waveform[1:] += np.float32(0.6 * u[1]) * waveform[:-1]  # duller or brighter
    if rng.random() < 0.4 * strength:
        delay = int(rng.integers(80, 1_600))  # an echo after 5 to 100 ms
        waveform[delay:] += np.float32(0.5 * strength * rng.random()) * waveform[:-delay]
    lead, tail = (rng.random(2) * strength * 0.15 * BANK_RATE).astype(int)
    whole = _noise(lead + len(waveform) + tail, rng) * np.float32(10 ** (rng.uniform(-3, -1.3)) * strength)
    peak = np.abs(waveform).max(initial=1e-9)
    whole[lead : lead + len(waveform)] += waveform / peak
    return whole * np.float32(10 ** (0.8 * (rng.random() - 1) * strength)), step, int(lead)


def _noise(length: int, rng: np.random.Generator) -> np.ndarray:
    """(length,) of white, pink or brown noise, cut out of one long tape."""
    tapes = _tapes()
    tape = tapes[int(rng.integers(len(tapes)))]
    if length > len(tape):
        tape = np.tile(tape, -(-length // len(tape)))
    start = int(rng.integers(len(tape) - length + 1))
    return tape[start : start + length].copy()


@cache
def _tapes() -> np.ndarray:
    """(3, 8 s) of noise whose power falls with frequency by the powers 0, 1 and 2; root mean square 1."""
    length = 8 * BANK_RATE
    spectrum = np.fft.rfft(np.random.default_rng(0).standard_normal(length))
    frequency = np.maximum(np.fft.rfftfreq(length), 20 / BANK_RATE)
    tapes = np.stack([np.fft.irfft(spectrum * frequency ** (-power / 2), length) for power in (0, 1, 2)])
    return (tapes / tapes.std(axis=1, keepdims=True)).astype(np.float32)
