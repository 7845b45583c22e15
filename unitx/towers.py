"""Several models that share one space of embeddings: CLIP and SigLIP have a tower for each modality."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unitx import embedding
from unitx.errors import BadItem, UnitxError
from unitx.model import CONFIG, Model
from unitx.recipe import FORMAT
from unitx.tokenizer import Processor

OF_ONE = ("backbone", "tokenizers", "heads", "frozen")  # besides the methods of `Model`


class Towers(nn.Module):
    """Embeds items of several modalities, each by its own `Model`; a tower is a whole model, for all that models do.

    Args:
        towers: modality → the model that reads it, and nothing else.
        scale, bias: what a cosine is multiplied by, and what is added, for a logit (see `similarity`).
    """

    def __init__(self, towers: dict[str, Model], scale: float = 1.0, bias: float = 0.0):
        super().__init__()
        self.towers = nn.ModuleDict({modality: towers[modality] for modality in sorted(towers)})
        self.scale, self.bias = scale, bias

    def __getattr__(self, name: str) -> Any:
        if name in OF_ONE or (hasattr(Model, name) and not hasattr(nn.Module, name)):
            one = self.modalities[0]
            raise UnitxError(
                f"'{name}' is a matter of one tower: take model.tower('{one}'); in a folder that `unitx convert` "
                f"wrote, FOLDER/{one} is a model too"
            )
        return super().__getattr__(name)

    @property
    def modalities(self) -> list[str]:
        """What the towers read, sorted."""
        return list(self.towers)

    @property
    def compute_dtype(self) -> torch.dtype:
        """Of the activations, in all towers."""
        return self.tower(self.modalities[0]).compute_dtype

    @compute_dtype.setter
    def compute_dtype(self, dtype: torch.dtype) -> None:
        for modality in self.modalities:
            self.tower(modality).compute_dtype = dtype

    @property
    def tasks(self) -> list[str]:
        """None: heads are the towers'."""
        return []

    @property
    def processors(self) -> dict[str, Processor]:
        """Modality → the data half of its tokenizer."""
        return {modality: self.tower(modality).processors[modality] for modality in self.modalities}

    def check_reads(self, modality: str) -> None:
        """Raise UnitxError for a modality that no tower reads; says which they read."""
        if modality not in self.towers:
            raise UnitxError(f"the model does not read '{modality}'; it reads: {', '.join(self.modalities)}")

    def tower(self, modality: str) -> Model:
        """The model that reads a modality.

        Raises:
            UnitxError: none does.
        """
        self.check_reads(modality)
        return self.towers[modality]  # type: ignore[return-value]

    def embed(self, items: Iterable[Any], modality: str | None = None, **options: Any) -> np.ndarray:
        """One vector an item, in one space; arguments as for `Model.embed`.

        Returns: (len(items), dim) float32, in the order given.

        Raises:
            BadItem: an item that cannot be read, or one of several modalities, which no tower reads together.
            UnitxError: a modality that no tower reads.
        """
        found = self._apart(items, modality, options, lambda tower, some, kind: tower.embed(some, kind, **options))
        none = self.tower(self.modalities[0]).embed([], **options)
        unread = np.full(none.shape[1], np.nan, np.float32)
        return np.stack([unread if vector is None else vector for vector in found]) if found else none

    def hidden_states(self, items: Iterable[Any], modality: str | None = None, **options: Any) -> list[Tensor]:
        """The output of each item's tower, (n_i, dim of that tower) float32; arguments as for `Model.hidden_states`."""
        found = self._apart(
            items, modality, options, lambda tower, some, kind: tower.hidden_states(some, kind, **options)
        )
        return [torch.zeros(0, 0) if states is None else states for states in found]

    def similarity(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """(len(a), len(b)) logits of two sets of unit vectors that `embed` gave, as the model was trained: CLIP's for a
        softmax over either side, SigLIP's for a sigmoid of each pair."""
        return self.scale * (a @ b.T) + self.bias

    def _apart(
        self,
        items: Iterable[Any],
        modality: str | None,
        options: dict[str, Any],
        compute: Callable[[Model, list[Any], str], Iterable[Any]],
    ) -> list[Any]:
        """What the towers compute, in the order of the items; None for what is no item of one tower, if skipped."""
        items = embedding.as_list(items)
        parts = [self._part(item, modality, skip=options.get("on_error") == "skip") for item in items]
        found: list[Any] = [None] * len(items)
        for kind in self.modalities:
            places = [i for i, part in enumerate(parts) if part and part[0] == kind]
            if places:
                some = [part[1] for part in parts if part and part[0] == kind]
                for place, one in zip(places, compute(self.tower(kind), some, kind), strict=True):
                    found[place] = one
        return found

    def _part(self, item: Any, modality: str | None, skip: bool) -> tuple[str, Any] | None:
        """An item's modality, and what of it is read."""
        try:
            parts = embedding.parts_of(self, item, modality)
            if len(parts) > 1:
                raise BadItem(f"an item of {' and '.join(m for m, _ in parts)}: each tower reads one; give them apart")
        except BadItem as error:
            if not skip:
                raise
            warnings.warn(f"left out: {error}", stacklevel=5)
            return None
        return parts[0]

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype = torch.float32) -> Path:
        """Write config.json, and each tower as a model's folder of its own in it."""
        folder = Path(folder).expanduser()
        for modality in self.modalities:
            self.tower(modality).save_pretrained(folder / modality, dtype)
        config = {"format": FORMAT, "towers": self.modalities, "scale": self.scale, "bias": self.bias}
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
        return folder
