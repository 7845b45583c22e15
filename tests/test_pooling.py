"""Poolings of ragged batches against a loop over sequences."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unitx.errors import UnitxError
from unitx.pooling import AttentionPooling, Pooler, Pooling
from unitx.tokens import Tokens

DIM = 12


def ragged(seed: int = 0) -> tuple[list[Tensor], Tokens]:
    generator = torch.Generator().manual_seed(seed)
    sequences = [torch.randn(n, DIM, generator=generator) for n in (7, 3, 12, 3, 5)]
    return sequences, Tokens.from_list(sequences)


def in_order(found: Tensor, tokens: Tokens) -> Tensor:
    return found[tokens.layout.inverse]


BY_HAND: dict[str, tuple[Pooling, Callable[[Tensor], Tensor]]] = {
    "mean": (Pooling(), lambda x: x.mean(0)),
    "max": (Pooling("max"), lambda x: x.max(0).values),
    "weighted mean": (Pooling("weighted mean"), lambda x: x.repeat_interleave(torch.arange(len(x)) + 1, dim=0).mean(0)),
    "scaled sum": (Pooling("scaled sum"), lambda x: x.sum(0) / len(x) ** 0.5),
    "first": (Pooling("first"), lambda x: x[0]),
    "two first": (Pooling("first", first=2), lambda x: (x[0] + x[1]) / 2),
    "concat": (Pooling("concat", first=2), lambda x: torch.cat([x[0], x[1]])),
    "last": (Pooling("last"), lambda x: x[-1]),
    "rest": (Pooling("rest", rest=2), lambda x: x[2:].mean(0)),
    "first and rest": (Pooling("first and rest", rest=1), lambda x: torch.cat([x[0], x[1:].mean(0)])),
    "steps": (
        Pooling("first", steps=("norm", "gelu", "tanh")),
        lambda x: torch.tanh(F.gelu(F.layer_norm(x[0], (DIM,), eps=1e-6))),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BY_HAND)
def test_a_pooling_is_what_a_loop_gives(name: str) -> None:
    config, by_hand = BY_HAND[name]
    sequences, tokens = ragged()
    pooler = Pooler(DIM, config)
    wanted = torch.stack([by_hand(x) for x in sequences])
    assert pooler.width == wanted.shape[1]
    torch.testing.assert_close(in_order(pooler(tokens), tokens), wanted)


@pytest.mark.parametrize(("end", "places"), [(9, [2, 0, 1]), (None, [3, 1, 1])])
def test_the_end_of_a_text_is_its_first_or_the_highest_id(end: int | None, places: list[int]) -> None:
    ids = [torch.tensor([1, 2, 9, 11, 9]), torch.tensor([3, 7, 1]), torch.tensor([4, 9, 9])]  # the second has no end
    sequences = [torch.randn(len(i), DIM) for i in ids]
    tokens = Tokens.from_list(sequences)
    tokens.layout.ids = torch.cat([ids[i] for i in tokens.layout.order])
    found = in_order(Pooler(DIM, Pooling("end", end=end))(tokens), tokens)
    torch.testing.assert_close(found, torch.stack([x[i] for x, i in zip(sequences, places, strict=True)]))


def test_attention_pooling_is_pytorchs_attention() -> None:
    """And an MLP behind it."""
    sequences, tokens = ragged()
    ours = AttentionPooling(DIM, Pooling("attention", heads=3, mlp=20))
    theirs = nn.MultiheadAttention(DIM, 3, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.q.weight, ours.kv.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.q.bias, ours.kv.bias]))
        theirs.out_proj.weight.copy_(ours.out.weight)
        theirs.out_proj.bias.copy_(ours.out.bias)
        found = in_order(ours(tokens), tokens)
        for x, pooled in zip(sequences, found, strict=True):
            y = theirs(ours.query[None, None], x[None], x[None])[0][0, 0]
            y = y + ours.down(F.gelu(ours.up(ours.norm(y))))
            torch.testing.assert_close(pooled, y)


def test_options_are_checked() -> None:
    with pytest.raises(UnitxError, match="pooling is 'middle'; it can be mean, first"):
        Pooling("middle")
    with pytest.raises(UnitxError, match="a pooling has no step 'softmax'"):
        Pooling(steps=("softmax",))
    with pytest.raises(UnitxError, match="a pooling has no field 'kinds'"):
        Pooling.parse({"kinds": "mean"})
    assert Pooling.parse("first") == Pooling.parse({"kind": "first"}) == Pooling("first")
