"""Tables against the csv module and pandas, and each kind of broken file."""

from __future__ import annotations

import csv
import io
import json
import pickle
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unitx import tables
from unitx.errors import UnitxError
from unitx.media import suffix_modality
from unitx.source import labels_of
from unitx.tables import TableSource, collect, frame_cells, read_table

CELL = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)


def write(path: Path, data: str | bytes) -> Path:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def rows_of(source: TableSource) -> list[dict]:
    return [source.row(i) for i in range(len(source))]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(CELL, CELL, CELL), min_size=1, max_size=12), st.sampled_from([(".csv", ","), (".tsv", "\t")]))
def test_csv_equals_the_csv_module(rows, form):
    suffix, delimiter = form
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows([("a", "b", "c"), *rows])
    with tempfile.TemporaryDirectory() as folder:
        source = read_table(write(Path(folder) / f"t{suffix}", text.getvalue()))
        truth = list(csv.DictReader(io.StringIO(text.getvalue(), newline=""), delimiter=delimiter))
    assert rows_of(source) == [{name: cell or None for name, cell in row.items()} for row in truth]


def test_csv_equals_pandas_and_keeps_cells_as_written(tmp_path):
    frame = pd.DataFrame({"code": ["01", "1.0", "NA", "true"], "text": ['a, "b"', "line\nbreak", "ü", "x;y"]})
    frame.to_csv(tmp_path / "t.csv", index=False)
    read = pd.read_csv(tmp_path / "t.csv", dtype=str, keep_default_na=False)
    assert rows_of(read_table(tmp_path / "t.csv")) == read.to_dict("records") == frame.to_dict("records")


@pytest.mark.parametrize(
    "text", ["\ufeffa,b\n1,2\n", "a;b\n1;2\n", "a\tb\n1\t2\n", "a,b\r\n1,2\r\n\r\n", '"a","b"\n1,2']
)
def test_csv_dialects(tmp_path, text):
    assert rows_of(read_table(write(tmp_path / "t.csv", text))) == [{"a": "1", "b": "2"}]


def test_a_name_may_hold_a_comma_where_semicolons_part_them(tmp_path):
    source = read_table(write(tmp_path / "t.csv", "price, EUR;size;kind\n3,5;1,25;a\n"))
    assert rows_of(source) == [{"price, EUR": "3.5", "size": "1.25", "kind": "a"}]
    source = read_table(write(tmp_path / "t.csv", "price, EUR;kind\n3,5;a\n1.024,5;b,c\n"))
    assert rows_of(source) == [{"price, EUR": "3.5", "kind": "a"}, {"price, EUR": "1024.5", "kind": "b,c"}]


@pytest.mark.parametrize("header", ['label,"mood (good; bad; mixed)"', "text;with;semis,label"])
def test_a_name_may_hold_semicolons_where_commas_part_them(tmp_path, header):
    source = read_table(write(tmp_path / "t.csv", f"{header}\n1,5\n"))
    assert [list(row.values()) for row in rows_of(source)] == [["1", "5"]]


