"""The embedding head of a published model: one vector of a sequence's tokens, mapped as the model was trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from unitx.backbone import Linear
from unitx.errors import UnitxError
from unitx.registry import register_task
from unitx.task import Task, TaskInfo
from unitx.tokens import Tokens

if TYPE_CHECKING:
    from unitx.tokenizer import Processor

POOLINGS = ("mean", "first", "last")


@register_task("pool")
class Pool(Task):
    """Embeds by the mean, the first or the last token of a sequence. It is loaded, never trained: see `align`."""

    @dataclass(frozen=True)
    class Options:
        """
        Attributes:
            pooling: "mean", "first" (a class token) or "last" (a decoder).
            dense: a linear map and tanh follow (BERT's pooler).
            prompts: name → what is put before a text, as "query: ".
            default_prompt_name: of the one that is put before every text where no other is asked for.
            normalize: vectors get unit length (sentence-transformers' Normalize).
            similarity_fn_name: how its vectors are compared, in sentence-transformers' words.

        Raises:
            UnitxError: there is no such pooling.
        """

        pooling: str = "mean"
        dense: bool = False
        prompts: dict[str, str] = field(default_factory=dict)
        default_prompt_name: str | None = None
        normalize: bool = False
        similarity_fn_name: str = "cosine"

        def __post_init__(self) -> None:
            if self.pooling not in POOLINGS:
                raise UnitxError(f"pooling is {self.pooling!r}; it can be {', '.join(POOLINGS)}")

    embeds = True

    def prompt(self, name: str | None) -> str:
        name = self.options.default_prompt_name if name is None else name
        return "" if name is None else self.options.prompts.get(name, name)

    def __init__(self, dim: int, info: TaskInfo, processors: dict[str, Processor]):
        super().__init__(dim, info, processors)
        if self.options.dense:
            self.dense = Linear(dim, dim)

    def outputs(self, tokens: Tokens, rows: Tensor) -> Tensor:
        """(n, dim) float32."""
        offsets = tokens.layout.offsets.long()
        if self.options.pooling == "mean":
            found = tokens.mean()
        else:
            place = offsets[:-1] if self.options.pooling == "first" else offsets[1:] - 1
            found = tokens.vectors.index_select(0, place)
        found = found.index_select(0, rows)
        found = torch.tanh(self.dense(found)).float() if self.options.dense else found.float()
        return F.normalize(found, dim=-1) if self.options.normalize else found
