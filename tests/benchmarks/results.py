"""Results that are kept as they come, and figures of them over the number of examples."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

import unitx
from unitx.plots import COLOURS


class Results:
    """Lines of a .json file, written after each; what is in it need not be made again."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.lines: list[dict[str, Any]] = json.loads(file.read_text("utf-8")) if file.is_file() else []

    def has(self, **wanted: Any) -> bool:
        return any(wanted.items() <= line.items() for line in self.lines)

    def add(self, **line: Any) -> None:
        self.lines.append(line)
        self.file.write_text(json.dumps(self.lines, indent=1), "utf-8")
        print(json.dumps(line), flush=True)


def whole(run: unitx.Run, steps: int) -> unitx.Run:
    """The run, if it came to its end: Ctrl-C ends one early, and then ends the benchmark too.

    Raises:
        KeyboardInterrupt: it was stopped; its folder is removed.
    """
    if run.history[-1]["step"] < steps:
        shutil.rmtree(run.folder)
        raise KeyboardInterrupt
    return run


def learned(out: Path, recipe: Any, steps: int, **given: Any) -> Path:
    """The folder of a run that others begin from: made now, unless it came to its end before."""
    if not (out / "curves.png").is_file():  # the last that a run writes
        shutil.rmtree(out, ignore_errors=True)  # one that was cut short
        whole(unitx.train(recipe, out=str(out), steps=steps, **given), steps)
    return out


def draw_by_examples(axes: Any, lines: list[dict[str, Any]], arms: tuple[str, ...], counted: str, score: str) -> None:
    """A line an arm, the means over seeds of a score by the examples that were learned from; a dot for each seed."""
    ticks: set[int] = set()
    for arm, colour in zip(arms, COLOURS, strict=False):
        values: dict[int, list[float]] = defaultdict(list)
        for line in lines:
            if line["arm"] == arm and line[counted]:
                values[line[counted]].append(line[score])
        counts = sorted(values)
        ticks |= values.keys()
        axes.plot(counts, [np.mean(values[count]) for count in counts], color=colour, label=arm)
        for count in counts:
            axes.scatter([count] * len(values[count]), values[count], color=colour, s=18, alpha=0.6)
    axes.set(title=score, xlabel=f"{counted} that it learns from", xscale="log", ylim=(0, None))
    axes.set_xticks(sorted(ticks), [f"{count:,}" for count in sorted(ticks)])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