def test_a_cell_longer_than_the_csv_modules_limit(tmp_path):
    limit = csv.field_size_limit()
    source = read_table(write(tmp_path / "t.csv", "text,n\n" + "x" * 200_000 + ",1\n"))
    assert len(source.row(0)["text"]) == 200_000
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("t.csv", "a,b\n1,2\n1,2,3\n", r"line 3: 3 cells, but the header names 2 columns \(a, b\).*quotes"),
        ("t.csv", 'a,b\n"1\n2",3\n4\n', r"line 4: 1 cells"),
        ("t.csv", 'a,b\n1,"2\n', r"line 2: .*close each quoted cell"),
        ("t.csv", "a,b\n", r"holds no rows, only a header line"),
        ("t.csv", "a,a\n1,2\n", r"two columns called 'a'"),
        ("t.csv", "x/1.jpg,cat\nx/2.jpg,dog\n", r"has no header line \(it begins with 'x/1.jpg'\)"),
        ("t.csv", "a,b\n1,2\n3,é\n".encode("latin1"), r"byte 10 \(line 3, 0xe9\).*iconv -f latin1 -t utf-8"),
        ("t.csv", "a,b\n1,2\n".encode("utf-16"), r"UTF-16.*iconv -f utf-16 -t utf-8"),
        ("t.jsonl", '{"a": 1}\n{"a": \n', r"line 2 is not JSON"),
        ("t.jsonl", '{"a": 1}\n\n[1, 2]\n', r"line 3 is no object"),
        ("t.jsonl", "\n\n", r"holds no rows$"),
        ("t.jsonl", b'{"a": 1}\n{"a": "\xff"}\n', r"byte 16 \(line 2, 0xff\)"),
        ("t.parquet", "PAR1 no it is not", r"cannot be read as Parquet"),
    ],
)
def test_broken_files_name_the_place_and_the_remedy(tmp_path, name, data, says):
    path = write(tmp_path / name, data)
    with pytest.raises(UnitxError, match=says) as error:
        read_table(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_bad_utf8_far_into_a_file_is_found_at_its_absolute_offset(tmp_path):
    good = b"a,b\n" + b"0123456789,x\n" * 50_000
    with pytest.raises(UnitxError, match=rf"byte {len(good) + 2} \(line 50002, 0xfc\)"):
        read_table(write(tmp_path / "t.csv", good + b"1,\xfc\n"))


def test_columns_of_a_frame_that_arrow_does_not_know_are_lists():
    frame = pd.DataFrame({"n": pd.arrays.SparseArray([0, 0, 1]), "c": np.array([1 + 2j, 0, 1]), "t": ["a", "b", "c"]})
    source = TableSource(frame_cells(frame), Path(), "t", {})
    assert source.column("n") == [0, 0, 1] and source.column("c") == [1 + 2j, 0, 1]
    assert source.column("t") == ["a", "b", "c"]


def test_jsonl_equals_json_and_keeps_lists_and_dates(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "BATCH", 2)
    rows = [
        {"a": "2020-01-01", "many": ["x", "y"]},
        {"a": None, "many": []},
        {"a": "", "late": 1},
        {"a": "z", "late": 2},
        {"a": "\ud800", "late": 12345678901234567890123},
        {"a": "w", "late": "mixed"},
    ]
    path = write(tmp_path / "t.jsonl", "\ufeff" + "\n".join(json.dumps(row) for row in rows))
    names = ["a", "many", "late"]
    truth = [{name: None if row.get(name) == "" else row.get(name) for name in names} for row in rows]
    truth[4]["a"] = "\ufffd"  # half a character, which no file could hold
    source = read_table(path)
    assert source.columns == names
    assert rows_of(source) == truth
    assert all(source.column(name) == [row[name] for row in truth] for name in names)


def test_parquet_equals_pandas(tmp_path):
    frame = pd.DataFrame({"n": [1.5, np.nan, 3.0], "s": ["a", None, ""], "many": [["p"], [], ["q", "r"]]})
    frame.to_parquet(tmp_path / "t.parquet")
    assert rows_of(read_table(tmp_path / "t.parquet")) == [
        {"n": 1.5, "s": "a", "many": ["p"]},
        {"n": None, "s": None, "many": []},
        {"n": 3.0, "s": None, "many": ["q", "r"]},
    ]
    again = pd.read_parquet(tmp_path / "t.parquet")  # whose lists are arrays
    rows = [{"many": cell} for cell in again["many"]]
    for cells in (frame_cells(again), collect(rows)):
        many = [row["many"] for row in rows_of(TableSource(cells, tmp_path, "the data"))]
        assert many == [["p"], [], ["q", "r"]]
    frame = pd.DataFrame({"n": [[1, 2], [2]], "m": [[[0, 1]], [[2, 3], [4, 5]]]})
    frame.to_parquet(tmp_path / "n.parquet")
    again = TableSource(frame_cells(pd.read_parquet(tmp_path / "n.parquet")), tmp_path, "the data")
    assert labels_of(again, "n", multi=True) == (["1", "2"], [1, 2])
    assert again.column("m") == frame["m"].tolist()


def test_media_cells_become_absolute_paths_and_numbers_text(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    write(tmp_path / "data" / "t.jsonl", '{"p": "a.jpg", "many": ["b.jpg", ""], "n": 7, "free": "a.jpg"}')
    monkeypatch.chdir(tmp_path)
    source = read_table(Path("data/t.jsonl"))
    source.reads = {"p": "image", "many": "image", "n": "text"}
    monkeypatch.chdir("/")
    base = tmp_path / "data"
    truth = {"p": base / "a.jpg", "many": [base / "b.jpg", None], "n": "7", "free": "a.jpg"}
    assert source.row(0) == truth
    assert source.column("p") == ["a.jpg"]


def test_files_stored_as_structs_give_bytes_or_a_path(tmp_path):
    cells = {"image": pa.chunked_array([[{"bytes": b"\x89", "path": "x.png"}, {"bytes": None, "path": "y.png"}]])}
    source = TableSource(cells, tmp_path, "t", {"image": "image"})
    assert [row["image"] for row in rows_of(source)] == [b"\x89", tmp_path / "y.png"]


def test_a_plugins_strings_become_paths_only_where_such_a_file_is(tmp_path):
    write(tmp_path / "a.fasta", "ACGT")
    source = TableSource(collect([{"dna": "ACGT"}, {"dna": "a.fasta"}]), tmp_path, "t", {"dna": "dna"})
    assert [row["dna"] for row in rows_of(source)] == ["ACGT", tmp_path / "a.fasta"]


def test_objects_stay_objects_and_plain_cells_are_packed():
    picture = np.zeros((2, 2, 3))
    cells = collect([{"x": picture, "n": 1}, {"x": (picture, 16_000), "n": None}])
    assert isinstance(cells["x"], list) and isinstance(cells["n"], pa.ChunkedArray)
    source = TableSource(cells, Path.cwd(), "t")
    assert source.row(0)["x"] is picture and source.row(1) == {"x": (picture, 16_000), "n": None}


def test_frames_of_every_kind_of_column():
    frame = pd.DataFrame(
        {
            "s": ["a", None, "c"],
            "i": pd.array([1, None, 3], dtype="Int64"),
            "c": pd.Categorical(["u", "v", None]),
            "o": pd.Series([[1], None, "x"], dtype=object),
            "p": pd.array(["k", None, "l"], dtype="string[pyarrow]"),
        }
    ).set_index(pd.Index([5, 6, 7]))
    source = TableSource(frame_cells(frame), Path.cwd(), "t")
    assert rows_of(source) == [
        {"s": "a", "i": 1, "c": "u", "o": [1], "p": "k"},
        {"s": None, "i": None, "c": "v", "o": None, "p": None},
        {"s": "c", "i": 3, "c": None, "o": "x", "p": "l"},
    ]
    with pytest.raises(UnitxError, match="two columns called 'a'"):
        frame_cells(pd.DataFrame([[1, 2]], columns=["a", "a"]))


def test_a_source_survives_pickling(tmp_path):
    source = read_table(write(tmp_path / "t.csv", "a,b\n1,\n,2\n"))
    assert (
        rows_of(pickle.loads(pickle.dumps(source))) == rows_of(source) == [{"a": "1", "b": None}, {"a": None, "b": "2"}]
    )


@pytest.mark.parametrize(
    ("name", "modality"),
    [("A.JPG", "image"), ("x/y.flac", "audio"), ("m.mp4", "video"), ("t.txt", "text"), ("jpg", None)],
)
def test_modality_by_suffix(name, modality):
    assert suffix_modality(name) == modality
