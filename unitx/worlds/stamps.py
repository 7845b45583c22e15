"""Tux Paint's stamps: pictures that people drew and photographed, named in many languages, and recordings of the names.

They come with Debian's package tuxpaint-stamps-default (Kendrick et al. 2002 to 2022, GPL-2), a file for each picture
and, beside it, FILE.txt with its names and FILE_desc_LANGUAGE.ogg with a name spoken. A language has one speaker.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from PIL import Image

from unitx.errors import BadItem, UnitxError
from unitx.media import DECODERS
from unitx.registry import TOKENIZERS
from unitx.source import PARTS, MadeFromSettings
from unitx.splits import connected
from unitx.worlds import waveforms
from unitx.worlds.pictures import rasterize

FOLDER = "/usr/share/tuxpaint/stamps"
PACKAGE = "tuxpaint-stamps-default"
# Those of which over three hundred names were recorded, and four more; all have over nine hundred names.
LANGUAGES = ("en", "be", "bg", "ca", "da", "de", "el", "es", "fr", "it", "nl", "ro", "ru")
ROWS = ("pictures", "recordings", "names")
COLUMNS = ["image", "audio", "text", "kind", "language", "name", "to", "translation", "concept"]
SHARES = {"train": 0.7, "validation": 0.15, "test": 0.15}  # of the stamps
VALIDATION = 300  # rows of the validation part at most: it is scored again and again
SIDE = 192  # pixels that a picture has at most: three times the side that small models see

SPOKEN = re.compile(r"(.+?)_desc(?:_([\w@]+))?\.ogg")  # without a language: English
NAMED = re.compile(r"([\w@]+)\.utf8=(.+)")
VARIANT = re.compile(r"([-_]?(mirror|filled|outlined?|photo|drawing|left|right|\d+))+$")


class Stamp(NamedTuple):
    """What lies in the folder under one name.

    Attributes:
        concept: the path below the folder, without suffixes.
        pictures: the picture, and where there is one a mirrored one.
        names: language → name; "en" is English.
        recordings: language → the name spoken.
    """

    concept: str
    pictures: list[Path]
    names: dict[str, str]
    recordings: dict[str, Path]


class Row(NamedTuple):
    """A stamp, and what of it a row shows."""

    stamp: Stamp
    picture: Path | None
    recording: Path | None
    language: str | None


@dataclass(frozen=True)
class Stamps(MadeFromSettings):
    """A source of rows, each a picture, a recording or a written name of a stamp.

    Columns: "image" (PIL, RGB, at most 192 pixels a side), "audio" (a path, or a waveform and its rate), "text" (the
    name), "kind" (the top folder), "language" (of the text and the recording), "name" (the text again, as what is to be
    written), "to", another language, drawn anew each time, "translation", the name in that, and "concept", the stamp. A
    row of pictures has the English name and no recording, one of names neither picture nor recording. Of a file that
    cannot be read the path stands in its cell, and whoever reads it is told why.

    Stamps that share a name in any language, or the name of their file but for what tells variants apart ("cat_2",
    "a_filled" and "a_outline", mirrored ones), are one group, and groups are dealt out to the parts, 70, 15 and 15 of a
    hundred stamps: no part has a text, a picture or a recording of another. The split does not depend on the other
    options, so tasks on several kinds of rows share it. Of the validation part 300 rows are taken, evenly spread.

    Attributes:
        folder: where the stamps are.
        rows: "pictures", "recordings" or "names".
        languages: of names and recordings; the default has as many names of each.
        part: "train", "validation" or "test".

    Raises:
        UnitxError: an unknown part, kind of rows or language, or no stamps there; says how to get them.
    """

    folder: str = FOLDER
    rows: str = "recordings"
    languages: Sequence[str] = LANGUAGES
    part: str = "train"

    recorded: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for what, value, known in (("part", self.part, PARTS), ("rows", self.rows, ROWS)):
            if value not in known:
                raise UnitxError(f"the stamps have no {what} '{value}'; they have: {', '.join(known)}")
        languages = sorted({language for stamp in read_stamps(self.folder) for language in stamp.names})
        for language in self.languages:
            if language not in languages:
                raise UnitxError(f"the stamps have no names in '{language}'; they have in: {', '.join(languages)}")

    @property
    def name(self) -> str:
        return f"the {self.rows} of Tux Paint's stamps"

    @property
    def columns(self) -> list[str]:
        return list(COLUMNS)

    @cached_property
    def stamps(self) -> list[Stamp]:
        """Those of this part."""
        parts = split_stamps(self.folder)
        return [stamp for stamp in read_stamps(self.folder) if parts[stamp.concept] == self.part]

    @cached_property
    def _rows(self) -> list[Row]:
        rows = [row for stamp in self.stamps for row in self._rows_of(stamp)]
        if self.part != "validation" or len(rows) <= VALIDATION:
            return rows
        return [rows[i] for i in np.linspace(0, len(rows) - 1, VALIDATION).astype(int)]

    def _rows_of(self, stamp: Stamp) -> Iterator[Row]:
        if self.rows == "pictures":
            language = "en" if "en" in stamp.names else None
            yield from (Row(stamp, picture, None, language) for picture in stamp.pictures)
            return
        for language in self.languages:
            recording = stamp.recordings.get(language)
            if self.rows == "names" and language in stamp.names:
                yield Row(stamp, None, None, language)
            elif self.rows == "recordings" and recording and language in stamp.names:
                yield Row(stamp, next(iter(stamp.pictures), None), recording, language)

    @property
    def notes(self) -> list[str]:
        """Sentences for a run's log: how all stamps were split, and what of them is left out."""
        stamps, parts = read_stamps(self.folder), split_stamps(self.folder)
        sizes = Counter(parts.values())
        unnamed = sum(language not in stamp.names for stamp in stamps for language in stamp.recordings)
        unseen = sum(not stamp.names for stamp in stamps for _ in stamp.pictures)
        found = [
            f"{len(stamps):,} stamps, no two parts share a name: "
            + ", ".join(f"{sizes[part]:,} in the {part} part" for part in PARTS)
        ]
        found += [f"{unnamed:,} recordings have no name beside them and are left out"] if unnamed else []
        return found + ([f"{unseen:,} pictures have no name, only a kind"] if unseen else [])

    def __len__(self) -> int:
        return len(self._rows)

    def column(self, name: str) -> list[Any]:
        """All cells of a column; of pictures and recordings the paths.

        Raises:
            UnitxError: "to" or "translation", which are drawn anew for each row.
        """
        if name in ("to", "translation"):
            raise UnitxError(f"the cells of '{name}' are drawn anew for each row: read them with row()")
        return [_cells(row)[name] for row in self._rows]

    def row(self, index: int, rng: np.random.Generator, strength: float = 1.0) -> dict[str, Any]:
        """Column → item, None for an empty cell.

        Args:
            rng: what draws the other language of a row of the training part; the other parts draw it by the row's
                number.
            strength: leaves these data alone.
        """
        row = self._rows[index]
        if self.part != "train":
            rng = np.random.default_rng([PARTS.index(self.part), index])
        others = [language for language in self.languages if language in row.stamp.names and language != row.language]
        to = others[int(rng.integers(len(others)))] if others and row.language else None
        cells = _cells(row) | {"to": to, "translation": row.stamp.names[to] if to else None}
        cells["image"] = row.picture and picture(row.picture)
        kept = self._sounds.get(row.recording)
        return cells | ({} if kept is None else {"audio": (waveforms.expand(kept), waveforms.BANK_RATE)})

    def of_part(self, part: str) -> Stamps:
        """Other stamps."""
        return replace(self, part=part)

    def prepare(self) -> Stamps:
        """Decode what training reads again and again: pictures, 50 MB, and recordings, 8 bits a sample, 120 MB."""
        if self.part == "train":
            with ThreadPoolExecutor(DECODERS) as threads:
                list(threads.map(picture, {row.picture for row in self._rows if row.picture}))
                files = list({row.recording for row in self._rows if row.recording})
                decoded = zip(files, threads.map(_decoded, files), strict=True)
                self._sounds.update((file, sound) for file, sound in decoded if sound is not None)
        return self

    @cached_property
    def _sounds(self) -> dict[Path | None, np.ndarray]:
        """Recording → what `waveforms.compress` keeps of it, of those that `prepare` has read."""
        return {}


