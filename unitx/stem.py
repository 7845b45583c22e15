"""How a patch of a picture or a spectrogram, or its frames, become vectors."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from unitx.backbone import Linear, MixedPrecision

GELU_GAIN = 1.6  # restores the RMS of normally distributed values after a GELU
GRADIENT_EPS = 0.002  # energy of gradients below which a patch counts as even: 2 % of the range from pixel to pixel


class Stem(nn.Module):
    """Embeds each patch by itself: 2 × 2 neighbours are merged `merges` times, and what is left is mapped to a vector.

    The weights of a merge are shared by all places of a patch, so that a line is the same line a pixel further on; a
    linear map of the whole patch has to learn it for each place. After the hierarchical MLP stem of Touvron et al.
    (2022, "Three things everyone should know about vision transformers"), with widths that double from merge to merge.
    Without merges it is ViT's linear map (Dosovitskiy et al. 2020).

    Weights keep the RMS of their input at initialisation.

    Args:
        height, width, channels: of a patch.
        dim: of the vectors.
        merges: fewer are done where a side stops being even.
        orientations: of the gradients that stand beside each pixel's channels (see `oriented_gradients`); none where a
            side is a single pixel.
    """

    def __init__(self, height: int, width: int, channels: int, dim: int, merges: int, orientations: int = 0):
        super().__init__()
        self.shape = height, width, channels
        self.orientations = orientations if min(height, width) > 1 else 0
        channels += self.orientations
        while height % 2**merges or width % 2**merges:
            merges -= 1
        places = height * width // 4**merges
        last = min(dim, max(2 * dim // places, 16))
        widths = [channels, *(max(last >> i, channels) for i in reversed(range(merges)))]
        self.merge = nn.ModuleList(Linear(4 * a, b) for a, b in pairwise(widths))
        self.embed = Linear(places * widths[-1], dim)
        for i, layer in enumerate([*self.merge, self.embed]):
            nn.init.normal_(layer.weight, std=(GELU_GAIN if i else 1.0) * layer.in_features**-0.5)
            nn.init.zeros_(layer.bias)

    def forward(self, patches: Tensor) -> Tensor:
        """(n, height · width · channels), in this order, → (n, dim)."""
        x = patches.view(-1, *self.shape)
        if self.orientations:
            x = torch.cat([x, oriented_gradients(x, self.orientations)], dim=-1)
        for merge in self.merge:
            x = F.gelu(merge(rearrange(x, "n (h p) (w q) c -> n h w (p q c)", p=2, q=2)))
        return self.embed(x.flatten(1))


class ConvStem(nn.Module):
    """Embeds the frames of a spectrogram by two convolutions over time, the second of stride 2 (Whisper, Radford et al.
    2022). Windows do not see each other.

    Args:
        frames: of a window, an even number.
        mels: numbers of a frame.
        dim: of the vectors.
    """

    def __init__(self, frames: int, mels: int, dim: int):
        super().__init__()
        self.shape = frames, mels
        self.conv1 = _Conv1d(mels, dim, 3, padding=1)
        self.conv2 = _Conv1d(dim, dim, 3, stride=2, padding=1)

    def forward(self, pairs: Tensor) -> Tensor:
        """(n, 2 · mels), pairs of neighbouring frames, whole windows end to end, → (n, dim)."""
        x = pairs.view(-1, *self.shape).transpose(1, 2)
        x = F.gelu(self.conv2(F.gelu(self.conv1(x))))
        return x.transpose(1, 2).flatten(0, 1)


class _Conv1d(MixedPrecision, nn.Conv1d):
    """A convolution over time."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, *self.cast(x.dtype))


def oriented_gradients(patches: Tensor, count: int) -> Tensor:
    """How strongly brightness changes at each pixel in each of `count` directions, of which opposite ones are one.

    A gradient is shared between the two nearest directions and divided by the RMS of its patch's: what stays is the
    course of edges, on which artists and cameras agree more than on shades. HOG (Dalal & Triggs 2005) before its
    histograms, which are left for the stem to sum up.

    Args:
        patches: (n, height, width, channels), height and width at least 2.

    Returns: (n, height, width, count), at an RMS of about 1, in the patches' dtype.
    """
    down, across = torch.gradient(patches.float().mean(-1), dim=(1, 2))
    energy = down.square() + across.square()
    size = torch.sqrt(energy / (energy.mean((1, 2), keepdim=True) + GRADIENT_EPS))
    direction = torch.atan2(down, across) * (count / math.pi)  # half a turn is `count` steps
    away = (direction[..., None] - torch.arange(count, device=patches.device)).remainder(count)
    share = (1 - torch.minimum(away, count - away)).clamp(min=0)
    return (count**0.5 * share * size[..., None]).to(patches.dtype)
