"""Folders of files, and plain text: rows of paths with the class folder as their label, rows cut from long texts."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from unitx.errors import UnitxError
from unitx.media import MEDIA, SUFFIXES, suffix_modality
from unitx.tables import TABLES, TableSource, collect, not_utf8

SPLIT_FOLDERS = {"train", "training", "test", "val", "valid", "validation", "dev", "eval"}
LONGEST, SHORTEST = 4_000, 2_000  # characters of a row of plain text


def read_text_file(path: Path) -> TableSource:
    """A plain text file, cut in rows (`cut_text`).

    Raises:
        UnitxError: it is empty or not UTF-8.
    """
    cells = collect({"text": part} for part in cut_text(read_text(path)))
    source = TableSource(cells, path.absolute().parent, str(path), {"text": "text"})
    if not len(source):
        raise UnitxError(f"{path} is empty")
    return source


def read_text(path: Path) -> str:
    """A file's text, line ends as they are.

    Raises:
        UnitxError: it is not UTF-8; says where.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise not_utf8(path) from error


def cut_text(text: str) -> Iterator[str]:
    """Rows of a long text, of 2,000 to 4,000 characters each, that together are the whole text; a short one is one row.

    Cut after the last blank line, line end or space in reach, in this order.
    """
    start = 0
    while len(text) - start > LONGEST:
        low, high = start + SHORTEST, min(start + LONGEST, len(text) - SHORTEST)
        border = next((sign for sign in ("\n\n", "\n", " ") if text.find(sign, low, high) >= 0), None)
        end = text.rfind(border, low, high) + len(border) if border else high
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]


def read_folder(root: Path, reads: dict[str, str] | None, label: str | None) -> TableSource:
    """A folder of media or of plain text: a column named by the modality, and "label" where there are class folders.

    The class is the folder right below `root`, however deep the file. Text is cut in rows, unless there is a label to
    learn (then a file is a row). Hidden files and other kinds are left out and counted in the notes.

    Raises:
        UnitxError: nothing readable, several kinds of media, or folders that look like a train and a test part.
    """
    found, left_out = scan(root)
    if "audio" in (reads or {}) and "video" in found:  # where sound is wanted, a video is its sound
        found["audio"] = found.get("audio", []) + found.pop("video")
    kind = _kind(root, found, left_out, reads)
    left_out.update({f"{name} files": len(paths) for name, paths in found.items() if name != kind})
    paths = sorted(found[kind])
    classes = {path.split("/")[0] for path in paths if "/" in path}
    if len(classes) > 1 and {name.lower() for name in classes} <= SPLIT_FOLDERS:
        raise UnitxError(
            f"{root} holds the parts {', '.join(sorted(classes))}: give the one to use, such as {root / min(classes)}"
        )
    rows = _folder_rows(kind, paths, bool(classes))
    if kind == "text":
        rows = _text_rows(root, rows, whole=label is not None, left_out=left_out)
    source = TableSource(collect(rows), root.absolute(), str(root), reads or {kind: kind})
    if kind == "text":
        source.together = "file"
        if not len(source):
            raise UnitxError(f"{root}: none of its {len(paths)} text files holds UTF-8 text")
    if left_out:
        most = ", ".join(f"{count:,} {what}" for what, count in left_out.most_common(5))
        others = f" and {len(left_out) - 5} kinds more" if len(left_out) > 5 else ""
        source.notes.append(f"left out of {root}: {left_out.total():,} files ({most}{others})")
    return source


def scan(root: Path) -> tuple[dict[str, list[str]], Counter[str]]:
    """modality → paths below `root` (with "/"), and how many other files there are, by suffix. Links may loop."""
    found: dict[str, list[str]] = {}
    left_out: Counter[str] = Counter()
    stack = [(os.fspath(root), "", frozenset({_inode(root)}))]
    while stack:
        folder, prefix, above = stack.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    left_out["hidden"] += 1
                elif not _is_utf8(entry.name):  # in no table, log or configuration could it be written
                    left_out["whose names are not UTF-8"] += 1
                elif entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and os.path.isdir(entry.path)):
                    inode = _inode(entry.path)
                    if inode not in above:
                        stack.append((entry.path, f"{prefix}{entry.name}/", above | {inode}))
                elif modality := suffix_modality(entry.name):
                    found.setdefault(modality, []).append(prefix + entry.name)
                else:
                    left_out[os.path.splitext(entry.name)[1].lower() or "without suffix"] += 1
    return found, left_out


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _inode(path: str | os.PathLike) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _kind(root: Path, found: dict[str, list[str]], left_out: Counter[str], reads: dict[str, str] | None) -> str:
    """Which of the modalities in a folder to read."""
    counts = ", ".join(f"{len(paths)} {kind} files" for kind, paths in sorted(found.items()))
    if not found:
        table = next((suffix for suffix in TABLES if suffix in left_out), None)
        if table:
            raise UnitxError(f"{root} holds a {table} file and nothing else to read: give that file itself as data")
        readable = "; ".join(f"{kind}: {' '.join(sorted(known))}" for kind, known in SUFFIXES.items())
        raise UnitxError(f"{root} holds no file that can be read; files that are read: {readable}")
    wanted = [column for column in reads or {} if column in SUFFIXES]
    if wanted and not found.keys() & set(wanted):
        raise UnitxError(f"{root} holds no {' or '.join(wanted)} file; it holds {counts}")
    kinds = [kind for kind in sorted(found) if kind in (wanted or MEDIA)]
    if len(kinds) > 1:
        choices = " or ".join(f"--reads {kind}" for kind in sorted(found))
        raise UnitxError(f"{root} holds {counts}, and one kind can be read from a folder: say {choices}")
    # Pictures may come with a readme, and texts with a few pictures.
    if not wanted and kinds and len(found[kinds[0]]) < len(found.get("text", [])):
        return "text"
    return kinds[0] if kinds else "text"


def _folder_rows(kind: str, paths: list[str], labelled: bool) -> Iterator[dict[str, Any]]:
    for path in paths:
        row: dict[str, Any] = {kind: path}
        if labelled:
            row["label"] = path.split("/")[0] if "/" in path else None
        yield row


def _text_rows(
    root: Path, rows: Iterable[dict[str, Any]], whole: bool, left_out: Counter[str]
) -> Iterator[dict[str, Any]]:
    for row in rows:
        file = row["text"]
        try:
            text = read_text(root / file)
        except (UnitxError, OSError):
            left_out["unreadable or not UTF-8"] += 1
            continue
        for part in [text] if whole and text else cut_text(text):
            yield {**row, "text": part, "file": file}
