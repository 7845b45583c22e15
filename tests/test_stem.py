"""Stems of patches, against PyTorch's convolutions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange

from unitx.stem import Stem


@pytest.mark.parametrize(
    ("height", "width", "channels", "merges", "done"),
    [
        (8, 8, 3, 3, 3),
        (16, 16, 3, 3, 3),
        (8, 64, 1, 3, 3),
        (4, 4, 3, 3, 2),
        (14, 14, 3, 3, 1),
        (7, 8, 2, 3, 0),
        (8, 8, 3, 0, 0),
    ],
)
def test_merges_are_convolutions_of_stride_2(height: int, width: int, channels: int, merges: int, done: int) -> None:
    torch.manual_seed(0)
    stem = Stem(height, width, channels, 48, merges)
    assert len(stem.merge) == done
    patches = torch.randn(5, height * width * channels)
    x = rearrange(patches, "n (h w c) -> n c h w", h=height, w=width)
    for merge in stem.merge:
        kernel = rearrange(merge.weight, "o (p q i) -> o i p q", p=2, q=2)
        x = F.gelu(F.conv2d(x, kernel, merge.bias, stride=2))
    expected = F.linear(rearrange(x, "n c h w -> n (h w c)"), stem.embed.weight, stem.embed.bias)
    torch.testing.assert_close(stem(patches), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", [(8, 8, 3), (16, 16, 3), (8, 64, 1), (7, 7, 3)])
@pytest.mark.parametrize("dim", [48, 384])
def test_a_new_stem_keeps_the_scale_of_its_patches(shape: tuple[int, int, int], dim: int) -> None:
    torch.manual_seed(0)
    height, width, channels = shape
    vectors = Stem(*shape, dim, 3)(torch.randn(2_000, height * width * channels))
    assert vectors.shape == (2_000, dim) and 0.5 < vectors.square().mean().sqrt() < 1.6


def test_no_patches() -> None:
    assert Stem(8, 8, 3, 16, 3)(torch.zeros(0, 192)).shape == (0, 16)
