"""Small models that read text, pictures and sound, with weights as after training, and items to give them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from unitx.batches import Preparer
from unitx.config import BackboneConfig
from unitx.model import Model
from unitx.registry import TASKS
from unitx.task import TaskInfo
from unitx.tokenizer import Processor
from unitx.tokenizers.audio import AudioProcessor
from unitx.tokenizers.image import ImageProcessor
from unitx.tokenizers.text import TextProcessor
from unitx.tokens import Batch

SHAPE = BackboneConfig(dim=32, depth=1, heads=2)
CLASSES = TaskInfo("kind", "classify", {"picture": "image"}, "kind", ["cat", "dog", "owl"])
SPACE = TaskInfo("space", "align", {"image": "image", "text": "text", "audio": "audio"}, "concept", ["cat", "dog"])
PAIRS = TaskInfo("pairs", "align", {"image": "image", "text": "text"})
STORIES = TaskInfo("stories", "next_token", {"text": "text"})
CAPTION = TaskInfo("caption", "caption", {"image": "image"}, "name", facts={"longest": 6})


def small_processors(**text: Any) -> dict[str, Processor]:
    return {
        "audio": AudioProcessor(max_tokens=8, mels=16),
        "image": ImageProcessor(max_tokens=6, patch=4),
        "text": TextProcessor(**{"max_tokens": 12, **text}),
    }


def small_model(*tasks: TaskInfo, seed: int = 0, shape: BackboneConfig = SHAPE, **text: Any) -> Model:
    """In `eval` mode; not as it begins, where the backbone is the identity and the heads say nothing."""
    model = Model(shape, small_processors(**text), tasks)
    shake(model, seed)
    return model.eval()


@torch.no_grad()
def shake(module: nn.Module, seed: int = 0) -> None:
    """Give every parameter and running statistic a value as after training."""
    generator = torch.Generator().manual_seed(seed)
    for p in module.parameters():
        noise = torch.randn(p.shape, generator=generator)
        p.copy_(1 + 0.3 * noise if p.ndim < 2 else noise * p.shape[-1] ** -0.5 * 1.5)
    for norm in (m for m in module.modules() if isinstance(m, nn.BatchNorm1d)):
        norm.running_mean.copy_(0.5 * torch.randn(norm.num_features, generator=generator))
        norm.running_var.copy_(0.5 + torch.rand(norm.num_features, generator=generator))


def picture(seed: int, width: int = 8, height: int = 8) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def sound(seed: int, seconds: float = 0.2) -> tuple[np.ndarray, int]:
    return np.random.default_rng(seed).normal(size=int(seconds * 16_000)).astype(np.float32) * 0.1, 16_000


def batch_of(model: Model, rows: list[tuple[str, dict[str, Any]]]) -> Batch:
    """The batch that (task, row) pairs give, prepared as in training but without variation."""
    preparer, prepared = Preparer(model.processors), []
    for task, row in rows:
        info = model.head(task).info
        for example in TASKS.get(info.kind).examples(info, row):
            features = preparer.features(preparer.read([example]))[0]
            prepared.append((info, preparer.cut(example, features, None)))
    return preparer.batch(prepared)
