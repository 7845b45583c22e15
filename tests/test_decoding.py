"""Drawing and beam search behind any prefix, against brute force and against running without a cache."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_models import CAPTION, picture, small_model

from unitx.decoding import LENGTH_PENALTY, Growing, Sampler, beam_search, draw_texts, write
from unitx.tokens import Pieces, Prepared, collate, line_positions
from unitx.writing import begun

END = 0


class Markov:
    """Sequences whose next id depends on the last one alone: what `Growing` is to the search."""

    def __init__(self, table, starts):
        self.table, self.last = table, torch.tensor(starts)

    @property
    def vectors(self):
        return self.table[self.last]

    def select(self, rows):
        self.last = self.last[rows]

    def append(self, ids):
        self.last = ids


def best_by_brute_force(table, start, length):
    """All texts of at most `length` ids, ended or cut, by log-probability over length^0.6."""
    logs, found = table.log_softmax(-1), []
    for n in range(1, length + 1):
        for ids in itertools.product(range(len(table)), repeat=n):
            if END in ids[:-1] or (ids[-1] != END and n < length):
                continue
            path = [start, *ids]
            score = sum(logs[a, b].item() for a, b in itertools.pairwise(path))
            found.append(([i for i in ids if i != END], score, score / n**LENGTH_PENALTY))
    return sorted(found, key=lambda each: -each[2])


@pytest.mark.parametrize("seed", range(5))
def test_a_wide_beam_finds_what_brute_force_finds(seed):
    table = torch.randn(4, 4, generator=torch.Generator().manual_seed(seed)) * 2
    found = beam_search(Markov(table, [1, 3]), lambda vectors: vectors, beams=200, ends=[END], max_tokens=4)
    for start, beams in zip([1, 3], found, strict=True):
        expected = best_by_brute_force(table, start, 4)
        # Some are equally likely, so their order is compared by its scores, the texts as a whole.
        assert [beam.score for beam in beams] == pytest.approx([score for _, score, _ in expected], abs=1e-4)
        scores = {tuple(ids): score for ids, score, _ in expected}
        assert {tuple(beam.ids): beam.score for beam in beams} == pytest.approx(scores, abs=1e-4)
        assert sum(math.exp(beam.score) for beam in beams) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_all_ends_end_one_text(seed):
    """As if there were one, as probable as all together."""
    logs = (torch.randn(5, 5, generator=torch.Generator().manual_seed(seed)) * 2).log_softmax(-1)
    one = logs.clone()
    one[:, END], one[:, 4] = logs[:, [END, 4]].logsumexp(-1), -torch.inf
    (found,) = beam_search(Markov(logs, [1]), lambda vectors: vectors, beams=6, ends=[END, 4], max_tokens=4)
    (expected,) = beam_search(Markov(one, [1]), lambda vectors: vectors, beams=6, ends=[END], max_tokens=4)
    assert [beam.ids for beam in found] == [beam.ids for beam in expected]
    assert [beam.score for beam in found] == pytest.approx([beam.score for beam in expected], abs=1e-5)


def test_one_beam_takes_the_likeliest_each_time():
    table = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    table[:, END] = -9.0
    ((beam,),) = beam_search(Markov(table, [2]), lambda vectors: vectors, beams=1, ends=[END], max_tokens=7)
    last, expected = 2, []
    for _ in range(7):
        last = int(table[last].argmax())
        expected.append(last)
    assert beam.ids == expected


def test_a_narrow_beam_is_never_better_than_a_wide_one():
    table = torch.randn(8, 8, generator=torch.Generator().manual_seed(3)) * 2
    best = []
    for beams in (1, 2, 4, 64):
        ((first, *_),) = beam_search(Markov(table, [5]), lambda v: v, beams=beams, ends=[END], max_tokens=5)
        best.append(first.score / (len(first.ids) + 1) ** LENGTH_PENALTY)
    assert best[-1] >= max(best) - 1e-6


def asked_of(model, count):
    """Pictures of several sizes, and the begin of a text behind each."""
    processors = model.processors
    pictures = [picture(i, 4 * (1 + i % 2), 4 * (1 + i % 3)) for i in range(count)]
    parts = [[("image", processors["image"].prepare(each))] for each in pictures]
    return [begun(part, processors["text"]) for part in parts]


@pytest.mark.parametrize("positions", [0, 12])
def test_the_cache_gives_what_whole_sequences_give(positions):
    model = small_model(CAPTION, positions=positions)
    asked = asked_of(model, 5)
    with torch.inference_mode():
        growing = Growing(model, asked, room=6)
        said = [[] for _ in asked]
        for step in range(6):
            whole = [whole_sequence(model, sequence, ids) for sequence, ids in zip(asked, said, strict=True)]
            torch.testing.assert_close(growing.vectors, torch.stack(whole), atol=2e-5, rtol=1e-4)
            ids = torch.tensor([(7 * step + 13 * i) % 200 for i in range(len(asked))])
            for of_one, token in zip(said, ids.tolist(), strict=True):
                of_one.append(token)
            if step == 2:  # go on with some of them, one twice
                rows = torch.tensor([4, 1, 1])
                growing.select(rows)
                asked, said = [asked[i] for i in rows], [list(said[i]) for i in rows]
                ids = ids[rows]
            growing.append(ids)


def test_a_text_may_be_as_long_as_positions_go():
    model = small_model(replace(CAPTION, facts={"longest": 40}), positions=12)
    head = model.head("caption")
    with torch.no_grad():
        head.head.weight[model.processors["text"].eos] = -100 * head.head.weight.abs().amax(0)  # it never ends
    ((found, *_),) = write(model, head, asked_of(model, 1), beams=2)
    (drawn,) = draw_texts(model, head, asked_of(model, 1), 12, Sampler(0, None, None, 0, model.device))
    assert found.label and drawn


def whole_sequence(model, sequence, ids):
    """The backbone's output at the last token, all at once."""
    written = np.array([*sequence.parts[-1][1].values, *ids])
    text = ("text", Pieces(written, line_positions(len(written))))
    prepared = Prepared([*sequence.parts[:-1], text], prefix_parts=len(sequence.parts) - 1)
    return model.encode(collate([prepared], model.modalities)).vectors[-1]


def test_texts_come_in_the_order_of_the_items_whatever_the_batches():
    model = small_model(CAPTION)
    asked, head = asked_of(model, 7), model.head("caption")
    whole = write(model, head, asked, beams=3)
    alone = [write(model, head, [one], beams=3)[0] for one in asked]
    small = write(model, head, asked, beams=3, batch_tokens=30)
    for a, b, c in zip(whole, alone, small, strict=True):
        assert [text for text, _ in a] == [text for text, _ in b] == [text for text, _ in c]
        np.testing.assert_allclose([p for _, p in a], [p for _, p in b], rtol=1e-3)
    assert all(len(found) == 3 for found in whole)
