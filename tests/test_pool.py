"""The space of a published model: it stays, and sound learns it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_sentence_transformers import folder_of

import unitx
from unitx.augment import Augment
from unitx.errors import UnitxError
from unitx.model import Model
from unitx.recipe import Recipe, TaskRecipe
from unitx.task import TaskInfo
from unitx.tasks.pool import Pool

WORDS = ["sea", "bread", "winter", "music", "tiger", "stone", "letter", "engine"]
RATE = 16_000
WORD = TaskRecipe("pool", reads="text", label="label")


def tones(count: int, seed: int) -> list[dict[str, Any]]:
    """A word, and a tone that stands for it, of any phase and loudness."""
    rng = np.random.default_rng(seed)
    time = np.arange(RATE // 4) / RATE
    rows = []
    for i in range(count):
        pitch = 200 * 1.5 ** (i % len(WORDS))
        wave = rng.uniform(0.2, 0.9) * np.sin(2 * np.pi * (pitch * time + rng.random()))
        rows.append({"text": WORDS[i % len(WORDS)], "audio": (wave.astype(np.float32), RATE)})
    return rows


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published model of sentences, small and drawn."""
    return folder_of("bert", tmp_path_factory.mktemp("published") / "model")


def learn(base: Path, out: Path, recipe: str | Recipe = "align", **given: Any) -> unitx.Run:
    settings = {
        "data": tones(256, 0), "test": tones(64, 1), "reads": "text,audio", "freeze": "text", "tune": "lora",
        "steps": 40, "evaluations": 1, "workers": 0, "echo": False, "augment": "none", "batch_tokens": 512,
        "tokenizers.audio": {"max_tokens": 8}, **given,
    }  # fmt: skip
    return unitx.finetune(base, recipe, out=str(out), **settings)


def test_sound_learns_the_space_of_a_model_of_texts(base: Path, tmp_path: Path) -> None:
    run = learn(base, tmp_path / "run")
    assert run.metrics["pooled/recall@1"] > 0.9
    before, after = Model.from_pretrained(base, "cpu"), Model.from_pretrained(run.folder, "cpu")
    texts = [*WORDS, "a sentence that no one has trained on"]
    np.testing.assert_array_equal(before.embed(texts, "text"), after.embed(texts, "text"))
    heard = after.embed([row["audio"] for row in tones(32, 2)], "audio")
    nearest = (heard @ after.embed(WORDS, "text").T).argmax(1)
    assert (nearest == np.arange(32) % len(WORDS)).mean() > 0.9
    index = unitx.Index(tmp_path / "index.parquet")  # made before the model could hear, and asked by sound
    index.add(before, WORDS, modality="text")
    (hit,) = index.search(after, tones(4, 3)[3]["audio"], top=1, modality="audio")
    assert hit.item == WORDS[3]


