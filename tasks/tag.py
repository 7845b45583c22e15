"""Tagging: what each part of a text or a sound is, and where it begins and ends."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unitx.backbone import Linear
from unitx.drawings import draw_sound, draw_text
from unitx.errors import BadItem, UnitxError
from unitx.media import describe, modality_of, sound_seconds
from unitx.registry import register_task
from unitx.source import parsed_cells
from unitx.task import Sketch, Task, TaskInfo, TaskLoss
from unitx.tokenizer import Processor
from unitx.tokens import Example, Layout, Prepared, Targets, Tokens

if TYPE_CHECKING:
    from unitx.augment import Augment
    from unitx.batches import Drawn, Preparer
    from unitx.model import Model
    from unitx.source import Source

NOWHERE = -1  # the label of tokens that stand for nothing of an item: begin and end of a text, filled-up silence
HALF = 0.5  # the share of a token that a span must cover to be its label
Spans = list[tuple[int, float, float]]  # (the label's number, begin, end), in characters or seconds, in order


class Span(NamedTuple):
    """One answer: a label, how sure it is, and where it begins and ends (exclusive): in characters, with the words that
    stand there, or in seconds."""

    label: str
    score: float
    start: float
    end: float
    text: str | None = None

    def __str__(self) -> str:
        where = f"{self.start:.2f}–{self.end:.2f} s" if self.text is None else f"{self.start}–{self.end} {self.text!r}"
        return f"{self.label} {self.score:.3f} [{where}]"


class Marked(NamedTuple):
    """What is to be found in an item, or in a part of one.

    Attributes:
        spans: which do not overlap.
        text: the whole item, where it is one.
        extents: (tokens, 2) where its tokens stand.
        labels: (tokens,) int64 of each the label's number, or that of none, or `NOWHERE`.
    """

    spans: Spans
    text: str | None
    extents: np.ndarray = np.zeros((0, 2))
    labels: np.ndarray = np.zeros(0, dtype=np.int64)


@register_task("tag")
class Tag(Task):
    """A linear head on every token of a text or a sound: one of the labels, or none.

    The label's column holds a list of {"label": …, "start": …, "end": …}, or of [start, end, label], also as JSON in a
    cell of text; the end is exclusive. Texts are counted in characters, sounds in seconds. An empty list says that
    nothing is there. Of a row one column is read. A token has the label of the span that covers at least half of it; a
    span that covers half of none has the token that it covers most of.

    Neighbouring tokens of one label are one answer, so spans of one label that touch are told as one, and may be where
    only space is between them. Reports F1 over tokens (micro, and macro over the labels, without "none"); that is
    the headline, because it means the same for texts and for sounds, whose exact ends nobody agrees on. Of texts also
    F1 over spans whose label, begin and end are all right (CoNLL-2003, Tjong Kim Sang and De Meulder 2003).
    """

    headline = "f1"
    tags = True
    answer = "spans"
    gives = Span
    top = sys.maxsize

    def __init__(self, dim: int, info: TaskInfo, processors: dict[str, Processor]):
        super().__init__(dim, info, processors)
        for column, modality in info.reads.items():
            if type(processors[modality]).extents is Processor.extents:
                raise UnitxError(f"task '{info.name}' tags text and sound and cannot read {column}:{modality}")
        self.processors = {modality: processors[modality] for modality in info.reads.values()}
        self.head = Linear(dim, len(info.labels) + 1)  # the last is none of them
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)

    @classmethod
    def fit(cls, info: TaskInfo, source: Source) -> TaskInfo:
        """Learn the labels.

        Raises:
            UnitxError: no label column is named, or it has no span.
        """
        if info.label is None:
            raise UnitxError(f"task '{info.name}' has no label: name the column that holds the spans with --label")
        cells = parsed_cells(source, info.label, lambda cell: _listed(cell, info.label))
        labels = sorted({label for cell in cells for label, _, _ in cell})
        if not labels:
            raise UnitxError(f"task '{info.name}': the column '{info.label}' has no span")
        return replace(info, labels=labels)

    @classmethod
    def asked(cls, info: TaskInfo, row: dict[str, Any]) -> list[tuple[str, Any]]:
        """Raises: BadItem: it is several texts or sounds."""
        parts = info.parts(row)
        if len(parts) > 1:
            raise BadItem(f"tags belong to one text or sound, and the row has {len(parts)}: fill one of the columns")
        return parts

    @classmethod
    def examples(cls, info: TaskInfo, row: dict[str, Any]) -> list[Example]:
        """Of a row without an item or without a list, none.

        Raises:
            BadItem: spans overlap, lie outside the item, or have a label that the model does not know.
        """
        parts, cell = cls.asked(info, row), row.get(info.label) if info.label else None
        if not parts or cell is None:
            return []
        spans = _listed(cell, info.label)
        if unknown := [label for label, _, _ in spans if label not in info.numbers]:
            known = ", ".join(info.labels[:10])
            raise BadItem(f"{describe(parts[0][1])}: the model has no label '{unknown[0]}'; it has {known}")
        _check_places(spans, *parts[0])
        ((modality, item),) = parts
        text = item if isinstance(item, str) and modality == "text" else None
        if text is not None:
            spans = [(label, *_trimmed(text, int(start), int(end))) for label, start, end in spans]
        numbered = [(info.numbers[label], start, end) for label, start, end in spans]
        return [Example(parts, Marked(sorted(numbered, key=lambda span: span[1]), text))]

    @classmethod
    def vary(
        cls, example: Example, parts: list[tuple[str, Any]], augment: Augment, rng: np.random.Generator, strength: float
    ) -> tuple[Example, list[tuple[str, Any]]]:
        """Nothing: a sound that is played faster has its spans elsewhere."""
        return example, parts

    @classmethod
    def hide(cls, info: TaskInfo, prepared: Prepared, rng: np.random.Generator) -> Prepared:
        """Nothing; the target becomes what fits the part that was cut."""
        extents = prepared.extents
        assert extents is not None
        marked, (begins, ends) = prepared.target, extents[extents[:, 0] < extents[:, 1]].T
        first, last = begins.min(initial=sys.maxsize), ends.max(initial=0)
        labels = labels_of_tokens(marked.spans, extents, len(info.labels))
        cut = [(label, *_trimmed(marked.text, max(a, first), min(b, last))) for label, a, b in marked.spans]
        cut = [(label, begin, end) for label, begin, end in cut if begin < end]
        return replace(prepared, target=marked._replace(spans=cut, extents=extents, labels=labels))

    @classmethod
    def collate(cls, info: TaskInfo, targets: list[Any]) -> dict[str, Any]:
        labels = np.concatenate([np.zeros(0, np.int64), *(marked.labels for marked in targets)])
        return {"labels": torch.from_numpy(labels), "marked": targets}

    @classmethod
    def count(cls, info: TaskInfo, examples: list[Prepared]) -> int:
        """The tokens that stand for something."""
        return sum(int((example.target.labels != NOWHERE).sum()) for example in examples)

    def outputs(self, tokens: Tokens, rows: Tensor) -> Tensor:
        """(tokens, labels + 1) logits, float32, of the first of the sequences, then of the second, and so on."""
        return self.head(tokens.vectors.index_select(0, _places(tokens.layout, rows))).float()

    def loss(self, tokens: Tokens, targets: Targets) -> TaskLoss:
        logits, labels = self.outputs(tokens, targets.rows), targets.values["labels"]
        total = F.cross_entropy(logits, labels, reduction="sum", ignore_index=NOWHERE)
        return TaskLoss(total, {"accuracy": (logits.argmax(1) == labels).float().sum().detach()})

    def spans(self, outputs: Tensor, extents: np.ndarray, text: str | None, top: int) -> list[Any]:
        """`Span` objects; their scores are means of probabilities."""
        found = [
            Span(self.info.labels[label], score, begin, end, None if text is None else text[begin:end])
            for label, score, begin, end in spans_of_tokens(outputs.softmax(1).numpy(), extents, text)
        ]
        surest = sorted(found, key=lambda span: -span.score)[:top]
        return sorted(surest, key=lambda span: span.start)

    def draw(self, item: Any, found: list[Any]) -> Any:
        """A text, or the spectrogram of a sound, and under it its spans."""
        return self._drawn(modality_of(item) or "", item, [found])

    def _drawn(self, modality: str, item: Any, strips: list[list[Span]]) -> Any:
        """An item, and under it strips of spans, as a PIL picture."""
        processor: Any = self.processors.get(modality)
        if processor is None or modality not in ("text", "audio"):
            raise UnitxError(f"task '{self.info.name}' cannot draw {describe(item)}: give a text or sound it reads")
        raw = processor.read(item)
        if modality == "text":
            return draw_text(raw, strips, self.info.labels)
        features = processor.features(raw)
        seconds = len(features) * processor.hop / processor.rate
        return draw_sound(features.T[::-1], seconds, strips, self.info.labels)

    def sketches(self, model: Model, preparer: Preparer, drawn: list[Drawn]) -> list[Sketch]:
        """Texts and the spectrograms of sounds, and under them what was found and what is there."""
        seen = [one.example for one in drawn if one.example.parts[0][0] in ("text", "audio")]
        items = [example.parts[0] for example in seen]
        truths = [[Span(self.info.labels[i], 1.0, a, b) for i, a, b in example.target.spans] for example in seen]
        columns = {modality: column for column, modality in self.info.reads.items()}
        answers = model.predict([{columns[modality]: item} for modality, item in items], self.info.name)
        rows: Any = zip(items, answers, truths, strict=True)
        pictures = [self._drawn(modality, item, [found, truth]) for (modality, item), found, truth in rows]
        return [Sketch([np.asarray(picture) / 255], "found, and below it the truth") for picture in pictures]

    def score(self, outputs: Tensor, targets: Any) -> dict[str, float]:
        """F1 over tokens, micro ("f1") and macro, and of texts over whole spans ("span_f1")."""
        from sklearn.metrics import f1_score

        judged = (targets["labels"] != NOWHERE).numpy()
        truth, said = targets["labels"].numpy()[judged], outputs.argmax(1).numpy()[judged]
        places = range(len(self.info.labels))
        of = {name: f1_score(truth, said, labels=places, average=name, zero_division=0) for name in ("micro", "macro")}
        scores = {"f1": float(of["micro"]), "macro_f1": float(of["macro"])}
        counts = np.zeros(3, dtype=int)  # of spans that are right, found, and there
        each = outputs.softmax(1).split([len(marked.labels) for marked in targets["marked"]])
        for probabilities, marked in zip(each, targets["marked"], strict=True):
            if marked.text is not None:
                spans = spans_of_tokens(probabilities.numpy(), marked.extents, marked.text)
                found, there = {(label, begin, end) for label, _, begin, end in spans}, {*marked.spans}
                counts += len(found & there), len(found), len(there)
        if counts[2]:
            scores["span_f1"] = float(2 * counts[0] / (counts[1] + counts[2]))
        return scores


def labels_of_tokens(spans: Spans, extents: np.ndarray, none: int) -> np.ndarray:
    """(tokens,) int64: the label of each token that stands at extents (tokens, 2), `none` where no span covers it."""
    begins, ends = extents.T
    labels = np.where(begins < ends, none, NOWHERE)
    if not spans:
        return labels
    numbers, first, last = (np.array(values) for values in zip(*spans, strict=True))
    covered = (np.minimum(ends[:, None], last) - np.maximum(begins[:, None], first)).clip(min=0)  # (tokens, spans)
    most = covered.argmax(1)
    mine = (covered.max(1) >= HALF * (ends - begins)) & (begins < ends)
    labels[mine] = numbers[most[mine]]
    for span in set(np.flatnonzero(covered.any(0)).tolist()) - {*most[mine].tolist()}:
        labels[(extents == extents[covered[:, span].argmax()]).all(1)] = numbers[span]
    return labels


def spans_of_tokens(
    probabilities: np.ndarray, extents: np.ndarray, text: str | None
) -> Iterator[tuple[int, float, Any, Any]]:
    """Runs of neighbours of one label: its number, the mean of its probability, begin and end.

    Args:
        probabilities: (tokens, labels + 1).
        extents: (tokens, 2) where they stand; those that stand at one place (the bytes of a character, the bands of a
            moment) speak with one voice, their mean.
        text: what they stand in; a span has no space at its ends.
    """
    real = extents[:, 0] < extents[:, 1]
    places, place = np.unique(extents[real], axis=0, return_inverse=True)
    voices = np.zeros((len(places), probabilities.shape[1]))
    np.add.at(voices, place.ravel(), probabilities[real])
    voices /= np.bincount(place.ravel(), minlength=len(places))[:, None]
    for label, run in groupby(range(len(places)), voices.argmax(1).tolist().__getitem__):
        members = list(run)
        begin, end = _trimmed(text, places[members[0], 0].item(), places[members[-1], 1].item())
        if label < probabilities.shape[1] - 1 and begin < end:
            yield label, float(voices[members, label].mean()), begin, end


def _trimmed(text: str | None, begin: Any, end: Any) -> tuple[Any, Any]:
    """Begin and end without the space of a text at both of them."""
    while text is not None and begin < end and text[begin].isspace():
        begin += 1
    while text is not None and begin < end and text[end - 1].isspace():
        end -= 1
    return begin, end


def _places(layout: Layout, rows: Tensor) -> Tensor:
    """The packed places of all tokens of some sequences, one sequence after the other."""
    first, last = layout.offsets[:-1].long()[rows], layout.offsets[1:].long()[rows]
    lengths = last - first
    ends = lengths.cumsum(0)
    shift = torch.repeat_interleave(first - (ends - lengths), lengths)
    return torch.arange(len(shift), device=shift.device) + shift


def _listed(cell: Any, column: str | None) -> list[tuple[str, float, float]]:
    """The labels, begins and ends of a cell.

    Raises:
        BadItem: it is something else.
    """
    try:
        return [_span(each) for each in (json.loads(cell) if isinstance(cell, str) else cell)]
    except (TypeError, KeyError, ValueError) as error:
        raise BadItem(
            f"'{column}' holds {describe(cell)}: give a list of spans, "
            '[{"label": "person", "start": 0, "end": 5}, …], in characters of a text or seconds of a sound'
        ) from error


def _span(each: Any) -> tuple[str, float, float]:
    start, end, label = (each["start"], each["end"], each["label"]) if isinstance(each, dict) else each
    if label is None or not str(label).strip():
        raise ValueError("a span without a label")
    return str(label), float(start), float(end)


def _check_places(spans: list[tuple[str, float, float]], modality: str, item: Any) -> None:
    """Raise BadItem for a span that is empty or outside the item, or overlaps another."""
    if modality == "text":
        length, unit = len(item) if isinstance(item, str) else math.inf, "characters"
    else:
        length, unit = sound_seconds(item) if spans else math.inf, "seconds"
    for label, start, end in spans:
        whole = modality != "text" or (start.is_integer() and end.is_integer() and end <= length)
        if not (0 <= start < end < math.inf and start < length and whole):
            size = "" if length == math.inf else f" of {length:g} {unit}"
            raise BadItem(
                f"{describe(item)}: the span {label} from {start:g} to {end:g} is empty or outside the item{size}: "
                f"give start and end (exclusive) in {unit}"
            )
    for one, other in pairwise(sorted(spans, key=lambda span: span[1])):
        if one[2] > other[1] + 1e-6:  # sums of seconds are not exact
            raise BadItem(
                f"{describe(item)}: the spans {one[0]} from {one[1]:g} to {one[2]:g} and {other[0]} from {other[1]:g} "
                f"to {other[2]:g} overlap: a token has one label, keep one of them"
            )
