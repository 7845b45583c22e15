"""Speech made by SVOX Pico: what a statistical model (HMM) learned of people's recordings, beside espeak-ng's by rule.

One voice a language comes along with the package py-nanotts (5 MB). Other speakers are made of it by another pitch and
another length of the vocal tract, as in `neural`. It says a word in 5 ms.
"""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import chain
from typing import Any

import numpy as np

from unitx.errors import UnitxError
from unitx.worlds.processes import ProcessLock
from unitx.worlds.waveforms import BANK_RATE, resample, trim

VOICES = {"de": ("de-DE",), "en": ("en-GB", "en-US"), "es": ("es-ES",), "fr": ("fr-FR",), "it": ("it-IT",)}
SPEEDS, PITCHES = (0.2, 5.0), (0.5, 2.0)  # that it takes; what is beyond is said at the nearest
VOLUME = 0.5  # at its usual one some voices are clipped
MISSING = "py-nanotts is not installed, so one synthesizer less says"
M_PERTURB = -6  # of malloc.h
HEARD = 0.05  # the least peak of speech at that volume; of what it cannot say it makes a faint noise


def voices(language: str) -> list[str]:
    """The voices of a language; none of one that it does not speak, or where py-nanotts is not installed."""
    return list(VOICES.get(language, ())) if _nanotts() else []


def synthesize(text: str, voice: str, *, speed: float = 1.0, pitch: float = 1.0, tract: float = 1.0) -> np.ndarray:
    """Say something.

    Args:
        voice: such as "es-ES".
        speed: 1 is usual, 2 twice as fast; speed · tract is at least 0.2 and at most 5.
        pitch: factor of the voice's own; pitch · tract is at least 0.5 and at most 2.
        tract: how many times as long the vocal tract is: its resonances are this many times lower.

    Returns: a float32 waveform (n,) at 16,000 Hz without silence at the ends.

    Raises:
        UnitxError: there is no such voice, or nothing can be said of the text, or py-nanotts is not installed.
    """
    if not _nanotts():
        raise UnitxError("this speech needs py-nanotts: pip install 'unitx-toolkit[demo]'")
    if voice not in chain.from_iterable(VOICES.values()):
        raise UnitxError(f"there is no voice '{voice}': give one of voices(language), such as 'en-GB'")
    text = re.sub("[<>]", " ", text)  # Pico's own marks
    # What is played more slowly is longer and lower: it is asked for faster and higher by as much.
    speed, pitch = (float(np.clip(tract * x, *limits)) for x, limits in ((speed, SPEEDS), (pitch, PITCHES)))
    try:
        with _lock, _zeroed_memory():
            said = _nanotts().speak(text, voice=voice, speed=speed, pitch=pitch, volume=VOLUME)
    except (RuntimeError, ValueError) as error:  # letters that are none, for one
        raise UnitxError(f"the voice '{voice}' cannot say {text!r} ({error}): leave the text out") from error
    waveform = np.frombuffer(said, dtype=np.int16).astype(np.float32) / 32_768
    if np.abs(waveform).max(initial=0) < HEARD:
        raise UnitxError(f"the voice '{voice}' says nothing for {text!r}: give it words of its language")
    if tract < 1:
        waveform = resample(waveform, 100 * round(BANK_RATE / tract / 100))  # a round rate: quickly
    elif tract > 1:
        waveform = np.interp(np.arange(int(len(waveform) * tract)) / tract, np.arange(len(waveform)), waveform)
    waveform, _ = trim(waveform.astype(np.float32), [])
    return waveform


def say(text: str, language: str, rng: np.random.Generator) -> np.ndarray:
    """A text by anyone, from a child to a man, at any speed, as by `synthesize`; for equal `rng` the same, where glibc
    is, elsewhere but for some ten-thousandths."""
    of_language = voices(language)
    voice = of_language[int(rng.integers(len(of_language)))]
    speed, pitch, tract = np.exp(rng.uniform([-0.35, -0.6, -0.22], [0.35, 0.45, 0.22])).tolist()
    return synthesize(text, voice, speed=speed, pitch=pitch, tract=tract)


@contextmanager
def _zeroed_memory() -> Iterator[None]:
    """Pico reads memory that it has not written, and so says a thing a little differently each time. Within this, new
    memory is zero, if glibc gives it (by M_PERTURB, which fills it with the complement of a byte)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(M_PERTURB, 0xFF)
    try:
        yield
    finally:
        if mallopt:
            mallopt(M_PERTURB, 0)


@cache
def _nanotts() -> Any:
    """Pico; None where py-nanotts is not installed."""
    try:
        from py_nanotts import NanoTTS
    except ImportError:
        return None
    return NanoTTS()


_lock = ProcessLock()  # of memory's setting, which is the process's
