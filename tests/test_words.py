"""Words at their times."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from small_models import small_model

from unitx.errors import BadItem
from unitx.tokens import Layout, Tokens
from unitx.words import Heard, Said, Words, heard_words, parse_words, word_contrast, word_vectors

STEP = 0.08  # seconds


def layout_of(lengths: list[int], bands: int = 1) -> Layout:
    """Sequences of `bands` tokens a step, as patches of a spectrogram stand."""
    places = [np.repeat(np.arange(n)[:, None] // bands, 3, axis=1) for n in lengths]
    return Tokens.from_list([torch.zeros(n, 2) for n in lengths], positions=places).layout


def encode(word: str) -> np.ndarray:
    """As a vocabulary that does not tell capitals."""
    return np.frombuffer(word.lower().encode(), dtype=np.uint8)


@pytest.mark.parametrize("bands", [1, 2])
def test_a_token_hears_the_word_that_its_middle_is_in(bands: int) -> None:
    rng = np.random.default_rng(bands)
    layout = layout_of([6, 8, 8, 14], bands)
    said = []
    for row in (0, 1, 3):
        begins = np.sort(rng.uniform(-0.1, 0.6, 4))
        said.append(Said(row, [(b, str(rng.choice(["sea", "Sea", "tiger", ""]))) for b in begins.tolist()], STEP))
    heard = heard_words(layout, said, encode)
    names = [ids.tobytes().decode() for ids in heard.ids]
    found = {p: names[w] for p, w in zip(heard.places.tolist(), heard.words.tolist(), strict=True)}
    expected, share = {}, {}
    for row, words, seconds in said:
        first = sum(layout.lengths[:row])
        mine = {}
        for i in range(layout.lengths[row]):
            middle = (i // bands + 0.5) * seconds
            begun = [word for second, word in words if second <= middle]
            if begun and begun[-1]:
                mine[first + i] = begun[-1].lower()
        expected |= mine
        share |= {place: 1 / len(mine) for place in mine}
    assert found == expected and sorted(names) == ["sea", "tiger"]
    np.testing.assert_allclose(heard.share, [share[place] for place in heard.places.tolist()], rtol=1e-6)


def test_nothing_said_is_nothing_heard() -> None:
    for said in ([Said(0, [(0.0, "")], STEP)], []):
        heard = heard_words(layout_of([3]), said, encode)
        assert not len(heard.places) and not heard.ids


def test_the_loss_is_that_of_a_plain_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    layout = layout_of([3, 5])
    tokens = Tokens(torch.zeros(8, 4), layout, embedded=torch.randn(8, 4, generator=generator).bfloat16())
    vectors = torch.randn(3, 4, generator=generator)
    heard = Heard(torch.tensor([0, 2, 4, 7]), torch.tensor([1, 0, 2, 2]), torch.tensor([0.5, 0.5, 0.5, 0.5]), [])
    loss, right = word_contrast(tokens, heard, vectors, temperature=0.1)
    expected, hits = 0.0, 0.0
    middle = vectors.mean(0)
    for place, word, share in zip(heard.places, heard.words, heard.share, strict=True):
        x = tokens.embedded[place].float() - middle
        cosines = [float(torch.cosine_similarity(x, v - middle, dim=0)) / 0.1 for v in vectors]
        expected += float(share) * (math.log(sum(map(math.exp, cosines))) - cosines[word])
        hits += float(share) * (int(np.argmax(cosines)) == int(word))
    assert float(loss) == pytest.approx(expected, rel=1e-4) and float(right) == pytest.approx(hits)


def test_vectors_are_what_the_tokenizer_gives_for_the_word_alone() -> None:
    model = small_model()
    tokenizer: Any = model.tokenizers["text"]
    words = [tokenizer.processor.encode(word) for word in ("sea", "I", "hippopotamus")]
    found = word_vectors(tokenizer, words, torch.device("cpu"))
    for ids, vector in zip(words, found, strict=True):
        torch.testing.assert_close(vector, tokenizer(torch.from_numpy(ids), [len(ids)]).mean(0))
    assert not found.requires_grad


@pytest.mark.parametrize(("cell", "words"), [
    (None, []), ([[0, "a"], (0.5, "b")], [(0.0, "a"), (0.5, "b")]), (np.array([[0.25, 7]]), [(0.25, "7.0")]),
])  # fmt: skip
def test_words_of_a_cell(cell: Any, words: Words) -> None:
    assert parse_words(cell) == words


@pytest.mark.parametrize(("cell", "says"), [
    ("the sea", r"no list of words: give \[\[second, word\]"),
    ([[0.0, "a", "b"]], "no list of words"),
    ([["a", 0.0]], "no list of words"),
    (7, "no list of words"),
    ([[0.5, "a"], [0.2, "b"]], "in the order of their seconds"),
    ([[float("nan"), "a"]], "in the order of their seconds"),
    ([[-1, "a"]], "from 0 on"),
])  # fmt: skip
def test_other_cells_are_named(cell: Any, says: str) -> None:
    with pytest.raises(BadItem, match=says):
        parse_words(cell)
