"""Learned positions and class tokens in ragged batches."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from unitx.positions import LearnedPositions, PositionEmbedding

DIM = 6


@pytest.mark.parametrize("antialias", [False, True])
def test_items_of_any_grid_stand_as_they_would_alone(antialias: bool) -> None:
    torch.manual_seed(0)
    module = PositionEmbedding(LearnedPositions((4, 3), class_tokens=2, antialias=antialias, norm_eps=1e-5), DIM)
    grids = [(4, 3), (2, 5), (4, 3), (1, 1)]
    items = [torch.randn(math.prod(grid), DIM) for grid in grids]
    found = module(torch.cat(items), grids).split([2 + len(x) for x in items])
    for x, grid, ours in zip(items, grids, found, strict=True):
        image = module.table.view(1, 4, 3, DIM).permute(0, 3, 1, 2)
        table = image if grid == (4, 3) else F.interpolate(image, grid, mode="bicubic", antialias=antialias)
        by_hand = torch.cat([module.class_tokens, x + table[0].permute(1, 2, 0).reshape(-1, DIM)])
        torch.testing.assert_close(ours, F.layer_norm(by_hand, (DIM,), eps=1e-5))


@pytest.mark.parametrize(("learned", "grid"), [((8,), (5,)), ((2, 3, 4), (4, 3, 2))])
def test_one_and_three_axes(learned: tuple[int, ...], grid: tuple[int, ...]) -> None:
    module = PositionEmbedding(LearnedPositions(learned), DIM)
    assert module.interpolated(learned) is module.table
    found = module.interpolated(grid)
    assert found.shape == (math.prod(grid), DIM) and found.isfinite().all()
    flat = PositionEmbedding(LearnedPositions(learned), DIM)
    torch.nn.init.constant_(flat.table, 0.3)  # what is everywhere the same stays so
    torch.testing.assert_close(flat.interpolated(grid), torch.full_like(found, 0.3))


def test_no_items_give_no_tokens_and_all_is_learned() -> None:
    module = PositionEmbedding(LearnedPositions((2, 2), class_tokens=1), DIM)
    assert module(torch.zeros(0, DIM), []).shape == (0, DIM)
    module(torch.zeros(2, DIM), [(1, 2)]).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


@pytest.mark.parametrize(
    "given", [{"grid": ()}, {"grid": (0, 2)}, {"grid": (1, 1, 1, 1)}, {"grid": (2,), "class_tokens": -1}]
)
def test_what_is_no_grid_is_refused(given: dict) -> None:
    with pytest.raises(ValueError, match="positions need a grid"):
        LearnedPositions(**given)
