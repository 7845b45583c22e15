"""What a modality is made of: a `Processor` (data, in the workers) and a `Tokenizer` (learned, in the model)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from threading import Lock
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from unitx.errors import BadItem, UnitxError
from unitx.media import describe
from unitx.tokens import Pieces

LOCKS = [Lock() for _ in range(64)]  # an item's is found by its address


@dataclass(frozen=True)
class Processor:
    """The data half of a tokenizer: turns one raw item into `Pieces`. Frozen, picklable, without parameters.

    An item passes four steps, so that augmentation can stand between them and long items can be cut in two ways:
    `read` (decode), `features` (numbers), then `cut` (one piece sequence of at most `max_tokens`, for training) or
    `windows` (all of a long item, for embedding and predicting).
    """

    max_tokens: int = 256
    fit_options: ClassVar[tuple[str, ...]] = ()  # what `fit` takes besides the fields

    @classmethod
    def fit(cls, options: dict[str, Any], items: Iterator[Any]) -> Processor:
        """One with these options, and with what is to be learned of the training data (a vocabulary, say).

        Args:
            items: all that it will read in training, raw, in random order; those that cannot be read too.
        """
        return cls(**options)

    def notes(self, rows: int) -> list[str]:
        """What the log is to say of what it has learned from so many rows."""
        return []

    def read(self, item: Any) -> Any:
        """Decode what the user gave: a path, bytes, or an object in memory.

        Raises:
            BadItem: it cannot be read; the message names the item and the remedy.
        """
        raise NotImplementedError

    def read_alone(self, item: Any) -> Any:
        """`read`, by one thread at a time for the same item: a picture that is opened lazily, or a file object, may
        stand several times in a list, and two threads that read it at once break it.

        Raises:
            BadItem: it cannot be read, also where `read` meets what its author did not think of.
        """
        try:
            with LOCKS[id(item) // 16 % len(LOCKS)]:
                return self.read(item)
        except (TypeError, ValueError) as error:
            raise BadItem(f"{describe(item)} cannot be read: {' '.join(str(error).split())}") from error

    def features(self, raw: Any) -> Any:
        """The numbers that pieces are cut from: ids, pixels, a spectrogram. What `read` let pass must have them."""
        raise NotImplementedError

    def features_of(self, raws: list[Any]) -> list[Any]:
        """The features of many items: as one by one, in less time where a modality can share work between them."""
        return [self.features(raw) for raw in raws]

    def cut(self, features: Any, rng: np.random.Generator | None = None) -> Pieces:
        """At most `max_tokens` of it: a part chosen by `rng` where it is longer, the beginning without `rng`."""
        raise NotImplementedError

    def windows(self, features: Any) -> list[Pieces]:
        """All of it, in as many windows as needed; one where it fits. Not overlapping, none empty."""
        return [self.cut(features)]

    def extents(self, item: Any, windows: list[Pieces]) -> list[np.ndarray]:
        """Where the tokens stand in the item that windows, or a part, were cut from.

        Returns: for each window (tokens, 2), where a token begins and ends in the item's own unit (characters of a
            text, seconds of a sound); equal where it stands for nothing of the item.

        Raises:
            BadItem: it cannot be read.
            UnitxError: the processor does not know.
        """
        raise UnitxError(f"{type(self).__name__} does not say where its tokens stand in an item: give it `extents`")

    def with_positions(self) -> Processor:
        """The same for a tokenizer that learns positions, as one needs whose backbone has no rotary ones."""
        return self

    def prepare(self, item: Any, rng: np.random.Generator | None = None) -> Pieces:
        """`read`, `features` and `cut` in one."""
        return self.cut(self.features(self.read(item)), rng)


class Tokenizer(nn.Module):
    """The learned half: embeds pieces as vectors of the backbone's width.

    A new modality is a `Processor`, a `Tokenizer` and one `@register_tokenizer("name")`. Everything that happens before
    the first block is the tokenizer's: embedding, class and register tokens, learned positions, norms.

    Attributes:
        processor: its data half.
        Processor: the class of its data half; its fields are the modality's options in a recipe.
        needs: what else `forward` takes, by name: "starts" of a `Batch`, "grids" (of its modality), "dtype" of the
            activations.
    """

    needs: ClassVar[tuple[str, ...]] = ()

    def __init__(self, processor: Processor, dim: int):
        super().__init__()
        self.processor = processor

    Processor: ClassVar[type[Processor]]  # stands here so that `Processor` in `__init__` is the class above

    def forward(self, values: Tensor, counts: list[int]) -> Tensor:
        """Embed the pieces of many items laid end to end.

        Args:
            values: (sum of counts,) ids or (sum of counts, features); may have zero rows.
            counts: pieces of each item.

        Returns: (tokens, dim): for each item as many rows as its `Pieces.positions` has.
        """
        raise NotImplementedError
