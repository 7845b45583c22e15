"""Rows of named columns: what every data set looks like, a part of one, and the labels in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from unitx.errors import BadItem, UnitxError

ROW = "*"  # the column that stands for all of a row
SEPARATOR = "|"  # between the labels of one cell, where a row may have several
PARTS = ("train", "validation", "test")  # of made data
# How far the validation and test part vary: pictures and sound as people send them, not distorted as in training.
HELD_OUT_STRENGTH = 0.5


@runtime_checkable
class Source(Protocol):
    """Rows of named columns; what every data set looks like to the loader."""

    @property
    def columns(self) -> list[str]:
        """The names, in order; a plain attribute will do."""
        ...

    def __len__(self) -> int: ...

    def row(self, index: int, rng: np.random.Generator, strength: float = 1.0) -> dict[str, Any]:
        """Column → item, None for an empty cell. `rng` and `strength` vary made data and leave other data alone."""
        ...

    def column(self, name: str) -> list[Any]:
        """All cells of a column, cheaply: labels, paths as written; nothing is decoded."""
        ...


@runtime_checkable
class MadeSource(Source, Protocol):
    """Data made by a program, which come in parts that share nothing: "train" is learned from, the others judge."""

    part: str

    def of_part(self, part: str) -> MadeSource:
        """The same data's other part, "validation" or "test"."""
        ...

    def prepare(self) -> MadeSource:
        """Make what all rows are drawn from, before workers are forked; returns itself."""
        ...


class MadeFromSettings:
    """A dataclass of made data: its fields are pickled, and what is made from them is made again where they arrive.

    Attributes:
        recorded: people made what its rows hold, which come in parts as made data do.
    """

    recorded: ClassVar[bool] = False
    part: str
    seed: int

    def column(self, name: str) -> list[Any]:
        """Raises: UnitxError: the cells are made anew for each row."""
        raise UnitxError(f"the cells of '{name}' are made anew for each row: read them with row()")

    def drawn_by(self, index: int, rng: np.random.Generator, strength: float) -> tuple[np.random.Generator, float]:
        """What a row is drawn with, and how far it varies: in training as given, else by its number."""
        if self.part == "train":
            return rng, strength
        rng = np.random.default_rng([PARTS.index(self.part), self.seed, index])
        return rng, min(strength, HELD_OUT_STRENGTH)

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]


def is_recorded(source: Source) -> bool:
    """Whether its rows are not made anew in every epoch by a program, and so may be few."""
    return not isinstance(source, MadeSource) or getattr(source, "recorded", False)


def unseen(source: Source) -> Source:
    """Data to judge by: of made data that were named as a whole the test part, other data as they are."""
    return source.of_part("test") if isinstance(source, MadeSource) and source.part == "train" else source


def read_rows(
    source: Source, indices: Sequence[int], rngs: Sequence[np.random.Generator], strength: float = 1.0
) -> list[dict[str, Any] | BadItem]:
    """Several rows; in place of one that cannot be read stands why.

    A source that makes many rows together more cheaply than one by one has such a method `read_rows` of its own.
    """
    if hasattr(source, "read_rows"):
        return source.read_rows(indices, rngs, strength)
    found: list[dict[str, Any] | BadItem] = []
    for index, rng in zip(indices, rngs, strict=True):
        try:
            found.append(source.row(index, rng, strength))
        except BadItem as error:
            found.append(error)
    return found


@dataclass
class Subset:
    """Some rows of a source, in the order of `indices`."""

    source: Source
    indices: np.ndarray

    @property
    def columns(self) -> list[str]:
        return self.source.columns

    def __len__(self) -> int:
        return len(self.indices)

    def row(self, index: int, rng: np.random.Generator, strength: float = 1.0) -> dict[str, Any]:
        return self.source.row(int(self.indices[index]), rng, strength)

    def read_rows(
        self, indices: Sequence[int], rngs: Sequence[np.random.Generator], strength: float = 1.0
    ) -> list[dict[str, Any] | BadItem]:
        return read_rows(self.source, [int(self.indices[i]) for i in indices], rngs, strength)

    def column(self, name: str) -> list[Any]:
        cells = self.source.column(name)
        return [cells[i] for i in self.indices]


