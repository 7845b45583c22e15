"""`unitx predict`: answers printed, drawn, and as lines of CSV."""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from unitx.columns import check_columns, unknown_to_data
from unitx.data import open_source, parse_reads
from unitx.embedding import predicting_task
from unitx.errors import BadItem, UnitxError
from unitx.media import is_missing_file, modality_of, named_file
from unitx.paths import check_writable
from unitx.report import check_modalities, task_for
from unitx.source import ROW, MadeSource, file_column
from unitx.tables import TABLES
from unitx.task import Task, TaskInfo
from unitx.writing import TEXT


def predict(model: Any, arguments: argparse.Namespace) -> bool:
    """Print a line for each item, its answers behind it, and draw them where that is asked for.

    Returns: whether any item could be read.

    Raises:
        UnitxError: the task does not read such items, or its answers cannot be drawn.
    """
    given = cells_of(arguments.cells)
    task = arguments.task or predicting_task(model, [given] if given else arguments.items)
    head = model.head(task)
    for item in arguments.items:
        if _holds_items(item, head.info):
            raise UnitxError(f"{item} holds several items: name it with --data {item}")
    if arguments.draw and type(head).draw is Task.draw:
        head.draw(None, [])  # which says that it cannot
    files = _drawings(arguments.items, Path(arguments.draw).expanduser()) if arguments.draw else []
    items = _beside(head.info, arguments.items, given)
    answers = model.predict(items, task, top=arguments.top, on_error="skip")
    pairs = zip(items, answers, strict=True)
    unread = [not found and not _is_read(model, task, item) for item, found in pairs]
    for item, found, bad in zip(arguments.items, answers, unread, strict=True):
        print(f"{item}\t" + ("could not be read" if bad else "\t".join(map(str, found)) or "nothing"))
    if arguments.draw:
        _draw(head, arguments.items, answers, [None if bad else file for bad, file in zip(unread, files, strict=True)])
    return not all(unread)


def _holds_items(item: str, info: TaskInfo) -> bool:
    """Whether it is a table or a folder, and not a text that is called as a folder is."""
    path = os.path.expanduser(item)
    if os.path.isdir(path):
        return os.sep in item or TEXT not in info.reads.values()
    return os.path.splitext(path)[1].lower() in TABLES and os.path.isfile(path)


def cells_of(written: list[str]) -> dict[str, str]:
    """Column → cell of what was given as COLUMN=TEXT.

    Raises:
        UnitxError: it was written otherwise.
    """
    given = dict(cell.partition("=")[::2] for cell in written)
    if "" in given or any("=" not in cell for cell in written):
        raise UnitxError(f"--with {' '.join(written)}: write COLUMN=TEXT, such as --with question='what is it?'")
    return given


def _is_read(model: Any, task: str, item: Any) -> bool:
    """Whether an item without an answer can be read, and holds nothing that the task knows."""
    try:
        model.predict([item], task)
    except BadItem:
        return False
    return True


def _drawings(items: list[str], out: Path) -> list[Path]:
    """The file that each item is drawn in, of several in a folder.

    Raises:
        UnitxError: nothing can be written there.
    """
    from PIL import Image

    if len(items) == 1:
        if out.suffix.lower() not in Image.registered_extensions() or out.is_dir():
            raise UnitxError(f"--draw {out} names no picture: end it with .png, say")
        check_writable(out.parent, f"the folder of {out}")
        out.parent.mkdir(parents=True, exist_ok=True)
        return [out]
    check_writable(out, f"the folder of the pictures {out}")
    out.mkdir(parents=True, exist_ok=True)
    paths = [Path(os.path.expanduser(item)) for item in items]
    names = [path.stem if os.path.isfile(path) else str(number) for number, path in enumerate(paths, 1)]
    count = Counter(names)
    names = [name if count[name] == 1 else f"{number}-{name}" for number, name in enumerate(names, 1)]
    return [out / f"{name}.png" for name in names]


