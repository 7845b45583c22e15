"""Classification: one answer, or several, to a whole sequence of any modality."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unitx.backbone import Linear
from unitx.errors import UnitxError
from unitx.pooling import Pooler, Pooling
from unitx.registry import register_task
from unitx.source import labels_in, labels_of
from unitx.task import Task, TaskInfo, TaskLoss
from unitx.tokens import Example, Targets, Tokens

if TYPE_CHECKING:
    from unitx.source import Source
    from unitx.tokenizer import Processor


@register_task("classify")
class Classify(Task):
    """A linear head on one vector of a sequence: the mean of its tokens, or what a published model makes of them.

    Targets are (n, classes) float: a one-hot row, several ones for `multi_label`, or a mixture (mixup).
    """

    @dataclass(frozen=True)
    class Options:
        """
        Attributes:
            multi_label: a row may have several labels, in a list or parted by "|".
            label_smoothing: share of the target that is spread over all classes (Szegedy et al. 2016); not with
                `multi_label`, whose answers are no shares.
            class_weights: "auto" weighs a class by the inverse of its frequency, "none" all alike.
            pooling: the name of a kind, or the fields of `Pooling`.

        Raises:
            UnitxError: an option is out of range.
        """

        multi_label: bool = False
        label_smoothing: float = 0.1
        class_weights: str = "none"
        pooling: Pooling = field(default_factory=Pooling)

        def __post_init__(self) -> None:
            object.__setattr__(self, "pooling", Pooling.parse(self.pooling))
            if self.class_weights not in ("none", "auto"):
                raise UnitxError(f"class_weights is {self.class_weights!r}; it can be 'none' or 'auto'")
            if not 0 <= self.label_smoothing < 1:
                raise UnitxError(f"label_smoothing is {self.label_smoothing!r}; it must be from 0 to below 1")

    classifies = True
    class_weights: Tensor

    def __init__(self, dim: int, info: TaskInfo, processors: dict[str, Processor]):
        super().__init__(dim, info, processors)
        self.pooler = Pooler(dim, self.options.pooling)
        self.head = Linear(self.pooler.width, len(info.labels))
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)
        weights = _class_weights(info) if self.options.class_weights == "auto" else torch.ones(len(info.labels))
        self.register_buffer("class_weights", weights, persistent=False)

    @property
    def headline(self) -> str:  # type: ignore[override]
        return "average_precision" if self.options.multi_label else "accuracy"

    @classmethod
    def fit(cls, info: TaskInfo, source: Source) -> TaskInfo:
        """Learn the class names and how many rows have each.

        Raises:
            UnitxError: no label column is named, or its cells hold lists and the task is not `multi_label`.
        """
        if info.label is None:
            raise UnitxError(f"task '{info.name}' has no label: name the column that holds the answer with --label")
        multi = cls.parse_options(info).multi_label
        if not multi and any(len(cell) > 1 for cell in source.column(info.label) if isinstance(cell, list)):
            raise UnitxError(
                f"'{info.label}' holds several labels in one row: set --tasks.{info.name}.options.multi_label true"
            )
        names, counts = labels_of(source, info.label, multi)
        return replace(info, labels=names, facts={**info.facts, "class_counts": counts})

    @classmethod
    def examples(cls, info: TaskInfo, row: dict[str, Any]) -> list[Example]:
        target = cls.target(info, row.get(info.label) if info.label else None)
        parts = info.parts(row)
        return [Example(parts, target)] if parts and target is not None else []

    @classmethod
    def target(cls, info: TaskInfo, cell: Any) -> np.ndarray | None:
        """(classes,) float32 of a label's cell; None where it is empty or names no class of the model.

        With `multi_label` an empty list is an answer: no label holds.
        """
        multi = info.multi_label
        target = np.zeros(len(info.labels), dtype=np.float32)
        target[[info.numbers[name] for name in labels_in(cell, multi) if name in info.numbers]] = 1.0
        return target if target.any() or (multi and isinstance(cell, list) and not cell) else None

    @classmethod
    def collate(cls, info: TaskInfo, targets: list[Any]) -> Tensor:
        return torch.from_numpy(np.stack(targets)) if targets else torch.zeros(0, len(info.labels))

    def outputs(self, tokens: Tokens, rows: Tensor) -> Tensor:
        """(n, classes) logits, float32."""
        return self.head(self.pooler(tokens).index_select(0, rows)).float()

    def loss(self, tokens: Tokens, targets: Targets) -> TaskLoss:
        logits = self.outputs(tokens, targets.rows)
        if self.options.multi_label:
            losses = F.binary_cross_entropy_with_logits(logits, targets.values, reduction="none")
            total = (losses * self.class_weights).mean(-1).sum()
            correct = ((logits > 0) == (targets.values > 0.5)).float().mean(-1).sum()
        else:
            total = F.cross_entropy(
                logits,
                targets.values,
                self.class_weights,
                reduction="sum",
                label_smoothing=self.options.label_smoothing,
            )
            correct = (logits.argmax(-1) == targets.values.argmax(-1)).float().sum()
        return TaskLoss(total, {"accuracy": correct.detach()})

    def probabilities(self, outputs: Tensor) -> Tensor:
        """(n, classes): softmax, or a sigmoid each where several labels may hold."""
        return outputs.sigmoid() if self.options.multi_label else outputs.softmax(-1)

    def score(self, outputs: Tensor, targets: Any) -> dict[str, float]:
        from sklearn.metrics import average_precision_score, f1_score

        from unitx.evaluation import class_rates

        if self.options.multi_label:
            present = targets.sum(0) > 0
            precision = average_precision_score(targets[:, present], outputs[:, present]) if present.any() else 0.0
            holds, said = (targets > 0.5).numpy(), (outputs > 0).numpy()
            f1 = np.nan_to_num(class_rates((holds & said).sum(0), holds.sum(0), said.sum(0))["f1"])
            return {"average_precision": float(precision), "macro_f1": float(f1.mean())}
        truth, found = targets.argmax(-1), outputs.argmax(-1)
        return {
            "accuracy": float((truth == found).float().mean()),
            "macro_f1": float(f1_score(truth, found, average="macro", zero_division=0)),
            "loss": float(F.cross_entropy(outputs, targets)),
        }


def _class_weights(info: TaskInfo) -> Tensor:
    """Inverse frequency, scaled so that the weights of the training rows average one."""
    counts = torch.tensor([max(c, 1) for c in info.facts["class_counts"]], dtype=torch.float)
    return counts.sum() / (len(counts) * counts)
