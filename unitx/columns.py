"""Which columns to read as what, and whether that can be meant: guessed, and checked before long work."""

from __future__ import annotations

import difflib
import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from unitx.cells import comma_advice, number_of
from unitx.errors import UnitxError
from unitx.hub import DatasetSource
from unitx.media import MEDIA, suffix_modality
from unitx.source import ROW, MadeSource, Source, Subset, is_answered, is_stream, labels_of, name_of, origin
from unitx.tables import TableSource

Table = TableSource | DatasetSource
USUAL_NAMES = {
    "image": {"image", "images", "img", "picture", "pictures", "photo", "photos"},
    "audio": {"audio", "sound", "sounds", "recording", "recordings", "speech", "wav"},
    "video": {"video", "videos"},
    "text": {"text", "texts", "sentence", "title", "caption", "description", "review", "content", "body", "document"}
    | {"comment", "message", "transcript", "transcription", "headline"},
}
LOOKED_AT = 1_000  # rows of a table that the checks look at, spread evenly
OF_BYTES = 100  # rows of a `datasets.Dataset`, which may hold files whole


def guess_reads(source: Source, label: str | None = None) -> dict[str, str]:
    """Column → modality where nobody said it: by what the cells hold, then by the usual names of columns.

    Raises:
        UnitxError: it is not plain; lists the columns and an exact `--reads` to type.
    """
    if known := getattr(origin(source), "reads", None):
        return dict(known)
    rng = np.random.default_rng(0)
    rows = [source.row(i, rng) for i in _sample(source, np.arange(len(source)), 50)]
    found = {}
    for column in source.columns:
        cells = [row[column] for row in rows if row.get(column) is not None]
        modality = _guess(column, cells) if column != label else None
        if modality:
            found[column] = modality
    if found and len(set(found.values())) == len(found):
        return found
    others = [column for column in source.columns if column != label] or ["COLUMN"]
    lengths = {column: sum(len(str(row.get(column))) for row in rows) for column in others}
    example = next(iter(found.items()), (max(others, key=lambda column: lengths[column]), "text"))
    raise UnitxError(
        f"{name_of(source)}: it is not plain which columns to read; it has {', '.join(source.columns)}; "
        f"say which and as what, such as --reads '{example[0]}:{example[1]}'"
    )


def _guess(column: str, cells: list[Any]) -> str | None:
    seen = Counter(_kind_of_cell(cell) for cell in cells)
    kind, count = seen.most_common(1)[0] if seen else ("", 0)
    if kind in MEDIA and count >= 0.9 * len(cells):
        return kind
    names = (modality for modality, usual in USUAL_NAMES.items() if column.lower() in usual)
    return next(names, None)


def _kind_of_cell(cell: Any) -> str:
    """The medium of a path or a picture, "" for what could be anything."""
    if isinstance(cell, list):
        return _kind_of_cell(cell[0]) if cell else ""
    if isinstance(cell, dict):  # a file as `datasets` stores it
        return _kind_of_cell(cell.get("path"))
    if isinstance(cell, str | Path):
        return suffix_modality(cell) or ""
    return "image" if type(cell).__module__.startswith("PIL.") else ""


def _places(source: Source) -> np.ndarray:
    """The rows of a source, by their numbers in its origin."""
    return _places(source.source)[source.indices] if isinstance(source, Subset) else np.arange(len(source))


def _sample(source: Source, places: np.ndarray, count: int) -> list[int]:
    """At most `count` of them, evenly spread; of a stream the first."""
    if is_stream(source):
        return places[:count].tolist()
    chosen = np.linspace(0, len(places) - 1, min(count, len(places))).astype(int)
    return places[chosen].tolist()


def check_columns(
    source: Source,
    reads: dict[str, str],
    label: str | None = None,
    multi: bool = False,
    evaluated: bool = False,
    answer: str = "class",
) -> list[str]:
    """Find, before long work, what would spoil it: absent columns, paths read as text, missing files, a single class.

    Looks at up to 1,000 rows of a table, 100 of a `datasets.Dataset`. Numbers read as text are fine: they are read as
    they are written.

    Args:
        multi: whether a row may have several labels.
        evaluated: whether the rows are to be evaluated on, where a single class is fine.
        answer: what the label is, as `Task.answer` says.

    Returns: sentences for the log, about what was left out at opening and what is wrong with a few rows only.

    Raises:
        UnitxError: the run cannot be meant so; names the column, the row and the remedy.
    """
    for column in [*reads, *([label] if label else [])]:
        if column != ROW:
            _check_there(source, column, reads.get(column, ""), label)
    notes: list[str] = list(getattr(origin(source), "notes", []))
    if isinstance(table := origin(source), Table):
        looked_at = _sample(source, _places(source), LOOKED_AT if isinstance(table, TableSource) else OF_BYTES)
        # Under these `reads`, which may be others than those that the data were opened with.
        table = replace(table, reads=reads)
        rows = {i: table.row(i) for i in looked_at}
        for column, modality in reads.items():
            notes += _check_cells(table, rows, column, modality) if column != ROW else []
        empty = sum(all(row.get(column) is None for column in reads) for row in rows.values())
        if empty and label and reads and ROW not in reads:
            nothing = f"have nothing in {', '.join(reads)} and are left out"
            notes.append(f"{empty:,} of {len(rows):,} rows looked at {nothing}")
    if label and answer == "class":
        notes += _check_label(source, label, multi, evaluated)
    elif label and not isinstance(source, MadeSource):
        notes += _check_answers(source, label)
    return notes


