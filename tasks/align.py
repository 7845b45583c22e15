"""Alignment: what means the same lies close together, in whatever modality it comes; embeddings come from here."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unitx.backbone import Linear
from unitx.data import labels_of
from unitx.distributed import gather_rows
from unitx.registry import register_task
from unitx.task import Task, TaskInfo, TaskLoss
from unitx.tokens import Example, Targets, Tokens, segment_mean

if TYPE_CHECKING:
    from unitx.data import Source
    from unitx.tokenizer import Processor

EMPTY = -1  # the key of an empty cell


@register_task("align")
class Align(Task):
    """Contrast over any two or more columns of a row, each a sequence of its own.

    Where a column names the concept (`label`), every item is compared with one learned proxy per concept (Movshovitz-
    Attias et al. 2017); where none does, with the other columns' items in the batch (InfoNCE; CLIP, Radford et al.
    2021), rows that share a cell counting as positives too (Khosla et al. 2020). The temperature is fixed: a learned
    one falls into a plateau in short runs.
    """

    @dataclass(frozen=True)
    class Options:
        """
        Attributes:
            temperature: of the softmax over cosines.
            dim: of the embedding; None for the backbone's width.
        """

        temperature: float = 0.15
        dim: int | None = None

    headline = "recall@1"

    def __init__(self, dim: int, info: TaskInfo, processors: dict[str, Processor]):
        super().__init__(dim, info, processors)
        # Without its own statistics each modality stands in a cone of its own, and the contrast sees only which.
        self.norms = nn.ModuleDict({modality: nn.BatchNorm1d(dim) for modality in sorted(processors)})
        self.project = Linear(dim, self.options.dim or dim, bias=False)
        if info.labels:
            self.proxies = nn.Parameter(torch.randn(len(info.labels), self.options.dim or dim))

    @classmethod
    def fit(cls, info: TaskInfo, source: Source) -> TaskInfo:
        return replace(info, labels=labels_of(source, info.label)[0]) if info.label else info

    @classmethod
    def examples(cls, info: TaskInfo, row: dict[str, Any]) -> list[Example]:
        label = str(row[info.label]) if info.label and row.get(info.label) is not None else None
        if info.label and label not in info.labels:
            return []
        concept = info.labels.index(label) if label is not None else -1
        cells = [_key(row.get(column)) for column in info.reads]
        keys = [hash(tuple(cells)), *cells]
        return [
            Example(replace(info, reads={column: modality}).parts(row), (view, concept, keys))
            for view, (column, modality) in enumerate(info.reads.items())
            if row.get(column) not in (None, [])
        ]

    @classmethod
    def collate(cls, info: TaskInfo, targets: list[Any]) -> dict[str, Tensor]:
        return {
            "view": torch.tensor([view for view, _, _ in targets], dtype=torch.long),
            "concept": torch.tensor([concept for _, concept, _ in targets], dtype=torch.long),
            "keys": torch.tensor([keys for _, _, keys in targets], dtype=torch.long).view(-1, len(info.reads) + 1),
        }

    def embed(self, tokens: Tokens) -> Tensor:
        """(B, dim) unit vectors in packed order, float32.

        Tokens are averaged by modality, so that in a mixed sequence a word counts as much as a picture of many patches.
        """
        layout, kinds = tokens.layout, len(self.norms)
        segments = layout.segments * kinds + layout.modality
        means = segment_mean(tokens.vectors, segments, len(layout) * kinds)
        held = torch.bincount(segments, minlength=len(means)) > 0
        total = means.new_zeros(len(layout), means.shape[1])
        for kind, norm in enumerate(self.norms.values()):
            rows = held[kind::kinds].nonzero()[:, 0]
            if len(rows):
                total = total.index_add(0, rows, _batch_norm(norm, means[kind::kinds].index_select(0, rows)))
        return F.normalize(self.project(total), dim=-1)

    def outputs(self, tokens: Tokens, rows: Tensor) -> Tensor:
        return self.embed(tokens).index_select(0, rows)

    def loss(self, tokens: Tokens, targets: Targets) -> TaskLoss:
        z = self.outputs(tokens, targets.rows)
        if self.info.labels:
            logits = z @ F.normalize(self.proxies, dim=-1).T / self.options.temperature
            concept = targets.values["concept"]
            correct = (logits.argmax(-1) == concept).float().sum()
            return TaskLoss(F.cross_entropy(logits, concept, reduction="sum"), targets.count, {"accuracy": correct})
        return TaskLoss(self._contrast(z, targets.values), targets.count, {})

    def _contrast(self, z: Tensor, target: dict[str, Tensor]) -> Tensor:
        """Each item against the items of every other column, over all processes; rows that share a cell are positives."""
        others, view, keys = (gather_rows(x) for x in (z, target["view"], target["keys"]))
        logits = z @ others.T / self.options.temperature
        positive = _share(target["keys"][:, None], keys[None])
        total = logits.new_zeros(())
        for column in range(len(self.info.reads)):
            asks, answers = target["view"] != column, view == column
            of_column = torch.where(answers, logits, -torch.inf).log_softmax(-1)
            wanted = positive & answers & asks[:, None]
            found = wanted.sum(-1)
            mean = of_column.masked_fill(~wanted, 0.0).sum(-1) / found.clamp(min=1)
            total = total - mean.sum()
        return total

    def score(self, outputs: Tensor, targets: Any) -> dict[str, float]:
        """recall@1 from each column to each other: does the nearest item of that column mean the same?

        The gallery is one item a concept (the first), or every row where no column names the concept.
        """
        scores = {}
        for a, asking in enumerate(self.info.reads):
            for b, wanted in enumerate(self.info.reads):
                queries = (targets["view"] == a).nonzero()[:, 0]
                gallery = (targets["view"] == b).nonzero()[:, 0]
                if a == b or not len(queries) or not len(gallery):
                    continue
                if self.info.labels:
                    gallery = gallery[_first_of_each(targets["concept"][gallery])]
                nearest = gallery[(outputs[queries] @ outputs[gallery].T).argmax(-1)]
                scores[f"{asking}→{wanted}"] = float(self._same(targets, queries, nearest).float().mean())
        return {"recall@1": sum(scores.values()) / max(len(scores), 1), **scores}

    def _same(self, targets: dict[str, Tensor], left: Tensor, right: Tensor) -> Tensor:
        if self.info.labels:
            return targets["concept"][left] == targets["concept"][right]
        return _share(targets["keys"][left], targets["keys"][right])


def _share(left: Tensor, right: Tensor) -> Tensor:
    """Whether two rows of keys have one in common (broadcasts); an empty cell is like no other."""
    return ((left == right) & (left != EMPTY)).any(-1)


def _batch_norm(norm: nn.BatchNorm1d, x: Tensor) -> Tensor:
    """Batch statistics while training; a single row has none, and takes the running ones."""
    training = norm.training and len(x) > 1
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, training, 0.1, norm.eps)


def _first_of_each(meaning: Tensor) -> Tensor:
    """The places at which each value appears for the first time."""
    first: dict[int, int] = {}
    for place, value in enumerate(meaning.tolist()):
        first.setdefault(value, place)
    return torch.tensor(list(first.values()), dtype=torch.long)


def _key(cell: Any) -> int:
    """A number that equal cells share: of a text or path by what it says, of an object by what it is."""
    if cell is None:
        return EMPTY
    if isinstance(cell, list):
        return hash(tuple(_key(c) for c in cell))
    if isinstance(cell, str | Path | bytes):
        said = cell if isinstance(cell, bytes) else str(cell).encode()
        return int.from_bytes(hashlib.blake2b(said, digest_size=7).digest(), "big")
    return id(cell)
