"""How well a model of the emoji world knows what no training has shown: recall@1 on the test part.

    python tests/benchmarks/senses.py runs/demo
    python tests/benchmarks/senses.py senses --concepts all --languages de,en,es --each
    python tests/benchmarks/senses.py senses --font /usr/share/fonts/truetype/noto/NotoColorEmoji.ttf

With --each every language stands alone, with its own names as the gallery; with --font pictures of another artist, the
emoji of a colour font of bitmaps (Debian: fonts-noto-color-emoji), ask for names too.
"""

from __future__ import annotations

import argparse

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from unitx.demo import Showcase, recalls, show
from unitx.model import Model
from unitx.worlds.emoji import EmojiWorld

BITMAPS = 109  # pixels, the one size that Noto's font has
COLUMNS = ["image→name", "speech→name", "speech→image", "name→image", "name→speech", "image→speech"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--concepts", default="100", help="100 or all")
    parser.add_argument("--languages", default="en,es,fr")
    parser.add_argument("--each", action="store_true", help="every language alone, too")
    parser.add_argument("--font", help="a colour font by another artist")
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
    if arguments.font and shown:
        emoji = EmojiWorld(concepts=concepts, languages=languages, part="test").emoji
        first, five = another_artist(model, emoji, shown, arguments.font)
        print(f"{arguments.font}: image→name {first:.1%}, among the first five {five:.1%}")


def another_artist(model: Model, emoji: list[str], shown: Showcase, font: str) -> tuple[float, float]:
    """Shares of the font's pictures whose nearest concept, or one of the five nearest, is right; a concept is as near
    as the nearest of its names."""
    cosines = model.embed([glyph(one, font) for one in emoji], "image") @ shown.vectors["text"].T
    of_concept = np.stack(
        [cosines[:, shown.concept_of["text"] == concept].max(1) for concept in range(len(emoji))], axis=1
    )
    ranks = (of_concept > of_concept.diagonal()[:, None]).sum(1)
    return float((ranks < 1).mean()), float((ranks < 5).mean())


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
