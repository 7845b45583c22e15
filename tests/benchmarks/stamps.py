"""Tables for the recipes, of files that people drew, recorded and translated: Tux Paint's stamps, and licences.

    apt-get install tuxpaint-stamps-default
    python tests/benchmarks/stamps.py /usr/share/tuxpaint/stamps stamps/

Writes into stamps/: kinds.csv (columns image, kind), sounds.csv and sounds-test.csv (audio, language), names.csv and
names-test.csv (text, language), licences.txt, pairs.csv and pairs-test.csv (image, text: drawings of a hundred emoji,
made by `unitx.worlds`, with a name in one of three languages). What is tested is never trained on: a stamp of the test
tables occurs in the others neither spoken nor written.
"""

from __future__ import annotations

import csv
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from zlib import crc32

import numpy as np

from unitx.worlds.emoji import EmojiWorld
from unitx.worlds.stamps import read_stamps

RECORDINGS, NAMES = 50, 900  # that a language must have to be taken
PAIRS, PAIRS_TEST = 4_000, 400
STRENGTH = 0.5  # of the drawings' variation: as people draw them, not as training distorts them
LICENCES = Path("/usr/share/common-licenses")


def main(stamps: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    pictures = sorted(stamps.rglob("*.png"))
    write(out / "kinds.csv", ["image", "kind"], ((p, p.relative_to(stamps).parts[0]) for p in pictures))
    write_parts(out, "sounds", ["audio", "language"], of_languages(recordings(stamps), RECORDINGS))
    write_parts(out, "names", ["text", "language"], of_languages(names(stamps), NAMES))
    texts = (file.read_text("utf-8", "replace") for file in sorted(LICENCES.iterdir()) if not file.is_symlink())
    (out / "licences.txt").write_text("\n\n".join(texts))
    for part, count, name in (("train", PAIRS, "pairs"), ("test", PAIRS_TEST, "pairs-test")):
        write(out / f"{name}.csv", ["image", "text"], pairs(out / name, part, count))


def recordings(stamps: Path) -> list[tuple[str, Path, str]]:
    """(stamp, file, language) of each spoken name, but for the English ones, of animals only."""
    return [
        (str(stamps / stamp.concept), file, language)
        for stamp in read_stamps(str(stamps))
        for language, file in stamp.recordings.items()
        if language != "en"
    ]


def names(stamps: Path) -> list[tuple[str, str, str]]:
    """(stamp, name, language)."""
    return [
        (str(stamps / stamp.concept), name, language)
        for stamp in read_stamps(str(stamps))
        for language, name in stamp.names.items()
    ]


def of_languages(rows: list, least: int) -> list:
    """The rows of languages with at least so many."""
    counts = Counter(row[2] for row in rows)
    return [row for row in rows if counts[row[2]] >= least]


def write_parts(out: Path, name: str, header: list[str], rows: list) -> None:
    """A tenth of the stamps to the test table."""
    for file, tested in ((f"{name}.csv", False), (f"{name}-test.csv", True)):
        write(out / file, header, (row[1:] for row in rows if (crc32(row[0].encode()) % 10 == 0) == tested))


def pairs(folder: Path, part: str, count: int) -> Iterator[tuple[Path, str]]:
    """Drawings, as files, each with a name."""
    world = EmojiWorld(part=part)
    of_label = dict(zip(world.labels, world.names.values(), strict=True))
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    # Only rows that show a picture are read: one spoken row would have the world speak all of its names.
    shown = [index for index in range(len(world)) if world.views[index % len(world.views)] == "image"]
    for number, index in enumerate(islice(cycle(shown), count)):
        row = world.row(index, rng, STRENGTH)
        file = folder.absolute() / f"{number}.png"
        row["image"].save(file)
        yield file, str(rng.choice(list(of_label[row["concept"]].values())))


def write(file: Path, header: list[str], rows: Iterator) -> None:
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        writer.writerows(rows)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]))
