from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from unitx.columns import check_columns
from unitx.data import open_source, parse_reads
from unitx.errors import UnitxError
from unitx.recipe import load_recipe

HEAD = 'msgid ""\nmsgstr ""\n"Content-Type: text/plain; charset=UTF-8\\n"\n"Language: fr\\n"\n'
BODY = """
msgid "cat"
msgstr "chat"

msgid "%d file"
msgid_plural "%d files"
msgstr[0] "%d fichier"
msgstr[1] "%d fichiers"

#, fuzzy
msgid "dog"
msgstr "dogue"

msgid "owl"
msgstr ""

msgid "two\\n"
"lines"
msgstr "deux\\n"
"lignes"

#~ msgid "old"
#~ msgstr "vieux"
"""


def test_translations_are_rows(tmp_path: Path) -> None:
    file = tmp_path / "fr.po"
    file.write_text(HEAD + BODY, "utf-8")
    reads = {"text": "text"}
    source = open_source(str(file), reads, "translation")
    rows = [source.row(i, np.random.default_rng(0)) for i in range(len(source))]
    assert [(row["text"], row["translation"]) for row in rows] == [
        ("cat", "chat"),
        ("%d file", "%d fichier"),
        ("two\nlines", "deux\nlignes"),
    ]
    assert {row["to"] for row in rows} == {"fr"}
    notes = check_columns(source, reads, "translation", answer="text")
    assert notes == [f"2 texts of {file} have no translation and are left out"]


def test_a_catalog_in_another_encoding_is_read(tmp_path: Path) -> None:
    file = tmp_path / "de.po"
    text = HEAD.replace("UTF-8", "ISO-8859-1") + 'msgid "beautiful"\nmsgstr "schön"\n'
    file.write_text(text, "latin-1")
    assert open_source(str(file), {"text": "text"}, "translation").column("translation") == ["schön"]
    recipe = load_recipe("translate")  # which reads a catalog as it is
    reads = parse_reads(recipe.reads)
    assert {*reads, recipe.label} == {*open_source(str(file), reads, recipe.label).columns}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b'once upon "a time', "cannot be read as gettext's .po"),
        (HEAD.encode(), "translates nothing"),
        (b'msgid "caf\xe9"\nmsgstr "a"\n', "cannot be read as gettext's .po"),
    ],
)
def test_what_is_no_po_file_is_named(tmp_path: Path, text: bytes, says: str) -> None:
    file = tmp_path / "a.po"
    file.write_bytes(text)
    with pytest.raises(UnitxError, match=says):
        open_source(str(file), {"text": "text"}, "translation")
