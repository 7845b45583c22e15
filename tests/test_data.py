"""Opening whatever the user gives, and every name or object that cannot be opened."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from unitx import data
from unitx.data import open_source, parse_reads
from unitx.errors import UnitxError
from unitx.source import Source
from unitx.tables import TableSource

RNG = np.random.default_rng(0)
ROWS = [{"text": "one", "label": "a"}, {"text": "two", "label": None}]


def rows_of(source: Source) -> list[dict]:
    return [source.row(i, RNG) for i in range(len(source))]


def test_importing_is_light():
    code = "import sys, unitx.data; print(*{'torch', 'datasets', 'pandas'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


def test_every_form_in_memory_gives_the_same_rows():
    columns = {"text": ["one", "two"], "label": ["a", None]}
    forms = [ROWS, tuple(ROWS), columns, pd.DataFrame(columns), pa.table(columns), {**columns, "label": ("a", None)}]
    for form in forms:
        source = open_source(form, label="label")
        assert isinstance(source, TableSource) and isinstance(source, Source)
        assert rows_of(source) == ROWS and source.reads == {"text": "text"}
    assert open_source(source) is source


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_every_file_gives_the_same_rows(tmp_path, suffix, monkeypatch):
    frame, path = pd.DataFrame(ROWS), tmp_path / f"t{suffix}"
    if suffix == ".parquet":
        frame.to_parquet(path)
    elif suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, sep="," if suffix == ".csv" else "\t", index=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for form in (path, str(path), f"~/t{suffix}"):
        assert rows_of(open_source(form)) == ROWS


def test_relative_paths_in_memory_count_from_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = open_source([{"photo": "a.jpg"}])
    monkeypatch.chdir("/")
    assert source.row(0, RNG) == {"photo": tmp_path / "a.jpg"}


def test_reads_are_taken_as_given(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\nx.jpg,y\n")
    source = open_source(tmp_path / "t.csv", {"a": "image", "b": "text"})
    assert source.row(0, RNG) == {"a": tmp_path / "x.jpg", "b": "y"}
    with pytest.raises(UnitxError, match="not plain which columns"):
        open_source([{"a": "x", "b": "y"}])


def test_folders_and_texts(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.jpg").write_bytes(b"x")
    assert rows_of(open_source(str(tmp_path))) == [{"image": tmp_path / "cat/1.jpg", "label": "cat"}]
    (tmp_path / "book.md").write_text("word " * 4_000)
    source = open_source(tmp_path / "book.md")
    assert "".join(source.column("text")) == "word " * 4_000 and source.reads == {"text": "text"}


@pytest.mark.parametrize(
    ("reads", "found"),
    [
        ("photo:image,title:text", {"photo": "image", "title": "text"}),
        ("image, text", {"image": "image", "text": "text"}),
        ("dc:title:text", {"dc:title": "text"}),
    ],
)
def test_parse_reads(reads, found):
    assert parse_reads(reads) == found and list(parse_reads(reads)) == list(found)


@pytest.mark.parametrize(
    ("reads", "says"), [("", "write COLUMN"), ("a:", "write COLUMN"), ("a:text,a:image", "stands t")]
)
def test_parse_reads_refuses(reads, says):
    with pytest.raises(UnitxError, match=says):
        parse_reads(reads)


def test_paths_that_are_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    # None of these may go and ask the network.
    monkeypatch.setattr(data, "load_hub", None)
    for name, says in {
        "photo": "no file or folder photo; is photos meant",
        "items.csv": "no file or folder items.csv; it was looked for in",
        "./nothing/": "no file or folder nothing",
        "photos/cats/black": "no file or folder photos/cats/black",
        "~/never-there.jpg": "no file or folder",
        "~nobody-of-that-name/x": "no file or folder ~nobody-of-that-name/x",
    }.items():
        with pytest.raises(UnitxError, match=says):
            open_source(name)
    with pytest.raises(UnitxError, match="no file or folder squad"):
        open_source(Path("squad"))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (
            "t.xml",
            b"<a/>",
            r"t\.xml: data are a folder, or a file that ends in one of \.csv \.tsv \.jsonl \.parquet \.c ",
        ),
        ("a.jpg", b"x", r"one image file is no data set"),
        ("t.csv", b"", r"is empty \(0 bytes\)"),
        ("t.json", b"{}", r"is not COCO's: it has no list 'images'; give images, annotations and categories, or a "),
        ("t.po", b"", r"is empty \(0 bytes\)"),
        ("t.txt", b"", r"is empty \(0 bytes\)"),
    ],
)
def test_files_that_are_no_data(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnitxError, match=says):
        open_source(tmp_path / name)


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    (tmp_path / "t.csv").write_text("a\n1\n")

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied", str(tmp_path / "t.csv"))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UnitxError, match=r"t\.csv cannot be read: Permission denied"):
        open_source(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("thing", "says"),
    [
        (3, r"type builtins\.int cannot be read: give a path"),
        (["a.jpg"], r"type builtins\.list cannot be read"),
        ([], r"hold no rows"),
        ({"text": []}, r"hold no rows"),
        ({"text": ["a"], "label": []}, r"differ in length \(\{'text': 1, 'label': 0\}\)"),
        (pa.table([[1], [2]], names=["a", "a"]), r"two columns called 'a'"),
    ],
)
def test_objects_that_are_no_data(thing, says):
    with pytest.raises(UnitxError, match=says):
        open_source(thing)


def test_worlds_are_opened_by_name(monkeypatch):
    world = object()
    module = types.ModuleType("a_made_world")
    module.World = lambda: world
    monkeypatch.setitem(sys.modules, "a_made_world", module)
    monkeypatch.setitem(data.WORLDS, "made", "a_made_world:World")
    assert open_source("world:made") is world
    with pytest.raises(UnitxError, match=r"no world .nowhere.; there are: .*emoji.*, made"):
        open_source("world:nowhere")


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "t.csv")
    with pytest.raises(UnitxError, match="is empty"):
        open_source(tmp_path / "t.csv")
