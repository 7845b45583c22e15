"""What a task is made of: a head on the backbone's output, a loss, and answers a person can use."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from unitx.errors import UnitxError
from unitx.recipe import from_dict
from unitx.source import ROW, is_numeric
from unitx.tokens import Example, Prepared, Targets, Tokens

if TYPE_CHECKING:
    from unitx.augment import Augment
    from unitx.batches import Drawn, Preparer
    from unitx.model import Model
    from unitx.source import Source
    from unitx.tokenizer import Processor


@dataclass(frozen=True)
class TaskInfo:
    """All that a task knows besides its weights; kept in the model's config.json and sent to the loader's workers.

    Attributes:
        name: the task's name in its model, unique there.
        kind: the name it is registered under.
        reads: column → modality, in the order in which the columns stand in a sequence.
        label: the column that holds the answer, if the task has one.
        labels: the names of the classes or concepts, in the order of the head's outputs.
        weight: of its loss in the sum over tasks, and of its share in a batch.
        uncertain: its loss is also weighed by what is learned of its uncertainty (`Task.weighed`).
        options: the task's own options, by name.
        facts: what was learned from the training data besides the labels (class counts, say).
    """

    name: str
    kind: str
    reads: dict[str, str]
    label: str | None = None
    labels: list[str] = field(default_factory=list)
    weight: float = 1.0
    uncertain: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Label → its place in `labels`."""
        return {label: i for i, label in enumerate(self.labels)}

    @property
    def multi_label(self) -> bool:
        """Whether a row may have several classes, or none."""
        return bool(self.options.get("multi_label"))

    def parts(self, row: dict[str, Any]) -> list[tuple[str, Any]]:
        """The (modality, item) pairs of a row, in order; a list in a cell gives several, an empty cell none.

        The column `ROW` is the row itself, without its answer and the columns that are read by themselves.
        """
        if ROW in self.reads:
            rest = {name: cell for name, cell in row.items() if name != self.label and name not in self.reads}
            row = {**row, ROW: rest or None}
        return [part for column, modality in self.reads.items() for part in cell_parts(row.get(column), modality)]


def cell_parts(cell: Any, modality: str) -> list[tuple[str, Any]]:
    """The (modality, item) pairs of one cell: several where it holds a list, none where it is empty."""
    several = isinstance(cell, list) and (modality == "text" or not is_numeric(cell))
    return [(modality, item) for item in (cell if several else [cell]) if item is not None]


class TaskLoss(NamedTuple):
    """A loss as a sum, so that it is exact over micro-batches and processes; `Targets.count` divides it.

    Attributes:
        sum: () the summed loss, with gradient.
        metrics: name → () sums over the same count, without gradient, for the progress line.
    """

    sum: Tensor
    metrics: dict[str, Tensor]


class Answer(NamedTuple):
    """One answer to one item. A task whose answers say more has a kind of its own, with these two first."""

    label: str
    score: float

    def __str__(self) -> str:
        return f"{self.label} {self.score:.3f}"


class Sketch(NamedTuple):
    """Pictures side by side with a caption, for a report: RGB (height, width, 3) in 0 … 1 or (height, width)."""

    pictures: list[np.ndarray]
    caption: str


