"""How well a model of the emoji world knows what no training has shown: recall@1 on the test part.

    python tests/benchmarks/senses.py runs/demo
    python tests/benchmarks/senses.py senses --concepts all --languages de,en,es --each
    python tests/benchmarks/senses.py senses --font /usr/share/fonts/truetype/noto/NotoColorEmoji.ttf
    python tests/benchmarks/senses.py senses --people /usr/share/tuxpaint/stamps

With --each every language stands alone, with its own names as the gallery; with --font pictures of another artist, the
emoji of a colour font of bitmaps (Debian: fonts-noto-color-emoji), ask for names too; with --people what people have
recorded, drawn and photographed of the same concepts (Debian: tuxpaint-stamps-default), their names with articles.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from unitx.demo import Showcase, recalls, show
from unitx.model import Model
from unitx.worlds.emoji import ARTICLES, EmojiWorld
from unitx.worlds.stamps import Stamp, picture, read_stamps

BITMAPS = 109  # pixels, the one size that Noto's font has
COLUMNS = ["image→name", "speech→name", "speech→image", "name→image", "name→speech", "image→speech"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--concepts", default="100", help="100 or all")
    parser.add_argument("--languages", default="en,es,fr")
    parser.add_argument("--each", action="store_true", help="every language alone, too")
    parser.add_argument("--font", help="a colour font by another artist")
    parser.add_argument("--people", help="the folder of Tux Paint's stamps")
    arguments = parser.parse_args()
    concepts = arguments.concepts if arguments.concepts == "all" else int(arguments.concepts)
    languages = arguments.languages.split(",")
    model = Model.from_pretrained(arguments.model)
    print("| among | " + " | ".join(COLUMNS) + " |\n|" + " --- |" * 7)
    shown = None
    for spoken in [languages, *([language] for language in languages if arguments.each)]:
        world = EmojiWorld(concepts=concepts, languages=spoken, part="test")
        of_these = show(model, world)
        shown = shown or of_these
        table = recalls(of_these)
        among = f"{len(world.emoji):,} concepts, {', '.join(spoken)}"
        print(f"| {among} | " + " | ".join(f"{table[name]:.1%}" for name in COLUMNS) + " |", flush=True)
    world = EmojiWorld(concepts=concepts, languages=languages, part="test")
    if arguments.font and shown:
        glyphs = [(concept, glyph(emoji, arguments.font)) for concept, emoji in enumerate(world.emoji)]
        print(f"{arguments.font}: image→name {told(model, shown, glyphs, 'image')}")
    if arguments.people and shown:
        for modality, items in of_people(world, arguments.people).items():
            print(f"{arguments.people}: {modality}→name {told(model, shown, items, modality)}")


def told(model: Model, shown: Showcase, items: list[tuple[int, Any]], modality: str) -> str:
    """Of how many (concept, item) pairs the nearest concept, or one of the five nearest, is right; a concept is as near
    as the nearest of its names."""
    cosines = model.embed([item for _, item in items], modality) @ shown.vectors["text"].T
    names = shown.concept_of["text"]
    of_concept = np.stack([cosines[:, names == concept].max(1) for concept in range(names.max() + 1)], axis=1)
    right = np.array([concept for concept, _ in items])
    ranks = (of_concept > np.take_along_axis(of_concept, right[:, None], 1)).sum(1)
    return f"{(ranks < 1).mean():.1%}, among the first five {(ranks < 5).mean():.1%}, of {len(items)}"


def of_people(world: EmojiWorld, folder: str) -> dict[str, list[tuple[int, Any]]]:
    """(concept, item) of the stamps whose name in some language is that of an emoji: "Una rana." is 🐸."""
    concepts = {
        (language, world.names[emoji][language].lower()): concept
        for concept, emoji in enumerate(world.emoji)
        for language in world.languages
    }
    found: dict[str, list[tuple[int, Any]]] = {"image": [], "audio": []}
    for stamp in read_stamps(folder):
        named = {code: concepts[code, name] for code, name in bare_names(stamp) if (code, name) in concepts}
        recorded = named.keys() & stamp.recordings.keys()
        found["audio"] += [(named[code], stamp.recordings[code]) for code in sorted(recorded)]
        found["image"] += [(concept, picture(file)) for concept in {*named.values()} for file in stamp.pictures]
    return found


def bare_names(stamp: Stamp) -> Iterator[tuple[str, str]]:
    """(language, name) of a stamp, as it stands but for the stop, and without an article."""
    for code, name in stamp.names.items():
        name = name.rstrip(".!").lower()
        article, _, rest = name.partition(" ")
        yield code, name
        if article in ARTICLES.get(code, ()):
            yield code, rest


def glyph(emoji: str, font: str) -> Image.Image:
    """The font's picture of an emoji on white, with a margin."""
    drawn = Image.new("RGBA", (136, 128))
    bitmaps = ImageFont.truetype(font, BITMAPS)
    ImageDraw.Draw(drawn).text((0, 0), emoji.replace("\ufe0f", ""), font=bitmaps, embedded_color=True)
    box = drawn.getbbox()
    if box is None:
        raise SystemExit(f"{font} has no {emoji}")
    drawn = drawn.crop(box)
    side = round(max(drawn.size) * 1.12)
    ground = Image.new("RGBA", (side, side), "white")
    ground.alpha_composite(drawn, ((side - drawn.width) // 2, (side - drawn.height) // 2))
    return ground.convert("RGB")


if __name__ == "__main__":
    main()
