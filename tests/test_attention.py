from __future__ import annotations

from collections.abc import Callable
from itertools import product
from unittest import mock

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from unitx.attention import (
    Cache,
    attention,
    attention_weights,
    flash_attention,
    grouped_attention,
    reference_attention,
)
from unitx.tokens import Layout, Tokens

Implementation = Callable[[Tensor, Tensor, Tensor, Layout, int | None], Tensor]
Shapes = list[tuple[int, int]]  # (length, prefix) of each sequence


def sees(i: int, j: int, prefix: int, window: int | None) -> bool:
    return (j <= i or (i < prefix and j < prefix)) and (window is None or abs(i - j) <= window)


def layout_of(shapes: Shapes, device: str = "cpu") -> Layout:
    vectors = [torch.zeros(n, 1, device=device) for n, _ in shapes]
    return Tokens.from_list(vectors, prefix=[p for _, p in shapes]).layout


def random_qkv(layout: Layout, heads: int, kv_heads: int, d: int, dtype: torch.dtype) -> list[Tensor]:
    n = sum(layout.lengths)
    made = [torch.randn(n, h, d, dtype=torch.float32).to(layout.device, dtype) for h in (heads, kv_heads, kv_heads)]
    return [x.requires_grad_() for x in made]


def forward_and_backward(run: Implementation, qkv: list[Tensor], layout: Layout, window: int | None) -> list[Tensor]:
    """The result and the gradients of q, k and v under one fixed cotangent of the size of a usual one."""
    y = run(*qkv, layout, window)
    cotangent = torch.linspace(-1, 1, y.numel(), device=y.device).view_as(y).sin().to(y.dtype)
    return [y, *torch.autograd.grad(y, qkv, cotangent)]


