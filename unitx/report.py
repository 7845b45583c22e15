"""What a model gets right and wrong on data that it has not seen: scores, classes, confusions, the worst mistakes."""

from __future__ import annotations

import csv
import json
import sys
import textwrap
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from copy import copy
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from unitx.batches import EVALUATION, Feed, Preparer, Tally, plan_rows, read_examples
from unitx.columns import check_columns, unknown_to_data
from unitx.data import open_source
from unitx.embedding import choose_task
from unitx.errors import BadItem, UnitxError
from unitx.evaluation import class_rates, task_outputs
from unitx.media import describe
from unitx.model import Model
from unitx.paths import check_writable
from unitx.plots import draw_sketches
from unitx.registry import TASKS
from unitx.report_picture import draw_report, title_of
from unitx.source import (
    ROW,
    MadeSource,
    Source,
    Subset,
    is_answered,
    is_recorded,
    labels_in,
    name_of,
    seen_cells,
    unseen,
)
from unitx.task import Task, TaskInfo

SEED = 0  # of made data; the rows of other data are all scored, in order
FILES = ("scores.json", "classes.csv", "confusion.csv", "report.png")
WORST = 20  # mistakes shown
SKETCHES = 16  # rows that are drawn of tasks whose answers can be seen


class Mistake(NamedTuple):
    """A wrong answer: the row of the data, what was true, what was said, and the probability that it was given."""

    row: int
    truth: str
    answer: str
    probability: float


@dataclass
class Report:
    """An evaluation; printed, it is a few plain lines.

    Attributes:
        task, kind: the task's name, and what it is.
        scores: metric → value.
        rows: how many the data have.
        scored: how many of them were scored; the others are among those below, or had nothing to read.
        unknown_labels: label that the model does not know → rows that have it.
        unlabelled: rows without a label.
        skipped: a line for each row that could not be read.
        shortened: modality → items longer than `max_tokens`, of which the beginning was used.
        notes: plain sentences about the data.
        classes: of a classification, a row a class: its name, precision, recall, f1, support, and with several
            labels a row its average precision; NaN where it is not defined.
        confusion: (classes, classes) counts, rows the truth, columns the answer; None with several labels a row.
        mistakes: the worst ones, by the probability of the wrong answer.
        folder: where those of `FILES` lie that there are: tables are a classification's.
    """

    task: str
    kind: str
    scores: dict[str, float]
    rows: int
    scored: int
    unknown_labels: dict[str, int]
    unlabelled: int
    skipped: list[str]
    shortened: dict[str, int]
    notes: list[str] = field(default_factory=list)
    classes: list[dict[str, Any]] = field(default_factory=list, repr=False)
    confusion: Any = field(default=None, repr=False)
    mistakes: list[Mistake] = field(default_factory=list, repr=False)
    folder: Path | None = None

    def __str__(self) -> str:
        lines = [
            f"{self.task} ({self.kind}): {self.scored:,} of {self.rows:,} rows scored",
            ", ".join(f"{name} {value:.4g}" for name, value in self.scores.items()),
            *self.notes,
        ]
        if self.unknown_labels:
            names = ", ".join(f"{name} ({count})" for name, count in list(self.unknown_labels.items())[:10])
            more = f" and {len(self.unknown_labels) - 10} more" if len(self.unknown_labels) > 10 else ""
            lines.append(f"labels that the model does not know: {len(self.unknown_labels)}: {names}{more}")
        if self.unlabelled:
            lines.append(f"rows without a label: {self.unlabelled}")
        if self.skipped:
            lines.append(f"rows that could not be read: {len(self.skipped)}; the first: {self.skipped[0]}")
        lines += [
            f"{modality} items longer than max_tokens, of which the beginning was used: {count}"
            for modality, count in self.shortened.items()
        ]
        if self.folder:
            lines.append(f"written to {self.folder}: {', '.join(f for f in FILES if (self.folder / f).is_file())}")
        return "\n".join(lines)


