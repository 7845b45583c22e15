"""Pictures of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def draw_curves(history: list[dict[str, Any]], path: Path) -> None:
    """The training losses and the held-out scores over the steps, side by side.

    Args:
        history: lines of metrics.jsonl: training lines with "loss", evaluation lines with "held_out".
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    losses, scores = figure.subplots(1, 2)
    steps = [line["step"] for line in history if "loss" in line]
    for name in sorted({key for line in history for key in line if key == "loss" or key.endswith("/loss")}):
        values = [line.get(name) for line in history if "loss" in line]
        losses.plot(steps, values, label=name, linewidth=2 if name == "loss" else 1)
    losses.set(title="training loss", xlabel="step")
    evaluations = [line for line in history if "held_out" in line]
    for name in sorted({key for line in evaluations for key in line["held_out"]}):
        points = [(line["step"], line["held_out"][name]) for line in evaluations if name in line["held_out"]]
        scores.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
    scores.set(title="held out", xlabel="step")
    for axes in (losses, scores):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.lines:
            axes.legend(fontsize=8)
    figure.savefig(path)
