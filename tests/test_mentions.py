"""Mentions: spans name what they say, written and spoken, and the parts share no speaker and no beginning."""

from __future__ import annotations

import pickle
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from unitx.data import open_source
from unitx.errors import UnitxError
from unitx.source import MadeSource
from unitx.worlds import espeak, waveforms
from unitx.worlds.emoji import HUNDRED, KINDS, name_of
from unitx.worlds.mentions import PHRASES, MentionWorld

WORLD = MentionWorld(concepts=20, part="test")
KIND_OF = {name_of(emoji, language): kind for kind, group in KINDS.items() for emoji in group for language in PHRASES}


def test_every_emoji_is_of_one_kind() -> None:
    assert [emoji for group in KINDS.values() for emoji in group] == HUNDRED and len(set(HUNDRED)) == 100


def test_a_row_is_the_same_each_time_and_in_another_process() -> None:
    again = pickle.loads(pickle.dumps(WORLD))
    assert len(pickle.dumps(WORLD)) < 1_000 and isinstance(open_source("world:mentions"), MadeSource)
    for index in range(4):
        first, second = (world.row(index, np.random.default_rng(seed)) for seed, world in enumerate((WORLD, again)))
        assert first["tags"] == second["tags"] and first["text"] == second["text"]
        assert (first["text"] is None) == (index % 2 == 1) == (first["audio"] is not None)
        if first["audio"]:
            np.testing.assert_array_equal(first["audio"][0], second["audio"][0])


def test_spans_of_a_text_are_the_names_in_it() -> None:
    counts = set()
    for index in range(0, 200, 2):
        row = WORLD.row(index, np.random.default_rng(0))
        text, tags = row["text"], row["tags"]
        counts.add(len(tags))
        rest, last = "", 0
        for tag in tags:
            assert KIND_OF[text[tag["start"] : tag["end"]]] == tag["label"]
            rest, last = rest + text[last : tag["start"]] + "|", tag["end"]
        phrases = [part.strip() for part in (rest + text[last:]).split("|")]
        assert any(
            phrases[0] in begins and set(phrases[1:-1]) <= set(betweens) and phrases[-1] in ends
            for begins, betweens, ends in PHRASES.values()
        )
    assert counts == {2, 3}


def test_spans_of_a_sound_are_where_the_names_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Said again by themselves in the same voice, names last as long, about, as their spans."""
    heard: list[tuple[str, str, dict[str, Any]]] = []
    say = espeak.synthesize_words
    note = heard.append
    monkeypatch.setattr(
        espeak, "synthesize_words", lambda text, voice, **how: note((text, voice, how)) or say(text, voice, **how)
    )
    ratios = []
    for seed in range(30):
        heard.clear()
        take = WORLD._say(np.random.default_rng(seed))
        (text, voice, how), spans = heard[0], take.mentions
        (_, _, mentions) = WORLD.sentence(np.random.default_rng(seed))
        assert [kind for kind, _, _ in spans] == [kind for kind, _, _ in mentions]
        for (_, start, end), (_, begin, until) in zip(spans, mentions, strict=True):
            alone, rate = espeak.synthesize(text[begin:until], voice, **how)
            ratios.append((end - start) / waveforms.BANK_RATE / (len(alone) / rate))
        assert all(a[2] <= b[1] for a, b in pairwise(spans))
        assert 0 < spans[0][1] < spans[-1][2] <= len(take.clip)
    assert 0.8 < np.median(ratios) < 1.2 and np.mean(np.abs(np.log(ratios)) < 0.7) > 0.95


def test_spans_move_with_the_sound() -> None:
    row = WORLD.row(1, np.random.default_rng(0))
    wave, rate = row["audio"]
    assert rate == 16_000
    for before, tag in zip([{"end": 0.0}, *row["tags"]], row["tags"], strict=False):
        assert before["end"] <= tag["start"] < tag["end"] <= len(wave) / rate


def test_parts_share_no_beginning_and_no_speaker(monkeypatch: pytest.MonkeyPatch) -> None:
    beginnings, voices = {}, {}
    said: list[str] = []
    say = espeak.synthesize_words
    monkeypatch.setattr(
        espeak, "synthesize_words", lambda text, voice, **how: said.append(voice) or say(text, voice, **how)
    )
    for part in ("train", "validation", "test"):
        world = WORLD.of_part(part)
        rng = np.random.default_rng(1)
        beginnings[part] = set()
        for _ in range(400):
            text, language, mentions = world.sentence(rng)
            names = [world.names[language].index(text[a:b]) for _, a, b in mentions[:2]]
            beginnings[part].add(tuple(names))
        said.clear()
        for seed in range(12):
            world._say(np.random.default_rng(seed))
        voices[part] = {voice.split("+")[1] for voice in said}
        assert voices[part] <= set(espeak.split_voices()[part])
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        assert not beginnings[one] & beginnings[other] and not voices[one] & voices[other]
    assert len(beginnings["train"]) > 150 and len(beginnings["test"]) > 10


@pytest.mark.parametrize(("settings", "says"), [
    ({"part": "dev"}, "no part 'dev'; it has: train, validation, test"),
    ({"concepts": 4}, "20 to 100 concepts and 2 to 5 of them in a sentence, not 4 and 3"),
    ({"most": 9}, "not 100 and 9"),
])  # fmt: skip
def test_wrong_settings(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UnitxError, match=says):
        MentionWorld(**settings)
    with pytest.raises(UnitxError, match="made anew"):
        WORLD.column("tags")
