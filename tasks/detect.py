"""Detection: what is to be seen in a picture, and where."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unitx.backbone import Linear
from unitx.drawings import draw_boxes
from unitx.errors import BadItem, UnitxError
from unitx.media import describe, picture_size
from unitx.registry import register_task
from unitx.source import parsed_cells
from unitx.task import Sketch, Task, TaskInfo, TaskLoss
from unitx.tokens import Example, Layout, Prepared, Targets, Tokens

if TYPE_CHECKING:
    from unitx.augment import Augment
    from unitx.batches import Drawn, Preparer
    from unitx.model import Model
    from unitx.source import Source
    from unitx.tokenizer import Processor

FIRST_ROWS = 100  # whose boxes are looked at before a run
MOST = 100  # boxes of a picture, as COCO counts them
CANDIDATES = 300  # of them before those are left out that show the same
PRIOR = 0.01  # the probability with which a new head sees anything anywhere (Lin et al. 2017)
USUAL = 0.25  # the side of a new head's boxes, as a share of the picture's
CORE = 0.5  # the share of a box's sides in whose middle patches answer for it (Tian et al. 2019)
GIOU, L1 = 2.0, 5.0  # weights of the losses of boxes (Carion et al. 2020)
CROWD, NOTHING = -2, -1  # what a patch answers that lies in a crowd (nothing is asked of it), or in no object


class Listed(NamedTuple):
    """An object as the data tell it: its name, left, top, width and height in pixels, and whether the box holds a crowd
    of such, of which it is not said where each of them is (COCO's `iscrowd`)."""

    name: str
    box: list[float]
    crowd: bool


class Objects(NamedTuple):
    """What is in a picture: boxes (n, 4), left, top, right, bottom as shares of its sides, the numbers (n,) of their
    names, and (n,) whether each holds a crowd."""

    boxes: np.ndarray
    names: np.ndarray
    crowds: np.ndarray


class Found(NamedTuple):
    """One answer: an object's name, how sure it is, and its box (left, top, right, bottom) as shares of the picture's
    sides, which are printed as percents."""

    label: str
    score: float
    box: tuple[float, float, float, float]

    def __str__(self) -> str:
        left, top, right, bottom = (round(100 * side) for side in self.box)
        return f"{self.label} {self.score:.3f} [{left}–{right} % across, {top}–{bottom} % down]"


class Patches(NamedTuple):
    """The patches of the pictures: places (m,) in the packed batch, of each the number of its picture, its middle
    (m, 2), across and down, and its sides (m, 2), as shares of the picture's."""

    places: Tensor
    owners: Tensor
    middles: Tensor
    sides: Tensor


@register_task("detect")
class Detect(Task):
    """Every patch of a picture says what it shows, and where that begins and ends (dense prediction, FCOS, Tian et al.
    2019, on the tokens of the backbone); of those that show the same the surest is kept.

    The label's column holds a list of {"name": …, "box": [left, top, width, height]} in pixels, as COCO's; an empty
    list says that nothing is there, and "iscrowd": true that a box holds many of the name: what is found in it counts
    neither way. Names are told apart by the focal loss (Lin et al. 2017), boxes learn by GIoU (Rezatofighi et al.
    2019). Reports COCO's mean average precision, by torchmetrics.
    """

    @dataclass(frozen=True)
    class Options:
        """
        Attributes:
            threshold: answers that are less sure are left out.
            overlap: of two boxes of one name that share more than this (intersection over union) the surer is kept.

        Raises:
            UnitxError: an option is out of range.
        """

        threshold: float = 0.3
        overlap: float = 0.5

        def __post_init__(self) -> None:
            if not (0 <= self.threshold < 1 and 0 < self.overlap <= 1):
                raise UnitxError(f"threshold and overlap must be from 0 to 1: {self}")

    headline = "map"
    answer = "objects"
    gives = Found
    top = MOST

    def __init__(self, dim: int, info: TaskInfo, processors: dict[str, Processor]):
        super().__init__(dim, info, processors)
        what = ", ".join(f"{column}:{modality}" for column, modality in info.reads.items())
        if [*info.reads.values()] != ["image"]:
            raise UnitxError(f"task '{info.name}' finds things in a picture and cannot read {what}: see --reads")
        picture: Any = processors["image"]
        if picture.resize is not None and picture.resize.crop:
            raise UnitxError(f"task '{info.name}': the model sees the middle of a picture alone, and boxes lie outside")
        self.before = picture.positions.class_tokens if picture.positions else 0  # tokens that are no patches
        self.names = Linear(dim, len(info.labels))
        self.boxes = Linear(dim, 4)
        for layer in (self.names, self.boxes):
            torch.nn.init.zeros_(layer.weight)
            torch.nn.init.zeros_(layer.bias)
        torch.nn.init.constant_(self.names.bias, -math.log((1 - PRIOR) / PRIOR))

    @classmethod
    def fit(cls, info: TaskInfo, source: Source) -> TaskInfo:
        """Learn the names.

        Raises:
            UnitxError: no label column is named, or it names nothing.
        """
        if info.label is None:
            raise UnitxError(f"task '{info.name}' has no label: name the column that holds the objects with --label")
        cells = parsed_cells(source, info.label, lambda cell: _listed(cell, info.label))
        names = sorted({each.name for cell in cells for each in cell})
        if not names:
            raise UnitxError(f"task '{info.name}': the column '{info.label}' names no object")
        return replace(info, labels=names)

    @classmethod
    def asked(cls, info: TaskInfo, row: dict[str, Any]) -> list[tuple[str, Any]]:
        """Raises: BadItem: it is several pictures."""
        parts = info.parts(row)
        if len(parts) > 1:
            raise BadItem(f"boxes lie in one picture, and the row has {len(parts)}: give each a row of its own")
        return parts

    @classmethod
    def names_in(cls, info: TaskInfo, cell: Any) -> list[str]:
        return [each.name for each in _listed(cell, info.label)]

    @classmethod
    def remarks(cls, info: TaskInfo, source: Source) -> list[str]:
        """Of boxes that reach out of their pictures by more than a pixel: with many of them, corners were given."""
        seen, out, label = 0, 0, str(info.label)
        for index in range(min(FIRST_ROWS, len(source))):
            row = source.row(index, np.random.default_rng(index))
            with suppress(BadItem):  # which is counted when it is prepared
                for _, picture in cls.asked(info, row):
                    boxes = np.array([each.box for each in _listed(row.get(label), label)]).reshape(-1, 4)
                    over = (boxes[:, :2] < -1) | (boxes[:, :2] + boxes[:, 2:] > np.array(picture_size(picture)) + 1)
                    seen, out = seen + len(boxes), out + int(over.any(1).sum())
        where = f"task '{info.name}': {out:,} of the first {seen:,} boxes reach out of their pictures"
        return [f"{where} and are cut off; a box is [left, top, width, height] in pixels, not two corners"] * (out > 0)

    @classmethod
    def examples(cls, info: TaskInfo, row: dict[str, Any]) -> list[Example]:
        """Of a row without a picture or without a list, none.

        Raises:
            BadItem: a box is empty or lies outside the picture, or there are several pictures.
        """
        parts, cell = cls.asked(info, row), row.get(info.label) if info.label else None
        if not parts or cell is None:
            return []
        known = [each for each in _listed(cell, info.label) if each.name in info.numbers]
        item = parts[0][1]
        boxes = _shares([each.box for each in known], picture_size(item) if known else (1, 1), describe(item))
        names = np.array([info.numbers[each.name] for each in known], dtype=np.int64)
        return [Example(parts, Objects(boxes, names, np.array([each.crowd for each in known], dtype=bool)))]

    @classmethod
    def vary(
        cls, example: Example, parts: list[tuple[str, Any]], augment: Augment, rng: np.random.Generator, strength: float
    ) -> tuple[Example, list[tuple[str, Any]]]:
        """The picture cropped, mirrored and in other colours, and the objects where they then are; those of which too
        little is left are no answers."""
        ((modality, picture),) = parts
        picture, boxes, kept = augment.with_boxes(picture, example.target.boxes, rng, strength)
        _, names, crowds = example.target
        return replace(example, target=Objects(boxes[kept], names[kept], crowds[kept])), [(modality, picture)]

    @classmethod
    def collate(cls, info: TaskInfo, targets: list[Any]) -> list[Objects]:
        return targets

    @classmethod
    def count(cls, info: TaskInfo, examples: list[Prepared]) -> int:
        """The objects, a picture without any as one."""
        return sum(max(1, int((~example.target.crowds).sum())) for example in examples)

    def _patches(self, layout: Layout, rows: Tensor) -> Patches:
        number = torch.full((len(layout),), -1, device=layout.device)
        number[rows] = torch.arange(len(rows), device=layout.device)
        places = ((number[layout.segments] >= 0) & (layout.within >= self.before)).nonzero()[:, 0]
        owners = number[layout.segments[places]]
        at = layout.positions[places][:, [2, 1]].float()
        # A picture's last patch stands at its last row and column.
        counts = at.new_zeros(len(rows), 2).scatter_reduce(0, owners[:, None].expand(-1, 2), at, "amax") + 1
        sides = 1 / counts[owners]
        return Patches(places, owners, (at + 0.5) * sides, sides)

    def _heads(self, tokens: Tokens, patches: Patches) -> tuple[Tensor, Tensor]:
        """Logits (m, names) and boxes (m, 4) that the patches give, float32."""
        vectors = tokens.vectors.index_select(0, patches.places)
        move, grow = self.boxes(vectors).float().split(2, dim=1)
        middles, sides = patches.middles + 2 * patches.sides * move, USUAL * grow.clamp(-5, 2).exp()
        return self.names(vectors).float(), torch.cat([middles - sides / 2, middles + sides / 2], dim=1)

    def loss(self, tokens: Tokens, targets: Targets) -> TaskLoss:
        from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

        patches = self._patches(tokens.layout, targets.rows)
        logits, boxes = self._heads(tokens, patches)
        names, wanted, share = (x.to(logits.device) for x in assign(patches, targets.values))
        shown = F.one_hot(names.clamp(min=0), logits.shape[1]).float() * (names >= 0)[:, None]
        told = (sigmoid_focal_loss(logits, shown).sum(1) * (names != CROWD)).sum()
        mine = (names >= 0).nonzero()[:, 0]
        boxes, wanted, share = (x.index_select(0, mine) for x in (boxes, wanted, share))
        apart = (boxes - wanted).abs().mean(1)
        placed = GIOU * generalized_box_iou_loss(boxes, wanted, reduction="none") + L1 * apart
        right = (logits.index_select(0, mine).argmax(1) == names.index_select(0, mine)).float()
        return TaskLoss(told + (placed * share).sum(), {"accuracy": (right * share).sum().detach()})

    def outputs(self, tokens: Tokens, rows: Tensor) -> Tensor:
        """(n, 100, 6): the surest boxes, left, top, right, bottom, of each its score and its name's number; where there
        are fewer, zeros."""
        from torchvision.ops import batched_nms

        patches = self._patches(tokens.layout, rows)
        logits, boxes = self._heads(tokens, patches)
        found = logits.new_zeros(len(rows), MOST, 6)
        each = torch.bincount(patches.owners, minlength=len(rows)).tolist()
        order = patches.owners.argsort(stable=True)
        scores, boxes = logits.sigmoid()[order].split(each), boxes.clamp(0, 1)[order].split(each)
        for i, (of_one, where) in enumerate(zip(scores, boxes, strict=True)):
            best, place = of_one.flatten().topk(min(CANDIDATES, of_one.numel()))
            patch, name = place // of_one.shape[1], place % of_one.shape[1]
            kept = batched_nms(where[patch], best, name, self.options.overlap)[:MOST]
            found[i, : len(kept)] = torch.cat([where[patch], best[:, None], name[:, None].float()], dim=1)[kept]
        return found

    def answers(self, outputs: Tensor, top: int) -> list[list[Any]]:
        """The surest at first: `Found` objects."""
        return [
            [
                Found(self.info.labels[int(name)], score, (left, top_, right, bottom))
                for left, top_, right, bottom, score, name in of_one[:top].tolist()
                if score >= self.options.threshold and score > 0
            ]
            for of_one in outputs
        ]

    def draw(self, item: Any, found: list[Any]) -> Any:
        return draw_boxes(item, found, self.info.labels)

    def sketches(self, model: Model, preparer: Preparer, drawn: list[Drawn]) -> list[Sketch]:
        """The pictures with the boxes that were found, and beside them those that are there."""
        items = [one.example.parts[0][1] for one in drawn]
        pictures: Any = preparer.processors["image"]
        found = model.predict(items, self.info.name, on_error="skip")
        objects = [one.example.target for one in drawn]
        there = [
            [
                Found(self.info.labels[i], 1.0, tuple(box))
                for box, i, crowd in zip(each.boxes, each.names, each.crowds, strict=True)
                if not crowd
            ]
            for each in objects
        ]
        rows: Any = zip(map(pictures.read, items), found, there, strict=True)
        drawings = [[np.asarray(self.draw(picture, boxes)) / 255 for boxes in both] for picture, *both in rows]
        names = [", ".join(sorted(each.label for each in boxes)) or "nothing" for boxes in there]
        return [Sketch(both, f"found; truth: {truth}") for both, truth in zip(drawings, names, strict=True)]

    def score(self, outputs: Tensor, targets: Any) -> dict[str, float]:
        """COCO's mean average precision over overlaps of 0.5 to 0.95, and at 0.5 alone."""
        from torchmetrics.detection import MeanAveragePrecision

        # Its own thresholds are float32 and a little below COCO's, which moves some figures.
        overlaps, recalls = np.linspace(0.5, 0.95, 10).tolist(), np.linspace(0, 1, 101).tolist()
        metric = MeanAveragePrecision("xyxy", "bbox", overlaps, recalls, backend="faster_coco_eval")
        for found, objects in zip(outputs, targets, strict=True):
            found = found[found[:, 4] > 0]
            said = {"boxes": 1000 * found[:, :4], "scores": found[:, 4], "labels": found[:, 5].long()}
            boxes = torch.from_numpy(1000 * objects.boxes).float().view(-1, 4)
            names, crowds = torch.from_numpy(objects.names), torch.from_numpy(objects.crowds).long()
            metric.update([said], [{"boxes": boxes, "labels": names, "iscrowd": crowds}])
        scores = metric.compute()
        return {name: max(float(scores[name]), 0.0) for name in ("map", "map_50")}


def assign(patches: Patches, targets: list[Objects]) -> tuple[Tensor, Tensor, Tensor]:
    """What each patch is to answer: the number of a name (m,), `NOTHING` or `CROWD`, a box (m, 4), and its share of the
    answers for that object (m,).

    For an object those patches answer whose middle lies in the middle of its box, at least the one that its middle
    lies in; of two objects the smaller one is a patch's. Of those that answer for none, nothing is asked whose middle
    lies in the box of a crowd.
    """
    owners, middles, sides = (x.cpu().numpy() for x in (patches.owners, patches.middles, patches.sides))
    names, share = np.full(len(owners), NOTHING), np.zeros(len(owners), np.float32)
    boxes = np.tile(np.array([0, 0, 1, 1], np.float32), (len(owners), 1))
    which, smallest = np.full(len(owners), -1), np.full(len(owners), np.inf)
    number = 0
    for picture, objects in enumerate(targets):
        of_one = np.flatnonzero(owners == picture)
        for box in objects.boxes[objects.crowds]:
            within = (middles[of_one] >= box[:2]) & (middles[of_one] <= box[2:])
            names[of_one[within.all(1)]] = CROWD
        for box, name in zip(objects.boxes[~objects.crowds], objects.names[~objects.crowds], strict=True):
            centre, size = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
            away = np.abs(middles[of_one] - centre)
            inside = (away <= CORE / 2 * size).all(1) | (away <= sides[of_one] / 2).all(1)
            mine = of_one[inside & (size.prod() < smallest[of_one])]
            names[mine], boxes[mine], which[mine], smallest[mine] = name, box, number, size.prod()
            number += 1
    taken = which >= 0
    share[taken] = 1 / np.bincount(which[taken], minlength=1)[which[taken]]
    return torch.from_numpy(names), torch.from_numpy(boxes), torch.from_numpy(share)


def _listed(cell: Any, column: str | None) -> list[Listed]:
    """The objects of a cell.

    Raises:
        BadItem: it is something else.
    """
    try:
        return [_object(each) for each in cell]
    except (TypeError, KeyError, ValueError) as error:
        raise BadItem(
            f"'{column}' holds {describe(cell)}: give a list of objects, "
            '[{"name": "cat", "box": [left, top, width, height]}, …], the box in pixels'
        ) from error


def _object(each: Any) -> Listed:
    if each["name"] is None or not (name := str(each["name"]).strip()):
        raise ValueError("an object without a name")
    return Listed(name, [float(x) for x in np.asarray(each["box"]).reshape(4)], bool(each.get("iscrowd")))


def _shares(boxes: list[list[float]], size: tuple[int, int], name: str) -> np.ndarray:
    """Boxes (n, 4), left, top, width and height in pixels, as left, top, right and bottom in shares of the sides."""
    sides = np.array([*size, *size], np.float32)
    found = np.asarray(boxes, np.float32).reshape(-1, 4)
    found = np.concatenate([found[:, :2], found[:, :2] + found[:, 2:]], axis=1)
    inside = found.clip(0, sides)
    for given, corners, part in zip(boxes, found, inside, strict=True):
        if not np.isfinite(corners).all() or (part[2:] <= part[:2]).any():
            raise BadItem(
                f"{name}: the box {given} is empty or outside the picture of {size[0]} x {size[1]} pixels: "
                "give [left, top, width, height] in pixels"
            )
    return inside / sides
