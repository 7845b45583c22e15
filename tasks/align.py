"""Alignment: what means the same lies close together, in whatever modality it comes; embeddings come from here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unitx.backbone import Linear
from unitx.contrast import CONTRASTED, contrast, retrieval, stacked, views_of
from unitx.distributed import batch_norm
from unitx.errors import UnitxError
from unitx.registry import register_task
from unitx.source import labels_in, labels_of
from unitx.task import Task, TaskInfo, TaskLoss
from unitx.tokens import Example, Targets, Tokens, segment_mean

if TYPE_CHECKING:
    from unitx.source import Source
    from unitx.tokenizer import Processor


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

        Raises:
            UnitxError: an option is out of range.
        """

        temperature: float = 0.15
        dim: int | None = None

        def __post_init__(self) -> None:
            if not self.temperature > 0:
                raise UnitxError(f"temperature is {self.temperature!r}; it must be above 0")
            if self.dim is not None and self.dim < 1:
                raise UnitxError(f"dim is {self.dim!r}; it must be above 0")

    headline = "recall@1"
    apart = embeds = True

    def __init__(self, dim: int, info: TaskInfo, processors: dict[str, Processor]):
        super().__init__(dim, info, processors)
        # Without its own statistics each modality stands in a cone of its own, and the contrast sees only which.
        self.norms = nn.ModuleDict({modality: nn.BatchNorm1d(dim) for modality in sorted(processors)})
        self.embedding_dim = self.options.dim or dim
        self.project = Linear(dim, self.embedding_dim, bias=False)
        if info.labels:
            self.proxies = nn.Parameter(torch.randn(len(info.labels), self.embedding_dim))

    def add_modality(self, modality: str) -> None:
        norms = {**self.norms, modality: nn.BatchNorm1d(self.project.in_features).to(self.project.weight.device)}
        self.norms = nn.ModuleDict({name: norms[name] for name in sorted(norms)})

    @classmethod
    def fit(cls, info: TaskInfo, source: Source) -> TaskInfo:
        """Learn the concepts' names.

        Raises:
            UnitxError: there is only one column, which has nothing to be aligned with, or a concept that a head which
                goes on does not know.
        """
        cls.parse_options(info)
        if len(info.reads) < 2 and not info.label:
            raise UnitxError(f"task '{info.name}' reads one column ({', '.join(info.reads)}): name two in --reads")
        if not info.label:
            return info
        names = labels_of(source, info.label)[0]
        unknown = [name for name in names if name not in info.labels]
        if info.labels and unknown:
            raise UnitxError(
                f"task '{info.name}' goes on with the concepts that it has, and '{info.label}' names others "
                f"({', '.join(unknown[:5])}): leave --label out to learn from pairs"
            )
        return replace(info, labels=info.labels or names)

    @classmethod
    def least_rows(cls, info: TaskInfo) -> int:
        """Where rows are told from the others of their step, there must be many others."""
        return 1 if info.label else CONTRASTED

    @classmethod
    def examples(cls, info: TaskInfo, row: dict[str, Any]) -> list[Example]:
        if not info.label:
            return views_of(info, row)
        name = next(iter(labels_in(row.get(info.label))), None)
        return views_of(info, row, info.numbers[name]) if name in info.numbers else []

    @classmethod
    def collate(cls, info: TaskInfo, targets: list[Any]) -> dict[str, Tensor]:
        return stacked(info, targets)

    def outputs(self, tokens: Tokens, rows: Tensor) -> Tensor:
        """(n, dim) unit vectors.

        Tokens are averaged by modality, so that in a mixed sequence a word counts as much as a picture of many patches.
        """
        layout, kinds = tokens.layout, len(self.norms)
        segments = layout.segments * kinds + layout.modality
        count = len(layout) * kinds
        means = segment_mean(tokens.vectors, segments, count).view(len(layout), kinds, -1)[rows]
        held = (torch.bincount(segments, minlength=count) > 0).view(len(layout), kinds)[rows]
        total = means.new_zeros(len(rows), means.shape[-1])
        for kind, norm in enumerate(cast(Iterable[nn.BatchNorm1d], self.norms.values())):
            of_kind = held[:, kind].nonzero()[:, 0]
            total = total.index_add(0, of_kind, batch_norm(norm, means[:, kind].index_select(0, of_kind)))
        return F.normalize(self.project(total), dim=-1)

    def loss(self, tokens: Tokens, targets: Targets) -> TaskLoss:
        z = self.outputs(tokens, targets.rows)
        if self.info.label:
            logits = self._logits(z)
            concept = targets.values["concept"]
            correct = (logits.argmax(-1) == concept).float().sum()
            return TaskLoss(F.cross_entropy(logits, concept, reduction="sum"), {"accuracy": correct})
        return TaskLoss(contrast(z, targets.values, self.options.temperature), {})

    def _logits(self, z: Tensor) -> Tensor:
        return z @ F.normalize(self.proxies.to(z.device), dim=-1).T / self.options.temperature

    def probabilities(self, outputs: Tensor) -> Tensor:
        """(n, concepts): softmax over the concepts' proxies, where a column names the concept."""
        return self._logits(outputs).softmax(-1) if self.info.labels else super().probabilities(outputs)

    def score(self, outputs: Tensor, targets: Any) -> dict[str, float]:
        """See `retrieval`: the gallery is one item a concept, or every row where no column names the concept."""
        return retrieval(outputs, targets, list(self.info.reads))
