"""Numbers as cells hold them: Python's `float` where it knows them, cases written out where a comma stands."""

from __future__ import annotations

from typing import Any

import pytest

from unitx.cells import comma_advice, is_missing, number_of, with_points


@pytest.mark.parametrize(
    ("cell", "number"),
    [
        (3, 3.0), (2.5, 2.5), (" -7e2 ", -700.0), ("1.234", 1.234), ("3,5", None), ("1,234", None),
        ("nan", None), (float("inf"), None), ("", None), (None, None), ("a", None), ([1], None),
    ],
)  # fmt: skip
def test_what_a_cell_says(cell: Any, number: float | None) -> None:
    assert number_of(cell) == number


def test_a_column_with_decimal_commas() -> None:
    cells = ["3,5", None, " -1.012,250 ", "NA", "7", "0,002", "1,024", "1.234.567"]
    assert with_points(cells) == ["3.5", None, "-1012.250", "NA", "7", "0.002", "1.024", "1234567"]
    for others in (["3,5", "a"], ["1,234.5", "3,5"], ["1,2,3"], ["1.23,5"], ["1", "1.234"], ["NA", None], []):
        assert with_points(others) is None


def test_what_is_missing() -> None:
    assert all(map(is_missing, [None, "", " NA ", "n/a", float("nan"), "-", "?"]))
    assert not any(map(is_missing, [0, "0", False, "no", "x"]))


def test_numbers_with_commas_are_told_where_all_cells_are() -> None:
    assert comma_advice(["1,234", "NA", "5,678.9"]) == "'1,234' is not read as a number, for its comma: write 1234.5"
    assert comma_advice(["1,234", "a"]) == comma_advice(["a,1"]) == comma_advice(["12"]) == comma_advice([]) == ""
