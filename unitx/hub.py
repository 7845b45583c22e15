"""Data sets of Hugging Face `datasets`, in memory or by their name on the hub."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from unitx.errors import UnitxError
from unitx.tables import Column, TableSource, table_cells

READ, COUNTED = 32, 1_000  # rows of a stream that are read together, all columns of them or one
SHUFFLED = 1_000  # rows of a stream from the hub that wait, of which the next is drawn
ROWS = ""  # no column's name


@dataclass
class DatasetSource:
    """Rows of a Hugging Face `datasets.Dataset`, read where they lie on disk; files come as undecoded bytes.

    Decoding is the tokenizers' (`datasets` needs torchcodec for sound). Class numbers become class names.
    """

    dataset: Any
    name: str
    reads: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        features = self.dataset.features or {}
        self.classes = {name: feature.names for name, feature in features.items() if hasattr(feature, "names")}
        self.arrow = self.dataset.with_format("arrow")

    @property
    def base(self) -> Path:
        """The folder that paths are relative to."""
        return Path.cwd()

    @property
    def columns(self) -> list[str]:
        return list(self.dataset.column_names)

    def __len__(self) -> int:
        return len(self.dataset)

    def row(self, index: int, rng: np.random.Generator | None = None, strength: float = 1.0) -> dict[str, Any]:
        """Column → item of row `index`, from 0."""
        return self._table(self.arrow[int(index) : int(index) + 1]).row(0)

    def column(self, name: str) -> list[Any]:
        """All cells of a column."""
        return self._table(self.arrow.select_columns([name])[:]).column(name)

    def _table(self, table: pa.Table) -> TableSource:
        cells: dict[str, Column] = table_cells(table, self.name)
        for name in self.classes.keys() & cells.keys():
            cells[name] = [self._class(name, number) for number in table.column(name).to_pylist()]
        return TableSource(cells, self.base, self.name, self.reads)

    def _class(self, name: str, number: int | None) -> str | None:
        return None if number is None or number < 0 else self.classes[name][number]


@dataclass
class StreamSource(DatasetSource):
    """Rows of a Hugging Face `datasets.IterableDataset`, read one after the other and never all in memory.

    Row i is the i-th of the first pass, row `len` + i of the second, and so on, where a stream that was shuffled
    (`dataset.shuffle(buffer_size=…)`) comes in another order; only in this order are rows cheap. Every process and
    every worker reads the stream by itself and keeps the rows that are its own, so that together they see each row
    once, however many files it has. Counting the rows is a pass over one column, and so is `column`.

    Attributes:
        known: columns that were read whole, as tables, and under `ROWS` how many rows there are.
    """

    streamed: ClassVar[bool] = True
    known: dict[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._begin(0)
        if not self._reach(0):
            raise UnitxError(f"{self.name} holds no rows: give at least one")
        self.names = self.table.column_names

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "tables": None, "reader": 0}

    @property
    def columns(self) -> list[str]:
        return list(self.names)

    def __len__(self) -> int:
        if ROWS not in self.known:
            self.known[ROWS] = sum(len(table) for table in self._one(self.names[0]))
        return self.known[ROWS]

    def row(self, index: int, rng: np.random.Generator | None = None, strength: float = 1.0) -> dict[str, Any]:
        """Column → item of row `index`, counted on over the passes."""
        number, place = divmod(int(index), len(self))
        # A forked worker begins anew: open files have one place for all processes.
        if os.getpid() != self.reader or number != self.number or place < self.first:
            self._begin(number)
        if not self._reach(place):
            raise UnitxError(f"{self.name} had {len(self):,} rows when it was counted, and ends after {self.first:,}")
        return self._table(self.table.slice(place - self.first, 1)).row(0)

    def column(self, name: str) -> list[Any]:
        """All cells of a column, in the order of the first pass."""
        if name not in self.known:
            self.known[name] = pa.concat_tables(list(self._one(name)), promote_options="default")
        return self._table(self.known[name]).column(name)

    def _one(self, name: str) -> Iterator[pa.Table]:
        return self.dataset.select_columns([name]).with_format("arrow").iter(COUNTED)

    def _begin(self, number: int) -> None:
        self.reader, self.number, self.first, self.table = os.getpid(), number, 0, pa.table({})
        stream = self.dataset.with_format("arrow")  # a new one: its epoch is shared with processes forked later
        stream.set_epoch(number)
        self.tables = stream.iter(READ)

    def _reach(self, place: int) -> bool:
        """Read on to the rows among which that of this number is; whether there is one."""
        while place >= self.first + len(self.table):
            self.first += len(self.table)
            self.table = next(self.tables, None)
            if self.table is None:
                self.reader = 0
                return False
        return True


def load_hub(name: str, streaming: bool = False, seed: int = 0) -> DatasetSource:
    """A data set of the Hugging Face hub, "user/name" or "name", with ":split" where it is not train.

    Args:
        streaming: read it from there again and again, shuffled a little each time, in place of downloading it.
        seed: of the shuffling.

    Raises:
        UnitxError: `datasets` is not installed, or the data set cannot be loaded.
    """
    try:
        import datasets
    except ImportError as error:
        raise UnitxError(
            f"there is no file or folder {name}; if it is a data set of the hub: pip install 'unitx-toolkit[hub]'"
        ) from error
    repository, _, split = name.partition(":")
    try:
        dataset = datasets.load_dataset(repository, split=split or "train", streaming=streaming)
    except Exception as error:  # whatever the hub, the network or the data set's own files bring up
        cause = (str(error).splitlines() or [type(error).__name__])[0]
        raise UnitxError(
            f"'{name}' is neither a path nor a data set of the hub that could be loaded ({cause}); "
            "give another path or name, or load it in Python and give the Dataset itself"
        ) from error
    if streaming:
        return StreamSource(dataset.shuffle(seed, buffer_size=SHUFFLED), name)
    return DatasetSource(dataset, name)
