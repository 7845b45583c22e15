"""Ragged batches: the vectors of all sequences laid end to end, without padding and without a padding mask.

    raw item --Processor--> Pieces --collate--> Batch --Tokenizer--> Tokens --Backbone--> Tokens

Packed tensors are cut only by `split`, `index_select` and `index_add`: a slice's backward writes a gradient of the
full size, so slicing in a loop over sequences costs the square of their number. Collate sorts sequences by length, so
that those of equal length lie side by side and are attended to as one dense tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

NO_ID = -1  # what `Layout.ids` holds for tokens that are not made from integer ids (patches of a picture, say)


@dataclass(slots=True)
class Pieces:
    """One item cut up by a processor.

    Attributes:
        values: (n,) integer ids or (n, features) float32.
        positions: (tokens, 3) int64, rotary's three axes time, row, column (M-RoPE, Wang et al. 2024), one row for
            every *token* that the tokenizer will make: a tokenizer that adds a class token has one row more than
            `values`. Text stands at (t, t, t), which equals one-dimensional rotary.
        shortened: whether a part of the item was left out to keep `max_tokens`.
        grid: how many patches lie along each axis, for tokenizers that need to know; their product is n.
        heard: the share of it that is the item, where the rest fills it up: what it weighs among the item's windows.
        part: which of the item's features it holds, from one up to another, for `Processor.extents`.
    """

    values: np.ndarray
    positions: np.ndarray
    shortened: bool = False
    grid: tuple[int, ...] = ()
    heard: float = 1.0
    part: tuple[int, int] = (0, 0)

    def __len__(self) -> int:
        return len(self.positions)


def line_positions(n: int) -> np.ndarray:
    """Positions (n, 3) of a plain sequence: token t stands at (t, t, t)."""
    return np.repeat(np.arange(n, dtype=np.int64)[:, None], 3, axis=1)


class Group(NamedTuple):
    """A run of sequences of equal length in a packed batch, and who sees whom in them."""

    count: int  # type: ignore[assignment]  # tuple.count, which nobody calls
    length: int
    kind: str  # "full" (prefix = length), "causal" (prefix ≤ 1: one token sees itself alone) or "prefix" (between)
    first: int  # the packed number of its first sequence


@dataclass(eq=False)
class Layout:
    """How a packed tensor (N, …) is cut into B sequences; made once a batch on the host, used by every layer.

    Sequences are in packed order: sorted by length. Attributes named (N, …) have a row a token.

    Attributes:
        lengths: B lengths.
        prefix: B numbers: the first `prefix` tokens of a sequence see each other freely, every later token sees the
            prefix and what came before it. `prefix == length` is an encoder, 0 a decoder, between them a prefix
            language model.
        order: packed sequence i is number order[i] of the list that the batch was made from.
        positions: (N, 3) int64.
        modality: (N,) int64, the place of the token's modality in the model's sorted list of modalities.
        ids: (N,) int64, the id that a token was made from, or NO_ID.
    """

    lengths: list[int]
    prefix: list[int]
    order: list[int]
    positions: Tensor
    modality: Tensor
    ids: Tensor
    _masks: dict[Any, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def sort(cls, lengths: Sequence[int], prefix: Sequence[int] | None = None) -> list[int]:
        """The packed order: by length, then by who sees whom, else as given."""
        prefix = lengths if prefix is None else prefix
        return sorted(range(len(lengths)), key=lambda i: (lengths[i], _kind(lengths[i], prefix[i])))

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def device(self) -> torch.device:
        return self.positions.device

    @cached_property
    def offsets(self) -> Tensor:
        """(B+1,) int32: sequence i is rows offsets[i] to offsets[i+1] (flash attention's cu_seqlens)."""
        ends = np.concatenate([[0], np.cumsum(self.lengths)]).astype(np.int32)
        return torch.from_numpy(ends).to(self.device)

    @cached_property
    def segments(self) -> Tensor:
        """(N,) int64: the packed number of the sequence that each token belongs to."""
        return torch.from_numpy(np.repeat(np.arange(len(self)), self.lengths)).to(self.device)

    @cached_property
    def within(self) -> Tensor:
        """(N,) int64: the place of each token in its own sequence, from 0."""
        return torch.arange(sum(self.lengths), device=self.device) - self.offsets.long()[self.segments]

    @cached_property
    def inverse(self) -> list[int]:
        """Sequence i of the original list is packed sequence inverse[i]."""
        return np.argsort(self.order).tolist()

    @cached_property
    def groups(self) -> list[Group]:
        """Runs of equal length and kind, in packed order."""
        keys = [(length, _kind(length, p)) for length, p in zip(self.lengths, self.prefix, strict=True)]
        found, first = [], 0
        for (length, kind), run in groupby(keys):
            count = len(list(run))
            found.append(Group(count, length, kind, first))
            first += count
        return found

    def mask(self, group: Group) -> Tensor:
        """(count, 1, length, length) bool, who sees whom in a group of kind "prefix"; made once for all layers."""
        if group not in self._masks:
            prefix = torch.tensor(self.prefix[group.first : group.first + group.count], device=self.device)
            i = torch.arange(group.length, device=self.device)
            self._masks[group] = visible(i[:, None], i[None, :], prefix[:, None, None, None])
        return self._masks[group]

    def to(self, device: torch.device | str) -> Layout:
        if torch.device(device) == self.device:
            return self
        moved = {name: getattr(self, name).to(device, non_blocking=True) for name in ("positions", "modality", "ids")}
        return replace(self, **moved, _masks={})


def _kind(length: int, prefix: int) -> str:
    return "full" if prefix >= length else "causal" if prefix <= 1 else "prefix"


def visible(i: Tensor, j: Tensor, prefix: Tensor | int, window: int | None = None) -> Tensor:
    """Whether token i of a sequence sees token j of it (broadcasts): the one rule for who sees whom.

    A window of w leaves |i - j| <= w: two-sided inside the prefix, left-only after it.
    """
    seen = (j <= i) | ((i < prefix) & (j < prefix))
    return seen if window is None else seen & ((i - j).abs() <= window)


@dataclass(eq=False)
class Tokens:
    """A ragged batch: `vectors` (N, dim) of all sequences end to end, and the `layout` that cuts it.

    Attributes:
        embedded: (N, dim), of a backbone's output what it was before the first block; a model keeps it.
    """

    vectors: Tensor
    layout: Layout
    embedded: Tensor | None = None

    def with_vectors(self, vectors: Tensor) -> Tokens:
        return Tokens(vectors, self.layout)

    @classmethod
    def from_list(
        cls,
        sequences: Sequence[Tensor],
        prefix: Sequence[int] | None = None,
        positions: Sequence[np.ndarray] | None = None,
    ) -> Tokens:
        """Pack tensors (n_i, dim). Without `prefix` all see all; without `positions` token t stands at (t, t, t)."""
        lengths = [len(s) for s in sequences]
        if not lengths or min(lengths) < 1:
            raise ValueError("a ragged batch needs at least one sequence, and a sequence at least one token")
        order = Layout.sort(lengths, prefix)
        places = [line_positions(n) for n in lengths] if positions is None else positions
        device = sequences[0].device
        n = sum(lengths)
        layout = Layout(
            lengths=[lengths[i] for i in order],
            prefix=[lengths[i] if prefix is None else min(int(prefix[i]), lengths[i]) for i in order],
            order=order,
            positions=torch.from_numpy(np.concatenate([places[i] for i in order])).to(device),
            modality=torch.zeros(n, dtype=torch.long, device=device),
            ids=torch.full((n,), NO_ID, device=device),
        )
        return cls(torch.cat([sequences[i] for i in order]), layout)

    def to_list(self) -> list[Tensor]:
        """The sequences (n_i, dim), in the order of the list that the batch was made from."""
        packed = self.vectors.split(self.layout.lengths)
        return [packed[i] for i in self.layout.inverse]

    def mean(self) -> Tensor:
        """(B, dim) in packed order: the mean over the tokens of each sequence, in float32."""
        return segment_mean(self.vectors, self.layout.segments, len(self.layout))


def segment_mean(values: Tensor, segments: Tensor, count: int) -> Tensor:
    """(count, dim) float32: the mean of the rows of `values` (N, dim) that share a segment; zero where none does."""
    sums = values.new_zeros(count, values.shape[1], dtype=torch.float32)
    sums = sums.index_add(0, segments, values.float())
    sizes = torch.bincount(segments, minlength=count).clamp(min=1)
    return sums / sizes[:, None]


@dataclass
class Example:
    """One sequence that a task wants to see, before its items are read.

    Attributes:
        parts: (modality, item) pairs, one after the other in the sequence.
        target: what the task compares the answer with; its own `collate` stacks them.
        prefix_parts: how many of the parts see each other freely; None for all of them.
    """

    parts: list[tuple[str, Any]]
    target: Any = None
    prefix_parts: int | None = None


@dataclass
class Prepared:
    """An `Example` whose items have been cut into pieces.

    Attributes:
        extents: (tokens, 2) of its one item, as `Processor.extents` gives them, for tasks that tag.
    """

    parts: list[tuple[str, Pieces]]
    target: Any = None
    prefix_parts: int | None = None
    extents: np.ndarray | None = None

    def __len__(self) -> int:
        return sum(len(pieces) for _, pieces in self.parts)

    @property
    def weight(self) -> float:
        """Among the windows of an item: its tokens, as far as they are the item's."""
        return sum(len(pieces) * pieces.heard for _, pieces in self.parts)

    @property
    def prefix(self) -> int:
        return sum(len(pieces) for _, pieces in self.parts[: self.prefix_parts])


class Targets(NamedTuple):
    """What one task needs of a batch.

    Attributes:
        rows: (n,) int64, its sequences by packed number, in the order of `values`.
        values: their targets, as the task stacks them.
        count: what the task's summed loss is divided by.
    """

    rows: Tensor
    values: Any
    count: int  # type: ignore[assignment]  # tuple.count, which nobody calls


@dataclass
class Batch:
    """Prepared sequences of any tasks and modalities, packed.

    Attributes:
        values: for each modality, the `Pieces.values` of all its items end to end, in packed order.
        counts: for each modality, how many pieces each item has.
        order: (N,) int64 or None: token i of the packed batch is row order[i] of the tokenizers' outputs laid end to
            end in sorted order of modality; None when that is the identity.
        layout: the batch's layout.
        targets: for each task, its `Targets`.
        tally: what to report: counts of items shortened, skipped and seen.
        starts: where each item begins that goes on behind a cache (see `generation`); None where all begin at 0.
        grids: for each modality, the `Pieces.grid` of its items.
        asked: where a task is judged by what it writes, its sequences up to the begin of their text, in their order.
        windows: where a task is judged by whole items, of those that are longer than a sequence all windows, each with
            the item's number.
    """

    values: dict[str, Tensor]
    counts: dict[str, list[int]]
    order: Tensor | None
    layout: Layout
    targets: dict[str, Targets] = field(default_factory=dict)
    tally: Any = None
    starts: list[int] | None = None
    grids: dict[str, list[tuple[int, ...]]] = field(default_factory=dict)
    asked: list[Prepared] = field(default_factory=list)
    windows: list[tuple[int, Prepared]] = field(default_factory=list)

    def to(self, device: torch.device | str) -> Batch:
        return Batch(**{f.name: _move(getattr(self, f.name), device) for f in fields(self)})


def _move(value: Any, device: torch.device | str) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, Layout):
        return value.to(device)
    if isinstance(value, Targets):
        return Targets(*(_move(v, device) for v in value))
    if isinstance(value, dict):
        return {key: _move(v, device) for key, v in value.items()}
    return value


