"""Guessed columns, and what is found wrong before long work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unitx.columns import check_columns, guess_reads
from unitx.data import open_source
from unitx.errors import UnitxError
from unitx.folders import read_folder
from unitx.source import Subset
from unitx.tables import TableSource, collect, read_table


def table(rows: list[dict], base: Path = Path("/nowhere"), **reads: str) -> TableSource:
    return TableSource(collect(rows), base, "items.csv", reads)


@pytest.mark.parametrize(
    ("row", "label", "reads"),
    [
        ({"photo": "a.jpg", "title": "shoe", "price": "7"}, None, {"photo": "image", "title": "text"}),
        ({"file": "a.wav", "category": "dog"}, "category", {"file": "audio"}),
        ({"thing": ["a.png", "b.png"]}, None, {"thing": "image"}),
        ({"Text": "hello", "title": "x"}, "title", {"Text": "text"}),
        ({"image": "0017"}, None, {"image": "image"}),
        ({"x": Image.new("RGB", (2, 2)), "y": 1}, "y", {"x": "image"}),
        ({"audio": {"bytes": b"..", "path": None}}, None, {"audio": "audio"}),
    ],
)
def test_plain_cases_are_guessed(row, label, reads):
    assert guess_reads(table([row] * 3), label) == reads


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"q": "a long question", "z": "1"}, r"items.csv: .*it has q, z; .*--reads 'q:text'"),
        ({"front": "a.jpg", "back": "b.jpg"}, r"it has front, back; .*--reads 'front:image'"),
        ({"label": "x"}, r"--reads 'COLUMN:text'"),
    ],
)
def test_what_is_not_plain_is_asked(row, says):
    with pytest.raises(UnitxError, match=says):
        guess_reads(table([row]), "label")


def test_what_the_data_say_by_themselves_is_not_guessed_again():
    source = table([{"photo": "a.jpg"}], photo="text")
    assert guess_reads(Subset(source, np.array([0]))) == {"photo": "text"}


def test_good_data_pass(tmp_path):
    for i in range(10):
        (tmp_path / f"{i}.jpg").write_bytes(b"x")
    rows = [{"photo": f"{i}.jpg", "title": i, "label": str(i % 2)} for i in range(10)]
    assert check_columns(table(rows, tmp_path), {"photo": "image", "title": "text"}, "label") == []


def test_absent_columns():
    source = table([{"photo": "a", "category": "b"}])
    with pytest.raises(
        UnitxError, match=r"no column 'categroy' \(--label categroy\).*photo, category; is 'category' m"
    ):
        check_columns(source, {}, "categroy")
    with pytest.raises(UnitxError, match=r"no column 'zzz' \(--reads zzz:…\).*--reads COLUMN:image.*'\*:table'$"):
        check_columns(source, {"zzz": "image"})
    for first in ("4.5", "1.004,5", "I have seen better films"):
        with pytest.raises(UnitxError, match=r"no column 'zzz' \(--reads zzz:…\).*lacks its header line"):
            check_columns(table([{first: "a", "good": "b"}]), {"zzz": "image"})


def test_a_flat_folder_has_no_classes(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"x")
    with pytest.raises(UnitxError, match="put the files in FOLDER/CLASS/"):
        check_columns(read_folder(tmp_path, None, "label"), {"image": "image"}, "label")


@pytest.mark.parametrize(
    ("labels", "says"),
    [(["cat"] * 3, r"one class only in 'label', 'cat' \(3 rows\)"), ([None] * 3, r"'label' is empty")],
)
def test_labels_that_teach_nothing(labels, says):
    source = table([{"text": "a", "label": label} for label in labels])
    with pytest.raises(UnitxError, match=says):
        check_columns(source, {"text": "text"}, "label")


def test_a_single_tag_is_fine_where_rows_may_have_several():
    source = table([{"text": "a", "label": label} for label in ["tag", None]])
    notes = check_columns(source, {"text": "text"}, "label", multi=True)
    assert notes == ["1 of 2 rows have no label in 'label' and are left out"]


def test_rows_with_nothing_to_read_are_counted():
    texts = [("a", None), (None, "b"), (None, None)]
    source = table([{"text": text, "title": title, "label": str(i)} for i, (text, title) in enumerate(texts)])
    notes = check_columns(source, {"text": "text", "title": "text"}, "label")
    assert notes == ["1 of 3 rows looked at have nothing in text, title and are left out"]


def test_paths_read_as_text(tmp_path):
    with pytest.raises(
        UnitxError, match=r"'photo' is read as text but holds paths \('a0.jpg'\): --reads 'photo:image'"
    ):
        check_columns(table([{"photo": f"a{i}.jpg" if i < 9 else "x"} for i in range(10)]), {"photo": "text"})
    (tmp_path / "README").write_text("x")
    with pytest.raises(UnitxError, match=r"holds paths \('README'\): put the text itself in the column"):
        check_columns(table([{"t": "README"}], tmp_path), {"t": "text"})
    mostly_text = [{"t": f"see a{i}.jpg" if i % 2 else "no"} for i in range(10)]
    assert check_columns(table(mostly_text), {"t": "text"}) == []


def test_objects_read_as_text():
    with pytest.raises(UnitxError, match=r"'x' is read as text but holds bytes: .*--reads 'x:image'"):
        check_columns(table([{"x": b"\x89PNG"}]), {"x": "text"})


def test_text_read_as_pictures(tmp_path):
    with pytest.raises(UnitxError, match=r"items.csv, row 2: .*no file .*/red shoe; 2 of 2 .*--reads 'title:text'"):
        check_columns(table([{"title": None}, {"title": "red shoe"}, {"title": "hat"}], tmp_path), {"title": "image"})


def test_all_files_missing(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "a.jpg").write_bytes(b"x")
    (tmp_path / "data" / "t.csv").write_text("image\na.jpg\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnitxError, match=r"row 1: .*relative to .*/data: write \.\./a\.jpg"):
        check_columns(read_table(Path("data/t.csv")), {"image": "image"})
    with pytest.raises(UnitxError, match=r"1 of 1 files looked at are missing; paths are relative to /nowhere: corr"):
        check_columns(table([{"image": "b.jpg"}]), {"image": "image"})
    with pytest.raises(UnitxError, match="addresses are not fetched"):
        check_columns(table([{"image": "https://example.org/a.jpg"}]), {"image": "image"})


def test_a_few_missing_files_are_told_and_no_error(tmp_path):
    for i in range(10):
        (tmp_path / f"{i}.jpg").write_bytes(b"x")
    (tmp_path / "4.jpg").unlink()
    rows = [{"image": f"{i}.jpg"} for i in range(10)]
    (note,) = check_columns(table(rows, tmp_path), {"image": "image"})
    assert "row 5" in note and "4.jpg; 1 of 10 files looked at are missing, and their rows will be skipped" in note
    # The rows of a part are named by their numbers in the file.
    (note,) = check_columns(Subset(table(rows, tmp_path), np.array([1, 4, 7])), {"image": "image"})
    assert "row 5" in note and "1 of 3" in note


def test_an_empty_column():
    with pytest.raises(UnitxError, match="'image' is empty in all 2 rows looked at"):
        check_columns(table([{"image": None}, {"image": ""}]), {"image": "image"})


def test_a_long_table_is_looked_at_from_end_to_end(tmp_path):
    rows = [{"image": None} for _ in range(5_000)]
    rows[-1] = {"image": "gone.jpg"}
    with pytest.raises(UnitxError, match=r"row 5000: .*1 of 1 files"):
        check_columns(table(rows, tmp_path), {"image": "image"})


def test_the_reads_given_count_and_not_those_of_the_opening(tmp_path):
    source = open_source([{"text": "gone.txt"}], {"text": "text"})
    with pytest.raises(UnitxError, match="read as image, but there is no file"):
        check_columns(source, {"text": "image"})


def test_what_was_left_out_is_told(tmp_path):
    for name in ("a/1.jpg", "b/2.jpg", "3.jpg", "x.db"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    notes = check_columns(read_folder(tmp_path, None, "label"), {"image": "image"}, "label")
    assert notes == [
        f"left out of {tmp_path}: 1 files (1 .db)",
        "1 of 3 rows have no label in 'label' and are left out",
    ]


def test_rows_of_numbers_are_read_whole():
    rows = [{"age": 30 + i, "colour": "red", "price": i} for i in range(4)]
    with pytest.raises(UnitxError, match=r"no column 'image' .*it has: age, colour, price; .*--reads '\*:table'"):
        check_columns(open_source(rows, {"image": "image"}), {"image": "image"}, "price", answer="number")
    with pytest.raises(UnitxError, match=r"'age' alone is no table: read whole rows, --reads '\*:table'"):
        check_columns(open_source(rows, {"age": "table"}), {"age": "table"}, "price", answer="number")
