"""Two ways to find things in pictures, on the same backbone, with as many steps: every patch answers (`detect`), or
object queries do (DETR, Carion et al. 2020; as tokens of an encoder, YOLOS, Fang et al. 2021).

    python tests/benchmarks/object_queries.py --steps 800 --out runs/object-queries

Object queries are twelve learned tokens behind the picture, matched one to one with the objects of a scene, of which
there are four at most (Kuhn 1955, by scipy); their losses are those of `detect`. Scored by COCO's mean average
precision on the test part. Started again with the same --out it goes on where it stopped.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from results import Results, whole
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

import unitx
from unitx.backbone import Linear
from unitx.recipe import TaskRecipe, load_recipe
from unitx.task import Task, TaskLoss
from unitx.tasks.detect import GIOU, L1, MOST, PRIOR, Detect
from unitx.tokenizer import Processor, Tokenizer
from unitx.tokens import Example, Pieces, Tokens

QUERIES = 12
SCENES = {"world": "scenes", "concepts": 20}


@dataclass(frozen=True)
class QueryProcessor(Processor):
    """As many queries for every picture, whatever the item."""

    def read(self, item: Any) -> None:
        return None

    def features(self, raw: None) -> np.ndarray:
        return np.arange(QUERIES)

    def cut(self, features: np.ndarray, rng: np.random.Generator | None = None) -> Pieces:
        return Pieces(features, np.zeros((QUERIES, 3), np.int64))  # a set: all stand in one place


@unitx.register_tokenizer("queries")
class QueryTokenizer(Tokenizer):
    Processor = QueryProcessor

    def __init__(self, processor: QueryProcessor, dim: int):
        super().__init__(processor, dim)
        self.embed = nn.Embedding(QUERIES, dim)

    def forward(self, values: Tensor, counts: list[int]) -> Tensor:
        return self.embed(values)


@unitx.register_task("detect-by-queries")
class DetectByQueries(Detect):
    """Each query says what it has found, or that it has found nothing, and where."""

    def __init__(self, dim: int, info: Any, processors: dict[str, Processor]):
        Task.__init__(self, dim, info, processors)
        self.names = Linear(dim, len(info.labels))
        self.boxes = nn.Sequential(Linear(dim, dim), nn.ReLU(), Linear(dim, dim), nn.ReLU(), Linear(dim, 4))
        nn.init.zeros_(self.names.weight)
        nn.init.constant_(self.names.bias, -float(np.log((1 - PRIOR) / PRIOR)))

    @classmethod
    def vary(cls, example: Example, parts: list[tuple[str, Any]], *given: Any) -> tuple[Example, list[tuple[str, Any]]]:
        example, picture = super().vary(example, parts[:1], *given)
        return example, [*picture, *parts[1:]]

    def _found(self, tokens: Tokens, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (n, queries, names) and boxes (n, queries, 4) of the pictures, float32."""
        last = tokens.layout.offsets[1:].long()[rows]
        places = (last[:, None] - QUERIES + torch.arange(QUERIES, device=last.device)).flatten()
        vectors = tokens.vectors.index_select(0, places)
        middles, sides = self.boxes(vectors).float().sigmoid().split(2, dim=1)
        boxes = torch.cat([middles - sides / 2, middles + sides / 2], dim=1)
        return self.names(vectors).float().unflatten(0, (-1, QUERIES)), boxes.unflatten(0, (-1, QUERIES))

    def loss(self, tokens: Tokens, targets: Any) -> TaskLoss:
        from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

        logits, boxes = self._found(tokens, targets.rows)
        shown = torch.zeros_like(logits)
        mine, wanted = [], []
        for i, objects in enumerate(targets.values):
            names, there = torch.from_numpy(objects.names), torch.from_numpy(objects.boxes)
            queries, numbers = match(logits[i], boxes[i], names, there)
            shown[i, queries, names[numbers]] = 1
            mine.append(boxes[i][queries])
            wanted.append(there[numbers])
        told = sigmoid_focal_loss(logits, shown, reduction="sum")
        placed, there = torch.cat(mine), torch.cat(wanted).to(boxes.device)
        apart = GIOU * generalized_box_iou_loss(placed, there, reduction="sum")
        return TaskLoss(told + apart + L1 * (placed - there).abs().mean(1).sum(), {})

    def outputs(self, tokens: Tokens, rows: Tensor) -> Tensor:
        logits, boxes = self._found(tokens, rows)
        best, place = logits.sigmoid().flatten(1).topk(min(MOST, logits[0].numel()))
        query, name = place // logits.shape[2], place % logits.shape[2]
        where = boxes.clamp(0, 1).gather(1, query[..., None].expand(-1, -1, 4))
        found = torch.cat([where, best[..., None], name[..., None].float()], dim=2)
        return F.pad(found, (0, 0, 0, MOST - found.shape[1]))


@torch.no_grad()
def match(logits: Tensor, boxes: Tensor, names: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """Which queries answer for which objects, one each, at the least cost in sum."""
    from torchvision.ops import generalized_box_iou

    told, apart = logits.sigmoid()[:, names], torch.cdist(boxes, there, 1) / 4
    cost = L1 * apart - GIOU * generalized_box_iou(boxes, there) - 2 * told
    queries, numbers = linear_sum_assignment(cost.cpu().numpy())
    return torch.from_numpy(queries), torch.from_numpy(numbers)


TASKS = {
    "patches": TaskRecipe("detect", reads="image", label="objects"),
    # Queries stand for any column that is there.
    "queries": TaskRecipe("detect-by-queries", reads="image,count:queries", label="objects"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[400, 800, 1_600])
    parser.add_argument("--out", type=Path, default=Path("runs/object-queries"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    results = Results(given.out / "scores.json")
    for steps in given.steps:
        for arm, task in TASKS.items():
            if not results.has(arm=arm, steps=steps):
                recipe = replace(load_recipe("detect"), tasks={"detect": task}, reads="", label=None, minutes=None)
                out = given.out / f"{arm}-{steps}"
                run = whole(unitx.train(recipe, out=out, steps=steps, evaluations=1, echo=False), steps)
                found = unitx.evaluate(run.model, SCENES | {"part": "test"}, "detect").scores
                results.add(arm=arm, steps=steps, **found)


if __name__ == "__main__":
    main()