def _cells(row: Row) -> dict[str, Any]:
    """The cells of a row that are not drawn, files as paths."""
    name = row.stamp.names[row.language] if row.language else None
    return {
        "image": row.picture, "audio": row.recording, "text": name, "kind": row.stamp.concept.split("/")[0],
        "language": row.language, "name": name, "to": None, "translation": None, "concept": row.stamp.concept,
    }  # fmt: skip


@cache
def read_stamps(folder: str) -> tuple[Stamp, ...]:
    """All stamps below a folder; of a picture in PNG and SVG the PNG.

    Raises:
        UnitxError: there are none; says how to get them.
    """
    home = Path(folder).expanduser()
    found: dict[Path, Stamp] = {}
    pictures: dict[Path, Path] = {}

    def stamp_of(path: Path) -> Stamp:
        return found.setdefault(path, Stamp(path.relative_to(home).as_posix(), [], {}, {}))

    for file in sorted(home.rglob("*")):
        if file.suffix in (".png", ".svg"):
            pictures.setdefault(file.with_suffix(""), file)
        elif file.suffix == ".txt":
            stamp_of(file.with_suffix("")).names.update(_names(file))
        elif match := SPOKEN.fullmatch(file.name):
            stamp_of(file.parent / match[1]).recordings[match[2] or "en"] = file
    for path, file in pictures.items():
        stamp_of(path.with_name(path.name.removesuffix("_mirror"))).pictures.append(file)
    if not pictures:
        unpacked = f"stamps{FOLDER}"
        raise UnitxError(
            f"there are no stamps in {home}: apt-get install {PACKAGE}; or, where you may not, apt-get download "
            f"{PACKAGE} && dpkg-deb -x {PACKAGE}*.deb stamps, and name the folder: --data.folder {unpacked} with the "
            f"recipe stamps, else --data '{{world: stamps, folder: {unpacked}}}'"
        )
    return tuple(found[path] for path in sorted(found))


