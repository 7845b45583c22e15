"""Folders against Path.rglob, and texts cut without losing a character."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unitx.errors import UnitxError
from unitx.folders import LONGEST, SHORTEST, cut_text, read_folder, read_text_file, scan


def touch(root: Path, *names: str, data: bytes = b"x") -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


@settings(max_examples=80, deadline=None)
@given(st.lists(st.sampled_from(["word ", "a", "\n", "\n\n", "\r\n", " ", "é" * 700, "x" * 5_000]), max_size=60))
def test_cutting_loses_nothing_and_keeps_the_sizes(parts):
    text = "".join(parts)
    rows = list(cut_text(text))
    assert "".join(rows) == text
    if len(text) > LONGEST:
        assert all(SHORTEST <= len(row) <= LONGEST for row in rows)
    else:
        assert rows == ([text] if text else [])


def test_cuts_fall_at_blank_lines_then_lines_then_spaces():
    def ends(piece: str) -> set[str]:
        return {row[-2:] for row in list(cut_text(piece * 2_000))[:-1]}

    assert ends("one two\nthree\n\n") == {"\n\n"}
    assert ends("one two three\n") == {"e\n"}
    assert ends("one ") == {"e "}


def test_a_text_file_keeps_its_line_ends_and_drops_its_mark(tmp_path):
    text = "Zeile ä\r\n\r\n" * 3_000
    touch(tmp_path, "t.txt", data=b"\xef\xbb\xbf" + text.encode())
    source = read_text_file(tmp_path / "t.txt")
    assert "".join(source.column("text")) == text and len(source) > 5 and source.columns == ["text"]


def test_class_folders(tmp_path):
    names = ["cat/1.jpg", "cat/deep/er/2.PNG", "dog/3.webp", "dog/Thumbs.db", "dog/.hidden.jpg", "readme.txt", "b.gif"]
    touch(tmp_path, *names, ".git/x.jpg", "__MACOSX/._1.jpg")
    source = read_folder(tmp_path, None, "label")
    truth = sorted(
        path.relative_to(tmp_path).as_posix()
        for path in tmp_path.rglob("*")
        if path.suffix.lower() in {".jpg", ".png", ".webp", ".gif"}
        and not any(part.startswith(".") for part in path.relative_to(tmp_path).parts)
    )
    assert source.column("image") == truth == ["b.gif", "cat/1.jpg", "cat/deep/er/2.PNG", "dog/3.webp"]
    assert source.column("label") == [None, "cat", "cat", "dog"]
    assert source.row(1) == {"image": tmp_path / "cat/1.jpg", "label": "cat"}
    assert source.notes == [f"left out of {tmp_path}: 5 files (3 hidden, 1 .db, 1 text files)"]


def test_the_order_does_not_depend_on_the_order_on_disk(tmp_path):
    names = [f"{c}/{i}.wav" for c in "abc" for i in range(20)]
    random.Random(0).shuffle(names)
    touch(tmp_path, *names)
    source = read_folder(tmp_path, None, None)
    assert source.column("audio") == sorted(names) and source.reads == {"audio": "audio"}


def test_names_that_are_not_utf8_are_left_out_and_said(tmp_path):
    touch(tmp_path, "cat/1.jpg", "dog/2.jpg")
    for name in (b"cat/caf\xe9.jpg", b"caf\xe9"):
        path = os.path.join(os.fsencode(tmp_path), name)
        os.makedirs(path) if not name.endswith(b".jpg") else open(path, "wb").close()
    source = read_folder(tmp_path, None, "label")
    assert source.column("image") == ["cat/1.jpg", "dog/2.jpg"]
    assert source.notes == [f"left out of {tmp_path}: 2 files (2 whose names are not UTF-8)"]


def test_a_flat_folder_has_no_label(tmp_path):
    assert read_folder(touch(tmp_path, "1.jpg", "2.jpg"), None, None).columns == ["image"]


def test_links_that_loop_do_not_hang_and_linked_folders_are_read(tmp_path):
    touch(tmp_path, "a/1.jpg", "b/2.jpg")
    for link, target in {"a/up": "..", "a/self": ".", "a/b": "../b", "b/a": "../a", "c": "c"}.items():
        os.symlink(target, tmp_path / link)
    found, _ = scan(tmp_path)
    assert sorted(found["image"]) == ["a/1.jpg", "a/b/2.jpg", "b/2.jpg", "b/a/1.jpg"]


def test_texts_are_cut_for_reading_and_whole_for_classifying(tmp_path):
    touch(tmp_path, "pos/1.txt", data=b"good\n" * 2_000)
    touch(tmp_path, "neg/2.txt", data=b"bad\n")
    touch(tmp_path, "neg/3.txt", data="schäbig".encode("latin1"))
    touch(tmp_path, "neg/4.txt", data=b"")
    cut, whole = read_folder(tmp_path, None, None), read_folder(tmp_path, {"text": "text"}, "label")
    assert whole.column("text") == ["bad\n", "good\n" * 2_000]
    assert whole.column("label") == ["neg", "pos"] == sorted(set(cut.column("label")))
    assert len(cut) > 2 and "".join(cut.column("text")) == "bad\n" + "good\n" * 2_000
    assert cut.together == "file" and set(cut.column("file")) == {"neg/2.txt", "pos/1.txt"}
    assert "1 unreadable or not UTF-8" in whole.notes[0]


@pytest.mark.parametrize(
    ("names", "reads", "says"),
    [
        (["a.bin", "b.exe"], None, r"no file that can be read; .*image: .*\.jpg .*text: .*\.txt"),
        ([], None, r"no file that can be read"),
        (["items.csv"], None, r"holds a \.csv file.*give that file itself"),
        (["a.jpg", "b.wav"], None, r"1 audio files, 1 image files.*--reads audio or --reads image"),
        (["a.jpg", "b.wav"], {"image": "image", "audio": "audio"}, r"one kind can be read from a folder"),
        (["a.jpg"], {"audio": "audio"}, r"holds no audio file; it holds 1 image files"),
        (["train/cat/1.jpg", "test/cat/2.jpg"], None, r"holds the parts test, train.*give the one to use"),
    ],
)
def test_folders_that_cannot_be_meant(tmp_path, names, reads, says):
    touch(tmp_path, *names)
    with pytest.raises(UnitxError, match=says) as error:
        read_folder(tmp_path, reads, None)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_reads_chooses_among_several_kinds(tmp_path):
    touch(tmp_path, "a.jpg", "b.wav", "c.mp4", "d.txt")
    for kind, names in {"image": ["a.jpg"], "audio": ["b.wav", "c.mp4"], "text": ["d.txt"]}.items():
        source = read_folder(tmp_path, {kind: kind}, None)
        assert source.column("file" if kind == "text" else kind) == names  # a video is its sound
    sound = read_folder(tmp_path, {"video": "audio"}, None)
    assert sound.row(0) == {"video": tmp_path / "c.mp4"} and sound.reads == {"video": "audio"}


def test_a_folder_of_broken_texts(tmp_path):
    touch(tmp_path, "a.txt", "b.txt", data=b"\xff\xfe\xff")
    with pytest.raises(UnitxError, match="none of its 2 text files holds UTF-8 text"):
        read_folder(tmp_path, None, None)


def test_an_empty_text_is_refused_and_a_latin1_one_located(tmp_path):
    touch(tmp_path, "mark.txt", data=b"\xef\xbb\xbf")
    with pytest.raises(UnitxError, match="is empty"):
        read_text_file(tmp_path / "mark.txt")
    touch(tmp_path, "latin.txt", data=b"ok\nd\xe9j\xe0\n")
    with pytest.raises(UnitxError, match=r"byte 4 \(line 2, 0xe9\).*iconv"):
        read_text_file(tmp_path / "latin.txt")


def test_without_reads_the_more_numerous_of_pictures_and_texts_is_read(tmp_path):
    touch(tmp_path, "a.jpg", "a.txt")
    assert read_folder(tmp_path, None, None).columns == ["image"]
    touch(tmp_path, "b.md")
    source = read_folder(tmp_path, None, None)
    assert source.columns == ["text", "file"] and source.notes == [f"left out of {tmp_path}: 1 files (1 image files)"]


def test_the_note_names_the_commonest_kinds_left_out(tmp_path):
    touch(tmp_path, "a.jpg", *(f"{i}.x{k}" for k in range(7) for i in range(k + 1)))
    (note,) = read_folder(tmp_path, None, None).notes
    assert note == f"left out of {tmp_path}: 28 files (7 .x6, 6 .x5, 5 .x4, 4 .x3, 3 .x2 and 2 kinds more)"
