"""Whether a folder can be written into, which is asked before long work, and what a mistyped path may have meant."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from unitx.errors import UnitxError


def check_writable(folder: Path, what: str) -> None:
    """Find out whether a folder, which need not be there yet, can be written into; `what` names it in the message.

    Raises:
        UnitxError: it cannot, or it is a file or lies in one.
    """
    above = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not above.is_dir():
        raise UnitxError(f"{what}: {above} is a file; name a folder")
    if not os.access(above, os.W_OK):
        raise UnitxError(f"{what}: nothing can be written into {above}; name another folder")


def near_path(path: Path) -> Path | None:
    """Something that lies in the same folder under nearly the same name."""
    names = os.listdir(path.parent) if os.path.isdir(path.parent) else []
    near = difflib.get_close_matches(path.name, names, 1, 0.8)
    return path.parent / near[0] if near else None
