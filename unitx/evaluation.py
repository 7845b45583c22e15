"""What a task says of held-out rows, and its scores on them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unitx.batches import Evaluation, Feed, Preparer, Tally, data_loader
from unitx.decoding import write
from unitx.model import Model
from unitx.precision import answering
from unitx.task import Task
from unitx.tokens import Batch, collate, pack
from unitx.writing import Written

LEAST_RANGE = 0.05  # of the largest score


@torch.inference_mode()
def task_outputs(
    model: Model, preparer: Preparer, feed: Feed, seed: int = 0, workers: int | None = 0, show_progress: bool = False
) -> tuple[Any, Any, Tally]:
    """What a task's head says of all rows of a source: its outputs (of one that writes, `Written`), the collated
    targets, and what to report.

    Output i came from row `tally.rows[i]`.
    """
    from tqdm import tqdm

    head = model.head(feed.info.name)
    outputs, targets, texts, tally = [], [], [], Tally()
    dataset = Evaluation(preparer, feed, seed)
    steps = data_loader(dataset, range(len(dataset)), workers)
    with answering(model):
        for batch in tqdm(steps, total=len(dataset), disable=not show_progress, unit="batch"):
            if isinstance(batch, Tally):
                tally.add(batch)
                continue
            batch = batch.to(model.device)
            mine = batch.targets[feed.info.name]
            found = head.judged(model.encode(batch), mine).float().cpu()
            outputs.append(_averaged(model, head, batch, found) if batch.windows else found)
            if batch.asked:
                texts += [found[0].label for found in write(model, head, batch.asked)]
            targets.append(mine.values)
            tally.add(batch.tally)
    whole = torch.cat(outputs) if outputs else torch.zeros(0)
    return Written(whole, texts) if head.writes else whole, _concatenate(targets), tally


def _averaged(model: Model, head: Task, batch: Batch, found: Tensor) -> Tensor:
    """What a head says of a batch's items, of long ones the mean over their windows, as `Model.predict` takes it."""
    total, weight = torch.zeros_like(found).flatten(1), torch.zeros(len(found), 1)
    for places in pack([len(window) for _, window in batch.windows], len(batch.layout.positions)):
        items, windows = zip(*(batch.windows[i] for i in places), strict=True)
        tokens = model.encode(collate(windows, model.modalities).to(model.device))
        rows = torch.tensor(tokens.layout.inverse, device=model.device)
        share, owners = torch.tensor([[window.weight] for window in windows]), torch.tensor(items)
        total.index_add_(0, owners, head.outputs(tokens, rows).float().cpu().flatten(1) * share)
        weight.index_add_(0, owners, share)
    mean = (total / weight).view_as(found)
    mean = F.normalize(mean, dim=-1) if head.embeds else mean
    return torch.where((weight > 0).view(-1, *[1] * (found.ndim - 1)), mean, found)


def score(model: Model, preparer: Preparer, feed: Feed, seed: int) -> tuple[dict[str, float], Tally]:
    """The task's metrics over all rows of a source, empty where no row could be used, and what to report of them."""
    outputs, targets, tally = task_outputs(model, preparer, feed, seed)
    return model.head(feed.info.name).score(outputs, targets) if len(outputs) else {}, tally


def gain(new: dict[str, float], old: dict[str, float], all_so_far: Iterable[dict[str, float]]) -> float:
    """How much better one evaluation is than another: the mean over tasks by how much their headline scores (larger is
    better) differ, each in units of the range that it has had in `all_so_far`.

    Accuracies, bits and chrF (0 to 100) have no unit in common, and a plain mean would be that of the largest. A range
    counts as a twentieth of the largest score at least, or the least move in one task would outweigh a fall in another.
    A score that is no number, or infinite, is worse than any.
    """
    gains = []
    for task in new.keys() & old.keys():
        numbers = [each[task] for each in all_so_far if math.isfinite(each.get(task, math.nan))]
        if not (math.isfinite(new[task]) and math.isfinite(old[task])):
            gains.append(float(math.isfinite(new[task])) - math.isfinite(old[task]))
        elif spread := max(max(numbers) - min(numbers), LEAST_RANGE * max(map(abs, numbers))):
            gains.append((new[task] - old[task]) / spread)
        else:
            gains.append(0.0)
    return sum(gains) / max(len(gains), 1)


def class_rates(hits: np.ndarray, support: np.ndarray, said: np.ndarray) -> dict[str, np.ndarray]:
    """Each class's precision, recall, F1 and support, NaN where one is not defined.

    Args:
        hits, support, said: (classes,) rows where it holds and was said to, where it holds, where it was said to.
    """
    with np.errstate(invalid="ignore"):
        f1 = 2 * hits / (support + said)
        return {"precision": hits / said, "recall": hits / support, "f1": f1, "support": support}


def _concatenate(parts: list[Any]) -> Any:
    """Collated targets of several batches as one."""
    if not parts or parts[0] is None:
        return None
    if isinstance(parts[0], dict):
        return {key: _concatenate([part[key] for part in parts]) for key in parts[0]}
    if isinstance(parts[0], list):
        return [each for part in parts for each in part]
    return torch.cat(parts).cpu()
