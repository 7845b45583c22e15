"""Clips: one emoji on a ground that stands still, and how it moves, as a class and in words."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from unitx.source import MadeFromSettings
from unitx.worlds import pictures
from unitx.worlds.emoji import EmojiWorld
from unitx.worlds.scenes import ROWS, pattern_of

SIZE = 48  # the side of a frame, in pixels
FRAMES = (8, 16)
SIDES = (13, 25)  # of an emoji halfway through a clip, in pixels
WAY, GROWTH, TURN = (0.3, 0.6), (1.4, 1.7), (0.8, 2.5)  # in a clip: sides of the frame, times its own side, radians
MOTIONS = {  # in which direction x, y, the size and the angle change
    "moving left": (-1, 0, 0, 0),
    "moving right": (1, 0, 0, 0),
    "moving up": (0, -1, 0, 0),
    "moving down": (0, 1, 0, 0),
    "growing": (0, 0, 1, 0),
    "shrinking": (0, 0, -1, 0),
    "turning": (0, 0, 0, 1),  # or the other way round
    "standing still": (0, 0, 0, 0),
}


@dataclass(frozen=True)
class ClipWorld(MadeFromSettings):
    """A source of rows {"video": frames (n, 48, 48, 3) uint8, evenly spaced in time, "motion": one of `MOTIONS`,
    "concept" and "name": the emoji's English name, "caption": "fox moving left"}.

    No single frame tells the motion: an emoji stands anywhere, at any angle, what leaves at one side comes in at the
    opposite one, and its size in a frame taken at random is drawn alike whatever moves. Only of the first and the last
    frames a small emoji hints at growing or shrinking.

    The parts share no rendering, as in `EmojiWorld`, whose concepts and drawings these are, and grounds with checks are
    in validation and test alone. It is made data.

    Attributes:
        concepts: as of `EmojiWorld`.
        part: "train", "validation" or "test".
        seed: of all that is random.

    Raises:
        UnitxError: an unknown part or emoji.
    """

    concepts: int | str | list[str] = 20
    part: str = "train"
    seed: int = 0

    def __post_init__(self) -> None:
        self.world  # noqa: B018  # which knows what is wrong

    @cached_property
    def world(self) -> EmojiWorld:
        """Whose concepts and drawings these are."""
        return EmojiWorld(self.concepts, ("en",), self.part, self.seed)

    @property
    def name(self) -> str:
        return f"clips of {len(self.world.emoji)} emoji"

    @property
    def columns(self) -> list[str]:
        return ["video", "motion", "concept", "name", "caption"]

    def __len__(self) -> int:
        return ROWS[self.part]

    def _said(self, index: int) -> dict[str, str]:
        """The cells of a row but the clip: every concept moves in every way."""
        motion = [*MOTIONS][index % len(MOTIONS)]
        name = self.world.labels[index // len(MOTIONS) % len(self.world.labels)]
        return {"motion": motion, "concept": name, "name": name, "caption": f"{name} {motion}"}

    def column(self, name: str) -> list[str]:
        """All cells of a column but "video".

        Raises:
            UnitxError: the clips are made anew for each row.
        """
        if name == "video":
            return super().column(name)
        return [self._said(index)[name] for index in range(len(self))]

    def row(self, index: int, rng: np.random.Generator, strength: float = 1.0) -> dict[str, Any]:
        """Column → item.

        Args:
            rng: what the row of the training part is drawn with; the other parts draw theirs by the row's number.
            strength: of the variation of drawings and grounds, 0 to 1; places, sizes and motions vary always.
        """
        rng, strength = self.drawn_by(index, rng, strength)
        said = self._said(index)
        drawing = self.world.drawing(self.world.labels.index(said["name"]), rng, strength)
        pattern = pattern_of(self.part, rng)
        frames = pictures.clip(drawing, path_of(said["motion"], rng), SIZE, rng, strength, pattern)
        return {"video": frames, **said}

    def of_part(self, part: str) -> ClipWorld:
        """The same concepts in another part."""
        return replace(self, part=part)

    def prepare(self) -> ClipWorld:
        """Draw what training draws from, in several processes."""
        self.world.prepare_drawings()
        return self


def path_of(motion: str, rng: np.random.Generator) -> np.ndarray:
    """(frames, 4): where an emoji is in each frame of a clip, as `pictures.clip` takes it.

    What does not change in a clip stands as at any moment of one in which it does.
    """
    time = np.linspace(-0.5, 0.5, int(rng.integers(FRAMES[0], FRAMES[1] + 1)))[:, None]
    way, turn = SIZE * rng.uniform(*WAY), rng.choice([-1, 1]) * rng.uniform(*TURN)
    change = np.array([way, way, math.log(rng.uniform(*GROWTH)), turn])
    halfway = [*rng.uniform(0, SIZE, 2), rng.uniform(*np.log(SIDES)), rng.uniform(0, 2 * math.pi)]
    direction = np.array(MOTIONS[motion])
    path = halfway + change * np.where(direction, direction * time, rng.choice(time[:, 0], 4))
    path[:, 2] = np.exp(path[:, 2])
    return path
