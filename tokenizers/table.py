"""Tables: a row of columns, numbers and names mixed, as a token a column."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from textwrap import shorten
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unitx.cells import comma_advice, is_missing, number_of
from unitx.errors import BadItem, UnitxError
from unitx.media import describe
from unitx.registry import register_tokenizer
from unitx.tokenizer import Processor, Tokenizer
from unitx.tokens import Pieces, line_positions

LOOKED_AT = 100_000  # rows that columns are learned from
NAMES = 1_000  # of a column; rarer ones are as if they were missing
FEW = 20  # rows, of which nothing is said


@dataclass(frozen=True)
class TableProcessor(Processor):
    """Turns a row {column: number or name} into a token for each column that training had.

    Attributes:
        numbers: of each column of numbers its name, the mean and the standard deviation in training.
        names: of each other column its name and what may stand in it.

    Raises:
        UnitxError: there is no column.
    """

    numbers: tuple[tuple[str, float, float], ...] = ()
    names: tuple[tuple[str, tuple[str, ...]], ...] = field(default=(), repr=False)
    fit_options = ("leave_out",)

    def __post_init__(self) -> None:
        # A configuration read from JSON brings lists.
        object.__setattr__(self, "numbers", tuple((str(n), float(m), float(s)) for n, m, s in self.numbers))
        object.__setattr__(self, "names", tuple((str(n), tuple(known)) for n, known in self.names))
        if not self.numbers and not self.names:
            raise UnitxError("a table needs a column: give data, from which they are learned")

    @classmethod
    def fit(cls, options: dict[str, Any], items: Iterator[Any]) -> TableProcessor:
        """Learn the columns, but for those of `leave_out` (an id, what gives the answer away): of numbers where all
        filled cells are numbers, of names else. All of a row are read, unless `max_tokens` says otherwise."""
        options = dict(options)
        given = options.pop("leave_out", ())
        left_out = {str(name) for name in ((given,) if isinstance(given, str | int) else given)}
        if options.keys() & {"numbers", "names"}:
            return cls(**options)
        rows = [item for item in islice(items, LOOKED_AT) if isinstance(item, Mapping)]
        columns = dict.fromkeys(column for row in rows for column in row)
        if unknown := sorted(left_out - columns.keys()):
            raise UnitxError(f"leave_out names {', '.join(unknown)}; the table has {', '.join(columns)}")
        numbers, names = [], []
        for column in [column for column in columns if column not in left_out]:
            cells = [row[column] for row in rows if row.get(column) is not None]
            read = [(cell, number_of(cell)) for cell in cells]
            found = [number for _, number in read if number is not None]
            if found and all(is_missing(cell) for cell, number in read if number is None):
                numbers.append((column, float(np.mean(found)), float(np.std(found)) or 1.0))
            elif cells:
                names.append((column, tuple(sorted(name for name, _ in Counter(map(str, cells)).most_common(NAMES)))))
        room = {"max_tokens": max(cls.max_tokens, len(numbers) + len(names)), **options}
        return cls(**room, numbers=tuple(numbers), names=tuple(names))

    @property
    def slots(self) -> int:
        """Vectors that there are: one a column of numbers, one a name, one a column for what is missing."""
        return 2 * len(self.numbers) + sum(1 + len(known) for _, known in self.names)

    @property
    def columns(self) -> list[str]:
        """Those that it knows."""
        return [name for name, *_ in self.numbers] + [name for name, _ in self.names]

    def notes(self, rows: int) -> list[str]:
        kinds = {"numbers": [name for name, *_ in self.numbers], "names": [name for name, _ in self.names]}
        said = (f"{kind} in {shorten(', '.join(found), 300)}" for kind, found in kinds.items() if found)
        found = [f"the table has {'; '.join(said)}"]
        for column, known in self.names:
            if advice := comma_advice(known):
                found.append(f"{column}: {advice}")
            elif 2 * len(known) > rows >= FEW or len(known) == NAMES:
                found.append(
                    f"{column} differs in most rows, which says little of others: leave it out with "
                    f"--tokenizers.table.leave_out {column}, or read it as text"
                )
        return found

    def read(self, item: Any) -> Mapping[str, Any]:
        """A dictionary of column → cell; columns that training did not have are left out, what is missing is None.

        Raises:
            BadItem: it is no dictionary, has none of the columns, or text where numbers stood.
        """
        columns = self.columns
        if not isinstance(item, Mapping) or not any(item.get(column) is not None for column in columns):
            raise BadItem(f"{describe(item)} is no row of the table: give {{column: cell}} with {', '.join(columns)}")
        for column, *_ in self.numbers:
            if not is_missing(item.get(column)) and number_of(item[column]) is None:
                advice = comma_advice([item[column]])
                raise BadItem(
                    f"the column '{column}' holds {describe(item[column])}, and held numbers in training"
                    + (f"; {advice}" if advice else "")
                )
        return {column: item.get(column) for column in columns}

    def features(self, raw: Mapping[str, Any]) -> np.ndarray:
        """(columns, 2) float32: the slot of each, and the standardised number, 0 of a name."""
        found, slot = [], 0
        for column, mean, std in self.numbers:
            number = number_of(raw[column])
            found.append((slot + 1, 0.0) if number is None else (slot, (number - mean) / std))
            slot += 2
        for column, known in self.names:
            name = None if raw[column] is None else str(raw[column])
            found.append((slot + 1 + known.index(name) if name in known else slot, 0.0))
            slot += 1 + len(known)
        return np.array(found, dtype=np.float32)

    def cut(self, features: np.ndarray, rng: np.random.Generator | None = None) -> Pieces:
        part = features[: self.max_tokens]
        return Pieces(part, line_positions(len(part)), shortened=len(part) < len(features))


@register_tokenizer("table")
class TableTokenizer(Tokenizer):
    """A learned vector for each name, and for each column of numbers one and another times the number (FT-Transformer,
    Gorishniy et al. 2021)."""

    Processor = TableProcessor

    def __init__(self, processor: TableProcessor, dim: int):
        super().__init__(processor, dim)
        self.embed = nn.Embedding(processor.slots, dim)
        self.scale = nn.Embedding(processor.slots, dim)
        nn.init.normal_(self.embed.weight)
        nn.init.normal_(self.scale.weight)

    def forward(self, values: Tensor, counts: list[int]) -> Tensor:
        slots = values[:, 0].long()
        return self.embed(slots) + self.scale(slots) * torch.asinh(values[:, 1:])  # which outliers do not drown
