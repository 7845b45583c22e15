"""What a cell of a table says: a number, or that there is none."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

MISSING = {"", "na", "n/a", "nan", "null", "none", "-", "?"}  # how a missing number is written, in small letters
DECIMAL_COMMA = re.compile(r"[+-]?(\d+|\d{1,3}(\.\d{3})+)(,\d+)?")
WITH_COMMAS = re.compile(r"[+-]?\d[\d.]*,[\d.,]*")


def number_of(cell: Any) -> float | None:
    """The number that a cell holds or is written as; None for what is no number, NaN and infinity."""
    try:
        number = float(cell)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def with_points(cells: Sequence[Any]) -> list[Any] | None:
    """A column of numbers with decimal commas ("1.234,5") as others write them ("1234.5"); None where it is none: a
    filled cell is something else, or none has a comma."""
    if not all(is_missing(cell) or DECIMAL_COMMA.fullmatch(cell.strip()) for cell in cells):  # of texts the first tells
        return None
    if not any(cell and "," in cell for cell in cells):
        return None
    return [cell if is_missing(cell) else cell.strip().replace(".", "").replace(",", ".") for cell in cells]


def is_missing(cell: Any) -> bool:
    """Whether a cell of a column of numbers says that there is none."""
    return cell is None or str(cell).strip().lower() in MISSING


def comma_advice(cells: Iterable[Any]) -> str:
    """What to say of texts that look like numbers with commas: "" where not all do."""
    found = [str(cell) for cell in cells if not is_missing(cell)]
    commas = found and all(WITH_COMMAS.fullmatch(cell.strip()) for cell in found)
    return f"'{found[0]}' is not read as a number, for its comma: write 1234.5" if commas else ""
