"""What a run says while it works: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unitx.batches import Tally
    from unitx.checkpoint import Progress

PLAIN_SECONDS = 15.0  # between lines where there is no terminal


class Reporter:
    """Writes to stderr; silent where it is told to be."""

    def __init__(self, active: bool):
        self.active = active
        self.bar: Any = None
        self.loss: float | None = None
        self.rate: float | None = None
        self.last_line = self.last_step = time.monotonic()

    def say(self, line: str) -> None:
        """A line of its own, above the bar."""
        if self.active and self.bar is not None:
            self.bar.write(line, file=sys.stderr)
        elif self.active:
            print(line, file=sys.stderr, flush=True)

    def start(self, steps: int | None, seconds: float | None, progress: Progress) -> None:
        """Begin: the run's length in steps or in seconds."""
        self.steps = steps
        self.last_step = time.monotonic()
        if self.active and sys.stderr.isatty():
            from tqdm import tqdm

            total, done = (steps, progress.step) if steps is not None else (round(seconds or 0), progress.seconds)
            unit = "step" if steps is not None else "s"
            self.bar = tqdm(total=total, initial=round(done), unit=unit, file=sys.stderr, dynamic_ncols=True)

    def step(self, progress: Progress, done: float, metrics: dict[str, float], tally: Tally) -> None:
        """A step is over."""
        now = time.monotonic()
        rate = tally.items / max(now - self.last_step, 1e-9)
        self.last_step = now
        self.rate = rate if self.rate is None else 0.95 * self.rate + 0.05 * rate
        if "loss" in metrics:
            self.loss = metrics["loss"] if self.loss is None else 0.95 * self.loss + 0.05 * metrics["loss"]
        text = f"loss {self.loss or 0:.3f}, {self.rate:.0f} items/s"
        if self.bar is not None:
            self.bar.n = min(progress.step if self.steps is not None else round(progress.seconds), self.bar.total)
            self.bar.set_postfix_str(text)
        elif self.active and now - self.last_line > PLAIN_SECONDS:
            self.last_line = now
            left = progress.seconds / max(done, 1e-9) * (1 - done)
            print(f"step {progress.step}: {done:4.0%}, {text}, {left:.0f} s left", file=sys.stderr, flush=True)

    def scores(self, progress: Progress, scores: dict[str, float]) -> None:
        """The held-out rows were scored."""
        shown = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
        if shown:
            self.say(f"step {progress.step}: held out: {shown}")

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None
