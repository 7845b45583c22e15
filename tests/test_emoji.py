"""The emoji world: what it holds, how its parts are kept apart, and that its rows can be made again."""

from __future__ import annotations

import pickle
import sys

import numpy as np
import pytest

from unitx.errors import UnitxError
from unitx.source import Source
from unitx.worlds import emoji as world_of_emoji
from unitx.worlds import espeak, pico, pictures
from unitx.worlds.emoji import ARTICLES, HUNDRED, EmojiWorld, all_emoji, name_of, reword, vary_name
from unitx.worlds.espeak import UNSTEADY, split_voices

SOME = ["🐱", "🚗", "🍌"]


def test_more_languages_give_names_more_rows() -> None:
    for count, rows_of in {1: (4, 3, 1), 3: (4, 3, 1), 4: (4, 4, 2), 10: (10, 10, 4)}.items():
        languages = ("en", "es", "fr", "de", "it", "pt", "ru", "tr", "ko", "zh")[:count]
        views = EmojiWorld(languages=languages).views
        assert tuple(views.count(kind) for kind in ("image", "audio", "text")) == rows_of
    assert EmojiWorld(languages=("en", "ja")).views.count("audio") == 3  # Japanese is written only


def test_a_name_is_typed_in_several_ways() -> None:
    rng = np.random.default_rng(0)
    assert {vary_name("cara de gato", rng, 0.0) for _ in range(20)} == {"cara de gato"}
    found = [vary_name("cara de gato", rng) for _ in range(500)]
    assert {"cara de gato", "gato", "CARA DE GATO", "Cara De Gato", "Gato"} <= {*found}
    words = {tuple(name.lower().split()) for name in found}
    assert words == {
        ("cara", "de", "gato"), ("cara", "de"), ("cara", "gato"), ("de", "gato"), ("cara",), ("de",), ("gato",)
    }  # fmt: skip
    assert 0.25 < np.mean([name.lower() != "cara de gato" for name in found]) < 0.45
    assert {vary_name("猫", rng) for _ in range(50)} == {"猫"}
    assert {reword("gato", rng, 1.0, "es") for _ in range(100)} == {"gato", "un gato", "una gato", "el gato", "la gato"}
    assert {reword("gato", rng, 0.0, "es") for _ in range(20)} == {"gato"}


@pytest.fixture(scope="module")
def train() -> EmojiWorld:
    return EmojiWorld(concepts=SOME, languages=("en", "de")).prepare()


def rows(world: EmojiWorld, strength: float = 1.0, seed: int = 0) -> list[dict]:
    return [world.row(i, np.random.default_rng([seed, i]), strength) for i in range(len(world))]


def test_a_hundred_concepts_and_over_a_thousand() -> None:
    assert len(HUNDRED) == len(set(HUNDRED)) == len(EmojiWorld().emoji) == 100
    everything = all_emoji()
    assert set(HUNDRED) <= set(everything) and len(everything) == len(set(everything)) > 1_300
    names = [name_of(emoji, "en") for emoji in everything]
    assert len(set(names)) == len(names)
    for left_out in ("👍🏽", "🇫🇷", "1️⃣", "👩‍🚀", "🕑", "◾"):
        assert left_out not in everything
    assert EmojiWorld(concepts=20).emoji == EmojiWorld().emoji[:20]
    assert EmojiWorld(concepts="all").emoji == everything


def test_names_are_those_of_the_package_without_colons_and_underscores() -> None:
    import emoji

    emoji.config.load_language()
    assert (name_of("🐱", "en"), name_of("🐱", "es"), name_of("🐱", "zh")) == ("cat face", "cara de gato", "猫脸")
    for character in all_emoji()[::37]:
        for language in ("en", "fr", "ar"):
            name = name_of(character, language)
            assert f":{name.replace(' ', '_')}:" == emoji.EMOJI_DATA[character][language]
            assert name == name.strip() and "_" not in name


def test_it_is_a_source(train: EmojiWorld) -> None:
    assert isinstance(train, Source)
    assert train.columns[:5] == ["image", "text", "audio", "concept", "language"]
    assert train.columns[5:] == ["name", "to", "translation", "question"]
    assert len(train) == 3 * 8 and train.column("concept") == [name for name in train.labels for _ in range(8)]
    with pytest.raises(UnitxError, match="'image'"):
        train.column("image")
    assert train.concepts_json()[0] == {
        "emoji": "🐱",
        "name": "cat face",
        "names": {"en": "cat face", "de": "katzengesicht"},
    }


