"""Rows, parts of them and labels, against plain loops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from unitx.errors import BadItem
from unitx.source import Source, Subset, is_answered, labels_in, labels_of, name_of, origin, read_rows
from unitx.tables import TableSource, collect

RNG = np.random.default_rng(0)


def table(*labels: object) -> TableSource:
    return TableSource(collect({"label": label, "n": i} for i, label in enumerate(labels)), Path.cwd(), "t")


def test_tables_and_subsets_are_sources():
    source = table("a", "b")
    assert isinstance(source, Source) and isinstance(Subset(source, np.array([0])), Source)
    assert not isinstance({"columns": []}, Source)


def test_a_subset_of_a_subset():
    source = table(*"abcdefgh")
    part = Subset(Subset(source, np.array([7, 5, 3, 1])), np.array([3, 0]))
    assert [part.row(i, RNG)["label"] for i in range(len(part))] == part.column("label") == ["b", "h"]
    assert part.columns == ["label", "n"] and origin(part) is source and name_of(part) == "t"


class Squares:
    """Rows of numbers, of which the odd ones cannot be read."""

    columns = ("square",)

    def __len__(self) -> int:
        return 9

    def row(self, index: int, rng: np.random.Generator, strength: float = 1.0) -> dict[str, float]:
        if index % 2:
            raise BadItem(f"{index} is odd")
        return {"square": index**2 + strength * rng.random()}


class TogetherSquares(Squares):
    def read_rows(self, indices, rngs, strength=1.0):
        return [{"square": -index} for index in indices]


def test_rows_are_read_one_by_one_unless_the_source_does_better():
    rngs = [np.random.default_rng(seed) for seed in range(3)]
    subset = Subset(Squares(), np.array([8, 1, 2]))
    one, bad, other = read_rows(subset, [0, 1, 2], rngs, 0.5)
    assert one == {"square": 64 + 0.5 * np.random.default_rng(0).random()}
    assert isinstance(bad, BadItem) and str(bad) == "1 is odd"
    assert other == {"square": 4 + 0.5 * np.random.default_rng(2).random()}
    better = Subset(TogetherSquares(), np.array([8, 1, 2]))
    assert read_rows(better, [0, 1, 2], rngs) == [{"square": -8}, {"square": -1}, {"square": -2}]


@pytest.mark.parametrize(
    ("cell", "multi", "names"),
    [
        ("a|b", False, ["a|b"]),
        ("a|b", True, ["a", "b"]),
        (" a | b ||a", True, ["a", "b"]),
        (["a", None, 3], True, ["a", "3"]),
        (7, False, ["7"]),
        (False, False, ["False"]),
        (" cat ", False, ["cat"]),
        (None, True, []),
        ([], True, []),
        ("  ", False, []),
    ],
)
def test_labels_of_a_cell(cell, multi, names):
    assert labels_in(cell, multi) == names


def test_labels_are_sorted_and_counted():
    assert labels_of(table("b", "a", None, "b"), "label") == (["a", "b"], [1, 2])
    assert labels_of(table(10, 9, 10, -1), "label") == (["-1", "9", "10"], [1, 1, 2])
    assert labels_of(table("10", "9", "--5"), "label") == (["--5", "10", "9"], [1, 1, 1])
    assert labels_of(table("10", "9", "x"), "label") == (["10", "9", "x"], [1, 1, 1])
    assert labels_of(table(True, False, True), "label") == (["False", "True"], [1, 2])
    assert labels_of(table("a|b", "b", None, "c|b"), "label", multi=True) == (["a", "b", "c"], [1, 3, 1])


def test_an_empty_list_is_an_answer_where_several_labels_may_hold():
    assert [is_answered(cell) for cell in ("a", 0, None, "", " ", [])] == [True, True, False, False, False, False]
    assert [is_answered(cell, multi=True) for cell in (["a"], [], None, "")] == [True, True, False, False]
    assert [is_answered(cell, multi=True) for cell in (np.array([1, 2]), np.array([]))] == [True, True]
