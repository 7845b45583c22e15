"""Classification: one answer, or several, to a whole sequence of any modality."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unitx.backbone import Linear
from unitx.data import labels_of
from unitx.registry import register_task
from unitx.task import Answer, Task, TaskInfo, TaskLoss
from unitx.tokens import Example, Targets, Tokens

if TYPE_CHECKING:
    from unitx.data import Source
    from unitx.tokenizer import Processor

SEPARATOR = "|"  # between the labels of one cell, where a row may have several


@register_task("classify")
class Classify(Task):
    """A linear head on the mean of a sequence's tokens.

    Targets are (n, classes) float: a one-hot row, several ones for `multi_label`, or a mixture (mixup).
    """

    @dataclass(frozen=True)
    class Options:
        """
        Attributes:
            multi_label: a row may have several labels, in a list or parted by "|".
            label_smoothing: share of the target that is spread over all classes (Szegedy et al. 2016).
            class_weights: "auto" weighs a class by the inverse of its frequency, "none" all alike.
        """

        multi_label: bool = False
        label_smoothing: float = 0.1
        class_weights: str = "none"

    def __init__(self, dim: int, info: TaskInfo, processors: dict[str, Processor]):
        super().__init__(dim, info, processors)
        self.head = Linear(dim, len(info.labels))
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)
        weights = _class_weights(info) if self.options.class_weights == "auto" else torch.ones(len(info.labels))
        self.register_buffer("class_weights", weights, persistent=False)

    @property
    def headline(self) -> str:  # type: ignore[override]
        return "average_precision" if self.options.multi_label else "accuracy"

    @classmethod
    def fit(cls, info: TaskInfo, source: Source) -> TaskInfo:
        assert info.label is not None
        names, counts = labels_of(source, info.label, multi=cls.parse_options(info).multi_label)
        return replace(info, labels=names, facts={**info.facts, "class_counts": counts})

    @classmethod
    def examples(cls, info: TaskInfo, row: dict[str, Any]) -> list[Example]:
        target = cls.target(info, row.get(info.label) if info.label else None)
        parts = info.parts(row)
        return [Example(parts, target)] if parts and target is not None else []

    @classmethod
    def target(cls, info: TaskInfo, cell: Any) -> np.ndarray | None:
        """(classes,) float32 of a label's cell; None where it is empty or names no class of the model."""
        if cell is None:
            return None
        multi = info.options.get("multi_label", False)
        names = cell if isinstance(cell, list) else str(cell).split(SEPARATOR) if multi else [str(cell)]
        number = _numbers(tuple(info.labels))
        target = np.zeros(len(info.labels), dtype=np.float32)
        for name in names:
            if str(name).strip() in number:
                target[number[str(name).strip()]] = 1.0
        return target if multi or target.any() else None

    @classmethod
    def collate(cls, info: TaskInfo, targets: list[Any]) -> Tensor:
        return torch.from_numpy(np.stack(targets)) if targets else torch.zeros(0, len(info.labels))

    def outputs(self, tokens: Tokens, rows: Tensor) -> Tensor:
        """(n, classes) logits, float32."""
        return self.head(tokens.mean().index_select(0, rows)).float()

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
        return TaskLoss(total, targets.count, {"accuracy": correct.detach()})

    def probabilities(self, outputs: Tensor) -> Tensor:
        """(n, classes): softmax, or a sigmoid each where several labels may hold."""
        return outputs.sigmoid() if self.options.multi_label else outputs.softmax(-1)

    def answers(self, outputs: Tensor, top: int) -> list[list[Answer]]:
        scores, places = self.probabilities(outputs).topk(min(top, outputs.shape[1]))
        rows = zip(places.tolist(), scores.tolist(), strict=True)
        return [[Answer(self.info.labels[i], s) for i, s in zip(*row, strict=True)] for row in rows]

    def score(self, outputs: Tensor, targets: Any) -> dict[str, float]:
        from sklearn.metrics import average_precision_score, f1_score

        if self.options.multi_label:
            present = targets.sum(0) > 0
            chance = average_precision_score(targets[:, present], outputs[:, present], average="macro")
            f1 = f1_score(targets > 0.5, outputs > 0, average="macro", zero_division=0)
            return {"average_precision": float(chance), "macro_f1": float(f1)}
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


_NUMBERS: dict[tuple[str, ...], dict[str, int]] = {}


def _numbers(labels: tuple[str, ...]) -> dict[str, int]:
    if labels not in _NUMBERS:
        _NUMBERS[labels] = {name: i for i, name in enumerate(labels)}
    return _NUMBERS[labels]