def _draw(head: Any, items: list[str], answers: list[Any], files: list[Path | None]) -> None:
    for item, found, file in zip(items, answers, files, strict=True):
        if file is None:
            continue
        path = os.path.expanduser(item)
        named = os.path.isfile(path)
        try:
            head.draw(Path(path) if named else item, found).save(file)
        except BadItem as error:
            print(f"unitx: not drawn: {error}", file=sys.stderr)
        else:
            print(f"unitx: drawn in {file}", file=sys.stderr)


def _beside(info: Any, items: list[str], given: dict[str, str]) -> list[Any]:
    """The items, or with cells of other columns beside them dictionaries of what a row of the data would hold.

    Raises:
        UnitxError: a cell of a column that the task does not read, or no column is left that an item can be of.
    """
    if not given:
        return items
    if unknown := given.keys() - info.reads.keys():
        raise UnitxError(f"--with {', '.join(sorted(unknown))}: task '{info.name}' reads {', '.join(info.reads)}")
    return [{_column_of(info, item, given): _path_or_text(item), **given} for item in items]


def _path_or_text(item: str) -> Any:
    """A file that is not there as a path too, so that it is not read as a text."""
    return Path(item) if is_missing_file(item) else named_file(item)


def _column_of(info: Any, item: str, given: dict[str, str]) -> str:
    """The column that an item is of, when others are given."""
    modality = modality_of(_path_or_text(item))
    free = [column for column, reads in info.reads.items() if reads == modality and column not in given]
    if len(free) != 1:
        wants = "none of its columns" if not free else f"which of {', '.join(free)} it is"
        raise UnitxError(f"task '{info.name}' cannot tell what '{item}' is, {wants}: give all but one with --with")
    return free[0]


def predict_rows(model: Any, arguments: argparse.Namespace) -> None:
    """A line of CSV for each row of the data: what it reads, as written, and answers, none where it cannot be read."""
    reads = parse_reads(arguments.reads) if arguments.reads else None
    task = arguments.task or task_for(model, arguments.data, reads)
    info = model.head(task).info = replace(model.head(task).info, reads=reads or model.head(task).info.reads)
    check_modalities(model, info)
    source, rng = open_source(arguments.data, info.reads, info.label), np.random.default_rng(0)
    for note in check_columns(source, info.reads) + unknown_to_data(source, info.reads, model.processors):
        print(f"unitx: {note}", file=sys.stderr)
    # Texts of a folder are told by their files; made data have nothing that was written.
    columns = [files] if (files := file_column(source)) else list(info.reads)
    columns = [name for name in source.columns if name != info.label] if ROW in columns else columns
    shown = {} if isinstance(source, MadeSource) else {column: source.column(column) for column in columns}
    rows = [source.row(i, rng) for i in range(len(source))]
    answers = model.predict(rows, task, top=arguments.top, on_error="skip")
    lines = csv.writer(sys.stdout, lineterminator="\n")
    most = max(arguments.top or 1, *map(len, answers)) if answers else 1
    names = [f"answer {name}" if name in shown else name for name in model.head(task).gives._fields]
    places = ["", *(f" {place}" for place in range(2, most + 1))]
    number_of_row = "row number" if "row" in shown else "row"
    lines.writerow([number_of_row, *shown, *(name + place for place in places for name in names)])
    for number, found in enumerate(answers):
        cells = [_cell(value) for answer in found for value in answer]
        written = [_written(column[number]) for column in shown.values()]
        lines.writerow([number + 1, *written, *cells, *[""] * (len(names) * most - len(cells))])


def _cell(value: Any) -> str:
    """A part of an answer for CSV: a score with three digits, the sides of a box with four."""
    if isinstance(value, tuple):
        return " ".join(f"{side:.4f}" for side in value)
    return f"{value:.3f}" if isinstance(value, float) else "" if value is None else str(value)


def _written(cell: Any) -> str:
    """A cell for CSV: texts, paths and numbers as they are, several parted by "|", nothing for a picture's bytes."""
    if isinstance(cell, list):
        return "|".join(map(_written, cell))
    return str(cell) if isinstance(cell, str | int | float) else ""
