"""What a cell of a table says: a number, or that there is none."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

MISSING = {"", "na", "n/a", "nan", "null", "none", "-", "?"}  # how a missing number is written, in small letters
# Behind a comma three digits may be thousands ("1,234"), unless dots part those, or a nought stands before it.
DECIMAL_COMMA = re.compile(r"[+-]?(\d{1,3}(\.\d{3})+,\d+|0,\d+|\d+,(?!\d{3}$)\d+)")

WITH_COMMAS = re.compile(r"[+-]?\d[\d.]*,[\d.,]*")


def number_of(cell: Any) -> float | None:
    """The number that a cell holds or is written as, with a decimal comma too where that can be nothing else; None for
    what is no number, NaN and infinity."""
    if isinstance(cell, str) and DECIMAL_COMMA.fullmatch(cell := cell.strip()):
        cell = cell.replace(".", "").replace(",", ".")
    try:
        number = float(cell)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def is_missing(cell: Any) -> bool:
    """Whether a cell of a column of numbers says that there is none."""
    return cell is None or str(cell).strip().lower() in MISSING


def comma_advice(cells: Iterable[Any]) -> str:
    """What to say of texts that look like numbers with commas, of which `number_of` knows none: "" where not all do."""
    found = [str(cell) for cell in cells if not is_missing(cell)]
    commas = found and all(WITH_COMMAS.fullmatch(cell.strip()) for cell in found)
    return f"'{found[0]}' is not read as a number, for its comma: write 1234.5" if commas else ""