def _names(file: Path) -> dict[str, str]:
    """Language → name: English in the first line, then LANGUAGE.utf8=NAME."""
    first, *others = file.read_text("utf-8", "replace").splitlines() or [""]
    matches = (match for line in others if (match := NAMED.fullmatch(line)))
    named = [("en", first), *((match[1], match[2]) for match in matches)]
    return {language: name.strip() for language, name in named if name.strip()}


@cache
def split_stamps(folder: str) -> dict[str, str]:
    """Concept → part, whole groups of stamps that are alike (see `Stamps`)."""
    stamps = read_stamps(folder)
    groups = connected([_likeness(stamp) for stamp in stamps])
    ends = np.cumsum(list(SHARES.values())) * len(stamps)
    parts: dict[str, str] = {}
    for number in np.random.default_rng(0).permutation(len(groups)):
        part = PARTS[int(np.searchsorted(ends[:-1], len(parts), side="right"))]
        parts |= {stamps[i].concept: part for i in groups[number]}
    return parts


def _likeness(stamp: Stamp) -> list[tuple[str, str]]:
    """Keys of which stamps that are alike share one: the name of the file, and every name without its punctuation."""
    name = stamp.concept.rsplit("/", 1)[-1].lower()
    texts = (re.sub(r"[\W_]+", " ", text.casefold()).strip() for text in stamp.names.values())
    return [("file", VARIANT.sub("", name) or name), *(("name", text) for text in texts if text)]


@cache
def picture(file: Path) -> Image.Image | Path:
    """A picture as RGB, transparency on white, at most `SIDE` pixels a side; the path of one that cannot be read.

    Raises:
        UnitxError: it is an SVG, and resvg-py isn't installed.
    """
    try:
        raw = rasterize(SIDE, svg_path=str(file)) if file.suffix == ".svg" else file
        found = TOKENIZERS.get("image").Processor().read(raw)
    except (BadItem, ValueError):
        return file
    found.thumbnail((SIDE, SIDE))
    return found


def _decoded(file: Path) -> np.ndarray | None:
    """A recording at 16,000 Hz, as `waveforms.compress` keeps it; None of one that cannot be read."""
    kind: Any = TOKENIZERS.get("audio").Processor
    try:
        return waveforms.compress(kind(rate=waveforms.BANK_RATE).read(file).numpy())
    except BadItem:
        return None
