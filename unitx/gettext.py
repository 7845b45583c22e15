"""Translations of programs in gettext's .po files, as rows of a text and what it is in another language."""

from __future__ import annotations

from pathlib import Path

import polib

from unitx.errors import UnitxError
from unitx.tables import TableSource


def read_po(path: Path) -> TableSource:
    """Rows {"text": text, "to": the file's language, "translation": text in it}; what is not translated, is obsolete or
    marked fuzzy is left out. Of a text with plural forms the first form counts.

    Raises:
        UnitxError: the file cannot be read as .po, or translates nothing; says where.
    """
    try:
        catalog = polib.pofile(str(path), encoding=polib.detect_encoding(str(path)))
    except (OSError, UnicodeDecodeError, LookupError) as error:
        raise UnitxError(f"{path} cannot be read as gettext's .po: {' '.join(str(error).split())}") from error
    # `translated` leaves out what is empty, obsolete or fuzzy.
    pairs = [(entry.msgid, entry.msgstr or entry.msgstr_plural.get(0, "")) for entry in catalog if entry.translated()]
    pairs = [(source, target) for source, target in pairs if source and target]
    if not pairs:
        raise UnitxError(f"{path} translates nothing: give a .po file with filled msgstr lines")
    language = str(catalog.metadata.get("Language") or path.stem)
    cells = {
        "text": [source for source, _ in pairs],
        "to": [language] * len(pairs),
        "translation": [target for _, target in pairs],
    }
    left_out = len([entry for entry in catalog if not entry.obsolete]) - len(pairs)
    notes = [f"{left_out:,} texts of {path} have no translation and are left out"] if left_out else []
    return TableSource(dict(cells), path.parent, str(path), notes=notes)
