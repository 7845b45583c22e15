"""Scenes: several emoji on one picture, where each of them is, and what may be asked and said about them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from unitx.errors import UnitxError
from unitx.source import MadeFromSettings
from unitx.worlds import pictures
from unitx.worlds.emoji import EmojiWorld

SIZE = 64  # the side of a picture, in pixels
SIDES = (14, 30)  # of an emoji in it
ROWS = {"train": 6_000, "validation": 300, "test": 1_000}
STRIPED = 0.3  # share of training's grounds with stripes; the other parts' have checks, which training never shows
OVERLAP = 0.15  # share of the smaller of two emoji that the other may hide
NUMBERS = ("nothing", "one", "two", "three", "four", "five", "six")


@dataclass(frozen=True)
class SceneWorld(MadeFromSettings):
    """A source of rows {"image": a picture of one to `most` emoji, "objects": [{"box": [left, top, width, height] in
    pixels, "name": the emoji's English name}, …], "count": how many, "caption": their names from left to right,
    "question" and "answer": about one of them}.

    The parts share no rendering, as in `EmojiWorld`, whose concepts and drawings these are, and grounds with checks are
    in validation and test alone. It is made data.

    Attributes:
        concepts: as of `EmojiWorld`.
        most: emoji in a scene.
        part: "train", "validation" or "test".
        seed: of all that is random.

    Raises:
        UnitxError: an unknown part, or more emoji than there is room for.
    """

    concepts: int | str = 20
    most: int = 4
    part: str = "train"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.most < len(NUMBERS):
            raise UnitxError(f"a scene has room for 1 to {len(NUMBERS) - 1} emoji, not {self.most}")
        self.world  # noqa: B018  # which knows what is wrong with the others

    @cached_property
    def world(self) -> EmojiWorld:
        """Whose concepts and drawings these are."""
        return EmojiWorld(self.concepts, ("en",), self.part, self.seed)

    @property
    def name(self) -> str:
        return f"scenes of {len(self.world.emoji)} emoji"

    @property
    def columns(self) -> list[str]:
        return ["image", "objects", "count", "caption", "question", "answer"]

    def __len__(self) -> int:
        return ROWS[self.part]

    def row(self, index: int, rng: np.random.Generator, strength: float = 1.0) -> dict[str, Any]:
        """Column → item.

        Args:
            rng: what the row of the training part is drawn with; the other parts draw theirs by the row's number.
            strength: of the variation of drawings and grounds, 0 to 1; places and sizes vary always.
        """
        rng, strength = self.drawn_by(index, rng, strength)
        placed, names = [], []
        for box in _boxes(int(rng.integers(1, self.most + 1)), rng):
            concept = int(rng.integers(len(self.world.emoji)))
            placed.append((self.world.drawing(concept, rng, strength), box))
            names.append(self.world.labels[concept])
        pattern = pattern_of(self.part, rng)
        picture, found = pictures.scene(placed, SIZE, rng, strength, pattern)
        objects: list[dict[str, Any]] = [{"box": b, "name": name} for b, name in zip(found, names, strict=True)]
        question, answer = _question(objects, self.world.labels, rng)
        from_left = sorted(objects, key=lambda each: each["box"][0] + each["box"][2] / 2)
        return {
            "image": Image.fromarray(picture),
            "objects": objects,
            "count": len(objects),
            "caption": ", ".join(each["name"] for each in from_left),
            "question": question,
            "answer": answer,
        }

    def of_part(self, part: str) -> SceneWorld:
        """The same concepts in another part."""
        return replace(self, part=part)

    def prepare(self) -> SceneWorld:
        """Draw what training draws from, in several processes."""
        self.world.prepare_drawings()
        return self


def pattern_of(part: str, rng: np.random.Generator) -> str | None:
    """What the ground of a scene or a clip has."""
    if part != "train":
        return "checks"
    return "stripes" if rng.random() < STRIPED else None


def _boxes(count: int, rng: np.random.Generator) -> list[tuple[int, int, int]]:
    """At most so many squares (left, top, side) that hide little of each other."""
    found: list[tuple[int, int, int]] = []
    for _ in range(20 * count):
        side = int(rng.integers(SIDES[0], SIDES[1] + 1))
        left, top = rng.integers(0, SIZE - side + 1, 2).tolist()
        if all(_hidden((left, top, side), other) <= OVERLAP for other in found):
            found.append((left, top, side))
        if len(found) == count:
            break
    return found


def _hidden(a: tuple[int, int, int], b: tuple[int, int, int]) -> float:
    """The share of the smaller of two squares that both cover."""
    across, down = (min(a[i] + a[2], b[i] + b[2]) - max(a[i], b[i]) for i in (0, 1))
    return max(across, 0) * max(down, 0) / min(a[2], b[2]) ** 2


def _question(objects: list[dict[str, Any]], names: list[str], rng: np.random.Generator) -> tuple[str, str]:
    """A question about a scene, and its answer."""
    kind = int(rng.integers(3))
    if kind == 0:
        return "how many are there?", NUMBERS[len(objects)]
    there = {each["name"] for each in objects}
    if kind == 1:
        others = [name for name in names if name not in there]
        asked = sorted(there) if rng.random() < 0.5 or not others else others
        name = asked[int(rng.integers(len(asked)))]
        return f"is there a {name}?", "yes" if name in there else "no"
    side, sign = (("left", 1), ("right", -1), ("top", 1), ("bottom", -1))[place := int(rng.integers(4))]
    axis = int(place > 1)
    nearest = min(objects, key=lambda each: sign * (each["box"][axis] + each["box"][axis + 2] / 2))
    return f"what is furthest to the {side}?", nearest["name"]
