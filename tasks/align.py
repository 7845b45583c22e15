"""Alignment: what means the same lies close together, in whatever modality it comes; embeddings come from here."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unitx.backbone import Linear
from unitx.data import labels_in, labels_of
from unitx.distributed import gather_rows
from unitx.errors import BadItem, UnitxError
from unitx.media import describe
from unitx.registry import register_task
from unitx.task import Task, TaskInfo, TaskLoss, cell_parts
from unitx.tokens import Example, Targets, Tokens, segment_mean

if TYPE_CHECKING:
    from unitx.data import Source
    from unitx.tokenizer import Processor

CONTRASTED = 128  # rows a step, at least: with 73 pairs of pictures and names nothing was learned in the same time
QUERIES = 1_024  # scored at once
NONE = -1  # the key of an empty cell, the number of no concept


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
            if not isinstance(self.temperature, int | float) or not self.temperature > 0:
                raise UnitxError(f"temperature is {self.temperature!r}; it must be above 0")
            if self.dim is not None and (not isinstance(self.dim, int) or self.dim < 1):
                raise UnitxError(f"dim is {self.dim!r}; it must be a whole number above 0")

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
        concept, keys = NONE, [NONE] * len(info.reads)
        if info.label:
            name = next(iter(labels_in(row.get(info.label))), None)
            if name not in info.numbers:
                return []
            concept = info.numbers[name]
        else:
            keys = [_key(row.get(column)) for column in info.reads]
        views = [cell_parts(row.get(column), modality) for column, modality in info.reads.items()]
        return [Example(parts, (view, concept, keys)) for view, parts in enumerate(views) if parts]

    @classmethod
    def collate(cls, info: TaskInfo, targets: list[Any]) -> dict[str, Tensor]:
        return {
            "view": torch.tensor([view for view, _, _ in targets], dtype=torch.long),
            "concept": torch.tensor([concept for _, concept, _ in targets], dtype=torch.long),
            "keys": torch.tensor([keys for _, _, keys in targets], dtype=torch.long).view(-1, len(info.reads)),
        }

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
            total = total.index_add(0, of_kind, _batch_norm(norm, means[:, kind].index_select(0, of_kind)))
        return F.normalize(self.project(total), dim=-1)

    def loss(self, tokens: Tokens, targets: Targets) -> TaskLoss:
        z = self.outputs(tokens, targets.rows)
        if self.info.label:
            logits = self._logits(z)
            concept = targets.values["concept"]
            correct = (logits.argmax(-1) == concept).float().sum()
            return TaskLoss(F.cross_entropy(logits, concept, reduction="sum"), targets.count, {"accuracy": correct})
        return TaskLoss(self._contrast(z, targets.values), targets.count, {})

    def _logits(self, z: Tensor) -> Tensor:
        return z @ F.normalize(self.proxies.to(z.device), dim=-1).T / self.options.temperature

    def _contrast(self, z: Tensor, target: dict[str, Tensor]) -> Tensor:
        """Each item against every other column's items, over all processes; rows that share a cell are positives."""
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

    def probabilities(self, outputs: Tensor) -> Tensor:
        """(n, concepts): softmax over the concepts' proxies, where a column names the concept."""
        return self._logits(outputs).softmax(-1) if self.info.labels else super().probabilities(outputs)

    def score(self, outputs: Tensor, targets: Any) -> dict[str, float]:
        """recall@1 from each column to each other: does the nearest item of that column mean the same?

        The gallery is one item a concept (the first), or every row where no column names the concept.
        """
        scores = {}
        named = bool((targets["concept"] != NONE).any())
        meaning = targets["concept"][:, None] if named else targets["keys"]
        for a, asking in enumerate(self.info.reads):
            for b, wanted in enumerate(self.info.reads):
                queries = (targets["view"] == a).nonzero()[:, 0]
                gallery = (targets["view"] == b).nonzero()[:, 0]
                if a == b or not len(queries) or not len(gallery):
                    continue
                if named:
                    gallery = gallery[_first_of_each(targets["concept"][gallery])]
                # In parts: all cosines at once may not fit in memory.
                nearest = [(part @ outputs[gallery].T).argmax(-1) for part in outputs[queries].split(QUERIES)]
                found = meaning[gallery[torch.cat(nearest)]]
                scores[f"{asking}→{wanted}"] = float(_share(meaning[queries], found).float().mean())
        return {"recall@1": sum(scores.values()) / max(len(scores), 1), **scores}


def _share(left: Tensor, right: Tensor) -> Tensor:
    """Whether two rows of keys have one in common (broadcasts); an empty cell is like no other."""
    return ((left == right) & (left != NONE)).any(-1)


def _batch_norm(norm: nn.BatchNorm1d, x: Tensor) -> Tensor:
    """Statistics of the batch over all processes while training.

    A single row has none, and a frozen norm keeps its own: they take the running ones.
    """
    learns = norm.training and norm.weight.requires_grad
    rows = gather_rows(x) if learns else x
    if not learns or len(rows) < 2:
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
    # Torch's class may go without them; those made above do not.
    assert norm.running_mean is not None and norm.running_var is not None and norm.momentum is not None
    mean, variance = rows.mean(0), rows.var(0, correction=0)
    with torch.no_grad():
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(variance * len(rows) / (len(rows) - 1), norm.momentum)
    return (x - mean) * (variance + norm.eps).rsqrt() * norm.weight + norm.bias


def _first_of_each(meaning: Tensor) -> Tensor:
    """The places at which each value appears for the first time."""
    first: dict[int, int] = {}
    for place, value in enumerate(meaning.tolist()):
        first.setdefault(value, place)
    return torch.tensor(list(first.values()), dtype=torch.long)


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
