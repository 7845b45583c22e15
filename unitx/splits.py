"""Holding a part of the data out for evaluation: seeded, in proportion to the classes, no item on both sides."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b, file_digest
from pathlib import Path
from typing import Any

import numpy as np

from unitx.cells import number_of
from unitx.errors import UnitxError
from unitx.media import MEDIA
from unitx.source import ROW, Source, Subset, file_column, is_numeric, labels_in, name_of, origin

ENDS = 4_096  # bytes at the beginning and the end of a file
ENOUGH_FILES = 20  # texts cut from fewer files are held out by rows, from more by whole files


def split(
    source: Source,
    label: str | None = None,
    fraction: float = 0.1,
    seed: int = 0,
    multi: bool = False,
    reads: dict[str, str] | None = None,
) -> tuple[Subset, Subset, str]:
    """Hold out about `fraction` of the rows; a pure function of the seed and the rows.

    Rows that share an item stay on one side: the same picture, sound or video, also as a copy in another file, or,
    where a row has none of these, the same text; and rows cut from one file where there are at least 20 files. With a
    label each class gives its share, by largest remainder, and keeps at least one row to train on; with `multi`, where
    a row may have several, the rarest of them is its class here.

    Args:
        reads: column → modality of the items; those that the source was opened with where None.

    Returns: the rows to train on, the rows held out, and a sentence for the log.

    Raises:
        UnitxError: nothing can be held out (one row, or all rows share an item).
    """
    if not 0 < fraction < 1:
        raise UnitxError(f"the share to hold out is {fraction}: give one between 0 and 1")
    n = len(source)
    labels = [labels_in(cell, multi) for cell in source.column(label)] if label else [[] for _ in range(n)]
    reads = reads or getattr(origin(source), "reads", {})
    repeated = copies({file for files in files_of(source, reads) for file in files})
    for same in [repeated, {}] if repeated else [{}]:  # where a class is one sound in twenty files, they are split too
        groups, whole_files = _groups(source, reads, same)
        choice = _Choice(labels, fraction, np.random.default_rng(seed))
        if choice.among(groups):
            break
    else:
        values = {name for names in labels for name in names}
        why = (
            f"'{label}' has {len(values):,} values in them; numbers are for the recipe regress"
            if 2 * len(values) > n > 2 and not multi and all(number_of(value) is not None for value in values)
            else "they share items, or are the only ones of their class"
        )
        raise UnitxError(
            f"{name_of(source)}: no part of its {n:,} rows can be held out ({why}): give data to evaluate on"
        )
    held = np.zeros(n, dtype=bool)
    held[choice.held] = True
    details = [f"seed {seed}", *choice.details()]
    details += ["whole files"] if whole_files else []
    details += ["copies of files are on both sides"] if repeated and not same else []
    if not whole_files and len(groups) < n:
        details.append(f"{n - len(groups):,} rows that repeat an item stay on its side")
    statement = f"held out {held.sum():,} of {n:,} rows ({', '.join(details)})"
    return Subset(source, np.flatnonzero(~held)), Subset(source, np.flatnonzero(held)), statement


@dataclass
class _Choice:
    """What has been held out so far, and how much each class still gives."""

    labels: list[list[str]]
    fraction: float
    rng: np.random.Generator
    held: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.left = Counter(name for names in self.labels for name in names)  # rows to train on, by label
        self.classes = [min(names, key=lambda name: (self.left[name], name), default="") for names in self.labels]
        self.quota = self._quotas(Counter(self.classes))
        self.gave: Counter[str] = Counter()

    def _quotas(self, sizes: Counter[str]) -> dict[str, int]:
        """Rows that each class gives: its share rounded down, and what is left to the largest remainders."""
        names = sorted(sizes)
        shares = np.array([sizes[name] * self.fraction for name in names])
        # At least one row in all, rounding half up; the small term breaks ties among equal classes by chance.
        total = max(1, int(len(self.labels) * self.fraction + 0.5))
        quota = np.floor(shares + 1e-9).astype(int)
        remainders = shares - quota + 1e-9 * self.rng.random(len(names))
        remainders[[sizes[name] < 2 for name in names]] = -1.0
        for place in np.argsort(-remainders)[: max(0, total - quota.sum())]:
            quota[place] += 1
        return dict(zip(names, quota.tolist(), strict=True))

    def among(self, groups: list[list[int]]) -> bool:
        """Hold some of the groups out, in random order, at least one; whether it can be done."""
        order = [groups[i] for i in self.rng.permutation(len(groups))]
        for group in order:
            self.offer(group)
        return bool(self.held) or any(self.offer(group, force=True) for group in sorted(order, key=len))

    def offer(self, group: Sequence[int], force: bool = False) -> bool:
        """Hold a group out if its class still gives as much (or by `force`) and no label loses its last row."""
        name = self.classes[group[0]]
        needs = Counter(label for i in group for label in self.labels[i])
        fits = force or self.gave[name] + len(group) <= self.quota[name]
        if (
            not fits
            or len(group) + len(self.held) >= len(self.labels)
            or any(self.left[k] <= c for k, c in needs.items())
        ):
            return False
        self.held += group
        self.gave[name] += len(group)
        self.left.subtract(needs)
        return True

    def details(self) -> list[str]:
        if not self.left:
            return []
        given = {name for i in self.held for name in self.labels[i]}
        none = len(self.left) - len(given)
        if none:
            return [f"shared over {len(self.left)} classes, {none} of them too small to give a row"]
        return [f"same share of each of {len(self.left)} classes"]


def _groups(source: Source, reads: dict[str, str], same: dict[str, str]) -> tuple[list[list[int]], bool]:
    """Rows that must stay together, and whether these are whole files; `same` as by `copies`."""
    n = len(source)
    reads = {column: modality for column, modality in reads.items() if column != ROW}
    files_in = {column: _files(source, column) for column, modality in reads.items() if modality in MEDIA}
    others = {column for column, modality in reads.items() if modality not in (*MEDIA, "text")}
    media = {**files_in, **{column: [_flat(key) for key in _keys(source, column)] for column in sorted(others)}}
    texts = {column: _keys(source, column) for column in reads if column not in media}
    column = file_column(source)
    files = source.column(column) if column else []
    whole_files = len(set(files)) >= ENOUGH_FILES
    keys: list[list[Any]] = []
    for i in range(n):
        found = [same.get(key, key) for cells in media.values() for key in cells[i] if key is not None]
        # Captions and titles recur beside different pictures: text ties rows together only where there is no medium.
        written = tuple(cells[i] for cells in texts.values())
        if not found and any(part is not None for part in written):
            found = [("text", *written)]
        keys.append([*found, ("file", files[i])] if whole_files else found)
    return connected(keys), whole_files


def _keys(source: Source, column: str) -> list[Any]:
    """Keys that are equal for equal cells; bytes are hashed one by one, as they may not fit in memory all at once."""
    rng = np.random.default_rng(0)
    if len(source) and isinstance(source.row(0, rng).get(column), bytes):
        return [_key(source.row(i, rng)[column]) for i in range(len(source))]
    return [_key(cell) for cell in source.column(column)]


def _key(cell: Any) -> Any:
    if cell is None or isinstance(cell, str | int | float | Path):
        return cell
    if isinstance(cell, bytes):
        return blake2b(cell, digest_size=16).digest()
    if is_numeric(cell) and isinstance(cell, list):  # a series: two that have a number in common are two
        return blake2b(repr(cell).encode(), digest_size=16).digest()
    if isinstance(cell, list):
        return tuple(_key(part) for part in cell)
    if isinstance(cell, dict):  # a file as `datasets` stores it
        return _key(cell.get("bytes") or cell.get("path"))
    return id(cell)  # pictures and arrays in memory are told apart as objects, not by what they show


def _files(source: Source, column: str) -> list[tuple[Any, ...]]:
    """The keys of each cell of a column of media, files by their full names."""
    base = getattr(origin(source), "base", "")

    def full(key: Any) -> Any:
        return os.path.abspath(os.path.join(base, os.path.expanduser(key))) if isinstance(key, str | Path) else key

    return [tuple(map(full, _flat(key))) for key in _keys(source, column)]


def files_of(source: Source, reads: dict[str, str]) -> list[set[str]]:
    """The files that each row names in its columns of media, by their full names."""
    columns = [_files(source, column) for column, modality in reads.items() if modality in MEDIA and column != ROW]
    return [{key for keys in row for key in keys if isinstance(key, str)} for row in zip(*columns, strict=True)]


def copies(files: Iterable[str]) -> dict[str, str]:
    """Of files that hold the same bytes: each → the first of them."""
    groups = [sorted(files)]
    for tell in (os.path.getsize, _ends, _whole):  # the last of few
        groups = [same for group in groups for same in _alike(group, tell)]
    return {file: group[0] for group in groups for file in group}


def _alike(files: list[str], tell: Callable[[str], Any]) -> list[list[str]]:
    found: dict[Any, list[str]] = {}
    for file in files:
        with suppress(OSError):  # which is noted where it is read
            found.setdefault(tell(file), []).append(file)
    return [group for group in found.values() if len(group) > 1]


def _ends(file: str) -> bytes:
    with open(file, "rb") as opened:
        first = opened.read(ENDS)
        opened.seek(-min(ENDS, os.path.getsize(file)), os.SEEK_END)
        return first + opened.read()


def _whole(file: str) -> bytes:
    with open(file, "rb") as opened:
        return file_digest(opened, "sha256").digest()


def _flat(key: Any) -> tuple[Any, ...]:
    return key if isinstance(key, tuple) else (key,)


def connected(keys: list[list[Any]]) -> list[list[int]]:
    """Rows in groups: rows that share a key are in one (union-find, Galler and Fischer 1964)."""
    parent = list(range(len(keys)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    first: dict[Any, int] = {}
    for i, held in enumerate(keys):
        for key in held:
            parent[root(i)] = root(first.setdefault(key, i))
    groups: dict[int, list[int]] = {}
    for i in range(len(keys)):
        groups.setdefault(root(i), []).append(i)
    return list(groups.values())
