"""The embedding head of a published model: one vector of a sequence's tokens, mapped as the model was trained."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
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
from unitx.words import WEIGHT, Said, heard_words, parse_words, word_contrast, word_vectors

if TYPE_CHECKING:
    from unitx.augment import Augment
    from unitx.source import Source
    from unitx.tokenizer import Processor, Tokenizer


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
            truncate_dim: only the first so many numbers of each vector are given.
            similarity_fn_name: how its vectors are compared, in sentence-transformers' words.
            temperature: of the softmax over cosines, where a modality learns the space.
            words: a column that tells when each word of a sound is said, [[second, word], …]; see `unitx.words`.

        Raises:
            UnitxError: there is no such pooling.
        """

        pooling: Pooling = field(default_factory=Pooling)
        prompts: dict[str, str] = field(default_factory=dict)
        default_prompt_name: str | None = None
        normalize: bool = False
        truncate_dim: int | None = None
        similarity_fn_name: str = "cosine"
        temperature: float = 0.05
        words: str | None = None

        def __post_init__(self) -> None:
            object.__setattr__(self, "pooling", Pooling.parse(self.pooling))

    headline = "recall@1"
    apart = embeds = True

    def __init__(self, dim: int, info: TaskInfo, processors: dict[str, Processor]):
        super().__init__(dim, info, processors)
        self.pooler = Pooler(dim, self.options.pooling)
        self.embedding_dim = min(self.pooler.width, self.options.truncate_dim or self.pooler.width)
        self.timed: dict[str, Any] = {m: p for m, p in processors.items() if hasattr(p, "seconds")}
        self.text: tuple[Tokenizer, ...] = ()  # a tuple, since it is no part of the head
        self.maps = nn.ModuleDict()
        for modality in sorted(processors):
            self.add_modality(modality)

    def tie_weights(self, tokenizers: nn.ModuleDict) -> None:
        if self.options.words and "text" in tokenizers:
            self.text = (cast("Tokenizer", tokenizers["text"]),)

    @property
    def own(self) -> list[str]:
        """The modalities whose space it is."""
        return self.info.facts.get("own") or list(self.info.reads.values())

    def add_modality(self, modality: str) -> None:
        if modality not in self.own:
            maps = {**self.maps, modality: Map(self.pooler.width)}
            self.maps = nn.ModuleDict({name: maps[name] for name in sorted(maps)})

    def prompt(self, name: str | None) -> str:
        name = self.options.default_prompt_name if name is None else name
        return "" if name is None else self.options.prompts.get(name, name)

    @classmethod
    def fit(cls, info: TaskInfo, source: Source) -> TaskInfo:
        """Keep whose space it is.

        Raises:
            UnitxError: no modality that learns it, concepts, which it does not know, or no such column of words.
        """
        own = info.facts.get("own")
        if not own or info.label or not set(info.reads.values()) - set(own):
            raise UnitxError(
                f"task '{info.name}' is the space of a published model, which another modality can learn from pairs: "
                "name a column of it and one of a new modality in --reads, and --freeze it; else train an align task"
            )
        words = info.options.get("words")
        if words and (words not in source.columns or "text" not in own):
            has = ", ".join(source.columns)
            raise UnitxError(
                f"task '{info.name}': words '{words}' must be a column (the data have {has}), and the model read texts"
            )
        return info

    @classmethod
    def least_rows(cls, info: TaskInfo) -> int:
        return CONTRASTED

    @classmethod
    def examples(cls, info: TaskInfo, row: dict[str, Any]) -> list[Example]:
        words = parse_words(row.get(info.options["words"])) if info.options.get("words") else []
        return [replace(example, target=(example.target, words)) for example in views_of(info, row)]

    @classmethod
    def vary(
        cls, example: Example, parts: list[tuple[str, Any]], augment: Augment, rng: np.random.Generator, strength: float
    ) -> tuple[Example, list[tuple[str, Any]]]:
        """Nothing where words are told: in a sound that is played faster they begin elsewhere."""
        return (example, parts) if example.target[1] else super().vary(example, parts, augment, rng, strength)

    @classmethod
    def collate(cls, info: TaskInfo, targets: list[Any]) -> dict[str, Any]:
        return stacked(info, [of_row for of_row, _ in targets]) | {"words": [words for _, words in targets]}

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
        found = F.normalize(found, dim=-1) if self.options.normalize else found
        return found[:, : self.embedding_dim]

    def loss(self, tokens: Tokens, targets: Targets) -> TaskLoss:
        z = F.normalize(self.outputs(tokens, targets.rows), dim=-1)
        loss = contrast(z, targets.values, self.options.temperature)
        if not self.options.words:
            return TaskLoss(loss, {})
        told = self._words(tokens, targets)
        return TaskLoss(loss + told.sum, told.metrics)

    def _words(self, tokens: Tokens, targets: Targets) -> TaskLoss:
        """`word_contrast` of the sequences that tell when their words are said."""
        of_view = [self.timed.get(modality) for modality in self.info.reads.values()]
        lengths, values = tokens.layout.lengths, targets.values
        of_all = zip(values["view"].tolist(), targets.rows.tolist(), values["words"], strict=True)
        said = [
            Said(row, words, processor.seconds)
            for view, row, words in of_all
            # One that is as long as can be may be cut out of a longer one, and then begins somewhere.
            if words and (processor := of_view[view]) and lengths[row] < processor.max_tokens
        ]
        text: Any = self.text[0].processor
        heard = heard_words(tokens.layout, said, text.encode)
        if not len(heard.places):
            return TaskLoss(tokens.vectors.new_zeros(()), {})
        vectors = word_vectors(self.text[0], heard.ids, tokens.layout.device)
        loss, right = word_contrast(tokens, heard, vectors, self.options.temperature)
        weight = WEIGHT * targets.count / len(said)
        return TaskLoss(loss * weight, {"words": right * targets.count / len(said)})

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