def unknown_to_data(source: Source, reads: dict[str, str], processors: Mapping[str, Any]) -> list[str]:
    """What to say where a whole row is read, and the data lack columns that the model has learned."""
    learned = getattr(processors.get(reads.get(ROW, "")), "columns", [])
    lost = ", ".join(column for column in learned if column not in source.columns)
    return [f"{name_of(source)} has no {lost}, which the model reads: they count as missing"] if lost else []


def _check_there(source: Source, column: str, modality: str, label: str | None) -> None:
    columns = list(source.columns)
    if column in columns:
        return
    near = difflib.get_close_matches(column, columns, 1, 0.8)
    hint = f"; is '{near[0]}' meant?" if near else ""
    if column == label and columns in (["image"], ["audio"], ["video"], ["text"], ["text", "file"]):
        hint = "; in a folder the label comes from class folders: put the files in FOLDER/CLASS/"
    elif not near and isinstance(origin(source), Table):
        hint = f"; name the one to read, --reads COLUMN:{modality}, or rows as a whole, --reads '*:table'"
        hint = "; name another" if column == label else hint
        headless = str(name_of(source)).endswith((".csv", ".tsv")) and _are_data(columns)
        hint += "; if these are data, the file lacks its header line: add one" if headless else ""
    flag = f"--label {column}" if column == label else f"--reads {column}:…"
    raise UnitxError(f"{name_of(source)} has no column '{column}' ({flag}); it has: {', '.join(columns)}{hint}")


def _are_data(columns: list[str]) -> bool:
    """Whether one of a header's names is a number or a sentence."""
    return any(number_of(name) is not None or comma_advice([name]) or len(name.split()) > 2 for name in columns)


def _check_label(source: Source, label: str, multi: bool, evaluated: bool) -> list[str]:
    names, counts = labels_of(source, label, multi)
    cells = source.column(label)
    empty = sum(not is_answered(cell, multi) for cell in cells)
    if not names and (empty == len(cells) or not evaluated):
        raise UnitxError(f"{name_of(source)}: the label column '{label}' is empty: name another with --label")
    if len(names) == 1 and not (multi or evaluated):
        raise UnitxError(
            f"{name_of(source)}: one class only in '{label}', '{names[0]}' ({counts[0]:,} rows): "
            "there is nothing to tell apart; give data of at least two classes, or another --label"
        )
    return [f"{empty:,} of {len(source):,} rows have no label in '{label}' and are left out"] if empty else []


def _check_answers(source: Source, label: str) -> list[str]:
    """Whether there is anything to write."""
    cells = source.column(label)
    empty = sum(cell is None or not str(cell).strip() for cell in cells)
    if empty == len(cells):
        raise UnitxError(f"{name_of(source)}: the label column '{label}' is empty: name another with --label")
    return [f"{empty:,} of {len(source):,} rows have nothing in '{label}' and are left out"] if empty else []


def _check_cells(table: Table, rows: dict[int, dict[str, Any]], column: str, modality: str) -> list[str]:
    """`rows`: number of the row in the table → row, the sample to judge by."""
    cells = {i: row[column] for i, row in rows.items() if row[column] is not None}
    if not cells:
        raise UnitxError(f"{table.name}: the column '{column}' is empty in all {len(rows):,} rows looked at")
    items = [(i, item) for i, cell in cells.items() for item in (cell if isinstance(cell, list) else [cell])]
    if modality == "text":
        _check_text(table, column, [item for _, item in items])
        return []
    if modality == "table" and not any(isinstance(item, Mapping) for _, item in items):
        raise UnitxError(f"{table.name}: '{column}' alone is no table: read whole rows, --reads '*:table'")
    return _check_files(table, column, modality, [(i, item) for i, item in items if isinstance(item, Path)])


def _check_text(table: Table, column: str, items: list[Any]) -> None:
    strange = next((item for item in items if not isinstance(item, str)), None)
    if strange is not None:
        raise UnitxError(
            f"{table.name}: the column '{column}' is read as text but holds {type(strange).__name__}: "
            f"say what it is, such as --reads '{column}:image'"
        )
    paths = [item for item in items if suffix_modality(item) in MEDIA or _is_file(table, item)]
    if len(paths) >= 0.9 * len(items):
        kind = suffix_modality(paths[0])
        remedy = f"--reads '{column}:{kind}'" if kind in MEDIA else "put the text itself in the column"
        raise UnitxError(
            f"{table.name}: the column '{column}' is read as text but holds paths ('{paths[0]}'): {remedy}"
        )


def _is_file(table: Table, text: str) -> bool:
    return len(text) < 1_000 and os.path.isfile(table.base / text)


def _check_files(table: Table, column: str, modality: str, items: list[tuple[int, Path]]) -> list[str]:
    missing = [(i, path) for i, path in items if not os.path.isfile(path)]
    if not missing:
        return []
    row, path = missing[0]
    written = os.path.relpath(path, table.base)
    share = f"{len(missing):,} of {len(items):,} files looked at are missing"
    where = f"{table.name}, row {row + 1}: the column '{column}' is read as {modality}, but there is no file {path}"
    if len(missing) <= len(items) / 2:
        return [f"{where}; {share}, and their rows will be skipped"]
    if re.match(r"\w+:/", written):
        hint = "addresses are not fetched: download the files and name them by their paths"
    elif os.path.isfile(written):
        hint = f"paths are relative to {table.base}: write {os.path.relpath(Path(written).absolute(), table.base)}"
    elif not any(suffix_modality(path) for _, path in missing):
        hint = f"if the column holds text, --reads '{column}:text'; paths are relative to {table.base}"
    else:
        hint = f"paths are relative to {table.base}: correct them or move the files"
    raise UnitxError(f"{where}; {share}; {hint}")
