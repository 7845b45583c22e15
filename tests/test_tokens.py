from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from unitx.tokens import (
    NO_ID,
    Batch,
    Layout,
    Pieces,
    Prepared,
    Targets,
    Tokens,
    collate,
    line_positions,
    pack,
    segment_mean,
    visible,
)

MODALITIES = ["audio", "image", "text"]


def sees(i: int, j: int, prefix: int, window: int | None) -> bool:
    """The rule of docs/design.md in words: the prefix sees itself, later tokens the prefix and what came before."""
    both_in_prefix = i < prefix and j < prefix
    return (both_in_prefix or j <= i) and (window is None or abs(i - j) <= window)


def text(ids: list[int]) -> Pieces:
    return Pieces(np.array(ids), line_positions(len(ids)))


def image(rows: int, columns: int, first: float) -> Pieces:
    """rows · columns patches of two features and a class token before them: one token more than pieces."""
    n = rows * columns
    grid = [(0, 0, 0)] + [(0, r, c) for r in range(rows) for c in range(columns)]
    return Pieces(np.arange(first, first + 2 * n, dtype=np.float32).reshape(n, 2), np.array(grid))


def audio(frames: int, first: float) -> Pieces:
    values = first + np.arange(3 * frames, dtype=np.float32).reshape(frames, 3)
    return Pieces(values, np.array([(t, t + 5, t) for t in range(frames)]))


MAKE: dict[str, Callable[[int, int], Pieces]] = {
    "text": lambda n, k: text(list(range(100 * k, 100 * k + n))),
    "image": lambda n, k: image(n, 2, 1000 + 10 * k),
    "audio": lambda n, k: audio(n, -1000 - 10 * k),
}


@st.composite
def prepared(draw: st.DrawFn) -> list[Prepared]:
    """Sequences of one to three parts, of any modalities, any number of the parts in the prefix."""
    sequences, made = [], 0
    for _ in range(draw(st.integers(1, 7))):
        parts = []
        for name in draw(st.lists(st.sampled_from(MODALITIES), min_size=1, max_size=3)):
            made += 1
            parts.append((name, MAKE[name](draw(st.integers(1, 4)), made)))
        sequences.append(Prepared(parts, prefix_parts=draw(st.sampled_from([None, *range(len(parts) + 1)]))))
    return sequences


@given(st.integers(1, 9), st.integers(0, 11), st.sampled_from([None, 1, 2, 20]))
def test_visible_follows_the_rule(n: int, prefix: int, window: int | None) -> None:
    i = torch.arange(n)
    expected = [[sees(a, b, prefix, window) for b in range(n)] for a in range(n)]
    assert visible(i[:, None], i, prefix, window).tolist() == expected


@given(prepared())
def test_collate_equals_brute_force(sequences: list[Prepared]) -> None:
    batch = collate(sequences, MODALITIES)
    layout = batch.layout
    assert sorted(layout.order) == list(range(len(sequences)))
    assert layout.lengths == sorted(len(s) for s in sequences)

    positions, ids, modality, expected_values = [], [], [], {name: [] for name in MODALITIES}
    counts: dict[str, list[int]] = {name: [] for name in MODALITIES}
    for place, number in enumerate(layout.order):
        sequence = sequences[number]
        assert layout.lengths[place] == sum(len(p) for _, p in sequence.parts)
        whole = len(sequence.parts) if sequence.prefix_parts is None else sequence.prefix_parts
        assert layout.prefix[place] == sum(len(p) for _, p in sequence.parts[:whole])
        largest = -1
        for name, pieces in sequence.parts:
            begin = largest + 1
            for t in range(len(pieces)):
                row = [begin + int(x) for x in pieces.positions[t]]
                positions.append(row)
                largest = max(largest, *row)
                ids.append(int(pieces.values[t]) if name == "text" else NO_ID)
                modality.append(MODALITIES.index(name))
            expected_values[name].append(pieces.values)
            counts[name].append(len(pieces.values))
    assert layout.positions.tolist() == positions
    assert layout.ids.tolist() == ids
    assert layout.modality.tolist() == modality
    assert set(batch.values) == set(batch.counts) == {name for name in MODALITIES if counts[name]}
    for name in batch.values:
        assert batch.counts[name] == counts[name]
        assert batch.values[name].numpy().tolist() == np.concatenate(expected_values[name]).tolist()


