from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_models import picture

from unitx.columns import check_columns
from unitx.data import open_source
from unitx.errors import UnitxError

TREE: dict[str, Any] = {
    "images": [{"id": 7, "file_name": "a.png"}, {"id": 3, "file_name": "b.png"}],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 90, "bbox": [1, 2, 3, 4]},
        {"id": 2, "image_id": 7, "category_id": 2, "bbox": [0.5, 0, 8, 8]},
        {"id": 3, "image_id": 7, "category_id": 2, "bbox": [0, 0, 8, 8], "iscrowd": 1},
        {"id": 4, "image_id": 99, "category_id": 2, "bbox": [0, 0, 8, 8]},
    ],
    "categories": [{"id": 2, "name": "cat"}, {"id": 90, "name": "tooth brush"}],
}


@pytest.mark.parametrize("folder", [".", "images", "val2017", "../images"])
def test_rows_are_pictures_with_their_objects(tmp_path: Path, folder: str) -> None:
    home = tmp_path / "annotations"
    for place in (home, home / folder):
        place.mkdir(exist_ok=True, parents=True)
    for name in ("a.png", "b.png"):
        picture(0).save(home / folder / name)
    file = home / "instances_val2017.json"
    file.write_text(json.dumps(TREE), "utf-8-sig")
    source = open_source(str(file))
    assert source.columns == ["image", "objects"] and len(source) == 2
    first, second = (source.row(i, np.random.default_rng(0)) for i in range(2))
    assert first["image"].resolve() == (home / folder / "a.png").resolve()
    assert first["objects"] == [
        {"name": "tooth brush", "box": [1, 2, 3, 4]},
        {"name": "cat", "box": [0.5, 0, 8, 8]},
        {"name": "cat", "box": [0, 0, 8, 8], "iscrowd": True},
    ]
    assert second["objects"] == []
    notes = check_columns(source, {"image": "image"}, "objects", answer="objects")
    assert notes == [
        "1 annotations are of no picture or category in instances_val2017.json, and left out",
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is not JSON"),
        (json.dumps({**TREE, "images": [7]}), "an entry of 'images' has no 'id'"),
        (json.dumps({**TREE, "images": [{"id": 7, "file_name": None}]}), "an entry of 'images' has no 'file_name'"),
        (json.dumps({**TREE, "images": [{"id": [7], "file_name": "a.png"}]}), "an entry of 'images' has no 'id'"),
        (json.dumps({**TREE, "images": []}), "has no pictures"),
        ("[1]", "it has no list 'images'"),
        (json.dumps({**TREE, "categories": None}), "it has no list 'categories'"),
        (json.dumps({**TREE, "annotations": [{"image_id": 7, "category_id": 2}]}), "of 'annotations' has no 'bbox'"),
    ],
)
def test_other_json_is_refused(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "a.json"
    file.write_text(text)
    with pytest.raises(UnitxError, match=says):
        open_source(str(file))


def test_a_list_of_objects_is_a_table(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(json.dumps([{"text": "a", "label": "x"}, {"text": "b"}]), "utf-8")
    source = open_source(str(tmp_path / "rows.json"), {"text": "text"}, "label")
    assert source.column("text") == ["a", "b"] and source.column("label") == ["x", None]
