"""Regression: numbers for a whole sequence of any modality."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from unitx.backbone import Linear
from unitx.cells import comma_advice, number_of
from unitx.errors import BadItem, UnitxError
from unitx.media import describe
from unitx.pooling import Pooler, Pooling
from unitx.registry import register_task
from unitx.source import parsed_cells
from unitx.task import Answer, Task, TaskInfo, TaskLoss
from unitx.tokens import Example, Targets, Tokens

if TYPE_CHECKING:
    from unitx.source import Source
    from unitx.tokenizer import Processor


@register_task("regress")
class Regress(Task):
    """A linear head on one vector of a sequence says a number, or as many as the cells of the label's column list.

    It learns by the squared error of standardised numbers, and answers in those of the data. Reports the mean absolute
    error and R², the share of the variance that is explained, by scikit-learn; of several numbers their mean.
    """

    @dataclass(frozen=True)
    class Options:
        """
        Attributes:
            pooling: the name of a kind, or the fields of `Pooling`.
        """

        pooling: Pooling = field(default_factory=Pooling)

        def __post_init__(self) -> None:
            object.__setattr__(self, "pooling", Pooling.parse(self.pooling))

    headline = "r2"
    answer = "number"

    def __init__(self, dim: int, info: TaskInfo, processors: dict[str, Processor]):
        super().__init__(dim, info, processors)
        self.pooler = Pooler(dim, self.options.pooling)
        self.head = Linear(self.pooler.width, len(info.facts["mean"]))
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)

    @classmethod
    def fit(cls, info: TaskInfo, source: Source) -> TaskInfo:
        """Learn the mean and the standard deviation of the numbers.

        Raises:
            UnitxError: no label column is named, most cells hold no numbers, some more than others, or all are equal.
        """
        if info.label is None:
            raise UnitxError(f"task '{info.name}' has no label: name the column that holds the number with --label")
        rows = parsed_cells(source, info.label, lambda cell: _numbers(cell, info.label))
        if len({len(row) for row in rows}) != 1:
            raise UnitxError(f"'{info.label}' must hold as many numbers in every row, and in one at least")
        mean, std = np.mean(rows, axis=0), np.std(rows, axis=0)
        if not (varies := np.ptp(rows, axis=0) > 0).all():  # the deviation of equal numbers is seldom quite 0
            raise UnitxError(f"the numbers in '{info.label}' are all {mean[~varies][0]:g}: there is nothing to learn")
        return replace(info, facts={**info.facts, "mean": mean.tolist(), "std": std.tolist()})

    @classmethod
    def examples(cls, info: TaskInfo, row: dict[str, Any]) -> list[Example]:
        """Of a row without anything to read or without a number, none.

        Raises:
            BadItem: it holds something else.
        """
        parts, cell = info.parts(row), row.get(info.label) if info.label else None
        if not parts or cell is None:
            return []
        numbers = _numbers(cell, info.label)
        if len(numbers) != len(info.facts["mean"]):
            raise BadItem(f"'{info.label}' holds {describe(cell)}: the model gives {len(info.facts['mean'])} numbers")
        return [Example(parts, numbers)]

    @classmethod
    def collate(cls, info: TaskInfo, targets: list[Any]) -> Tensor:
        """(n, numbers) float32, standardised: in the units of the data many would be one number in float32."""
        mean, std = _scale(info)
        return torch.from_numpy((np.reshape(targets, (-1, len(mean))) - mean) / std).float()

    def outputs(self, tokens: Tokens, rows: Tensor) -> Tensor:
        """(n, numbers) float32, standardised."""
        return self.head(self.pooler(tokens).index_select(0, rows)).float()

    def loss(self, tokens: Tokens, targets: Targets) -> TaskLoss:
        off = self.outputs(tokens, targets.rows) - targets.values
        mae = (off.detach() * off.new_tensor(self.info.facts["std"])).abs().mean(1).sum()
        return TaskLoss(off.square().mean(1).sum(), {"mae": mae})

    def answers(self, outputs: Tensor, top: int) -> list[list[Answer]]:
        """All numbers of each, named by the label's column: `Answer(label, number)`."""
        several = outputs.shape[1] > 1
        names = [f"{self.info.label} {i + 1}" if several else str(self.info.label) for i in range(outputs.shape[1])]
        numbers = self._in_units(outputs).tolist()
        return [[Answer(name, number) for name, number in zip(names, row, strict=True)] for row in numbers]

    def score(self, outputs: Tensor, targets: Any) -> dict[str, float]:
        from sklearn.metrics import mean_absolute_error, r2_score

        truth, said = self._in_units(targets), self._in_units(outputs)
        r2 = r2_score(truth, said) if len(truth) > 1 else 0.0  # of one row it is not defined
        return {"r2": float(r2), "mae": float(mean_absolute_error(truth, said))}

    def _in_units(self, numbers: Tensor) -> np.ndarray:
        """Standardised numbers (n, numbers) in the units of the data, float64."""
        mean, std = _scale(self.info)
        return numbers.numpy().astype(np.float64) * std + mean


def _scale(info: TaskInfo) -> tuple[np.ndarray, np.ndarray]:
    """The mean and the standard deviation of each number."""
    return np.array(info.facts["mean"]), np.array(info.facts["std"])


def _numbers(cell: Any, column: str | None) -> list[float]:
    """The numbers of a cell.

    Raises:
        BadItem: it holds something else, NaN or infinity.
    """
    cell = cell.tolist() if isinstance(cell, np.ndarray) else cell
    parts = list(cell) if isinstance(cell, list | tuple) else [cell]
    if not parts or any(isinstance(part, float) and not math.isfinite(part) for part in parts):
        raise BadItem(f"'{column}' holds {describe(cell)}: give finite numbers")
    numbers = [number for number in map(number_of, parts) if number is not None]
    if len(numbers) < len(parts):
        advice = comma_advice(parts)
        raise BadItem(f"'{column}' holds {describe(cell)}, which is no number" + (f"; {advice}" if advice else ""))
    return numbers
