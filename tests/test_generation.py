from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from small_models import CLASSES, STORIES, batch_of, small_model

from unitx.config import BackboneConfig
from unitx.errors import UnitxError
from unitx.generation import Sampler
from unitx.model import Model
from unitx.task import TaskInfo
from unitx.tokenizers.text import train_sentencepiece

PROMPTS = ["Once upon a", "", "the", "x", "été"]
SHAPES = [
    BackboneConfig(dim=32, depth=2, heads=2),
    BackboneConfig(dim=32, depth=2, heads=4, kv_heads=2, window=4),
]


def storyteller(shape: BackboneConfig = SHAPES[0], seed: int = 0, **text: Any) -> Model:
    return small_model(STORIES, seed=seed, shape=shape, **{"max_tokens": 64, **text})


@torch.no_grad()
def recomputed(model: Model, prompt: str, count: int) -> str:
    """The likeliest continuation, with the whole text through the model for every token."""
    text = model.processors["text"]
    ids = text.features(prompt)[:-1].tolist()
    begin = len(ids)
    while len(ids) < begin + count:
        states = model.encode(batch_of(model, [("stories", {"text": torch.tensor(ids)})])).vectors
        ids.append(int(model.heads["stories"].next_logits(states[-1:]).argmax()))
        if ids[-1] == text.eos:
            break
    return text.decode(ids[begin:])


@pytest.mark.parametrize("shape", SHAPES)
def test_the_cache_gives_what_recomputing_gives(shape: BackboneConfig) -> None:
    for seed in (0, 1):
        model = storyteller(shape, seed)
        expected = [recomputed(model, prompt, 20) for prompt in PROMPTS]
        assert model.generate(PROMPTS, temperature=0, max_tokens=20) == expected
        assert len(set(expected)) > 1 and any(expected)


def test_a_trained_vocabulary_continues_its_prompts() -> None:
    spm = train_sentencepiece(["once upon a time there was a tree in the garden"] * 5, 320)
    model = storyteller(vocabulary="sentencepiece", spm=spm)
    expected = [recomputed(model, prompt, 12) for prompt in PROMPTS]
    assert model.generate(PROMPTS, temperature=0, max_tokens=12) == expected and any(expected)


