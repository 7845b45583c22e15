"""Whose embeddings these are: what a model gives for a modality, as a hash."""

from __future__ import annotations

import hashlib
from dataclasses import astuple
from typing import TYPE_CHECKING

from unitx.lora import without_lora

if TYPE_CHECKING:
    from torch import Tensor

    from unitx.model import Model
    from unitx.towers import Towers


def model_identity(model: Model | Towers) -> dict[str, str]:
    """Modality → a hash of what its embeddings depend on: configuration and weights of all that they pass through.

    So a model that was taught another modality beside a frozen one still is the model of the frozen one's embeddings.
    """
    from unitx.towers import Towers

    if isinstance(model, Towers):
        return {m: name for modality in model.modalities for m, name in model_identity(model.tower(modality)).items()}
    adapted = _digest(model.backbone.state_dict())
    plain = _digest(without_lora(model.backbone)) if model.frozen else adapted
    head = model.embedding_head.state_dict() if model.embedding_head is not None else {}
    how = () if model.embedding_head is None else (model.embedding_head.info.kind, model.embedding_head.options)
    found = {}
    for modality, processor in model.processors.items():
        others = model.tokenizers.keys() - {modality}
        shared = {name: value for name, value in head.items() if others.isdisjoint(name.split("."))}
        settings = repr((model.backbone.config, astuple(processor), modality, how))
        weights = _digest(model.tokenizers[modality].state_dict()) + _digest(shared)
        passed = plain if modality in model.frozen else adapted
        found[modality] = hashlib.sha256((settings + weights + passed).encode()).hexdigest()
    return found


def _digest(weights: dict[str, Tensor]) -> str:
    """A hash that takes milliseconds: of a large tensor it reads some thousand values spread evenly; training changes
    them all."""
    digest = hashlib.sha256()
    for name, value in weights.items():
        sample = value.detach().flatten()[:: max(1, value.numel() // 4096)].cpu().contiguous()
        digest.update(f"{name} {tuple(value.shape)}".encode() + sample.double().numpy().tobytes())
    return digest.hexdigest()
