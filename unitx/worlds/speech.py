"""Speech made by espeak-ng: the library through ctypes, its voices, and the variation of what it says.

espeak-ng says a word in about 1 ms. A voice is an accent of a language and, after a plus sign, a variant, which
changes the speaker: "en-us+f2", "fr-be+Annie".
"""

from __future__ import annotations

import _ctypes
import ctypes
import math
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterable
from functools import cache
from itertools import chain, takewhile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from unitx.errors import UnitxError
from unitx.source import PARTS

UNSTEADY = {"Reed", "caleb"}  # speakers (espeak-ng's "klatt 6") that never say a thing twice alike, even started anew
RATE = 22_050  # Hz, espeak-ng's own
BANK_RATE = 16_000  # Hz, of clips that are kept
SLOW = 5  # seconds after which preparing shows how far it is
LONGEST = 800  # characters that may be said at once

# The voices of each language, by the names that `espeak_SetVoiceByName` takes ("en-gb" and "fr-fr" it refuses).
# Japanese has none here: espeak-ng reads kanji out as "Chinese letter".
ACCENTS = {
    "ar": ("ar",),
    "de": ("de",),
    "en": ("en", "en-us", "en-gb-x-rp", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-us-nyc", "en-029"),
    "es": ("es", "es-419"),
    "fa": ("fa",),
    "fr": ("fr", "fr-be", "fr-ch"),
    "id": ("id",),
    "it": ("it",),
    "ko": ("ko",),
    "pt": ("pt", "pt-br"),
    "ru": ("ru",),
    "tr": ("tr",),
    "zh": ("cmn",),
}

SYNCHRONOUS, DO_NOT_EXIT, UTF8, BY_CHARACTER = 2, 0x8000, 1, 1  # of speak_lib.h
PARAMETERS = {"speed": 1, "pitch": 3, "range": 4}
LAST, WORD = 0, 1  # kinds of events


class Event(ctypes.Structure):
    """espeak_EVENT: what begins at a sample."""

    _fields_ = [
        ("kind", ctypes.c_int), ("unique_identifier", ctypes.c_uint), ("text_position", ctypes.c_int),
        ("length", ctypes.c_int), ("audio_position", ctypes.c_int), ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p), ("id", ctypes.c_char * 8),
    ]  # fmt: skip


Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(Event))


def voices(language: str) -> list[str]:
    """The voices of a language, one for each accent; empty for a language that can't be spoken.

    Add "+variant" for another speaker.
    """
    return list(ACCENTS.get(language, ()))


@cache
def variants() -> list[str]:
    """Names of all the speakers that a voice can be given.

    Raises:
        UnitxError: espeak-ng isn't installed.
    """
    return sorted(file.name for file in Path(_loader().get_data_path(), "voices", "!v").iterdir())


def synthesize(text: str, voice: str, *, speed: int = 175, pitch: int = 50, range: int = 50) -> tuple[np.ndarray, int]:
    """Say something.

    Args:
        text: at most 800 characters.
        voice: such as "en" or "en-us+f2".
        speed: words a minute, 80 to 450.
        pitch: 0 to 100, `range` (of intonation) likewise; 50 is usual.

    Returns: a float32 waveform (n,) in -1 … 1 without silence at the ends, and its rate, 22,050 Hz.

    Raises:
        UnitxError: there is no such voice, or nothing can be said of the text, or espeak-ng isn't installed.
    """
    waveform, rate, _ = synthesize_words(text, voice, speed=speed, pitch=pitch, range=range)
    return waveform, rate


def synthesize_words(
    text: str, voice: str, *, speed: int = 175, pitch: int = 50, range: int = 50
) -> tuple[np.ndarray, int, list[tuple[int, int]]]:
    """`synthesize`, and where words begin: (character of the text, sample), in order.

    Not every word is there, since some are said as one ("of the"), and a number may be there several times.
    """
    if len(text) > LONGEST:
        raise UnitxError(f"the text {text[:20]!r}… has {len(text):,} characters: give at most {LONGEST}")
    with _lock:
        espeak = _espeak()
        espeak.set_voice(voice)
        for name, value in (("speed", speed), ("pitch", pitch), ("range", range)):
            espeak.library.espeak_SetParameter(PARAMETERS[name], int(value), 0)
        waveform, marks = espeak.say(text)
    waveform, marks = trim(waveform, marks)
    if not len(waveform):
        raise UnitxError(f"the voice '{voice}' says nothing for {text!r}: give it words of its language")
    return waveform, RATE, marks


