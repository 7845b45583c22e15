"""Speech made by a small neural network, hibari: what people's recordings taught it, beside espeak-ng's made by rule.

One voice comes along with its package (7.9 MB, distilled from Kokoro-82M). Other speakers are made of it by another
pitch and another length of the vocal tract (Jaitly and Hinton 2013).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from unitx.errors import UnitxError
from unitx.worlds.waveforms import trim

RATE = 24_000  # Hz, hibari's own
FRAME = 600  # samples, in which the network counts how long each phoneme lasts
LAG = 2  # frames by which that count is behind the sound (by where hisses and vowels begin: 50 ms)
DURATIONS = "/Clip_output_0"  # of phonemes: a value inside the network, which it does not give by itself
VOICED = 40  # Hz; a pitch below is none


@dataclass(frozen=True)
class Speaker:
    """Someone else who speaks as the voice does.

    Attributes:
        pitch: factor of the voice's own; 0.5 is a man's.
        range: of intonation; 0 is monotonous, 1 the voice's own.
        tract: how many times as long the vocal tract is: its resonances are this many times lower.
    """

    pitch: float = 1.0
    range: float = 1.0
    tract: float = 1.0

    @classmethod
    def random(cls, rng: np.random.Generator) -> Speaker:
        """Anyone, from a child to a man."""
        return cls(math.exp(rng.uniform(-0.75, 0.35)), rng.uniform(0.4, 1.5), math.exp(rng.uniform(-0.22, 0.22)))

    def change(self, f0: np.ndarray) -> np.ndarray:
        """The pitch (frames,) in Hz, near 0 where there is none, as this speaker has it."""
        voiced = f0 > VOICED
        if not voiced.any():
            return f0
        mean = f0[voiced].mean()
        changed = mean * self.pitch * (np.maximum(f0, 1) / mean) ** self.range
        return np.where(voiced, np.maximum(changed, 1.001 * VOICED), f0).astype(np.float32)


def synthesize_words(
    text: str, speaker: Speaker | None = None, *, speed: float = 1.0, seed: int = 0
) -> tuple[np.ndarray, int, list[tuple[int, int]]]:
    """Say something in English.

    Args:
        text: some sentences.
        speaker: the voice as it is, if not given.
        speed: 1 is usual, 2 twice as fast.
        seed: of the noise in breath and hiss.

    Returns: a float32 waveform (n,) without silence at the ends, its rate, 24,000 Hz, and where words begin:
        (character of the text, sample), in order.

    Raises:
        UnitxError: nothing can be said of the text, or hibari is not installed.
    """
    rng = np.random.default_rng(seed)
    parts: list[np.ndarray] = []
    marks: list[tuple[int, int]] = []
    begin = at = 0
    for sentence in _voice().split_sentences(text):
        at = text.index(sentence, at)
        waveform, words = _sentence(sentence, speaker or Speaker(), speed, rng)
        marks += [(at + place, begin + sample) for place, sample in words]
        parts.append(waveform)
        begin += len(waveform)
        at += len(sentence)
    if not marks:
        raise UnitxError(f"nothing can be said of {text!r}: give it English words")
    waveform, marks = trim(np.concatenate(parts), marks)
    return waveform, RATE, marks


def _sentence(
    text: str, speaker: Speaker, speed: float, rng: np.random.Generator
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    from hibari import dsp

    words = _phonemes(text)
    if not words:
        return np.zeros(0, np.float32), []
    ids, firsts = [0], []
    for place, phonemes in words:
        firsts.append((place, len(ids)))
        ids += _voice().ids(phonemes + " ")[1:-1]
    inputs = {"ids": np.array([[*ids[:-1], 0]]), "speed": np.array([speed], np.float32)}
    *outputs, durations = _network().run(None, inputs)
    *spectra, f0 = (output[0] for output in outputs)
    bins = np.minimum(np.round(np.arange(len(spectra[0])) * speaker.tract), len(spectra[0]) - 1).astype(int)
    waveform = dsp.synth(*(part[bins] for part in spectra), speaker.change(f0), rng)
    begins = np.maximum(np.cumsum(durations) - durations - LAG, 0)
    return waveform, [(place, int(begins[number]) * FRAME) for place, number in firsts]


def _phonemes(sentence: str) -> list[tuple[int, str]]:
    """(its first character, its phonemes) of each word that is said; a number has those of several."""
    from hibari.g2p import normalize

    g2p = _voice().g2p
    found: list[tuple[int, str]] = []
    at, begins = 0, True
    for token in g2p.phonemize_tokens(g2p.tokenize(normalize(sentence))):
        said = token.phonemes or ""
        spoken = _is_spoken(said)
        place = sentence.find(token.text, at)  # none where it was written in another way
        if (begins and spoken and place >= 0) or not found:
            found.append((max(place, 0), said))
        else:  # a word's other part, or what stands between words, belongs to what came before
            found[-1] = (found[-1][0], found[-1][1] + said)
        at = place + len(token.text) if place >= 0 else at
        begins = bool(token.whitespace) or (begins and not spoken)
    return found if any(_is_spoken(said) for _, said in found) else []


def _is_spoken(phonemes: str) -> bool:
    """Whether there is more than punctuation."""
    return any(map(str.isalpha, phonemes))


@cache
def _voice() -> Any:
    try:
        from hibari import Hibari
    except ImportError as error:
        raise UnitxError("this speech needs hibari: pip install 'unitx-toolkit[hear]'") from error
    return Hibari()


@cache
def _network() -> Any:
    """The network of `_voice`, which also gives how long each phoneme lasts."""
    import onnxruntime

    # Of a message written twice protobuf makes one that has both's fields: so a graph of one output more adds it.
    output = _field(12, _field(1, DURATIONS.encode()))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    model = Path(_voice().model_path).read_bytes() + _field(7, output)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _field(number: int, content: bytes) -> bytes:
    """A field of a protobuf message that holds fewer than 128 bytes."""
    return bytes([number << 3 | 2, len(content)]) + content
