"""Held-out parts, against brute force over random tables."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from unitx.errors import UnitxError
from unitx.source import Subset
from unitx.splits import split
from unitx.tables import TableSource, collect

RNG = np.random.default_rng(0)


def table(rows: list[dict], **reads: str) -> TableSource:
    return TableSource(collect(rows), Path.cwd(), "t", reads)


def places(part: Subset) -> list[int]:
    return part.indices.tolist()


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 40), st.sampled_from("abcd")), min_size=2, max_size=60),
    st.floats(0.05, 0.6),
    st.integers(0, 3),
)
def test_no_picture_on_both_sides_and_every_class_still_trains(rows, fraction, seed):
    source = table([{"image": f"{picture}.jpg", "label": label} for picture, label in rows], image="image")
    try:
        train, held, statement = split(source, "label", fraction, seed)
    except UnitxError:
        # Only where each picture holds the last row of a class, or is the only one.
        for picture in {picture for picture, _ in rows}:
            rest = {label for other, label in rows if other != picture}
            assert rest != {label for _, label in rows}
        return
    assert sorted(places(train) + places(held)) == list(range(len(rows))) and len(held) > 0
    assert not set(train.column("image")) & set(held.column("image"))
    assert set(train.column("label")) == {label for _, label in rows}
    assert statement.startswith(f"held out {len(held)} of {len(rows)} rows (seed {seed}, ")
    again = split(source, "label", fraction, seed)
    assert places(again[1]) == places(held) and again[2] == statement


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(2, 60), min_size=1, max_size=12), st.floats(0.05, 0.5), st.integers(0, 9))
def test_each_class_gives_its_share(sizes, fraction, seed):
    labels = [f"c{k}" for k, size in enumerate(sizes) for _ in range(size)]
    assume(len(labels) * fraction >= 1)
    source = table([{"text": str(i), "label": label} for i, label in enumerate(labels)], text="text")
    _, held, _ = split(source, "label", fraction, seed)
    gave = Counter(held.column("label"))
    for k, size in enumerate(sizes):
        assert abs(gave[f"c{k}"] - size * fraction) < 1
    assert abs(len(held) - len(labels) * fraction) <= 0.5


def test_the_seed_decides_and_nothing_else():
    rows = [{"text": str(i)} for i in range(100)]
    one, two = (split(table(rows, text="text"), seed=seed) for seed in (0, 1))
    assert len(one[1]) == len(two[1]) == 10 and places(one[1]) != places(two[1])
    assert one[2] == "held out 10 of 100 rows (seed 0)"


def test_small_classes_give_a_row_here_and_there():
    source = table([{"text": str(i), "label": str(i // 4)} for i in range(400)], text="text")
    _, held, statement = split(source, "label")
    assert len(held) == 40 and max(Counter(held.column("label")).values()) == 1
    assert "shared over 100 classes, 60 of them too small to give a row" in statement
    even = table([{"text": str(i), "label": str(i % 12)} for i in range(1200)], text="text")
    assert split(even, "label")[2] == "held out 120 of 1,200 rows (seed 0, same share of each of 12 classes)"


def test_a_class_of_one_row_trains():
    source = table([{"text": str(i), "label": "rare" if i == 5 else "common"} for i in range(20)], text="text")
    assert all("rare" in split(source, "label", seed=seed)[0].column("label") for seed in range(20))


def test_several_labels_a_row():
    rng = np.random.default_rng(0)
    tags = ["|".join(t for t in "abcdef" if rng.random() < 0.3) or "a" for _ in range(200)]
    tags[0] = "a|unique"
    source = table([{"text": str(i), "tags": tag} for i, tag in enumerate(tags)], text="text")
    for seed in range(5):
        train, held, _ = split(source, "tags", 0.2, seed, multi=True)
        assert {"unique", *"abcdef"} == {t for cell in train.column("tags") for t in cell.split("|")}
        assert set("abcdef") <= {t for cell in held.column("tags") for t in cell.split("|")}


def test_captions_tie_rows_only_where_there_is_no_picture():
    rows = [{"image": f"{i}.jpg", "text": "a cat"} for i in range(20)]
    assert len(split(table(rows, image="image", text="text"))[1]) == 2
    rows = [{"image": None, "text": str(i % 10)} for i in range(20)]
    train, held, statement = split(table(rows, image="image", text="text"))
    assert not set(train.column("text")) & set(held.column("text")) and len(held) == 2
    assert statement.endswith("10 rows that repeat an item stay on its side)")


def test_pictures_in_lists_and_in_other_columns_tie_rows():
    rows = [{"front": [f"{i}.jpg", f"{i + 1}.jpg"], "back": f"b{i}.jpg"} for i in range(0, 40, 2)]
    rows[7]["back"] = "0.jpg"  # the picture that row 0 shows in front
    source = table(rows, front="image", back="image")
    for seed in range(20):
        held = places(split(source, None, 0.3, seed)[1])
        assert (0 in held) == (7 in held)


def test_pictures_stored_as_bytes_are_compared_by_content():
    cells = [{"bytes": bytes([i % 10]) * 9, "path": f"{i}.png"} for i in range(20)]
    source = TableSource({"image": pa.chunked_array([cells])}, Path.cwd(), "t", {"image": "image"})
    train, held, _ = split(source)

    def shown(part: Subset) -> set[bytes]:
        return {part.row(i, RNG)["image"] for i in range(len(part))}

    assert len(held) == 2 and not shown(train) & shown(held)


def test_copies_of_a_file_stay_on_one_side(tmp_path: Path):
    for i in range(20):
        content = RNG.bytes(10_000)
        (tmp_path / f"{i}.png").write_bytes(content)
        (tmp_path / f"copy-of-{i}.png").write_bytes(content)
        middle = bytearray(content)
        middle[5_000] ^= 1  # as large, with the same beginning and end
        (tmp_path / f"other-{i}.png").write_bytes(bytes(middle))
    rows = [{"image": file.name} for file in sorted(tmp_path.iterdir())]
    source = TableSource(collect(rows), tmp_path, "t", {"image": "image"})
    _, held, statement = split(source, fraction=0.3)
    names = set(held.column("image"))
    assert all((f"{i}.png" in names) == (f"copy-of-{i}.png" in names) for i in range(20))
    assert any((f"{i}.png" in names) != (f"other-{i}.png" in names) for i in range(20))
    assert "20 rows that repeat an item" in statement


def test_where_a_class_is_one_file_in_many_copies_they_are_split_and_it_is_said(tmp_path: Path):
    for i in range(20):
        (tmp_path / f"{i}.wav").write_bytes(b"low" if i % 2 else b"high")
    rows = [{"audio": f"{i}.wav", "label": "ab"[i % 2]} for i in range(20)]
    source = TableSource(collect(rows), tmp_path, "t", {"audio": "audio"})
    _, held, statement = split(source, "label", 0.2)
    assert len(held) == 4 and "copies of files are on both sides" in statement


def test_series_with_a_number_in_common_are_two():
    rows = [{"series": [0.0, 1.5, float(i)], "label": "ab"[i % 2]} for i in range(40)]
    rows += rows[:3]  # and equal ones are one
    _, held, statement = split(table(rows, series="series"), "label", 0.2)
    assert len(held) == 9 and "3 rows that repeat an item" in statement
    layers = [{"series": [[0.0, 0.0], [float(i), 1.0]], "label": "ab"[i % 2]} for i in range(40)]
    assert len(split(table(layers, series="series"), "label", 0.2)[1]) == 8


def test_columns_that_other_tasks_read_tie_rows_too():
    rows = [{"photo": f"{i % 20}.png", "title": f"title {i}"} for i in range(100)]
    source = table(rows, title="text")
    train, held, _ = split(source, fraction=0.2, reads={"title": "text", "photo": "image"})
    assert not set(train.column("photo")) & set(held.column("photo"))
    train, held, _ = split(source, fraction=0.2)
    assert set(train.column("photo")) & set(held.column("photo"))


def test_pictures_in_memory_are_told_apart():
    rows = [{"image": (np.zeros(3), 16_000), "label": "ab"[i % 2]} for i in range(20)]
    assert len(split(table(rows, image="audio"), "label")[1]) == 2


def test_whole_files_are_held_out_where_there_are_enough():
    def text_source(files: int) -> TableSource:
        rows = [{"text": f"{file} {part}", "file": str(file)} for file in range(files) for part in range(5)]
        source = table(rows, text="text")
        source.together = "file"
        return source

    train, held, statement = split(text_source(40))
    assert not set(train.column("file")) & set(held.column("file")) and len(held) == 20 and "whole files" in statement
    train, held, statement = split(text_source(2))
    assert len(held) == 1 and "whole files" not in statement


def test_a_source_that_says_no_reads_is_split_by_rows():
    class Made:
        columns: tuple[str, ...] = ("x",)

        def __len__(self):
            return 30

        def row(self, index, rng, strength=1.0):
            return {"x": "same"}

        def column(self, name):
            return ["same"] * 30

    assert len(split(Made())[1]) == 3


def test_what_rows_share_is_told_before_their_classes():
    rows = [{"text": "the same", "kind": kind} for kind in ("x", "y", "z")]
    with pytest.raises(UnitxError, match="they share items, or are the only ones of their class"):
        split(table(rows, text="text"), "kind")


def test_a_value_of_its_own_in_every_row_is_no_class():
    rows = [{"text": f"text {i}", "price": f"{i}.5"} for i in range(9)]
    with pytest.raises(UnitxError, match=r"\('price' has 9 values in them; numbers are for the recipe regress"):
        split(table(rows, text="text"), "price")


@pytest.mark.parametrize("rows", [[{"text": "a"}], [{"text": "a"}] * 9])
def test_what_cannot_be_split_says_so(rows):
    with pytest.raises(UnitxError, match=r"no part of its .* rows can be held out.*give data to evaluate on"):
        split(table(rows, text="text"))


def test_a_share_out_of_range():
    with pytest.raises(UnitxError, match="between 0 and 1"):
        split(table([{"text": "a"}, {"text": "b"}], text="text"), fraction=1.0)


def test_classes_of_one_row_do_not_use_up_the_share():
    labels = ["common"] * 50 + [f"rare{i}" for i in range(10)]
    source = table([{"text": str(i), "label": label} for i, label in enumerate(labels)], text="text")
    assert all(len(split(source, "label", seed=seed)[1]) == 6 for seed in range(5))
