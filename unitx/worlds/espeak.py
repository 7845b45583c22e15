"""Speech made by espeak-ng: the library through ctypes, and its voices.

espeak-ng says a word in about 1 ms. A voice is an accent of a language and, after a plus sign, a variant, which
changes the speaker: "en-us+f2", "fr-be+Annie".
"""

from __future__ import annotations

import _ctypes
import ctypes
import os
from functools import cache
from itertools import chain, takewhile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from unitx.errors import UnitxError
from unitx.source import PARTS
from unitx.worlds.processes import ProcessLock
from unitx.worlds.waveforms import at_bank_rate, trim

UNSTEADY = {"Reed", "caleb"}  # speakers (espeak-ng's "klatt 6") that never say a thing twice alike, even started anew
RATE = 22_050  # Hz, espeak-ng's own
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