def collate(sequences: Sequence[Prepared], modalities: Sequence[str]) -> Batch:
    """Pack prepared sequences. `modalities` is the model's sorted list; `Batch.targets` is left to the caller.

    The parts of one sequence stand one after the other: each begins at the largest position so far + 1.
    """
    lengths = [len(s) for s in sequences]
    prefix = [s.prefix for s in sequences]
    order = Layout.sort(lengths, prefix)
    number = {name: i for i, name in enumerate(modalities)}

    parts: list[tuple[int, Pieces, int]] = []  # (modality's number, pieces, where its positions begin), packed order
    for i in order:
        begin = 0
        for name, pieces in sequences[i].parts:
            parts.append((number[name], pieces, begin))
            if len(sequences[i].parts) > 1:
                begin += int(pieces.positions.max()) + 1

    kinds = np.array([kind for kind, _, _ in parts])
    sizes = np.array([len(pieces) for _, pieces, _ in parts])
    positions = np.concatenate([pieces.positions for _, pieces, _ in parts])
    positions = positions + np.repeat([begin for _, _, begin in parts], sizes)[:, None]
    ids = np.concatenate([_ids(pieces) for _, pieces, _ in parts])

    layout = Layout(
        lengths=[lengths[i] for i in order],
        prefix=[prefix[i] for i in order],
        order=order,
        positions=torch.from_numpy(positions),
        modality=torch.from_numpy(np.repeat(kinds, sizes)),
        ids=torch.from_numpy(ids),
    )
    values, counts, grids = {}, {}, {}
    for kind in sorted(set(kinds.tolist())):
        of_kind = [pieces for k, pieces, _ in parts if k == kind]
        values[modalities[kind]] = torch.from_numpy(np.concatenate([pieces.values for pieces in of_kind]))
        counts[modalities[kind]] = [len(pieces.values) for pieces in of_kind]
        grids[modalities[kind]] = [pieces.grid for pieces in of_kind]
    return Batch(values, counts, _packed_order(kinds, sizes), layout, grids=grids)


def _ids(pieces: Pieces) -> np.ndarray:
    if pieces.values.ndim == 1 and len(pieces.values) == len(pieces):
        return pieces.values.astype(np.int64)
    return np.full(len(pieces), NO_ID, dtype=np.int64)


def _packed_order(kinds: np.ndarray, sizes: np.ndarray) -> Tensor | None:
    by_modality = np.argsort(kinds, kind="stable")
    if (by_modality == np.arange(len(kinds))).all():
        return None
    starts = np.empty(len(sizes), dtype=np.int64)
    starts[by_modality] = np.cumsum(sizes[by_modality]) - sizes[by_modality]
    within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return torch.from_numpy(np.repeat(starts, sizes) + within)


def pack(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Cut items into batches of at most `budget` tokens, equal lengths together; a longer item is a batch by itself."""
    batches: list[list[int]] = []
    room = 0
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        if not batches or lengths[i] > room:
            batches.append([])
            room = budget
        batches[-1].append(i)
        room -= lengths[i]
    return batches
