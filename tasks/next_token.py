"""Language modelling: say what comes next."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unitx.backbone import Linear
from unitx.errors import UnitxError
from unitx.registry import register_task
from unitx.task import Task, TaskInfo, TaskLoss
from unitx.tokens import Example, Prepared, Targets, Tokens

if TYPE_CHECKING:
    from unitx.tokenizer import Processor


@register_task("next_token")
class NextToken(Task):
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
    generates = True
    byte_lengths: Tensor

    def __init__(self, dim: int, info: TaskInfo, processors: dict[str, Processor]):
        super().__init__(dim, info, processors)
        found = {modality: processors[modality] for modality in info.reads.values()}
        text: Any = next(iter(found.values()))
        if len(found) > 1 or not hasattr(text, "vocab_size"):
            what = ", ".join(f"{column}:{modality}" for column, modality in info.reads.items())
            raise UnitxError(f"task '{info.name}' continues text and cannot read {what}: name text columns in --reads")
        self.head = Linear(dim, text.vocab_size, bias=False)
        nn.init.zeros_(self.head.weight)
        self.register_buffer("byte_lengths", torch.as_tensor(text.byte_lengths), persistent=False)

    def share(self, tokenizers: nn.ModuleDict) -> None:
        if self.options.tied:
            (modality,) = self.info.reads.values()
            self.head.weight = cast(Any, tokenizers[modality]).embed.weight

    @classmethod
    def examples(cls, info: TaskInfo, row: dict[str, Any]) -> list[Example]:
        parts = info.parts(row)
        return [Example(parts, prefix_parts=0)] if parts else []

    @classmethod
    def collate(cls, info: TaskInfo, targets: list[Any]) -> None:
        return None

    @classmethod
    def count(cls, info: TaskInfo, examples: list[Prepared]) -> int:
        return sum(len(example) - 1 for example in examples)

    def _losses(self, tokens: Tokens, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """For every predicted token of the sequences: nats, the predicted id, its sequence's packed number."""
        layout = tokens.layout
        wanted = torch.zeros(len(layout), dtype=torch.bool, device=layout.device)
        wanted[rows] = True
        # A token is predicted by the one before it, unless it is the first of its sequence.
        predicted = (wanted[layout.segments] & (layout.within > 0)).nonzero()[:, 0]
        ids = layout.ids[predicted]
        logits = self.head(tokens.vectors.index_select(0, predicted - 1)).float()
        return F.cross_entropy(logits, ids, reduction="none"), ids, layout.segments[predicted]

    def loss(self, tokens: Tokens, targets: Targets) -> TaskLoss:
        nats, _, _ = self._losses(tokens, targets.rows)
        return TaskLoss(nats.sum(), targets.count, {})

    def outputs(self, tokens: Tokens, rows: Tensor) -> Tensor:
        """(n, 3): for each sequence the summed nats, the bytes they stand for, and the tokens predicted."""
        nats, ids, segments = self._losses(tokens, rows)
        each = torch.stack([nats, self.byte_lengths[ids].float(), torch.ones_like(nats)], dim=1)
        sums = each.new_zeros(len(tokens.layout), 3).index_add(0, segments, each)
        return sums.index_select(0, rows)

    def score(self, outputs: Tensor, targets: Any) -> dict[str, float]:
        nats, byte_count, count = outputs.double().sum(0).tolist()
        return {
            "bits_per_byte": nats / math.log(2) / max(byte_count, 1),
            "loss": nats / max(count, 1),
        }

    def next_logits(self, vectors: Tensor) -> Tensor:
        """(n, vocabulary) float32 logits of the token after each of the vectors (n, dim)."""
        return self.head(vectors).float()