def evaluate(
    model: Model | str | Path,
    data: Any,
    task: str | None = None,
    *,
    reads: dict[str, str] | None = None,
    label: str | None = None,
    folder: str | Path | None = None,
    batch_tokens: int = 8_192,
    workers: int | None = 0,
    show_progress: bool | None = None,
) -> Report:
    """Score a task on data that the model has not seen.

    Args:
        model: a model, or a run's or a model's folder.
        data: as for `train`; all of it is scored.
        task: may be left out where the model has one task, one that classifies, or one whose columns the data have.
        reads: column → modality, where the columns are called otherwise than in the training data.
        label: the column that holds the answer, likewise.
        folder: where the report goes; by default `evaluation` in the folder given as `model`, and nowhere for a model
            in memory.

    Raises:
        UnitxError: the data lack a column, or have no row whose label the model knows or that can be read.
    """
    if not isinstance(model, Model):
        home = Path(model).expanduser()
        folder = folder or (home / "evaluation" if home.is_dir() else None)
        model = Model.from_pretrained(model)
    out = None if folder is None else Path(folder).expanduser()
    if out is not None:
        check_writable(out, f"the report's folder {out}")
    head = copy(model.head(task or task_for(model, data, reads, label)))
    head.info = info = replace(head.info, reads=reads or head.info.reads, label=label or head.info.label)
    check_modalities(model, info)
    source = unseen(open_source(data, info.reads, info.label))
    made = "recorded" if is_recorded(source) else "made"
    notes = [f"{made} data: their {source.part} part is scored"] if isinstance(source, MadeSource) else []
    multi = info.multi_label
    notes += check_columns(source, info.reads, info.label, multi, evaluated=True, answer=head.answer)
    notes += unknown_to_data(source, info.reads, model.processors)
    kept, unknown, unlabelled = known_rows(info, source, head.answer)
    feed, preparer = Feed(info, kept), Preparer(model.processors, model.prefix_parts)
    plan_rows(preparer, [feed], batch_tokens, SEED)
    progress = sys.stderr.isatty() if show_progress is None else show_progress
    outputs, targets, of_items = task_outputs(model, preparer, feed, SEED, workers, progress)
    if not len(outputs):
        raise UnitxError(f"{name_of(source)}: no row could be read; the first: {of_items.skipped[0]}")
    report = Report(
        info.name, info.kind, head.score(outputs, targets), len(source), len(set(of_items.rows)),
        dict(unknown.most_common()), unlabelled, of_items.skipped, dict(of_items.shortened), notes,
    )  # fmt: skip
    mistakes: list[Mistake] = []
    if head.classifies:
        report.classes, report.confusion = class_scores(head, outputs, targets)
        mistakes = worst_mistakes(head, outputs, targets, of_items.rows)
        report.mistakes = [mistake._replace(row=int(kept.indices[mistake.row])) for mistake in mistakes]
    if out is not None:
        report.folder = out
        _write(report)
        _draw(report, model, head, feed, preparer, [mistake.row for mistake in mistakes])
    return report


def task_for(model: Model, data: Any, reads: dict[str, str] | None = None, label: str | None = None) -> str:
    """The task that is meant where none is named (`choose_task`): of several the one whose columns the data have, or
    that reads such modalities as are to be read.

    Raises:
        UnitxError: it is not plain.
    """
    columns: set[str] = set()  # looked up once, and only where there are several tasks

    def fits(head: Task) -> bool:
        if reads:
            return {*head.info.reads.values()} == {*reads.values()}
        if not columns:
            columns.update(open_source(data, head.info.reads).columns, [ROW])
        return head.info.reads.keys() <= columns - {label}

    return choose_task(model, fits)


def check_modalities(model: Model, info: TaskInfo) -> None:
    """Raise UnitxError for a column that is to be read as what the model does not read."""
    for column, modality in info.reads.items():
        if modality not in model.tokenizers:
            has = ", ".join(model.modalities)
            raise UnitxError(f"'{column}' cannot be read as {modality}: the model reads {has}; say so with --reads")


def known_rows(info: TaskInfo, source: Source, answer: str = "class") -> tuple[Subset, Counter[str], int]:
    """The rows that can be scored, the labels that the model does not know (label → rows), and the rows without one.

    Raises:
        UnitxError: the model knows none of the labels.
    """
    if not info.label or not info.labels or answer != "class":
        return Subset(source, np.arange(len(source))), _unknown_names(info, source), 0
    known, multi = set(info.labels), info.multi_label
    unknown: Counter[str] = Counter()
    kept, unlabelled = [], 0
    for i, cell in enumerate(source.column(info.label)):
        names = labels_in(cell, multi)
        answered = is_answered(cell, multi)
        unknown.update(name for name in names if name not in known)
        unlabelled += not answered
        if answered and (not names or not known.isdisjoint(names)):
            kept.append(i)
    if not kept:
        raise _knows_none(info, source, unknown)
    return Subset(source, np.array(kept)), unknown, unlabelled


def _unknown_names(info: TaskInfo, source: Source) -> Counter[str]:
    """Of a task that names what an item holds: the names that the model does not know (name → rows).

    Raises:
        UnitxError: it knows none of them.
    """
    names: Counter[str] = Counter()
    recorded = info.label and info.labels and not isinstance(source, MadeSource)
    for cell in seen_cells(source, str(info.label)) if recorded else []:
        with suppress(BadItem):  # which is noted where the row is read
            names.update({*TASKS.get(info.kind).names_in(info, cell)})
    unknown = Counter({name: count for name, count in names.items() if name not in info.numbers})
    if names and len(unknown) == len(names):
        raise _knows_none(info, source, unknown)
    return unknown


def _knows_none(info: TaskInfo, source: Source, names: Iterable[str]) -> UnitxError:
    found, has = (", ".join(islice(some, 5)) for some in (names, info.labels))
    return UnitxError(
        f"{name_of(source)}: task '{info.name}' knows none of the labels in '{info.label}' ({found}, …); "
        f"it knows {has}, …: name another column with --label"
    )


