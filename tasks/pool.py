"""The embedding head of a published model: one vector of a sequence's tokens, mapped as the model was trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from unitx.errors import UnitxError
from unitx.pooling import Pooler, Pooling
from unitx.registry import register_task
from unitx.task import Task, TaskInfo
from unitx.tokens import Tokens

if TYPE_CHECKING:
    from unitx.data import Source
    from unitx.tokenizer import Processor


@register_task("pool")
class Pool(Task):
    """Embeds by what `pooling` makes of a sequence. It is loaded, never trained: see `align`."""

    @dataclass(frozen=True)
    class Options:
        """
        Attributes:
            pooling: the name of a kind, or the fields of `Pooling`.
            prompts: name → what is put before a text, as "query: ".
            default_prompt_name: of the one that is put before every text where no other is asked for.
            normalize: vectors get unit length (sentence-transformers' Normalize).
            similarity_fn_name: how its vectors are compared, in sentence-transformers' words.

        Raises:
            UnitxError: there is no such pooling.
        """

        pooling: Pooling = field(default_factory=Pooling)
        prompts: dict[str, str] = field(default_factory=dict)
        default_prompt_name: str | None = None
        normalize: bool = False
        similarity_fn_name: str = "cosine"

        def __post_init__(self) -> None:
            object.__setattr__(self, "pooling", Pooling.parse(self.pooling))

    embeds = True

    def prompt(self, name: str | None) -> str:
        name = self.options.default_prompt_name if name is None else name
        return "" if name is None else self.options.prompts.get(name, name)

    def __init__(self, dim: int, info: TaskInfo, processors: dict[str, Processor]):
        super().__init__(dim, info, processors)
        self.pooler = Pooler(dim, self.options.pooling)
        self.embedding_dim = self.pooler.width

    @classmethod
    def fit(cls, info: TaskInfo, source: Source) -> TaskInfo:
        """Raises: UnitxError: always; there is nothing that it could be trained on."""
        raise UnitxError(f"task '{info.name}': a pool comes with a published model and is not trained; use kind align")

    def outputs(self, tokens: Tokens, rows: Tensor) -> Tensor:
        """(n, width) float32."""
        found = self.pooler(tokens).index_select(0, rows).float()
        return F.normalize(found, dim=-1) if self.options.normalize else found