@pytest.mark.parametrize("options", [{"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-4}])
def test_the_narrowest_draw_is_the_likeliest(options: dict[str, Any]) -> None:
    model = storyteller()
    greedy = model.generate(PROMPTS, temperature=0, max_tokens=15)
    assert model.generate(PROMPTS, max_tokens=15, seed=3, **options) == greedy


def test_without_chance_a_continuation_does_not_depend_on_the_others() -> None:
    model = storyteller()
    together = model.generate(PROMPTS, temperature=0, max_tokens=15)
    assert together == [model.generate([prompt], temperature=0, max_tokens=15)[0] for prompt in PROMPTS]
    assert model.generate((p for p in reversed(PROMPTS)), temperature=0, max_tokens=15) == together[::-1]


def test_the_seed_repeats_a_draw() -> None:
    model = storyteller()
    first = model.generate(PROMPTS, seed=1)
    assert model.generate(PROMPTS, seed=1) == first != model.generate(PROMPTS, seed=2)
    assert model.generate(PROMPTS) != model.generate(PROMPTS)


def test_stop_strings_end_a_text_and_are_left_out() -> None:
    model = storyteller()
    (whole,) = model.generate(["Once"], temperature=0, max_tokens=40)
    assert len(whole) > 8
    stop = whole[4:6]
    assert model.generate(["Once"], temperature=0, max_tokens=40, stop=stop) == [whole[: whole.index(stop)]]
    both = ["never found", whole[7], whole[5:7]]
    assert model.generate(["Once"], temperature=0, max_tokens=40, stop=both) == [
        whole[: min(whole.index(s) for s in both[1:])]
    ]
    assert model.generate(["Once"], temperature=0, max_tokens=40, stop="never found") == [whole]


def spell(monkeypatch: pytest.MonkeyPatch, *texts: list[int]) -> None:
    """Let the draws give these ids, a list a prompt."""
    draws = iter(zip(*texts, strict=True))
    monkeypatch.setattr(Sampler, "__call__", lambda self, logits: torch.tensor(next(draws)))


def test_the_end_of_a_text_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    bos, eos = 256, 257
    spell(monkeypatch, [*b"ab", eos, *b"c"], [eos, *b"xyz"], [*b"\xc3\xa9", bos, *b"!"])
    assert storyteller().generate(["1", "22", "333"], max_tokens=4) == ["ab", "", "é!"]


@pytest.mark.parametrize("count", [0, 1, 7])
def test_max_tokens_is_how_many_are_added(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    spell(monkeypatch, [*b"abcdefg"][:count] or [0], [*b"ABCDEFG"][:count] or [0])
    expected = ["abcdefg"[:count], "ABCDEFG"[:count]]
    assert storyteller().generate(["1", "22"], max_tokens=count) == expected


def test_adapters_and_other_tasks_are_taken_into_account() -> None:
    model = small_model(CLASSES, STORIES, max_tokens=64)
    plain = model.generate(PROMPTS, temperature=0, max_tokens=10)
    for frozen in (["text"], ["image"]):
        adapted = small_model(CLASSES, STORIES, max_tokens=64)
        adapted.add_adapters(frozen)
        for name, p in adapted.backbone.named_parameters():
            if name.endswith(".lora_B"):
                torch.nn.init.normal_(p.data)
        assert (adapted.generate(PROMPTS, temperature=0, max_tokens=10) == plain) == (frozen == ["text"])
        assert adapted.generate(PROMPTS, temperature=0, max_tokens=10) == [
            recomputed(adapted, prompt, 10) for prompt in PROMPTS
        ]


def test_the_mode_of_the_model_is_restored() -> None:
    model = storyteller().train()
    model.generate(["a"], max_tokens=2)
    assert model.training and model.backbone.training


def logits(n: int = 6, vocabulary: int = 12) -> torch.Tensor:
    return torch.randn(n, vocabulary) * 2


def sampler(temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None) -> Sampler:
    return Sampler(temperature, top_k, top_p, 0, torch.device("cpu"))


@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 1.0])
def test_the_nucleus_is_the_smallest_set_that_reaches_top_p(top_p: float) -> None:
    scores = logits()
    for row, found in zip(scores.softmax(-1).tolist(), sampler(top_p=top_p).probabilities(scores), strict=True):
        chosen: list[int] = []
        for i in sorted(range(12), key=lambda i: -row[i]):
            if sum(row[j] for j in chosen) < top_p - 1e-7:
                chosen.append(i)
        assert found.nonzero()[:, 0].tolist() == sorted(chosen)
        whole = sum(row[i] for i in chosen)
        torch.testing.assert_close(found, torch.tensor([row[i] / whole if i in chosen else 0.0 for i in range(12)]))


@pytest.mark.parametrize("top_k", [1, 3, 12, 50])
def test_top_k_leaves_exactly_k(top_k: int) -> None:
    scores = logits()
    for row, found in zip(scores, sampler(top_k=top_k).probabilities(scores), strict=True):
        best = row.argsort(descending=True)[:top_k]
        torch.testing.assert_close(found, torch.zeros(12).index_add(0, best, row[best].softmax(0)))
    assert (sampler(top_k=top_k).probabilities(torch.zeros(2, 12)) > 0).sum(1).tolist() == [min(top_k, 12)] * 2


def test_temperature_sharpens_and_both_limits_hold_at_once() -> None:
    scores = logits()
    torch.testing.assert_close(sampler(0.5).probabilities(scores), (scores * 2).softmax(-1))
    both = sampler(2.0, top_k=4, top_p=0.6).probabilities(scores) > 0
    assert torch.equal(both, sampler(1.0, top_p=0.6).probabilities(
        (scores / 2).masked_fill(sampler(2.0, top_k=4).probabilities(scores) == 0, -torch.inf)) > 0)  # fmt: skip


def test_draws_follow_the_distribution() -> None:
    scores = torch.tensor([[0.1, 0.2, 0.7, 0.0]]).log().repeat(20_000, 1)
    counts = Counter(sampler()(scores).tolist())
    assert [counts[i] / 20_000 for i in range(4)] == pytest.approx([0.1, 0.2, 0.7, 0.0], abs=0.02)


@pytest.mark.parametrize(
    "arguments, says",
    [
        ({"temperature": -1}, "temperature must be at least 0"),
        ({"top_k": 0}, "top_k at least 1"),
        ({"top_p": 0.0}, "top_p above 0"),
        ({"top_p": 1.5}, "top_p above 0 and at most 1"),
        ({"max_tokens": -1}, "max_tokens is -1"),
        ({"prompts": "Once"}, r"give a list of prompts, not one: \['Once'\]"),
        ({"task": "tales"}, "has no task 'tales'; it has: stories"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(UnitxError, match=says):
        storyteller().generate(**{"prompts": ["a"], **arguments})


def test_only_language_models_generate() -> None:
    with pytest.raises(UnitxError, match="has no task that generates; its tasks are: kind"):
        small_model(CLASSES).generate(["a"])
    with pytest.raises(UnitxError, match=r"task 'kind' \(classify\) does not generate text"):
        small_model(CLASSES, STORIES).generate(["a"], "kind")
    two = small_model(STORIES, replace(STORIES, name="tales"))
    with pytest.raises(UnitxError, match=r"2 tasks of the model .*; say which, task= \(stories, tales\)"):
        two.generate(["a"])
    assert storyteller().generate([]) == []


def test_a_task_named_by_another_column_still_continues_text() -> None:
    info = TaskInfo("tales", "next_token", {"body": "text"})
    model = small_model(info)
    assert len(model.generate(["a"], max_tokens=3, temperature=0)) == 1
