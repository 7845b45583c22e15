"""The errors that a user can mend: one line that names the item and the remedy."""

from __future__ import annotations


class UnitxError(Exception):
    """Something the user asked for cannot be done; the message says what, with which item, and what to do."""


class BadItem(UnitxError):
    """One item (a file, a cell, an array) cannot be read. Long work skips it, counts it and goes on."""