def two_tones(count: int, seed: int) -> list[dict[str, Any]]:
    """Two words, their tones one after the other, and when each begins."""
    rng, single = np.random.default_rng(seed), tones(8, seed)
    rows = []
    for _ in range(count):
        pair = [single[i] for i in rng.integers(0, len(WORDS), 2)]
        pause = np.zeros(int(rng.integers(0, RATE // 5)), dtype=np.float32)
        waves = [pair[0]["audio"][0], pause, pair[1]["audio"][0]]
        begins = [0.0, len(waves[0]) / RATE, (len(waves[0]) + len(pause)) / RATE]
        words = list(zip(begins, [pair[0]["text"], "", pair[1]["text"]], strict=True))
        text = f"{pair[0]['text']} {pair[1]['text']}"
        rows.append({"text": text, "audio": (np.concatenate(waves), RATE), "words": words})
    return rows


def test_words_at_their_times_are_told_apart(base: Path, tmp_path: Path) -> None:
    recipe = Recipe(tasks={"hear": TaskRecipe("pool", options={"words": "words"})})
    run = learn(base, tmp_path / "run", recipe, data=two_tones(512, 0), test=two_tones(64, 1), steps=60)
    last = [line for line in run.history if "pooled/words" in line][-1]
    assert last["pooled/words"] > 0.8  # of the tokens in which one of eight is heard
    plain = learn(base, tmp_path / "plain", data=two_tones(512, 0), test=two_tones(64, 1), steps=1)
    assert not any("pooled/words" in line for line in plain.history)


def test_a_sound_whose_words_are_told_is_not_played_faster() -> None:
    info = TaskInfo("hear", "pool", {"text": "text", "audio": "audio"}, options={"words": "words"})
    wave = np.random.default_rng(0).normal(size=RATE).astype(np.float32)
    row = {"text": "a b", "audio": (wave, RATE), "words": [[0.0, "a"], [0.9, "b"]]}
    for told, length in [(row, [RATE]), ({**row, "words": None}, range(1, RATE))]:
        example = Pool.examples(info, told)[1]
        _, ((_, varied),) = Pool.vary(example, [("audio", wave)], Augment("strong"), np.random.default_rng(1), 1.0)
        assert len(varied) in length


def test_a_row_whose_words_are_none_is_left_out_and_named(base: Path, tmp_path: Path) -> None:
    recipe = Recipe(tasks={"hear": TaskRecipe("pool", options={"words": "words"})})
    rows = two_tones(256, 0)
    rows[3]["words"] = "sea bread"
    run = learn(base, tmp_path / "run", recipe, data=rows, test=two_tones(16, 1), steps=4)
    assert run.metrics  # 255 rows were enough
    rows = [{**row, "words": "sea bread"} for row in rows]
    with pytest.raises(UnitxError, match="sea bread is no list of words"):
        learn(base, tmp_path / "none", recipe, data=rows, test=two_tones(16, 1), steps=1)
    recipe = Recipe(tasks={"hear": TaskRecipe("pool", options={"words": "wrods"})})
    with pytest.raises(UnitxError, match=r"words 'wrods' must be a column \(the data have text, audio, words\)"):
        learn(base, tmp_path / "none", recipe, data=two_tones(256, 0), test=two_tones(16, 1), steps=1)


def test_what_has_learned_the_space_can_learn_it_further(base: Path, tmp_path: Path) -> None:
    first = learn(base, tmp_path / "first", steps=4)
    recipe = Recipe(tasks={"pooled": TaskRecipe("pool")})
    then = learn(tmp_path / "first", tmp_path / "then", recipe, **{"tokenizers.audio": {}})
    before, after = Model.from_pretrained(first.folder, "cpu"), Model.from_pretrained(then.folder, "cpu")
    np.testing.assert_array_equal(before.embed(WORDS, "text"), after.embed(WORDS, "text"))
    old, new = before.state_dict(), after.state_dict()
    changed = {name for name in new if not torch.equal(old[name], new[name])}
    assert {name.split(".")[0] for name in changed} == {"tokenizers", "backbone", "heads"}
    assert all("lora" in name for name in changed if name.startswith("backbone"))
    assert all("audio" in name for name in changed if not name.startswith("backbone"))
    assert then.metrics["pooled/recall@1"] > max(0.9, first.metrics["pooled/recall@1"])


def test_it_goes_on_from_a_checkpoint(base: Path, tmp_path: Path) -> None:
    rows = tones(128, 0)
    run = learn(base, tmp_path / "run", data=rows, steps=4, checkpoint_every=2)
    shutil.rmtree(run.folder / "checkpoints" / "step-4")
    again = unitx.resume(run.folder, echo=False, data=rows, test=tones(64, 1))
    assert again.metrics == run.metrics


@pytest.mark.parametrize(("given", "says"), [
    ({"reads": "text"}, "is the space of a published model"),
    ({"label": "text"}, "is the space of a published model"),
])  # fmt: skip
def test_what_cannot_learn_a_space_is_named(given: dict[str, Any], says: str, base: Path, tmp_path: Path) -> None:
    with pytest.raises(UnitxError, match=says):
        learn(base, tmp_path / "run", **given)


def test_a_pool_is_not_trained_by_itself(tmp_path: Path) -> None:
    rows = [{"text": f"{word} {i}", "label": word} for word in WORDS for i in range(8)]
    with pytest.raises(UnitxError, match="is the space of a published model, which another modality can learn"):
        unitx.train(
            Recipe(tasks={"words": WORD}), data=rows, holdout=0.0, steps=1, out=str(tmp_path / "run"), echo=False
        )


def test_a_sequence_of_both_is_pooled_as_it_is(base: Path, tmp_path: Path) -> None:
    run = learn(base, tmp_path / "run", steps=1, data=tones(128, 0))
    wave = tones(1, 5)[0]["audio"]
    both = run.model.embed([{"text": "sea", "audio": wave}], normalize=False)
    states = run.model.hidden_states([{"text": "sea", "audio": wave}])[0]
    np.testing.assert_allclose(both[0], torch.nn.functional.normalize(states.mean(0), dim=0), atol=1e-5)
