"""A point from which training goes on exactly: safetensors and JSON, never pickle.

A checkpoint's folder is a model's folder with two files more, so `Model.from_pretrained` loads it too.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unitx.errors import UnitxError
from unitx.sharding import part_of, whole

KEPT = 2  # checkpoints
STATE, TENSORS = "training.json", "training.safetensors"


@dataclass
class Progress:
    """Where a run stands.

    Attributes:
        step: optimizer steps done; the place in the data follows from it.
        seconds: time spent training.
        items: items seen.
        evaluated: the headline scores of each evaluation, task → score, larger is better.
        losses: the held-out losses of each evaluation, task → loss with its sign turned, which decide between equals.
        best: which of these evaluations is the best; None before the first.
    """

    step: int = 0
    seconds: float = 0.0
    items: int = 0
    evaluated: list[dict[str, float]] = field(default_factory=list)
    losses: list[dict[str, float]] = field(default_factory=list)
    best: int | None = None


def save_checkpoint(
    folder: Path, model: Any, states: Sequence[dict[str, torch.Tensor]], progress: Progress
) -> Path:
    """Write `folder/step-N`, whole or not at all, and remove all but the newest `KEPT`.

    Args:
        states: of the optimizers of the model's parameters, as `optimizer_state` gives them.
    """
    done = folder / f"step-{progress.step}"
    writing = folder / f".step-{progress.step}"
    for half_written in folder.glob(".step-*"):
        shutil.rmtree(half_written)
    try:
        _write_all(writing, model, states, progress)
    except BaseException:  # a full disk, which half a checkpoint would keep full
        shutil.rmtree(writing, ignore_errors=True)
        raise
    shutil.rmtree(done, ignore_errors=True)
    writing.rename(done)
    for old in checkpoints(folder)[:-KEPT]:
        shutil.rmtree(old)
    return done


def _write_all(folder: Path, model: Any, states: Sequence[dict[str, torch.Tensor]], progress: Progress) -> None:
    from safetensors.torch import save_file

    model.save_pretrained(folder)
    tensors = {"random.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    for i, state in enumerate(states):
        tensors |= {f"optimizer{i}.{name}": value for name, value in state.items()}
    save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, folder / TENSORS)
    (folder / STATE).write_text(json.dumps({"progress": asdict(progress)}), "utf-8")


def checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints in a folder, oldest first."""
    steps = {int(found[1]): path for path in folder.glob("step-*") if (found := re.fullmatch(r"step-(\d+)", path.name))}
    return [steps[step] for step in sorted(steps)]


def load_progress(checkpoint: Path) -> Progress:
    """Where the run stood.

    Raises:
        UnitxError: the folder is no checkpoint.
    """
    if not (checkpoint / STATE).is_file() or not (checkpoint / TENSORS).is_file():
        raise UnitxError(f"{checkpoint} is no checkpoint: it lacks {STATE} or {TENSORS}")
    progress = Progress(**json.loads((checkpoint / STATE).read_text("utf-8"))["progress"])
    lacking = progress.evaluated[len(progress.losses) :]  # of runs before losses were kept
    progress.losses += [dict.fromkeys(headlines, 0.0) for headlines in lacking]
    return progress


def load_training_state(checkpoint: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> None:
    """Put the optimizers' and the random states back; the model's weights are loaded as any model's."""
    from safetensors.torch import load_file

    tensors = load_file(checkpoint / TENSORS)
    torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random.cuda"])
    parameters = dict(model.named_parameters())
    for name, value in tensors.items():
        kind, _, rest = name.partition(".")
        if kind.startswith("optimizer"):
            parameter, _, key = rest.rpartition(".")
            p = parameters[parameter]
            value = part_of(value, p) if value.shape == p.shape else value  # a count has no axes
            optimizers[int(kind.removeprefix("optimizer"))].state[p][key] = value.to(p.device)


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """`parameter.key` → tensor, whole (all processes must ask). A parameter that got no gradient yet has none.

    torch's `get_optimizer_state_dict` cannot load the state of an optimizer that holds such a parameter. What the
    groups hold (rates, decay) is built anew from the recipe.
    """
    names: dict[torch.Tensor, str] = {p: name for name, p in model.named_parameters()}
    return {f"{names[p]}.{key}": whole(value) for p, state in optimizer.state.items() for key, value in state.items()}
