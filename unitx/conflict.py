"""Whether tasks help or hinder each other: the angles between their gradients on the backbone that they share."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from unitx.errors import UnitxError
from unitx.model import Model
from unitx.tokens import Batch


def task_gradients(model: Model, batches: Iterable[Batch]) -> dict[str, Tensor]:
    """Task → the gradient (parameters,) float32 of its mean loss over all batches, on what trains of the backbone.

    The model is taken in the mode that it is in; dividing by learned uncertainties, or weights, would change no angle.

    Raises:
        UnitxError: nothing of the backbone trains, or the batches hold fewer than two tasks.
    """
    shared = [p for p in model.backbone.parameters() if p.requires_grad]
    if not shared:
        raise UnitxError("no parameter of the backbone trains: there is nothing that tasks could share")
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    for batch in batches:
        batch = batch.to(model.device)
        tokens = model.encode(batch)
        for name, targets in batch.targets.items():
            loss = model.head(name).loss(tokens, targets).sum
            found = torch.autograd.grad(loss, shared, retain_graph=True, materialize_grads=True)
            gradient = torch.cat([part.flatten() for part in found])
            sums[name] = sums[name] + gradient if name in sums else gradient
            counts[name] = counts.get(name, 0) + targets.count
    if len(sums) < 2:
        raise UnitxError(f"the batches hold rows of {', '.join(sums) or 'no task'} alone: give two tasks at least")
    return {name: total / max(counts[name], 1) for name, total in sums.items()}


def gradient_conflict(model: Model, batches: Iterable[Batch]) -> tuple[list[str], Tensor]:
    """The tasks, and (tasks, tasks) the cosines between their gradients on the shared backbone; two whose cosine is
    negative are in conflict: a step for one is a step back for the other (Yu et al. 2020).

    Over few items a gradient is mostly noise, and cosines are near 0: give as many batches as a few training steps take
    (`unitx.loader`).

    Raises:
        UnitxError: nothing of the backbone trains, or the batches hold fewer than two tasks.
    """
    gradients = task_gradients(model, batches)
    unit = torch.nn.functional.normalize(torch.stack([*gradients.values()]), dim=1)
    return [*gradients], (unit @ unit.T).cpu()
