"""Tables: CSV, TSV, JSONL and Parquet files, data frames and rows in memory, all seen as named columns.

A column is packed by pyarrow where cells are plain (text, paths, numbers, lists of them), and a Python list where they
are objects (pictures, arrays). Media columns hold paths; nothing is decoded here.
"""

from __future__ import annotations

import codecs
import csv
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TextIO, TypeAlias

import numpy as np
import pyarrow as pa

from unitx.cells import with_points
from unitx.errors import UnitxError
from unitx.media import MEDIA, suffix_modality

Column: TypeAlias = pa.ChunkedArray | list[Any]

TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
BATCH = 10_000  # rows held as Python objects before they are packed


@dataclass
class TableSource:
    """Rows of a table. Media cells (see `MEDIA`) become absolute paths, empty cells None, lists stay lists.

    Attributes:
        cells: column → its cells; all of one length.
        base: the folder that paths are relative to.
        name: what to call the data in messages.
        reads: column → modality, as the user said or as the data says by itself.
        together: a column whose equal cells belong on one side of a split (the file that a text was cut from).
        notes: plain sentences for the log: what was left out, and why.
    """

    cells: dict[str, Column]
    base: Path
    name: str
    reads: dict[str, str] = field(default_factory=dict)
    together: str | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def columns(self) -> list[str]:
        return list(self.cells)

    def __len__(self) -> int:
        return len(next(iter(self.cells.values()), ()))

    def row(self, index: int, rng: np.random.Generator | None = None, strength: float = 1.0) -> dict[str, Any]:
        """Column → item of row `index`, from 0."""
        found = {}
        for name, cells in self.cells.items():
            cell = cells[index]
            cell = _clean(cell.as_py() if isinstance(cell, pa.Scalar) else cell)
            modality = self.reads.get(name)
            found[name] = cell if modality is None or cell is None else self._item(cell, modality)
        return found

    def column(self, name: str) -> list[Any]:
        """All cells of a column, paths as they are written."""
        cells = self.cells[name]
        return [_clean(cell) for cell in (cells if isinstance(cells, list) else cells.to_pylist())]

    def _item(self, cell: Any, modality: str) -> Any:
        if isinstance(cell, list):
            return [None if part is None else self._item(part, modality) for part in cell]
        if isinstance(cell, dict) and cell.keys() <= {"bytes", "path"}:  # how `datasets` stores a file
            cell = cell["bytes"] if cell.get("bytes") is not None else cell.get("path")
        if modality == "text":
            return str(cell) if isinstance(cell, bool | int | float | np.number) else cell
        # A modality of a plugin may write its items as strings that are no paths (a protein, say).
        if isinstance(cell, str) and (modality in MEDIA or os.path.isfile(self.base / cell)):
            return self.base / cell
        return cell


def _clean(cell: Any) -> Any:
    """None for an empty cell: null, an empty string, NaN."""
    if isinstance(cell, list):
        return [_clean(part) for part in cell]
    if cell is None or (isinstance(cell, str) and not cell) or (isinstance(cell, float) and cell != cell):
        return None
    return cell


def collect(rows: Iterable[Mapping[str, Any]], names: Iterable[str] = ()) -> dict[str, Column]:
    """Columns of rows that come one by one; a name that a row lacks is an empty cell. Packs every `BATCH` rows."""
    parts: dict[str, list[pa.Array | list]] = {name: [] for name in names}
    source, count = iter(rows), 0
    while batch := list(islice(source, BATCH)):
        for name in dict.fromkeys(name for row in batch for name in row):
            parts.setdefault(name, [pa.nulls(count)] if count else [])
        for name, chunks in parts.items():
            chunks.append(_pack([row.get(name) for row in batch]))
        count += len(batch)
    return {name: _join(chunks) for name, chunks in parts.items()}


def _listed(value: Any) -> Any:
    """A list for an array of objects or texts, which pandas makes of a Parquet file's lists; numbers may be a sound."""
    if isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype.kind in "OU":
        return [part.tolist() if isinstance(part, np.ndarray) else part for part in value.tolist()]
    return value


def _pack(values: list[Any]) -> pa.Array | list:
    values = [_listed(value) for value in values]
    if not all(_is_plain(value) for value in values):
        return values
    try:
        packed = pa.array(values)
    except (pa.ArrowException, ValueError, OverflowError):  # mixed types, more than 64 bits, half a surrogate
        return values
    return packed if isinstance(packed, pa.Array) else values


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(_is_plain(part) for part in value)
    return value is None or type(value) in (str, bool, int, float)


def _join(chunks: list[pa.Array | list]) -> Column:
    packed: list[pa.Array] = [chunk for chunk in chunks if isinstance(chunk, pa.Array)]
    types = {chunk.type for chunk in packed if not pa.types.is_null(chunk.type)}
    if len(packed) == len(chunks) and len(types) <= 1:
        kind = types.pop() if types else pa.null()
        return pa.chunked_array([chunk.cast(kind) for chunk in packed], type=kind)
    return [cell for chunk in chunks for cell in (chunk if isinstance(chunk, list) else chunk.to_pylist())]