def assert_agree(run: Implementation, shapes: Shapes, heads: int, kv_heads: int, window: int | None) -> None:
    layout = layout_of(shapes)
    qkv = random_qkv(layout, heads, kv_heads, 8, torch.float32)
    expected = forward_and_backward(reference_attention, qkv, layout, window)
    found = forward_and_backward(run, qkv, layout, window)
    for name, a, b in zip(("y", "dq", "dk", "dv"), found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


def plain_varlen(
    query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor, max_q: int, max_k: int,
    *, return_aux: None = None, scale: float | None = None, window_size: tuple[int, int] = (-1, -1),
) -> Tensor:  # fmt: skip
    """`torch.nn.attention.varlen.varlen_attn` as it is documented, a loop: windows are aligned at the lower right."""
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert len(cu_seq_q) == len(cu_seq_k) and cu_seq_q[0] == cu_seq_k[0] == 0
    assert (cu_seq_q[-1], cu_seq_k[-1]) == (len(query), len(key)) and len(key) == len(value)
    q_lengths, k_lengths = cu_seq_q.diff().tolist(), cu_seq_k.diff().tolist()
    assert (max_q, max_k) == (max(q_lengths), max(k_lengths))
    left, right = window_size
    shared = query.shape[1] // key.shape[1]
    out = []
    for q, k, v in zip(query.split(q_lengths), key.split(k_lengths), value.split(k_lengths), strict=True):
        k, v = (x.repeat_interleave(shared, dim=1) for x in (k, v))
        back = torch.arange(len(q))[:, None] + len(k) - len(q) - torch.arange(len(k))  # keys behind the query's place
        hidden = ((back > left) & (left >= 0)) | ((-back > right) & (right >= 0))
        assert not len(q) or not hidden.all(dim=1).any(), "a query that sees nothing"
        scores = torch.einsum("ihd,jhd->hij", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale)
        out.append(torch.einsum("hij,jhd->ihd", scores.masked_fill(hidden, -torch.inf).softmax(-1), v))
    return torch.cat(out)


def flash_on_cpu(q: Tensor, k: Tensor, v: Tensor, layout: Layout, window: int | None = None) -> Tensor:
    with mock.patch("torch.nn.attention.varlen.varlen_attn", plain_varlen):
        return flash_attention(q, k, v, layout, window)


@st.composite
def ragged(draw: st.DrawFn, longest: int = 700) -> Shapes:
    """Lengths 1 to `longest`, some of them several times, with any prefix."""
    pool = draw(st.lists(st.one_of(st.integers(1, 12), st.integers(1, longest)), min_size=1, max_size=3))
    lengths = draw(st.lists(st.sampled_from(pool), min_size=1, max_size=5))
    return [(n, draw(st.one_of(st.sampled_from([0, 1, n]), st.integers(0, n)))) for n in lengths]


heads = st.sampled_from([(4, 4), (4, 2), (4, 1), (1, 1)])
windows = st.one_of(st.none(), st.integers(1, 16), st.integers(1, 300))
EVERY_KIND: Shapes = [
    (700, 700),
    (1, 0),
    (1, 1),
    (700, 0),
    (699, 3),
    (700, 400),
    (2, 1),
    (2, 2),
    (5, 1),
    (5, 4),
    (5, 2),
]


@given(ragged(longest=24), heads, st.one_of(st.none(), st.integers(1, 25)))
def test_reference_equals_four_loops(shapes: Shapes, head_counts: tuple[int, int], window: int | None) -> None:
    layout = layout_of(shapes)
    q, k, v = (x.detach().double() for x in random_qkv(layout, *head_counts, 4, torch.float32))
    shared = head_counts[0] // head_counts[1]
    expected = torch.zeros_like(q)
    start = 0
    for n, prefix in zip(layout.lengths, layout.prefix, strict=True):
        for h in range(head_counts[0]):
            for i in range(start, start + n):
                seen = [j for j in range(start, start + n) if sees(i - start, j - start, prefix, window)]
                scores = torch.stack([(q[i, h] * k[j, h // shared]).sum() / 2 for j in seen]).exp()
                told = torch.stack([v[j, h // shared] for j in seen])
                expected[i, h] = (scores[:, None] * told).sum(0) / scores.sum()
        start += n
    torch.testing.assert_close(reference_attention(q, k, v, layout, window), expected)


@pytest.mark.parametrize("run", [grouped_attention, flash_on_cpu, attention])
@settings(max_examples=25)
@given(ragged(), heads, windows)
@example(EVERY_KIND, (4, 2), None)
@example(EVERY_KIND, (4, 2), 7)
@example(EVERY_KIND, (2, 2), 699)
@example([(9, 9), (9, 9), (4, 4)], (2, 1), 3)
@example([(9, 0), (9, 1), (1, 0)], (2, 1), 3)
@example([(9, 5), (9, 4)], (2, 1), 1)
def test_implementations_agree(
    run: Implementation, shapes: Shapes, head_counts: tuple[int, int], window: int | None
) -> None:
    assert_agree(run, shapes, *head_counts, window)


@pytest.mark.parametrize("run", [grouped_attention, flash_on_cpu])
def test_what_a_layout_keeps_for_one_window_is_not_used_for_another(run: Implementation) -> None:
    layout = layout_of([(40, 11), (40, 22), (40, 40), (40, 0), (7, 3)])
    qkv = random_qkv(layout, 2, 2, 8, torch.float32)
    for window in (3, None, 5, 39, 3, None):
        torch.testing.assert_close(run(*qkv, layout, window), reference_attention(*qkv, layout, window))


def test_cpu_in_bf16_stays_near_the_float32_truth() -> None:
    layout = layout_of(EVERY_KIND)
    qkv = random_qkv(layout, 4, 2, 16, torch.bfloat16)
    for window in (None, 20):
        expected = reference_attention(*(x.float() for x in qkv), layout, window)
        found = attention(*qkv, layout, window)
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.float(), expected, atol=2e-2, rtol=2e-2)
        with torch.no_grad():  # another path: without a backward pass it stays in bf16
            torch.testing.assert_close(attention(*qkv, layout, window), found, atol=2e-2, rtol=2e-2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_agrees() -> None:
    tolerances = {torch.bfloat16: 3e-2, torch.float16: 4e-3, torch.float32: 1e-5}
    batches = [EVERY_KIND, [(9, 9), (4, 4)], [(9, 0), (700, 0)]]
    for dtype, shapes, kv_heads, window, d in product(tolerances, batches, (4, 2), (None, 7, 300), (16, 6)):
        layout = layout_of(shapes, "cuda")
        qkv = random_qkv(layout, 4, kv_heads, d, dtype)
        truth = [x.detach().float().requires_grad_() for x in qkv]
        expected = forward_and_backward(reference_attention, truth, layout, window)
        found = forward_and_backward(attention, qkv, layout, window)
        for a, b in zip(found, expected, strict=True):
            near = tolerances[dtype] * max(1.0, float(b.abs().max()))
            torch.testing.assert_close(a.float(), b, atol=near, rtol=tolerances[dtype])


@given(ragged(longest=40), heads, st.one_of(st.none(), st.integers(1, 12)))
def test_weights_are_a_distribution_over_what_is_seen(
    shapes: Shapes, head_counts: tuple[int, int], window: int | None
) -> None:
    layout = layout_of(shapes)
    q, k, v = random_qkv(layout, *head_counts, 8, torch.float32)
    found = attention_weights(q, k, layout, window)
    told = v.repeat_interleave(head_counts[0] // head_counts[1], dim=1).split(layout.lengths)
    for weights, n, prefix in zip(found, layout.lengths, layout.prefix, strict=True):
        assert weights.shape == (head_counts[0], n, n)
        torch.testing.assert_close(weights.sum(-1), torch.ones(head_counts[0], n))
        visible = torch.tensor([[sees(i, j, prefix, window) for j in range(n)] for i in range(n)])
        assert torch.equal(weights > 0, visible.expand_as(weights))
    y = torch.cat([torch.einsum("hij,jhd->ihd", w, t) for w, t in zip(found, told, strict=True)])
    torch.testing.assert_close(y, grouped_attention(q, k, v, layout, window), atol=1e-5, rtol=1e-5)


@given(st.lists(st.tuples(*[st.integers(1, 7)] * 3), min_size=1, max_size=5), st.sampled_from([None, 1, 4]))
@example([(1, 5, 2), (4, 3, 1), (7, 1, 3)], None)
def test_a_cache_that_grows_by_any_steps_equals_attention_over_the_whole(
    turns: list[tuple[int, int, int]], window: int | None
) -> None:
    """A prompt that sees itself, then two further turns of any lengths, against one call without a cache."""
    whole = layout_of([(sum(lengths), lengths[0]) for lengths in turns])
    q, k, v = (x.detach() for x in random_qkv(whole, 4, 2, 8, torch.float32))
    expected = Tokens(reference_attention(q, k, v, whole, window), whole).to_list()
    cache = Cache(depth=1, batch=len(turns), kv_heads=2, room=max(map(sum, turns)), head_dim=8, like=q)

    lists = [Tokens(x, whole).to_list() for x in (q, k, v)]
    parts = [[x.split(lengths) for x, lengths in zip(sequences, turns, strict=True)] for sequences in lists]
    found: list[list[Tensor]] = [[] for _ in turns]
    for turn in range(3):
        packed = [Tokens.from_list([sequence[turn] for sequence in part]) for part in parts]
        layout = packed[0].layout
        y = cache.attend(0, *(x.vectors for x in packed), layout, window)
        cache.advance(layout)
        for got, part in zip(found, Tokens(y, layout).to_list(), strict=True):
            got.append(part)
    for got, want in zip(found, expected, strict=True):
        torch.testing.assert_close(torch.cat(got), want, atol=1e-5, rtol=1e-5)
    assert cache.lengths == [sum(lengths) for lengths in turns]