def class_scores(head: Task, outputs: Tensor, targets: Tensor) -> tuple[list[dict[str, Any]], np.ndarray | None]:
    """Each class's scores, and the confusion matrix (classes, classes), which several labels a row do not have."""
    from sklearn.metrics import average_precision_score, confusion_matrix

    names, multi = head.info.labels, head.multi_label
    if multi:
        truth, found = (targets > 0.5).numpy(), (outputs > 0).numpy()
        average = np.full(len(names), np.nan)
        for i in np.flatnonzero(truth.any(0)):
            average[i] = average_precision_score(truth[:, i], outputs[:, i].numpy())
        rates = class_rates((truth & found).sum(0), truth.sum(0), found.sum(0))
        columns, confusion = {"average_precision": average, **rates}, None
    else:
        confusion = confusion_matrix(targets.argmax(-1), outputs.argmax(-1), labels=range(len(names)))
        columns = class_rates(confusion.diagonal(), confusion.sum(1), confusion.sum(0))
    classes = [{"class": name, **{c: v[i].item() for c, v in columns.items()}} for i, name in enumerate(names)]
    return classes, confusion


def worst_mistakes(head: Task, outputs: Tensor, targets: Tensor, rows: list[int]) -> list[Mistake]:
    """At most `WORST` wrong answers, those with the highest probability first, one a row."""
    probability, true = head.probabilities(outputs), targets > 0.5
    highest, answer = probability.masked_fill(true, -1.0).max(-1)
    wrong = highest > 0.5 if head.multi_label else outputs.argmax(-1) != targets.argmax(-1)
    names = np.array([*head.info.labels], dtype=object)
    order = [i for i in highest.argsort(descending=True, stable=True).tolist() if wrong[i]]
    return [
        Mistake(rows[i], ", ".join(names[true[i].numpy()]) or "none", names[answer[i]], float(highest[i]))
        for i in order[:WORST]
    ]


def _write(report: Report) -> None:
    assert report.folder is not None
    report.folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:  # of an earlier evaluation
        (report.folder / name).unlink(missing_ok=True)
    numbers = asdict(replace(report, classes=[], confusion=None, mistakes=[], folder=None))
    numbers = {name: value for name, value in numbers.items() if name not in ("classes", "confusion", "folder")}
    numbers["mistakes"] = [mistake._asdict() for mistake in report.mistakes]
    text = json.dumps(numbers, indent=2, ensure_ascii=False)
    (report.folder / "scores.json").write_text(text + "\n", "utf-8")
    if report.classes:
        rows = [["" if value != value else value for value in row.values()] for row in report.classes]
        _write_csv(report.folder / "classes.csv", [[*report.classes[0]], *rows])
    if report.confusion is not None:
        names = [row["class"] for row in report.classes]
        rows = [[name, *counts] for name, counts in zip(names, report.confusion.tolist(), strict=True)]
        _write_csv(report.folder / "confusion.csv", [["truth \\ answer", *names], *rows])


def _write_csv(path: Path, rows: list[list[Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)


def _draw(
    report: Report, model: Model, head: Task, feed: Feed, preparer: Preparer, mistaken: list[int]
) -> None:
    """`report.png`: of a classifier its classes and mistakes, of a task whose answers can be seen some of them."""
    assert report.folder is not None
    if head.classifies:
        draw_report(report, [_thumbnail(feed, preparer, row) for row in mistaken])
    elif type(head).sketches is not Task.sketches:
        chosen = np.unique(np.linspace(0, len(feed.source) - 1, SKETCHES).astype(int)).tolist()
        rows = [(row, np.random.default_rng([SEED, EVALUATION, row])) for row in chosen]
        sample = list(read_examples(preparer, feed, rows, 1.0, Tally()))
        if sketches := head.sketches(model, preparer, sample):
            draw_sketches(sketches, title_of(report), report.folder / "report.png")


def _thumbnail(feed: Feed, preparer: Preparer, row: int) -> tuple[str, Any]:
    """What to show of a row: ("image", pixels), ("video", some frames side by side), ("audio", a spectrogram (frames,
    bands)) or ("text", its beginning)."""
    rng = np.random.default_rng([SEED, EVALUATION, row])
    parts = feed.info.parts(feed.source.row(row, rng, 1.0))
    modality, item = next((part for kind in ("image", "video", "audio") for part in parts if part[0] == kind), parts[0])
    processor: Any = preparer.processors[modality]
    raw = processor.read(item)
    if modality in ("image", "video"):
        pieces = processor.cut(processor.features(raw))
        return modality, processor.shown(pieces.values, pieces.grid)
    if modality == "audio":
        return "audio", processor.features(raw)
    return "text", textwrap.shorten(raw if isinstance(raw, str) else describe(item), 150, placeholder=" …")
