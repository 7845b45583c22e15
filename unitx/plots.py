"""Pictures of a run."""

from __future__ import annotations

import textwrap
import warnings
from pathlib import Path
from typing import Any

import numpy as np

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56789c", "#a65628", "#7a3e9d", "#b8860b")  # on any ground
STYLES = ("-", "--", ":")  # of lines, where there are more than colours
TOGETHER, ACROSS = 2, 3  # tasks whose scores share one panel; panels of more tasks in a row


def draw_curves(history: list[dict[str, Any]], path: Path) -> None:
    """The training losses, one of each task and their sum, and the held-out scores over the steps: side by side, and of
    more than two tasks, whose scores have many scales, a panel for each below.

    Args:
        history: lines of metrics.jsonl: training lines with "loss", evaluation lines with "held_out".
    """
    evaluations = [line for line in history if "held_out" in line]
    scores = sorted({key for line in evaluations for key in line["held_out"]})
    losses = {key for line in history for key in line if key.endswith("/loss")}
    tasks = sorted({key.split("/")[0] for key in (*losses, *scores)})
    if len(tasks) <= TOGETHER:
        figure = new_figure(11, 4)
        above, held_out = figure.subplots(1, 2)
        panels = {"held out": (held_out, scores)}
    else:
        rows = -(-len(tasks) // ACROSS)
        figure = new_figure(11, 4 + 2.6 * rows)
        grid = figure.add_gridspec(rows + 1, ACROSS, height_ratios=[4, *[2.6] * rows])
        above, panels = figure.add_subplot(grid[0, :]), {}
        for number, task in enumerate(tasks):
            axes = figure.add_subplot(grid[1 + number // ACROSS, number % ACROSS])
            panels[f"held out: {task}"] = axes, [name for name in scores if name.split("/")[0] == task]
    _draw_losses(above, [line for line in history if "loss" in line], beside=len(panels) > 1)
    for title, (axes, names) in panels.items():
        _draw_scores(axes, evaluations, names, len(panels) > 1)
        _finish_axes(axes, title)
    save(figure, path)


def _draw_scores(axes: Any, evaluations: list[dict[str, Any]], names: list[str], of_one: bool) -> None:
    """Scores, and dashed, on a scale of their own at the right, those that are less than a tenth of the largest; of one
    task without its name."""
    points = {
        name: [(line["step"], line["held_out"][name]) for line in evaluations if name in line["held_out"]]
        for name in names
    }
    heights = {name: max(abs(score) for _, score in points[name]) for name in names}
    low = [name for name in names if heights[name] < max(heights.values()) / 10]
    right = axes.twinx() if low else axes
    for number, name in enumerate(names):
        style: dict[str, Any] = {"color": COLOURS[number % len(COLOURS)], "marker": "o", "markersize": 3}
        style |= {"label": name.partition("/")[2] if of_one else name, "linestyle": "--" if name in low else "-"}
        (right if name in low else axes).plot(*zip(*points[name], strict=True), **style)
        if name in low:
            axes.plot([], [], **style)  # for the legend
    if low:
        right.spines[["top", "left"]].set_visible(False)


def _draw_losses(axes: Any, training: list[dict[str, Any]], beside: bool) -> None:
    """All losses, the sum in black; of many, with their names `beside` the axes, on a logarithmic scale."""
    names = sorted({key for line in training for key in line if key == "loss" or key.endswith("/loss")})
    for number, name in enumerate(names):
        values = [line.get(name) for line in training]
        line = STYLES[number // len(COLOURS) % len(STYLES)]
        style: dict[str, Any] = {"color": COLOURS[number % len(COLOURS)], "linestyle": line}
        style |= {"linewidth": 2, "color": "black"} if name == "loss" else {"linewidth": 1.2}
        axes.plot([line["step"] for line in training], values, label=name, **style)
    if beside and all(line.get(name, 1) > 0 for line in training for name in names):
        axes.set_yscale("log")
    _finish_axes(axes, "training loss", **({"loc": "center left", "bbox_to_anchor": (1, 0.5)} if beside else {}))


def _finish_axes(axes: Any, title: str, **legend: Any) -> None:
    axes.set(title=title, xlabel="step")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.lines:
        axes.legend(fontsize=8, **legend)


def draw_conflict(tasks: list[str], cosines: Any, path: Path) -> None:
    """A matrix (tasks, tasks) of cosines between the gradients of tasks, blue where they agree, red where they are in
    conflict (`conflict.gradient_conflict`)."""
    cosines, side = np.asarray(cosines), 2.5 + 0.65 * len(tasks)
    figure = new_figure(side + 1, side)
    axes = figure.subplots()
    shown = axes.imshow(cosines, cmap="RdBu", vmin=-1, vmax=1)
    for row, column in np.ndindex(cosines.shape):
        value = cosines[row, column]
        colour = "white" if abs(value) > 0.6 else "black"
        axes.text(column, row, f"{value:z.2f}", ha="center", va="center", color=colour)
    axes.set(xticks=range(len(tasks)), yticks=range(len(tasks)), yticklabels=tasks)
    axes.set_xticks(range(len(tasks)), tasks, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_title("cosine between the tasks' gradients\non the shared backbone")
    figure.colorbar(shown, shrink=0.8)
    save(figure, path)


def draw_sketches(sketches: list[Any], title: str, path: Path) -> None:
    """Pictures side by side, those of one `task.Sketch` under its caption; fewer a row where some are wide."""
    columns = max(1, 8 // max(sum(map(_breadth, sketch.pictures)) for sketch in sketches))
    rows = -(-len(sketches) // columns)
    figure = new_figure(16, 2.6 * rows + 0.8)
    figure.suptitle(title, fontsize=14)
    for number, sketch in enumerate(sketches):
        part = figure.add_subfigure(figure.add_gridspec(rows, columns)[divmod(number, columns)])
        part.suptitle(plain("\n".join(textwrap.wrap(sketch.caption, 150 // columns))), fontsize=9)
        places = part.subplots(1, len(sketch.pictures), squeeze=False)[0]
        for axes, picture in zip(places, sketch.pictures, strict=True):
            axes.set_axis_off()
            axes.imshow(picture, aspect=None if picture.ndim == 3 else "auto", cmap="magma")
    save(figure, path)


def save(figure: Any, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a name in a script that the font lacks is drawn as boxes
        figure.savefig(path)


def plain(text: str) -> str:
    """Text that Matplotlib does not take for a formula."""
    return text.replace("$", r"\$")


def _breadth(picture: np.ndarray) -> int:
    """How many times as wide as high it is, about, up to four; of what can be drawn in any shape one."""
    return max(1, min(4, round(picture.shape[1] / picture.shape[0]))) if picture.ndim == 3 else 1


def draw_space(
    vectors: dict[str, np.ndarray], concept_of: dict[str, np.ndarray], markers: list[Any], path: Path, credit: str
) -> None:
    """Pictures, words and speech of the same concepts in two dimensions (t-SNE, van der Maaten and Hinton 2008).

    Args:
        vectors: "image", "text" and "audio" → (n, dim) unit vectors.
        concept_of: the same keys → (n,) the concept's number.
        markers: a PIL picture for each concept, drawn where its pictures lie.
        credit: a line under the plot.
    """
    from matplotlib.lines import Line2D
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage
    from sklearn.manifold import TSNE

    figure = new_figure(12, 12)
    axes = figure.subplots()
    chosen = {sense: np.unique(concept_of[sense], return_index=True)[1] for sense in vectors}
    stacked = np.concatenate([vectors[sense][places] for sense, places in chosen.items()])
    perplexity = min(20, max(2, len(stacked) // 4))
    flat = TSNE(metric="cosine", perplexity=perplexity, init="random", random_state=0).fit_transform(stacked)
    places = dict(zip(chosen, np.split(flat, np.cumsum([len(p) for p in chosen.values()])[:-1]), strict=True))
    centres = {int(c): xy for c, xy in zip(concept_of["image"][chosen["image"]], places["image"], strict=True)}
    for sense, mark, colour in (("text", "s", "#0072b2"), ("audio", "^", "#d55e00")):
        for concept, xy in zip(concept_of[sense][chosen[sense]].tolist(), places[sense], strict=True):
            if concept in centres:
                axes.plot(*zip(xy, centres[concept], strict=True), color="#bbbbbb", linewidth=0.8, zorder=1)
        axes.scatter(*places[sense].T, marker=mark, color=colour, s=42, zorder=3, edgecolor="white", linewidth=0.6)
    for concept, xy in centres.items():
        image = OffsetImage(np.asarray(markers[concept]), zoom=0.55)
        axes.add_artist(AnnotationBbox(image, xy, frameon=False, zorder=2))
    handles = [
        Line2D([], [], marker=mark, color=colour, linestyle="", markersize=9, label=label)
        for mark, colour, label in (("s", "#0072b2", "its written name"), ("^", "#d55e00", "its spoken name"))
    ]
    axes.legend(
        handles=handles, loc="upper right", fontsize=12, title="an emoji: a picture of it; and", title_fontsize=12
    )
    axes.set_title("One space for what is seen, read and heard", fontsize=18)
    axes.set_axis_off()
    figure.supxlabel(credit, fontsize=8, color="#777777")
    save(figure, path)


def draw_search(
    queries: list[tuple[str, Any, np.ndarray]], gallery: tuple[list[Any], np.ndarray], path: Path, credit: str
) -> None:
    """A sheet of queries, each with the five nearest pictures.

    Args:
        queries: (sense, item, vector): a text; (what is said, (waveform, rate)); or a picture.
        gallery: pictures and their (n, dim) unit vectors.
    """
    pictures, vectors = gallery
    figure = new_figure(9, 1.25 * len(queries) + 1)
    grid = figure.subplots(len(queries), 6)
    for (sense, item, vector), row in zip(queries, grid, strict=True):
        _draw_query(row[0], sense, item)
        similarity = vectors @ vector
        for axes, place in zip(row[1:], np.argsort(-similarity)[:5], strict=True):
            axes.imshow(pictures[place])
            axes.set_title(f"{similarity[place]:.2f}", fontsize=9, pad=2, color="#777777")
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    grid[0, 0].set_title("query", fontsize=12, pad=8)
    figure.suptitle("Asked in words, in speech and in pictures: the five nearest pictures", fontsize=14)
    figure.supxlabel(credit, fontsize=8, color="#777777")
    save(figure, path)


def _draw_query(axes: Any, sense: str, item: Any) -> None:
    if sense == "image":
        axes.imshow(item)
    elif sense == "text":
        axes.text(0.5, 0.5, f"“{item}”", ha="center", va="center", fontsize=12, wrap=True)
    else:
        said, (waveform, _) = item
        axes.plot(np.asarray(waveform), color="#d55e00", linewidth=0.4)
        axes.set_xlabel(f"spoken: {said}", fontsize=8, labelpad=2)


def new_figure(width: float, height: float) -> Any:
    """A matplotlib figure that pyplot knows nothing of, in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure
