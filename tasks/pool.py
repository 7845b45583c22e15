"""The embedding head of a published model: one vector of a sequence's tokens, mapped as the model was trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Tensor, nn

from unitx.backbone import Linear
from unitx.contrast import CONTRASTED, contrast, retrieval, stacked, views_of
from unitx.distributed import batch_norm
from unitx.errors import UnitxError
from unitx.pooling import Pooler, Pooling
from unitx.registry import register_task
from unitx.task import Task, TaskInfo, TaskLoss
from unitx.tokens import Example, Targets, Tokens

if TYPE_CHECKING:
    from unitx.data import Source
    from unitx.tokenizer import Processor


@register_task("pool")
class Pool(Task):
    """Embeds by what `pooling` makes of a sequence.

    The space is the published model's and stays. A modality that the model learns beside its own gets a map into it,
    which is trained by contrast with what the row says in the model's own (`align`'s, over pairs).
    """

    @dataclass(frozen=True)
    class Options:
        """
        Attributes:
            pooling: the name of a kind, or the fields of `Pooling`.
            prompts: name → what is put before a text, as "query: ".
            default_prompt_name: of the one that is put before every text where no other is asked for.
            normalize: vectors get unit length (sentence-transformers' Normalize).
            similarity_fn_name: how its vectors are compared, in sentence-transformers' words.
            temperature: of the softmax over cosines, where a modality learns the space.

        Raises:
            UnitxError: there is no such pooling.
        """

        pooling: Pooling = field(default_factory=Pooling)
        prompts: dict[str, str] = field(default_factory=dict)
        default_prompt_name: str | None = None
        normalize: bool = False
        similarity_fn_name: str = "cosine"
        temperature: float = 0.05

        def __post_init__(self) -> None:
            object.__setattr__(self, "pooling", Pooling.parse(self.pooling))

    headline = "recall@1"
    apart = embeds = True

    def __init__(self, dim: int, info: TaskInfo, processors: dict[str, Processor]):
        super().__init__(dim, info, processors)
        self.pooler = Pooler(dim, self.options.pooling)
        self.embedding_dim = self.pooler.width
        self.maps = nn.ModuleDict()
        for modality in sorted(processors):
            self.add_modality(modality)

    @property
    def own(self) -> list[str]:
        """The modalities whose space it is."""
        return self.info.facts.get("own") or list(self.info.reads.values())

    def add_modality(self, modality: str) -> None:
        if modality not in self.own:
            maps = {**self.maps, modality: Map(self.embedding_dim)}
            self.maps = nn.ModuleDict({name: maps[name] for name in sorted(maps)})

    def prompt(self, name: str | None) -> str:
        name = self.options.default_prompt_name if name is None else name
        return "" if name is None else self.options.prompts.get(name, name)

    @classmethod
    def fit(cls, info: TaskInfo, source: Source) -> TaskInfo:
        """Keep whose space it is.

        Raises:
            UnitxError: no modality that learns it, or concepts, which it does not know.
        """
        own = info.facts.get("own")
        if not own or info.label or not set(info.reads.values()) - set(own):
            raise UnitxError(
                f"task '{info.name}' is the space of a published model, which another modality can learn from pairs: "
                "name a column of it and one of a new modality in --reads, and --freeze it; else train an align task"
            )
        return info

    @classmethod
    def least_rows(cls, info: TaskInfo) -> int:
        return CONTRASTED

    @classmethod
    def examples(cls, info: TaskInfo, row: dict[str, Any]) -> list[Example]:
        return views_of(info, row)

    @classmethod
    def collate(cls, info: TaskInfo, targets: list[Any]) -> dict[str, Tensor]:
        return stacked(info, targets)

    def outputs(self, tokens: Tokens, rows: Tensor) -> Tensor:
        """(n, width) float32; a sequence of one modality that learned the space passes its map."""
        layout = tokens.layout
        found = self.pooler(tokens).float()
        if self.maps:
            first = layout.modality.index_select(0, layout.offsets[:-1].long())
            others = (layout.modality != first[layout.segments]).long()
            alone = others.new_zeros(len(layout)).index_add(0, layout.segments, others) == 0
            for number, modality in enumerate(sorted([*self.own, *self.maps])):
                if modality in self.maps:
                    places = (alone & (first == number)).nonzero()[:, 0]
                    mapped = self.maps[modality](found.index_select(0, places))
                    found = found.index_copy(0, places, mapped)
        found = found.index_select(0, rows)
        return F.normalize(found, dim=-1) if self.options.normalize else found

    def loss(self, tokens: Tokens, targets: Targets) -> TaskLoss:
        z = F.normalize(self.outputs(tokens, targets.rows), dim=-1)
        return TaskLoss(contrast(z, targets.values, self.options.temperature), targets.count, {})

    def score(self, outputs: Tensor, targets: Any) -> dict[str, float]:
        """See `retrieval`."""
        return retrieval(F.normalize(outputs, dim=-1), targets, list(self.info.reads))


class Map(nn.Module):
    """From what a backbone gives for a modality to another space: its own statistics (see `Align`), then linear."""

    def __init__(self, dim: int):
        super().__init__()
        self.norm = nn.BatchNorm1d(dim)
        self.project = Linear(dim, dim)
        nn.init.eye_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(n, dim) → (n, dim)."""
        return self.project(batch_norm(self.norm, x))  # without rows too: other processes wait to gather theirs