@given(prepared())
def test_order_puts_every_token_back_in_its_place(sequences: list[Prepared]) -> None:
    """What a model does: each tokenizer embeds its pieces, then one `index_select` interleaves them."""

    def embed(name: str, values: np.ndarray) -> np.ndarray:  # an image has a class token, 7, before its patches
        scalars = values.reshape(len(values), -1)[:, 0].astype(np.float64)
        return np.concatenate([[7.0], scalars]) if name == "image" else scalars

    batch = collate(sequences, MODALITIES)
    laid = []
    for name in sorted(batch.values):
        for item in np.split(batch.values[name].numpy(), np.cumsum(batch.counts[name])[:-1]):
            laid.append(embed(name, item))
    rows = torch.from_numpy(np.concatenate(laid))
    packed = rows if batch.order is None else rows.index_select(0, batch.order)
    for number, got in enumerate(Tokens(packed[:, None], batch.layout).to_list()):
        expected = np.concatenate([embed(name, pieces.values) for name, pieces in sequences[number].parts])
        assert got[:, 0].tolist() == expected.tolist()


def test_order_is_none_exactly_for_the_identity() -> None:
    one = collate([Prepared([("text", text([1, 2]))]), Prepared([("text", text([3]))])], MODALITIES)
    assert one.order is None
    sorted_already = collate([Prepared([("image", image(1, 1, 0.0)), ("text", text([5]))])], MODALITIES)
    assert sorted_already.order is None
    caption_first = collate([Prepared([("text", text([5])), ("image", image(1, 1, 0.0))])], MODALITIES)
    assert caption_first.order is not None and caption_first.order.tolist() == [2, 0, 1]


def test_image_then_caption_by_hand() -> None:
    batch = collate([Prepared([("image", image(2, 3, 0.0)), ("text", text([8, 9]))], prefix_parts=1)], MODALITIES)
    assert batch.layout.positions.tolist() == [
        [0, 0, 0], [0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 1, 0], [0, 1, 1], [0, 1, 2], [3, 3, 3], [4, 4, 4],
    ]  # fmt: skip
    assert batch.layout.prefix == [7]
    assert batch.counts == {"image": [6], "text": [2]}
    assert batch.layout.ids.tolist() == [NO_ID] * 7 + [8, 9]


@given(st.lists(st.integers(1, 60), max_size=40), st.integers(1, 80))
def test_pack_keeps_the_budget_and_covers_each_item_once(lengths: list[int], budget: int) -> None:
    batches = pack(lengths, budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert sum(lengths[i] for i in batch) <= budget or len(batch) == 1
    flat = [lengths[i] for batch in batches for i in batch]
    assert flat == sorted(flat)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=40), st.integers(20, 80))
@example([10, 10, 10], 20)
def test_pack_leaves_no_room_for_the_next_item(lengths: list[int], budget: int) -> None:
    batches = pack(lengths, budget)
    for batch, following in pairwise(batches):
        assert sum(lengths[i] for i in batch) + lengths[following[0]] > budget


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.integers(0, 3))
def test_segment_mean_equals_loop(segments: list[int], more: int) -> None:
    count = max(segments) + 1 + more
    values = torch.randn(len(segments), 3)
    expected = torch.zeros(count, 3)
    for s in range(count):
        rows = [values[n] for n in range(len(segments)) if segments[n] == s]
        if rows:
            expected[s] = torch.stack(rows).mean(0)
    torch.testing.assert_close(segment_mean(values, torch.tensor(segments), count), expected)


def test_segment_mean_of_bf16_is_summed_in_float32() -> None:
    """1,000 ones in bf16 would add up to 256."""
    mean = segment_mean(torch.ones(1000, 2, dtype=torch.bfloat16), torch.zeros(1000, dtype=torch.long), 1)
    assert mean.dtype == torch.float32 and mean.tolist() == [[1.0, 1.0]]


ragged = st.lists(st.tuples(st.integers(1, 9), st.integers(0, 12)), min_size=1, max_size=9)


@given(ragged)
def test_from_list_and_to_list_are_inverse(shapes: list[tuple[int, int]]) -> None:
    sequences = [torch.randn(n, 4, dtype=torch.float64) for n, _ in shapes]
    tokens = Tokens.from_list(sequences, prefix=[p for _, p in shapes])
    for given_one, back in zip(sequences, tokens.to_list(), strict=True):
        assert torch.equal(given_one, back)
    for place, number in enumerate(tokens.layout.order):
        assert tokens.layout.prefix[place] == min(shapes[number][1], shapes[number][0])
    torch.testing.assert_close(
        tokens.mean()[tokens.layout.inverse], torch.stack([s.mean(0) for s in sequences]).float()
    )


