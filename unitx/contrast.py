"""Contrast between the columns of a row: what stands in one row means the same, what stands in others does not."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unitx.distributed import gather_rows
from unitx.errors import BadItem
from unitx.media import describe
from unitx.task import TaskInfo, cell_parts
from unitx.tokens import Example

CONTRASTED = 128  # rows a step, at least: with 73 pairs of pictures and names nothing was learned in the same time
QUERIES = 1_024  # scored at once
NONE = -1  # the key of an empty cell, the number of no concept


def views_of(info: TaskInfo, row: dict[str, Any], concept: int = NONE) -> list[Example]:
    """A sequence for each column that the task reads; where no concept is known, rows are told apart by their cells."""
    keys = [NONE if concept != NONE else _key(row.get(column)) for column in info.reads]
    views = [cell_parts(row.get(column), modality) for column, modality in info.reads.items()]
    return [Example(parts, (view, concept, keys)) for view, parts in enumerate(views) if parts]


def stacked(info: TaskInfo, targets: list[Any]) -> dict[str, Tensor]:
    """The targets of `views_of` as (n,) views and concepts, and (n, columns) keys."""
    return {
        "view": torch.tensor([view for view, _, _ in targets], dtype=torch.long),
        "concept": torch.tensor([concept for _, concept, _ in targets], dtype=torch.long),
        "keys": torch.tensor([keys for _, _, keys in targets], dtype=torch.long).view(-1, len(info.reads)),
    }


def contrast(z: Tensor, target: dict[str, Tensor], temperature: float) -> Tensor:
    """InfoNCE (CLIP, Radford et al. 2021): each item against every other column's items, over all processes; rows that
    share a cell are positives too (Khosla et al. 2020).

    Args:
        z: (n, dim) unit vectors.

    Returns: () the sum over the items.
    """
    others, view, keys = (gather_rows(x) for x in (z, target["view"], target["keys"]))
    logits = z @ others.T / temperature
    positive = _share(target["keys"][:, None], keys[None])
    total = logits.new_zeros(())
    for column in range(target["keys"].shape[1]):
        asks, answers = target["view"] != column, view == column
        of_column = torch.where(answers, logits, -torch.inf).log_softmax(-1)
        wanted = positive & answers & asks[:, None]
        found = wanted.sum(-1)
        mean = of_column.masked_fill(~wanted, 0.0).sum(-1) / found.clamp(min=1)
        total = total - mean.sum()
    return total


def retrieval(outputs: Tensor, targets: Any, columns: list[str]) -> dict[str, float]:
    """Recall@1 from each column to each other: does the nearest item of that column mean the same? And their mean, also
    of whether one of the ten nearest does, where there are more than ten.

    The gallery is one item a concept (the first), or every row where no column names the concept.
    """
    scores: dict[str, float] = {}
    among_ten: list[float] = []
    named = bool((targets["concept"] != NONE).any())
    meaning = targets["concept"][:, None] if named else targets["keys"]
    for a, asking in enumerate(columns):
        for b, wanted in enumerate(columns):
            queries = (targets["view"] == a).nonzero()[:, 0]
            gallery = (targets["view"] == b).nonzero()[:, 0]
            if a == b or not len(queries) or not len(gallery):
                continue
            if named:
                first = np.unique(targets["concept"][gallery].numpy(), return_index=True)[1]
                gallery = gallery[np.sort(first)]
            most = min(10, len(gallery))
            # In parts: all cosines at once may not fit in memory.
            nearest = [(part @ outputs[gallery].T).topk(most).indices for part in outputs[queries].split(QUERIES)]
            found = _share(meaning[queries][:, None], meaning[gallery[torch.cat(nearest)]])
            scores[f"{asking}→{wanted}"] = float(found[:, 0].float().mean())
            if len(gallery) > 10:
                among_ten.append(float(found.any(1).float().mean()))
    means = {"recall@1": sum(scores.values()) / max(len(scores), 1)}
    if among_ten:
        means["recall@10"] = sum(among_ten) / len(among_ten)
    return means | scores


def _share(left: Tensor, right: Tensor) -> Tensor:
    """Whether two rows of keys have one in common (broadcasts); an empty cell is like no other."""
    return ((left == right) & (left != NONE)).any(-1)


def _key(cell: Any) -> int:
    """A number that cells of equal content share, in every process."""
    items = [item for item in (cell if isinstance(cell, list) else [cell]) if item is not None]
    digest = hashlib.blake2b(digest_size=7)
    for item in items:
        digest.update(_content(item))
    return int.from_bytes(digest.digest(), "big") if items else NONE


def _content(item: Any) -> bytes:
    """The bytes of a picture, an array, a (waveform, rate) pair; of a text or a path what it says."""
    if isinstance(item, bytes):
        return item
    if isinstance(item, tuple):
        return b"".join(_content(part) for part in item)
    if isinstance(item, Tensor):
        item = item.numpy(force=True)
    try:
        return item.tobytes() if hasattr(item, "tobytes") else str(item).encode(errors="replace")
    except Exception as error:  # a picture that is not decoded yet: Pillow raises of many kinds
        raise BadItem(f"{describe(item)} cannot be read: {error}") from error
