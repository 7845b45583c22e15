"""A ViT in unitx beside transformers and timm: the same weights, the same pictures, in one run.

    python tests/benchmarks/vit.py

ViT-S/16 at 224 pixels with drawn weights (the time does not depend on them), OpenMoji's drawings as pictures of 618
pixels, from PIL pictures to vectors, 32 at a time. Rounds alternate; the ratio is that of the medians, its spread that
of rounds side by side.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import timm
import torch
import transformers as hf
from in_turn import DEVICE, compared
from PIL import Image
from timm.models import save_for_hf
from torch import Tensor

import unitx
from unitx.worlds import pictures
from unitx.worlds.emoji import HUNDRED

BATCH = 32
SIZE = 618
SHAPE = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "intermediate_size": 1536}


def photos() -> list[Image.Image]:
    drawn = [pictures.draw(emoji, SIZE, pictures.Style()) for emoji in HUNDRED[: 3 * BATCH]]
    return [Image.fromarray(picture[..., :3]) for picture in drawn]


def by_transformers(folder: str, model: hf.ViTModel) -> Callable[[list[Image.Image]], Tensor]:
    processor = hf.ViTImageProcessor()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)

    def embed(items: list[Image.Image]) -> Tensor:
        batches = [items[i : i + BATCH] for i in range(0, len(items), BATCH)]
        pixels = (processor(batch, return_tensors="pt")["pixel_values"].to(DEVICE, model.dtype) for batch in batches)
        return torch.cat([model(batch).pooler_output for batch in pixels])

    return embed


def by_timm(folder: str, model: Any) -> Callable[[list[Image.Image]], Tensor]:
    save_for_hf(model, folder, model_args={"num_classes": 0}, safe_serialization=True)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))

    def embed(items: list[Image.Image]) -> Tensor:
        batches = [items[i : i + BATCH] for i in range(0, len(items), BATCH)]
        dtype = next(model.parameters()).dtype
        pixels = (torch.stack([transform(item) for item in batch]).to(DEVICE, dtype) for batch in batches)
        return torch.cat([model(batch) for batch in pixels])

    return embed


@torch.inference_mode()
def main() -> None:
    items = photos()
    peers = {
        "transformers": (by_transformers, hf.ViTModel(hf.ViTConfig(**SHAPE)).eval().to(DEVICE)),
        "timm": (by_timm, timm.create_model("vit_small_patch16_224", num_classes=0).eval().to(DEVICE)),
    }
    for library, (make, model) in peers.items():
        with tempfile.TemporaryDirectory() as folder:
            embed = make(folder, model)
            ours = unitx.Model.from_pretrained(folder, DEVICE)
        expected = embed(items).cpu().numpy()
        for name, dtype in {"fp32": torch.float32, "bf16": torch.bfloat16}.items():
            model.to(dtype)
            ours.compute_dtype = dtype
            worst = np.abs(ours.embed(items, normalize=False) - expected).max()
            times = compared(partial(embed, items), partial(ours.embed, items), len(items), "pictures")
            print(f"{library}, {name}: {times}; largest difference to fp32 {worst:.1e}")


if __name__ == "__main__":
    main()
