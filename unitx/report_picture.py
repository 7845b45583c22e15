"""The picture of a classifier's report: confusions, precision and recall by class, the worst mistakes."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from unitx.plots import new_figure, plain, save

if TYPE_CHECKING:
    from unitx.report import Mistake, Report

MATRIX, CONFUSED, BARS = 100, 40, 30  # classes: in a whole matrix, in one of the most confused, in the bars
PRECISION, RECALL = "#0072b2", "#e69f00"


def draw_report(report: Report, thumbnails: list[tuple[str, Any]]) -> None:
    """Write `report.png` in its folder: the confusion matrix, precision and recall by class, the worst mistakes."""
    assert report.folder is not None
    present = [i for i, row in enumerate(report.classes) if row["support"]]
    shown = len(_matrix_classes(report)) if report.confusion is not None else BARS
    top = min(max(5.0, 2.5 + 0.11 * shown), 13.0)
    columns, row = _grid(thumbnails)
    bottom = 0.5 + row * -(-len(thumbnails) // columns)
    figure = new_figure(max(15.0, 1.6 * top), top + bottom)
    upper, lower = figure.subfigures(2, 1, height_ratios=[top, bottom])
    left, right = upper.subplots(1, 2, width_ratios=[1.5, 1])
    if report.confusion is not None:
        _draw_confusion(upper, left, report, top - 2)
    else:
        _draw_bars(left, report, present, {"average_precision": PRECISION})
    _draw_bars(right, report, present, {"precision": PRECISION, "recall": RECALL})
    _draw_mistakes(lower, report.mistakes, thumbnails)
    figure.suptitle(title_of(report), fontsize=14)
    save(figure, report.folder / "report.png")


def title_of(report: Report) -> str:
    scores = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in report.scores.items())
    return f"{_short(report.task, 40)}: {scores}  ({report.scored:,} rows)"


def _matrix_classes(report: Report) -> list[int]:
    """The classes that the matrix shows: all that occur, or the most confused."""
    occurring = _occurring(report)
    if len(occurring) <= MATRIX:
        return occurring
    counts = report.confusion
    errors = counts.sum(0) + counts.sum(1) - 2 * counts.diagonal()
    return sorted(np.argsort(-errors, kind="stable")[:CONFUSED].tolist())


def _occurring(report: Report) -> list[int]:
    return np.flatnonzero(report.confusion.sum(0) + report.confusion.sum(1)).tolist()


def _draw_confusion(figure: Any, axes: Any, report: Report, inches: float) -> None:
    """The matrix, about so many inches high; numbers stand in it while they are readable."""
    places = _matrix_classes(report)
    counts = report.confusion[np.ix_(places, places)]
    share = counts / np.maximum(report.confusion[places].sum(1, keepdims=True), 1)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    names = [_short(report.classes[i]["class"], 16) for i in places]
    size = min(10.0, 0.8 * 72 * inches / len(names))
    axes.set_xticks(range(len(names)), names, rotation=90 if len(names) > 6 else 0, fontsize=size)
    axes.set_yticks(range(len(names)), names, fontsize=size)
    axes.set(xlabel="answer", ylabel="truth")
    occurring = len(_occurring(report))
    axes.set_title("confusion" if len(names) == occurring else f"the {len(names)} most confused of {occurring} classes")
    if len(names) <= 25:
        for i, j in np.argwhere(counts):
            colour = "white" if share[i, j] > 0.55 else "#222222"
            axes.text(j, i, str(counts[i, j]), ha="center", va="center", fontsize=size, color=colour)
    figure.colorbar(image, ax=axes, shrink=0.5, aspect=30, pad=0.02, label="share of the true class")


def _draw_bars(axes: Any, report: Report, present: list[int], colours: dict[str, str]) -> None:
    """Horizontal bars by class, the worst on top."""
    by = "f1" if len(colours) > 1 else next(iter(colours))
    worst = sorted(present, key=lambda i: report.classes[i][by])[:BARS]
    height = 0.8 / len(colours)
    for k, (name, colour) in enumerate(colours.items()):
        places = np.arange(len(worst)) + (k - (len(colours) - 1) / 2) * height
        values = np.nan_to_num([report.classes[i][name] for i in worst])
        axes.barh(places, values, height, color=colour, label=name.replace("_", " "))
    labels = [f"{_short(report.classes[i]['class'], 20)} ({report.classes[i]['support']})" for i in worst]
    axes.set_yticks(range(len(worst)), labels, fontsize=min(10, max(6, 300 / max(len(worst), 1))))
    axes.set(xlim=(0, 1), ylim=(max(len(worst), 4) - 0.5, -0.5))
    what = " and ".join(name.replace("_", " ") for name in colours)
    title = what if len(worst) == len(present) else f"{what}: the {BARS} worst of {len(present)} classes"
    axes.set_title(title, pad=6 if len(colours) == 1 else 28)
    axes.set_axisbelow(True)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if len(colours) > 1:
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(colours), frameon=False)


def _draw_mistakes(figure: Any, mistakes: list[Mistake], thumbnails: list[tuple[str, Any]]) -> None:
    figure.suptitle("the worst mistakes: truth → answer (probability)" if mistakes else "no mistakes", fontsize=13)
    columns, _ = _grid(thumbnails)
    grid = figure.subplots(max(1, -(-len(mistakes) // columns)), columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, mistake, (kind, content) in zip(grid.flat, mistakes, thumbnails, strict=False):
        room = 150 // columns
        caption = f"{_short(mistake.truth, room)} →\n{_short(mistake.answer, room)} ({mistake.probability:.2f})"
        axes.set_title(caption, fontsize=9)
        if kind in ("image", "video"):
            axes.imshow(content, interpolation="nearest" if max(content.shape) < 64 else None)
        elif kind == "audio":
            axes.imshow(content.T, origin="lower", aspect="auto", cmap="magma")
        else:
            box = {"facecolor": "#f2f2f2", "edgecolor": "none", "boxstyle": "round,pad=0.6"}
            text = textwrap.fill(plain(content), 38)
            axes.text(0.5, 0.92, text, ha="center", va="top", fontsize=8, bbox=box, transform=axes.transAxes)


def _grid(thumbnails: list[tuple[str, Any]]) -> tuple[int, float]:
    """Columns, and inches of a row: pictures stand closer than what is wide, texts and frames side by side are low."""
    kinds = {kind for kind, _ in thumbnails}
    return (10, 2.0) if kinds == {"image"} else (5, 1.4 if kinds in ({"text"}, {"video"}) else 2.0)


def _short(name: str, room: int) -> str:
    """A name on one line, in at most `room` characters."""
    name = " ".join(str(name).split())
    return plain(name if len(name) <= room else name[: room - 1] + "…")
