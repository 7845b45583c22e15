"""The world of spoken sentences."""

from __future__ import annotations

import pickle
import string
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unitx.data import open_source
from unitx.errors import UnitxError
from unitx.source import MadeSource
from unitx.worlds import espeak, neural, pico, spoken, waveforms
from unitx.worlds.spoken import SpokenWorld

LINES = [
    f"The {animal}s of {place} sing in the morning, and sleep at night."
    for animal in ("tiger", "whale", "crow", "hippopotamus")
    for place in ("Spain", "Peru", "Nepal", "Chad", "Fiji", "Gabon")
]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("spoken") / "sentences.txt"
    file.write_text("\n".join([*LINES, "short", "9" * 40, LINES[0], "x" * 500]), "utf-8")
    return file


@pytest.fixture(scope="module")
def train(file: Path) -> SpokenWorld:
    return SpokenWorld(str(file)).prepare()


def test_parts_share_no_sentence(train: SpokenWorld) -> None:
    parts = [train.of_part(part).texts for part in ("train", "validation", "test")]
    assert [len(part) for part in parts] == [20, 2, 2]
    assert sorted(text for part in parts for text in part) == sorted(LINES)
    assert isinstance(train, MadeSource) and train.column("text") == train.texts
    assert SpokenWorld(train.sentences, seed=1).texts != train.texts


def test_the_packages_have_sentences_of_usual_length() -> None:
    world = SpokenWorld()
    assert len(world) > 20_000 and len(world.of_part("test")) == 1_000
    assert all(20 <= len(text) <= 120 for text in world.texts)
    assert isinstance(open_source("world:spoken"), SpokenWorld)


def test_a_row_says_a_part_of_a_sentence_and_when_each_word_begins(train: SpokenWorld) -> None:
    counts = set()
    for seed, index in enumerate([*range(len(train))] * 3):
        row = train.row(index, np.random.default_rng(seed))
        wave, rate = row["audio"]
        assert row["text"] in train.texts[index] and rate == 16_000
        seconds = [second for second, _ in row["words"]]
        assert seconds == sorted(seconds) and 0 <= seconds[0] < 0.2 and seconds[-1] < len(wave) / rate
        spelled = [word.strip(string.punctuation) for word in row["text"].split()]
        assert set(word for _, word in row["words"]) <= set(spelled) and row["words"][0][1] == spelled[0]
        assert 0.1 < len(wave) / rate / len(spelled) < 1.5
        counts.add(len(spelled))
    assert min(counts) <= 2 and max(counts) == max(len(text.split()) for text in train.texts)


def test_words_begin_where_their_sound_does(train: SpokenWorld) -> None:
    """Cut there, the first word sounds as if it was said alone: the same length, about, and a pause is no part."""
    take = train._take(0)
    words = train.texts[0].split()
    lengths = dict(zip(take.words.tolist(), np.diff([*take.begins, len(take.clip)]).tolist(), strict=True))
    animal = next(i for i, word in enumerate(words) if word.endswith("s"))
    assert lengths[animal] > 1.3 * lengths[words.index("in")]  # "tigers" is longer than "in"


def test_variation_moves_the_words_with_the_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    clicks = np.zeros(16_000, dtype=np.float32)
    clicks[[2_000, 9_000]] = 1.0
    for seed in range(20):
        wave, speed, lead = waveforms.vary_timed(clicks, np.random.default_rng(seed), 1.0)
        same = waveforms.vary(clicks, np.random.default_rng(seed), 1.0)
        np.testing.assert_array_equal(wave, same)
        for place in (2_000, 9_000):
            at = round(place / speed + lead)
            assert np.abs(wave[at - 2 : at + 3]).max() > 0.4 * np.abs(wave).max()


def test_rows_to_judge_by_are_whole_and_always_the_same(train: SpokenWorld) -> None:
    test = train.of_part("test")
    first, again = (test.row(0, np.random.default_rng(seed), strength) for seed, strength in ((0, 1.0), (9, 0.0)))
    assert first["text"] == test.texts[0]
    np.testing.assert_array_equal(first["audio"][0], again["audio"][0])


def test_parts_speak_with_their_own_voices(train: SpokenWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    say = espeak.synthesize_words
    monkeypatch.setattr(
        espeak, "synthesize_words", lambda text, voice, **how: said.append(voice) or say(text, voice, **how)
    )
    for part in ("train", "test"):
        said.clear()
        world = train.of_part(part)
        for index in range(len(world)):
            world._say(index, np.random.default_rng(index))
        assert {voice.split("+")[1] for voice in said} <= set(espeak.split_voices()[part])


def test_three_synthesizers_speak_in_training(train: SpokenWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    def noted(name: str, say: Any) -> Any:
        return lambda *given, **more: said.append(name) or say(*given, **more)

    for module, name in ((neural, "synthesize_words"), (pico, "say"), (espeak, "say_words")):
        monkeypatch.setattr(module, name, noted(name, getattr(module, name)))
    for seed in range(60):
        take = train._say(seed % len(train), np.random.default_rng(seed))
        assert (np.diff([*take.begins, len(take.clip)]) > 0).all()
    assert 12 < said.count("synthesize_words") < 36 and 8 < said.count("say") < 28
    assert len(said) == 60 + said.count("say")  # of what Pico says espeak-ng tells when its words begin
    asked = next(seed for seed in range(99) if 0.45 < np.random.default_rng(seed).random() < 0.65)
    monkeypatch.setattr(pico, "synthesize", lambda *_, **__: espeak.synthesize("", "en"))  # which raises
    assert len(train._say(0, np.random.default_rng(asked)).words) > 3 and said[-2:] == ["say_words", "say"]
    said.clear()
    test = train.of_part("test")
    assert [test._say(0, np.random.default_rng(seed)) for seed in range(20)] and {*said} == {"say_words"}


def test_a_pickle_holds_settings_only(train: SpokenWorld) -> None:
    assert len(pickle.dumps(train)) < 1_000 and pickle.loads(pickle.dumps(train)) == train


@pytest.mark.parametrize(("settings", "says"), [
    ({"part": "dev"}, "no part 'dev'; it has: train, validation, test"),
    ({"sentences": "nowhere.txt"}, "nowhere.txt cannot be read"),
    ({"sentences": "{empty}"}, "has too few sentences"),
])  # fmt: skip
def test_wrong_settings(settings: dict[str, Any], says: str, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("no\n", "utf-8")
    given = {name: value.format(empty=tmp_path / "empty.txt") for name, value in settings.items()}
    with pytest.raises(UnitxError, match=says):
        SpokenWorld(**given)


def test_without_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(spoken, "files", missing)
    with pytest.raises(UnitxError, match=r"unitx-toolkit\[hear\]"):
        SpokenWorld()


def test_sound_has_no_column(train: SpokenWorld) -> None:
    with pytest.raises(UnitxError, match="made anew"):
        train.column("audio")