def read_table(path: Path) -> TableSource:
    """A table from a file, by its suffix, one of `TABLES`.

    Raises:
        UnitxError: the file is empty, broken or not UTF-8; says where and what to do.
    """
    readers = {".csv": _read_csv, ".tsv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
    source = TableSource(readers[path.suffix.lower()](path), path.absolute().parent, str(path))
    if not len(source):
        raise UnitxError(f"{path} holds no rows" + (", only a header line" if source.columns else ""))
    return source


def not_utf8(path: Path) -> UnitxError:
    """What to say of a text file that is not UTF-8: the first byte that is none, and how to convert it."""
    with path.open("rb") as file:
        start = file.read(2)
        if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            return UnitxError(f"{path} is UTF-16, not UTF-8: convert it with iconv -f utf-16 -t utf-8")
        file.seek(0)
        offset = 0
        for number, line in enumerate(file, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                where = f"byte {offset + error.start} (line {number}, 0x{line[error.start]:02x})"
                return UnitxError(f"{path} is not UTF-8 at {where}: convert it with iconv -f latin1 -t utf-8")
            offset += len(line)
    return UnitxError(f"{path} is not UTF-8: convert it with iconv -f latin1 -t utf-8")


def _read_csv(path: Path) -> dict[str, Column]:
    """All cells as text, exactly as written, "01" stays "01"; but where semicolons part the cells a comma may stand in
    numbers, and then they are written with a point."""
    limit = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            sign = _delimiter(path)
            lines = csv.reader(file, delimiter=sign, strict=True)
            names = _header(path, next(lines, []))
            cells = collect(_csv_rows(path, lines, names), names)
            return {name: _with_points(column) for name, column in cells.items()} if sign == ";" else cells
    except UnicodeDecodeError as error:
        raise not_utf8(path) from error
    except csv.Error as error:
        raise UnitxError(
            f"{path}, line {lines.line_num}: {error}; close each quoted cell, and double the quotes inside it"
        ) from error
    finally:
        csv.field_size_limit(limit)


def _with_points(column: Column) -> Column:
    found = with_points(column if isinstance(column, list) else column.to_pylist())
    return column if found is None else _join([_pack(found)])


def _delimiter(path: Path) -> str:
    """A tab for .tsv; for .csv a tab, ";" (as spreadsheets write in much of Europe) or a comma, whichever parts the
    header and the first row into most cells, equally many."""
    if path.suffix.lower() == ".tsv":
        return "\t"
    with path.open(encoding="utf-8-sig", newline="") as file:
        header = file.readline()
        parted = {sign: _widths(file, sign) for sign in "\t;," if sign in header}
    whole = [sign for sign, widths in parted.items() if len({*widths}) == 1 and widths[0] > 1]
    return max(whole, key=lambda sign: parted[sign][0]) if whole else next((s for s in ",;\t" if s in header), ",")


def _widths(file: TextIO, sign: str) -> list[int]:
    """How many cells the header and the first row have, parted by a sign."""
    file.seek(0)
    with suppress(csv.Error):  # which is told when all is read
        return [len(cells) for cells in islice(filter(None, csv.reader(file, delimiter=sign, strict=True)), 2)]
    return [0]


def _header(path: Path, cells: list[str]) -> list[str]:
    names = [cell.strip() or f"unnamed {place}" for place, cell in enumerate(cells, 1)]
    media = next((name for name in names if suffix_modality(name) in MEDIA), None)
    if media:
        raise UnitxError(f"{path} has no header line (it begins with '{media}'): add one that names the columns")
    _refuse_duplicates(names, str(path))
    return names


def _refuse_duplicates(names: Iterable[str], where: str) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UnitxError(f"{where} has two columns called '{twice[0]}': rename one (or add the header line it lacks)")


def _csv_rows(path: Path, lines: Any, names: list[str]) -> Iterator[dict[str, str]]:
    for cells in lines:
        if not cells:
            continue
        if len(cells) != len(names):
            raise UnitxError(
                f"{path}, line {lines.line_num}: {len(cells)} cells, but the header names {len(names)} columns "
                f"({', '.join(names)}); put cells that hold the separator in quotes"
            )
        yield dict(zip(names, cells, strict=True))


def _read_jsonl(path: Path) -> dict[str, Column]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            return collect(_json_rows(path, file))
    except UnicodeDecodeError as error:
        raise not_utf8(path) from error


def _json_rows(path: Path, lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UnitxError(f"{path}, line {number} is not JSON: {error}; a line holds one whole object") from error
        if not isinstance(row, dict):
            raise UnitxError(f'{path}, line {number} is no object: write {{"text": "a cat", "label": "cat"}}, say')
        yield _whole_characters(row) if "\\ud" in line.lower() else row


def _whole_characters(row: dict[str, Any]) -> dict[str, Any]:
    """With U+FFFD in place of half a character, as JavaScript cuts them, which no file of ours could hold."""
    text = json.dumps(row, ensure_ascii=False).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return json.loads(text)


def _read_parquet(path: Path) -> dict[str, Column]:
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path, memory_map=True, partitioning=None)
    except (pa.ArrowException, OSError) as error:
        raise UnitxError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}; write it anew") from error
    return table_cells(table, str(path))


def table_cells(table: pa.Table, where: str) -> dict[str, Column]:
    """The columns of a pyarrow table.

    Raises:
        UnitxError: two have one name.
    """
    _refuse_duplicates(table.column_names, where)
    return dict(zip(table.column_names, table.columns, strict=True))


def frame_cells(frame: Any) -> dict[str, Column]:
    """The columns of a pandas DataFrame; its index is left out."""
    names = [str(name) for name in frame.columns]
    _refuse_duplicates(names, "the DataFrame")
    cells: dict[str, Column] = {}
    for place, name in enumerate(names):
        series = frame.iloc[:, place]
        try:
            packed = None if series.dtype == object else pa.array(series, from_pandas=True)
        except pa.ArrowException:  # sparse or complex numbers, which nobody need read
            series, packed = series.astype(object), None
        if packed is None:
            cells[name] = _join([_pack(series.where(series.notna(), None).tolist())])
        else:
            cells[name] = packed if isinstance(packed, pa.ChunkedArray) else pa.chunked_array([packed])
    return cells
