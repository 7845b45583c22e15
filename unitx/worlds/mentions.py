"""Mentions: written and spoken sentences that name emoji, where they do so, and what kind of thing each is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from unitx.errors import UnitxError
from unitx.source import PARTS, MadeFromSettings
from unitx.worlds import espeak, waveforms
from unitx.worlds.emoji import HUNDRED, KINDS, name_of
from unitx.worlds.processes import parallel

ROWS = {"train": 2_000, "validation": 300, "test": 1_000}  # every second one is spoken
FEWEST = 20  # concepts; with fewer the pairs of names would not suffice for three parts
MOST = 5  # names in a sentence, which espeak-ng says at once

# What may stand before the first name, between two, and behind the last.
PHRASES = {
    "en": (
        ("we saw the", "yesterday there was a", "I dreamed of a", "nobody looked at the", "she wrote about a"),
        ("next to the", "and then a", "but not the", "before we found a", "together with the"),
        ("", "in the evening", "far away", "once more", "on the way home"),
    ),
    "es": (
        ("vimos", "ayer había", "soñé con", "nadie miró", "ella escribió sobre"),
        ("al lado de", "y después", "pero no", "antes de encontrar", "junto con"),
        ("", "por la tarde", "muy lejos", "otra vez", "de camino a casa"),
    ),
    "fr": (
        ("nous avons vu", "hier il y avait", "j’ai rêvé de", "personne ne regardait", "elle parlait de"),
        ("à côté de", "et puis", "mais pas", "avant de trouver", "ensemble avec"),
        ("", "le soir", "très loin", "encore une fois", "en rentrant"),
    ),
}


class Sentence(NamedTuple):
    """Words in a language, and of each emoji named in them the kind and the characters from and up to which it is."""

    text: str
    language: str
    mentions: list[tuple[str, int, int]]


class Take(NamedTuple):
    """A sentence said once: a clip as `waveforms.compress` stores it, and its mentions by samples."""

    clip: np.ndarray
    mentions: list[tuple[str, int, int]]


@dataclass(frozen=True)
class MentionWorld(MadeFromSettings):
    """A source of rows {"text": a sentence in English, Spanish or French, "audio": one said by espeak-ng (waveform,
    16,000 Hz), of which one is filled, "tags": the emoji named in it, [{"label": kind, "start": …, "end": …}, …], in
    characters or seconds}.

    The parts share no speaker, and no sentence of one part begins with the two names that one of another begins with.
    Names and phrases are the same in all of them. It is made data.

    Attributes:
        concepts: how many emoji, spread over the kinds.
        most: names in a sentence, of which there are two at least.
        part: "train", "validation" or "test".
        seed: of all that is random.

    Raises:
        UnitxError: an unknown part, a number that is too large or too small, or a package that is not installed.
    """

    concepts: int = 100
    most: int = 3
    part: str = "train"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.part not in PARTS:
            raise UnitxError(f"the world of mentions has no part '{self.part}'; it has: {', '.join(PARTS)}")
        if not (FEWEST <= self.concepts <= len(HUNDRED) and 2 <= self.most <= MOST):
            raise UnitxError(
                f"a world of mentions has {FEWEST} to {len(HUNDRED)} concepts and 2 to {MOST} of them in a sentence, "
                f"not {self.concepts} and {self.most}"
            )
        self.names  # noqa: B018  # which need a package

    @property
    def name(self) -> str:
        return f"mentions of {self.concepts} emoji"

    @property
    def columns(self) -> list[str]:
        return ["text", "audio", "tags"]

    @cached_property
    def emoji(self) -> list[str]:
        """The concepts, as characters."""
        return [HUNDRED[i * len(HUNDRED) // self.concepts] for i in range(self.concepts)]

    @cached_property
    def kinds(self) -> list[str]:
        """What each concept is."""
        kind_of = {emoji: kind for kind, group in KINDS.items() for emoji in group}
        return [kind_of[emoji] for emoji in self.emoji]

    @cached_property
    def names(self) -> dict[str, list[str]]:
        """Language → the name of each concept."""
        return {language: [name_of(emoji, language) for emoji in self.emoji] for language in PHRASES}

    def __len__(self) -> int:
        return ROWS[self.part]

    def row(self, index: int, rng: np.random.Generator, strength: float = 1.0) -> dict[str, Any]:
        """Column → item, None for an empty cell.

        Args:
            rng: what the row of the training part is drawn with; the other parts draw theirs by the row's number.
            strength: of the variation of sound, 0 to 1; sentences always vary.
        """
        rng, strength = self.drawn_by(index, rng, strength)
        if index % 2 == 0:
            text, _, mentions = self.sentence(rng)
            return {"text": text, "audio": None, "tags": _tags(mentions)}
        take = self._takes[index // 2] if self.part == "train" else self._say(rng)
        sound, speed, lead = waveforms.vary_timed(waveforms.expand(take.clip), rng, strength)
        begin, rate = lead / waveforms.BANK_RATE, speed * waveforms.BANK_RATE
        timed = [(kind, begin + start / rate, begin + end / rate) for kind, start, end in take.mentions]
        return {"text": None, "audio": (sound, waveforms.BANK_RATE), "tags": _tags(timed)}

    def sentence(self, rng: np.random.Generator) -> Sentence:
        """A sentence of this part."""
        language = sorted(PHRASES)[int(rng.integers(len(PHRASES)))]
        begins, betweens, ends = PHRASES[language]
        chosen = rng.integers(self.concepts, size=int(rng.integers(2, self.most + 1)))
        while _part_of(*chosen[:2].tolist()) != self.part:
            chosen = rng.integers(self.concepts, size=len(chosen))
        text, mentions = "", []
        for place, concept in enumerate(chosen.tolist()):
            phrases = betweens if place else begins
            text += f"{' ' if place else ''}{phrases[int(rng.integers(len(phrases)))]} "
            mentions.append((self.kinds[concept], len(text), len(text) + len(self.names[language][concept])))
            text += self.names[language][concept]
        return Sentence(f"{text} {ends[int(rng.integers(len(ends)))]}".rstrip(), language, mentions)

    def of_part(self, part: str) -> MentionWorld:
        """The same concepts in another part."""
        return replace(self, part=part)

    def prepare(self) -> MentionWorld:
        """Say what training draws from, in several processes; 70 kB a take are kept."""
        if self.part == "train":
            self._takes  # noqa: B018
        return self

    @cached_property
    def _takes(self) -> list[Take]:
        return parallel(self._take, range(len(self) // 2), "saying sentences")

    def _take(self, number: int) -> Take:
        return self._say(np.random.default_rng([0, self.seed, number]))

    def _say(self, rng: np.random.Generator) -> Take:
        """A sentence of this part in a random voice of it."""
        text, language, mentions = self.sentence(rng)
        sound, marks = espeak.say_words(text, language, self.part, rng)
        timed = []
        for kind, start, end in mentions:
            begins = [at for place, at in marks if place <= start]
            follows = [at for place, at in marks if place >= end]  # of a name at the end there is nothing
            timed.append((kind, begins[-1] if begins else 0, follows[0] if follows else len(sound)))
        return Take(waveforms.compress(sound), timed)


def _part_of(first: int, second: int) -> str:
    """The part whose sentences begin with these two concepts: of ten such pairs one is validation's, one the test's."""
    return {0: "validation", 1: "test"}.get((3 * first + 7 * second) % 10, "train")


def _tags(mentions: list[Any]) -> list[dict[str, Any]]:
    return [{"label": kind, "start": start, "end": end} for kind, start, end in mentions]
