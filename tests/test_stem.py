"""Stems of patches, against PyTorch's convolutions; oriented gradients, against NumPy pixel by pixel."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from einops import rearrange

from unitx.stem import GRADIENT_EPS, ConvStem, Stem, oriented_gradients


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


def test_oriented_gradients_pixel_by_pixel() -> None:
    rng, count = np.random.default_rng(0), 6
    patches = rng.standard_normal((3, 5, 7, 3)).astype(np.float32)
    found = oriented_gradients(torch.from_numpy(patches), count).numpy()
    for patch, of_patch in zip(patches.mean(-1), found, strict=True):
        down, across = np.gradient(patch)
        rms = math.sqrt((down**2 + across**2).mean() + GRADIENT_EPS)
        for y, x in np.ndindex(patch.shape):
            steps = math.atan2(down[y, x], across[y, x]) % math.pi / math.pi * count
            low = int(steps) % count
            expected = np.zeros(count)
            expected[low] += (1 - steps % 1) * math.hypot(down[y, x], across[y, x]) / rms
            expected[(low + 1) % count] += steps % 1 * math.hypot(down[y, x], across[y, x]) / rms
            np.testing.assert_allclose(of_patch[y, x], math.sqrt(count) * expected, atol=1e-4)


def test_oriented_gradients_know_neither_brightness_nor_contrast_nor_sign() -> None:
    torch.manual_seed(0)
    patches = torch.randn(20, 8, 8, 3)
    expected = oriented_gradients(patches, 8)
    for other in (patches + 0.3, -patches, 3 * patches):
        torch.testing.assert_close(oriented_gradients(other, 8), expected, atol=0.02, rtol=0.02)
    assert oriented_gradients(torch.full((1, 8, 8, 3), 0.7), 8).abs().max() == 0


def test_a_turned_patch_has_turned_gradients() -> None:
    torch.manual_seed(0)
    patches = torch.randn(4, 8, 8, 1)
    turned = oriented_gradients(patches.rot90(1, (1, 2)), 8)
    torch.testing.assert_close(
        turned.rot90(-1, (1, 2)), oriented_gradients(patches, 8).roll(4, -1), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("merges", [0, 3])
def test_a_stem_sees_the_gradients_beside_the_channels(merges: int) -> None:
    torch.manual_seed(0)
    stem, blind = Stem(8, 8, 3, 48, merges, orientations=8), Stem(8, 8, 11, 48, merges)
    blind.load_state_dict(stem.state_dict())
    patches = torch.randn(5, 8, 8, 3)
    beside = torch.cat([patches, oriented_gradients(patches, 8)], dim=-1)
    torch.testing.assert_close(stem(patches.flatten(1)), blind(beside.flatten(1)))


def test_a_patch_of_one_pixel_has_no_gradients() -> None:
    assert Stem(1, 1, 3, 16, 0, orientations=8).orientations == 0


def test_windows_of_convolutions_do_not_see_each_other() -> None:
    torch.manual_seed(0)
    stem = ConvStem(10, 7, 12)
    values = torch.randn(15, 14)  # three windows of ten frames, as pairs
    frames = values[5:10].reshape(1, 10, 7).transpose(1, 2)
    first = F.gelu(F.conv1d(frames, stem.conv1.weight, stem.conv1.bias, padding=1))
    expected = F.gelu(F.conv1d(first, stem.conv2.weight, stem.conv2.bias, padding=1, stride=2))[0].T
    torch.testing.assert_close(stem(values)[5:10], expected)
    torch.testing.assert_close(stem(values), torch.cat([stem(part) for part in values.split(5)]))
    assert stem(values[:0]).shape == (0, 12) and stem(values.bfloat16()).dtype == torch.bfloat16