def seen_cells(source: Source, column: str, most: int = 1_000) -> list[Any]:
    """The filled cells of a column; of made data, whose cells are made anew each time, those of up to `most` rows."""
    if not isinstance(source, MadeSource):
        return [cell for cell in source.column(column) if cell is not None]
    places = np.linspace(0, len(source) - 1, min(most, len(source))).astype(int).tolist()
    rows = read_rows(source, places, [np.random.default_rng(place) for place in places])
    return [row[column] for row in rows if isinstance(row, dict) and row.get(column) is not None]


def parsed_cells(source: Source, column: str, parse: Callable[[Any], Any]) -> list[Any]:
    """What `parse` makes of `seen_cells`; the few that it refuses are left for training to report.

    Raises:
        UnitxError: it refuses half of them or more; says why of the first.
    """
    found, bad = [], []
    for cell in seen_cells(source, column):
        try:
            found.append(parse(cell))
        except BadItem as error:
            bad.append(str(error))
    if bad and len(bad) >= len(found):
        raise UnitxError(f"{name_of(source)}: {bad[0]} (and so {len(bad):,} of {len(bad) + len(found):,} cells)")
    return found


def origin(source: Source) -> Source:
    """The source that a subset, or a subset of one, was taken from."""
    while isinstance(source, Subset):
        source = source.source
    return source


def name_of(source: Source) -> str:
    """What to call the data in messages: the path or name that it was opened by."""
    return getattr(origin(source), "name", "the data")


def is_stream(source: Source) -> bool:
    """Whether rows are cheap only one after the other, and are counted on in each pass (`hub.StreamSource`)."""
    return getattr(origin(source), "streamed", False)


def file_column(source: Source) -> str | None:
    """The column that says which file a row of text was cut from; None for data that were not cut."""
    return getattr(origin(source), "together", None)


def is_numeric(cell: Any) -> bool:
    """Whether it is a number, or a list of them or of such lists: one item (a time series, which may have gaps), not
    several."""
    if isinstance(cell, list):
        filled = [part for part in cell if part is not None]
        return bool(filled) and all(map(is_numeric, filled))
    return isinstance(cell, int | float)


def labels_in(cell: Any, multi: bool = False) -> list[str]:
    """The labels of one cell, as strings without outer spaces.

    With `multi` a cell holds several, as a list or parted by "|". An empty cell or list has none.
    """
    if cell is None:
        return []
    cell = cell.tolist() if isinstance(cell, np.ndarray) else cell
    cells = cell if isinstance(cell, list) else str(cell).split(SEPARATOR) if multi else [cell]
    names = (str(part).strip() for part in cells if part is not None)
    return list(dict.fromkeys(name for name in names if name))


def labels_of(source: Source, label: str, multi: bool = False) -> tuple[list[str], list[int]]:
    """The class names in a column, and how many rows have each.

    Names are in alphabetical order, or by value where all are whole numbers. Rows without a label count nowhere.
    """
    counts = Counter(name for cell in source.column(label) for name in labels_in(cell, multi))
    numbers = all(name.removeprefix("-").isdecimal() for name in counts)
    names = sorted(counts, key=lambda name: (int(name), name) if numbers else (0, name))
    return names, [counts[name] for name in names]


def is_answered(cell: Any, multi: bool = False) -> bool:
    """Whether a cell of a label column holds an answer; with `multi` an empty list is one: no label holds."""
    empty = isinstance(cell, list | np.ndarray) and len(cell) == 0
    return bool(labels_in(cell, multi)) or (multi and empty)