def say_words(
    text: str, language: str, part: str, rng: np.random.Generator
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """A text in a random voice of a part of made data, in training at any speed and pitch: the same for equal `rng`.

    Returns: a waveform (n,) at 16,000 Hz, and where words begin in it, as `synthesize_words` says it.
    """
    accents, speakers = voices(language), split_voices()[part]
    voice = f"{accents[rng.integers(len(accents))]}+{speakers[rng.integers(len(speakers))]}"
    speed, pitch = (rng.integers(130, 240), rng.integers(20, 80)) if part == "train" else (175, 50)
    restart()
    return at_bank_rate(*synthesize_words(text, voice, speed=int(speed), pitch=int(pitch)))


def restart() -> None:
    """Forget all that was said: what is said next comes out the same, sample for sample, each time. Takes 1 ms.

    espeak-ng keeps the phase of its voice and its flutter from one text to the next, so it never says a thing twice.
    """
    with _lock:
        _espeak(fresh=True)


class _Espeak:
    """The library, initialised; it keeps one voice and one set of parameters, so one call at a time."""

    def __init__(self) -> None:
        loader = _loader()
        self.process = os.getpid()
        self.chunks: list[bytes] = []
        self.marks: list[tuple[int, int]] = []
        self.library = ctypes.CDLL(loader.get_library_path())
        # Without threads of its own (synchronous), so that it survives a fork.
        rate = self.library.espeak_Initialize(SYNCHRONOUS, 0, str(loader.get_data_path()).encode(), DO_NOT_EXIT)
        if rate != RATE:
            raise UnitxError(f"espeak-ng did not start (it answered {rate}): reinstall espeakng-loader")
        self.library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # else the time of day
        self.callback = Callback(self._collect)  # kept, or Python would free what the library calls
        self.library.espeak_SetSynthCallback(self.callback)

    def _collect(self, samples: int | None, count: int, events: Any) -> int:
        if samples and count > 0:
            self.chunks.append(ctypes.string_at(samples, 2 * count))
        for event in takewhile(lambda event: event.kind != LAST, events):
            if event.kind == WORD:
                self.marks.append((event.text_position - 1, event.sample))
        return 0

    def close(self) -> None:
        # Its state is in the library's static variables: `espeak_Terminate` keeps them, unloading it does not.
        # On Windows it stays loaded, and two takes may differ in a few samples.
        self.library.espeak_Terminate()
        if hasattr(_ctypes, "dlclose"):
            _ctypes.dlclose(self.library._handle)

    def set_voice(self, voice: str) -> None:
        # An unknown accent gets an error code and an unknown variant nothing at all; both keep the voice before.
        accent, _, variant = voice.partition("+")
        if variant and variant not in variants():
            raise UnitxError(f"there is no voice '{voice}': '{variant}' is no variant of espeak-ng, see variants()")
        if not accent or self.library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise UnitxError(f"there is no voice '{voice}': give one of voices(language), such as 'en' or 'en-us+f2'")

    def say(self, text: str) -> tuple[np.ndarray, list[tuple[int, int]]]:
        self.chunks.clear()
        self.marks.clear()
        words = text.encode()
        self.library.espeak_Synth(words, len(words) + 1, 0, BY_CHARACTER, 0, UTF8, None, None)
        waveform = np.frombuffer(b"".join(self.chunks), dtype=np.int16).astype(np.float32) / 32_768
        return waveform, list(self.marks)


class ProcessLock:
    """A lock of one process: a forked child finds it open, though a thread of its parent may have held it."""

    def __init__(self) -> None:
        self._renew()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self.lock = threading.Lock()

    def __enter__(self) -> None:
        self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.release()


_instance: _Espeak | None = None
_lock = ProcessLock()


def _espeak(fresh: bool = False) -> _Espeak:
    """The one instance of this process: a forked child starts its own rather than go on with its parent's."""
    global _instance
    if _instance is None or fresh or _instance.process != os.getpid():
        if _instance is not None:
            _instance.close()
        _instance = _Espeak()
    return _instance


def _loader() -> ModuleType:
    try:
        import espeakng_loader
    except ImportError as error:
        raise UnitxError("speech needs espeakng-loader: pip install 'unitx-toolkit[demo]'") from error
    return espeakng_loader


def trim(waveform: np.ndarray, marks: list[tuple[int, int]]) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """A waveform (n,) without silence at its ends, and (character, sample) marks moved with it."""
    loud = np.flatnonzero(np.abs(waveform) > 0.01 * np.abs(waveform).max(initial=0))
    begin, end = (int(loud[0]), int(loud[-1]) + 1) if len(loud) else (0, 0)
    return waveform[begin:end], [(place, min(max(at - begin, 0), end - begin)) for place, at in marks]


def resample(waveform: np.ndarray, rate: int = RATE) -> np.ndarray:
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


@cache
def split_voices() -> dict[str, list[str]]:
    """Part → its speakers; variants of one speaker ("edward", "edward2") are in one part."""
    families: dict[str, list[str]] = {}
    for variant in variants():
        stem = variant.lower().rstrip("0123456789")
        families.setdefault(variant if len(stem) == 1 else stem, []).append(variant)
    names = sorted(families)
    order = [names[i] for i in np.random.default_rng(0).permutation(len(names))]
    cuts = [0, round(0.7 * len(order)), round(0.85 * len(order)), len(order)]
    return {
        part: sorted({*chain.from_iterable(families[name] for name in order[begin:end])} - UNSTEADY)
        for part, begin, end in zip(PARTS, cuts, cuts[1:], strict=False)
    }


def parallel(function: Callable[[int], Any], jobs: range, about: str) -> list[Any]:
    """The function of every job, in order, by forked processes where the system has a safe fork. What takes long shows
    a bar on a terminal, which says what it is about."""

    def watched(done: Iterable[Any]) -> list[Any]:
        return list(tqdm(done, about, len(jobs), leave=False, delay=SLOW, disable=None, dynamic_ncols=True))

    count = len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1
    if count == 1 or multiprocessing.current_process().daemon:
        return watched(map(function, jobs))
    with multiprocessing.get_context("fork").Pool(min(count, 16), torch.set_num_threads, (1,)) as pool:
        return watched(pool.imap(function, jobs, chunksize=4))
