"""Items, and on them what was found: pictures with boxes, sounds and texts with spans."""

from __future__ import annotations

from typing import Any

import numpy as np

from unitx.plots import COLOURS

LINES = 12  # of a text that are drawn


def draw_boxes(picture: Any, found: list[Any], labels: list[str]) -> Any:
    """A picture (a path or PIL's) with the boxes of what was found in it, each in its name's colour, as a PIL picture.

    Args:
        found: answers of `detect`, with `label`, `score` and `box`.
        labels: all that there are, for their colours.
    """
    from PIL import Image, ImageDraw, ImageFont

    from unitx.tokenizers.image import to_rgb

    image = to_rgb(picture if isinstance(picture, Image.Image) else Image.open(picture))
    zoom = max(1, round(480 / max(image.size)))  # that names can be read beside what is small
    image = image.resize((zoom * image.width, zoom * image.height), Image.Resampling.NEAREST)
    pen, size = ImageDraw.Draw(image), max(12, min(image.size) // 40)
    font = ImageFont.load_default(size)
    for answer in reversed(found):  # the surest on top
        colour = COLOURS[labels.index(answer.label) % len(COLOURS)]
        left, top, right, bottom = (side * of for side, of in zip(answer.box, image.size * 2, strict=True))
        pen.rectangle((left, top, right, bottom), outline=colour, width=max(2, size // 8))
        text = f"{answer.label} {answer.score:.2f}"
        place = left, max(0, top - size - 4)
        pen.rectangle(pen.textbbox(place, text, font=font), fill=colour)
        pen.text(place, text, fill="white", font=font)
    return image


def draw_sound(spectrogram: np.ndarray, seconds: float, strips: list[list[Any]], labels: list[str]) -> Any:
    """A spectrogram, and under it strips of what is when, each label in its colour, as a PIL picture.

    Args:
        spectrogram: (mels, frames), low tones at the bottom.
        seconds: its length.
        strips: from above, spans with `label`, `start` and `end` in seconds.
        labels: all that there are, for their colours.
    """
    from matplotlib import colormaps
    from PIL import Image, ImageDraw, ImageFont

    width, height, strip = 960, 240, 28
    shade = (spectrogram - spectrogram.min()) / max(np.ptp(spectrogram), 1e-9)
    sound = Image.fromarray((255 * colormaps["magma"](shade)[..., :3]).astype(np.uint8))
    image = Image.new("RGB", (width, height + strip * len(strips)), "white")
    image.paste(sound.resize((width, height)))
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(16)
    for number, spans in enumerate(strips):
        for span in spans:
            sides = [width * min(at / seconds, 1) for at in (span.start, span.end)]
            _draw_span(pen, font, sides, height + strip * number, strip, span.label, labels.index(span.label))
    return image


def draw_text(text: str, strips: list[list[Any]], labels: list[str]) -> Any:
    """A text in lines of equal length, under each of them strips of what is where, as a PIL picture.

    Args:
        strips: from above, spans with `label`, `start` and `end` in characters.
        labels: all that there are, for their colours.
    """
    from matplotlib.font_manager import findfont
    from PIL import Image, ImageDraw, ImageFont

    across, strip, file = 64, 22, findfont("DejaVu Sans Mono")
    font, small = ImageFont.truetype(file, 20), ImageFont.truetype(file, 13)
    lines = [text[i : i + across] for i in range(0, len(text), across)][:LINES]
    high = 34 + strip * len(strips)
    image = Image.new("RGB", (round(font.getlength("m" * across)) + 8, high * max(len(lines), 1)), "white")
    pen = ImageDraw.Draw(image)
    for place, line in enumerate(lines):
        printed = "".join(character if character.isprintable() else " " for character in line)
        pen.text((4, high * place + 4), printed, fill="black", font=font)
        for number, spans in enumerate(strips):
            for span in spans:
                begin, end = (min(max(at - across * place, 0), len(line)) for at in (span.start, span.end))
                if begin < end:
                    sides = [4 + font.getlength(printed[:at]) for at in (begin, end)]
                    top = high * place + 30 + strip * number
                    _draw_span(pen, small, sides, top, strip, span.label, labels.index(span.label))
    return image


def _draw_span(pen: Any, font: Any, sides: list[float], top: int, high: int, label: str, number: int) -> None:
    """A stretch from left to right in its label's colour, with as much of the name as there is room for."""
    right = max(sides[1] - 1, sides[0])
    pen.rectangle((sides[0], top + 2, right, top + high - 3), fill=COLOURS[number % len(COLOURS)])
    while label and font.getlength(label) > sides[1] - sides[0] - 6:
        label = label[:-1]
    pen.text((sides[0] + 3, top + 3), label, fill="white", font=font)
