"""Language modelling: say what comes next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor, nn

from unitx.errors import UnitxError
from unitx.registry import register_task
from unitx.task import TaskInfo
from unitx.tokens import Example
from unitx.writing import TEXT, LanguageHead, bits

if TYPE_CHECKING:
    from unitx.tokenizer import Processor


@register_task("next_token")
class NextToken(LanguageHead):
    """Predicts the id after every token of a text; no token sees a later one (prefix 0).

    Reports bits per byte, which does not depend on the vocabulary.
    """

    @dataclass(frozen=True)
    class Options:
        """
        Attributes:
            tied: the head's matrix is the table of token vectors (Press and Wolf 2017).
        """

        tied: bool = False

    headline = "bits_per_byte"
    lower_is_better = True

    def __init__(self, dim: int, info: TaskInfo, processors: dict[str, Processor]):
        if set(info.reads.values()) != {TEXT}:
            what = ", ".join(f"{column}:{modality}" for column, modality in info.reads.items())
            raise UnitxError(f"task '{info.name}' continues text and cannot read {what}: name text columns in --reads")
        super().__init__(dim, info, processors)

    def tie_weights(self, tokenizers: nn.ModuleDict) -> None:
        if self.options.tied:
            self.head.weight = cast(Any, tokenizers[TEXT]).embed.weight

    @classmethod
    def examples(cls, info: TaskInfo, row: dict[str, Any]) -> list[Example]:
        parts = info.parts(row)
        return [Example(parts, prefix_parts=0)] if parts else []

    @classmethod
    def collate(cls, info: TaskInfo, targets: list[Any]) -> None:
        return None

    def score(self, outputs: Tensor, targets: Any) -> dict[str, float]:
        return bits(outputs)
