"""A model behind the interface of `SentenceTransformer` (Reimers and Gurevych 2019) and of MTEB's encoders.

Code that was written for sentence-transformers calls `encode` and gets what it would get there. MTEB (Muennighoff et
al. 2023) calls the same method with a loader and the task's metadata; mteb is imported only then.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unitx.errors import UnitxError
from unitx.identity import model_identity
from unitx.model import Model

TOKENS = 512  # that a sentence of `batch_size` is counted as: 32 of them are what `Model.embed` takes at once
SIMILARITIES = ("cosine", "dot")
DOCUMENT_PROMPTS = ("document", "passage", "corpus")  # the first that the model has, as in sentence-transformers
Vectors = np.ndarray | Tensor | list[Tensor]


class SentenceEncoder:
    """A model that reads text, with the methods that code for `SentenceTransformer` calls.

    Args:
        model: a `Model`, or what `Model.from_pretrained` takes.
        revision, device, hub: for `Model.from_pretrained`.

    Attributes:
        model: the model that encodes.
        prompts: name → what is put before a text.
        similarity_fn_name: "cosine" or "dot", how the model's vectors are compared.

    Raises:
        UnitxError: the model reads no text, or its vectors are compared otherwise.
    """

    def __init__(
        self, model: Model | str | Path, revision: str | None = None, *, device: str | None = None, **hub: Any
    ):
        self.name = None if isinstance(model, Model) else str(model)
        self.revision = revision
        loaded = model if isinstance(model, Model) else Model.from_pretrained(model, device, revision=revision, **hub)
        loaded.check_reads("text")
        self.model = loaded.to(device) if device else loaded
        options: Any = getattr(self.model.embedding_head, "options", None)
        self.prompts: dict[str, str] = dict(getattr(options, "prompts", {}))
        self.similarity_fn_name: str = getattr(options, "similarity_fn_name", "cosine")
        if self.similarity_fn_name not in SIMILARITIES:
            raise UnitxError(
                f"the model's vectors are compared by '{self.similarity_fn_name}'; "
                f"supported are {', '.join(SIMILARITIES)}: use Model.embed and compare them yourself"
            )

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def max_seq_length(self) -> int:
        """The most tokens of a text that go through the model at once."""
        return self.model.processors["text"].max_tokens

    def get_embedding_dimension(self) -> int:
        """How many numbers a vector has."""
        head = self.model.embedding_head
        return self.model.backbone.config.dim if head is None else head.embedding_dim

    get_sentence_embedding_dimension = get_embedding_dimension  # its name before sentence-transformers 6

    def encode(
        self,
        inputs: Any,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        *,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: str | torch.device | None = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        task_metadata: Any = None,
        hf_split: str | None = None,
        hf_subset: str | None = None,
        prompt_type: Any = None,
    ) -> Any:
        """The vectors of texts, or of dictionaries of modality → item; a string is a text, never a path.

        Args:
            inputs: one or many; from MTEB a loader of batches, with `task_metadata`.
            prompt_name: of the prompt that is put before each text; `prompt` says its words, and goes before the name.
            batch_size: how many texts go through the model at once, each counted as 512 tokens.
            convert_to_numpy, convert_to_tensor: an array, a tensor on the model's device, or with neither a list of
                such tensors.
            device: where the model is moved first.
            normalize_embeddings: whether vectors have unit length where the model itself does not make it so.
            truncate_dim: only the first so many numbers of each vector.
            task_metadata, hf_split, hf_subset, prompt_type: from MTEB, which asks for prompts by task and kind.

        Returns: (n, dim) float32, (dim,) for a single input.

        Raises:
            BadItem: an item that cannot be read; says which.
            UnitxError: the model knows no such prompt or modality.
        """
        settings: dict[str, Any] = dict(
            batch_size=batch_size, show_progress_bar=show_progress_bar, convert_to_numpy=convert_to_numpy,
            convert_to_tensor=convert_to_tensor, device=device, normalize_embeddings=normalize_embeddings,
            truncate_dim=truncate_dim,
        )  # fmt: skip
        if task_metadata is not None:
            return self._encode_task(inputs, task_metadata, prompt_type, settings)
        if batch_size < 1:
            raise UnitxError(f"batch_size is {batch_size}; it must be at least 1")
        if device is not None:
            self.model.to(device)
        single = isinstance(inputs, str | dict)
        words = self._prompt(prompt_name) if prompt is None else prompt
        vectors = self.model.embed(
            [_with_words(item, words or "") for item in ([inputs] if single else inputs)],
            batch_tokens=batch_size * TOKENS,
            normalize=normalize_embeddings,
            prompt=words and "",  # which stand there already, and are no name
            truncate_dim=truncate_dim,
            show_progress=show_progress_bar,
        )
        found: Vectors = vectors
        if convert_to_tensor or not convert_to_numpy:
            found = torch.from_numpy(vectors).to(self.device)
            found = found if convert_to_tensor else list(found)
        return found[0] if single else found

    def encode_query(self, inputs: Any, prompt_name: str | None = None, prompt: str | None = None, **given: Any) -> Any:
        """`encode` with the model's prompt for queries, where no other is asked for."""
        if prompt_name is None and prompt is None and "query" in self.prompts:
            prompt_name = "query"
        return self.encode(inputs, prompt_name, prompt, **given)

    def encode_document(
        self, inputs: Any, prompt_name: str | None = None, prompt: str | None = None, **given: Any
    ) -> Any:
        """`encode` with the model's prompt for documents, where no other is asked for."""
        if prompt_name is None and prompt is None:
            prompt_name = next((name for name in DOCUMENT_PROMPTS if name in self.prompts), None)
        return self.encode(inputs, prompt_name, prompt, **given)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """(n, m) how alike each of the first vectors (n, dim) and each of the second (m, dim) are."""
        return self._comparable(embeddings1) @ self._comparable(embeddings2).T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """(n,) how alike the first and the second vector of each pair are; both are (n, dim)."""
        return (self._comparable(embeddings1) * self._comparable(embeddings2)).sum(-1)

    @property
    def mteb_model_meta(self) -> Any:
        """What MTEB files results under. A model in memory is called by a hash of its weights, so that its cache does
        not take the results of one for those of another."""
        from mteb.models.model_meta import ModelMeta, ScoringFunction

        identity = model_identity(self.model)["text"][:16]
        name = self.name or f"unitx/{identity}"
        return ModelMeta.create_empty(
            {
                "name": name if "/" in name else f"unitx/{name}",
                "revision": self.revision or identity,
                "modalities": [m for m in self.model.modalities if m in ("image", "text")],
                "embed_dim": self.get_embedding_dimension(),
                "max_tokens": self.max_seq_length,
                "n_parameters": sum(p.numel() for p in self.model.parameters()),
                "similarity_fn_name": ScoringFunction(self.similarity_fn_name),
            }
        )

    def _encode_task(self, batches: Iterable[Any], task: Any, prompt_type: Any, settings: dict[str, Any]) -> Any:
        """MTEB's batches, columns by name, with the prompt that the model has for the task or the kind of text."""
        from mteb.models.abs_encoder import get_prompt_name

        names = self.mteb_model_meta.modalities
        items = [
            dict(zip(columns, row, strict=True))
            for batch in batches
            for columns in [[name for name in names if name in batch]]
            for row in zip(*(batch[name] for name in columns), strict=True)
        ]
        name = get_prompt_name(self.prompts, task, prompt_type)
        if prompt_type is None:
            return self.encode(items, name, **settings)
        return (self.encode_query if prompt_type.value == "query" else self.encode_document)(items, name, **settings)

    def _prompt(self, name: str | None) -> str | None:
        """The words of a prompt by name; None for the model's own choice."""
        if name is not None and name not in self.prompts:
            known = ", ".join(self.prompts) or "none"
            raise UnitxError(f"the model knows no prompt '{name}'; it knows: {known}; or give the words as prompt=")
        return None if name is None else self.prompts[name]

    def _comparable(self, vectors: Any) -> Tensor:
        """(n, dim) float32, so that dot products say how alike they are; one vector alone is one row."""
        rows = torch.stack([torch.as_tensor(v) for v in vectors]) if isinstance(vectors, list) else vectors
        rows = torch.atleast_2d(torch.as_tensor(rows)).float()
        return F.normalize(rows, dim=-1) if self.similarity_fn_name == "cosine" else rows


def _with_words(item: Any, words: str) -> dict[str, Any]:
    """An item by modality, its text behind the words of a prompt."""
    parts = {"text": item} if isinstance(item, str) else item
    return {m: words + part if m == "text" and isinstance(part, str) else part for m, part in parts.items()}