@given(ragged)
def test_layout_equals_brute_force(shapes: list[tuple[int, int]]) -> None:
    tokens = Tokens.from_list([torch.randn(n, 1) for n, _ in shapes], prefix=[p for _, p in shapes])
    layout = tokens.layout
    assert len(layout) == len(shapes)
    assert layout.offsets.dtype == torch.int32
    assert layout.offsets.tolist() == [sum(layout.lengths[:i]) for i in range(len(shapes) + 1)]
    assert layout.segments.tolist() == [i for i, n in enumerate(layout.lengths) for _ in range(n)]
    assert layout.within.tolist() == [t for n in layout.lengths for t in range(n)]
    assert layout.positions.tolist() == [[t, t, t] for n in layout.lengths for t in range(n)]
    assert [layout.order[i] for i in layout.inverse] == list(range(len(shapes)))
    covered = 0
    for group in layout.groups:
        assert group.first == covered
        for i in range(group.first, group.first + group.count):
            assert layout.lengths[i] == group.length
            p, n = layout.prefix[i], group.length
            plain = {"full": p >= n, "causal": p <= 1, "prefix": 1 < p < n}
            assert plain[group.kind]
        covered += group.count
    assert covered == len(shapes)
    assert len({(g.length, g.kind) for g in layout.groups}) == len(layout.groups)  # equal ones lie side by side


def test_mask_of_a_group_follows_each_prefix_and_is_made_once() -> None:
    layout = Tokens.from_list([torch.zeros(5, 1)] * 3, prefix=[2, 4, 3]).layout
    (group,) = layout.groups
    mask = layout.mask(group)
    assert mask is layout.mask(group)
    for row, prefix in zip(mask, layout.prefix, strict=True):
        assert row[0].tolist() == [[sees(i, j, prefix, None) for j in range(5)] for i in range(5)]


def test_from_list_takes_positions_in_the_given_order() -> None:
    places = [np.full((3, 3), 30), np.full((1, 3), 10), np.full((2, 3), 20)]
    tokens = Tokens.from_list([torch.zeros(len(p), 2) for p in places], positions=places)
    assert tokens.layout.positions[:, 0].tolist() == [10, 20, 20, 30, 30, 30]


@pytest.mark.parametrize("sequences", [[], [torch.zeros(0, 4)], [torch.zeros(2, 4), torch.zeros(0, 4)]])
def test_an_empty_batch_or_sequence_is_refused(sequences: list[torch.Tensor]) -> None:
    with pytest.raises(ValueError, match="at least one"):
        Tokens.from_list(sequences)


def test_layout_to_moves_tensors_and_forgets_what_was_made_on_the_old_device() -> None:
    layout = Tokens.from_list([torch.zeros(4, 1), torch.zeros(2, 1)], prefix=[2, 2]).layout
    assert layout.to("cpu") is layout
    layout.mask(layout.groups[1])
    assert layout.offsets.device.type == "cpu"  # cached before the move
    moved = layout.to("meta")
    for name in ("positions", "modality", "ids", "offsets", "segments", "within"):
        assert getattr(moved, name).device.type == "meta", name
        assert getattr(moved, name).shape == getattr(layout, name).shape
        assert getattr(layout, name).device.type == "cpu", name
    assert moved.mask(moved.groups[1]).device.type == "meta"
    assert (moved.lengths, moved.prefix, moved.order) == (layout.lengths, layout.prefix, layout.order)


def test_batch_to_moves_everything_that_is_a_tensor() -> None:
    batch = collate([Prepared([("text", text([5])), ("image", image(1, 1, 0.0))])], MODALITIES)
    batch.targets = {"names": Targets(torch.tensor([0]), {"label": torch.tensor([1])}, 1)}
    batch.tally = {"shortened": 3}
    moved = batch.to("meta")
    assert isinstance(moved, Batch) and moved.order is not None
    tensors = [moved.order, *moved.values.values(), moved.layout.ids]
    tensors += [moved.targets["names"].rows, moved.targets["names"].values["label"]]
    assert {t.device.type for t in tensors} == {"meta"}
    assert moved.targets["names"].count == 1
    assert moved.counts == batch.counts and moved.tally == batch.tally


def test_pieces_count_tokens_not_values() -> None:
    assert len(image(2, 3, 0.0)) == 7 and len(image(2, 3, 0.0).values) == 6


def test_sort_is_stable_so_that_a_batch_is_the_same_each_time() -> None:
    assert Layout.sort([3, 1, 3, 1, 3]) == [1, 3, 0, 2, 4]
