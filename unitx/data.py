"""The data that a run learns from: opened, whatever the user gave."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from unitx.coco import read_coco
from unitx.columns import guess_reads
from unitx.errors import UnitxError
from unitx.folders import read_folder, read_text_file
from unitx.gettext import read_po
from unitx.hub import DatasetSource, StreamSource, load_hub
from unitx.media import SUFFIXES, suffix_modality
from unitx.paths import near_path
from unitx.recipe import is_world
from unitx.source import Source
from unitx.tables import (
    TABLES,
    TableSource,
    collect,
    frame_cells,
    read_table,
    table_cells,
)

WORLDS = {  # data that pip (or, of the stamps, apt) brings, opened by `world:NAME`
    "emoji": "unitx.worlds.emoji:EmojiWorld",
    "clips": "unitx.worlds.clips:ClipWorld",
    "digits": "unitx.worlds.recorded:digits",
    "mentions": "unitx.worlds.mentions:MentionWorld",
    "python": "unitx.worlds.recorded:python_library",
    "scenes": "unitx.worlds.scenes:SceneWorld",
    "strokes": "unitx.worlds.recorded:strokes",
    "tumours": "unitx.worlds.recorded:tumours",
    "spoken": "unitx.worlds.spoken:SpokenWorld",
    "stamps": "unitx.worlds.stamps:Stamps",
}
OTHERS = {".json": read_coco, ".po": read_po}  # files that hold rows of known columns
STREAM = "stream:"  # before the name of a data set on the hub
HUB_NAME = re.compile(r"\w[\w.-]*(/[\w.-]+)?(:[\w.+-]+)?")


def open_source(data: Any, reads: dict[str, str] | None = None, label: str | None = None, seed: int = 0) -> Source:
    """Whatever the user gave as data: a path, a name, or an object in memory.

    Accepted: a folder of class folders or a flat folder, of media or plain text; a CSV, TSV, JSONL or Parquet file
    whose media columns hold paths relative to it; annotations of pictures in COCO's JSON; gettext's .po; a plain text
    file; `world:NAME`, `world:NAME:PART` or {"world": NAME, option: …}; the name of a data set on the hub ("user/name",
    "name", with ":split" where it is not train, and with "stream:" before it to be streamed); a pandas DataFrame, a
    pyarrow Table, a `datasets.Dataset` or `IterableDataset`, a list of dictionaries, a dictionary of lists, a `Source`.

    Args:
        reads: column → modality; guessed where None.
        label: the column that holds the answer, which is not to be guessed as something to read.
        seed: of the order in which a data set that is streamed comes.

    Raises:
        UnitxError: it cannot be found or read, or what to read cannot be guessed.
    """
    source = _open_path(data, reads, label, seed) if isinstance(data, str | os.PathLike) else _open_object(data)
    if isinstance(source, TableSource | DatasetSource) and source is not data and not source.reads:
        return replace(source, reads=reads or guess_reads(source, label))
    return source


def _open_path(data: str | os.PathLike, reads: dict[str, str] | None, label: str | None, seed: int) -> Source:
    name = os.fspath(data)
    if world := named_world(name):
        return _open_object(world)
    if name.startswith(STREAM):
        return load_hub(name.removeprefix(STREAM), streaming=True, seed=seed)
    path = Path(os.path.expanduser(name))
    try:
        if os.path.isdir(path):
            return read_folder(path, reads, label)
        if os.path.exists(path):
            return _open_file(path)
    except OSError as error:
        raise UnitxError(f"{error.filename or path} cannot be read: {error.strerror}") from error
    known = path.suffix.lower() in TABLES or suffix_modality(path)
    if not isinstance(data, str) or known or not HUB_NAME.fullmatch(name) or near_path(path):
        raise _missing(path)
    return load_hub(name)


def named_world(name: str) -> dict[str, str] | None:
    """`world:NAME` or `world:NAME:PART` as {"world": NAME, "part": PART}; None for another name."""
    kind, _, rest = name.partition(":")
    world, _, part = rest.partition(":")
    return ({"world": world} | ({"part": part} if part else {})) if kind == "world" and world else None


def _missing(path: Path) -> UnitxError:
    """What to say of a path where nothing is."""
    near = near_path(path)
    hint = f"is {near} meant?" if near else f"it was looked for in {path.parent.absolute()}"
    return UnitxError(f"there is no file or folder {path}; {hint}")


def _open_file(path: Path) -> Source:
    suffix = path.suffix.lower()
    if suffix not in TABLES and suffix not in OTHERS and suffix not in SUFFIXES["text"]:
        what = suffix_modality(path)
        hint = f"one {what} file is no data set; " if what else ""
        kinds = " ".join([*TABLES, *sorted(SUFFIXES["text"]), *OTHERS])
        raise UnitxError(f"{path}: {hint}data are a folder, or a file that ends in one of {kinds}")
    if not path.stat().st_size:
        raise UnitxError(f"{path} is empty (0 bytes)")
    if suffix in OTHERS:
        return OTHERS[suffix](path)
    return read_table(path) if suffix in TABLES else read_text_file(path)


def _open_world(name: str, **options: Any) -> Source:
    if name not in WORLDS:
        raise UnitxError(f"there is no world '{name}'; there are: {', '.join(sorted(WORLDS))}")
    module, _, factory = WORLDS[name].partition(":")
    try:
        return getattr(importlib.import_module(module), factory)(**options)
    except TypeError as error:
        raise UnitxError(f"world '{name}': {error}") from error


def _open_object(data: Any) -> Source:
    library, kind = type(data).__module__.split(".")[0], type(data).__name__
    if library == "pandas" and kind == "DataFrame":
        return TableSource(frame_cells(data), Path.cwd(), "the DataFrame")
    if library == "datasets" and kind == "Dataset":
        return DatasetSource(data, "the Dataset")
    if library == "datasets" and kind == "IterableDataset":
        return StreamSource(data, "the stream")
    if isinstance(data, pa.Table):
        return TableSource(table_cells(data, "the Table"), Path.cwd(), "the Table")
    if isinstance(data, Source):
        return data
    if is_world(data):
        return _open_world(data["world"], **{name: value for name, value in data.items() if name != "world"})
    if isinstance(data, Mapping) and all(isinstance(cells, list | tuple | np.ndarray) for cells in data.values()):
        lengths = {name: len(cells) for name, cells in data.items()}
        if len(set(lengths.values())) > 1:
            raise UnitxError(f"the columns differ in length ({lengths}): give each as many cells")
        rows = (dict(zip(data, cells, strict=True)) for cells in zip(*data.values(), strict=True))
        return _in_memory(collect(rows, data))
    if isinstance(data, list | tuple) and all(isinstance(row, Mapping) for row in data):
        return _in_memory(collect(data))
    hint = f", one split of it ({', '.join(data)})" if library == "datasets" and isinstance(data, Mapping) else ""
    raise UnitxError(
        f"data of type {library}.{kind} cannot be read: give a path, a DataFrame, a pyarrow Table, "
        f"a datasets.Dataset{hint}, a list of dictionaries or a dictionary of lists"
    )


def _in_memory(cells: dict[str, Any]) -> TableSource:
    source = TableSource(cells, Path.cwd(), "the data")
    if not len(source):
        raise UnitxError("the data hold no rows: give at least one")
    return source


def parse_reads(reads: str) -> dict[str, str]:
    """Column → modality from "photo:image,title:text"; a column named as its modality says it once ("image,text").

    Raises:
        UnitxError: a part is empty or a column stands twice.
    """
    found: dict[str, str] = {}
    for part in reads.split(","):
        # The last colon, so that a column's name may hold others.
        column, _, modality = part.strip().rpartition(":")
        column, modality = (column or modality).strip(), modality.strip()
        if not column or not modality:
            raise UnitxError(
                f"--reads {reads}: write COLUMN:MODALITY, parted by commas, such as photo:image,title:text"
            )
        if column in found:
            raise UnitxError(f"--reads {reads}: the column '{column}' stands twice; name it once")
        found[column] = modality
    return found