class Task(nn.Module):
    """A program for the backbone. A new one subclasses this and says `@register_task("name")`.

    The class methods run in the loader's workers and see no weights.

    Attributes:
        Options: a dataclass of the task's own options.
        headline: the score that decides which checkpoint is best; higher is better, unless it is in `lower_is_better`.
        apart: each column of a row is a sequence of its own, so that what belongs to one of them can be asked alone.
        classifies: `outputs` are logits, one for each of `info.labels`, and so are the targets; a report shows classes.
        embeds: `outputs` are unit vectors of `embedding_dim` numbers, and `Model.embed` gives them.
        generates: `next_logits(vectors)`, (n, dim) → (n, vocabulary), says what comes next, and `Model.generate` draws.
        writes: it generates texts of its own behind what it reads (see `Writer`), and `Model.predict` gives them.
        tags: `outputs` have a row for each token, and `spans` makes answers of those of an item.
        answer: what the label's column holds: "class" (or several), "text", "number", "objects" or "spans".
        gives: what an answer is.
        top: answers that are given to an item where nobody says how many.
        embedding_dim: the backbone's width, where a task that embeds does not set another.
    """

    @dataclass(frozen=True)
    class Options:
        """No options."""

    headline: ClassVar[str] = "accuracy"
    lower_is_better: ClassVar[bool] = False
    apart: ClassVar[bool] = False
    classifies: ClassVar[bool] = False
    embeds: ClassVar[bool] = False
    generates: ClassVar[bool] = False
    writes: ClassVar[bool] = False
    tags: ClassVar[bool] = False
    answer: ClassVar[str] = "class"
    gives: ClassVar[type[Any]] = Answer
    top: ClassVar[int] = 1

    def __init__(self, dim: int, info: TaskInfo, processors: dict[str, Processor]):
        super().__init__()
        self.info = info
        self.options = self.parse_options(info)
        self.embedding_dim = dim
        self.log_variance = nn.Parameter(torch.zeros(1)) if info.uncertain else None

    @property
    def multi_label(self) -> bool:
        """Whether a row may have several classes; a task of one's own need not know the option."""
        return getattr(self.options, "multi_label", False)

    def add_modality(self, modality: str) -> None:
        """The model reads one modality more from now on; for heads that treat each apart."""

    def prompt(self, name: str | None) -> str:
        """What `Model.embed` puts before a text: of tasks that know some by name that, else the text given."""
        return name or ""

    def tie_weights(self, tokenizers: nn.ModuleDict) -> None:
        """Take over weights of a tokenizer, for heads that share them (tied embeddings)."""

    def start_from(self, heads: Iterable[Task]) -> None:
        """Begin with what the model's other heads have learned, where it is of use."""

    @classmethod
    def parse_options(cls, info: TaskInfo) -> Any:
        """`info.options` as `Options`.

        Raises:
            UnitxError: an option that the task does not have, or a value of the wrong kind; named.
        """
        return from_dict(cls.Options, info.options, f"task '{info.name}' ({info.kind})")

    @classmethod
    def fit(cls, info: TaskInfo, source: Source) -> TaskInfo:
        """Learn from the training data what the head needs to know: class names, counts."""
        return info

    @classmethod
    def averages(cls) -> bool:
        """Whether its answer to an item that is longer than a sequence is the mean over the item's windows."""
        hides = cls.hide.__func__ is not Task.hide.__func__  # type: ignore[attr-defined]
        return cls.judged is Task.judged and not (cls.tags or cls.generates or hides)

    @classmethod
    def least_rows(cls, info: TaskInfo) -> int:
        """How many rows a step must take at least, whatever `batch_tokens` says."""
        return 1

    @classmethod
    def asked(cls, info: TaskInfo, row: dict[str, Any]) -> list[tuple[str, Any]]:
        """The (modality, item) pairs that a row without its answer gives to read.

        Raises:
            BadItem: it asks for what the task was never taught.
        """
        return info.parts(row)

    @classmethod
    def names_in(cls, info: TaskInfo, cell: Any) -> list[str]:
        """Of a task that names what an item holds, and passes over names that it does not know: those of a cell.

        Raises:
            BadItem: the cell holds something else.
        """
        return []

    @classmethod
    def remarks(cls, info: TaskInfo, source: Source) -> list[str]:
        """What to say of recorded training rows before a run: plain sentences on what looks mistaken in them."""
        return []

    @classmethod
    def examples(cls, info: TaskInfo, row: dict[str, Any]) -> list[Example]:
        """The sequences to train on or evaluate that one row of data gives."""
        parts = info.parts(row)
        return [Example(parts)] if parts else []

    @classmethod
    def vary(
        cls, example: Example, parts: list[tuple[str, Any]], augment: Augment, rng: np.random.Generator, strength: float
    ) -> tuple[Example, list[tuple[str, Any]]]:
        """Another take of an example for training; a task whose answers lie in an item moves them too, or leaves it.

        Args:
            parts: its items, decoded, as (modality, item) pairs.
            strength: of the variation, 0 to 1.

        Returns: the example, whose target may have moved, and the items.
        """
        return example, [(modality, augment.raw(modality, raw, rng, strength)) for modality, raw in parts]

    @classmethod
    def hide(cls, info: TaskInfo, prepared: Prepared, rng: np.random.Generator) -> Prepared:
        """The sequence without what the model is not to see of it; the target may become what that was, or what
        fits the part of the item that was cut."""
        return prepared

    @classmethod
    def collate(cls, info: TaskInfo, targets: list[Any]) -> Any:
        """Stack the targets of a batch's examples into a tensor, or a dictionary of tensors."""
        return torch.as_tensor(targets)

    @classmethod
    def count(cls, info: TaskInfo, examples: list[Prepared]) -> int:
        """What the summed loss over these examples is to be divided by."""
        return len(examples)

    def loss(self, tokens: Tokens, targets: Targets) -> TaskLoss:
        """The training loss over the task's sequences; a task without any in this batch gets zero rows."""
        raise NotImplementedError

    def weighed(self, loss: Tensor, share: float = 1.0) -> Tensor:
        """A loss () as it stands in the sum over tasks: of an uncertain one divided by its variance v, which is
        learned, with log(v) / 2 beside it (Kendall et al. 2018; at best v is twice the loss); times the task's weight.

        Args:
            share: of a step's items that this loss is of, so that micro-batches and processes add up.
        """
        if self.log_variance is not None:
            log_variance = self.log_variance[0]  # FSDP takes no parameter without an axis
            loss = loss * (-log_variance).exp() + share * log_variance / 2
        return self.info.weight * loss

    def outputs(self, tokens: Tokens, rows: Tensor) -> Tensor:
        """(n, …) what `score` and `answers` work on, a row for each of the sequences `rows` (packed numbers); of a task
        that tags (tokens, …), for each token of the first of them, then of the second, and so on."""
        raise NotImplementedError

    def judged(self, tokens: Tokens, targets: Targets) -> Tensor:
        """`outputs` for `score`, for tasks that can only be judged where the answer is at hand."""
        return self.outputs(tokens, targets.rows)

    def probabilities(self, outputs: Tensor) -> Tensor:
        """(n, labels) of each row of `outputs`, in the order of `info.labels`.

        Raises:
            UnitxError: the task does not predict labels.
        """
        raise UnitxError(f"task '{self.info.name}' ({self.info.kind}) does not predict labels")

    def answers(self, outputs: Tensor, top: int) -> list[list[Answer]]:
        """For each row of `outputs` the `top` best answers, best first."""
        scores, places = self.probabilities(outputs).topk(min(top, len(self.info.labels)))
        rows = zip(places.tolist(), scores.tolist(), strict=True)
        return [[Answer(self.info.labels[i], s) for i, s in zip(*row, strict=True)] for row in rows]

    def spans(self, outputs: Tensor, extents: np.ndarray, text: str | None, top: int) -> list[Any]:
        """Of a task that tags: what it says of an item, in the order in which it stands there.

        Args:
            outputs: of all tokens of the item.
            extents: (tokens, 2) where they stand, as `Processor.extents` gives them.
            text: the item, where it is one.
            top: answers at most, those that are surest.
        """
        raise NotImplementedError

    def draw(self, item: Any, found: list[Any]) -> Any:
        """A PIL picture of an item and the answers to it.

        Raises:
            UnitxError: there is nothing to be seen.
        """
        raise UnitxError(f"what task '{self.info.name}' ({self.info.kind}) says cannot be drawn: leave out --draw")

    def sketches(self, model: Model, preparer: Preparer, drawn: list[Drawn]) -> list[Sketch]:
        """A few rows and what the task says of them, for `report.png`; none where there is nothing to be seen."""
        return []

    def score(self, outputs: Tensor, targets: Any) -> dict[str, float]:
        """Metrics over a whole evaluation set, from `outputs` and the collated targets of all its sequences."""
        raise NotImplementedError
