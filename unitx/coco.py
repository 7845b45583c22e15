"""Annotations of pictures in COCO's JSON (Lin et al. 2014), as rows of a picture and its objects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from unitx.errors import UnitxError
from unitx.tables import TableSource, collect

FIELDS = {
    "images": ("id", "file_name"),
    "annotations": ("image_id", "category_id", "bbox"),
    "categories": ("id", "name"),
}


def read_coco(path: Path) -> TableSource:
    """Rows {"image": path, "objects": [{"name": …, "box": [left, top, width, height]}, …]}, pixels; pictures without
    annotations have an empty list. A box around a crowd has "iscrowd": true.

    The pictures' paths are relative to the file's folder; or to the folder `images` or `val2017`, `train2017`, … of the
    file's name beside it or one above, as COCO is unpacked. A list of objects is a table, a row each.

    Raises:
        UnitxError: it is no JSON, or lacks a part; says which.
    """
    try:
        tree = json.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UnitxError(f"{path} is not JSON: {error}") from error
    if isinstance(tree, list) and tree and all(isinstance(row, dict) for row in tree):
        return TableSource(collect(tree), path.absolute().parent, str(path))
    for part, needed in FIELDS.items():
        entries = tree.get(part) if isinstance(tree, dict) else None
        wrong = next((name for name in needed for each in entries or [] if not _has(each, name)), None)
        if not isinstance(entries, list) or wrong:
            lacks = f"an entry of '{part}' has no '{wrong}'" if wrong else f"it has no list '{part}'"
            raise UnitxError(
                f"{path} is not COCO's: {lacks}; give images, annotations and categories, or a table (.jsonl) with a "
                'column of [{"name": …, "box": [left, top, width, height]}, …]'
            )
    if not tree["images"]:
        raise UnitxError(f"{path} has no pictures: its list 'images' is empty")
    names = {each["id"]: each["name"] for each in tree["categories"]}
    objects: dict[Any, list[dict[str, Any]]] = {each["id"]: [] for each in tree["images"]}
    lost = 0
    for each in tree["annotations"]:
        if each["image_id"] in objects and each["category_id"] in names:
            crowd = {"iscrowd": True} if each.get("iscrowd") else {}
            objects[each["image_id"]].append({"name": names[each["category_id"]], "box": each["bbox"], **crowd})
        else:
            lost += 1
    notes = [f"{lost:,} annotations are of no picture or category in {path.name}, and left out"] if lost else []
    cells: dict[str, Any] = {
        "image": [each["file_name"] for each in tree["images"]],
        "objects": [objects[each["id"]] for each in tree["images"]],
    }
    return TableSource(cells, _folder(path, cells["image"]), str(path), {"image": "image"}, notes=notes)


def _has(entry: Any, name: str) -> bool:
    """Whether an entry tells something; names and numbers are one word."""
    found = entry.get(name) if isinstance(entry, dict) else None
    return found is not None and (name == "bbox" or isinstance(found, str | int))


def _folder(path: Path, files: list[str]) -> Path:
    """The folder that the pictures' names are relative to."""
    usual = [path.stem.rpartition("_")[2], "images"]
    tried = [path.parent, *(home / name for home in (path.parent, path.parent.parent) for name in usual)]
    return next((folder for folder in tried if files and (folder / files[0]).is_file()), path.parent)
