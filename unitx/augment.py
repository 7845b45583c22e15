"""Random variation of training items, by modality, from torchvision, torchaudio and timm.

`strength` in [0, 1] scales it: a run begins with items as they are and ends with the full variation, which a small
model learns from faster than from full variation at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unitx.errors import UnitxError

LEVELS = ("none", "light", "strong")
LEAST_LEFT = 0.3  # of a box that a crop cuts; of less one cannot tell what it shows


@dataclass(frozen=True)
class Augment:
    """What happens to training items at a level (none, light, strong): `raw` before, `features` after the features.

    Images: random crop, horizontal flip and colour; strong adds RandAugment (Cubuk et al. 2020), random erasing (Zhong
    et al. 2020), and mixup (Zhang et al. 2018) or CutMix (Yun et al. 2019) of classified pictures. Video: random crop
    and colour, the same for all frames, and no flip, since left and right may be what is asked. Audio: SpecAugment
    (Park et al. 2019); strong adds a change of speed. Text stays as it is. Boxes go with their pictures, which then get
    no RandAugment; what is erased of them stays to be found.
    """

    level: str = "none"

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise UnitxError(f"there is no augmentation '{self.level}'; there are: {', '.join(LEVELS)}")

    def raw(self, modality: str, item: Any, rng: np.random.Generator, strength: float) -> Any:
        """Vary a decoded item: a PIL picture, frames (n, 3, height, width) uint8, a mono waveform (n,)."""
        if self.level == "none":
            return item
        with _torch_seed(rng):
            if modality == "image" and not isinstance(item, Tensor):
                return self._picture(item, strength)
            if modality == "video" and not item.is_floating_point():
                return self._clip(item, strength)
            if modality == "audio" and self.level == "strong" and item.ndim == 1:  # no spectrogram that came ready
                return _change_speed(item, rng.uniform(1 - 0.15 * strength, 1 + 0.15 * strength))
        return item

    def with_boxes(
        self, picture: Any, boxes: np.ndarray, rng: np.random.Generator, strength: float
    ) -> tuple[Any, np.ndarray, np.ndarray]:
        """Vary a PIL picture and boxes (n, 4) in it, left, top, right, bottom as shares of its sides.

        Returns: the picture, the boxes as they lie in it, and (n,) whether enough of each is left to be told.
        """
        from torchvision.tv_tensors import BoundingBoxes

        if self.level == "none" or isinstance(picture, Tensor):
            return picture, boxes, np.ones(len(boxes), dtype=bool)
        width, height = picture.size
        in_pixels = torch.from_numpy(boxes * np.array([width, height, width, height], np.float32))
        with _torch_seed(rng):
            moved = BoundingBoxes(in_pixels, format="XYXY", canvas_size=(height, width))  # type: ignore[call-arg]
            picture, moved = _flipped(*self._cropped(strength, picture, moved))
            picture = _recoloured(picture, strength)
        width, height = picture.size
        found = np.asarray(moved).clip(0, [width, height, width, height])
        kept = _areas(found) > LEAST_LEFT * _areas(in_pixels.numpy())
        return picture, (found / [width, height, width, height]).astype(np.float32), kept

    def features(self, modality: str, item: Any, rng: np.random.Generator, strength: float) -> Any:
        """Vary features: pixels (3, height, width), a log-mel spectrogram (frames, mels)."""
        if self.level == "none":
            return item
        with _torch_seed(rng):
            if modality == "image" and self.level == "strong":
                return _erasing(0.25 * strength)(torch.as_tensor(item).clone()).numpy()
            if modality == "audio":
                return _spec_augment(torch.as_tensor(item), strength * (0.5 if self.level == "light" else 1.0)).numpy()
        return item

    def _picture(self, picture: Any, strength: float) -> Any:
        from torchvision.transforms import v2

        (picture,) = _flipped(*self._cropped(strength, picture))
        # Some of its operations (equalize) have no magnitude and would act in full at once.
        if self.level == "strong" and torch.rand(()) < strength:
            picture = v2.RandAugment(num_ops=2, magnitude=round(9 * strength))(picture)
        return _recoloured(picture, strength)

    def _clip(self, frames: Tensor, strength: float) -> Tensor:
        from torchvision.transforms import v2

        jitter = 0.2 * strength  # not of the hue, which takes four times as long as the others together
        return v2.ColorJitter(jitter, jitter, jitter)(*self._cropped(strength, frames))

    def _cropped(self, strength: float, *items: Any) -> list[Any]:
        """A random part of a picture, the first item, and of what goes with it."""
        from torchvision.transforms import v2
        from torchvision.transforms.v2 import functional

        smallest = 1 - strength * (0.5 if self.level == "light" else 0.75)
        # Around the picture's own shape: the usual 3/4 to 4/3 would always cut the ends off a wide one.
        height, width = functional.get_size(items[0])
        shape = width / height
        ratio = (shape * 0.75**strength, shape / 0.75**strength)
        box = v2.RandomResizedCrop(size=1, scale=(smallest, 1.0), ratio=ratio).make_params([items[0]])
        return [functional.crop(item, box["top"], box["left"], box["height"], box["width"]) for item in items]


def _flipped(*items: Any) -> list[Any]:
    from torchvision.transforms.v2 import functional

    return [functional.horizontal_flip(item) for item in items] if torch.rand(()) < 0.5 else [*items]


def _recoloured(picture: Any, strength: float) -> Any:
    from torchvision.transforms import v2

    jitter = 0.2 * strength
    return v2.ColorJitter(jitter, jitter, jitter, jitter / 4)(picture)


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2:] - boxes[:, :2]).prod(1)


def mix_pictures(pictures: Tensor, targets: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Mixup or CutMix, by chance, of pictures (b, 3, h, w) with one-hot targets (b, classes)."""
    from torchvision.transforms import v2

    mix = (v2.MixUp(alpha=0.2) if rng.random() < 0.5 else v2.CutMix(alpha=1.0)) if len(pictures) > 1 else None
    if mix is None:
        return pictures, targets
    with _torch_seed(rng):
        return mix(pictures, targets)


@contextmanager
def _torch_seed(rng: np.random.Generator) -> Iterator[None]:
    """torchvision, torchaudio and timm draw from global generators: seed them for one item, and leave them alone."""
    import random

    seed = int(rng.integers(2**31))
    state = random.getstate()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # `torch.manual_seed` would seed the accelerators' generators too
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(state)


@lru_cache(maxsize=64)
def _erasing(probability: float) -> Any:
    from timm.data.random_erasing import RandomErasing

    return RandomErasing(probability=probability, mode="pixel", device="cpu")


def _spec_augment(mel: Tensor, strength: float) -> Tensor:
    """Mask two stripes of time and two of frequency, at most a fifth and a quarter of the whole each, with the mean."""
    from torchaudio import functional

    frames, mels = mel.shape
    for axis, size, share in ((1, frames, 0.2), (2, mels, 0.25)):
        widest = int(size * share * strength)
        for _ in range(2 if widest > 0 else 0):
            mel = functional.mask_along_axis(mel[None], widest, float(mel.mean()), axis)[0]
    return mel


def _change_speed(waveform: Tensor, factor: float) -> Tensor:
    """Play a waveform faster or slower, pitch included."""
    from torchaudio import functional

    percent = max(1, round(factor * 20))  # resampling is cheap only for ratios of small numbers
    return functional.resample(torch.as_tensor(waveform), percent, 20) if percent != 20 else waveform