def test_a_row_shows_one_view_of_one_concept(train: EmojiWorld) -> None:
    views = [*["image", "audio"] * 3, "image", "text"]
    for i, row in enumerate(rows(train)):
        assert list(row) == train.columns and row["concept"] == train.labels[i // 8]
        filled = [column for column in ("image", "text", "audio") if row[column] is not None]
        assert filled == [views[i % 8]] and (row["language"] is None) == (filled == ["image"])
        if filled == ["image"]:
            assert row["image"].mode == "RGB" and row["image"].size == (32, 32)
        elif filled == ["text"]:
            name = train.names[train.emoji[i // 8]][row["language"]]
            words = row["text"].lower().split()
            assert {*words[words[0] in ARTICLES[row["language"]] :]} <= {*name.lower().split()}
        else:
            waveform, rate = row["audio"]
            assert rate == 16_000 and waveform.dtype == np.float32 and 2_000 < len(waveform) < 60_000


def same(one: dict, other: dict) -> bool:
    if one["audio"] is not None:
        return np.array_equal(one["audio"][0], other["audio"][0])
    return one["text"] == other["text"] if one["image"] is None else one["image"].tobytes() == other["image"].tobytes()


def test_the_same_numbers_give_the_same_row(train: EmojiWorld) -> None:
    again = EmojiWorld(concepts=SOME, languages=("en", "de"))  # another object, which makes everything anew
    assert all(map(same, rows(train), rows(again)))
    other = [same(a, b) for a, b in zip(rows(train), rows(train, seed=1), strict=True) if a["text"] is None]
    assert not any(other)


def test_held_out_rows_depend_on_their_number_only(train: EmojiWorld) -> None:
    test = EmojiWorld(concepts=SOME, languages=("en", "de"), part="test")
    assert all(map(same, rows(test, 1.0, seed=0), rows(test, 0.5, seed=1)))
    assert not any(a is b for a, b in zip(rows(test), rows(test), strict=True))


def test_a_seed_gives_another_world() -> None:
    one, other = (EmojiWorld(concepts=SOME, part="validation", seed=seed) for seed in (0, 1))
    assert not any(same(a, b) for a, b in zip(rows(one), rows(other), strict=True) if a["text"] is None)


def test_parts_share_no_voice() -> None:
    parts = split_voices()
    speakers = [speaker for part in parts.values() for speaker in part]
    assert sorted({*speakers, *UNSTEADY}) == espeak.variants() and len(set(speakers)) == len(speakers)
    assert 0.6 < len(parts["train"]) / len(speakers) < 0.8 and min(map(len, parts.values())) >= 10
    home = {speaker.lower(): part for part, of_part in parts.items() for speaker in of_part}
    assert home["edward"] == home["edward2"] and home["mike"] == home["mike2"] and home["klatt"] == home["klatt6"]


def test_a_part_speaks_with_its_own_voices_only(monkeypatch: pytest.MonkeyPatch) -> None:
    used: dict[str, set[str]] = {}
    for part in ("train", "validation", "test"):
        voices = used.setdefault(part, set())

        def synthesize(text: str, voice: str, voices: set[str] = voices, **options: int) -> tuple[np.ndarray, int]:
            voices.add(voice.partition("+")[2])
            return np.ones(3_000, dtype=np.float32), 22_050

        monkeypatch.setattr(espeak, "synthesize", synthesize)
        world = EmojiWorld(concepts=["🐱"], part=part)
        rng = np.random.default_rng(0)
        for _ in range(300):
            world._speak(0, 0, rng)
    assert len(used["train"]) > 50
    assert not used["train"] & used["validation"] and not used["train"] & used["test"]
    assert not used["validation"] & used["test"]


def test_parts_share_no_rendering(train: EmojiWorld) -> None:
    seen = {row["image"].tobytes() for seed in range(5) for row in rows(train, seed=seed) if row["image"]}
    made = []
    for part in ("validation", "test"):
        held = [row["image"].tobytes() for row in rows(EmojiWorld(concepts=SOME, part=part)) if row["image"]]
        assert len(set(held)) == len(held)
        made.append(set(held))
    assert not seen & made[0] and not seen & made[1] and not made[0] & made[1]


def test_grounds_of_the_parts_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str | None] = []
    vary = pictures.vary
    monkeypatch.setattr(pictures, "vary", lambda *arguments: asked.append(arguments[-1]) or vary(*arguments))
    for part in ("train", "validation", "test"):
        EmojiWorld(concepts=["🐱"], part=part).row(0, np.random.default_rng(0))
    assert asked == [None, "stripes", "checks"]


def test_strength_0_is_the_clean_drawing(train: EmojiWorld) -> None:
    image = np.asarray(train.row(0, np.random.default_rng(0), 0.0)["image"], dtype=np.float32)
    clean = pictures.vary(pictures.draw("🐱", 40)[None], 32, [np.random.default_rng(9)], 0.0)[0]
    np.testing.assert_array_equal(image, clean)


@pytest.mark.parametrize("part", ["train", "validation"])
def test_rows_read_together_are_those_read_one_by_one(train: EmojiWorld, part: str) -> None:
    world = train if part == "train" else EmojiWorld(concepts=SOME, part=part)
    indices = [5, 7, 0, 6, 1, 0]
    together = world.read_rows(indices, [np.random.default_rng(i) for i in range(6)], 0.8)
    for i, (index, row) in enumerate(zip(indices, together, strict=True)):
        alone = world.row(index, np.random.default_rng(i), 0.8)
        assert all(row[name] == alone[name] for name in ("text", "language", "concept"))
        assert (row["image"] is None) == (alone["image"] is None) and (row["audio"] is None) == (alone["audio"] is None)
        if row["image"]:
            assert np.abs(np.asarray(row["image"], dtype=int) - np.asarray(alone["image"])).max() <= 1
        if row["audio"]:
            np.testing.assert_array_equal(row["audio"][0], alone["audio"][0])


def test_kept_clips_are_those_that_were_spoken(train: EmojiWorld) -> None:
    stored, bounds, said = train._clips
    assert bounds.shape == (3, 2, 33) and bounds[-1, -1, -1] == len(stored) and (np.diff(bounds) > 1_000).all()
    spoken = train._speak_all(2)
    for k in range(32):
        np.testing.assert_array_equal(stored[bounds[2, 1, k] : bounds[2, 1, k + 1]], spoken[32 + k][0])
        assert said[2][32 + k] == spoken[32 + k][1]


def test_a_name_is_said_in_several_ways_and_the_row_says_which(train: EmojiWorld) -> None:
    german = name_of(train.emoji[2], "de")
    said = {text for _, text in train._speak_all(2)[32:]}
    assert {german, f"ein {german}"} <= said and not {text for text in said if text.startswith(("a ", "un "))}
    heard = {row["name"] for seed in range(20) for row in rows(train, seed=seed) if row["audio"]}
    assert len(heard) > 20 and heard <= {text for i in range(3) for _, text in train._speak_all(i)}
    test = [row for row in rows(train.of_part("test")) if row["audio"]]
    assert {row["name"] for row in test} <= {name_of(emoji, code) for emoji in train.emoji for code in ("en", "de")}


def test_two_synthesizers_speak_in_training_and_one_in_what_judges(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    say = pico.say

    def noted(text: str, language: str, rng: np.random.Generator) -> np.ndarray:
        said.append(text)
        return say(text, language, rng)

    monkeypatch.setattr(pico, "say", noted)
    world = EmojiWorld(concepts=["🐱"], languages=("de", "ru"))
    clips = world._speak_all(0)
    assert 3 < len(said) < 20 and {*said} <= {text for _, text in clips[:32]}  # Russian it does not speak
    said.clear()
    for seed in range(20):
        world.of_part("test")._speak(0, 0, np.random.default_rng(seed))
    assert not said and world.notes == []
    monkeypatch.setattr(pico, "_nanotts", lambda: None)
    assert len(world._speak_all(0)) == 64 and not said
    assert "py-nanotts is not installed" in world.notes[0]
    assert EmojiWorld(concepts=["🐱"], languages=("ru",)).notes == world.of_part("test").notes == []


def test_what_one_synthesizer_cannot_say_the_other_says() -> None:
    world = EmojiWorld(concepts=["💿", "📀"], languages=("de", "fr"))  # "CD" and "DVD"
    assert [len(world._speak_all(i)) for i in range(2)] == [64, 64]


def test_a_pickle_holds_settings_only(train: EmojiWorld) -> None:
    packed = pickle.dumps(train)
    assert len(packed) < 1_000
    there = pickle.loads(packed)
    assert there == train and same(there.row(0, np.random.default_rng(4)), train.row(0, np.random.default_rng(4)))


def test_handed_emoji_are_not_mirrored() -> None:
    for emoji, handed in {"👈": True, "🔍": True, "🌒": True, "⏩": True, "🐱": False, "🚗": False}.items():
        assert bool(pictures.HANDED.search(name_of(emoji, "en"))) == handed


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"part": "dev"}, "no part 'dev'"),
        ({"languages": ("en", "xx")}, "'xx'"),
        ({"languages": ("ja",)}, "ja can be spoken"),
        ({"concepts": "many"}, "'many'"),
        ({"concepts": 0}, "is 0"),
        ({"concepts": 101}, "is 101"),
        ({"concepts": ["🐱", "cat"]}, "cat"),
        ({"concepts": []}, "none given"),
        ({"concepts": 1.5}, "is 1.5"),
    ],
)
def test_wrong_settings(settings: dict, words: str) -> None:
    with pytest.raises(UnitxError, match=words):
        EmojiWorld(**settings)


def test_japanese_is_written_but_not_spoken() -> None:
    world = EmojiWorld(concepts=["🍓"], languages=("ja", "en"), part="test")
    assert world.spoken == ["en"]
    languages = {row["language"] for row in rows(world) if row["audio"]}
    assert languages == {"en"} and world.names["🍓"]["ja"] == "いちご"


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "emoji", None)
    world_of_emoji._languages.cache_clear()
    with pytest.raises(UnitxError, match=r"pip install 'unitx-toolkit\[demo\]'"):
        EmojiWorld()
